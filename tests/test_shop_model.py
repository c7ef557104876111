"""Random lives of a whole shop, on both storages at once, beside a model too plain to be wrong."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass, field
from typing import ClassVar

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    MultipleResults,
    RuleBasedStateMachine,
    initialize,
    invariant,
    multiple,
    precondition,
    rule,
    run_state_machine_as_test,
)

from shopsphere.domain.errors import ProductServiceUnavailable, ShopError
from shopsphere.domain.records import DAY
from shopsphere.domain.values import EVER_PLACED, Item, Order, OrderItem, OrderStatus, Stock
from shopsphere.ordering.orders import SHOP
from shopsphere.records import Listing
from tests.servers import RedisServer
from tests.small_shop import LEASE_SECONDS, SETTLE_SECONDS, Call, SmallShop, nobody, small_shop

Wanted = dict[int, int]
"""How many units of which products; products are numbered, and stock is taken in that order."""


@dataclass
class PlainProduct:
    name: str
    price_cents: int
    received: int
    is_deleted: bool = False


@dataclass
class PlainOrder:
    """An order, with the names and prices that its products had when it was placed.

    `told` is what the product service knows of it.
    """

    items: dict[int, tuple[str, int, int]]
    status: str = "PLACED"
    told: str = "PLACED"


@dataclass
class PlainKey:
    """What a key came with; the number of its order, or what is held for one that was lost."""

    request: Wanted
    order: int | PlainOrder
    kept_until: float


@dataclass
class PlainShop:
    """The shop as a shopkeeper would write it down.

    A command returns the number of its order, or the code of its refusal.
    """

    products: list[PlainProduct] = field(default_factory=list)
    orders: list[PlainOrder] = field(default_factory=list)
    lost: list[PlainOrder] = field(default_factory=list)
    """Units are held for these, until they are settled, and nobody sees them."""
    keys: dict[str, PlainKey] = field(default_factory=dict)
    now: float = 0

    def stock(self, product: int) -> Stock:
        received, known = self.products[product].received, self.orders + self.lost
        reserved, shipped = (
            sum(
                order.items[product][1]
                for order in known
                if product in order.items and order.told == told
            )
            for told in ("PLACED", "SHIPPED")
        )
        return Stock(received, received - reserved - shipped, reserved, shipped)

    def change_stock(self, product: int, change: int) -> int | str:
        if self.products[product].is_deleted:
            return "product_not_found"
        if self.stock(product).available + change < 0:
            return "insufficient_quantity"
        self.products[product].received += change
        return self.stock(product).available

    def place(self, wanted: Wanted, key: str | None = None) -> int | str:
        earlier = self.earlier(wanted, key)
        if earlier is not None:
            return earlier
        for product, quantity in sorted(wanted.items()):
            refusal = self.refusal(product, quantity)
            if refusal:
                self.keys.pop(key or "", None)
                return refusal
        self.orders.append(self.order_of(wanted))
        number = len(self.orders) - 1
        if key:
            self.keys[key] = PlainKey(wanted, number, self.now + DAY)
        return number

    def lose(self, wanted: Wanted, key: str | None) -> int | str:
        """Place an order of which the product service hears, and nothing is heard of it."""
        earlier = self.earlier(wanted, key)
        if earlier is not None:
            return earlier
        was_lost = key in self.keys  # and not for longer than a key is kept
        if not was_lost:  # otherwise not even the release is heard
            product, quantity = min(wanted.items())
            held = {} if self.refusal(product, quantity) else {product: quantity}
            self.lost.append(self.order_of(held))
            if key:
                self.keys[key] = PlainKey(wanted, self.lost[-1], self.now + DAY)
        return ProductServiceUnavailable.code

    def earlier(self, wanted: Wanted, key: str | None) -> int | str | None:
        """Return what a key says; None where it says nothing, and what it held is released."""
        known = self.keys.get(key or "")
        if known is None or self.now >= known.kept_until:
            self.keys.pop(key or "", None)
            return None
        if known.request != wanted:
            return "idempotency_key_reused"
        if isinstance(known.order, int):
            return known.order
        known.order.items.clear()
        return None

    def refusal(self, product: int, quantity: int) -> str:
        if self.products[product].is_deleted:
            return "product_not_found"
        return "insufficient_quantity" if self.stock(product).available < quantity else ""

    def order_of(self, wanted: Wanted) -> PlainOrder:
        now = {product: self.products[product] for product in wanted}
        return PlainOrder(
            {pk: (each.name, wanted[pk], each.price_cents) for pk, each in now.items()}
        )

    def end(self, order: int, status: str, *, is_told: bool) -> int | str:
        ended = self.orders[order]
        if ended.status not in ("PLACED", status):
            return f"order_is_{ended.status.lower()}"
        ended.status = status
        if is_told:
            ended.told = status
        return order

    def settle(self) -> None:
        for lost in self.lost:
            lost.items.clear()
        self.lost.clear()
        for order in self.orders:
            order.told = order.status


async def not_heard(call: Call) -> object:
    """Have the product service do what it hears, and nobody hear it."""
    if call.lost is not ProductServiceUnavailable:
        return await call.make()
    with suppress(ShopError):
        await call.make()
    raise call.lost


async def away(call: Call) -> object:
    """Have the product service hear nothing."""
    if call.lost is not ProductServiceUnavailable:
        return await call.make()
    raise call.lost


MOST_PRODUCTS = 6
quantities = st.integers(1, 4)
keys = st.sampled_from(["a", "b"])
names = st.sampled_from(["Laptop", "Tea ☕", "ẞ", "x" * 200])
prices = st.integers(0, 100_000_000)


class Lives(RuleBasedStateMachine):
    """A shop on each storage, to which the same happens, and the model of it."""

    server: ClassVar[RedisServer]
    products: Bundle[int] = Bundle("products")
    placed: Bundle[int] = Bundle("placed")

    def __init__(self) -> None:
        super().__init__()
        self.plain = PlainShop()
        self.loop = asyncio.Runner()
        self.open = AsyncExitStack()
        self.shops: list[SmallShop] = []
        self.order_pks: list[list[str]] = [[], []]
        self.product_pks: dict[SmallShop, list[str]] = {}

    @initialize(target=products)
    def opening(self) -> int:
        self.loop.run(self._open())
        return self._add("Laptop", 99_999, 20)

    async def _open(self) -> None:
        for storage in ("memory", "redis"):
            opened = await self.open.enter_async_context(small_shop(storage, self.server))
            self.shops.append(opened)

    def teardown(self) -> None:
        self.loop.run(self.open.aclose())
        self.loop.close()

    def in_both(self, act: Callable[[SmallShop, list[str]], Awaitable[Order | int]]) -> int | str:
        """Do the same in both shops; return the answer, which is the same."""

        async def answer(shop: SmallShop, order_pks: list[str]) -> int | str:
            try:
                told = await act(shop, order_pks)
            except ShopError as refusal:
                return refusal.code
            if isinstance(told, int):
                return told
            if told.pk not in order_pks:
                order_pks.append(told.pk)
            return order_pks.index(told.pk)

        both = zip(self.shops, self.order_pks, strict=True)
        [in_memory, on_redis] = [self.loop.run(answer(shop, pks)) for shop, pks in both]
        assert in_memory == on_redis
        return in_memory

    @precondition(lambda self: len(self.plain.products) < MOST_PRODUCTS)
    @rule(target=products, name=names, price_cents=prices, quantity=st.integers(0, 15))
    def add(self, name: str, price_cents: int, quantity: int) -> int:
        return self._add(name, price_cents, quantity)

    def _add(self, name: str, price_cents: int, quantity: int) -> int:
        for shop in self.shops:
            product = self.loop.run(shop.products.create(name, price_cents, quantity))
            self.product_pks.setdefault(shop, []).append(product.pk)
        self.plain.products.append(PlainProduct(name, price_cents, quantity))
        return len(self.plain.products) - 1

    @rule(product=products, change=st.integers(-6, 6))
    def change_stock(self, product: int, change: int) -> None:
        async def act(shop: SmallShop, _: list[str]) -> int:
            pk = self.product_pks[shop][product]
            changed, _is_replay = await shop.products.change_stock(pk, change)
            return changed.quantity

        assert self.in_both(act) == self.plain.change_stock(product, change)

    @rule(product=products, name=names, price_cents=prices)
    def rename(self, product: int, name: str, price_cents: int) -> None:
        async def act(shop: SmallShop, _: list[str]) -> int:
            pk = self.product_pks[shop][product]
            return (await shop.products.update(pk, name, price_cents)).price_cents

        plain = self.plain.products[product]
        if plain.is_deleted:
            assert self.in_both(act) == "product_not_found"
        else:
            plain.name, plain.price_cents = name, price_cents
            assert self.in_both(act) == price_cents

    @precondition(lambda self: sum(not one.is_deleted for one in self.plain.products) > 2)
    @rule(product=products)
    def delete(self, product: int) -> None:
        async def act(shop: SmallShop, _: list[str]) -> int:
            await shop.products.delete(self.product_pks[shop][product])
            return product

        plain = self.plain.products[product]
        assert self.in_both(act) == ("product_not_found" if plain.is_deleted else product)
        plain.is_deleted = True

    @rule(target=placed, data=st.data(), key=st.none() | keys)
    def place(self, data: st.DataObject, key: str | None) -> MultipleResults[int]:
        return self._place(key, self._wanted(data))

    @precondition(lambda self: self.plain.keys)
    @rule(target=placed, data=st.data())
    def place_again(self, data: st.DataObject) -> MultipleResults[int]:
        key = data.draw(st.sampled_from(sorted(self.plain.keys)))
        return self._place(key, self.plain.keys[key].request)

    def _wanted(self, data: st.DataObject) -> Wanted:
        products = st.integers(0, len(self.plain.products) - 1)
        return data.draw(st.dictionaries(products, quantities, min_size=1, max_size=4))

    def _place(self, key: str | None, wanted: Wanted) -> MultipleResults[int]:
        answer = self.in_both(lambda shop, _: shop.service().place(key, *self._items(shop, wanted)))
        assert answer == self.plain.place(wanted, key)
        return multiple(answer) if isinstance(answer, int) else multiple()

    def _items(self, shop: SmallShop, wanted: Wanted) -> list[Item]:
        return [Item(self.product_pks[shop][number], wanted[number]) for number in wanted]

    @rule(data=st.data(), key=st.none() | keys)
    def lose(self, data: st.DataObject, key: str | None) -> None:
        self._lose(key, self._wanted(data))

    @precondition(lambda self: self.plain.keys)
    @rule(data=st.data())
    def lose_again(self, data: st.DataObject) -> None:
        key = data.draw(st.sampled_from(sorted(self.plain.keys)))
        self._lose(key, self.plain.keys[key].request)

    def _lose(self, key: str | None, wanted: Wanted) -> None:
        answer = self.in_both(
            lambda shop, _: shop.service(not_heard).place(key, *self._items(shop, wanted))
        )
        assert answer == self.plain.lose(wanted, key)

    @rule(order=placed, is_told=st.booleans())
    def cancel(self, order: int, is_told: bool) -> None:
        def act(shop: SmallShop, order_pks: list[str]) -> Awaitable[Order]:
            return shop.service(nobody if is_told else away).cancel(order_pks[order])

        assert self.in_both(act) == self.plain.end(order, "CANCELLED", is_told=is_told)

    @rule(order=placed, is_told=st.booleans())
    def ship(self, order: int, is_told: bool) -> None:
        def act(shop: SmallShop, order_pks: list[str]) -> Awaitable[Order]:
            return shop.service(nobody if is_told else away).ship(order_pks[order])

        assert self.in_both(act) == self.plain.end(order, "SHIPPED", is_told=is_told)

    @rule(seconds=st.sampled_from([1, LEASE_SECONDS, 3600, DAY]))
    def let_pass(self, seconds: float) -> None:
        for shop in self.shops:
            shop.let_pass(seconds)
        self.plain.now += seconds

    @rule()
    def settle(self) -> None:
        self.let_pass(SETTLE_SECONDS + 1)
        for shop in self.shops:
            self.loop.run(shop.service().settle())
        self.plain.settle()

    @rule()
    def settle_what_is_too_young(self) -> None:
        for shop in self.shops:
            self.loop.run(shop.service(settle_after=1e9).settle())

    @invariant()
    def both_are_as_the_model_says(self) -> None:
        for shop, order_pks in zip(self.shops, self.order_pks, strict=True):
            self.loop.run(self._compare(shop, order_pks))

    async def _compare(self, shop: SmallShop, order_pks: list[str]) -> None:
        pks = self.product_pks[shop]
        listed = await shop.listed()
        assert [(order.pk, order.items, order.status) for order in listed] == [
            (
                pk,
                tuple(
                    OrderItem(pks[number], quantity, price_cents, name)
                    for number, (name, quantity, price_cents) in order.items.items()
                ),
                OrderStatus(order.status),
            )
            for pk, order in zip(order_pks, self.plain.orders, strict=True)
        ]
        for status in EVER_PLACED:
            entries = await shop.records.entries(Listing(SHOP, status), 0, 1000)
            expected = {order.pk for order in listed if order.status is status}
            assert {entry.member for entry in entries} == expected
        plain = self.plain.products
        assert [
            (product.pk, product.name, product.price_cents, product.quantity)
            for product in (await shop.products.page(None, 1000)).items
        ] == [
            (pk, one.name, one.price_cents, self.plain.stock(number).available)
            for number, (pk, one) in enumerate(zip(pks, plain, strict=True))
            if not one.is_deleted
        ]
        for number, pk in enumerate(pks):
            assert await shop.products.stock(pk) == self.plain.stock(number)
        assert shop.counted("orders_inconsistent") == shop.counted("orders_settling_errors") == 0


def test_a_shop_lives_as_its_model_on_both_storages(redis_server: RedisServer) -> None:
    Lives.server = redis_server
    run_state_machine_as_test(
        Lives,
        settings=settings(
            max_examples=40,
            stateful_step_count=30,
            derandomize=True,
            database=None,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
