"""Random lives of a whole shop on each storage, beside a model too plain to be wrong."""

import asyncio
from collections.abc import Coroutine
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from typing import Any, ClassVar

from hypothesis import settings, stateful
from hypothesis import strategies as st

from shopsphere.domain.errors import ProductServiceUnavailable, ShopError
from shopsphere.domain.records import DAY
from shopsphere.domain.values import EVER_PLACED, Item, Order, Product, Reservation, Stock
from tests.servers import RedisServer
from tests.small_shop import LEASE_SECONDS, SETTLE_SECONDS, Call, nobody, small_shop

Wanted = dict[str, tuple[int, int | None]]
"""What is ordered: of each product how many, and the price that was seen, if any."""
"""How many units of which products; stock is taken in the order of their pks."""


@dataclass
class PlainProduct:
    name: str
    price_cents: int
    received: int
    is_deleted: bool = False
    counted: dict[str, tuple[int, float]] = field(default_factory=dict)
    """The stock change that came with a key, and until when that is remembered."""


@dataclass
class PlainOrder:
    """An order; `told` is what the product service knows of it."""

    items: list[Reservation]
    status: str = "PLACED"
    told: str = "PLACED"


class PlainShop:
    """The shop as a shopkeeper would write it down. A command returns what it is refused with."""

    def __init__(self) -> None:
        self.now = 0.0
        self.products: dict[str, PlainProduct] = {}
        self.orders: dict[str, PlainOrder] = {}
        self.keys: dict[str, tuple[Wanted, str, float]] = {}
        """What a key came with, its order, and until when that is remembered."""

    def stock(self, pk: str) -> Stock:
        received = self.products[pk].received
        reserved, shipped = (
            sum(item.quantity for order in self.orders.values() for item in order.items
                if item.product_pk == pk and order.told == told)
            for told in ("PLACED", "SHIPPED")
        )  # fmt: skip
        return Stock(received, received - reserved - shipped, reserved, shipped)

    def product(self, pk: str) -> Product:
        plain = self.products[pk]
        return Product(pk, plain.name, plain.price_cents, self.stock(pk).available)

    def on_sale(self) -> list[Product]:
        return [self.product(pk) for pk, plain in self.products.items() if not plain.is_deleted]

    def update(self, pk: str, name: str, price_cents: int) -> Product | str:
        plain = self.products[pk]
        plain.name, plain.price_cents = name, price_cents
        return "product_not_found" if plain.is_deleted else self.product(pk)

    def change_stock(self, pk: str, change: int, key: str | None) -> tuple[Product, bool] | str:
        """Return also whether the key had counted before."""
        plain, available = self.products[pk], self.stock(pk).available
        counted, kept_until = plain.counted.get(key or "", (0, 0))
        if plain.is_deleted:
            return "product_not_found"
        if kept_until > self.now:
            return (self.product(pk), True) if counted == change else "idempotency_key_reused"
        if available + change < 0:
            return f"insufficient_quantity {available}"
        plain.received += change
        if key:
            plain.counted[key] = change, self.now + DAY
        return self.product(pk), False

    def known_or_refused(self, wanted: Wanted, key: str | None) -> str:
        """Return the order that a key has, or a refusal, which frees the key; empty if neither."""
        request, order_pk, kept_until = self.keys.get(key or "", ({}, "", 0))
        if kept_until > self.now:
            return order_pk if request == wanted else "idempotency_key_reused"
        for pk, (quantity, seen) in sorted(wanted.items()):
            available, price_cents = self.stock(pk).available, self.products[pk].price_cents
            if self.products[pk].is_deleted:
                return "product_not_found"
            if seen not in (None, price_cents):
                return f"price_changed {price_cents / 100}"
            if available < quantity:
                return f"insufficient_quantity {available}"
        return ""

    def place(self, order_pk: str, wanted: Wanted, key: str | None) -> None:
        """Write an order down, with the names and prices that its products have now."""
        now = [(pk, quantity, self.products[pk]) for pk, (quantity, _) in wanted.items()]
        self.orders[order_pk] = PlainOrder(
            [Reservation(pk, order_pk, n, one.price_cents, one.name) for pk, n, one in now]
        )
        if key:
            self.keys[key] = wanted, order_pk, self.now + DAY

    def end(self, order_pk: str, status: str, *, is_told: bool) -> str:
        order = self.orders[order_pk]
        if order.status not in ("PLACED", status):
            return f"order_is_{order.status.lower()}"
        order.status = status
        if is_told:
            order.told = status
        return order_pk

    def settle(self) -> None:
        for order in self.orders.values():
            order.told = order.status


async def away(call: Call) -> object:
    """Have the product service hear nothing."""
    if call.lost is not ProductServiceUnavailable:
        return await call.make()
    raise call.lost


MOST_PRODUCTS = 6
FIGURES = ("available", "unit_price")
"""What a refusal says besides its code."""
quantities = st.integers(1, 4)
keys = st.none() | st.sampled_from(["a", "b"])
names = st.sampled_from(["Laptop", "Tea ☕", "ẞ", "x" * 200])
ends = st.sampled_from(["CANCELLED", "SHIPPED"])
prices = st.integers(0, 100_000_000)


class Lives(stateful.RuleBasedStateMachine):
    """A shop, and the model of it, to which the same happens."""

    storage: ClassVar[str]
    server: ClassVar[RedisServer]
    products: stateful.Bundle[str] = stateful.Bundle("products")
    placed: stateful.Bundle[str] = stateful.Bundle("placed")

    def __init__(self) -> None:
        super().__init__()
        self.plain = PlainShop()
        self.loop = asyncio.Runner()
        self.resources = AsyncExitStack()
        opening = self.resources.enter_async_context(small_shop(self.storage, self.server))
        self.shop = self.loop.run(opening)

    def teardown(self) -> None:
        self.loop.run(self.resources.aclose())
        self.loop.close()

    def told(self, command: Coroutine[Any, Any, Any]) -> Any:
        """Run a command; return its answer, the pk if it is an order, or its refusal."""
        try:
            answer = self.loop.run(command)
        except ShopError as refusal:
            told = [f" {refusal.extra[name]}" for name in FIGURES if name in refusal.extra]
            return "".join([refusal.code, *told])
        return answer.pk if isinstance(answer, Order) else answer

    @stateful.initialize(target=products)
    def open(self) -> str:
        return self._add("Laptop", 99_999, 20)

    @stateful.precondition(lambda self: len(self.plain.products) < MOST_PRODUCTS)
    @stateful.rule(target=products, name=names, price_cents=prices, quantity=st.integers(0, 15))
    def add(self, name: str, price_cents: int, quantity: int) -> str:
        return self._add(name, price_cents, quantity)

    def _add(self, name: str, price_cents: int, quantity: int) -> str:
        product, _ = self.loop.run(self.shop.products.create(name, price_cents, quantity))
        self.plain.products[product.pk] = PlainProduct(name, price_cents, quantity)
        return product.pk

    @stateful.rule(pk=products, change=st.integers(-6, 6), key=keys)
    def change_stock(self, pk: str, change: int, key: str | None) -> None:
        told = self.told(self.shop.products.change_stock(pk, change, key))
        assert told == self.plain.change_stock(pk, change, key)

    @stateful.rule(pk=products, name=names, price_cents=prices)
    def update(self, pk: str, name: str, price_cents: int) -> None:
        told = self.told(self.shop.products.update(pk, name, price_cents))
        assert told == self.plain.update(pk, name, price_cents)

    @stateful.precondition(lambda self: len(self.plain.on_sale()) > 2)
    @stateful.rule(pk=products)
    def delete(self, pk: str) -> None:
        plain = self.plain.products[pk]
        told = self.told(self.shop.products.delete(pk))
        assert told == ("product_not_found" if plain.is_deleted else None)
        plain.is_deleted = True

    @stateful.rule(target=placed, data=st.data(), key=keys)
    def place(self, data: st.DataObject, key: str | None) -> stateful.MultipleResults[str]:
        wanted = self._wanted(data, key)
        items = [Item(pk, *wanted[pk]) for pk in wanted]
        told = self.told(self.shop.service().place(key, *items))
        if expected := self.plain.known_or_refused(wanted, key):
            assert told == expected
            return stateful.multiple()
        self.plain.place(told, wanted, key)
        return stateful.multiple(told)

    def _wanted(self, data: st.DataObject, key: str | None) -> Wanted:
        """Return what is ordered: often the same again, where a key is."""
        if key in self.plain.keys and data.draw(st.booleans()):
            return self.plain.keys[key][0]
        pks = st.sampled_from([*self.plain.products])
        wanted = data.draw(st.dictionaries(pks, quantities, min_size=1, max_size=4))
        prices_now = {plain.price_cents for plain in self.plain.products.values()}
        seen = st.none() | st.sampled_from(sorted(prices_now))
        return {pk: (quantity, data.draw(seen)) for pk, quantity in wanted.items()}

    @stateful.rule(pk=placed, status=ends, is_told=st.booleans())
    def end(self, pk: str, status: str, is_told: bool) -> None:
        service = self.shop.service(nobody if is_told else away)
        told = self.told(service.cancel(pk) if status == "CANCELLED" else service.ship(pk))
        assert told == self.plain.end(pk, status, is_told=is_told)

    @stateful.rule(seconds=st.sampled_from([1, LEASE_SECONDS, 3600, DAY]))
    def let_pass(self, seconds: float) -> None:
        self.shop.let_pass(seconds)
        self.plain.now += seconds

    @stateful.rule()
    def settle(self) -> None:
        self.let_pass(SETTLE_SECONDS + 1)
        self.loop.run(self.shop.service().settle())
        self.plain.settle()

    @stateful.rule()
    def settle_what_is_too_young(self) -> None:
        self.loop.run(self.shop.service(settle_after=1e9).settle())

    @stateful.invariant()
    def the_books_are_as_the_model_says(self) -> None:
        self.loop.run(self._compare())

    async def _compare(self) -> None:
        products, orders = self.shop.products, self.plain.orders
        assert (await products.page(None, 1000)).items == self.plain.on_sale()
        for pk in self.plain.products:
            assert await products.stock(pk) == self.plain.stock(pk)
        listed = await self.shop.listed()
        assert [order.pk for order in listed] == [*orders]
        for order in listed:
            assert order.status == orders[order.pk].status
            assert [*order.items] == orders[order.pk].items
        for status in EVER_PLACED:
            expected = {pk for pk in orders if orders[pk].status == status}
            assert {order.pk for order in await self.shop.listed(status)} == expected
        for metric in ("orders_inconsistent", "orders_settling_errors"):
            assert self.shop.counted(metric) == 0


def test_a_shop_lives_as_its_model(storage: str, redis_server: RedisServer) -> None:
    Lives.storage, Lives.server = storage, redis_server
    given = settings(Lives.TestCase.settings, max_examples=40, stateful_step_count=30)
    stateful.run_state_machine_as_test(Lives, settings=settings(given, derandomize=True))
