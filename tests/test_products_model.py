"""Random lives of two products, on both storages at once, beside a model too plain to be wrong."""

from collections.abc import AsyncIterator
from dataclasses import dataclass, field

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from redis_stores.products import RedisProductStore
from shopsphere.stores import DAY_SECONDS, REFUSED_SECONDS, ProductStore

from in_memory_db import MemoryProductStore
from shopsphere.domain.errors import InsufficientQuantity, ShopError
from shopsphere.domain.pks import new_pk
from shopsphere.domain.values import Product, Stock
from tests.lossy_wire import connected
from tests.moved_clock import MovedClock
from tests.servers import RedisServer

ON_SHELF = 4
"""Units of each product at first: few, so that they run out."""


@dataclass
class Plain:
    """One product as a shopkeeper would write it down; answers are words."""

    received: int = ON_SHELF
    is_deleted: bool = False
    held: dict[int, int] = field(default_factory=dict)
    gone: int = 0
    shipped: dict[int, int] = field(default_factory=dict)
    released: set[int] = field(default_factory=set)
    refused: dict[int, int] = field(default_factory=dict)
    counted: dict[str, int] = field(default_factory=dict)

    @property
    def available(self) -> int:
        return self.received - sum(self.held.values()) - self.gone

    def reserve(self, order: int, quantity: int) -> str:
        if self.is_deleted:
            return "ProductNotFound"
        if order in self.refused:
            return f"ReservationRefused {self.refused[order]}"
        if order in self.released:
            return "ReservationReleased"
        if known := self.held.get(order) or self.shipped.get(order):
            return "same" if known == quantity else "ReservationConflict"
        if quantity > self.available:
            self.refused[order] = self.available
            return f"ReservationRefused {self.available}"
        self.held[order] = quantity
        return "taken"

    def release(self, order: int) -> str:
        if order in self.shipped:
            return "ReservationShipped"
        self.held.pop(order, None)
        self.refused.pop(order, None)
        self.released.add(order)
        return "done"

    def ship(self, order: int) -> str:
        if order in self.released or order in self.refused:
            return "ReservationReleased"
        if order in self.held:
            self.shipped[order] = self.held.pop(order)
            self.gone += self.shipped[order]
        return "done"

    def change(self, change: int, key: str) -> str:
        if self.is_deleted:
            return "ProductNotFound"
        if key in self.counted:
            return "before" if self.counted[key] == change else "IdempotencyKeyReused"
        if self.available + change < 0:
            return f"InsufficientQuantity {self.available}"
        self.received += change
        if key:
            self.counted[key] = change
        return "done"

    def delete(self) -> str:
        if self.is_deleted:
            return "ProductNotFound"
        self.is_deleted = True
        return "done"

    def forget(self, *, all_marks: bool) -> None:
        """Some time has passed: the refusals are forgotten, after a day the other marks too."""
        self.refused.clear()
        if all_marks:
            self.shipped.clear()
            self.released.clear()
            self.counted.clear()


@dataclass(frozen=True)
class Step:
    action: str
    product: int
    order: int
    units: int
    key: str


steps = st.builds(
    Step,
    st.sampled_from(
        ["reserve", "reserve", "reserve", "release", "ship", "change", "delete", "quarter", "day"]
    ),
    product=st.sampled_from([0, 0, 0, 1]),
    order=st.integers(0, 3),
    units=st.integers(1, 3),
    key=st.sampled_from(["", "", "a", "b"]),
)


def change_of(step: Step) -> int:
    """Return the units to book: those of some orders are booked out."""
    return step.units if step.order else -step.units


def play_plainly(plain: Plain, step: Step) -> str:
    match step.action:
        case "reserve":
            return plain.reserve(step.order, step.units)
        case "release":
            return plain.release(step.order)
        case "ship":
            return plain.ship(step.order)
        case "change":
            return plain.change(change_of(step), step.key)
    return plain.delete()


async def play(store: ProductStore, pk: str, order_pk: str, step: Step) -> str:
    """Play one step on a store; return its answer in the model's words."""
    try:
        match step.action:
            case "reserve":
                _, is_new = await store.reserve(pk, order_pk, step.units)
                return "taken" if is_new else "same"
            case "release":
                await store.release(pk, order_pk)
            case "ship":
                await store.ship(pk, order_pk)
            case "change":
                _, had_counted = await store.change_stock(pk, change_of(step), step.key or None)
                return "before" if had_counted else "done"
            case "delete":
                await store.delete(pk)
    except InsufficientQuantity as refusal:
        return f"{type(refusal).__name__} {refusal.available}"
    except ShopError as error:
        return type(error).__name__
    return "done"


@pytest.fixture
async def stores(clock: MovedClock, redis_server: RedisServer) -> AsyncIterator[list[ProductStore]]:
    async with connected(redis_server) as client:
        yield [MemoryProductStore(clock), RedisProductStore(client, "shop")]


@pytest.mark.anyio
@settings(
    max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.lists(steps, min_size=5, max_size=25))
async def test_whatever_happens_both_stores_answer_as_the_model_and_the_figures_add_up(
    stores: list[ProductStore], clock: MovedClock, redis_server: RedisServer, life: list[Step]
) -> None:
    redis_server.client.flushall()
    plains = [Plain(), Plain()]
    products = [Product(new_pk(), "Laptop", 1, ON_SHELF) for _ in plains]
    order_pks = [new_pk() for _ in range(4)]
    for store in stores:
        for product in products:
            await store.add(product)

    for step in life:
        if step.action in ("quarter", "day"):
            clock.move(REFUSED_SECONDS if step.action == "quarter" else DAY_SECONDS)
            for plain in plains:
                plain.forget(all_marks=step.action == "day")
            continue
        plain, pk = plains[step.product], products[step.product].pk
        told = [await play(store, pk, order_pks[step.order], step) for store in stores]

        assert told == [play_plainly(plain, step)] * 2
        held = sum(plain.held.values())
        stock = Stock(plain.received, plain.available, held, plain.gone)
        assert min(stock.available, stock.reserved, stock.shipped) >= 0
        live = {order_pks[order]: quantity for order, quantity in plain.held.items()}
        for store in stores:
            assert await store.stock(pk) == stock
            page = await store.reservations_page(pk, None, 10)
            assert {each.order_id: each.quantity for each in page.items} == live
