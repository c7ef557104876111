"""Random lives of a whole shop on both storages at once, beside a model too plain to be wrong."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
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
from shopsphere.domain.values import EVER_PLACED, Item, Stock
from shopsphere.ordering.orders import SHOP
from shopsphere.records import Listing
from tests.servers import RedisServer
from tests.small_shop import (
    LEASE_SECONDS,
    SETTLE_SECONDS,
    Call,
    SmallShop,
    Watch,
    nobody,
    small_shop,
)

Wanted = dict[int, int]
"""How many units of which products; products are numbered, and stock is taken in that order."""
Books = tuple[list[object], list[object], list[Stock]]
"""All orders, the products on sale, and the stock of all that ever were."""


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
    """An order, with the names and prices that its products had when it was placed.

    `told` is what the product service knows of it.
    """

    items: dict[int, tuple[str, int, int]]
    status: str = "PLACED"
    told: str = "PLACED"


@dataclass
class PlainKey:
    """What a key came with, and the number of its order."""

    request: Wanted
    order: int
    kept_until: float


@dataclass
class PlainShop:
    """The shop as a shopkeeper would write it down.

    A command returns the number of its order, or what it is refused with.
    """

    products: list[PlainProduct] = field(default_factory=list)
    orders: list[PlainOrder] = field(default_factory=list)
    keys: dict[str, PlainKey] = field(default_factory=dict)
    now: float = 0

    def stock(self, product: int) -> Stock:
        received = self.products[product].received
        reserved, shipped = (
            sum(order.items[product][1] for order in self.orders
                if product in order.items and order.told == told)
            for told in ("PLACED", "SHIPPED")
        )  # fmt: skip
        return Stock(received, received - reserved - shipped, reserved, shipped)

    def books(self) -> Books:
        numbered = list(enumerate(self.products))
        return (
            [(number, order.status, [*order.items.items()])
             for number, order in enumerate(self.orders)],
            [(number, one.name, one.price_cents, self.stock(number).available)
             for number, one in numbered if not one.is_deleted],
            [self.stock(number) for number, _ in numbered],
        )  # fmt: skip

    def change_stock(self, product: int, change: int, key: str | None) -> object:
        plain = self.products[product]
        counted, kept_until = plain.counted.get(key or "", (0, 0))
        if plain.is_deleted:
            return "product_not_found"
        if kept_until > self.now:
            is_same = counted == change
            return (self.stock(product).available, True) if is_same else "idempotency_key_reused"
        if self.stock(product).available + change < 0:
            return f"insufficient_quantity {self.stock(product).available}"
        plain.received += change
        if key:
            plain.counted[key] = change, self.now + DAY
        return self.stock(product).available, False

    def place(self, wanted: Wanted, key: str | None = None) -> int | str:
        known = self.keys.get(key or "")
        if known and self.now < known.kept_until:
            return known.order if known.request == wanted else "idempotency_key_reused"
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

    def refusal(self, product: int, quantity: int) -> str:
        if self.products[product].is_deleted:
            return "product_not_found"
        available = self.stock(product).available
        return f"insufficient_quantity {available}" if available < quantity else ""

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
        for order in self.orders:
            order.told = order.status


class NumberedShop:
    """A shop whose products and orders are numbered."""

    def __init__(self, shop: SmallShop) -> None:
        self.shop = shop
        self.products: list[str] = []
        self.orders: list[str] = []

    async def add(self, name: str, price_cents: int, quantity: int) -> None:
        self.products.append((await self.shop.products.create(name, price_cents, quantity)).pk)

    async def change_stock(self, product: int, change: int, key: str | None) -> object:
        pk = self.products[product]
        changed, was_counted = await self.shop.products.change_stock(pk, change, key)
        return changed.quantity, was_counted

    async def update(self, product: int, name: str, price_cents: int) -> None:
        await self.shop.products.update(self.products[product], name, price_cents)

    async def delete(self, product: int) -> None:
        await self.shop.products.delete(self.products[product])

    async def place(self, wanted: Wanted, key: str | None, watch: Watch = nobody) -> int:
        items = [Item(self.products[number], wanted[number]) for number in wanted]
        return self.number_of((await self.shop.service(watch).place(key, *items)).pk)

    async def end(self, order: int, status: str, watch: Watch = nobody) -> int:
        service = self.shop.service(watch)
        end = service.cancel if status == "CANCELLED" else service.ship
        return self.number_of((await end(self.orders[order])).pk)

    async def books(self) -> Books:
        return (
            [(self.orders.index(order.pk), order.status,
              [(self.products.index(item.product_pk),
                (item.product_name, item.quantity, item.unit_price_cents)) for item in order.items])
             for order in await self.shop.listed()],
            [(self.products.index(product.pk), product.name, product.price_cents, product.quantity)
             for product in (await self.shop.products.page(None, 1000)).items],
            [await self.shop.products.stock(pk) for pk in self.products],
        )  # fmt: skip

    def number_of(self, order_pk: str) -> int:
        if order_pk not in self.orders:
            self.orders.append(order_pk)
        return self.orders.index(order_pk)


async def away(call: Call) -> object:
    """Have the product service hear nothing."""
    if call.lost is not ProductServiceUnavailable:
        return await call.make()
    raise call.lost


MOST_PRODUCTS = 6
quantities = st.integers(1, 4)
keys = st.none() | st.sampled_from(["a", "b"])
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
        self.resources = AsyncExitStack()
        self.shops: list[NumberedShop] = []

    @initialize(target=products)
    def opening(self) -> int:
        for storage in ("memory", "redis"):
            opening = self.resources.enter_async_context(small_shop(storage, self.server))
            self.shops.append(NumberedShop(self.loop.run(opening)))
        return self._add("Laptop", 99_999, 20)

    def teardown(self) -> None:
        self.loop.run(self.resources.aclose())
        self.loop.close()

    def in_all(self, act: Callable[[NumberedShop], Awaitable[object]]) -> object:
        """Do the same in all shops; return the answer, which is the same."""

        async def answer(shop: NumberedShop) -> object:
            try:
                return await act(shop)
            except ShopError as refusal:
                available = getattr(refusal, "available", None)
                return refusal.code if available is None else f"{refusal.code} {available}"

        answers = [self.loop.run(answer(shop)) for shop in self.shops]
        assert answers == answers[:1] * len(answers)
        return answers[0]

    @precondition(lambda self: len(self.plain.products) < MOST_PRODUCTS)
    @rule(target=products, name=names, price_cents=prices, quantity=st.integers(0, 15))
    def add(self, name: str, price_cents: int, quantity: int) -> int:
        return self._add(name, price_cents, quantity)

    def _add(self, name: str, price_cents: int, quantity: int) -> int:
        assert self.in_all(lambda shop: shop.add(name, price_cents, quantity)) is None
        self.plain.products.append(PlainProduct(name, price_cents, quantity))
        return len(self.plain.products) - 1

    @rule(product=products, change=st.integers(-6, 6), key=keys)
    def change_stock(self, product: int, change: int, key: str | None) -> None:
        told = self.in_all(lambda shop: shop.change_stock(product, change, key))
        assert told == self.plain.change_stock(product, change, key)

    @rule(product=products, name=names, price_cents=prices)
    def update(self, product: int, name: str, price_cents: int) -> None:
        plain = self.plain.products[product]
        told = self.in_all(lambda shop: shop.update(product, name, price_cents))
        assert told == ("product_not_found" if plain.is_deleted else None)
        plain.name, plain.price_cents = name, price_cents

    @precondition(lambda self: sum(not one.is_deleted for one in self.plain.products) > 2)
    @rule(product=products)
    def delete(self, product: int) -> None:
        plain = self.plain.products[product]
        told = self.in_all(lambda shop: shop.delete(product))
        assert told == ("product_not_found" if plain.is_deleted else None)
        plain.is_deleted = True

    @rule(target=placed, data=st.data(), key=keys)
    def place(self, data: st.DataObject, key: str | None) -> MultipleResults[int]:
        wanted = self._wanted(data, key)
        answer = self.in_all(lambda shop: shop.place(wanted, key))
        assert answer == self.plain.place(wanted, key)
        return multiple(answer) if isinstance(answer, int) else multiple()

    def _wanted(self, data: st.DataObject, key: str | None) -> Wanted:
        """Return what is ordered: often the same again, where a key is."""
        if key in self.plain.keys and data.draw(st.booleans()):
            return self.plain.keys[key].request
        products = st.integers(0, len(self.plain.products) - 1)
        return data.draw(st.dictionaries(products, quantities, min_size=1, max_size=4))

    @rule(order=placed, status=st.sampled_from(["CANCELLED", "SHIPPED"]), is_told=st.booleans())
    def end(self, order: int, status: str, is_told: bool) -> None:
        told = self.in_all(lambda shop: shop.end(order, status, nobody if is_told else away))
        assert told == self.plain.end(order, status, is_told=is_told)

    @rule(seconds=st.sampled_from([1, LEASE_SECONDS, 3600, DAY]))
    def let_pass(self, seconds: float) -> None:
        for shop in self.shops:
            shop.shop.let_pass(seconds)
        self.plain.now += seconds

    @rule()
    def settle(self) -> None:
        self.let_pass(SETTLE_SECONDS + 1)
        for shop in self.shops:
            self.loop.run(shop.shop.service().settle())
        self.plain.settle()

    @rule()
    def settle_what_is_too_young(self) -> None:
        for shop in self.shops:
            self.loop.run(shop.shop.service(settle_after=1e9).settle())

    @invariant()
    def both_are_as_the_model_says(self) -> None:
        for shop in self.shops:
            self.loop.run(self._compare(shop))

    async def _compare(self, shop: NumberedShop) -> None:
        assert await shop.books() == self.plain.books()
        for status in EVER_PLACED:
            entries = await shop.shop.records.entries(Listing(SHOP, status), 0, 1000)
            expected = {pk for pk, plain in zip(shop.orders, self.plain.orders, strict=True)
                        if plain.status == status}  # fmt: skip
            assert {entry.member for entry in entries} == expected
        for metric in ("orders_inconsistent", "orders_settling_errors"):
            assert shop.shop.counted(metric) == 0


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
