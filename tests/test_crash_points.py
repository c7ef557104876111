"""Every crash point: a service dies, or is not heard, at each of its calls in turn.

Then orders are settled, and that may break at each of its calls too; in the end the books are
exact, and who sends a command again is served.
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
    ShopError,
    Unavailable,
)
from shopsphere.domain.pks import new_pk
from shopsphere.domain.values import Order
from tests.small_shop import (
    LEASE_SECONDS,
    SETTLE_SECONDS,
    Call,
    OrderService,
    SmallShop,
)

pytestmark = pytest.mark.anyio

KEY = "a key"
UNITS = 2
"""What each order asks for."""


class Crash(BaseException):
    """The process dies. Nothing catches this."""


class Fault(StrEnum):
    """What can befall a call."""

    NONE = "nothing"
    CRASH_BEFORE = "a crash before it"
    CRASH_AFTER = "a crash after it"
    NOT_HEARD = "it is done, and the answer is lost"
    AWAY = "it is not done, and there is no answer"
    REPEATED = "it is done twice, as its first answer was lost"


ALL_FAULTS = [fault for fault in Fault if fault is not Fault.NONE]
PAIRED_FAULTS = (Fault.CRASH_AFTER, Fault.NOT_HEARD)
"""A crash before a call leaves what a crash after the one before it leaves."""


class Fate:
    """What befalls one run of a service: a fault at one of its calls, counted from 1."""

    def __init__(self, fault: Fault = Fault.NONE, at: int = 0) -> None:
        self.fault = fault
        self.at = at
        self.calls = 0
        self._is_dead = False

    def __str__(self) -> str:
        return f"{self.fault} at call {self.at}"

    async def watch(self, call: Call) -> object:
        """Make the call, or what becomes of it; once dead, a service does nothing any more."""
        if self._is_dead:
            raise Crash
        self.calls += 1
        if self.calls != self.at:
            return await call.make()
        match self.fault:
            case Fault.CRASH_BEFORE:
                self._die()
            case Fault.AWAY:
                raise call.lost
        with suppress(ShopError):
            await call.make()
        match self.fault:
            case Fault.CRASH_AFTER:
                self._die()
            case Fault.NOT_HEARD:
                raise call.lost
        return await call.make_again()

    def _die(self) -> NoReturn:
        self._is_dead = True
        raise Crash


@dataclass
class Scene:
    """A shop with one product, and one order in it or none."""

    shop: SmallShop
    product: str
    order: str = ""


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
    stock: int = 5
    before: tuple[str, ...] = ()

    def __str__(self) -> str:
        return self.name

    async def scene(self, shop: SmallShop) -> Scene:
        shop.clear()
        scene = Scene(shop, await shop.add(self.stock))
        service = shop.service()
        for event in self.before:
            match event:
                case "placed":
                    scene.order = (await service.place(None, scene.product, UNITS)).pk
                case "shipped":
                    await service.ship(scene.order)
                case "cancelled":
                    await service.cancel(scene.order)
                case "deleted":
                    await shop.products.delete(scene.product)
        return scene


def placing(key: str | None) -> Act:
    return lambda service, scene: service.place(key, scene.product, UNITS)


def placing_nothing(key: str | None) -> Act:
    no_such_product = new_pk()
    return lambda service, scene: service.place(key, no_such_product, UNITS)


def cancelling(service: OrderService, scene: Scene) -> Awaitable[Order]:
    return service.cancel(scene.order)


def shipping(service: OrderService, scene: Scene) -> Awaitable[Order]:
    return service.ship(scene.order)


PLACING_UNDER_A_KEY = Case("placing under a key", placing(KEY))
TOO_FEW_UNDER_A_KEY = Case("too few, under a key", placing(KEY), InsufficientQuantity, stock=1)
CASES = [
    Case("placing", placing(None), None, is_repeatable=False),
    Case("too few", placing(None), InsufficientQuantity, is_repeatable=False, stock=1),
    Case("no such product", placing_nothing(None), ProductNotFound, is_repeatable=False),
    Case("deleted", placing(None), ProductNotFound, is_repeatable=False, before=("deleted",)),
    PLACING_UNDER_A_KEY,
    TOO_FEW_UNDER_A_KEY,
    Case("no such product, under a key", placing_nothing(KEY), ProductNotFound),
    Case("deleted, under a key", placing(KEY), ProductNotFound, before=("deleted",)),
    Case("cancelling", cancelling, before=("placed",)),
    Case("shipping", shipping, before=("placed",)),
    Case("cancelling, the product is deleted", cancelling, before=("placed", "deleted")),
    Case("shipping, the product is deleted", shipping, before=("placed", "deleted")),
    Case("cancelling what is shipped", cancelling, OrderIsShipped, before=("placed", "shipped")),
    Case("shipping what is cancelled", shipping, OrderIsCancelled, before=("placed", "cancelled")),
]


async def a_deletion(scene: Scene) -> None:
    await scene.shop.products.delete(scene.product)


async def a_delivery(scene: Scene) -> None:
    await scene.shop.restock(scene.product, 5)


async def a_sale_of_the_rest(scene: Scene) -> None:
    stock = await scene.shop.products.stock(scene.product)
    await scene.shop.restock(scene.product, -stock.available)


Event = Callable[[Scene], Awaitable[None]]


async def tell(
    case: Case,
    shop: SmallShop,
    first: Fate,
    second: Fate,
    *,
    is_sent_again: bool = False,
    event: Event | None = None,
) -> None:
    """Send a command that meets its fate, perhaps again; settle, which meets its own; look.

    When all is settled the books are exact, and a command that is sent again has its one answer.
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

    async def settle(fate: Fate) -> None:
        shop.let_pass(SETTLE_SECONDS + 1)
        with suppress(Crash, Unavailable):
            await shop.service(fate.watch).settle()

    async def refusal_now() -> type[ShopError] | None:
        if await shop.listed():
            return None
        try:
            product = await shop.products.get(scene.product)
        except ProductNotFound:
            return ProductNotFound
        return InsufficientQuantity if product.quantity < UNITS else None

    async def must_be_exact() -> None:
        await shop.must_be_exact(*answered)
        assert len(await shop.listed()) <= 1, "one command, two orders"
        assert len({order.pk for order in answered}) <= 1, "one command, two answers"

    try:
        await send(first)
        if event:
            await event(scene)
        if is_sent_again:
            shop.let_pass(LEASE_SECONDS)
            await send(Fate())
        await settle(second)
        await settle(Fate())
        await must_be_exact()
        if case.is_repeatable:
            refusal = await refusal_now() if event else case.refusal
            answer = await send(Fate())
            if refusal is ProductNotFound and isinstance(answer, Unavailable):
                await settle(Fate())  # only a first attempt is refused by a product that is gone
                answer = await send(Fate())
            assert type(answer) is (refusal or type(None))
            await must_be_exact()
    except BaseException as error:
        again = "sent again, " if is_sent_again else ""
        error.add_note(f"{case.name}: {first}; {again}settling: {second}")
        raise


async def calls_of(case: Case, shop: SmallShop) -> int:
    """Return how many calls a command makes when nothing breaks."""
    whole = Fate()
    await tell(case, shop, whole, Fate())
    return whole.calls


def fates(calls: int, *faults: Fault) -> Iterator[Fate]:
    """Yield each of these faults at each of so many calls."""
    for at in range(1, calls + 1):
        for fault in faults:
            yield Fate(fault, at)


by_case = pytest.mark.parametrize("case", CASES, ids=str)


@by_case
async def test_a_fault_at_any_call_leaves_the_books_exact(shop: SmallShop, case: Case) -> None:
    for is_sent_again in {False, case.is_repeatable}:
        for first in fates(await calls_of(case, shop), *ALL_FAULTS):
            await tell(case, shop, first, Fate(), is_sent_again=is_sent_again)


@by_case
async def test_a_second_fault_at_any_call_of_the_settling_does_not_either(
    shop: SmallShop, case: Case
) -> None:
    for first in fates(await calls_of(case, shop), *PAIRED_FAULTS):
        whole = Fate()
        await tell(case, shop, first, whole)
        for second in fates(whole.calls, *PAIRED_FAULTS):
            await tell(case, shop, Fate(first.fault, first.at), second)


@pytest.mark.parametrize("case", [PLACING_UNDER_A_KEY, TOO_FEW_UNDER_A_KEY], ids=str)
@pytest.mark.parametrize("event", [a_deletion, a_delivery, a_sale_of_the_rest])
async def test_a_retry_after_a_fault_is_right_in_a_shop_that_has_changed(
    shop: SmallShop, case: Case, event: Event
) -> None:
    for is_sent_again in (False, True):
        for first in fates(await calls_of(case, shop), *ALL_FAULTS):
            await tell(case, shop, first, Fate(), is_sent_again=is_sent_again, event=event)
