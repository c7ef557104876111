"""What each store promises, whatever it is made of. Every method may raise `StoreUnavailable`."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Generic, Literal, Protocol, TypeVar

from shopsphere.models import (
    Mark,
    Order,
    OrderStatus,
    Page,
    Product,
    Reservation,
    Role,
    Stock,
    User,
)

if TYPE_CHECKING:
    from limits.aio.storage import Storage

StorageName = Literal["redis", "memory"]
"""Where a store can keep its records. An order and its stock have to be on one of the same name."""
DAY_SECONDS = 24 * 60 * 60
REFUSED_SECONDS = 15 * 60
"""How long a refusal of a reservation is remembered (DESIGN section 4)."""


class Store(Protocol):
    """What every store has in common."""

    async def ping(self) -> None:
        """Return when the store can serve; raise StoreUnavailable when it cannot."""

    async def close(self) -> None:
        """Let go of all connections. Nothing else is called afterwards."""


class UserStore(Store, Protocol):
    counters: "Storage"
    """Where `limits` counts failed logins. It raises StoreUnavailable as the store does."""

    async def add(self, user: User) -> None:
        """Keep a new user, atomically for its email; raise EmailTaken if somebody has that."""

    async def get(self, pk: str) -> User | None:
        """Return the user with this pk, or None."""

    async def find(self, email: str) -> User | None:
        """Return the user with exactly this (lower-case) email, or None."""

    async def set_password(self, user: User, password_hash: str, role: Role) -> bool:
        """Give the user this password and role, in one step, if the password is `user`'s still.

        Tell whether it was: otherwise somebody else has set it meanwhile, and nothing changes.
        """


class ProductStore(Store, Protocol):
    """Products, their stock and the reservations on it.

    Every change of stock is one atomic step in which it is also checked, so that always
    `received = available + reserved + shipped` and nothing is below zero.
    """

    async def add(self, product: Product) -> None:
        """Keep a new product with `quantity` units received and available."""

    async def get(self, pk: str) -> Product:
        """Return the product; raise ProductNotFound if there is none or it was deleted."""

    async def list_page(self, after: str | None, limit: int) -> Page[Product]:
        """Return up to `limit` products with a pk above `after`, in the order of pks.

        The product at `after` need not exist any more.
        """

    async def search_page(self, text: str, after: str | None, limit: int) -> Page[Product]:
        """Return up to `limit` products whose folded name contains the folded `text`.

        Ordered by what stands in the folded name from the first match on (its first 40
        characters), then by pk. `after` is a `next_after` of the same search; raise
        InvalidRequest when it cannot be one. A renamed product can be met at both places by a
        walk that was under way.
        """

    async def update(self, pk: str, name: str | None, price_cents: int | None) -> Product:
        """Change what is not None, in one step; raise ProductNotFound."""

    async def change_stock(
        self, pk: str, change: int, key: str | None = None
    ) -> tuple[Product, bool]:
        """Add `change` (which may be negative) to received and available, in one step.

        Return the product as it is then, and whether this `key` had counted before: for
        DAY_SECONDS a key counts once. Raise ProductNotFound, InsufficientQuantity below zero,
        StockLimit with more than MAX_ON_HAND units available and reserved, IdempotencyKeyReused
        when the key came with another change; a change that is refused leaves its key free.
        """

    async def delete(self, pk: str) -> None:
        """Mark the product as deleted; raise ProductNotFound if it is not there (any more).

        Its stock figures and reservations live on, so that its orders can be cancelled.
        """

    async def stock(self, pk: str) -> Stock:
        """Return the figures as one snapshot, also of a deleted product; raise ProductNotFound."""

    async def reservations_page(self, pk: str, after: str | None, limit: int) -> Page[Reservation]:
        """Return the live reservations (neither released nor shipped), in the order of order pks.

        Raise ProductNotFound; a deleted product's are still there.
        """

    async def reserve(self, pk: str, order_pk: str, quantity: int) -> tuple[Reservation, bool]:
        """Hold `quantity` units for an order: check and take in one step, once per order.

        Return the reservation and whether it was taken just now; the same again returns the same.
        Raise ProductNotFound (also when deleted); ReservationRefused, which is final for this
        order for REFUSED_SECONDS; ReservationReleased after a release; ReservationConflict when
        it is held with another quantity.
        """

    async def release(self, pk: str, order_pk: str) -> None:
        """Give the units back, once. For DAY_SECONDS afterwards the order cannot reserve again.

        That mark is also left where nothing was reserved. Raise ReservationShipped once shipped.
        """

    async def ship(self, pk: str, order_pk: str) -> None:
        """Count reserved units as shipped, once; nothing happens where none are known.

        Raise ReservationReleased when they were given back.
        """


@dataclass(frozen=True, slots=True)
class Claim:
    """What became of an attempt to claim an idempotency key: it is mine, or `seconds_left` tells
    how long another owner may hold it. `order_pk` is the order that the key is bound to."""

    order_pk: str
    is_mine: bool
    seconds_left: float = 0


class OrderStore(Store, Protocol):
    """Orders, their marks, their lists, and the idempotency keys that name them.

    Times are those of the store's clock: workers on different machines compare with the same one.
    """

    async def mark(self, mark: Mark) -> None:
        """Note that this command is under way since now; an older such mark becomes this one."""

    async def unmark(self, mark: Mark) -> bool:
        """Take the note away, if it is there; tell whether it was."""

    async def old_marks(self, seconds: float) -> list[Mark]:
        """Return the marks that are at least so many seconds old, of each command oldest first."""

    async def marks_of(self, pk: str, product_id: str) -> dict[Mark, float]:
        """Return the marks that this order has at this product, with their ages in seconds."""

    async def count_marks(self) -> int:
        """Return how many marks there are, of whatever age."""

    async def create(self, order: Order, seconds: float) -> OrderStatus:
        """Keep a PENDING order if no record has its pk; return the status of the record now there.

        If that is PENDING, it can be placed for so many seconds from now on.
        """

    async def place(self, pk: str, reservation: Reservation) -> Order | None:
        """PENDING becomes PLACED with price and name of the reservation, in one step.

        Return the order if it is one that was placed, then or before, otherwise None: when it
        failed, or when the seconds that `create` gave it are over.
        """

    async def fail(self, pk: str) -> OrderStatus:
        """PENDING, FAILED or no record becomes FAILED, in one step; return the status there is now.

        A FAILED record goes away after DAY_SECONDS; until then nobody can create or place it.
        """

    async def move(self, pk: str, status: OrderStatus) -> Order:
        """PLACED becomes CANCELLED or SHIPPED, in one step; return the order as it is now.

        Raise OrderNotFound when it was never placed.
        """

    async def list_order(self, order: Order) -> None:
        """Make the order show up in the lists: all orders, and those of its user."""

    async def get(self, pk: str, user_id: str | None = None) -> Order:
        """Return an order that was placed, by this user if one is given.

        Raise OrderNotFound for any other.
        """

    async def record(self, pk: str) -> Order | None:
        """Return the order whatever its status, also one that is never shown; None without one.

        One that settling made FAILED before it was created has no product.
        """

    async def list_page(self, user_id: str | None, after: str | None, limit: int) -> Page[Order]:
        """Return up to `limit` placed orders with a pk above `after`, in the order of pks.

        Of one user, or of all when `user_id` is None. An order that was settled late can appear
        behind a reader's cursor.
        """

    async def claim(
        self, key: str, request: str, owner: str, order_pk: str, seconds: float
    ) -> Claim:
        """Become the owner of an idempotency key for so many seconds, unless another one is.

        A key that is new is bound to `order_pk`; otherwise it stays bound as it is. It is kept for
        DAY_SECONDS from now. Raise IdempotencyKeyReused when it came with another `request`.
        Sent twice by a connection that broke, it does not take itself for a rival.
        """

    async def rebind(self, key: str, owner: str, order_pk: str) -> bool:
        """Bind the key to another order, in one step, if `owner` is still its owner; say if so."""

    async def end_claim(self, key: str, owner: str, *, forget: bool) -> None:
        """Stop owning the key, and forget it or not; nothing happens if it is not owned."""


S_co = TypeVar("S_co", bound=Store, covariant=True)


@dataclass(frozen=True, slots=True)
class Opened(Generic[S_co]):
    """A store that serves. `is_fallback`: it is memory because no Redis was there at start."""

    store: S_co
    storage: StorageName
    is_fallback: bool = False
