"""Random lives of two products, on both storages at once, beside a model too plain to be wrong."""

from collections.abc import AsyncIterator
from dataclasses import dataclass, field

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from in_memory_db import MemoryRecords
from redis_db import RedisRecords
from shopsphere.catalogue.products import Products
from shopsphere.domain.errors import InsufficientQuantity, ShopError
from shopsphere.domain.pks import new_pk
from shopsphere.domain.records import DAY, TEN_MINUTES
from shopsphere.domain.values import Stock
from tests.lossy_wire import connected
from tests.moved_clock import MovedClock
from tests.servers import RedisServer

ON_SHELF = 4
"""Units of each product at first: few, so that they run out."""


@dataclass
class Plain:
    """One product as a shopkeeper would write it down; what came of it is words."""

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
        if order in self.refused:
            return f"ReservationRefused {self.refused[order]}"
        if order in self.released:
            return "ReservationReleased"
        if known := self.held.get(order) or self.shipped.get(order):
            return "same" if known == quantity else "ReservationConflict"
        if self.is_deleted:
            return "ProductNotFound"
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

    def forget(self, *, keys: bool) -> None:
        """Ten minutes have passed: what is over is forgotten; after a day the keys are too."""
        self.refused.clear()
        self.shipped.clear()
        self.released.clear()
        if keys:
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
        ["reserve", "reserve", "reserve", "release", "ship", "change", "delete", "minutes", "day"]
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


async def play(products: Products, pk: str, order_pk: str, step: Step) -> str:
    """Play one step; return what came of it in the model's words."""
    try:
        match step.action:
            case "reserve":
                _, is_new = await products.reserve(pk, order_pk, step.units)
                return "taken" if is_new else "same"
            case "release":
                await products.release(pk, order_pk)
            case "ship":
                await products.ship(pk, order_pk)
            case "change":
                _, had_counted = await products.change_stock(pk, change_of(step), step.key or None)
                return "before" if had_counted else "done"
            case "delete":
                await products.delete(pk)
    except InsufficientQuantity as refusal:
        return f"{type(refusal).__name__} {refusal.available}"
    except ShopError as error:
        return type(error).__name__
    return "done"


@pytest.fixture
async def shops(clock: MovedClock, redis_server: RedisServer) -> AsyncIterator[list[Products]]:
    async with connected(redis_server) as client:
        yield [Products(MemoryRecords(clock)), Products(RedisRecords(client, "shop"))]


@pytest.mark.anyio
@settings(
    max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.lists(steps, min_size=5, max_size=25))
async def test_whatever_happens_both_storages_do_as_the_model_and_the_stock_adds_up(
    shops: list[Products], clock: MovedClock, life: list[Step]
) -> None:
    plains = [Plain(), Plain()]
    order_pks = [new_pk() for _ in range(4)]
    pks = [[(await shop.create("Laptop", 1, ON_SHELF)).pk for _ in plains] for shop in shops]

    for step in life:
        if step.action in ("minutes", "day"):
            clock.move(TEN_MINUTES if step.action == "minutes" else DAY)
            for plain in plains:
                plain.forget(keys=step.action == "day")
            continue
        plain = plains[step.product]
        beside = [(shop, own[step.product]) for shop, own in zip(shops, pks, strict=True)]
        told = [await play(shop, pk, order_pks[step.order], step) for shop, pk in beside]

        assert told == [play_plainly(plain, step)] * 2
        held = sum(plain.held.values())
        stock = Stock(plain.received, plain.available, held, plain.gone)
        assert min(stock.available, stock.reserved, stock.shipped) >= 0
        live = {order_pks[order]: quantity for order, quantity in plain.held.items()}
        for shop, pk in beside:
            assert await shop.stock(pk) == stock
            page = await shop.reservations_page(pk, None, 10)
            assert {each.order_pk: each.quantity for each in page.items} == live
