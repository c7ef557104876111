"""Requests, settling and late messages that meet: every order of their calls, and the hard ones.

Whoever comes first, in the end the books are exact and nothing hangs.
"""

import time
from collections.abc import Awaitable

import pytest
from shopsphere.stores import DAY_SECONDS

from shopsphere.domain.errors import (
    InsufficientQuantity,
    OrderGivenUp,
    OrderIsCancelled,
    OrderIsShipped,
    ProductNotFound,
    ProductServiceUnavailable,
    RequestInProgress,
    StorageMismatch,
    Unavailable,
)
from shopsphere.domain.values import Order, OrderStatus
from tests.small_shop import LEASE_SECONDS, SETTLE_SECONDS, Call, SmallShop
from tests.stage import Stage, every_order

pytestmark = pytest.mark.anyio

KEY = "a key"
UNITS = 2


class HeldUp:
    """A wire on which the first call of a name is held up: its sender gives up; it lands later."""

    def __init__(self, name: str = "reserve") -> None:
        self._name = name
        self._held: Call | None = None

    async def watch(self, call: Call) -> object:
        if call.name == self._name and not self._held:
            self._held = call
            raise call.lost
        return await call.make()

    async def land(self) -> object:
        assert self._held, "nothing was held up"
        return await self._held.make()


class ProductServiceAway:
    """A wire on which the product service does not answer; what it hears on the way is done."""

    def __init__(self, *, is_heard: bool = False, says: type[Unavailable] | None = None) -> None:
        self._is_heard = is_heard
        self._says = says

    async def watch(self, call: Call) -> object:
        if call.lost is not ProductServiceUnavailable:
            return await call.make()
        if self._is_heard:
            await call.make()
        raise self._says or call.lost


async def all_is_well(stage: Stage) -> None:
    """Settle; then the books are exact, and there is one order at most."""
    shop = stage.shop
    await shop.settle()
    await shop.must_be_exact(*stage.answered)
    assert len(await shop.listed()) <= 1, "one key, two orders"
    assert len({order.pk for order in stage.answered}) <= 1, "one key, two answers"


def placing(stage: Stage, actor: str, key: str | None, product: str) -> Awaitable[None]:
    return stage.enter(actor, stage.service(actor).place(key, product, UNITS))


def settling(stage: Stage) -> Awaitable[None]:
    return stage.enter("settler", stage.service("settler").settle())


async def two_owners(stage: Stage, product: str) -> None:
    """Have two come on that own one key, one after the other; who is first is called so."""
    for buyer in ("first", "second"):
        await placing(stage, buyer, KEY, product)
    await stage.go_on("first")


async def a_placed_order(shop: SmallShop, key: str | None = None) -> Order:
    return await shop.service().place(key, await shop.add(5), UNITS)


# Every order of the calls of two or three.


@pytest.mark.parametrize("stock", [1, 5])
@pytest.mark.parametrize("key", [None, KEY])
async def test_a_placing_and_a_settling_in_every_order(
    shop: SmallShop, key: str | None, stock: int
) -> None:
    async def begin(stage: Stage) -> None:
        product = await shop.add(stock)
        await placing(stage, "buyer", key, product)
        await settling(stage)

    assert await every_order(shop, begin, all_is_well) > 1


@pytest.mark.parametrize("stock", [1, 5])
async def test_two_owners_of_one_key_in_every_order(shop: SmallShop, stock: int) -> None:
    async def begin(stage: Stage) -> None:
        product = await shop.add(stock)
        await two_owners(stage, product)

    assert await every_order(shop, begin, all_is_well) > 1


@pytest.mark.parametrize("storage", ["memory"])
async def test_two_owners_of_one_key_and_a_settling_in_every_order(shop: SmallShop) -> None:
    async def begin(stage: Stage) -> None:
        product = await shop.add(5)
        await two_owners(stage, product)
        await settling(stage)

    assert await every_order(shop, begin, all_is_well) > 1


async def test_two_owners_of_one_key_and_a_deletion_in_every_order(shop: SmallShop) -> None:
    async def begin(stage: Stage) -> None:
        product = await shop.add(5)
        await two_owners(stage, product)
        await stage.happens("deletion", lambda: shop.products.delete(product))

    assert await every_order(shop, begin, all_is_well) > 1


async def test_two_owners_of_one_key_and_a_delivery_in_every_order(shop: SmallShop) -> None:
    async def begin(stage: Stage) -> None:
        product = await shop.add(1)
        await two_owners(stage, product)
        await stage.happens("delivery", lambda: shop.restock(product, 5))

    assert await every_order(shop, begin, all_is_well) > 1


async def one_ending_is_told(stage: Stage) -> None:
    """All is well, and who was told that the order is cancelled or shipped was told the truth."""
    await all_is_well(stage)
    [order] = await stage.shop.listed()
    assert order.status is not OrderStatus.PLACED
    assert {told.status for told in stage.answered} <= {order.status}
    refusal = OrderIsShipped if order.status is OrderStatus.SHIPPED else OrderIsCancelled
    assert all(isinstance(refused, refusal) for refused in stage.refused)


async def test_a_cancelling_and_a_shipping_in_every_order(shop: SmallShop) -> None:
    async def begin(stage: Stage) -> None:
        order = await a_placed_order(shop)
        await stage.enter("canceller", stage.service("canceller").cancel(order.pk))
        await stage.enter("shipper", stage.service("shipper").ship(order.pk))

    assert await every_order(shop, begin, one_ending_is_told) > 1


@pytest.mark.parametrize("storage", ["memory"])
async def test_a_cancelling_a_shipping_and_a_settling_in_every_order(shop: SmallShop) -> None:
    async def begin(stage: Stage) -> None:
        order = await a_placed_order(shop)
        await stage.enter("canceller", stage.service("canceller").cancel(order.pk))
        await stage.enter("shipper", stage.service("shipper").ship(order.pk))
        await settling(stage)

    assert await every_order(shop, begin, one_ending_is_told) > 1


async def test_two_cancellings_and_a_settling_in_every_order(shop: SmallShop) -> None:
    async def begin(stage: Stage) -> None:
        order = await a_placed_order(shop)
        for canceller in ("first", "second"):
            await stage.enter(canceller, stage.service(canceller).cancel(order.pk))
        await stage.go_on("first")
        await settling(stage)

    assert await every_order(shop, begin, one_ending_is_told) > 1


# One waits while another goes all its way.

PLACING_CALLS = ("mark", "create", "reserve", "place", "list_order", "unmark")
SETTLING_CALLS = ("old_marks", "fail", "release", "unmark")


@pytest.mark.parametrize("done", range(len(PLACING_CALLS) + 1))
async def test_a_settling_fails_an_order_that_is_marked_and_not_yet_placed(
    shop: SmallShop, done: int
) -> None:
    async with Stage(shop) as stage:
        await placing(stage, "buyer", None, await shop.add(5))
        await settling(stage)
        await stage.go_on("buyer", done)
        await stage.finish("settler", "buyer")
        is_failed = "mark" in PLACING_CALLS[:done] and "place" not in PLACING_CALLS[:done]
        assert bool(stage.refused) == is_failed
        assert len(await shop.listed()) == (not is_failed)
        await all_is_well(stage)


@pytest.mark.parametrize("done", range(1, len(SETTLING_CALLS) + 1))
@pytest.mark.parametrize("seen", PLACING_CALLS[:3])
async def test_a_placing_goes_on_beside_a_settling_at_any_of_its_calls(
    shop: SmallShop, seen: str, done: int
) -> None:
    async with Stage(shop) as stage:
        await placing(stage, "buyer", None, await shop.add(5))
        await settling(stage)
        await stage.go_on("buyer", PLACING_CALLS.index(seen) + 1)
        await stage.go_on("settler", done)
        await stage.finish("buyer", "settler")
        is_failed = "fail" in SETTLING_CALLS[:done]
        assert bool(stage.refused) == is_failed
        assert len(await shop.listed()) == (not is_failed)
        await all_is_well(stage)


@pytest.mark.parametrize("ending", ["cancel", "ship"])
@pytest.mark.parametrize("done", range(6))
async def test_a_settling_at_any_call_of_an_ending_ends_the_order_too(
    shop: SmallShop, ending: str, done: int
) -> None:
    order = await a_placed_order(shop)
    async with Stage(shop) as stage:
        await stage.enter("shop", getattr(stage.service("shop"), ending)(order.pk))
        await settling(stage)
        await stage.go_on("shop", done)
        await stage.finish("settler", "shop")
        assert [told.status for told in stage.answered] == [(await shop.listed())[0].status]
        await one_ending_is_told(stage)


async def test_the_lease_of_the_first_is_over_at_any_of_its_calls(shop: SmallShop) -> None:
    for done_by_first in range(1, 9):
        for done_by_second in range(10):
            shop.clear()
            async with Stage(shop) as stage:
                product = await shop.add(5)
                for buyer in ("first", "second"):
                    await placing(stage, buyer, KEY, product)
                await stage.go_on("first", done_by_first)
                await stage.go_on("second", done_by_second)
                await stage.finish("first", "second")
                assert [order.pk for order in stage.answered] == [
                    order.pk for order in await shop.listed()
                ] * 2, f"{done_by_first}, {done_by_second}: {stage.refused}"
                await all_is_well(stage)


async def test_a_request_whose_key_was_bound_anew_by_another_owner_gives_way(
    shop: SmallShop,
) -> None:
    product = await shop.add(5)
    with pytest.raises(ProductServiceUnavailable):
        await shop.service(HeldUp().watch).place(KEY, product, UNITS)
    await shop.settle()
    async with Stage(shop) as stage:
        for buyer in ("first", "second"):
            await placing(stage, buyer, KEY, product)
        await stage.go_on("first", 2)
        assert stage.calls[-1].startswith("first: record")
        await stage.finish("second", "first")
        assert [type(refusal) for refusal in stage.refused] == [RequestInProgress]
        await all_is_well(stage)
        assert len(await shop.listed()) == 1


# Messages that land late.


async def test_a_first_put_that_lands_after_its_retry_was_refused_takes_nothing(
    shop: SmallShop,
) -> None:
    product = await shop.add(1)
    wire = HeldUp()
    with pytest.raises(ProductServiceUnavailable):
        await shop.service(wire.watch).place(KEY, product, UNITS)
    with pytest.raises(InsufficientQuantity):
        await shop.service().place(KEY, product, UNITS)
    await shop.restock(product, 5)
    with pytest.raises(InsufficientQuantity):
        await wire.land()
    await shop.must_be_exact()


async def test_a_first_put_that_lands_after_settling_takes_nothing(shop: SmallShop) -> None:
    wire = HeldUp()
    with pytest.raises(ProductServiceUnavailable):
        await shop.service(wire.watch).place(None, await shop.add(5), UNITS)
    await shop.settle()
    with pytest.raises(ProductServiceUnavailable):
        await wire.land()
    await shop.must_be_exact()
    assert not await shop.listed()


async def test_a_first_put_that_lands_before_settling_is_given_back(shop: SmallShop) -> None:
    wire = HeldUp()
    with pytest.raises(ProductServiceUnavailable):
        await shop.service(wire.watch).place(None, await shop.add(5), UNITS)
    await wire.land()
    await shop.settle()
    await shop.must_be_exact()
    assert not await shop.listed()


async def test_a_first_put_that_lands_after_the_product_was_deleted_takes_nothing(
    shop: SmallShop,
) -> None:
    product = await shop.add(5)
    wire = HeldUp()
    with pytest.raises(ProductServiceUnavailable):
        await shop.service(wire.watch).place(KEY, product, UNITS)
    await shop.products.delete(product)
    with pytest.raises(ProductServiceUnavailable):
        await shop.service().place(KEY, product, UNITS)
    with pytest.raises(ProductNotFound):
        await wire.land()
    await shop.settle()
    with pytest.raises(ProductNotFound):
        await shop.service().place(KEY, product, UNITS)
    await shop.must_be_exact()


@pytest.mark.parametrize("status", [OrderStatus.CANCELLED, OrderStatus.SHIPPED])
async def test_a_first_put_that_lands_after_the_order_has_ended_takes_nothing(
    shop: SmallShop, status: OrderStatus
) -> None:
    product = await shop.add(5)
    wire = HeldUp()
    with pytest.raises(ProductServiceUnavailable):
        await shop.service(wire.watch).place(KEY, product, UNITS)
    order = await shop.service().place(KEY, product, UNITS)
    if status is OrderStatus.CANCELLED:
        await shop.service().cancel(order.pk)
        with pytest.raises(ProductServiceUnavailable):
            await wire.land()
    else:
        await shop.service().ship(order.pk)
        await wire.land()
    await shop.must_be_exact(order)


@pytest.mark.parametrize(
    ("call", "stock"), [("mark", 5), ("create", 5), ("place", 5), ("mark", 1), ("fail", 1)]
)
async def test_a_store_command_that_lands_after_settling_changes_nothing_for_good(
    shop: SmallShop, call: str, stock: int
) -> None:
    product = await shop.add(stock)
    wire = HeldUp(call)
    with pytest.raises(Unavailable):
        await shop.service(wire.watch).place(None, product, UNITS)
    await shop.settle()
    await wire.land()
    await shop.settle()
    await shop.must_be_exact()
    assert not await shop.listed()


# A product that is deleted between two attempts.


async def test_a_product_deleted_between_two_attempts_keeps_its_figures_exact(
    shop: SmallShop,
) -> None:
    product = await shop.add(5)
    with pytest.raises(ProductServiceUnavailable):
        await shop.service(ProductServiceAway(is_heard=True).watch).place(KEY, product, UNITS)
    await shop.products.delete(product)
    with pytest.raises(ProductServiceUnavailable):
        await shop.service().place(KEY, product, UNITS)
    assert await shop.orders.count_marks() == 1
    await shop.settle()
    with pytest.raises(ProductNotFound):
        await shop.service().place(KEY, product, UNITS)
    await shop.must_be_exact()


async def test_a_first_attempt_refused_by_a_deletion_gives_back_what_a_rival_reserved(
    shop: SmallShop,
) -> None:
    async with Stage(shop) as stage:
        product = await shop.add(5)
        for buyer in ("first", "second"):
            await placing(stage, buyer, KEY, product)
        await stage.go_on("first", 3)
        assert stage.calls[-1].startswith("first: create")
        await stage.go_on("second", 5)
        assert stage.calls[-1].startswith("second: reserve")
        await shop.products.delete(product)
        await stage.finish("first", "second")
        assert [type(refusal) for refusal in stage.refused] == [ProductNotFound, OrderGivenUp]
        await shop.must_be_exact()


async def test_a_mark_stays_while_what_a_rival_reserved_cannot_be_given_back(
    shop: SmallShop,
) -> None:
    away = HeldUp("release")
    async with Stage(shop) as stage:
        product = await shop.add(5)
        first = stage.service("first", watch=away.watch)
        await stage.enter("first", first.place(KEY, product, UNITS))
        await placing(stage, "second", KEY, product)
        await stage.go_on("first", 3)
        await stage.go_on("second", 5)
        await shop.products.delete(product)
        await stage.finish("first")
        assert [type(refusal) for refusal in stage.refused] == [ProductNotFound]
        assert await shop.orders.count_marks() == 1
        assert (await shop.products.stock(product)).reserved == UNITS
        await stage.finish("second")
        await all_is_well(stage)


# A command that dies between its steps and is called again.


@pytest.mark.parametrize("ending", ["cancel", "ship"])
async def test_an_ending_that_died_between_its_steps_is_called_again(
    shop: SmallShop, ending: str
) -> None:
    order = await a_placed_order(shop)
    async with Stage(shop) as stage:
        await stage.enter("dying", getattr(stage.service("dying"), ending)(order.pk))
        await stage.go_on("dying", 3)
        assert stage.calls[-1].startswith("dying: move")
    again = await getattr(shop.service(), ending)(order.pk)
    await shop.must_be_exact(order, again)
    assert again.status is not OrderStatus.PLACED


# A product service that is away, or a stranger.


@pytest.mark.parametrize("is_settled_meanwhile", [False, True])
@pytest.mark.parametrize("is_heard", [False, True])
async def test_a_placing_is_settled_after_the_product_service_was_away_for_days(
    shop: SmallShop, is_heard: bool, is_settled_meanwhile: bool
) -> None:
    product = await shop.add(5)
    away = ProductServiceAway()
    with pytest.raises(ProductServiceUnavailable):
        await shop.service(ProductServiceAway(is_heard=is_heard).watch).place(KEY, product, UNITS)
    for _ in range(3):
        shop.let_pass(DAY_SECONDS)
        if is_settled_meanwhile:
            await shop.service(away.watch).settle()
            assert await shop.orders.count_marks() == 1
    order = await shop.service().place(KEY, product, UNITS)
    await shop.settle()
    await shop.must_be_exact(order)
    assert [listed.pk for listed in await shop.listed()] == [order.pk]


@pytest.mark.parametrize("ending", ["cancel", "ship"])
@pytest.mark.parametrize("is_heard", [False, True])
async def test_an_ending_is_settled_after_the_product_service_was_away_for_days(
    shop: SmallShop, ending: str, is_heard: bool
) -> None:
    order = await a_placed_order(shop)
    away = ProductServiceAway(is_heard=is_heard)
    ended = await getattr(shop.service(away.watch), ending)(order.pk)
    for _ in range(3):
        shop.let_pass(DAY_SECONDS)
        await shop.service(away.watch).settle()
    assert await shop.orders.count_marks() == 1
    await shop.settle()
    await shop.must_be_exact(ended)


async def test_a_key_that_outlives_the_failed_order_it_names_is_continued(
    shop: SmallShop,
) -> None:
    product = await shop.add(5)
    with pytest.raises(ProductServiceUnavailable):
        await shop.service(ProductServiceAway(is_heard=True).watch).place(KEY, product, UNITS)
    await shop.settle()
    shop.let_pass(DAY_SECONDS - 60)
    async with Stage(shop) as stage:  # claims the key again, and dies
        await placing(stage, "dying", KEY, product)
        await stage.go_on("dying", 1)
    shop.let_pass(120)
    order = await shop.service().place(KEY, product, UNITS)
    await shop.must_be_exact(order)


async def test_settling_keeps_the_mark_while_the_product_service_is_on_another_storage(
    shop: SmallShop,
) -> None:
    stranger = ProductServiceAway(says=StorageMismatch)
    with pytest.raises(StorageMismatch):
        await shop.service(stranger.watch).place(None, await shop.add(5), UNITS)
    shop.let_pass(SETTLE_SECONDS)
    await shop.service(stranger.watch).settle()
    assert await shop.orders.count_marks() == 1
    await shop.settle()
    await shop.must_be_exact()


# Clocks.


@pytest.mark.parametrize("storage", ["redis"])
@pytest.mark.parametrize("hours", [-1, 1])
async def test_a_service_whose_clock_is_wrong_settles_and_claims_by_the_clock_of_redis(
    shop: SmallShop, hours: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    product = await shop.add(5)
    async with Stage(shop) as stage:
        service = shop.service(HeldUp("end_claim").watch)
        with pytest.raises(ProductServiceUnavailable):
            await shop.service(HeldUp().watch).place(None, product, UNITS)
        await service.place(KEY, product, UNITS)
        right = time.time
        monkeypatch.setattr(time, "time", lambda: right() + hours * 3600)
        with pytest.raises(RequestInProgress):
            await shop.service().place(KEY, product, UNITS)
        await shop.service().settle()
        assert await shop.orders.count_marks() == 1
        shop.let_pass(SETTLE_SECONDS)
        assert LEASE_SECONDS < SETTLE_SECONDS
        await shop.service().place(KEY, product, UNITS)
        await shop.service().settle()
        await shop.must_be_exact(*stage.answered)
