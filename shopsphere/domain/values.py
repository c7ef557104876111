"""What the shop tells about its things: plain values, with money in whole cents.

Records (`domain.records`) are what is kept; rules change records and return values.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Generic, NamedTuple, TypeVar

from shopsphere.domain.pks import TimedByPk

MAX_ON_HAND = 1_000_000_000
"""Units of one product that a shop can hold at most."""

MAX_ORDER_QUANTITY = 1_000_000
"""Units of one product that one order can ask for at most."""


class Role(StrEnum):
    """What a token may be used for. A service is not a person."""

    USER = "user"
    ADMIN = "admin"
    SERVICE = "service"


class OrderStatus(StrEnum):
    """The life of an order. NONE and FAILED are never shown to anybody."""

    NONE = ""
    PLACED = "PLACED"
    FAILED = "FAILED"
    CANCELLED = "CANCELLED"
    SHIPPED = "SHIPPED"


EVER_PLACED = frozenset({OrderStatus.PLACED, OrderStatus.CANCELLED, OrderStatus.SHIPPED})
"""The statuses of orders that can be seen."""


@dataclass(frozen=True, slots=True)
class Product(TimedByPk):
    """`quantity` is what can be ordered now."""

    pk: str
    name: str
    price_cents: int
    quantity: int


class Stock(NamedTuple):
    """What became of all units booked in: `received = available + reserved + shipped`."""

    received: int
    available: int
    reserved: int
    shipped: int


@dataclass(frozen=True, slots=True)
class Item:
    """Units of one product that somebody wants."""

    product_pk: str
    quantity: int


def by_product(items: Iterable[Item]) -> list[Item]:
    """Return the items in the order in which stock is taken, so that of two orders that want the
    last units of the same products one gets them all."""
    return sorted(items, key=lambda item: item.product_pk)


@dataclass(frozen=True, slots=True)
class Reservation:
    """Units of a product held for one order, at the price and name they had when it was taken."""

    product_pk: str
    order_pk: str
    quantity: int
    unit_price_cents: int
    product_name: str


@dataclass(frozen=True, slots=True)
class Order:
    """An order that was placed, of what was held for it; `user_pk` is None for an anonymous one."""

    pk: str
    items: tuple[Reservation, ...]
    status: OrderStatus
    user_pk: str | None
    created_at: datetime

    @property
    def total_cents(self) -> int:
        return sum(item.quantity * item.unit_price_cents for item in self.items)


T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Page(Generic[T]):
    """Some of a list, in its order. `next_after` is the cursor to go on from; None at the end."""

    items: list[T]
    next_after: str | None
