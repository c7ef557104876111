"""Random lives of a whole shop on each storage: whatever happens in it, the books are exact."""

import asyncio
from collections.abc import Coroutine
from contextlib import AsyncExitStack
from typing import Any, ClassVar

from hypothesis import settings, stateful
from hypothesis import strategies as st

from shopsphere.domain.errors import ProductServiceUnavailable, ShopError
from shopsphere.domain.records import DAY
from shopsphere.domain.values import Item, Order
from tests.servers import RedisServer
from tests.small_shop import LEASE_SECONDS, Call, nobody, small_shop

MOST_PRODUCTS = 6


async def away(call: Call) -> object:
    """Have the product service hear nothing."""
    if call.lost is not ProductServiceUnavailable:
        return await call.make()
    raise call.lost


keys = st.none() | st.sampled_from(["a", "b"])
seen_prices = st.sampled_from([None, 999, 5])


class Lives(stateful.RuleBasedStateMachine):
    """A shop, what it received, and what its customers were told."""

    storage: ClassVar[str]
    server: ClassVar[RedisServer]
    products: stateful.Bundle[str] = stateful.Bundle("products")
    placed: stateful.Bundle[str] = stateful.Bundle("placed")

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.Runner()
        self.resources = AsyncExitStack()
        opening = self.resources.enter_async_context(small_shop(self.storage, self.server))
        self.shop = self.loop.run(opening)
        self.answered: list[Order] = []
        self.under_key: dict[str | None, str] = {}

    def teardown(self) -> None:
        try:
            self.settle()
        finally:
            self.loop.run(self.resources.aclose())
            self.loop.close()

    def told(self, command: Coroutine[Any, Any, Any]) -> Any:
        """Run a command; return its answer, or None if it is refused."""
        try:
            return self.loop.run(command)
        except ShopError:
            return None

    @stateful.initialize(target=products)
    def open(self) -> str:
        return self.loop.run(self.shop.add(20))

    @stateful.precondition(lambda self: len(self.shop.received) < MOST_PRODUCTS)
    @stateful.rule(target=products, quantity=st.integers(0, 15))
    def add(self, quantity: int) -> str:
        return self.loop.run(self.shop.add(quantity))

    @stateful.rule(pk=products, change=st.integers(-6, 6), key=keys)
    def change_stock(self, pk: str, change: int, key: str | None) -> None:
        told = self.told(self.shop.products.change_stock(pk, change, key))
        if told and not told[1]:
            self.shop.received[pk] += change

    @stateful.rule(pk=products, price_cents=st.sampled_from([999, 5]))
    def update(self, pk: str, price_cents: int) -> None:
        self.told(self.shop.products.update(pk, "Tea ☕", price_cents))

    @stateful.precondition(lambda self: len(self.shop.received) > 2)
    @stateful.rule(pk=products)
    def delete(self, pk: str) -> None:
        self.told(self.shop.products.delete(pk))

    @stateful.rule(
        target=placed,
        wanted=st.dictionaries(products, st.tuples(st.integers(1, 4), seen_prices), min_size=1),
        key=keys,
    )
    def place(
        self, wanted: dict[str, tuple[int, int | None]], key: str | None
    ) -> stateful.MultipleResults[str]:
        items = [Item(pk, *of_it) for pk, of_it in wanted.items()]
        order: Order | None = self.told(self.shop.service().place(key, *items))
        if order is None:
            return stateful.multiple()
        ordered = {item.product_pk: item.quantity for item in order.items}
        assert ordered == {pk: quantity for pk, (quantity, _) in wanted.items()}
        assert key is None or self.under_key.setdefault(key, order.pk) == order.pk
        self.answered.append(order)
        return stateful.multiple(order.pk)

    @stateful.rule(pk=placed, is_shipped=st.booleans(), is_heard=st.booleans())
    def end(self, pk: str, is_shipped: bool, is_heard: bool) -> None:
        service = self.shop.service(nobody if is_heard else away)
        self.told(service.ship(pk) if is_shipped else service.cancel(pk))

    @stateful.rule(seconds=st.sampled_from([1, LEASE_SECONDS, 3600, DAY]))
    def let_pass(self, seconds: float) -> None:
        self.shop.let_pass(seconds)
        if seconds == DAY:
            self.under_key.clear()

    @stateful.rule()
    def settle(self) -> None:
        self.loop.run(self.shop.settle())
        self.loop.run(self.shop.must_be_exact(*self.answered))


def test_a_shop_keeps_exact_books_whatever_happens(storage: str, redis_server: RedisServer) -> None:
    Lives.storage, Lives.server = storage, redis_server
    given = settings(Lives.TestCase.settings, max_examples=40, stateful_step_count=30)
    stateful.run_state_machine_as_test(Lives, settings=settings(given, derandomize=True))
