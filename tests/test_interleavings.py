"""Requests, settling and late messages that meet: every order of their calls, and the hard ones.

Whoever comes first, in the end the books are exact and nothing hangs. Every order is one in which
the actors interrupt each other twice at most.
"""

import asyncio
import time

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
    ShopError,
    StoreUnavailable,
)
from shopsphere.domain.records import DAY, TEN_MINUTES
from shopsphere.domain.values import Item, Order, OrderStatus
from tests.small_shop import (
    KEY,
    LEASE_SECONDS,
    ORDER_SECONDS,
    SETTLE_SECONDS,
    Call,
    Crash,
    Fate,
    Fault,
    SmallShop,
    Watch,
)
from tests.stage import Stage, every_order

pytestmark = pytest.mark.anyio

UNITS = 2
HOUR = 3600
ENDINGS = pytest.mark.parametrize("ending", ["cancel", "ship"])
in_memory = pytest.mark.parametrize("storage", ["memory"])


def away(*names: str, is_heard: bool = False) -> Watch:
    """The product service does not respond to these calls; what it hears on the way is done."""

    async def watch(call: Call) -> object:
        if call.name not in (names or ("reserve", "release", "ship")):
            return await call.make()
        if is_heard:
            await call.make()
        raise call.lost

    return watch


def raising(error: Exception, name: str, about: str = "") -> Watch:
    """Calls of this name that are about something raise this error."""

    async def watch(call: Call) -> object:
        if call.name == name and about in str(call.args):
            raise error
        return await call.make()

    return watch


async def dies_at(shop: SmallShop, call: str, key: str | None, *products: str) -> None:
    """Place an order at a service that dies before this call."""
    with pytest.raises(Crash):
        await shop.service(Fate(Fault.CRASH_BEFORE, call).watch).place(key, *of(*products))


def of(*products: str) -> list[Item]:
    """Return what is ordered, with the product last that stock is taken of first."""
    return [Item(product, UNITS) for product in reversed(products)]


async def shelf(shop: SmallShop, *stocks: int) -> list[str]:
    return [await shop.add(stock) for stock in stocks]


async def a_placed_order(shop: SmallShop, products: int = 1) -> Order:
    return await shop.service().place(None, *of(*await shelf(shop, *[5] * products)))


async def nothing_is_held(shop: SmallShop) -> None:
    await shop.must_be_exact()
    assert not await shop.listed()


# Every order of the calls of two or three.


async def all_is_well(stage: Stage) -> None:
    """Settle; then the books are exact, and there is one order at most."""
    await stage.shop.settle()
    await stage.shop.must_be_exact(*stage.answered)
    assert len(await stage.shop.listed()) <= 1, "one key, two orders"
    assert len({order.pk for order in stage.answered}) <= 1, "one key, two answers"


async def one_key_is_one_order(stage: Stage) -> None:
    """All is well, and who sends the request once more is told of its order if there is one."""
    await all_is_well(stage)
    placed = await stage.shop.listed()
    if placed:
        again = stage.shop.service(lease_seconds=0).place(KEY, *of(*stage.shop.received))
        assert [await again] == placed


async def one_ending_is_told(stage: Stage) -> None:
    """All is well, and who was told that the order is cancelled or shipped was told the truth."""
    await all_is_well(stage)
    [order] = await stage.shop.listed()
    assert order.status is not OrderStatus.PLACED
    assert {told.status for told in stage.answered} == {order.status}
    refusal = OrderIsShipped if order.status is OrderStatus.SHIPPED else OrderIsCancelled
    assert all(isinstance(refused, refusal) for refused in stage.refused)


async def placing(stage: Stage, actor: str, key: str | None, *products: str) -> None:
    await stage.enter(actor, stage.service(actor).place(key, *of(*products)))


async def settling(stage: Stage) -> None:
    await stage.enter("settler", stage.service("settler").settle())


@pytest.mark.parametrize(
    ("storage", "stocks"),
    [("memory", (1,)), ("memory", (5,)), ("memory", (5, 5)), ("memory", (5, 1)), ("redis", (5, 1))],
)
async def test_a_placing_and_a_settling_in_every_order(
    shop: SmallShop, stocks: tuple[int, ...]
) -> None:
    async def begin(stage: Stage) -> None:
        await placing(stage, "buyer", None, *await shelf(shop, *stocks))
        await settling(stage)

    async def end(stage: Stage) -> None:
        await all_is_well(stage)
        steps = stage.calls
        is_failed = "settler: fail" in steps and (
            "buyer: place" not in steps
            or steps.index("settler: fail") < steps.index("buyer: place")
        )
        assert len(await shop.listed()) == (not is_failed and 1 not in stocks)
        assert len(stage.refused) == (is_failed or 1 in stocks)

    await every_order(shop, begin, end)


@in_memory
@pytest.mark.parametrize("event", ["nothing", "deletion", "delivery"])
@pytest.mark.parametrize("stocks", [(5,), (5, 1)])
async def test_two_owners_of_one_key_in_every_order(
    shop: SmallShop, stocks: tuple[int, ...], event: str
) -> None:
    """The first has bound the key when the second comes on, and its lease is over."""

    async def begin(stage: Stage) -> None:
        products = await shelf(shop, *stocks)
        for buyer in ("first", "second"):
            await placing(stage, buyer, KEY, *products)
        await stage.go_on("first")
        if event == "deletion":
            await stage.happens(event, lambda: shop.products.delete(products[-1]))
        elif event == "delivery":
            await stage.happens(event, lambda: shop.restock(products[-1], 5))

    await every_order(shop, begin, one_key_is_one_order)


@in_memory
async def test_two_retries_after_a_crash_in_every_order(shop: SmallShop) -> None:
    async def begin(stage: Stage) -> None:
        products = await shelf(shop, 5)
        await dies_at(shop, "place", KEY, *products)
        for buyer in ("first", "second"):
            await placing(stage, buyer, KEY, *products)

    async def end(stage: Stage) -> None:
        await one_key_is_one_order(stage)
        assert len(await shop.listed()) == 1
        refusals.update(type(refusal) for refusal in stage.refused)

    refusals: set[type[ShopError]] = set()
    await every_order(shop, begin, end)
    assert refusals == {RequestInProgress, OrderGivenUp, ProductServiceUnavailable}


@in_memory
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

    await every_order(shop, begin, end)


@in_memory
@pytest.mark.parametrize(
    "actors",
    [("cancel", "settle"), ("ship", "settle"), ("cancel", "cancel"), ("cancel", "ship", "settle")],
)
async def test_endings_and_a_settling_in_every_order(
    shop: SmallShop, actors: tuple[str, ...]
) -> None:
    async def begin(stage: Stage) -> None:
        order = await a_placed_order(shop, products=2 if len(actors) == 2 else 1)
        for number, act in enumerate(actors):
            name, pks = f"{act} {number}", () if act == "settle" else (order.pk,)
            await stage.enter(name, getattr(stage.service(name), act)(*pks))
            if len(actors) == 3:  # they have noted what they do, and the first has done it
                await stage.go_on(name, 2 if number else 3)

    await every_order(shop, begin, one_ending_is_told)


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
        await placing(stage, "replay", KEY, *shop.received)

    async def end(stage: Stage) -> None:
        await all_is_well(stage)
        assert len(stage.answered) == 3
        assert (await shop.listed())[0].status is not OrderStatus.PLACED

    await every_order(shop, begin, end)


# A request that is sent again under its key.


async def test_a_lost_hold_is_given_back_by_the_retry_which_is_told_that_the_product_is_deleted(
    shop: SmallShop,
) -> None:
    for stocks in [(5,), (5, 5)]:
        products = await shelf(shop, *stocks)
        with pytest.raises(ProductServiceUnavailable):
            await shop.service(away("reserve", is_heard=True)).place(KEY, *of(*products))
        await shop.products.delete(products[0])
        with pytest.raises(ProductNotFound):
            await shop.service().place(KEY, *of(*products))
        await nothing_is_held(shop)


async def test_a_replay_at_another_service_finds_the_order_listed_when_it_is_answered(
    shop: SmallShop,
) -> None:
    await dies_at(shop, "enter", KEY, *await shelf(shop, 5, 5))
    assert not await shop.listed()
    order = await shop.service().place(KEY, *of(*shop.received))
    assert await shop.listed() == [order]
    cancelled = await shop.service().cancel(order.pk)
    assert await shop.service().place(KEY, *of(*shop.received)) == cancelled
    await shop.settle()
    await shop.must_be_exact(order, cancelled)


async def test_a_key_whose_request_died_is_held_for_its_lease_and_not_longer(
    shop: SmallShop,
) -> None:
    """A lease with more time left than a whole one has is over too: the clock went back."""
    product = await shop.add(50)
    for turn, seconds in enumerate((LEASE_SECONDS, -HOUR)):
        key = f"{KEY} {turn}"
        await dies_at(shop, "add_note", key, product)
        with pytest.raises(RequestInProgress) as refusal:
            await shop.service().place(key, *of(product))
        assert 1 <= int(refusal.value.headers["Retry-After"]) <= LEASE_SECONDS
        shop.let_pass(seconds)
        await shop.service().place(key, *of(product))
    await shop.must_be_exact()


@pytest.mark.parametrize("stocks", [(1,), (5, 1), (5, None)])
async def test_a_refused_order_frees_its_key(shop: SmallShop, stocks: tuple[int | None]) -> None:
    products = await shelf(shop, *(stock or 0 for stock in stocks))
    if None in stocks:
        await shop.products.delete(products[-1])
    with pytest.raises(OrderRefused):
        await shop.service().place(KEY, *of(*products))
    await nothing_is_held(shop)
    order = await shop.service().place(KEY, *of(await shop.add(5)))
    await shop.must_be_exact(order)


async def test_a_retry_that_has_too_little_time_left_frees_the_key(shop: SmallShop) -> None:
    products = await shelf(shop, 5, 5)
    await dies_at(shop, "place", KEY, *products)
    shop.let_pass(LEASE_SECONDS)
    with pytest.raises(OrderGivenUp):
        await shop.service(seconds_left=ORDER_SECONDS / 2).place(KEY, *of(*products))
    await nothing_is_held(shop)
    order = await shop.service().place(KEY, Item(products[0], 1))  # another request, so it is free
    await shop.must_be_exact(order)


async def test_a_key_that_came_with_another_request_is_refused_before_anything_else(
    shop: SmallShop,
) -> None:
    x, y = await shelf(shop, 5, 5)
    await dies_at(shop, "place", KEY, x, y)
    for _ in range(2):
        for items in ([Item(x, UNITS), Item(y, 1)], [Item("no pk", 1)], of(x, y, y)):
            with pytest.raises(IdempotencyKeyReused):
                await shop.service().place(KEY, *items)
        shop.let_pass(LEASE_SECONDS)
    assert len(await shop.records.notes(0, 1000)) == 1
    order = await shop.service().place(KEY, *of(x, y))
    assert await shop.service().place(KEY, *reversed(of(x, y))) == order
    await shop.must_be_exact(order)


async def test_a_retry_is_told_503_while_what_was_held_cannot_be_given_back(
    shop: SmallShop,
) -> None:
    products = await shelf(shop, 5, 5)
    for watch in (away(is_heard=True), away("release")):
        with pytest.raises(ProductServiceUnavailable):
            await shop.service(watch).place(KEY, *of(*products))
    assert len(await shop.records.notes(0, 1000)) == 1
    order = await shop.service().place(KEY, *of(*products))
    await shop.must_be_exact(order)


# A product service that is away, or sure of something else.


@pytest.mark.parametrize("is_heard", [False, True])
async def test_a_refusal_is_told_and_its_note_stays_until_all_is_given_back(
    shop: SmallShop, is_heard: bool
) -> None:
    products = await shelf(shop, 5, 1)
    unheard = away("release", is_heard=is_heard)
    with pytest.raises(InsufficientQuantity):
        await shop.service(unheard).place(KEY, *of(*products))
    for _ in range(2):
        shop.let_pass(TEN_MINUTES + 1)
        await shop.service(unheard).settle()
        assert len(await shop.records.notes(0, 1000)) == 1
    assert (await shop.products.stock(products[0])).reserved == (0 if is_heard else UNITS)
    await shop.service().settle()
    await nothing_is_held(shop)


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


@pytest.mark.parametrize("is_settled_meanwhile", [False, True])
@pytest.mark.parametrize("is_heard", [False, True])
async def test_a_placing_is_settled_after_the_product_service_was_away_for_days(
    shop: SmallShop, is_heard: bool, is_settled_meanwhile: bool
) -> None:
    product = await shop.add(5)
    with pytest.raises(ProductServiceUnavailable):
        await shop.service(away(is_heard=is_heard)).place(KEY, *of(product))
    for _ in range(3):
        shop.let_pass(DAY)
        if is_settled_meanwhile:
            await shop.service(away()).settle()
            assert len(await shop.records.notes(0, 1000)) == 1
    order = await shop.service().place(KEY, *of(product))
    await shop.settle()
    await shop.must_be_exact(order)
    assert await shop.listed() == [order]


@pytest.mark.parametrize(
    ("ending", "refusal"), [("cancel", ReservationShipped()), ("ship", ReservationReleased())]
)
async def test_an_ending_waits_for_the_product_service_but_not_for_what_it_refuses_for_good(
    shop: SmallShop, ending: str, refusal: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    order = await a_placed_order(shop, products=2)
    product, other = shop.received
    ended = await getattr(shop.service(away()), ending)(order.pk)
    for _ in range(3):
        shop.let_pass(DAY)
        await shop.service(away(is_heard=True)).settle()
        assert len(await shop.records.notes(0, 1000)) == 1
    call = {"cancel": "release", "ship": "ship"}[ending]
    await shop.service(raising(refusal, call, product)).settle()
    assert len(await shop.records.notes(0, 1000)) == 0
    assert shop.counted("orders_inconsistent") == 1
    assert f"inconsistent: order {order.pk}, product {product}" in caplog.text
    assert (await shop.products.stock(other)).reserved == 0
    assert await shop.listed() == [ended]


# Errors that nobody thought of, and clocks.


async def test_one_note_that_cannot_be_settled_never_holds_up_the_others(
    shop: SmallShop, caplog: pytest.LogCaptureFixture
) -> None:
    product = await shop.add(50)
    for _ in range(12):
        await dies_at(shop, "place", None, product)
    bad = min(shop.ordered)
    for call in ("fail", "release", "remove_note"):
        shop.let_pass(SETTLE_SECONDS)
        await shop.service(raising(RuntimeError("a bug"), call, bad)).settle()
        assert [note.text.split()[1] for note in await shop.records.notes(0, 99)] == [bad]
    assert shop.counted("orders_settling_errors") == 3
    assert caplog.text.count(f"order {bad} cannot be settled") == 3
    await shop.settle()
    await nothing_is_held(shop)


@pytest.mark.parametrize(
    ("error", "counted"), [(RuntimeError("a bug"), 3), (StoreUnavailable(), 0)]
)
async def test_no_error_ends_settling_and_the_next_round_comes(
    shop: SmallShop, error: Exception, counted: int, caplog: pytest.LogCaptureFixture
) -> None:
    await dies_at(shop, "place", None, await shop.add(5))
    failures = [error] * 3
    is_settled = asyncio.Event()

    async def watch(call: Call) -> object:
        if call.name == "notes" and failures:
            raise failures.pop()
        outcome = await call.make()
        if call.name == "remove_note":
            is_settled.set()
        return outcome

    running = asyncio.create_task(shop.service(watch, settle_after=0).settling.run(0))
    await asyncio.wait_for(is_settled.wait(), 30)
    running.cancel()
    await asyncio.wait([running])
    assert shop.counted("orders_settling_errors") == counted
    assert caplog.text.count("settling failed; it will run again") == counted
    await nothing_is_held(shop)


async def test_what_was_noted_before_the_clock_went_back_is_settled_in_the_next_round(
    shop: SmallShop,
) -> None:
    product = await shop.add(9)
    await dies_at(shop, "place", None, product)
    shop.let_pass(-HOUR)
    with pytest.raises(ProductServiceUnavailable):
        await shop.service(away()).place(None, *of(product))
    await shop.service().settle()
    assert len(await shop.records.notes(0, 1000)) == 1, "the young note is not disturbed"
    await shop.settle()
    await nothing_is_held(shop)


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
    await shop.service().settle()
    order = await shop.service().place(KEY, *of(product))
    await shop.must_be_exact(order)
