"""In-memory storage for one process; all data is lost when it ends.

Methods are `async` but never wait, so each is one atomic step on the event loop.
"""

import asyncio
import time
from collections import OrderedDict, defaultdict
from collections.abc import Callable, Collection
from itertools import islice
from typing import Any

from sortedcontainers import SortedDict, SortedSet

from shopsphere.domain.errors import RequestTimedOut, ShopError
from shopsphere.domain.records import Record
from shopsphere.records import NEVER, Entry, Listing, Lists, Note, R, Rs, Rule, Span, T

Key = tuple[str, str]


class MemoryRecords:
    """`Records` in memory. A stored record is never changed, only replaced."""

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        """`clock` returns Unix time in seconds."""
        self._clock = clock
        self._records: SortedDict[Key, Record] = SortedDict()
        self._expiring: defaultdict[int, OrderedDict[Key, float]] = defaultdict(OrderedDict)
        self._positions: defaultdict[Listing, dict[str, int]] = defaultdict(dict)
        self._entries: defaultdict[Listing, SortedDict[int, str]] = defaultdict(SortedDict)
        self._last_position = 0
        self._names: SortedSet[str] = SortedSet()
        self._notes: dict[str, int] = {}

    async def read(self, *wanted: R) -> list[R]:
        self._drop_expired()
        return [self._kept(each) for each in wanted]

    async def change(self, rule: Rule[*Rs, T], *wanted: *Rs, within: float = NEVER) -> T:
        if asyncio.get_running_loop().time() > within:
            raise RequestTimedOut
        self._drop_expired()
        records: tuple[Any, ...] = wanted
        copies: Any = [self._kept(each).model_copy() for each in records]
        outcome = rule(self._clock(), *copies)
        for copy in copies:
            self._keep(copy)
        if isinstance(outcome, ShopError):
            raise outcome
        return outcome

    async def live(self, kind: type[R], slot: str, after: str, limit: int) -> list[R]:
        self._drop_expired()
        first, end = (kind.kind, f"{slot}:{after}"), (kind.kind, f"{slot};")  # ";" follows ":"
        records: Any = map(self._records.get, self._records.irange(first, end, (False, False)))
        return list(islice((record for record in records if record.is_listed), limit))

    async def enter(self, member: str, into: Lists, leaving: Lists = ()) -> None:
        if not leaving and member in self._positions[into[0]]:
            return
        for listing in leaving:
            await self.leave(listing, member)
        entering = [listing for listing in into if member not in self._positions[listing]]
        if entering:
            self._last_position = max(int(self._clock() * 1_000_000), self._last_position + 1)
        for listing in entering:
            self._positions[listing][member] = self._last_position
            self._entries[listing][self._last_position] = member

    async def leave(self, listing: Listing, member: str) -> None:
        position = self._positions.get(listing, {}).pop(member, None)
        if position is not None:
            del self._entries[listing][position]

    async def entries(self, listing: Listing, span: Span, limit: int) -> list[Entry]:
        entries = self._entries.get(listing, SortedDict())
        positions = entries.irange(span.since, span.until, (True, False), span.newest_first)
        return [Entry(entries[position], position) for position in islice(positions, limit)]

    async def count(self, listing: Listing, span: Span) -> int:
        entries = self._entries.get(listing, SortedDict())
        return max(0, int(entries.bisect_left(span.until) - entries.bisect_left(span.since)))

    async def position(self, listing: Listing, member: str) -> int | None:
        return self._positions.get(listing, {}).get(member)

    async def add_names(self, names: Collection[str]) -> None:
        self._names.update(names)

    async def remove_names(self, names: Collection[str]) -> None:
        self._names.difference_update(names)

    async def names(self, start: str, prefix: str, limit: int) -> list[str]:
        found = islice(self._names.irange(minimum=start), limit)
        return [name for name in found if name.startswith(prefix)]

    async def add_note(self, text: str) -> float:
        now = self._clock()
        self._notes[text] = int(now * 1_000_000)
        return now

    async def remove_note(self, text: str) -> bool:
        return self._notes.pop(text, None) is not None

    async def notes(self, since: int, limit: int) -> list[Note]:
        now = self._clock()
        found = sorted((noted, text) for text, noted in self._notes.items() if noted >= since)
        return [Note(text, noted, now - noted / 1_000_000) for noted, text in found[:limit]]

    async def ping(self) -> None:
        return

    async def close(self) -> None:
        return

    def _kept(self, wanted: R) -> R:
        kept: R = self._records.get((wanted.kind, wanted.pk), wanted)
        return kept

    def _keep(self, record: Record) -> None:
        """Store a record, or remove it if it equals its defaults, and set its expiry."""
        key = record.kind, record.pk
        missing = type(record)(pk=record.pk)
        before = self._records.get(key, missing)
        if record == before:
            return
        if before.kept_seconds is not None:
            self._expiring[before.kept_seconds].pop(key, None)
        if record == missing:
            del self._records[key]
            return
        self._records[key] = record
        if record.kept_seconds is not None:
            self._expiring[record.kept_seconds][key] = self._clock() + record.kept_seconds

    def _drop_expired(self) -> None:
        """Remove expired records; those with the same `kept_seconds` are in order of expiry."""
        now = self._clock()
        for expiring in self._expiring.values():
            while expiring and next(iter(expiring.values())) <= now:
                key, _ = expiring.popitem(last=False)
                del self._records[key]
