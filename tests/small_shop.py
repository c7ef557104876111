"""A shop in this process: one storage, and services on a wire that a test watches.

There is no HTTP between the services, so that each call which ordering makes can be held or lost.
"""

import asyncio
import functools
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, TypeVar

from prometheus_client import CollectorRegistry

from in_memory_db import MemoryRecords
from redis_db import RedisRecords
from shopsphere.catalogue.products import Products
from shopsphere.deadline import Deadline
from shopsphere.domain import errors
from shopsphere.domain.errors import ShopError, Unavailable
from shopsphere.domain.records import OrderRecord
from shopsphere.domain.values import EVER_PLACED, Item, Order, OrderStatus, Reservation, Stock
from shopsphere.ordering.checkout import Checkout
from shopsphere.ordering.metrics import OrderMetrics
from shopsphere.ordering.orders import SHOP
from shopsphere.ordering.product_client import ProductClient
from shopsphere.ordering.settling import Settling
from shopsphere.records import EVERYTHING, Listing, Records
from shopsphere.redis_clients.connecting import connect
from shopsphere.settings import Settings
from tests.moved_clock import MovedClock
from tests.servers import RedisServer

T = TypeVar("T")

ORDER_SECONDS = 10
SETTLE_SECONDS = 30
LEASE_SECONDS = 13
"""After these the lease of a key is over."""
LATER = 31
"""Seconds after which that is so, and a note is old enough to settle."""
KEY = "a key"
UNITS = 2
"""What an order asks for of each product."""


def of(*products: str) -> list[Item]:
    """Return what is ordered, with the product last that stock is taken of first."""
    return [Item(product, UNITS) for product in reversed(products)]


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


class Crash(BaseException):
    """The process dies. Nothing catches this."""


class Fault(StrEnum):
    """What can befall a call."""

    NONE = "nothing"
    CRASH_BEFORE = "a crash before it"
    CRASH_AFTER = "a crash after it"
    NOT_HEARD = "it is done, and the response is lost"
    NOT_DONE = "it is not done, and there is no response"
    REPEATED = "it is done twice, as its first response was lost"
    LATE = "it is done after the command was sent again"
    TOO_LATE = "it is done after settling"


@dataclass
class Fate:
    """What befalls one run of a service: a fault at its call of this number, from 1 on, or at its
    first call of this name."""

    fault: Fault = Fault.NONE
    at: int | str = 0
    calls: int = 0
    hit: str = ""
    """The name of the call that was befallen."""
    is_dead: bool = False
    late: Call | None = None

    async def watch(self, call: Call) -> object:
        """Make the call, or what becomes of it; once dead, a service does nothing any more."""
        if self.is_dead:
            raise Crash
        self.calls += 1
        if self.hit or self.at not in (self.calls, call.name):
            return await call.make()
        self.hit = call.name
        self.is_dead = self.fault in (Fault.CRASH_BEFORE, Fault.CRASH_AFTER)
        if self.fault in (Fault.LATE, Fault.TOO_LATE):
            self.late = call
        elif self.fault not in (Fault.CRASH_BEFORE, Fault.NOT_DONE):
            with suppress(ShopError):
                await call.make()
        if self.is_dead:
            raise Crash
        if self.fault is Fault.REPEATED:
            return await call.make()
        raise call.lost

    async def land(self, fault: Fault) -> None:
        """Have the call arrive that is so late."""
        if self.late and self.fault is fault:
            with suppress(ShopError):
                await self.late.make()


def _wire(end: T, lost: type[Unavailable], watch: Watch) -> T:
    """Return what has the methods of `end`, with each call on it under this watch."""

    class Wire:
        def __getattr__(self, name: str) -> Callable[..., Awaitable[object]]:
            def send(*args: Any, **options: object) -> Awaitable[object]:
                make = functools.partial(getattr(end, name), *args, **options)
                if name != "change":
                    return watch(Call(name, args, lost, make))
                rule = functools.partial(args[0])
                about = (*args[1:], rule.keywords)
                return watch(Call(rule.func.__name__, about, lost, make))

            return send

    wire: Any = Wire()
    watched: T = wire
    return watched


class ProductsAtHand(ProductClient):
    """A `ProductClient` that calls the products itself: no HTTP, no threads."""

    def __init__(self, products: Products) -> None:
        self._products = products

    async def release(self, product_pk: str, order_pk: str) -> None:
        await self._products.release(product_pk, order_pk)

    async def ship(self, product_pk: str, order_pk: str) -> None:
        await self._products.ship(product_pk, order_pk)

    async def reserve(self, order_pk: str, item: Item, within: float) -> Reservation:
        if asyncio.get_running_loop().time() > within:
            raise errors.ProductServiceUnavailable
        try:
            reservation, _ = await self._products.reserve(
                item.product_pk, order_pk, item.quantity, item.unit_price_cents
            )
        except errors.ReservationRefused as refusal:
            available = refusal.extra["available"]
            assert isinstance(available, int)
            raise errors.InsufficientQuantity(available, item.product_pk) from None
        except (errors.ReservationReleased, errors.ReservationConflict) as error:
            raise errors.ProductServiceUnavailable from error
        return reservation


@dataclass(frozen=True)
class OrderService:
    """One run of an order service, from its start to its end or its crash."""

    checkout: Checkout
    settling: Settling
    seconds_left: float

    async def place(self, key: str | None, *items: Item) -> Order:
        order, _ = await self.checkout.place(key, items, None, self._deadline())
        return order

    async def cancel(self, pk: str) -> Order:
        return await self.checkout.cancel(pk, None, self._deadline())

    async def ship(self, pk: str) -> Order:
        return await self.checkout.ship(pk, self._deadline())

    async def settle(self) -> None:
        await self.settling.settle_all()

    def _deadline(self) -> Deadline:
        return Deadline(asyncio.get_running_loop().time() + self.seconds_left, ORDER_SECONDS)


class SmallShop:
    """Its storage, its order services, and the books that must be right."""

    def __init__(self, server: RedisServer | None = None, records: Records | None = None) -> None:
        """In memory, if there is no `server`."""
        self._server = server
        self._clock = MovedClock(server)
        self.let_pass = self._clock.move
        self._registry = CollectorRegistry()
        self._metrics = OrderMetrics(self._registry)
        self.records = records or MemoryRecords(self._clock)
        self.clear()

    @property
    def products(self) -> Products:
        return Products(self.records)

    def clear(self) -> None:
        """Begin with an empty shop."""
        if self._server:
            self._server.client.flushall()
        else:
            self.records = MemoryRecords(self._clock)
        self.received: dict[str, int] = {}
        self.ordered: set[str] = set()

    async def add(self, quantity: int) -> str:
        """Put a product on the shelf; return its pk."""
        product, _ = await self.products.create("Laptop", 999, quantity)
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

        metrics, records = self._metrics, _wire(self.records, errors.StoreUnavailable, noted)
        products = _wire(ProductsAtHand(self.products), errors.ProductServiceUnavailable, noted)
        settling = Settling(records, products, metrics, settle_after)
        checkout = Checkout(records, products, settling, metrics, lease_seconds)
        return OrderService(checkout, settling, seconds_left)

    async def dies_at(self, call: str, key: str | None, *products: str) -> None:
        """Order at a service that dies before this call."""
        with suppress(Crash):
            await self.service(Fate(Fault.CRASH_BEFORE, call).watch).place(key, *of(*products))
            raise AssertionError(f"it never came to {call}")

    async def settle(self) -> None:
        """Settle all, however young."""
        await self.service(settle_after=0).settle()

    def counted(self, metric: str) -> float:
        """Return what a counter of the order services stands at."""
        return self._registry.get_sample_value(f"{metric}_total") or 0

    async def listed(self, status: str = "all") -> list[Order]:
        """Return the orders in this list."""
        entries = await self.records.entries(Listing(SHOP, status), EVERYTHING, 1000)
        records = await self.records.read(*(OrderRecord(pk=entry.member) for entry in entries))
        return [record.order() for record in records]

    async def must_be_exact(self, *answered: Order) -> None:
        """See that the books are right and nothing hangs; `answered` were told to customers."""
        assert await self.noted() == [], "a note is left"
        assert self.counted("orders_inconsistent") == 0, "the product service knows better"
        listed = await self.listed()
        assert {order.pk for order in answered} <= {order.pk for order in listed}
        records = await self.records.read(*(OrderRecord(pk=pk) for pk in self.ordered))
        placed = {record.pk for record in records if record.status in EVER_PLACED}
        assert {order.pk for order in listed} & self.ordered == placed, "placed, and not listed"
        for status in EVER_PLACED:
            expected = [order for order in listed if order.status is status]
            assert sorted(await self.listed(status), key=listed.index) == expected, status
        for product, received in self.received.items():
            placed_units, shipped_units = (
                {order.pk: item.quantity for order in listed for item in order.items
                 if order.status is status and item.product_pk == product}
                for status in (OrderStatus.PLACED, OrderStatus.SHIPPED)
            )  # fmt: skip
            live = (await self.products.reservations_page(product, None, 1000)).items
            assert {one.order_pk: one.quantity for one in live} == placed_units, "reserved by order"
            reserved, shipped = sum(placed_units.values()), sum(shipped_units.values())
            available = received - reserved - shipped
            assert available >= 0, "oversold"
            stock = Stock(received, available, reserved, shipped)
            assert await self.products.stock(product) == stock

    async def noted(self) -> list[str]:
        """Return the orders of the notes, oldest first."""
        return [note.text.split()[1] for note in await self.records.notes(0, 1000)]


@asynccontextmanager
async def small_shop(storage: str, server: RedisServer) -> AsyncIterator[SmallShop]:
    """Yield an empty shop on this storage."""
    if storage == "memory":
        yield SmallShop()
        return
    records = RedisRecords(await connect(Settings(redis_port=server.port)), "shop")
    try:
        yield SmallShop(server, records)
    finally:
        await records.close()
