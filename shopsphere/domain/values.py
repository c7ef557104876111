"""Plain values that the shop returns, with money in whole cents.

Storages keep records (`domain.records`); rules change records and return values.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Generic, NamedTuple, TypeVar

from shopsphere.domain.pks import TimedByPk

MAX_ON_HAND = 1_000_000_000
"""The most units of one product that a shop can have on hand."""

MAX_ORDER_QUANTITY = 1_000_000
"""The most units of one product that one order can request."""


class Role(StrEnum):
    """What a token may be used for. SERVICE tokens belong to no person."""

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
    """A requested quantity of one product."""

    product_pk: str
    quantity: int


def by_product(items: Iterable[Item]) -> list[Item]:
    """Return the items in the order in which stock is reserved. It is the same for all orders, so
    of two that compete for the last units of the same products, one gets them all."""
    return sorted(items, key=lambda item: item.product_pk)


@dataclass(frozen=True, slots=True)
class Reservation:
    """Units of a product held for one order, with price and name at the time of reservation."""

    product_pk: str
    order_pk: str
    quantity: int
    unit_price_cents: int
    product_name: str


@dataclass(frozen=True, slots=True)
class Order:
    """A placed order and its reserved items; `user_pk` is None for an anonymous order."""

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
    """Part of a list, in its order. `next_after` is the next page's cursor; None at the end."""

    items: list[T]
    next_after: str | None
