"""The three stores in memory, for one process: all is gone when it ends.

Methods are `async` and never await inside, so each is one atomic step on the event loop.
"""

import heapq
import time
from collections import defaultdict
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field, replace
from enum import Enum, auto
from itertools import islice
from typing import Generic, TypeVar

from sortedcontainers import SortedDict, SortedSet

from shopsphere import search_index
from shopsphere.errors import (
    EmailTaken,
    IdempotencyKeyReused,
    InsufficientQuantity,
    OrderNotFound,
    ProductNotFound,
    ReservationConflict,
    ReservationRefused,
    ReservationReleased,
    ReservationShipped,
    StockLimit,
)
from shopsphere.models import (
    MAX_ON_HAND,
    SEEN,
    Command,
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
from shopsphere.stores import DAY_SECONDS, REFUSED_SECONDS, Claim

Clock = Callable[[], float]
K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


class ExpiringDict(Generic[K, V]):
    """A dict whose entries can be set to go away, as Redis keys do."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._values: dict[K, V] = {}
        self._expires: dict[K, float] = {}
        self._queue: list[tuple[float, K]] = []

    def get(self, key: K) -> V | None:
        self._drop_expired()
        return self._values.get(key)

    def set(self, key: K, value: V, seconds: float | None = None) -> None:
        """Keep the value for good, or for so many seconds."""
        self._drop_expired()
        self._values[key] = value
        self._expires.pop(key, None)
        if seconds is not None:
            self._expires[key] = self._clock() + seconds
            heapq.heappush(self._queue, (self._expires[key], key))

    def drop(self, key: K) -> None:
        """Let the entry go now; its place in the queue then means nothing."""
        self._values.pop(key, None)
        self._expires.pop(key, None)

    def _drop_expired(self) -> None:
        while self._queue and self._queue[0][0] <= self._clock():
            at, key = heapq.heappop(self._queue)
            if self._expires.get(key) == at:
                del self._expires[key], self._values[key]


class MemoryStore:
    """What the memory stores have in common: they always serve, and there is nothing to close."""

    async def ping(self) -> None:
        return

    async def close(self) -> None:
        return


class MemoryUserStore(MemoryStore):
    """`UserStore` in memory."""

    def __init__(self) -> None:
        from limits.aio.storage import MemoryStorage, Storage

        self.counters: Storage = MemoryStorage()
        self._users: dict[str, User] = {}
        self._pks: dict[str, str] = {}

    async def add(self, user: User) -> None:
        if user.email in self._pks:
            raise EmailTaken
        self._users[user.pk] = user
        self._pks[user.email] = user.pk

    async def get(self, pk: str) -> User | None:
        return self._users.get(pk)

    async def find(self, email: str) -> User | None:
        return self._users.get(self._pks.get(email, ""))

    async def set_password(self, user: User, password_hash: str, role: Role) -> bool:
        now = self._users.get(user.pk)
        if now is None or now.password_hash != user.password_hash:
            return False
        self._users[user.pk] = replace(now, password_hash=password_hash, role=role)
        return True


class _State(Enum):
    HELD = auto()
    SHIPPED = auto()
    RELEASED = auto()
    REFUSED = auto()


@dataclass(frozen=True, slots=True)
class _Mark:
    """What is known of one order at one product. `available` is what a refusal answered."""

    state: _State
    reservation: Reservation | None = None
    available: int = 0


@dataclass(slots=True)
class _Shelf:
    """A product with its figures and its live reservations."""

    product: Product
    stock: Stock
    is_deleted: bool = False
    live: SortedDict[str, Reservation] = field(default_factory=SortedDict)


class MemoryProductStore(MemoryStore):
    """`ProductStore` in memory."""

    def __init__(self, clock: Clock = time.monotonic) -> None:
        self._shelves: dict[str, _Shelf] = {}
        self._pks: SortedSet[str] = SortedSet()
        self._index: SortedSet[str] = SortedSet()
        self._marks: ExpiringDict[tuple[str, str], _Mark] = ExpiringDict(clock)
        self._changes: ExpiringDict[tuple[str, str], int] = ExpiringDict(clock)

    async def add(self, product: Product) -> None:
        stock = Stock(product.quantity, product.quantity, 0, 0)
        self._shelves[product.pk] = _Shelf(product, stock)
        self._pks.add(product.pk)
        self._index.update(_entries(product))

    async def get(self, pk: str) -> Product:
        return self._shelf(pk).product

    async def list_page(self, after: str | None, limit: int) -> Page[Product]:
        return _page(self._pks, after, limit, lambda pk: self._shelves[pk].product)

    async def search_page(self, text: str, after: str | None, limit: int) -> Page[Product]:
        folded = search_index.fold(text)
        prefix = search_index.prefix(folded)
        start = search_index.from_cursor(after, folded) if after else prefix
        found: list[Product] = []
        cursor = ""
        for entry in self._index.irange(minimum=start):
            if not entry.startswith(prefix):
                break
            suffix, pk, _ = search_index.split(entry)
            product = self._shelves[pk].product
            if search_index.is_first_match(search_index.fold(product.name), folded, suffix):
                if len(found) == limit:
                    return Page(found, cursor)
                found.append(product)
                cursor = search_index.to_cursor(suffix, pk)
        return Page(found, None)

    async def update(self, pk: str, name: str | None, price_cents: int | None) -> Product:
        shelf = self._shelf(pk)
        if price_cents is not None:
            shelf.product = replace(shelf.product, price_cents=price_cents)
        if name is not None:
            self._index.difference_update(_entries(shelf.product))
            shelf.product = replace(shelf.product, name=name)
            self._index.update(_entries(shelf.product))
        return shelf.product

    async def change_stock(
        self, pk: str, change: int, key: str | None = None
    ) -> tuple[Product, bool]:
        shelf = self._shelf(pk)
        stock = shelf.stock
        before = self._changes.get((pk, key)) if key else None
        if before is not None:
            if before != change:
                raise IdempotencyKeyReused
            return shelf.product, True
        if stock.available + change < 0:
            raise InsufficientQuantity(stock.available)
        if change > 0 and stock.available + stock.reserved + change > MAX_ON_HAND:
            raise StockLimit
        _count(shelf, received=change, available=change)
        if key:
            self._changes.set((pk, key), change, DAY_SECONDS)
        return shelf.product, False

    async def delete(self, pk: str) -> None:
        shelf = self._shelf(pk)
        shelf.is_deleted = True
        self._pks.remove(pk)
        self._index.difference_update(_entries(shelf.product))

    async def stock(self, pk: str) -> Stock:
        return self._shelf(pk, also_deleted=True).stock

    async def reservations_page(self, pk: str, after: str | None, limit: int) -> Page[Reservation]:
        live = self._shelf(pk, also_deleted=True).live
        return _page(live, after, limit, live.__getitem__)

    async def reserve(self, pk: str, order_pk: str, quantity: int) -> tuple[Reservation, bool]:
        shelf = self._shelf(pk)
        match self._marks.get((pk, order_pk)):
            case _Mark(_State.REFUSED, available=available):
                raise ReservationRefused(available)
            case _Mark(_State.RELEASED):
                raise ReservationReleased
            case _Mark(reservation=Reservation() as before):
                if before.quantity != quantity:
                    raise ReservationConflict
                return before, False
        available = shelf.stock.available
        if available < quantity:
            refusal = _Mark(_State.REFUSED, available=available)
            self._marks.set((pk, order_pk), refusal, REFUSED_SECONDS)
            raise ReservationRefused(available)
        product = shelf.product
        taken = Reservation(pk, order_pk, quantity, product.price_cents, product.name)
        _count(shelf, available=-quantity, reserved=quantity)
        shelf.live[order_pk] = taken
        self._marks.set((pk, order_pk), _Mark(_State.HELD, taken))
        return taken, True

    async def release(self, pk: str, order_pk: str) -> None:
        mark = self._marks.get((pk, order_pk))
        if mark and mark.state is _State.RELEASED:
            return
        if mark and mark.state is _State.SHIPPED:
            raise ReservationShipped
        if mark and mark.reservation:
            shelf = self._shelves[pk]
            _count(shelf, available=mark.reservation.quantity, reserved=-mark.reservation.quantity)
            del shelf.live[order_pk]
        self._marks.set((pk, order_pk), _Mark(_State.RELEASED), DAY_SECONDS)

    async def ship(self, pk: str, order_pk: str) -> None:
        mark = self._marks.get((pk, order_pk))
        if mark is None or mark.state is _State.SHIPPED:
            return
        if mark.state is not _State.HELD or mark.reservation is None:
            raise ReservationReleased
        shelf = self._shelves[pk]
        _count(shelf, reserved=-mark.reservation.quantity, shipped=mark.reservation.quantity)
        del shelf.live[order_pk]
        self._marks.set((pk, order_pk), replace(mark, state=_State.SHIPPED), DAY_SECONDS)

    def _shelf(self, pk: str, *, also_deleted: bool = False) -> _Shelf:
        shelf = self._shelves.get(pk)
        if shelf is None or (shelf.is_deleted and not also_deleted):
            raise ProductNotFound
        return shelf


def _entries(product: Product) -> set[str]:
    """Return the index entries of a product, which in memory always has its present name."""
    return search_index.entries(product.name, product.pk, revision="")


def _count(shelf: _Shelf, **units: int) -> None:
    """Add to these figures of a product; `quantity` follows what is available."""
    figures = {figure: getattr(shelf.stock, figure) + more for figure, more in units.items()}
    shelf.stock = replace(shelf.stock, **figures)
    shelf.product = replace(shelf.product, quantity=shelf.stock.available)


@dataclass(slots=True)
class _Key:
    """An idempotency key: what it came with, the order it is bound to, who holds it how long."""

    request: str
    order_pk: str
    owner: str | None
    held_until: float


class MemoryOrderStore(MemoryStore):
    """`OrderStore` in memory."""

    def __init__(self, clock: Clock = time.monotonic) -> None:
        self._clock = clock
        self._orders: ExpiringDict[str, Order] = ExpiringDict(clock)
        self._place_by: dict[str, float] = {}
        self._marks: dict[Mark, float] = {}
        self._lists: defaultdict[str | None, SortedSet[str]] = defaultdict(SortedSet)
        self._keys: ExpiringDict[str, _Key] = ExpiringDict(clock)

    async def mark(self, mark: Mark) -> None:
        self._marks.pop(mark, None)  # so that the oldest always comes first
        self._marks[mark] = self._clock()

    async def unmark(self, mark: Mark) -> bool:
        return self._marks.pop(mark, None) is not None

    async def old_marks(self, seconds: float) -> list[Mark]:
        latest = self._clock() - seconds
        return [mark for mark, since in self._marks.items() if since <= latest]

    async def marks_of(self, pk: str, product_id: str) -> dict[Mark, float]:
        marks = (Mark(command, pk, product_id) for command in Command)
        return {mark: self._clock() - self._marks[mark] for mark in marks if mark in self._marks}

    async def count_marks(self) -> int:
        return len(self._marks)

    async def create(self, order: Order, seconds: float) -> OrderStatus:
        record = self._orders.get(order.pk)
        if record is None:
            record = order
            self._orders.set(order.pk, order)
        if record.status is OrderStatus.PENDING:
            self._place_by[order.pk] = self._clock() + seconds
        return record.status

    async def place(self, pk: str, reservation: Reservation) -> Order | None:
        order = self._orders.get(pk)
        is_pending = order is not None and order.status is OrderStatus.PENDING
        if order and is_pending and self._clock() <= self._place_by[pk]:
            order = replace(
                order,
                status=OrderStatus.PLACED,
                product_name=reservation.product_name,
                unit_price_cents=reservation.unit_price_cents,
            )
            self._orders.set(pk, order)
            del self._place_by[pk]
        return order if order and order.status in SEEN else None

    async def fail(self, pk: str) -> OrderStatus:
        order = self._orders.get(pk) or Order(pk, "", "", 0, 0, OrderStatus.FAILED, None)
        if order.status not in SEEN:
            order = replace(order, status=OrderStatus.FAILED)
            self._orders.set(pk, order, DAY_SECONDS)
            self._place_by.pop(pk, None)
        return order.status

    async def move(self, pk: str, status: OrderStatus) -> Order:
        order = self._placed(pk)
        if order.status is OrderStatus.PLACED:
            order = replace(order, status=status)
            self._orders.set(pk, order)
        return order

    async def list_order(self, order: Order) -> None:
        self._lists[None].add(order.pk)
        if order.user_id:
            self._lists[order.user_id].add(order.pk)

    async def get(self, pk: str, user_id: str | None = None) -> Order:
        order = self._placed(pk)
        if user_id not in (None, order.user_id):
            raise OrderNotFound
        return order

    async def record(self, pk: str) -> Order | None:
        return self._orders.get(pk)

    async def list_page(self, user_id: str | None, after: str | None, limit: int) -> Page[Order]:
        listed = self._lists.get(user_id, SortedSet())
        return _page(listed, after, limit, self._placed)

    async def claim(
        self, key: str, request: str, owner: str, order_pk: str, seconds: float
    ) -> Claim:
        now = self._clock()
        held = self._keys.get(key) or _Key(request, order_pk, None, now)
        if held.request != request:
            raise IdempotencyKeyReused
        if held.owner not in (None, owner) and now < held.held_until:
            return Claim(held.order_pk, is_mine=False, seconds_left=held.held_until - now)
        self._keys.set(key, _Key(request, held.order_pk, owner, now + seconds), DAY_SECONDS)
        return Claim(held.order_pk, is_mine=True)

    async def rebind(self, key: str, owner: str, order_pk: str) -> bool:
        held = self._keys.get(key)
        if held is None or held.owner != owner:
            return False
        held.order_pk = order_pk
        return True

    async def end_claim(self, key: str, owner: str, *, forget: bool) -> None:
        held = self._keys.get(key)
        if held is None or held.owner != owner:
            return
        held.owner = None
        if forget:
            self._keys.drop(key)

    def _placed(self, pk: str) -> Order:
        order = self._orders.get(pk)
        if order is None or order.status not in SEEN:
            raise OrderNotFound
        return order


def _page(
    pks: SortedSet[str] | SortedDict[str, V], after: str | None, limit: int, get: Callable[[str], V]
) -> Page[V]:
    """Return up to `limit` of the things whose pks are above `after`."""
    found = list(islice(pks.irange(minimum=after, inclusive=(False, True)), limit + 1))
    next_after = found[limit - 1] if len(found) > limit else None
    return Page([get(pk) for pk in found[:limit]], next_after)
