"""Requests, settling and late messages that meet: every order of their calls, and the hard ones.

Whoever comes first, in the end the books are exact and nothing hangs. Every order is one in which
the actors interrupt each other twice at most.
"""

import asyncio

import pytest

from shopsphere.domain import errors
from shopsphere.domain.errors import ShopError
from shopsphere.domain.records import TEN_MINUTES
from shopsphere.domain.values import Item, OrderStatus
from tests.small_shop import KEY, LATER, ORDER_SECONDS, UNITS, Call, SmallShop, Watch, of
from tests.stage import Stage, every_order

pytestmark = pytest.mark.anyio

HOUR = 3600
in_memory = pytest.mark.parametrize("storage", ["memory"])


def failing(error: Exception | None, *names: str, about: str = "") -> Watch:
    """Calls of these names that are about something raise this error, or get no response."""

    async def watch(call: Call) -> object:
        if call.name in names and about in str(call.args):
            raise error or call.lost
        return await call.make()

    return watch


async def shelf(shop: SmallShop, *stocks: int) -> list[str]:
    return [await shop.add(stock) for stock in stocks]


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


async def placing(stage: Stage, actor: str, key: str | None = KEY) -> None:
    """Have an actor begin to order all products."""
    await stage.enter(stage.service(actor).place(key, *of(*stage.shop.received)))


@pytest.mark.parametrize(
    ("storage", "stocks"),
    [("memory", (1,)), ("memory", (5,)), ("memory", (5, 5)), ("memory", (5, 1)), ("redis", (5, 1))],
)
async def test_a_placing_and_a_settling_in_every_order(
    shop: SmallShop, stocks: tuple[int, ...]
) -> None:
    async def begin(stage: Stage) -> None:
        await shelf(shop, *stocks)
        await placing(stage, "buyer", None)
        await stage.enter(stage.service("settler").settle())

    async def end(stage: Stage) -> None:
        await all_is_well(stage)
        decisive = [call for call in stage.calls if call in ("settler: end", "buyer: place")]
        is_placed = decisive[:1] == ["buyer: place"]
        assert (len(await shop.listed()), len(stage.refused)) == (is_placed, not is_placed)
        assert is_placed or decisive or 1 in stocks

    await every_order(shop, begin, end)


@in_memory
@pytest.mark.parametrize(("stocks", "event"), [((5,), "deletion"), ((5, 1), "delivery")])
async def test_two_owners_of_one_key_in_every_order(
    shop: SmallShop, stocks: tuple[int, ...], event: str
) -> None:
    """The first has bound the key when the second comes on, and its lease is over."""

    async def begin(stage: Stage) -> None:
        *_, product = await shelf(shop, *stocks)
        for buyer in ("first", "second"):
            await placing(stage, buyer)
        await stage.go_on("first")
        happen = shop.products.delete(product) if event == "deletion" else shop.restock(product, 5)
        await stage.happens(event, happen)

    await every_order(shop, begin, one_key_is_one_order)


@in_memory
async def test_two_retries_after_a_crash_in_every_order(shop: SmallShop) -> None:
    async def begin(stage: Stage) -> None:
        await shop.dies_at("place", KEY, *await shelf(shop, 5))
        for buyer in ("first", "second"):
            await placing(stage, buyer)

    async def end(stage: Stage) -> None:
        await one_key_is_one_order(stage)
        assert len(await shop.listed()) == 1
        refusals.update(type(refusal) for refusal in stage.refused)

    refusals: set[type[ShopError]] = set()
    await every_order(shop, begin, end)
    assert refusals == {
        errors.RequestInProgress,
        errors.OrderGivenUp,
        errors.ProductServiceUnavailable,
    }


@in_memory
@pytest.mark.parametrize("baskets", [[(0, 1), (1, 0)], [(0, 1), (1, 2), (2, 0)]])
async def test_of_orders_that_want_each_others_last_units_one_is_placed_in_every_order(
    shop: SmallShop, baskets: list[tuple[int, int]]
) -> None:
    async def begin(stage: Stage) -> None:
        items = of(*await shelf(shop, UNITS, UNITS, UNITS))
        for buyer, basket in zip("abc", baskets, strict=False):
            wanted = [items[number] for number in basket]
            await stage.enter(stage.service(buyer).place(None, *wanted))

    async def end(stage: Stage) -> None:
        await all_is_well(stage)
        assert len(stage.answered) == 1
        assert {type(refusal) for refusal in stage.refused} == {errors.InsufficientQuantity}

    await every_order(shop, begin, end)


@pytest.mark.parametrize(
    ("storage", "actors"),
    [
        ("memory", ("cancel", "settle")),
        ("memory", ("ship", "settle")),
        ("memory", ("cancel", "cancel")),
        ("memory", ("cancel", "ship")),
        ("memory", ("ship", "place")),
        ("redis", ("cancel",)),
    ],
)
async def test_an_order_ends_once_and_is_in_the_list_of_its_status_whoever_writes_last(
    shop: SmallShop, actors: tuple[str, ...]
) -> None:
    """Its process is slow to list it as placed; meanwhile it is ended."""

    async def begin(stage: Stage) -> None:
        await shop.add(5)
        await placing(stage, "buyer")
        while stage.calls[-1:] != ["buyer: place"]:
            await stage.go_on("buyer")
        [pk] = shop.ordered
        for number, act in enumerate(actors):
            arguments = {"settle": (), "place": (KEY, *of(*shop.received))}.get(act, (pk,))
            service = stage.service(f"{act} {number}")
            await stage.enter(getattr(service, act)(*arguments))

    async def end(stage: Stage) -> None:
        await all_is_well(stage)
        [order] = await shop.listed()
        assert order.status is not OrderStatus.PLACED
        told = {told.status for told in stage.answered}
        assert order.status in told <= {order.status, OrderStatus.PLACED}
        refusal = (
            errors.OrderIsShipped
            if order.status is OrderStatus.SHIPPED
            else errors.OrderIsCancelled
        )
        assert all(isinstance(refused, refusal) for refused in stage.refused)

    await every_order(shop, begin, end)


# A request that is sent again under its key.


async def test_a_key_whose_request_died_is_held_for_its_lease_and_not_longer(
    shop: SmallShop,
) -> None:
    """A lease with more time left than a whole one has is over too: the clock went back."""
    product = await shop.add(50)
    for turn, seconds in enumerate((ORDER_SECONDS + 3, -HOUR)):
        key = f"{KEY} {turn}"
        await shop.dies_at("add_note", key, product)
        with pytest.raises(errors.RequestInProgress) as refusal:
            await shop.service().place(key, *of(product))
        assert 1 <= int(refusal.value.headers["Retry-After"]) <= ORDER_SECONDS + 2
        shop.let_pass(seconds)
        await shop.service().place(key, *of(product))
    await shop.must_be_exact()


async def test_a_refusal_and_a_retry_with_too_little_time_left_free_the_key_for_another_request(
    shop: SmallShop,
) -> None:
    products = await shelf(shop, 5, 1)
    with pytest.raises(errors.InsufficientQuantity):
        await shop.service().place(KEY, *of(*products))
    await nothing_is_held(shop)
    await shop.dies_at("place", KEY, products[0])
    shop.let_pass(LATER)
    with pytest.raises(errors.OrderGivenUp):
        await shop.service(seconds_left=ORDER_SECONDS / 2).place(KEY, *of(products[0]))
    await nothing_is_held(shop)
    order = await shop.service().place(KEY, Item(products[1], 1))
    await shop.must_be_exact(order)


# A product service that is unreachable, or sure of something else.


async def test_a_refusal_is_told_and_its_note_stays_until_all_is_released(shop: SmallShop) -> None:
    products = await shelf(shop, 5, 1)
    unreachable = failing(None, "release", "forget")
    with pytest.raises(errors.InsufficientQuantity):
        await shop.service(unreachable).place(KEY, *of(*products))
    for _ in range(2):
        shop.let_pass(TEN_MINUTES + 1)
        await shop.service(unreachable).settle()
        assert len(await shop.noted()) == 1
        assert (await shop.products.stock(products[0])).reserved == UNITS
    await shop.service().settle()
    await nothing_is_held(shop)


@in_memory
async def test_a_deleted_product_is_told_of_the_release_too_as_its_404_is_not_remembered(
    shop: SmallShop,
) -> None:
    products = await shelf(shop, 5, 5)
    await shop.products.delete(products[1])
    with pytest.raises(errors.ProductNotFound):
        await shop.service(failing(None, "release", about=products[1])).place(None, *of(*products))
    assert len(await shop.noted()) == 1, "its release is not delivered yet"


@pytest.mark.parametrize(
    ("ending", "call", "refusal"),
    [
        ("cancel", "release", errors.ReservationShipped()),
        ("ship", "ship", errors.ReservationReleased()),
    ],
)
async def test_what_the_product_service_refuses_for_good_is_an_inconsistency_and_no_note_stays(
    shop: SmallShop, ending: str, call: str, refusal: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    product, other = products = await shelf(shop, 5, 5)
    order = await shop.service().place(None, *of(*products))
    unsure = shop.service(failing(refusal, call, about=product))
    ended = await getattr(unsure, ending)(order.pk)
    assert await shop.noted() == []
    assert shop.counted("orders_inconsistent") == 1
    assert f"inconsistent: order {order.pk}, product {product}" in caplog.text
    assert (await shop.products.stock(other)).reserved == 0
    assert await shop.listed() == [ended]


# Errors that nobody thought of.


@in_memory
async def test_one_note_that_cannot_be_settled_never_holds_up_the_others(
    shop: SmallShop, caplog: pytest.LogCaptureFixture
) -> None:
    product = await shop.add(50)
    for _ in range(12):
        await shop.dies_at("place", None, product)
    bad = min(shop.ordered)
    for call in ("end", "release", "remove_note"):
        shop.let_pass(LATER)
        await shop.service(failing(RuntimeError("a bug"), call, about=bad)).settle()
        assert await shop.noted() == [bad]
    assert shop.counted("orders_settling_errors") == 3
    assert caplog.text.count(f"order {bad} cannot be settled") == 3
    await shop.settle()
    await nothing_is_held(shop)


async def test_an_order_is_settled_by_hand_unless_its_request_may_be_at_work(
    shop: SmallShop,
) -> None:
    product = await shop.add(5)
    await shop.dies_at("place", None, product)
    await shop.service().settle()
    [pk] = await shop.noted()
    settle_order = shop.service().settling.settle_order
    assert await settle_order(pk, product) == "under_way"
    shop.let_pass(-HOUR)  # a note from the future is old
    assert await settle_order(pk, product) == "failed"
    await nothing_is_held(shop)
    items = of(product, await shop.add(5))
    placed = await shop.service().place(None, *items)
    for item in items:
        assert await settle_order(placed.pk, item.product_pk) == "placed"
        assert (await shop.products.stock(item.product_pk)).reserved == UNITS


@in_memory
@pytest.mark.parametrize(
    ("error", "counted"), [(RuntimeError("a bug"), 3), (errors.StoreUnavailable(), 0)]
)
async def test_no_error_ends_settling_and_the_next_round_comes(
    shop: SmallShop, error: Exception, counted: int, caplog: pytest.LogCaptureFixture
) -> None:
    await shop.dies_at("place", None, await shop.add(5))
    failures, is_settled = [error] * 3, asyncio.Event()

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
