"""The records that every storage keeps, one class per kind.

A missing record reads as one with all fields at their defaults.
"""

from collections.abc import Iterable
from enum import StrEnum
from typing import ClassVar

from pydantic import BaseModel, TypeAdapter

from shopsphere.domain.pks import TimedByPk, timestamp
from shopsphere.domain.values import Order, OrderStatus, Product, Reservation, Role, Stock

TEN_MINUTES = 10 * 60
"""How long refusals, releases, shipments, failed orders and applied commands are remembered, in
seconds: longer than any of their messages can be delayed (docs/ordering.md)."""
DAY = 24 * 60 * 60
MAX_SESSIONS = 50
"""Of one user; a login beyond that ends the session that has been unused longest."""
CLOCK_SECONDS = 1
"""How far the time passed to a rule may differ from the storage's clock."""


class Record(BaseModel):
    """Kept under its pk, `slot` or `slot:rest`; records of one slot can change in one step.

    A record that equals its defaults is not stored.
    """

    kind: ClassVar[str]
    is_shared: ClassVar[bool] = False
    """Whether many steps use the same record, so that it is worth caching."""
    pk: str

    @property
    def kept_seconds(self) -> int | None:
        """How long it is kept after a change; None means forever."""
        return None

    @property
    def is_listed(self) -> bool:
        """Whether it is in the list of its slot. Only one kind of record per slot may be."""
        return False


class ProductState(StrEnum):
    NONE = ""
    ON_SALE = "on_sale"
    DELETED = "deleted"


class ProductRecord(Record):
    """A product and its stock. `revision` identifies the search entries of its current name."""

    kind = "product"
    is_shared = True
    state: ProductState = ProductState.NONE
    name: str = ""
    revision: str = ""
    price_cents: int = 0
    received: int = 0
    available: int = 0
    reserved: int = 0
    shipped: int = 0
    deleted_by: str = ""

    def product(self) -> Product:
        return Product(self.pk, self.name, self.price_cents, self.available)

    def stock(self) -> Stock:
        return Stock(self.received, self.available, self.reserved, self.shipped)


class HoldState(StrEnum):
    NONE = ""
    HELD = "held"
    REFUSED = "refused"
    PRICE_CHANGED = "price_changed"
    RELEASED = "released"
    SHIPPED = "shipped"


class Hold(Record):
    """The units that one order holds of one product; its pk is `product:order`.

    After a refusal, `available` and `price_cents` are those of the product at that time.
    """

    kind = "reservation"
    state: HoldState = HoldState.NONE
    quantity: int = 0
    price_cents: int = 0
    product_name: str = ""
    available: int = 0

    @property
    def kept_seconds(self) -> int | None:
        return None if self.state is HoldState.HELD else TEN_MINUTES

    @property
    def is_listed(self) -> bool:
        return self.state is HoldState.HELD

    def reservation(self) -> Reservation:
        product_pk, _, order_pk = self.pk.partition(":")
        return Reservation(product_pk, order_pk, self.quantity, self.price_cents, self.product_name)


class Applied(Record):
    """A command that changed a product; its pk is `product:key`, or `product:command` if keyless.

    `change` is the change of stock; `old_name` and `old_revision` are those that an update
    replaced.
    """

    kind = "applied"
    command: str = ""
    change: int = 0
    old_name: str = ""
    old_revision: str = ""

    @property
    def kept_seconds(self) -> int | None:
        return TEN_MINUTES if self.pk.endswith(self.command) else DAY


_ITEMS = TypeAdapter(tuple[tuple[str, int, int, str], ...])


def to_json(items: Iterable[Reservation]) -> str:
    """Return items as they are stored: without field names, so that Redis keeps them packed."""
    rows = ((it.product_pk, it.quantity, it.unit_price_cents, it.product_name) for it in items)
    return _ITEMS.dump_json(tuple(rows)).decode()


class OrderRecord(Record):
    """An order. Its items are in JSON, because a Redis hash has no lists."""

    kind = "order"
    status: OrderStatus = OrderStatus.NONE
    items_json: str = ""
    user_pk: str = ""
    placed_ms: int = 0

    @property
    def kept_seconds(self) -> int | None:
        return TEN_MINUTES if self.status is OrderStatus.FAILED else None

    def order(self) -> Order:
        rows = _ITEMS.validate_json(self.items_json)
        items = tuple(Reservation(row[0], self.pk, *row[1:]) for row in rows)
        user_pk, created_at = self.user_pk or None, timestamp(self.placed_ms)
        return Order(self.pk, items, self.status, user_pk, created_at)


class KeyRecord(Record):
    """An idempotency key: a digest of its request, the pk of the order or product it is bound to,
    and when its lease ends, in seconds of the storage's clock (0: no lease)."""

    kind = "idempotency-key"
    request: str = ""
    bound_pk: str = ""
    lease_until: float = 0

    @property
    def kept_seconds(self) -> int | None:
        return DAY


class User(Record, TimedByPk):
    """A registered user; while `email` is empty, the user does not exist."""

    kind = "user"
    email: str = ""
    password_hash: str = ""
    role: Role = Role.USER


_SESSIONS = TypeAdapter(dict[str, tuple[int, float]])


class Sessions(Record):
    """The sessions of the user with the same pk, in JSON: by id, the number of the newest refresh
    token and when it was issued, in seconds of the storage's clock."""

    kind = "sessions"
    sessions_json: str = ""

    def all(self) -> dict[str, tuple[int, float]]:
        return _SESSIONS.validate_json(self.sessions_json or "{}")

    def put(self, session_id: str, number: int, given: float) -> None:
        """Store a session; if there are too many, remove the one that has been unused longest."""
        kept = self.all() | {session_id: (number, given)}
        if len(kept) > MAX_SESSIONS:
            others = kept.keys() - {session_id}
            del kept[max(others, key=lambda each: abs(given - kept[each][1]))]
        self.sessions_json = _SESSIONS.dump_json(kept).decode()

    def remove(self, session_id: str) -> None:
        kept = self.all()
        if kept.pop(session_id, None):  # the record stays: its version refuses late copies
            self.sessions_json = _SESSIONS.dump_json(kept).decode()


class FailedLogins(Record):
    """Failed logins of a client, in a window of `seconds` that ends at `ends` (storage's clock).

    Its pk is a digest of the client, and of the email address unless it counts all addresses.
    """

    kind = "failed-logins"
    count: int = 0
    seconds: int = 0
    ends: float = 0

    @property
    def kept_seconds(self) -> int | None:
        return self.seconds

    def is_over(self, now: float) -> bool:
        """Return whether the window has ended, or is in the future because the clock went back."""
        return not now < self.ends <= now + self.seconds + CLOCK_SECONDS


class Address(Record):
    """An email address and the user it belongs to; its pk is `@` and the address."""

    kind = "address"
    user_pk: str = ""
