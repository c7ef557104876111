"""Every crash point: a service dies, or is not heard, at each of its calls in turn.

Then orders are settled, and that may break at each of its calls too; in the end the books are
exact, and a command that is sent again is served.
"""

from collections.abc import Awaitable, Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from enum import StrEnum
from typing import NoReturn

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
from tests.small_shop import LEASE_SECONDS, SETTLE_SECONDS, Call, OrderService, SmallShop

pytestmark = pytest.mark.anyio

KEY = "a key"
UNITS = 2
"""What each order asks for of each product."""


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


ALL_FAULTS = [fault for fault in Fault if fault is not Fault.NONE]
PAIRED_FAULTS = (Fault.CRASH_AFTER, Fault.NOT_HEARD)
"""A crash before a call leaves what a crash after the one before it leaves."""
RETRY_FAULTS = (*PAIRED_FAULTS, Fault.NOT_DONE, Fault.TOO_LATE)


class Fate:
    """What befalls one run of a service: a fault at one of its calls, counted from 1."""

    def __init__(self, fault: Fault = Fault.NONE, at: int = 0) -> None:
        self.fault = fault
        self.at = at
        self.calls = 0
        self.is_dead = False
        self.hit = ""
        """The name of the call that was befallen."""
        self._late: Call | None = None

    def __str__(self) -> str:
        return f"{self.fault} at call {self.at} {self.hit}"

    async def watch(self, call: Call) -> object:
        """Make the call, or what becomes of it; once dead, a service does nothing any more."""
        if self.is_dead:
            raise Crash
        self.calls += 1
        if self.calls != self.at:
            return await call.make()
        self.hit = call.name
        match self.fault:
            case Fault.CRASH_BEFORE:
                self._die()
            case Fault.NOT_DONE:
                raise call.lost
            case Fault.LATE | Fault.TOO_LATE:
                self._late = call
                raise call.lost
        with suppress(ShopError):
            await call.make()
        match self.fault:
            case Fault.CRASH_AFTER:
                self._die()
            case Fault.NOT_HEARD:
                raise call.lost
        return await call.make()

    async def land(self, fault: Fault) -> None:
        """Have the call arrive that is so late."""
        if self._late and self.fault is fault:
            with suppress(ShopError):
                await self._late.make()

    def may_hold_the_key(self) -> bool:
        """Tell whether a retry may have to wait until the lease of the key is over."""
        return self.is_dead or self.hit in ("bind", "rebind", "forget", "end_lease")

    def _die(self) -> NoReturn:
        self.is_dead = True
        raise Crash


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
    before: tuple[str, ...] = ()

    def __str__(self) -> str:
        return self.name

    async def scene(self, shop: SmallShop) -> Scene:
        shop.clear()
        scene = Scene(shop, [await shop.add(stock) for stock in self.stocks])
        service = shop.service()
        for event in self.before:
            match event:
                case "placed":
                    scene.order = (await service.place(None, *scene.items())).pk
                case "shipped":
                    await service.ship(scene.order)
                case "cancelled":
                    await service.cancel(scene.order)
                case "deleted":
                    await a_deletion(scene)
                case "lost":
                    lost = Fate(Fault.NOT_HEARD, UNDER_THE_KEY.index("reserve the second") + 1)
                    with suppress(Unavailable):
                        await shop.service(lost.watch).place(KEY, *scene.items())
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


async def a_deletion(scene: Scene) -> None:
    await scene.shop.products.delete(scene.products[-1])


async def a_delivery(scene: Scene) -> None:
    await scene.shop.restock(scene.products[-1], 5)


async def a_sale_of_the_rest(scene: Scene) -> None:
    stock = await scene.shop.products.stock(scene.products[-1])
    await scene.shop.restock(scene.products[-1], -stock.available)


UNDER_THE_KEY = ("bind", "add_note", "reserve the first", "reserve the second")
TWO = (5, 5)
SECOND_TOO_FEW = (5, 1)
UNDER_A_KEY = [
    Case("placing under a key", placing(KEY)),
    Case("placing two under a key", placing(KEY), stocks=TWO),
    Case("too few, under a key", placing(KEY), InsufficientQuantity, stocks=(1,)),
    Case("too few of the second, under a key", placing(KEY), InsufficientQuantity,
         stocks=SECOND_TOO_FEW),
    Case("the second is deleted, under a key", placing(KEY), ProductNotFound, stocks=TWO,
         before=("deleted",)),
]  # fmt: skip
FEW = [
    Case("placing two again, under a key", placing(KEY), stocks=TWO, before=("lost",)),
    Case("too few of the second", placing(None), InsufficientQuantity, is_repeatable=False,
         stocks=SECOND_TOO_FEW),
    Case("cancelling two", cancelling, stocks=TWO, before=("placed",)),
]  # fmt: skip
CASES = [
    *UNDER_A_KEY,
    *FEW,
    Case("placing two", placing(None), is_repeatable=False, stocks=TWO),
    Case("no such product", placing_nothing(KEY), ProductNotFound),
    Case("cancelling", cancelling, before=("placed",)),
    Case("shipping two", shipping, stocks=TWO, before=("placed",)),
    Case("cancelling, a product is deleted", cancelling, before=("placed", "deleted")),
    Case("shipping, a product is deleted", shipping, before=("placed", "deleted")),
    Case("cancelling what is shipped", cancelling, OrderIsShipped, before=("placed", "shipped")),
    Case("shipping what is cancelled", shipping, OrderIsCancelled, before=("placed", "cancelled")),
]  # fmt: skip
Event = Callable[[Scene], Awaitable[None]]


async def tell(
    case: Case,
    shop: SmallShop,
    first: Fate,
    *,
    retry: Fate | None = None,
    settling: Fate | None = None,
    event: Event | None = None,
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
            assert any(each.may_hold_the_key() for each in earlier), "a retry waits for nothing"
            shop.let_pass(LEASE_SECONDS)
            error = await send(fate)
            assert not isinstance(error, RequestInProgress)
        return error

    async def settle(fate: Fate) -> None:
        shop.let_pass(SETTLE_SECONDS + 1)
        with suppress(Crash, Unavailable):
            await shop.service(fate.watch).settle()

    async def refusal_now() -> type[ShopError] | None:
        if await shop.listed():
            return None
        for product in scene.products:
            try:
                if (await shop.products.get(product)).quantity < UNITS:
                    return InsufficientQuantity
            except ProductNotFound:
                return ProductNotFound
        return None

    async def must_be_exact() -> None:
        await shop.must_be_exact(*answered)
        assert len(await shop.listed()) <= 1, "one command, two orders"
        assert len({order.pk for order in answered}) <= 1, "one command, two answers"

    befallen = [fate for fate in (first, retry) if fate]
    try:
        await send(first)
        if event:
            await event(scene)
        if retry:
            await send_again(retry, first)
            await first.land(Fault.LATE)
        await settle(settling or Fate())
        for fate in befallen:
            await fate.land(Fault.TOO_LATE)
        await settle(Fate())
        await must_be_exact()
        if case.is_repeatable:
            refusal = await refusal_now() if event else case.refusal
            assert type(await send_again(Fate(), *befallen)) is (refusal or type(None))
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


in_memory = pytest.mark.parametrize("storage", ["memory"])


@pytest.mark.parametrize("case", CASES, ids=str)
async def test_a_fault_at_any_call_leaves_the_books_exact(shop: SmallShop, case: Case) -> None:
    for is_sent_again in {False, case.is_repeatable}:
        for first in fates(await calls_of(case, shop), *ALL_FAULTS):
            if is_sent_again or first.fault is not Fault.LATE:
                await tell(case, shop, first, retry=Fate() if is_sent_again else None)


@pytest.mark.parametrize(
    ("storage", "case"),
    [*(("memory", case) for case in CASES), *(("redis", case) for case in FEW)],
    ids=str,
)
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


@in_memory
@pytest.mark.parametrize("case", UNDER_A_KEY[:4], ids=str)
@pytest.mark.parametrize("event", [a_deletion, a_delivery, a_sale_of_the_rest])
async def test_a_retry_after_a_fault_is_right_in_a_shop_that_has_changed(
    shop: SmallShop, case: Case, event: Event
) -> None:
    for retry in (None, Fate()):
        for first in fates(await calls_of(case, shop), *ALL_FAULTS):
            await tell(case, shop, first, retry=retry and Fate(), event=event)
