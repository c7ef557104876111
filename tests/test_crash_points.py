"""Every crash point: a service dies, or is not heard, at each of its calls in turn.

Then orders are settled, and that may break at each of its calls too; in the end the books are
exact, and a command that is sent again is served.
"""

from collections.abc import Awaitable, Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass

import pytest

from shopsphere.domain.errors import (
    InsufficientQuantity,
    OrderIsCancelled,
    OrderIsShipped,
    ProductNotFound,
    RequestInProgress,
    ShopError,
    Unavailable,
)
from shopsphere.domain.pks import new_pk
from shopsphere.domain.values import Item, Order
from tests.small_shop import (
    KEY,
    LEASE_SECONDS,
    SETTLE_SECONDS,
    Crash,
    Fate,
    Fault,
    OrderService,
    SmallShop,
)

pytestmark = pytest.mark.anyio

UNITS = 2
"""What each order asks for of each product."""
ALL_FAULTS = [fault for fault in Fault if fault is not Fault.NONE]
PAIRED_FAULTS = (Fault.CRASH_AFTER, Fault.NOT_HEARD)
"""A crash before a call leaves what a crash after the one before it leaves."""
RETRY_FAULTS = (*PAIRED_FAULTS, Fault.NOT_DONE, Fault.TOO_LATE)


@dataclass
class Scene:
    """A shop with some products, and one order in it or none."""

    shop: SmallShop
    products: list[str]
    order: str = ""

    def items(self) -> list[Item]:
        """Return what an order asks for, with the product last that stock is taken of first."""
        return [Item(product, UNITS) for product in reversed(self.products)]


Act = Callable[[OrderService, Scene], Awaitable[Order]]


@dataclass(frozen=True)
class Case:
    """A command; how the shop is before; how it is refused when nothing breaks, if it is.

    `is_repeatable`: sent again, it is the same command.
    """

    name: str
    act: Act
    refusal: type[ShopError] | None = None
    is_repeatable: bool = True
    stocks: tuple[int, ...] = (5,)
    before: tuple[Callable[[Scene], Awaitable[None]], ...] = ()

    def __str__(self) -> str:
        return self.name

    async def scene(self, shop: SmallShop) -> Scene:
        shop.clear()
        scene = Scene(shop, [await shop.add(stock) for stock in self.stocks])
        for event in self.before:
            await event(scene)
        return scene


def placing(key: str | None) -> Act:
    return lambda service, scene: service.place(key, *scene.items())


def placing_nothing(key: str | None) -> Act:
    no_such_product = Item(new_pk(), UNITS)
    return lambda service, scene: service.place(key, no_such_product, *scene.items())


def cancelling(service: OrderService, scene: Scene) -> Awaitable[Order]:
    return service.cancel(scene.order)


def shipping(service: OrderService, scene: Scene) -> Awaitable[Order]:
    return service.ship(scene.order)


async def placed(scene: Scene) -> None:
    scene.order = (await scene.shop.service().place(None, *scene.items())).pk


async def shipped(scene: Scene) -> None:
    await shipping(scene.shop.service(), scene)


async def cancelled(scene: Scene) -> None:
    await cancelling(scene.shop.service(), scene)


async def lost(scene: Scene) -> None:
    """Place an order under the key, of which the second reservation is not heard."""
    with suppress(Unavailable):
        await scene.shop.service(Fate(Fault.NOT_HEARD, 4).watch).place(KEY, *scene.items())


async def deleted(scene: Scene) -> None:
    await scene.shop.products.delete(scene.products[-1])


TWO = (5, 5)
SECOND_TOO_FEW = (5, 1)
UNDER_A_KEY = [
    Case("placing two under a key", placing(KEY), stocks=TWO),
    Case("too few, under a key", placing(KEY), InsufficientQuantity, stocks=(1,)),
    Case("too few of the second, under a key", placing(KEY), InsufficientQuantity,
         stocks=SECOND_TOO_FEW),
    Case("the second is deleted, under a key", placing(KEY), ProductNotFound, stocks=TWO,
         before=(deleted,)),
]  # fmt: skip
FEW = [
    Case("placing two again, under a key", placing(KEY), stocks=TWO, before=(lost,)),
    Case("too few of the second", placing(None), InsufficientQuantity, is_repeatable=False,
         stocks=SECOND_TOO_FEW),
    Case("cancelling two", cancelling, stocks=TWO, before=(placed,)),
]  # fmt: skip
CASES = [
    *UNDER_A_KEY,
    *FEW,
    Case("placing two", placing(None), is_repeatable=False, stocks=TWO),
    Case("no such product", placing_nothing(KEY), ProductNotFound),
    Case("shipping two", shipping, stocks=TWO, before=(placed,)),
    Case("cancelling, a product is deleted", cancelling, before=(placed, deleted)),
    Case("shipping, a product is deleted", shipping, before=(placed, deleted)),
    Case("cancelling what is shipped", cancelling, OrderIsShipped, before=(placed, shipped)),
    Case("shipping what is cancelled", shipping, OrderIsCancelled, before=(placed, cancelled)),
]  # fmt: skip
STORED = [*(("memory", case) for case in CASES), *(("redis", case) for case in FEW)]
in_memory = pytest.mark.parametrize("storage", ["memory"])


def may_hold_the_key(fate: Fate) -> bool:
    """Tell whether a retry may have to wait until the lease of the key is over."""
    return fate.is_dead or fate.hit in ("bind", "forget", "end_lease")


async def tell(
    case: Case,
    shop: SmallShop,
    first: Fate,
    *,
    retry: Fate | None = None,
    settling: Fate | None = None,
) -> None:
    """Send a command that meets its fate, perhaps again; settle; look. Each may meet its own fate.

    When all is settled the books are exact, and a command that is sent again has its one outcome.
    """
    scene = await case.scene(shop)
    answered: list[Order] = []

    async def send(fate: Fate) -> ShopError | None:
        try:
            answered.append(await case.act(shop.service(fate.watch), scene))
        except Crash:
            return None
        except ShopError as refusal:
            return refusal
        return None

    async def send_again(fate: Fate, *earlier: Fate) -> ShopError | None:
        error = await send(fate)
        if isinstance(error, RequestInProgress):
            assert any(map(may_hold_the_key, earlier)), "a retry waits for nothing"
            shop.let_pass(LEASE_SECONDS)
            error = await send(fate)
            assert not isinstance(error, RequestInProgress)
        return error

    async def settle(fate: Fate) -> None:
        shop.let_pass(SETTLE_SECONDS + 1)
        with suppress(Crash, Unavailable):
            await shop.service(fate.watch).settle()

    async def must_be_exact() -> None:
        await shop.must_be_exact(*answered)
        assert len(await shop.listed()) <= 1, "one command, two orders"
        assert len({order.pk for order in answered}) <= 1, "one command, two answers"

    befallen = [fate for fate in (first, retry) if fate]
    try:
        await send(first)
        if retry:
            await send_again(retry, first)
            await first.land(Fault.LATE)
        await settle(settling or Fate())
        for fate in befallen:
            await fate.land(Fault.TOO_LATE)
        await settle(Fate())
        await must_be_exact()
        if case.is_repeatable:
            error = await send_again(Fate(), *befallen)
            assert type(error) is (case.refusal or type(None))
            await must_be_exact()
    except BaseException as error:
        error.add_note(f"{case.name}: {first}; retry: {retry}; settling: {settling}")
        raise


async def calls_of(case: Case, shop: SmallShop) -> int:
    """Return how many calls a command makes when nothing breaks."""
    whole = Fate()
    await tell(case, shop, whole)
    return whole.calls


def fates(calls: int, *faults: Fault) -> Iterator[Fate]:
    """Yield each of these faults at each of so many calls."""
    for at in range(1, calls + 1):
        for fault in faults:
            yield Fate(fault, at)


@pytest.mark.parametrize(("storage", "case"), STORED, ids=str)
async def test_a_fault_at_any_call_leaves_the_books_exact(shop: SmallShop, case: Case) -> None:
    for is_sent_again in {False, case.is_repeatable}:
        for first in fates(await calls_of(case, shop), *ALL_FAULTS):
            if is_sent_again or first.fault is not Fault.LATE:
                await tell(case, shop, first, retry=Fate() if is_sent_again else None)


@in_memory
@pytest.mark.parametrize("case", CASES, ids=str)
async def test_a_second_fault_at_any_call_of_the_settling_does_not_either(
    shop: SmallShop, case: Case
) -> None:
    for first in fates(await calls_of(case, shop), *PAIRED_FAULTS):
        whole = Fate()
        await tell(case, shop, first, settling=whole)
        for second in fates(whole.calls, *PAIRED_FAULTS):
            await tell(case, shop, Fate(first.fault, first.at), settling=second)


@in_memory
@pytest.mark.parametrize("case", UNDER_A_KEY, ids=str)
async def test_nor_a_second_fault_at_any_call_of_a_retry_under_the_key(
    shop: SmallShop, case: Case
) -> None:
    for first in fates(await calls_of(case, shop), *PAIRED_FAULTS):
        whole = Fate()
        await tell(case, shop, first, retry=whole)
        for second in fates(whole.calls, *RETRY_FAULTS):
            await tell(case, shop, Fate(first.fault, first.at), retry=second)
