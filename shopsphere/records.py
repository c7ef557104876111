"""The port that both storages implement. Every method may raise `StoreUnavailable`."""

import math
from collections.abc import Callable, Collection, Sequence
from typing import Literal, NamedTuple, Protocol, Self, TypeVar, TypeVarTuple

from shopsphere.domain.errors import ShopError
from shopsphere.domain.records import Record

R = TypeVar("R", bound=Record)
Rs = TypeVarTuple("Rs")
T = TypeVar("T")

Rule = Callable[[float, *Rs], T | ShopError]
"""A function that changes records of one slot, given the storage's time, and returns a value or an
error; see `shopsphere.domain`."""

StorageName = Literal["redis", "memory"]
"""Where records are stored. The order and product services must use the same."""

NEVER = math.inf
"""No deadline."""


class Listing(NamedTuple):
    """A list of pks in order of entry. Lists of one slot can change in one step."""

    slot: str
    name: str = "all"


Lists = Sequence[Listing]


END = 10**16
"""A position after all others."""


class Span(NamedTuple):
    """The part of a list with positions from `since` to before `until`, and its direction."""

    since: int = 0
    until: int = END
    newest_first: bool = False

    def after(self, position: int) -> Self:
        """Return the part that follows a position in this direction."""
        if self.newest_first:
            return self._replace(until=min(self.until, position))
        return self._replace(since=max(self.since, position + 1))


EVERYTHING = Span()


class Entry(NamedTuple):
    """A member of a list and its position: the storage's time in microseconds when it was added, or
    one more than the last position in the slot if that is greater."""

    member: str
    position: int


class Note(NamedTuple):
    """A pending command, the storage's time in microseconds when it was noted, and its age in
    seconds, which is negative if that clock went back since then."""

    text: str
    noted_at: int
    age: float


class Records(Protocol):
    """Records, lists, notes and names. Callers identify a record by passing one with only a pk."""

    async def read(self, *wanted: R) -> list[R]:
        """Return the current state of these records; a missing one has its defaults.

        Callers must not change them. Records of different slots may be read at different moments.
        """

    async def change(self, rule: Rule[*Rs, T], *wanted: *Rs, within: float = NEVER) -> T:
        """Apply a rule to records of one slot in one step; raise the error that it returns.

        The rule gets the storage's time in seconds. Its changes are kept in either case. It may run
        again, so it must recognise its own effect. After `within`, a time of the event loop,
        nothing more is read and RequestTimedOut is raised. A write takes effect within a second of
        its read by the storage's clock, or not at all.
        """

    async def live(self, kind: type[R], slot: str, after: str, limit: int) -> list[R]:
        """Return up to `limit` listed records of a slot with pks above `slot:after`, in order.

        Some may no longer be listed, if they changed since they were found.
        """

    async def enter(self, member: str, into: Lists, leaving: Lists = ()) -> None:
        """Add a member to lists of one slot and remove it from others, in one step.

        Adding it again does not change its position. If it is already in the first list and
        `leaving` is empty, do nothing.
        """

    async def leave(self, listing: Listing, member: str) -> None:
        """Remove a member from a list if it is there."""

    async def entries(self, listing: Listing, span: Span, limit: int) -> list[Entry]:
        """Return up to `limit` entries of a span, in its direction."""

    async def count(self, listing: Listing, span: Span) -> int:
        """Return the number of entries of a span."""

    async def position(self, listing: Listing, member: str) -> int | None:
        """Return the position of a member; None if it is not in the list."""

    async def add_names(self, names: Collection[str]) -> None:
        """Add names to the search index; those already there stay."""

    async def remove_names(self, names: Collection[str]) -> None:
        """Remove names from the search index, whether they are there or not."""

    async def names(self, start: str, prefix: str, limit: int) -> list[str]:
        """Return up to `limit` names that begin with `prefix`, from `start` on, sorted by code
        points."""

    async def add_note(self, text: str) -> float:
        """Note a pending command and return the storage's time in seconds.

        Adding it again resets its age.
        """

    async def remove_note(self, text: str) -> bool:
        """Remove a note if it is there; return whether it was."""

    async def notes(self, since: int, limit: int) -> list[Note]:
        """Return up to `limit` notes from the time `since` or later, oldest first."""

    async def ping(self) -> None:
        """Return if the storage can serve; otherwise raise StoreUnavailable."""

    async def close(self) -> None:
        """Finish pending writes and close all connections. No method may be called afterwards."""


class Opened(NamedTuple):
    """An open storage. `is_fallback` means memory because no Redis responded at startup."""

    records: Records
    storage: StorageName
    is_fallback: bool = False
