"""A shop in this process: one storage, and services on a wire that a test watches.

There is no HTTP between the services, so that each call which ordering makes can be held or lost.
"""

import asyncio
import functools
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

from prometheus_client import CollectorRegistry

from in_memory_db import MemoryRecords
from redis_clients import connect
from redis_db import RedisRecords
from shopsphere.catalogue.products import Products
from shopsphere.deadline import Deadline
from shopsphere.domain.errors import (
    InsufficientQuantity,
    ProductServiceUnavailable,
    ReservationConflict,
    ReservationRefused,
    ReservationReleased,
    StoreUnavailable,
    Unavailable,
)
from shopsphere.domain.records import OrderRecord
from shopsphere.domain.values import EVER_PLACED, Item, Order, OrderStatus, Reservation, Stock
from shopsphere.ordering.checkout import Checkout
from shopsphere.ordering.idempotency import IdempotentCheckout
from shopsphere.ordering.metrics import OrderMetrics
from shopsphere.ordering.notifier import Notifier, ProductService
from shopsphere.ordering.orders import SHOP, Orders
from shopsphere.ordering.settling import Settling
from shopsphere.records import Listing, Records
from shopsphere.settings import Settings
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
  if kind == 'zset' and string.find(key, ':notes:', 1, true) then
    for _, note in ipairs(redis.call('ZRANGE', key, 0, -1)) do
      redis.call('ZINCRBY', key, -ARGV[1] * 1000000, note)
    end
  end
  if kind == 'hash' and redis.call('HEXISTS', key, 'lease_until') == 1 then
    redis.call('HINCRBYFLOAT', key, 'lease_until', -ARGV[1])
    redis.call('HSET', key, 'version', redis.call('HGET', key, 'version') .. '+')
  end
  if left >= 0 and left <= ARGV[1] * 1000 then
    redis.call('DEL', key)
  elseif left >= 0 then
    redis.call('PEXPIRE', key, left - ARGV[1] * 1000)
  end
end
"""
"""Brings all times nearer that this storage keeps: the clock of a real Redis cannot be moved."""
CONTENT = """
local content = {}
for _, key in ipairs(redis.call('KEYS', '*')) do
  local kind = redis.call('TYPE', key).ok
  if kind == 'hash' then
    local flat = redis.call('HGETALL', key)
    for i = 1, #flat, 2 do
      if flat[i] ~= 'revision' and flat[i] ~= 'version' and flat[i] ~= 'placed_ms' then
        table.insert(content, key .. ' ' .. flat[i] .. ' ' .. flat[i + 1])
      end
    end
  elseif kind == 'zset' and not string.find(key, ':names:', 1, true) then
    table.insert(content, key .. ' ' .. table.concat(redis.call('ZRANGE', key, 0, -1), ' '))
  end
end
return content
"""


class Storage(Protocol):
    """Where a small shop keeps its records."""

    records: Records

    def clear(self) -> None:
        """Forget all."""

    def let_pass(self, seconds: float) -> None:
        """Have so much time gone by for the clock of the storage."""

    def content(self) -> list[str]:
        """Return all that ordering goes by, for comparing; it may hold times."""


class MemoryStorage:
    """`Storage` in memory."""

    def __init__(self) -> None:
        self.now = 1_000_000.0
        self.clear()

    def clear(self) -> None:
        self.records: Records = MemoryRecords(lambda: self.now)

    def let_pass(self, seconds: float) -> None:
        self.now += seconds

    def content(self) -> list[str]:
        kept = vars(self.records)
        records = sorted(map(str, kept["_records"].values()))
        lists = sorted((str(name), sorted(members)) for name, members in kept["_positions"].items())
        return [re.sub("revision='[^']*'", "", str([records, lists, sorted(kept["_notes"])]))]


class RedisStorage:
    """`Storage` on Redis."""

    def __init__(self, server: RedisServer, records: Records) -> None:
        self._redis = server.client
        self.records = records

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
        def send(*args: Any, **options: object) -> Awaitable[object]:
            make = functools.partial(getattr(self._end, name), *args, **options)
            if name != "change":
                return self._watch(Call(name, args, self._lost, make))
            rule, *records = args
            told = rule.keywords if isinstance(rule, functools.partial) else {}
            function = getattr(rule, "func", rule)
            return self._watch(Call(function.__name__, (*records, told), self._lost, make))

        return send


def _wire(end: T, lost: type[Unavailable], watch: Watch) -> T:
    """Return what has the methods of `end`, with each call on it under this watch."""
    wire: Any = _Wire(end, lost, watch)
    watched: T = wire
    return watched


class ProductsAtHand:
    """`ProductService` on a storage: says what `ProductClient` makes of the responses."""

    def __init__(self, records: Records) -> None:
        self._products = Products(records)

    async def reserve(self, order_pk: str, item: Item, within: float) -> Reservation:
        if asyncio.get_running_loop().time() > within:
            raise ProductServiceUnavailable
        try:
            reservation, _ = await self._products.reserve(item.product_pk, order_pk, item.quantity)
        except ReservationRefused as refusal:
            raise InsufficientQuantity(refusal.available) from None
        except (ReservationReleased, ReservationConflict) as error:
            raise ProductServiceUnavailable from error
        return reservation

    async def release(self, product_pk: str, order_pk: str) -> None:
        await self._products.release(product_pk, order_pk)

    async def ship(self, product_pk: str, order_pk: str) -> None:
        await self._products.ship(product_pk, order_pk)


class OrderService:
    """One run of an order service, from its start to its end or its crash."""

    def __init__(
        self,
        records: Records,
        products: ProductService,
        figures: OrderMetrics,
        lease_seconds: float,
        settle_after: float,
        seconds_left: float,
    ) -> None:
        self._seconds_left = seconds_left
        notifier = Notifier(products, figures)
        self.checkout = Checkout(records, products, notifier, figures)
        self._settling = Settling(records, notifier, figures, settle_after)
        self._keyed = IdempotentCheckout(records, self.checkout, self._settling, lease_seconds)

    async def place(self, key: str | None, *items: Item) -> Order:
        order, _ = await self._keyed.place(key, items, None, self._deadline())
        return order

    async def cancel(self, pk: str) -> Order:
        return await self.checkout.cancel(pk, None, self._deadline())

    async def ship(self, pk: str) -> Order:
        return await self.checkout.ship(pk, self._deadline())

    async def settle(self) -> None:
        await self._settling.settle_all()

    async def settle_for_ever(self) -> None:
        await self._settling.run(0)

    def _deadline(self) -> Deadline:
        return Deadline(asyncio.get_running_loop().time() + self._seconds_left, ORDER_SECONDS)


class SmallShop:
    """Its storage, its order services, and the books that must be right."""

    def __init__(self, storage: Storage) -> None:
        self._storage = storage
        self._registry = CollectorRegistry()
        self._figures = OrderMetrics(self._registry)
        self.let_pass = storage.let_pass
        self.content = storage.content
        self.clear()

    @property
    def records(self) -> Records:
        return self._storage.records

    @property
    def products(self) -> Products:
        return Products(self.records)

    @property
    def orders(self) -> Orders:
        return Orders(self.records)

    def clear(self) -> None:
        """Begin with an empty shop."""
        self._storage.clear()
        self.received: dict[str, int] = {}
        self.ordered: set[str] = set()

    async def add(self, quantity: int) -> str:
        """Put a product on the shelf; return its pk."""
        product = await self.products.create("Laptop", 999, quantity)
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
        seconds_left: float = ORDER_SECONDS,
    ) -> OrderService:
        """Start an order service whose calls are under this watch.

        Each of its requests has so many seconds left of its `ORDER_SECONDS`.
        """

        async def noted(call: Call) -> object:
            if call.name == "add_note":
                self.ordered.add(str(call.args[0]).split()[1])
            return await watch(call)

        return OrderService(
            _wire(self.records, StoreUnavailable, noted),
            _wire(ProductsAtHand(self.records), ProductServiceUnavailable, noted),
            self._figures,
            lease_seconds,
            settle_after,
            seconds_left,
        )

    async def settle(self) -> None:
        """Settle all, however young."""
        await self.service(settle_after=0).settle()

    def counted(self, metric: str) -> float:
        """Return what a counter of the order services stands at."""
        return self._registry.get_sample_value(f"{metric}_total") or 0

    async def listed(self) -> list[Order]:
        return (await self.orders.page(None, None, 1000)).items

    async def must_be_exact(self, *answered: Order) -> None:
        """See that the books are right and nothing hangs; `answered` were told to customers."""
        assert len(await self.records.notes(0, 1000)) == 0, "a note is left"
        assert self.counted("orders_inconsistent") == 0, "the product service knows better"
        listed = {order.pk: order for order in await self.listed()}
        for order in answered:
            assert order.pk in listed, f"{order.pk} was answered, and is not there"
        for pk in self.ordered - listed.keys():
            [record] = await self.records.read(OrderRecord(pk=pk))
            assert record.status not in EVER_PLACED, f"{record} is placed, and not listed"
        for status in EVER_PLACED:
            entries = await self.records.entries(Listing(SHOP, status), 0, 1000)
            expected = {order.pk for order in listed.values() if order.status is status}
            assert {entry.member for entry in entries} == expected, f"the list of {status}"
        for product, received in self.received.items():
            await self._must_add_up(product, received, list(listed.values()))

    async def _must_add_up(self, product: str, received: int, orders: Sequence[Order]) -> None:
        def units(status: OrderStatus) -> dict[str, int]:
            return {
                order.pk: item.quantity
                for order in orders
                for item in order.items
                if order.status is status and item.product_pk == product
            }

        live = (await self.products.reservations_page(product, None, 1000)).items
        placed = units(OrderStatus.PLACED)
        assert {one.order_pk: one.quantity for one in live} == placed, "reserved by order"
        reserved, shipped = sum(placed.values()), sum(units(OrderStatus.SHIPPED).values())
        available = received - reserved - shipped
        assert available >= 0, "oversold"
        assert await self.products.stock(product) == Stock(received, available, reserved, shipped)


@asynccontextmanager
async def small_shop(storage: str, server: RedisServer) -> AsyncIterator[SmallShop]:
    """Yield an empty shop on this storage."""
    if storage == "memory":
        yield SmallShop(MemoryStorage())
        return
    records = RedisRecords(await connect(Settings(redis_port=server.port)), "shop")
    try:
        yield SmallShop(RedisStorage(server, records))
    finally:
        await records.close()
