"""Plain values that the shop returns, with money in whole cents.

Storages keep records (`domain.records`); rules change records and return values.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from typing import Generic, NamedTuple, TypeVar

from shopsphere.domain.pks import TimedByPk

MAX_NAME_LENGTH = 200
MAX_NAME_INPUT = 4 * 3 * MAX_NAME_LENGTH + 1
"""The rest of a longer text is ignored, because normalizing 30,000 accents takes a second. No name
is made from or contains a longer text: NFC composes at most 4 characters into one, and folding
turns one into at most 3."""

MAX_ON_HAND = 1_000_000_000
"""The most units of one product that a shop can have on hand."""

MAX_ORDER_QUANTITY = 1_000_000
"""The most units of one product that one order can request."""


class Role(StrEnum):
    """What a token may be used for. SERVICE tokens do not belong to a person."""

    USER = "user"
    ADMIN = "admin"
    SERVICE = "service"


class OrderStatus(StrEnum):
    """The status of an order. NONE and FAILED are never visible to callers."""

    NONE = ""
    PLACED = "PLACED"
    FAILED = "FAILED"
    CANCELLED = "CANCELLED"
    SHIPPED = "SHIPPED"


EVER_PLACED = frozenset({OrderStatus.PLACED, OrderStatus.CANCELLED, OrderStatus.SHIPPED})
"""The statuses of visible orders."""


@dataclass(frozen=True, slots=True)
class Product(TimedByPk):
    """A product on sale; `quantity` is what can be ordered now."""

    pk: str
    name: str
    price_cents: int
    quantity: int


class Stock(NamedTuple):
    """Stock breakdown: `received = available + reserved + shipped`."""

    received: int
    available: int
    reserved: int
    shipped: int


@dataclass(frozen=True, slots=True)
class Item:
    """A requested quantity of one product, and the unit price that the customer saw, if sent."""

    product_pk: str
    quantity: int
    unit_price_cents: int | None = None


def by_product(items: Iterable[Item]) -> list[Item]:
    """Return the items sorted by product, the order in which stock is reserved. As it is the same
    for all orders, one of two that compete for the same last units gets them all."""
    return sorted(items, key=lambda item: item.product_pk)


@dataclass(frozen=True, slots=True)
class Reservation:
    """Units of a product held for one order, with price and name at the time of reservation."""

    product_pk: str
    order_pk: str
    quantity: int
    unit_price_cents: int
    product_name: str

    @property
    def subtotal_cents(self) -> int:
        return self.quantity * self.unit_price_cents


@dataclass(frozen=True, slots=True)
class Order:
    """A placed order and its reserved items; `user_pk` is None for an anonymous order."""

    pk: str
    items: tuple[Reservation, ...]
    status: OrderStatus
    user_pk: str | None
    created_at: str

    @property
    def only_item(self) -> Reservation | None:
        return self.items[0] if len(self.items) == 1 else None

    @property
    def total_cents(self) -> int:
        return sum(item.subtotal_cents for item in self.items)


T = TypeVar("T")
S = TypeVar("S")


@dataclass(frozen=True, slots=True)
class Page(Generic[T]):
    """Part of a list, in its order. `cursor` is where it ends; None if nothing was found.

    `total` is the length of the whole list, for lists that are counted.
    """

    items: list[T]
    cursor: str | None
    is_last: bool
    total: int | None = None

    def showing(self, items: list[S]) -> "Page[S]":
        """Return this page with these items."""
        return Page(items, self.cursor, self.is_last, self.total)

    @property
    def next_after(self) -> str | None:
        """The cursor of the next page; None if this is the last."""
        return None if self.is_last else self.cursor
