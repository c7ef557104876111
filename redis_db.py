"""Storage on Redis: redis-om models of the records, and the port `Records` on top of them.

Each step touches keys of one slot, and scripts touch declared keys only, so the same code runs on a
single Redis, with Sentinels and on a Cluster.
"""

import asyncio
import itertools
import logging
import secrets
from collections import defaultdict, deque
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from functools import cache
from itertools import islice
from typing import Any, NamedTuple, Self

from aredis_om import HashModel
from pydantic import ValidationError
from pydantic_core import to_json

from shopsphere.domain.errors import RequestTimedOut, StoreUnavailable
from shopsphere.domain.records import Record
from shopsphere.records import NEVER, Entry, Listing, Lists, Note, R, Rs, Rule, Span, T
from shopsphere.redis_clients.client import Script, ShopRedis, pipeline
from shopsphere.redis_clients.connecting import require_rights
from shopsphere.settings import CannotStart

log = logging.getLogger("shopsphere.redis")

FORMAT = "6"
"""The version of the data format, raised with each change of it; 0.1.0 stored no version."""

KINDS_OF_0_1_0 = {
    "products", "{product-names}", "reservations", "update", "orders", "orders-placing",
    "orders-cancelling", "orders-shipping", "email",
}  # fmt: skip
"""What follows the prefix in keys of 0.1.0 but in no current keys."""

NEEDED = (
    "SET {0} 1 EX 9", "GET {0}", "HSET {0} 1 1", "HGET {0} 1", "HGETALL {0}", "HDEL {0} 1",
    "ZADD {0} 1 1", "ZREM {0} 1", "ZSCORE {0} 1", "ZCARD {0}", "ZCOUNT {0} 1 1",
    "ZRANGE {0} 1 1", "ZRANGEBYSCORE {0} 1 1", "ZREVRANGEBYSCORE {0} 1 1", "ZRANGEBYLEX {0} - +",
    "ZREVRANGEBYLEX {0} + -", "ZREMRANGEBYRANK {0} 1 1", "ZUNIONSTORE {0} 1 {0}", "SCAN 0", "TIME",
    "EVAL return 1 {0}", "EVALSHA 0 1 {0}", "PERSIST {0}", "PEXPIRE {0} 1000", "DEL {0}", "PING",
)  # fmt: skip
"""Every command that this storage or its scripts run, in a form for which any error but a missing
permission shows that the user has permission."""

STEPS_AT_ONCE = 64
"""How many steps of one slot may share a read and a write."""

SEEN_RECORDS = 4096
"""How many shared records this process caches as it last saw them, before the cache is cleared."""

TURN_POLL_SECONDS = 0.004
"""How often a process checks whether another still has exclusive use of a slot."""

BUCKET_ID_LENGTH = 10


STEP = Script("""
-- Change records of one slot if each still has the version it was seen with, no other process has
-- exclusive use of the slot, and the clock is within a second of the time given to the rules.
-- Returns {-1, seconds, microseconds}; if refused, {microseconds to wait, seconds, microseconds,
-- records...}.
-- A refused process that asks for it gets exclusive use of the slot until it writes, for at most
-- 20 ms. That is an end time, not an expiry, which would last longer if the clock went back.
-- KEYS: records, turn, live records of the slot. ARGV: JSON of time, process, whether it asks for
-- the slot, the version of each record, and commands, each with the number of its key.
local n = #KEYS - 2
local at, process, asks, versions, commands = unpack(cjson.decode(ARGV[1]))
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local wait = 0
local turn = redis.call('GET', KEYS[n + 1])
if turn then
  local owner, ends = string.match(turn, '(%S+) (%S+)')
  local left = ends - now
  if owner ~= process and left > 0 and left <= 20000 then
    wait = left
  end
end
local is_fresh = wait == 0 and math.abs(now - at) <= 1000000
for i = 1, n do
  is_fresh = is_fresh and (redis.call('HGET', KEYS[i], 'version') or '') == versions[i]
end
if not is_fresh then
  if asks and wait == 0 then
    local ends = string.format('%.0f', now + 20000)
    redis.call('SET', KEYS[n + 1], process .. ' ' .. ends, 'PX', 1000)
  end
  local found = {wait, time[1], time[2]}
  for i = 1, n do
    table.insert(found, redis.call('HGETALL', KEYS[i]))
  end
  return found
end
for _, command in ipairs(commands) do
  command[2] = KEYS[command[2]]
  redis.call(unpack(command))
end
if turn then
  redis.call('DEL', KEYS[n + 1])
end
return {-1, time[1], time[2]}
""")

ENTER = Script("""
-- Add a member to lists of one slot and remove it from others. If it is already in the first list
-- and there are no lists to leave, do nothing.
-- KEYS: last position in this slot, lists to enter, lists to leave.
-- ARGV: member, number of the last key of a list to enter.
local last_entered = tonumber(ARGV[2])
local time = redis.call('TIME')
local last = tonumber(redis.call('GET', KEYS[1]) or '0')
local position = string.format('%.0f', math.max(time[1] * 1000000 + time[2], last + 1))
for i = 2, last_entered do
  if redis.call('ZADD', KEYS[i], 'NX', position, ARGV[1]) == 1 then
    redis.call('SET', KEYS[1], position)
  elseif last_entered == #KEYS then
    return
  end
end
for i = last_entered + 1, #KEYS do
  redis.call('ZREM', KEYS[i], ARGV[1])
end
""")

NAMES = Script("""
-- Add names to a bucket of the search index, as long as it stays packed, or remove them from it;
-- move the upper half of a full bucket to a new one. Returns the names left over: they belong in
-- other buckets, or there was no room.
-- The index is one sorted list in buckets of fewer than the 128 names up to which Redis packs them.
-- The directory holds the lower bound of each bucket but the first: the last name before it, then
-- the bucket's id. No name begins with another.
-- KEYS: directory, bucket, new bucket. ARGV: 'add' or 'remove', bound, id of the new bucket, names.
local left = {}
local size = redis.call('ZCARD', KEYS[2])
for i = 4, #ARGV do
  local bound = redis.call('ZREVRANGEBYLEX', KEYS[1], '[' .. ARGV[i], '-', 'LIMIT', 0, 1)[1] or ''
  if bound ~= ARGV[2] or (ARGV[1] == 'add' and size >= 126) then
    table.insert(left, ARGV[i])
  elseif ARGV[1] == 'add' then
    size = size + redis.call('ZADD', KEYS[2], 0, ARGV[i])
  else
    size = size - redis.call('ZREM', KEYS[2], ARGV[i])
  end
end
if size == 0 then
  redis.call('ZREM', KEYS[1], ARGV[2])
elseif size >= 100 and redis.call('ZCARD', KEYS[3]) == 0 then
  local half = math.floor(size / 2)
  local last = redis.call('ZRANGE', KEYS[2], half - 1, half - 1)[1]
  redis.call('ZUNIONSTORE', KEYS[3], 1, KEYS[2])
  redis.call('ZREMRANGEBYRANK', KEYS[3], 0, half - 1)
  redis.call('ZADD', KEYS[1], 0, last .. ARGV[3])
  redis.call('ZREMRANGEBYRANK', KEYS[2], half, -1)
end
return left
""")

ADD_NOTE = Script("""
-- Returns the time of the note. KEYS: notes. ARGV: text.
local time = redis.call('TIME')
local now = string.format('%.0f', time[1] * 1000000 + time[2])
redis.call('ZADD', KEYS[1], now, ARGV[1])
return now
""")

NOTES = Script("""
-- Returns {seconds, microseconds, {text, time, text, time...}}. KEYS: notes. ARGV: since, limit.
local from, limit = ARGV[1], ARGV[2]
local notes = redis.call('ZRANGEBYSCORE', KEYS[1], from, '+inf', 'WITHSCORES', 'LIMIT', 0, limit)
local time = redis.call('TIME')
return {time[1], time[2], notes}
""")


class RedisModel(HashModel):  # type: ignore[misc]  # mypy does not follow aredis_om
    """A record as a redis-om model, which names its key and validates it.

    `save()` is not atomic in redis-om 1.2.0, so `RedisRecords` reads and writes records.
    """

    @classmethod
    def make_primary_key(cls, pk: Any) -> str:
        """Return the key without REDIS_PREFIX; the slot is its hash tag."""
        slot, colon, rest = str(pk).partition(":")
        return f"{cls._meta.model_key_prefix}:{{{slot}}}{colon}{rest}"

    @classmethod
    def validate_primary_key(cls) -> None:
        """Skip a check for which redis-om 1.2.0 scans all fields of each record, a third of the
        time."""


def _model_of(record: type[Record]) -> type[RedisModel]:
    class Model(RedisModel, record, index=True):  # type: ignore[call-arg,misc,valid-type]
        class Meta:
            model_key_prefix = record.kind

    return Model


MODELS: dict[str, type[Any]] = {each.kind: _model_of(each) for each in Record.__subclasses__()}
"""The redis-om model of each kind of record in `domain.records`; models add no fields."""


def _validated(wanted: R, kept: Mapping[str, str]) -> R:
    """Return the wanted record with the fields of its hash; raise ValidationError."""
    record: R = MODELS[wanted.kind].model_validate({**kept, "pk": wanted.pk})
    return record


class _Seen(NamedTuple):
    """A record as it was seen, and its version, which is empty if it is not stored."""

    version: str
    record: Any
    """A record, or a ValidationError if the stored hash is not valid."""

    @classmethod
    def of(cls, wanted: Record, kept: Sequence[str]) -> Self:
        """Return the wanted record as stored in a hash of alternating names and values."""
        if not kept:
            return cls("", wanted)
        fields = dict(zip(kept[::2], kept[1::2], strict=True))
        version = fields.pop("version", "")
        try:
            return cls(version, _validated(wanted, fields))
        except ValidationError as error:
            return cls(version, error)


class _Step(NamedTuple):
    """A rule waiting to be applied to the records with these keys. Its outcome may be an error."""

    rule: Callable[..., Any]
    wanted: Mapping[str, Record]
    within: float
    outcome: asyncio.Future[Any]


class RedisRecords:
    """`Records` on Redis.

    A step writes first, based on what this process last saw; a refusal returns the current records.
    Steps waiting for the same slot are batched; if other processes write too, a batch reads first.
    """

    def __init__(self, client: ShopRedis, prefix: str) -> None:
        self._client = client
        self._prefix = prefix
        self._process = secrets.token_urlsafe(6)
        self._writes = itertools.count()
        self._queues: defaultdict[str, deque[_Step]] = defaultdict(deque)
        self._leaders: dict[str, asyncio.Task[None]] = {}
        self._seen: dict[str, _Seen] = {}
        self._clock_offset = 0.0
        self._has_rivals = False
        self._index_turn = asyncio.Lock()

    async def read(self, *wanted: R) -> list[R]:
        if len(wanted) == 1:  # the client batches single commands by itself
            return [_validated(wanted[0], await self._client.hgetall(self._key(wanted[0])))]
        async with pipeline(self._client) as pipe:
            for each in wanted:
                pipe.hgetall(self._key(each))
            hashes = await pipe.execute()
        return [_validated(each, found) for each, found in zip(wanted, hashes, strict=True)]

    async def change(self, rule: Rule[*Rs, T], *wanted: *Rs, within: float = NEVER) -> T:
        records: tuple[Any, ...] = wanted
        keys = {self._key(record): record for record in records}
        step = _Step(rule, keys, within, asyncio.get_running_loop().create_future())
        slot = records[0].pk.partition(":")[0]
        self._queues[slot].append(step)
        if slot not in self._leaders:
            self._leaders[slot] = asyncio.create_task(self._lead(slot))
        outcome: T | Exception = await step.outcome
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    async def _lead(self, slot: str) -> None:
        """Apply the steps waiting for a slot until none are left or Redis cannot serve."""
        queue = self._queues[slot]
        error: Exception = StoreUnavailable()
        try:
            while queue:
                await self._apply_together(slot, list(islice(queue, STEPS_AT_ONCE)))
                while queue and queue[0].outcome.done():
                    queue.popleft()
        except Exception as failure:  # noqa: BLE001  # raised to every waiting caller
            error = failure
        finally:
            for step in queue:
                if not step.outcome.done():
                    step.outcome.set_result(error)
            del self._queues[slot], self._leaders[slot]

    async def _apply_together(self, slot: str, steps: Sequence[_Step]) -> None:
        """Apply these steps in one write and set their outcomes.

        They are tried on what was last seen. Several steps read first if another process was seen
        to write, because a failed attempt with many steps is slow.
        """
        wanted = {key: record for step in steps for key, record in step.wanted.items()}
        seen = {key: self._seen.get(key) or _Seen("", record) for key, record in wanted.items()}
        keys = [*seen, f"{self._prefix}:turn:{{{slot}}}", f"{self._prefix}:live:{{{slot}}}"]
        loop = asyncio.get_running_loop()
        clock_offset, has_read, refusals = self._clock_offset, False, 0  # of this slot's node
        are_many = len(steps) > 1
        must_read = are_many and self._has_rivals
        while True:
            now = 0.0 if must_read else loop.time() + clock_offset
            latest, outcomes = _rehearse(now, () if must_read else steps, seen)
            version = f"{self._process}{next(self._writes):x}"
            changed = {
                key: latest[key]
                for key, each in seen.items()
                if latest[key] is not each.record and vars(latest[key]) != vars(each.record)
            }
            commands = [
                command
                for number, (key, each) in enumerate(seen.items(), 1)
                if key in changed
                for command in _commands(number, len(keys), version, each, changed[key])
            ]
            if has_read and not must_read and not changed:
                break
            versions = [each.version for each in seen.values()]
            document = int(now * 1_000_000), self._process, refusals > 0, versions, commands
            answer = await STEP.run(self._client, keys, to_json(document), is_urgent=are_many)
            wait, seconds, microseconds, *found = answer
            clock_offset = int(seconds) + int(microseconds) / 1_000_000 - loop.time()
            self._clock_offset = clock_offset
            if wait < 0:
                seen |= {
                    key: _Seen(version if _fields(record) else "", record)
                    for key, record in changed.items()
                }
                break
            guessed, has_read = seen, True
            seen = {
                key: _Seen.of(record, kept)
                for (key, record), kept in zip(wanted.items(), found, strict=True)
            }
            self._has_rivals = any(seen[key].version != guessed[key].version for key in seen)
            refusals += not must_read
            must_read = wait > 0 and are_many
            await asyncio.sleep(min(wait / 1_000_000, TURN_POLL_SECONDS))
        if len(self._seen) > SEEN_RECORDS:
            self._seen.clear()
        self._seen |= {key: seen[key] for key, record in wanted.items() if record.is_shared}
        for step, outcome in outcomes:
            if not step.outcome.done():
                step.outcome.set_result(outcome)

    async def live(self, kind: type[R], slot: str, after: str, limit: int) -> list[R]:
        members: Iterable[str] = await self._client.zrangebylex(
            f"{self._prefix}:live:{{{slot}}}", f"({after}" if after else "-", "+", 0, limit
        )
        return await self.read(*(kind(pk=f"{slot}:{member}") for member in members))

    async def enter(self, member: str, into: Lists, leaving: Lists = ()) -> None:
        last = f"{self._prefix}:position:{{{into[0].slot}}}"
        keys = [last, *map(self._list, into), *map(self._list, leaving)]
        await ENTER.run(self._client, keys, member, 1 + len(into))

    async def leave(self, listing: Listing, member: str) -> None:
        await self._client.zrem(self._list(listing), member)

    async def entries(self, listing: Listing, span: Span, limit: int) -> list[Entry]:
        key, low, high = self._list(listing), span.since, f"({span.until}"
        found: Iterable[tuple[str, float]] = await (
            self._client.zrevrangebyscore(key, high, low, 0, limit, withscores=True)
            if span.newest_first
            else self._client.zrangebyscore(key, low, high, 0, limit, withscores=True)
        )
        return [Entry(member, int(position)) for member, position in found]

    async def count(self, listing: Listing, span: Span) -> int:
        return int(await self._client.zcount(self._list(listing), span.since, f"({span.until}"))

    async def position(self, listing: Listing, member: str) -> int | None:
        position = await self._client.zscore(self._list(listing), member)
        return None if position is None else int(position)

    async def add_names(self, names: Collection[str]) -> None:
        await self._in_buckets("add", names)

    async def remove_names(self, names: Collection[str]) -> None:
        await self._in_buckets("remove", names)

    async def names(self, start: str, prefix: str, limit: int) -> list[str]:
        """Each bucket is read before the bound of the next one, so that a split hides nothing."""
        low, high = b"[" + start.encode(), b"(" + prefix.encode() + b"\xff"
        [[bound]] = await self._bounds([start])
        found: list[str] = []
        while True:
            async with pipeline(self._client) as pipe:
                pipe.zrangebylex(self._bucket(bound), low, high, 0, limit - len(found))
                pipe.zrangebylex(self._bucket(), f"({bound}", high, 0, 1)
                names, next_bounds = await pipe.execute()
            found += names
            if len(found) == limit or not next_bounds:
                return found
            [bound] = next_bounds
            if names:
                low = b"(" + names[-1].encode()

    async def _in_buckets(self, action: str, names: Collection[str]) -> None:
        """Run a script on the buckets of these names, and repeat it for names left over."""
        async with self._index_turn:
            while names:
                buckets: dict[str, list[str]] = {}
                for name, [bound] in zip(names, await self._bounds(names), strict=True):
                    buckets.setdefault(bound, []).append(name)
                left = await asyncio.gather(
                    *(self._in_bucket(action, bound, group) for bound, group in buckets.items())
                )
                names = [name for each in left for name in each]

    async def _in_bucket(self, action: str, bound: str, names: Iterable[str]) -> Iterable[str]:
        new = secrets.token_hex(BUCKET_ID_LENGTH // 2)
        keys = [self._bucket(), self._bucket(bound), self._bucket(new)]
        left: list[str] = await NAMES.run(self._client, keys, action, bound, new, *names)
        return left

    async def _bounds(self, names: Collection[str]) -> list[list[str]]:
        """Return the bound of each name's bucket; that of the first bucket is empty."""
        async with pipeline(self._client) as pipe:
            for name in names:
                pipe.zrevrangebylex(self._bucket(), f"[{name}", "-", 0, 1)
            found: list[list[str]] = await pipe.execute()
        return [bounds or [""] for bounds in found]

    async def add_note(self, text: str) -> float:
        return float(await ADD_NOTE.run(self._client, [self._notes], text)) / 1_000_000

    async def remove_note(self, text: str) -> bool:
        return bool(await self._client.zrem(self._notes, text))

    async def notes(self, since: int, limit: int) -> list[Note]:
        seconds, microseconds, found = await NOTES.run(self._client, [self._notes], since, limit)
        now = int(seconds) + int(microseconds) / 1_000_000
        return [
            Note(text, int(noted), now - int(noted) / 1_000_000)
            for text, noted in zip(found[::2], found[1::2], strict=True)
        ]

    async def ping(self) -> None:
        await self._client.set(f"{self._prefix}:probe", "1", ex=1)

    async def close(self) -> None:
        if self._leaders:
            await asyncio.wait(self._leaders.values())
        await self._client.close_all()

    @property
    def _notes(self) -> str:
        return f"{self._prefix}:notes:{{notes}}"

    def _key(self, record: Record) -> str:
        return f"{self._prefix}:{MODELS[record.kind].make_primary_key(record.pk)}"

    def _list(self, listing: Listing) -> str:
        return f"{self._prefix}:list:{{{listing.slot}}}:{listing.name}"

    def _bucket(self, bound: str | None = None) -> str:
        """Return the key of a bucket of the search index, or without a bound, of the directory. A
        bucket's id is the end of its bound."""
        directory = f"{self._prefix}:names:{{names}}"
        return directory if bound is None else f"{directory}:{bound[-BUCKET_ID_LENGTH:]}"


def _rehearse(
    now: float, steps: Sequence[_Step], seen: Mapping[str, _Seen]
) -> tuple[dict[str, Any], list[tuple[_Step, Any]]]:
    """Apply the rules of these steps, in turn, to copies of what was seen.

    Return the latest state of each record, and the outcome of each step that was not cancelled. A
    rule that raises, which is a bug, changes nothing and fails only its own step.
    """
    latest = {key: each.record for key, each in seen.items()}
    outcomes: list[tuple[_Step, Any]] = []
    for step in steps:
        if step.outcome.done():
            continue
        records = [latest[key] for key in step.wanted]
        outcome: Any = next((each for each in records if isinstance(each, ValidationError)), None)
        if asyncio.get_running_loop().time() > step.within:
            outcome = RequestTimedOut()
        if outcome is None:
            copies = [record.model_copy() for record in records]
            try:
                outcome = step.rule(now, *copies)
                latest |= zip(step.wanted, copies, strict=True)
            except Exception as bug:  # noqa: BLE001
                outcome = bug
        outcomes.append((step, outcome))
    return latest, outcomes


@cache
def _defaults(kind: type[Record]) -> Mapping[str, Any]:
    return {name: field.default for name, field in kind.model_fields.items() if name != "pk"}


def _fields(record: Record) -> dict[str, Any]:
    """Return the fields that differ from their defaults; a record without any is not stored.

    `model_dump` would do the same in three times the time.
    """
    fields, defaults = record.__dict__, _defaults(type(record))
    return {name: fields[name] for name in defaults if fields[name] != defaults[name]}


def _commands(
    number: int, live: int, version: str, before: _Seen, after: Record
) -> Iterator[Sequence[str | int]]:
    """Yield the commands that store a record's state after a step. `number` is that of its key,
    `live` that of its slot's list of live records."""
    old, new = _fields(before.record), _fields(after)
    if new:
        to_set = ((name, str(value)) for name, value in new.items() - old.items())
        yield "HSET", number, "version", version, *itertools.chain(*to_set)
        if old.keys() - new.keys():
            yield "HDEL", number, *(old.keys() - new.keys())
        if after.kept_seconds is not None:
            yield "PEXPIRE", number, after.kept_seconds * 1000
        elif before.version and before.record.kept_seconds is not None:
            yield "PERSIST", number
    else:
        yield "DEL", number
    if after.is_listed is not before.record.is_listed:
        member = after.pk.partition(":")[2]
        yield ("ZADD", live, 0, member) if after.is_listed else ("ZREM", live, member)


async def open_records(client: ShopRedis, prefix: str) -> RedisRecords:
    """Return the records that this client reads and writes under a prefix.

    Raise CannotStart if its user lacks a permission, or if there is data in another format.
    """
    try:
        await require_rights(client, [each.format(f"{prefix}:probe") for each in NEEDED])
        await _check_format(client, prefix)
    except BaseException as error:
        await client.close_all()
        if isinstance(error, StoreUnavailable):
            raise CannotStart("Redis is unavailable. Start again when it is back.") from error
        raise
    return RedisRecords(client, prefix)


async def _check_format(client: ShopRedis, prefix: str) -> None:
    """Raise CannotStart if data under this prefix has another format; store the format of a new
    prefix."""
    key = f"{prefix}:format"
    kept = await client.get(key)
    if kept is None:
        keys = client.scan_iter(match=f"{prefix}:*", count=1000)
        kinds = {each.removeprefix(f"{prefix}:").partition(":")[0] async for each in keys}
        if not kinds & KINDS_OF_0_1_0:
            await client.set(key, FORMAT, nx=True)
            kept = await client.get(key)
    if kept != FORMAT:
        raise CannotStart(
            f"Redis holds data in an incompatible format under REDIS_PREFIX={prefix}. Choose "
            "another REDIS_PREFIX, or delete the keys that start with it."
        )
