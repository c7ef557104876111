"""Every crash point: a service dies, or is not heard, at each of its calls in turn.

Then orders are settled, and that may break at each of its calls too; in the end the books are
exact, and a command that is sent again is served.
"""

from collections.abc import Awaitable, Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace

import pytest

from shopsphere.domain import errors
from shopsphere.domain.errors import ShopError
from shopsphere.domain.values import Order
from tests.small_shop import KEY, LATER, Crash, Fate, Fault, OrderService, SmallShop, of

pytestmark = pytest.mark.anyio

ALL_FAULTS = [fault for fault in Fault if fault is not Fault.NONE]
PAIRED_FAULTS = (Fault.CRASH_AFTER, Fault.NOT_HEARD)
"""A crash before a call leaves what a crash after the one before it leaves."""
RETRY_FAULTS = (*PAIRED_FAULTS, Fault.NOT_DONE, Fault.TOO_LATE)

Act = Callable[[SmallShop, OrderService], Awaitable[object]]


def place(shop: SmallShop, service: OrderService) -> Awaitable[Order]:
    return service.place(KEY, *of(*shop.received))


def cancel(shop: SmallShop, service: OrderService) -> Awaitable[Order]:
    return service.cancel(min(shop.ordered))


def ship(shop: SmallShop, service: OrderService) -> Awaitable[Order]:
    return service.ship(min(shop.ordered))


async def lose(shop: SmallShop, _: OrderService) -> None:
    """Place an order of which the second reservation is not heard."""
    with suppress(errors.Unavailable):
        await place(shop, shop.service(Fate(Fault.NOT_HEARD, 4).watch))


async def place_as_seen(shop: SmallShop, service: OrderService) -> Order:
    """Place an order at the prices that products have at first."""
    items = [replace(item, unit_price_cents=999) for item in of(*shop.received)]
    return await service.place(KEY, *items)


async def raise_price(shop: SmallShop, _: OrderService) -> None:
    await shop.products.update(list(shop.received)[-1], None, 1099)


async def delete(shop: SmallShop, _: OrderService) -> None:
    await shop.products.delete(list(shop.received)[-1])


@dataclass(frozen=True)
class Case:
    """A command; what happened before; how it is refused when nothing breaks, if it is."""

    name: str
    act: Callable[[SmallShop, OrderService], Awaitable[Order]]
    before: tuple[Act, ...] = ()
    refusal: type[ShopError] | None = None
    second_stock: int = 5

    def __str__(self) -> str:
        return self.name


UNDER_A_KEY = [
    Case("placing two", place),
    Case("the second is deleted", place, (delete,), errors.ProductNotFound),
    Case("the second costs more", place_as_seen, (raise_price,), errors.PriceChanged),
    Case("too few of the second", place, (), errors.InsufficientQuantity, second_stock=1),
]
CASES = [
    *UNDER_A_KEY,
    Case("placing two again", place, (lose,)),
    Case("cancelling two", cancel, (place,)),
    Case("shipping two, of which one is deleted", ship, (place, delete)),
    Case("cancelling what is shipped", cancel, (place, ship), errors.OrderIsShipped),
    Case("shipping what is cancelled", ship, (place, cancel), errors.OrderIsCancelled),
]
STORED = [*(("memory", case) for case in CASES), *(("redis", case) for case in CASES[3:5])]
in_memory = pytest.mark.parametrize("storage", ["memory"])


async def tell(
    case: Case,
    shop: SmallShop,
    first: Fate,
    retry: Fate | None = None,
    settling: Fate | None = None,
) -> None:
    """Send a command that meets its fate, perhaps again; settle; look. Each may meet its own fate.

    When all is settled the books are exact, and a command that is sent again has its one outcome.
    """
    answered: list[Order] = []
    befallen = [fate for fate in (first, retry) if fate]

    async def send(fate: Fate) -> ShopError | None:
        try:
            answered.append(await case.act(shop, shop.service(fate.watch)))
        except Crash:
            return None
        except ShopError as refusal:
            return refusal
        assert answered[-1] in await shop.listed(), "answered before it was listed"
        return None

    async def send_again(fate: Fate) -> ShopError | None:
        error = await send(fate)
        if isinstance(error, errors.RequestInProgress):
            may_hold = [
                one.is_dead or one.hit in ("bind", "forget", "end_lease") for one in befallen
            ]
            assert any(may_hold), "a retry waits for nothing"
            shop.let_pass(LATER)
            error = await send(fate)
            assert not isinstance(error, errors.RequestInProgress)
        return error

    async def settle(fate: Fate) -> None:
        shop.let_pass(LATER)
        with suppress(Crash, errors.Unavailable):
            await shop.service(fate.watch).settle()

    async def must_be_exact() -> None:
        await shop.must_be_exact(*answered)
        assert len(await shop.listed()) <= 1, "one command, two orders"
        assert len({order.pk for order in answered}) <= 1, "one command, two answers"

    shop.clear()
    for stock in (5, case.second_stock):
        await shop.add(stock)
    for event in case.before:
        await event(shop, shop.service())
    try:
        await send(first)
        if retry:
            await send_again(retry)
            await first.land(Fault.LATE)
        await settle(settling or Fate())
        for fate in befallen:
            await fate.land(Fault.TOO_LATE)
        await settle(Fate())
        await must_be_exact()
        error = await send_again(Fate())
        assert type(error) is (case.refusal or type(None))
        await must_be_exact()
    except BaseException as error:
        error.add_note(f"{case}: {first}; retry: {retry}; settling: {settling}")
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
    for first in fates(await calls_of(case, shop), *ALL_FAULTS):
        await tell(case, shop, first, retry=Fate())
        if first.fault is not Fault.LATE:
            await tell(case, shop, Fate(first.fault, first.at))


@in_memory
@pytest.mark.parametrize("case", CASES, ids=str)
async def test_a_second_fault_at_any_call_of_the_settling_or_of_a_retry_does_not_either(
    shop: SmallShop, case: Case
) -> None:
    is_retried = case in UNDER_A_KEY
    second_faults = {"settling": PAIRED_FAULTS, **({"retry": RETRY_FAULTS} if is_retried else {})}
    for first in fates(await calls_of(case, shop), *PAIRED_FAULTS):
        for step, faults in second_faults.items():
            whole = Fate()
            await tell(case, shop, Fate(first.fault, first.at), **{step: whole})
            for second in fates(whole.calls, *faults):
                await tell(case, shop, Fate(first.fault, first.at), **{step: second})
