"""The port: what both storages can do. Every method may raise `StoreUnavailable`."""

import math
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple, Protocol, TypeVar, TypeVarTuple

from shopsphere.domain.errors import ShopError
from shopsphere.domain.records import Record

R = TypeVar("R", bound=Record)
Rs = TypeVarTuple("Rs")
T = TypeVar("T")

Rule = Callable[[float, *Rs], T | ShopError]
"""A pure function that changes records of one slot, given the storage's time, and returns a value
or an error."""

StorageName = Literal["redis", "memory"]
"""Where records can be kept. An order and its stock have to be on storages of the same name."""

NEVER = math.inf
"""The deadline of what may take as long as it takes."""


class Listing(NamedTuple):
    """A list of pks in order of entry. Lists of one slot can change in one step."""

    slot: str
    name: str = "all"


Lists = Sequence[Listing]


class Entry(NamedTuple):
    """A member of a list and its position: the storage's clock in microseconds when it entered, or
    one more than the last position of the slot."""

    member: str
    position: int


class Note(NamedTuple):
    """A pending command, when it was noted by the storage's clock, in microseconds, and its age in
    seconds; negative if that clock went back since."""

    text: str
    noted_at: int
    age: float


def slot_of(pk: str) -> str:
    """Return the part of a pk that says which records can change together."""
    return pk.partition(":")[0]


class Records(Protocol):
    """Records, lists, notes and names. A record with nothing but its pk says which one is meant."""

    async def read(self, *wanted: R) -> list[R]:
        """Return these records as they are now; one that is missing has its defaults.

        They are for reading only. Records of several slots are not of one moment.
        """

    async def change(self, rule: Rule[*Rs, T], *wanted: *Rs, within: float = NEVER) -> T:
        """Apply a rule to records of one slot in one step; raise the error that it returns.

        The rule gets the storage's time in seconds. What it changed is kept in either case. It may
        run again, so it knows its own effect. `within` is a time of the event loop: when it is
        over, nothing is read any more, and RequestTimedOut is raised. A write lands within a second
        of its read by the storage's clock, or not at all.
        """

    async def live(self, kind: type[R], slot: str, after: str, limit: int) -> list[R]:
        """Return up to `limit` listed records of a slot whose pks are above `slot:after`, in order.

        Some may have changed since they were found, and not be listed any more.
        """

    async def enter(
        self, member: str, into: Lists, leaving: Lists = (), unless_in: Lists = ()
    ) -> None:
        """Add a member to lists of one slot and remove it from others, in one step.

        Nothing happens if it is in one of `unless_in`. Entering again moves nothing.
        """

    async def leave(self, listing: Listing, member: str) -> None:
        """Remove a member from a list, if it is there."""

    async def entries(self, listing: Listing, after: int, limit: int) -> list[Entry]:
        """Return up to `limit` entries with a position above `after`, in their order."""

    async def position(self, listing: Listing, member: str) -> int | None:
        """Return the position of a member; None if it is not in the list."""

    async def add_names(self, names: Collection[str]) -> None:
        """Add to the sorted names of the search index; those already there stay."""

    async def remove_names(self, names: Collection[str]) -> None:
        """Remove from the sorted names, whether they are there or not."""

    async def names(self, start: str, prefix: str, limit: int) -> list[str]:
        """Return up to `limit` names that begin with `prefix`, from `start` on, in order of code
        points."""

    async def add_note(self, text: str) -> float:
        """Note a pending command as of now, and return that time in seconds.

        Adding it again restarts its age.
        """

    async def remove_note(self, text: str) -> bool:
        """Remove a note, if it is there; tell whether it was."""

    async def notes(self, since: int, limit: int) -> list[Note]:
        """Return up to `limit` notes of a time or later ones, in order of their times.

        Those from the future come last.
        """

    async def ping(self) -> None:
        """Return when the storage can serve; raise StoreUnavailable when it cannot."""

    async def close(self) -> None:
        """Finish what is being written and close all connections. Nothing is called afterwards."""


@dataclass(frozen=True, slots=True)
class Opened:
    """Storage that serves. `is_fallback`: it is memory because no Redis responded at start."""

    records: Records
    storage: StorageName
    is_fallback: bool = False
