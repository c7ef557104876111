"""A shop in this process: two stores on one storage, and services on a wire that a test watches.

There is no HTTP between the services, so that each call which ordering makes can be held or lost.
"""

import functools
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

from prometheus_client import CollectorRegistry

from in_memory_db import ExpiringDict, MemoryOrderStore, MemoryProductStore
from redis_clients import connect
from redis_stores.orders import RedisOrderStore
from redis_stores.products import RedisProductStore
from shopsphere.errors import (
    InsufficientQuantity,
    ProductNotFound,
    ProductServiceUnavailable,
    ReservationConflict,
    ReservationRefused,
    ReservationReleased,
    ReservationShipped,
    StoreUnavailable,
    Unavailable,
)
from shopsphere.models import Mark, Order, OrderStatus, Product, Reservation, Stock, new_pk
from shopsphere.ordering.checkout import Checkout, Products, Wish
from shopsphere.ordering.figures import OrderFigures
from shopsphere.ordering.idempotency import IdempotentCheckout
from shopsphere.ordering.settling import Settling
from shopsphere.settings import Settings
from shopsphere.stores import OrderStore, ProductStore
from tests.servers import RedisServer

T = TypeVar("T")

ORDER_SECONDS = 10
SETTLE_SECONDS = 30
LEASE_SECONDS = 13
"""After these the lease of a key is over."""

PK = re.compile(r"[0-7][0-9A-HJKMNP-TV-Z]{25}")

LET_PASS = """
for _, key in ipairs(redis.call('KEYS', '*')) do
  local kind, left = redis.call('TYPE', key).ok, redis.call('PTTL', key)
  if kind == 'zset' and string.find(key, ':orders%-') then
    for _, mark in ipairs(redis.call('ZRANGE', key, 0, -1)) do
      redis.call('ZINCRBY', key, -ARGV[1], mark)
    end
  end
  for _, field in ipairs({'place_by', 'until'}) do
    if kind == 'hash' and redis.call('HEXISTS', key, field) == 1 then
      redis.call('HINCRBYFLOAT', key, field, -ARGV[1])
    end
  end
  if left >= 0 and left <= ARGV[1] * 1000 then
    redis.call('DEL', key)
  elseif left >= 0 then
    redis.call('PEXPIRE', key, left - ARGV[1] * 1000)
  end
end
"""
CONTENT = """
local content = {}
for _, key in ipairs(redis.call('KEYS', '*')) do
  local kind = redis.call('TYPE', key).ok
  if kind == 'hash' then
    local flat = redis.call('HGETALL', key)
    for i = 1, #flat, 2 do
      if flat[i] ~= 'revision' then
        table.insert(content, key .. ' ' .. flat[i] .. ' ' .. flat[i + 1])
      end
    end
  elseif kind == 'zset' and not string.find(key, 'product-names', 1, true) then
    table.insert(content, key .. ' ' .. table.concat(redis.call('ZRANGE', key, 0, -1), ' '))
  end
end
return content
"""


class Storage(Protocol):
    """Where a small shop keeps its records."""

    orders: OrderStore
    products: ProductStore

    def clear(self) -> None:
        """Forget all."""

    def let_pass(self, seconds: float) -> None:
        """Have so much time gone by for the clock of the stores."""

    def content(self) -> list[str]:
        """Return all that ordering goes by, for comparing; it may hold times."""


class MemoryStorage:
    """`Storage` in memory."""

    def __init__(self) -> None:
        self.now = 1_000_000.0
        self.clear()

    def clear(self) -> None:
        self.orders: OrderStore = MemoryOrderStore(lambda: self.now)
        self.products: ProductStore = MemoryProductStore(lambda: self.now)

    def let_pass(self, seconds: float) -> None:
        self.now += seconds

    def content(self) -> list[str]:
        parts = vars(self.orders) | {"reserved": vars(self.products)["_marks"]}
        shelves = vars(self.products)["_shelves"].values()
        return [f"{shelf.product} {shelf.stock} {shelf.is_deleted}" for shelf in shelves] + [
            f"{name}: {part._values if isinstance(part, ExpiringDict) else part}"
            for name, part in parts.items()
            if name != "_clock"
        ]


class RedisStorage:
    """`Storage` on Redis."""

    def __init__(self, server: RedisServer, orders: OrderStore, products: ProductStore) -> None:
        self._redis = server.client
        self.orders = orders
        self.products = products

    def clear(self) -> None:
        self._redis.flushall()

    def let_pass(self, seconds: float) -> None:
        self._redis.eval(LET_PASS, 0, str(seconds))

    def content(self) -> list[str]:
        return sorted(map(str, self._redis.eval(CONTENT, 0)))


@dataclass(frozen=True, slots=True)
class Call:
    """A call on its way to the orders' store or to the product service."""

    name: str
    args: tuple[object, ...]
    lost: type[Unavailable]
    """What the caller is told when it hears nothing."""
    make: Callable[[], Awaitable[object]]
    make_again: Callable[[], Awaitable[object]]


Watch = Callable[[Call], Awaitable[object]]


async def nobody(call: Call) -> object:
    """Watch nothing."""
    return await call.make()


class _Wire:
    def __init__(self, end: object, lost: type[Unavailable], watch: Watch) -> None:
        self._end = end
        self._lost = lost
        self._watch = watch

    def __getattr__(self, name: str) -> Callable[..., Awaitable[object]]:
        def send(*args: object, **options: object) -> Awaitable[object]:
            method = getattr(self._end, name)
            again = {**options, "is_first": False} if "is_first" in options else options
            return self._watch(
                Call(
                    name,
                    args,
                    self._lost,
                    functools.partial(method, *args, **options),
                    functools.partial(method, *args, **again),
                )
            )

        return send


def _wire(end: T, lost: type[Unavailable], watch: Watch) -> T:
    """Return what has the methods of `end`, with each call on it under this watch."""
    wire: Any = _Wire(end, lost, watch)
    watched: T = wire
    return watched


class ProductsAtHand:
    """`Products` on a store: says what `ProductClient` makes of the product service's answers."""

    def __init__(self, store: ProductStore) -> None:
        self._store = store

    async def reserve(
        self, product_id: str, order_pk: str, quantity: int, *, is_first: bool
    ) -> Reservation:
        try:
            reservation, _ = await self._store.reserve(product_id, order_pk, quantity)
        except ReservationRefused as refusal:
            raise InsufficientQuantity(refusal.available) from None
        except (ProductNotFound, ReservationReleased, ReservationConflict) as error:
            if isinstance(error, ProductNotFound) and is_first:
                raise
            raise ProductServiceUnavailable from error
        return reservation

    async def release(self, product_id: str, order_pk: str) -> None:
        try:
            await self._store.release(product_id, order_pk)
        except ReservationShipped as error:
            raise ProductServiceUnavailable from error

    async def ship(self, product_id: str, order_pk: str) -> None:
        try:
            await self._store.ship(product_id, order_pk)
        except ReservationReleased as error:
            raise ProductServiceUnavailable from error


class OrderService:
    """One run of an order service, from its start to its end or its crash."""

    def __init__(
        self,
        orders: OrderStore,
        products: Products,
        figures: OrderFigures,
        lease_seconds: float,
        settle_after: float,
    ) -> None:
        self.checkout = Checkout(orders, products, figures)
        self._keyed = IdempotentCheckout(orders, self.checkout, lease_seconds - 2)
        self._settling = Settling(orders, products, figures, settle_after)

    async def place(self, key: str | None, product: str, quantity: int) -> Order:
        order, _ = await self._keyed.place(key, Wish(product, quantity, None), ORDER_SECONDS)
        return order

    async def cancel(self, pk: str) -> Order:
        return await self.checkout.cancel(pk, None, ORDER_SECONDS)

    async def ship(self, pk: str) -> Order:
        return await self.checkout.ship(pk, ORDER_SECONDS)

    async def settle(self) -> None:
        await self._settling.settle_all()


class SmallShop:
    """Its stores, its order services, and the books that must be right."""

    def __init__(self, storage: Storage) -> None:
        self._storage = storage
        self._figures = OrderFigures(CollectorRegistry())
        self.let_pass = storage.let_pass
        self.content = storage.content
        self.clear()

    @property
    def orders(self) -> OrderStore:
        return self._storage.orders

    @property
    def products(self) -> ProductStore:
        return self._storage.products

    def clear(self) -> None:
        """Begin with an empty shop."""
        self._storage.clear()
        self.received: dict[str, int] = {}
        self.ordered: set[str] = set()

    async def add(self, quantity: int) -> str:
        """Put a product on the shelf; return its pk."""
        product = Product(new_pk(), "Laptop", 999, quantity)
        await self.products.add(product)
        self.received[product.pk] = quantity
        return product.pk

    async def restock(self, product: str, change: int) -> None:
        await self.products.change_stock(product, change)
        self.received[product] += change

    def service(
        self,
        watch: Watch = nobody,
        *,
        lease_seconds: float = ORDER_SECONDS + 2,
        settle_after: float = SETTLE_SECONDS,
    ) -> OrderService:
        """Start an order service whose calls are under this watch."""

        async def noted(call: Call) -> object:
            self.ordered.update(mark.pk for mark in call.args if isinstance(mark, Mark))
            return await watch(call)

        return OrderService(
            _wire(self.orders, StoreUnavailable, noted),
            _wire(ProductsAtHand(self.products), ProductServiceUnavailable, noted),
            self._figures,
            lease_seconds,
            settle_after,
        )

    async def settle(self) -> None:
        """Settle all, however young."""
        await self.service(settle_after=0).settle()

    async def listed(self) -> list[Order]:
        return (await self.orders.list_page(None, None, 1000)).items

    async def must_be_exact(self, *answered: Order) -> None:
        """See that the books are right and nothing hangs; `answered` were told to customers."""
        assert await self.orders.count_marks() == 0, "a mark is left"
        listed = {order.pk: order for order in await self.listed()}
        for order in answered:
            assert order.pk in listed, f"{order.pk} was answered, and is not there"
        for pk in self.ordered - listed.keys():
            record = await self.orders.record(pk)
            assert record is None or record.status is OrderStatus.FAILED, f"{record} hangs"
        for product, received in self.received.items():
            mine = [order for order in listed.values() if order.product_id == product]
            placed = {order.pk: order.quantity for order in mine if order.status == "PLACED"}
            shipped = sum(order.quantity for order in mine if order.status == "SHIPPED")
            live = (await self.products.reservations_page(product, None, 1000)).items
            assert {one.order_id: one.quantity for one in live} == placed, "reserved by order"
            reserved = sum(placed.values())
            available = received - reserved - shipped
            assert available >= 0, "sold what is not there"
            assert await self.products.stock(product) == Stock(
                received, available, reserved, shipped
            )


@asynccontextmanager
async def small_shop(storage: str, server: RedisServer) -> AsyncIterator[SmallShop]:
    """Yield an empty shop on this storage."""
    if storage == "memory":
        yield SmallShop(MemoryStorage())
        return
    client = await connect(Settings(redis_port=server.port))
    orders, products = RedisOrderStore(client, "shop"), RedisProductStore(client, "shop")
    try:
        yield SmallShop(RedisStorage(server, orders, products))
    finally:
        await orders.close()
