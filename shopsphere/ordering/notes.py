"""Notes of pending commands, from which settling finishes them after a crash or a lost message."""

from collections.abc import Sequence
from enum import StrEnum
from typing import NamedTuple, Self

from shopsphere.domain.values import OrderStatus
from shopsphere.records import Records

READ_AT_ONCE = 1000


Command = StrEnum("Command", "PLACE CANCEL SHIP")
"""What can be pending for an order, each with its own note."""

ENDS_AS = {
    Command.PLACE: OrderStatus.FAILED,
    Command.CANCEL: OrderStatus.CANCELLED,
    Command.SHIP: OrderStatus.SHIPPED,
}
"""The status of an order after settling its command."""


class PendingCommand(NamedTuple):
    """A command for an order of these products, and its age in seconds since it was noted.

    The age is negative if the storage's clock went back since then.
    """

    command: Command
    order_pk: str
    product_pks: tuple[str, ...]
    age: float = 0

    @classmethod
    def of(cls, command: Command, order_pk: str, product_pks: Sequence[str]) -> Self:
        return cls(command, order_pk, tuple(sorted(product_pks)))

    @property
    def text(self) -> str:
        """The text of its note."""
        return " ".join((self.command, self.order_pk, *self.product_pks))

    def is_older_than(self, seconds: float) -> bool:
        """Return whether it is at least this old, or in the future because the clock went back."""
        return self.age >= seconds or self.age < 0


async def pending_commands(records: Records) -> list[PendingCommand]:
    """Return all pending commands, oldest first."""
    found: dict[str, PendingCommand] = {}
    since = 0
    while True:
        notes = await records.notes(since, READ_AT_ONCE)
        for note in notes:
            command, order_pk, *pks = note.text.split()
            found[note.text] = PendingCommand(Command(command), order_pk, tuple(pks), note.age)
        if len(notes) < READ_AT_ONCE or notes[-1].noted_at == since:
            return list(found.values())
        since = notes[-1].noted_at
