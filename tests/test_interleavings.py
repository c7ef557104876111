"""Requests, settling and late messages that meet: every order of their calls, and the hard ones.

Whoever comes first, in the end the books are exact and nothing hangs.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable

import pytest

from shopsphere.domain.errors import (
    IdempotencyKeyReused,
    InsufficientQuantity,
    OrderGivenUp,
    OrderIsCancelled,
    OrderIsShipped,
    OrderRefused,
    ProductNotFound,
    ProductServiceUnavailable,
    RequestInProgress,
    ReservationReleased,
    ReservationShipped,
    StorageMismatch,
    StoreUnavailable,
    Unavailable,
)
from shopsphere.domain.records import DAY, TEN_MINUTES
from shopsphere.domain.values import Item, Order, OrderStatus
from tests.small_shop import LEASE_SECONDS, ORDER_SECONDS, SETTLE_SECONDS, Call, SmallShop
from tests.stage import Stage, every_order

pytestmark = pytest.mark.anyio

KEY = "a key"
UNITS = 2
HOUR = 3600
ENDINGS = pytest.mark.parametrize("ending", ["cancel", "ship"])
in_memory = pytest.mark.parametrize("storage", ["memory"])


class Crash(BaseException):
    """The process dies."""


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
    """A wire on which the product service does not respond; what it hears on the way is done."""

    def __init__(
        self, *names: str, is_heard: bool = False, says: type[Unavailable] | None = None
    ) -> None:
        """`names`: the calls that this befalls, if not all."""
        self._names = names or ("reserve", "release", "ship")
        self._is_heard = is_heard
        self._says = says

    async def watch(self, call: Call) -> object:
        if call.name not in self._names:
            return await call.make()
        if self._is_heard:
            await call.make()
        raise self._says or call.lost


def raising(error: Exception, name: str, told: str = "") -> Callable[[Call], Awaitable[object]]:
    """Return a watch that raises in place of a call of this name that is about `told`."""

    async def watch(call: Call) -> object:
        if call.name == name and told in str(call.args):
            raise error
        return await call.make()

    return watch


def dying(name: str) -> Callable[[Call], Awaitable[object]]:
    """Return the watch of a process that dies before its first call of this name."""
    is_dead = False

    async def watch(call: Call) -> object:
        nonlocal is_dead
        is_dead = is_dead or call.name == name
        if is_dead:
            raise Crash
        return await call.make()

    return watch


async def dies_at(shop: SmallShop, call: str, key: str | None, *products: str) -> None:
    """Place an order at a service that dies before this call."""
    with pytest.raises(Crash):
        await shop.service(dying(call)).place(key, *of(*products))


def of(*products: str) -> list[Item]:
    return [Item(product, UNITS) for product in reversed(products)]


async def shelf(shop: SmallShop, *stocks: int) -> list[str]:
    return [await shop.add(stock) for stock in stocks]


async def all_is_well(stage: Stage) -> None:
    """Settle; then the books are exact, and there is one order at most."""
    shop = stage.shop
    await shop.settle()
    await shop.must_be_exact(*stage.answered)
    assert len(await shop.listed()) <= 1, "one key, two orders"
    assert len({order.pk for order in stage.answered}) <= 1, "one key, two answers"


def placing(stage: Stage, actor: str, key: str | None, *products: str) -> Awaitable[None]:
    return stage.enter(actor, stage.service(actor).place(key, *of(*products)))


def settling(stage: Stage) -> Awaitable[None]:
    return stage.enter("settler", stage.service("settler").settle())


async def two_owners(stage: Stage, *products: str) -> None:
    """Have two come on that own one key, one after the other; who is first is called so."""
    for buyer in ("first", "second"):
        await placing(stage, buyer, KEY, *products)
    await stage.go_on("first")


async def a_placed_order(shop: SmallShop, key: str | None = None, products: int = 1) -> Order:
    return await shop.service().place(key, *of(*await shelf(shop, *[5] * products)))


async def nothing_is_held(shop: SmallShop, *products: str) -> None:
    await shop.must_be_exact()
    assert not await shop.listed()
    for product in products:
        assert (await shop.products.stock(product)).reserved == 0


# Every order of the calls of two or three.


@pytest.mark.parametrize("stocks", [(1,), (5,), (5, 1), (5, 5)])
async def test_a_placing_and_a_settling_in_every_order(
    shop: SmallShop, stocks: tuple[int, ...]
) -> None:
    async def begin(stage: Stage) -> None:
        await placing(stage, "buyer", KEY, *await shelf(shop, *stocks))
        await settling(stage)

    assert await every_order(shop, begin, all_is_well) > 1


@pytest.mark.parametrize("stocks", [(1,), (5,), (5, 1), (5, 5)])
async def test_two_owners_of_one_key_in_every_order(
    shop: SmallShop, stocks: tuple[int, ...]
) -> None:
    async def begin(stage: Stage) -> None:
        await two_owners(stage, *await shelf(shop, *stocks))

    assert await every_order(shop, begin, all_is_well) > 1


@in_memory
async def test_two_owners_of_one_key_and_a_settling_in_every_order(shop: SmallShop) -> None:
    async def begin(stage: Stage) -> None:
        await two_owners(stage, await shop.add(5))
        await stage.go_on("first")
        assert stage.calls[-1].startswith("first: add_note")
        await settling(stage)

    assert await every_order(shop, begin, all_is_well) > 1


@in_memory
async def test_two_owners_of_one_key_and_a_deletion_in_every_order(shop: SmallShop) -> None:
    async def begin(stage: Stage) -> None:
        products = await shelf(shop, 5, 5)
        await two_owners(stage, *products)
        await stage.happens("deletion", lambda: shop.products.delete(products[1]))

    assert await every_order(shop, begin, all_is_well) > 1


@in_memory
async def test_two_owners_of_one_key_and_a_delivery_in_every_order(shop: SmallShop) -> None:
    async def begin(stage: Stage) -> None:
        products = await shelf(shop, 5, 1)
        await two_owners(stage, *products)
        await stage.happens("delivery", lambda: shop.restock(products[1], 5))

    assert await every_order(shop, begin, all_is_well) > 1


async def test_of_two_orders_that_want_each_others_last_units_one_is_placed_in_every_order(
    shop: SmallShop,
) -> None:
    async def begin(stage: Stage) -> None:
        items = of(*await shelf(shop, UNITS, UNITS))
        await stage.enter("one", stage.service("one").place(None, *items))
        await stage.enter("other", stage.service("other").place(None, *reversed(items)))

    async def end(stage: Stage) -> None:
        await all_is_well(stage)
        assert len(stage.answered) == 1
        assert [type(refusal) for refusal in stage.refused] == [InsufficientQuantity]

    assert await every_order(shop, begin, end) > 1


async def one_ending_is_told(stage: Stage) -> None:
    """All is well, and who was told that the order is cancelled or shipped was told the truth."""
    await all_is_well(stage)
    [order] = await stage.shop.listed()
    assert order.status is not OrderStatus.PLACED
    assert {told.status for told in stage.answered} <= {order.status}
    refusal = OrderIsShipped if order.status is OrderStatus.SHIPPED else OrderIsCancelled
    assert all(isinstance(refused, refusal) for refused in stage.refused)


async def a_canceller_and_a_shipper(stage: Stage, products: int = 1) -> None:
    order = await a_placed_order(stage.shop, products=products)
    await stage.enter("canceller", stage.service("canceller").cancel(order.pk))
    await stage.enter("shipper", stage.service("shipper").ship(order.pk))


async def test_a_cancelling_and_a_shipping_in_every_order(shop: SmallShop) -> None:
    async def begin(stage: Stage) -> None:
        await a_canceller_and_a_shipper(stage, products=2)

    assert await every_order(shop, begin, one_ending_is_told) > 1


@in_memory
async def test_a_cancelling_a_shipping_and_a_settling_in_every_order(shop: SmallShop) -> None:
    async def begin(stage: Stage) -> None:
        await a_canceller_and_a_shipper(stage)
        await stage.go_on("canceller", 2)
        await stage.go_on("shipper", 2)
        assert stage.calls[-1].startswith("shipper: add_note")
        await settling(stage)
        await stage.go_on("settler")

    assert await every_order(shop, begin, one_ending_is_told) > 1


async def test_two_cancellings_and_a_settling_in_every_order(shop: SmallShop) -> None:
    async def begin(stage: Stage) -> None:
        order = await a_placed_order(shop)
        for canceller in ("first", "second"):
            await stage.enter(canceller, stage.service(canceller).cancel(order.pk))
            await stage.go_on(canceller)
        await stage.go_on("first")
        await settling(stage)

    assert await every_order(shop, begin, one_ending_is_told) > 1


@ENDINGS
async def test_an_order_is_in_the_list_of_its_status_whoever_writes_last(
    shop: SmallShop, ending: str
) -> None:
    """Its process and a replay are slow to list it as placed; meanwhile it is ended."""

    async def begin(stage: Stage) -> None:
        await placing(stage, "buyer", KEY, await shop.add(5))
        await stage.go_on("buyer", 4)
        assert stage.calls[-1].startswith("buyer: place")
        [pk] = shop.ordered
        await stage.enter("shop", getattr(stage.service("shop"), ending)(pk))
        await stage.enter("replay", stage.service("replay").place(KEY, *of(*shop.received)))

    async def end(stage: Stage) -> None:
        await all_is_well(stage)
        assert len(stage.answered) == 3
        assert (await shop.listed())[0].status is not OrderStatus.PLACED

    assert await every_order(shop, begin, end) > 1


# One waits while another goes all its way.

PLACING_CALLS = ("add_note", "reserve", "place", "enter", "remove_note")
SETTLING_CALLS = ("notes", "fail", "release", "remove_note")


@pytest.mark.parametrize("done", range(len(PLACING_CALLS) + 1))
async def test_a_settling_fails_an_order_that_is_noted_and_not_yet_placed(
    shop: SmallShop, done: int
) -> None:
    async with Stage(shop) as stage:
        await placing(stage, "buyer", None, await shop.add(5))
        await settling(stage)
        await stage.go_on("buyer", done)
        await stage.finish("settler", "buyer")
        is_failed = "add_note" in PLACING_CALLS[:done] and "place" not in PLACING_CALLS[:done]
        assert bool(stage.refused) == is_failed
        assert len(await shop.listed()) == (not is_failed)
        await all_is_well(stage)


@pytest.mark.parametrize("done", range(1, len(SETTLING_CALLS) + 1))
@pytest.mark.parametrize("seen", PLACING_CALLS[:2])
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


@ENDINGS
@pytest.mark.parametrize("done", range(6))
async def test_a_settling_at_any_call_of_an_ending_ends_the_order_too(
    shop: SmallShop, ending: str, done: int
) -> None:
    order = await a_placed_order(shop, products=2)
    async with Stage(shop) as stage:
        await stage.enter("shop", getattr(stage.service("shop"), ending)(order.pk))
        await settling(stage)
        await stage.go_on("shop", done)
        await stage.finish("settler", "shop")
        assert [told.status for told in stage.answered] == [(await shop.listed())[0].status]
        await one_ending_is_told(stage)


@pytest.mark.parametrize("done", range(1, 6))
async def test_a_request_that_wakes_after_its_key_was_settled_holds_nothing(
    shop: SmallShop, done: int
) -> None:
    async with Stage(shop) as stage:
        products = await shelf(shop, 5, 5)
        await placing(stage, "first", KEY, *products)
        await stage.go_on("first", done)
        await placing(stage, "second", KEY, *products)
        await stage.finish("second", "first")
        is_placed = stage.calls[done - 1].startswith("first: place")
        assert [type(error) for error in stage.refused] in (
            [] if is_placed else [OrderGivenUp], [] if is_placed else [ProductServiceUnavailable]
        )  # fmt: skip
        assert len(stage.answered) == 1 + is_placed
        await all_is_well(stage)
        assert [order.pk for order in await shop.listed()] == [stage.answered[0].pk]


async def test_a_retry_gives_way_where_another_retry_bound_the_key_first(shop: SmallShop) -> None:
    product = await shop.add(5)
    await dies_at(shop, "place", KEY, product)
    async with Stage(shop) as stage:
        for buyer in ("first", "second"):
            await placing(stage, buyer, KEY, product)
        await stage.go_on("first", 2)
        await stage.finish("second", "first")
        assert [type(refusal) for refusal in stage.refused] == [RequestInProgress]
        await all_is_well(stage)
        assert len(await shop.listed()) == 1


# A request that is sent again under its key.


async def test_a_lost_hold_is_given_back_by_the_retry_which_is_told_that_the_product_is_deleted(
    shop: SmallShop,
) -> None:
    lost = ProductServiceAway("reserve", is_heard=True)
    for stocks in [(5,), (5, 5)]:
        products = await shelf(shop, *stocks)
        with pytest.raises(ProductServiceUnavailable):
            await shop.service(lost.watch).place(KEY, *of(*products))
        await shop.products.delete(products[0])
        with pytest.raises(ProductNotFound):
            await shop.service().place(KEY, *of(*products))
        await nothing_is_held(shop, *products)


async def test_a_retry_after_an_unknown_outcome_need_not_wait_and_places_a_new_order(
    shop: SmallShop,
) -> None:
    products = await shelf(shop, 5, 5)
    with pytest.raises(StoreUnavailable):
        await shop.service(HeldUp("place").watch).place(KEY, *of(*products))
    order = await shop.service().place(KEY, *of(*products))
    assert order.pk not in shop.ordered - {order.pk}
    assert len(shop.ordered) == 2
    await shop.must_be_exact(order)


@ENDINGS
async def test_a_replay_at_another_service_finds_the_order_listed_when_it_is_answered(
    shop: SmallShop, ending: str
) -> None:
    await dies_at(shop, "enter", KEY, *await shelf(shop, 5, 5))
    assert not await shop.listed()
    order = await shop.service().place(KEY, *of(*shop.received))
    assert await shop.listed() == [order]
    ended = await getattr(shop.service(), ending)(order.pk)
    assert await shop.service().place(KEY, *of(*shop.received)) == ended
    await shop.settle()
    await shop.must_be_exact(order, ended)
    assert await shop.listed() == [ended]


async def test_fifty_retries_at_once_of_a_placed_order_are_fifty_replays(shop: SmallShop) -> None:
    order = await a_placed_order(shop, KEY, products=2)
    service = shop.service()
    retries = (service.place(KEY, *of(*shop.received)) for _ in range(50))
    assert await asyncio.gather(*retries) == [order] * 50
    await shop.must_be_exact(order)


async def test_a_key_whose_request_died_before_its_note_is_free_after_its_lease(
    shop: SmallShop,
) -> None:
    product = await shop.add(5)
    await dies_at(shop, "add_note", KEY, product)
    with pytest.raises(RequestInProgress) as refusal:
        await shop.service().place(KEY, *of(product))
    assert 1 <= int(refusal.value.headers["Retry-After"]) <= LEASE_SECONDS
    shop.let_pass(LEASE_SECONDS)
    order = await shop.service().place(KEY, *of(product))
    await shop.must_be_exact(order)


@pytest.mark.parametrize("stocks", [(1,), (5, 1), (5, None)])
async def test_a_refused_order_frees_its_key(shop: SmallShop, stocks: tuple[int | None]) -> None:
    products = [await shop.add(stock or 0) for stock in stocks]
    if None in stocks:
        await shop.products.delete(products[-1])
    with pytest.raises(OrderRefused):
        await shop.service().place(KEY, *of(*products))
    await nothing_is_held(shop, *products)
    order = await shop.service().place(KEY, *of(await shop.add(5)))
    await shop.must_be_exact(order)


async def test_a_retry_that_has_too_little_time_left_frees_the_key(shop: SmallShop) -> None:
    products = await shelf(shop, 5, 5)
    await dies_at(shop, "place", KEY, *products)
    shop.let_pass(LEASE_SECONDS)
    with pytest.raises(OrderGivenUp):
        await shop.service(seconds_left=ORDER_SECONDS / 2).place(KEY, *of(*products))
    await nothing_is_held(shop, *products)
    order = await shop.service().place(KEY, Item(products[0], 1))  # another request, so it is free
    await shop.must_be_exact(order)


async def test_a_key_that_came_with_another_request_is_refused_before_anything_else(
    shop: SmallShop,
) -> None:
    x, y = await shelf(shop, 5, 5)
    await dies_at(shop, "place", KEY, x, y)
    others = [[Item(x, UNITS)], [Item(x, UNITS), Item(y, 1)], [Item("no pk", 1)], of(x, y, y)]

    async def all_are_refused() -> None:
        for items in others:
            with pytest.raises(IdempotencyKeyReused):
                await shop.service().place(KEY, *items)

    await all_are_refused()
    shop.let_pass(LEASE_SECONDS)
    await all_are_refused()
    assert len(await shop.records.notes(0, 1000)) == 1
    order = await shop.service().place(KEY, *of(x, y))
    await all_are_refused()
    assert await shop.service().place(KEY, *reversed(of(x, y))) == order
    await shop.must_be_exact(order)


async def test_a_retry_is_told_503_while_what_was_held_cannot_be_given_back(
    shop: SmallShop,
) -> None:
    products = await shelf(shop, 5, 5)
    lost = ProductServiceAway(is_heard=True)
    with pytest.raises(ProductServiceUnavailable):
        await shop.service(lost.watch).place(KEY, *of(*products))
    away = ProductServiceAway("release")
    with pytest.raises(ProductServiceUnavailable):
        await shop.service(away.watch).place(KEY, *of(*products))
    assert len(await shop.records.notes(0, 1000)) == 1
    order = await shop.service().place(KEY, *of(*products))
    await shop.must_be_exact(order)


async def test_a_key_that_outlives_the_failed_order_it_names_places_a_new_one(
    shop: SmallShop,
) -> None:
    products = await shelf(shop, 5, 5)
    with pytest.raises(ProductServiceUnavailable):
        await shop.service(ProductServiceAway(is_heard=True).watch).place(KEY, *of(*products))
    await shop.settle()
    shop.let_pass(DAY - 60)
    order = await shop.service().place(KEY, *of(*products))
    await shop.must_be_exact(order)


# Messages that land late.


async def a_lost_put(shop: SmallShop, key: str | None, *products: str) -> HeldUp:
    wire = HeldUp()
    with pytest.raises(ProductServiceUnavailable):
        await shop.service(wire.watch).place(key, *of(*products))
    return wire


async def test_a_first_put_that_lands_after_its_retry_was_refused_takes_nothing(
    shop: SmallShop,
) -> None:
    products = await shelf(shop, 1, 5)
    wire = await a_lost_put(shop, KEY, *products)
    with pytest.raises(InsufficientQuantity):
        await shop.service().place(KEY, *of(*products))
    await shop.restock(products[0], 5)
    with pytest.raises(ProductServiceUnavailable):
        await wire.land()
    await nothing_is_held(shop, *products)


async def test_a_first_put_that_lands_after_settling_takes_nothing(shop: SmallShop) -> None:
    products = await shelf(shop, 5, 5)
    wire = await a_lost_put(shop, None, *products)
    await shop.settle()
    shop.let_pass(TEN_MINUTES - 10)
    with pytest.raises(ProductServiceUnavailable):
        await wire.land()
    await nothing_is_held(shop, *products)


async def test_a_first_put_that_lands_before_settling_is_given_back(shop: SmallShop) -> None:
    product = await shop.add(5)
    await (await a_lost_put(shop, None, product)).land()
    await shop.settle()
    await nothing_is_held(shop, product)


@pytest.mark.parametrize("ending", [None, "cancel", "ship"])
async def test_a_first_put_that_lands_after_its_retry_was_placed_takes_nothing(
    shop: SmallShop, ending: str | None
) -> None:
    products = await shelf(shop, 5, 5)
    wire = await a_lost_put(shop, KEY, *products)
    order = await shop.service().place(KEY, *of(*products))
    if ending:
        await getattr(shop.service(), ending)(order.pk)
    with pytest.raises(ProductServiceUnavailable):
        await wire.land()
    await shop.must_be_exact(order)


@pytest.mark.parametrize(
    ("call", "stock"), [("add_note", 5), ("place", 5), ("add_note", 1), ("remove_note", 1)]
)
async def test_a_store_command_that_lands_after_settling_changes_nothing_for_good(
    shop: SmallShop, call: str, stock: int
) -> None:
    products = await shelf(shop, 5, stock)
    wire = HeldUp(call)
    with pytest.raises((Unavailable, InsufficientQuantity)):
        await shop.service(wire.watch).place(None, *of(*products))
    await shop.settle()
    try:
        await wire.land()
    except OrderGivenUp:
        assert call == "place"
    await shop.settle()
    await nothing_is_held(shop, *products)


# A refusal whose releases cannot be delivered.


@pytest.mark.parametrize("is_heard", [False, True])
async def test_a_refusal_is_told_and_its_note_stays_until_all_is_given_back(
    shop: SmallShop, is_heard: bool
) -> None:
    products = await shelf(shop, 5, 1)
    away = ProductServiceAway("release", is_heard=is_heard)
    with pytest.raises(InsufficientQuantity):
        await shop.service(away.watch).place(KEY, *of(*products))
    for _ in range(2):
        shop.let_pass(TEN_MINUTES + 1)
        await shop.service(away.watch).settle()
        assert len(await shop.records.notes(0, 1000)) == 1
    assert (await shop.products.stock(products[0])).reserved == (0 if is_heard else UNITS)
    await shop.service().settle()
    await nothing_is_held(shop, *products)


async def test_a_deleted_product_is_told_of_the_release_too_as_its_404_is_not_remembered(
    shop: SmallShop,
) -> None:
    products = await shelf(shop, 5, 5)
    await shop.products.delete(products[1])
    released = []

    async def watch(call: Call) -> object:
        if call.name == "release":
            released.append(call.args[0])
        return await call.make()

    with pytest.raises(ProductNotFound):
        await shop.service(watch).place(None, *of(*products))
    assert sorted(map(str, released)) == products
    await nothing_is_held(shop, *products)


# A command that dies between its steps and is called again.


@ENDINGS
async def test_an_ending_that_died_between_its_steps_is_called_again(
    shop: SmallShop, ending: str
) -> None:
    order = await a_placed_order(shop, products=2)
    with pytest.raises(Crash):
        await getattr(shop.service(dying("enter")), ending)(order.pk)
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
        await shop.service(ProductServiceAway(is_heard=is_heard).watch).place(KEY, *of(product))
    for _ in range(3):
        shop.let_pass(DAY)
        if is_settled_meanwhile:
            await shop.service(away.watch).settle()
            assert len(await shop.records.notes(0, 1000)) == 1
    order = await shop.service().place(KEY, *of(product))
    await shop.settle()
    await shop.must_be_exact(order)
    assert await shop.listed() == [order]


@ENDINGS
@pytest.mark.parametrize("is_heard", [False, True])
async def test_an_ending_is_settled_after_the_product_service_was_away_for_days(
    shop: SmallShop, ending: str, is_heard: bool
) -> None:
    order = await a_placed_order(shop, products=2)
    away = ProductServiceAway(is_heard=is_heard)
    ended = await getattr(shop.service(away.watch), ending)(order.pk)
    for _ in range(3):
        shop.let_pass(DAY)
        await shop.service(away.watch).settle()
    assert len(await shop.records.notes(0, 1000)) == 1
    await shop.settle()
    await shop.must_be_exact(ended)


async def test_settling_keeps_the_note_while_the_product_service_is_on_another_storage(
    shop: SmallShop,
) -> None:
    stranger = ProductServiceAway(says=StorageMismatch)
    with pytest.raises(StorageMismatch):
        await shop.service(stranger.watch).place(None, *of(await shop.add(5)))
    shop.let_pass(SETTLE_SECONDS)
    await shop.service(stranger.watch).settle()
    assert len(await shop.records.notes(0, 1000)) == 1
    await shop.settle()
    await shop.must_be_exact()


@pytest.mark.parametrize(
    ("ending", "refusal"), [("cancel", ReservationShipped()), ("ship", ReservationReleased())]
)
async def test_what_the_product_service_refuses_for_good_is_an_inconsistency_and_its_note_goes(
    shop: SmallShop, ending: str, refusal: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    order = await a_placed_order(shop, products=2)
    product, other = shop.received
    call = {"cancel": "release", "ship": "ship"}[ending]
    away = ProductServiceAway()
    ended = await getattr(shop.service(away.watch), ending)(order.pk)
    shop.let_pass(SETTLE_SECONDS)
    await shop.service(raising(refusal, call, product)).settle()
    assert len(await shop.records.notes(0, 1000)) == 0
    assert shop.counted("orders_inconsistent") == 1
    assert f"inconsistent: order {order.pk}, product {product}" in caplog.text
    assert (await shop.products.stock(other)).reserved == 0
    assert await shop.listed() == [ended]


# Errors that nobody thought of.


def broken(name: str, told: str = "") -> Callable[[Call], Awaitable[object]]:
    return raising(RuntimeError("nobody thought of this"), name, told)


async def test_one_note_that_cannot_be_settled_never_holds_up_the_others(
    shop: SmallShop, caplog: pytest.LogCaptureFixture
) -> None:
    product = await shop.add(50)
    for _ in range(12):
        await dies_at(shop, "place", None, product)
    bad, *others = sorted(shop.ordered)
    for call in ("fail", "release", "remove_note"):
        shop.let_pass(SETTLE_SECONDS)
        await shop.service(broken(call, bad)).settle()
        assert [note.text.split()[1] for note in await shop.records.notes(0, 99)] == [bad]
    assert shop.counted("orders_settling_errors") == 3
    assert caplog.text.count(f"order {bad} cannot be settled") == 3
    await shop.settle()
    assert len(others) == 11
    await nothing_is_held(shop, product)


@pytest.mark.parametrize("error", [RuntimeError("nobody thought of this"), StoreUnavailable()])
async def test_no_error_ends_settling_and_the_next_round_comes(
    shop: SmallShop, error: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    product = await shop.add(5)
    await dies_at(shop, "place", None, product)
    rounds = 0
    is_settled = asyncio.Event()

    async def watch(call: Call) -> object:
        nonlocal rounds
        if call.name == "notes":
            rounds += 1
            if rounds <= 3:
                raise error
        outcome = await call.make()
        if call.name == "remove_note":
            is_settled.set()
        return outcome

    running = asyncio.create_task(shop.service(watch, settle_after=0).settle_for_ever())
    await asyncio.wait_for(is_settled.wait(), 30)
    running.cancel()
    await asyncio.wait([running])
    is_a_bug = isinstance(error, RuntimeError)
    assert shop.counted("orders_settling_errors") == (3 if is_a_bug else 0)
    assert caplog.text.count("settling failed; it will run again") == (3 if is_a_bug else 0)
    assert caplog.text.count("nobody thought of this") == (3 if is_a_bug else 0)
    await nothing_is_held(shop, product)


# Clocks.


async def test_what_was_noted_before_the_clock_went_back_is_settled_in_the_next_round(
    shop: SmallShop,
) -> None:
    product = await shop.add(9)
    await dies_at(shop, "place", None, product)
    shop.let_pass(-HOUR)
    with pytest.raises(ProductServiceUnavailable):
        await shop.service(ProductServiceAway().watch).place(None, *of(product))
    await shop.service().settle()
    assert len(await shop.records.notes(0, 1000)) == 1, "the young note is not disturbed"
    await shop.settle()
    await nothing_is_held(shop, product)


async def test_a_lease_that_would_last_longer_than_a_whole_one_is_over(shop: SmallShop) -> None:
    product = await shop.add(5)
    await dies_at(shop, "place", KEY, product)
    shop.let_pass(-HOUR)
    order = await shop.service().place(KEY, *of(product))
    await shop.must_be_exact(order)


@pytest.mark.parametrize("storage", ["redis"])
@pytest.mark.parametrize("hours", [-1, 1])
async def test_a_service_whose_clock_is_wrong_settles_and_claims_by_the_clock_of_redis(
    shop: SmallShop, hours: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    product = await shop.add(5)
    await dies_at(shop, "place", KEY, product)
    right = time.time
    monkeypatch.setattr(time, "time", lambda: right() + hours * HOUR)
    with pytest.raises(RequestInProgress):
        await shop.service().place(KEY, *of(product))
    await shop.service().settle()
    assert len(await shop.records.notes(0, 1000)) == 1
    shop.let_pass(SETTLE_SECONDS)
    assert LEASE_SECONDS < SETTLE_SECONDS
    await shop.service().settle()
    order = await shop.service().place(KEY, *of(product))
    await shop.must_be_exact(order)
