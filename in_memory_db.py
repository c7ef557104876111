"""Storage in memory, for one process: everything is lost when it ends.

Methods are `async` and never await inside, so each is one atomic step on the event loop.
"""

import asyncio
import time
from collections import OrderedDict, defaultdict
from collections.abc import Callable, Collection, Sequence
from functools import cached_property
from itertools import islice
from typing import TYPE_CHECKING, Any, TypeVar, TypeVarTuple

from sortedcontainers import SortedDict, SortedSet

from shopsphere.domain.errors import RequestTimedOut, ShopError
from shopsphere.domain.records import Record
from shopsphere.records import NEVER, Entry, Listing, Note, slot_of

if TYPE_CHECKING:
    from limits.aio.storage import Storage

Clock = Callable[[], float]
Key = tuple[str, str]
R = TypeVar("R", bound=Record)
Rs = TypeVarTuple("Rs")
T = TypeVar("T")


class MemoryRecords:
    """`Records` in memory. A record that is kept is never changed, only replaced."""

    def __init__(self, clock: Clock = time.time) -> None:
        """`clock` tells seconds since 1970."""
        self._clock = clock
        self._records: dict[Key, Record] = {}
        self._live: dict[Key, SortedSet[str]] = {}
        self._expiring: defaultdict[int, OrderedDict[Key, float]] = defaultdict(OrderedDict)
        self._positions: defaultdict[Listing, dict[str, int]] = defaultdict(dict)
        self._entries: defaultdict[Listing, SortedDict[int, str]] = defaultdict(SortedDict)
        self._last_position = 0
        self._names: SortedSet[str] = SortedSet()
        self._notes: dict[str, int] = {}

    @cached_property
    def counters(self) -> "Storage":
        from limits.aio.storage import MemoryStorage  # slow to import, and for users alone

        return MemoryStorage()

    async def read(self, *wanted: R) -> list[R]:
        self._drop_expired()
        return [self._kept(each) for each in wanted]

    async def change(
        self,
        rule: Callable[[float, *Rs], T | ShopError],
        *wanted: *Rs,
        within: float = NEVER,
    ) -> T:
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
        pks = self._live.get((kind.kind, slot), SortedSet())
        found = islice(pks.irange(minimum=f"{slot}:{after}", inclusive=(False, True)), limit)
        return await self.read(*(kind(pk=pk) for pk in found))

    async def enter(
        self,
        member: str,
        into: Sequence[Listing],
        *,
        leaving: Sequence[Listing] = (),
        unless_in: Sequence[Listing] = (),
    ) -> None:
        if any(member in self._positions.get(listing, ()) for listing in unless_in):
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

    async def entries(self, listing: Listing, after: int, limit: int) -> list[Entry]:
        entries = self._entries.get(listing, SortedDict())
        positions = islice(entries.irange(minimum=after, inclusive=(False, True)), limit)
        return [Entry(entries[position], position) for position in positions]

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

    async def count_notes(self) -> int:
        return len(self._notes)

    async def ping(self) -> None:
        return

    async def close(self) -> None:
        return

    def _kept(self, wanted: R) -> R:
        kept: Any = self._records.get((wanted.kind, wanted.pk), wanted)
        record: R = kept
        return record

    def _keep(self, record: Record) -> None:
        """Keep a record, or forget it if it equals its defaults; see that it expires."""
        key = record.kind, record.pk
        missing = type(record)(pk=record.pk)
        if record == self._records.get(key, missing):
            return
        self._forget(key)
        if record == missing:
            return
        self._records[key] = record
        if record.is_listed:
            self._live.setdefault((record.kind, slot_of(record.pk)), SortedSet()).add(record.pk)
        if record.kept_seconds is not None:
            self._expiring[record.kept_seconds][key] = self._clock() + record.kept_seconds

    def _forget(self, key: Key) -> None:
        before = self._records.pop(key, None)
        if before is None:
            return
        if before.kept_seconds is not None:
            self._expiring[before.kept_seconds].pop(key)
        if before.is_listed:
            kind, pk = key
            live = self._live[kind, slot_of(pk)]
            live.remove(pk)
            if not live:
                del self._live[kind, slot_of(pk)]

    def _drop_expired(self) -> None:
        """Forget what has expired: of those kept equally long, the oldest come first."""
        now = self._clock()
        for expiring in self._expiring.values():
            while expiring and (key := next(iter(expiring))) and expiring[key] <= now:
                self._forget(key)
