"""What `OrderStore` promises, sentence by sentence, on every storage."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import replace

import pytest
from shopsphere.stores import DAY_SECONDS, Claim, OrderStore

from shopsphere.domain.errors import IdempotencyKeyReused, OrderNotFound
from shopsphere.domain.pks import new_pk
from shopsphere.domain.values import Order, OrderStatus, Reservation
from shopsphere.models import Command, Mark
from tests.servers import RedisServer
from tests.small_shop import SmallShop

pytestmark = pytest.mark.anyio

LONG = 10.0
PLACED, FAILED = OrderStatus.PLACED, OrderStatus.FAILED
CANCELLED, SHIPPED, PENDING = OrderStatus.CANCELLED, OrderStatus.SHIPPED, OrderStatus.PENDING
ENDINGS = [CANCELLED, SHIPPED]


@pytest.fixture
def store(shop: SmallShop) -> OrderStore:
    """An empty store of orders, on each storage in turn."""
    return shop.orders


def new_order(user_id: str | None = None) -> Order:
    return Order(new_pk(), new_pk(), "", 2, 0, PENDING, user_id)


def reserved(order: Order, name: str = "Laptop", price_cents: int = 999) -> Reservation:
    return Reservation(order.product_id, order.pk, order.quantity, price_cents, name)


async def placed(store: OrderStore, user_id: str | None = None) -> Order:
    """Place an order and list it."""
    order = new_order(user_id)
    await store.create(order, LONG)
    is_placed = await store.place(order.pk, reserved(order))
    assert is_placed
    await store.list_order(is_placed)
    return is_placed


async def status(store: OrderStore, pk: str) -> OrderStatus | None:
    record = await store.record(pk)
    return record.status if record else None


def new_mark(command: Command = Command.PLACING) -> Mark:
    return Mark(command, new_pk(), new_pk())


# Marks


@pytest.mark.parametrize("command", list(Command))
async def test_a_mark_is_as_old_as_the_time_that_has_passed(
    store: OrderStore, shop: SmallShop, command: Command
) -> None:
    mark = new_mark(command)
    await store.mark(mark)
    shop.let_pass(30)
    assert await store.old_marks(30) == [mark]
    assert await store.old_marks(31) == []
    ages = await store.marks_of(mark.pk, mark.product_id)
    assert ages == {mark: pytest.approx(30, abs=0.9)}


async def test_a_mark_made_again_is_young_again(store: OrderStore, shop: SmallShop) -> None:
    mark = new_mark()
    await store.mark(mark)
    shop.let_pass(30)
    await store.mark(mark)
    assert await store.old_marks(1) == []
    assert await store.count_marks() == 1


async def test_a_mark_is_taken_away_once(store: OrderStore) -> None:
    mark = new_mark()
    await store.mark(mark)
    assert await store.unmark(mark)
    assert not await store.unmark(mark)
    assert await store.old_marks(0) == []
    assert await store.marks_of(mark.pk, mark.product_id) == {}


async def test_the_marks_of_an_order_are_apart_for_each_command_and_product(
    store: OrderStore,
) -> None:
    pk, product, other_product = new_pk(), new_pk(), new_pk()
    marks = [Mark(command, pk, product) for command in Command]
    for mark in [*marks, Mark(Command.PLACING, pk, other_product), new_mark()]:
        await store.mark(mark)
    assert list(await store.marks_of(pk, product)) == marks
    await store.unmark(marks[0])
    assert list(await store.marks_of(pk, product)) == marks[1:]
    assert list(await store.marks_of(pk, other_product)) == [
        Mark(Command.PLACING, pk, other_product)
    ]


async def test_old_marks_come_oldest_first_for_each_command(
    store: OrderStore, shop: SmallShop
) -> None:
    marks = [new_mark(command) for command in (*Command, *Command, *Command)]
    for mark in marks:
        await store.mark(mark)
        shop.let_pass(1)
    await store.mark(marks[0])
    shop.let_pass(1)
    oldest = await store.old_marks(1)
    for command in Command:
        mine = [mark for mark in [*marks[1:], marks[0]] if mark.command is command]
        assert [mark for mark in oldest if mark.command is command] == mine


async def test_thousands_of_old_marks_are_all_returned(store: OrderStore, shop: SmallShop) -> None:
    marks = [new_mark() for _ in range(2500)] + [new_mark(Command.SHIPPING) for _ in range(1000)]
    await asyncio.gather(*map(store.mark, marks))
    shop.let_pass(5)
    young = new_mark()
    await store.mark(young)
    assert set(await store.old_marks(5)) == set(marks)
    assert len(await store.old_marks(5)) == len(marks)
    assert await store.count_marks() == len(marks) + 1


# Creating, placing, failing, moving


async def test_an_order_is_created_once(store: OrderStore) -> None:
    order = new_order("a user")
    assert await store.create(order, LONG) is PENDING
    assert await store.create(replace(order, quantity=9, user_id="another"), LONG) is PENDING
    assert await store.record(order.pk) == order


@pytest.mark.parametrize("ending", [PLACED, CANCELLED, SHIPPED, FAILED])
async def test_an_order_that_is_there_is_not_created_again(
    store: OrderStore, ending: OrderStatus
) -> None:
    order = await placed(store) if ending is not FAILED else new_order()
    if ending is FAILED:
        await store.fail(order.pk)
    elif ending in ENDINGS:
        await store.move(order.pk, ending)
    before = await store.record(order.pk)
    assert await store.create(replace(order, status=PENDING, quantity=9), LONG) is ending
    assert await store.record(order.pk) == before
    assert (await store.place(order.pk, reserved(order, "x")) is None) == (ending is FAILED)
    assert await store.record(order.pk) == before


async def test_placing_takes_name_and_price_of_the_reservation(store: OrderStore) -> None:
    order = new_order("a user")
    await store.create(order, LONG)
    is_placed = await store.place(order.pk, reserved(order, "Tea ☕", 250))
    assert is_placed == replace(order, status=PLACED, product_name="Tea ☕", unit_price_cents=250)
    assert await store.get(order.pk) == await store.record(order.pk) == is_placed
    assert is_placed.total == 5.0


async def test_an_order_that_was_placed_keeps_its_first_reservation(store: OrderStore) -> None:
    order = await placed(store)
    assert await store.place(order.pk, reserved(order, "another", 1)) == order


@pytest.mark.parametrize("ending", ENDINGS)
async def test_placing_an_order_that_has_ended_returns_it_as_it_is(
    store: OrderStore, ending: OrderStatus
) -> None:
    order = await placed(store)
    ended = await store.move(order.pk, ending)
    assert await store.place(order.pk, reserved(order)) == ended


async def test_nothing_is_placed_without_a_record_or_once_it_failed(store: OrderStore) -> None:
    unknown, failed = new_order(), new_order()
    assert await store.place(unknown.pk, reserved(unknown)) is None
    assert await store.record(unknown.pk) is None
    await store.create(failed, LONG)
    await store.fail(failed.pk)
    assert await store.place(failed.pk, reserved(failed)) is None
    assert await status(store, failed.pk) is FAILED


async def test_an_order_is_placed_within_its_seconds_only(
    store: OrderStore, shop: SmallShop
) -> None:
    early, late = new_order(), new_order()
    for order in (early, late):
        await store.create(order, LONG)
    shop.let_pass(LONG - 1)
    assert await store.place(early.pk, reserved(early))
    shop.let_pass(2)
    assert await store.place(late.pk, reserved(late)) is None
    assert await status(store, late.pk) is PENDING


@pytest.mark.parametrize("seconds", [-1.0, 0.0, 1e-05])
async def test_an_order_created_when_its_time_is_over_cannot_be_placed(
    store: OrderStore, shop: SmallShop, seconds: float
) -> None:
    order = new_order()
    assert await store.create(order, seconds) is PENDING
    shop.let_pass(0.5)
    assert await store.place(order.pk, reserved(order)) is None


async def test_creating_a_pending_order_again_gives_it_new_seconds(
    store: OrderStore, shop: SmallShop
) -> None:
    order = new_order()
    await store.create(order, LONG)
    shop.let_pass(LONG + 1)
    await store.create(order, LONG)
    shop.let_pass(LONG - 1)
    assert await store.place(order.pk, reserved(order))


async def test_an_order_fails_whether_it_is_pending_failed_or_unknown(store: OrderStore) -> None:
    pending, unknown = new_order(), new_order()
    await store.create(pending, LONG)
    for order in (pending, unknown, pending, unknown):
        assert await store.fail(order.pk) is FAILED
        assert await status(store, order.pk) is FAILED
    record = await store.record(unknown.pk)
    assert record == Order(unknown.pk, "", "", 0, 0, FAILED, None)


@pytest.mark.parametrize("final", [PLACED, CANCELLED, SHIPPED])
async def test_an_order_that_was_placed_never_fails_and_never_goes_away(
    store: OrderStore, shop: SmallShop, final: OrderStatus
) -> None:
    order = await placed(store)
    if final in ENDINGS:
        order = await store.move(order.pk, final)
    assert await store.fail(order.pk) is final
    shop.let_pass(2 * DAY_SECONDS)
    assert await store.get(order.pk) == order


@pytest.mark.parametrize("is_created", [False, True])
async def test_a_failed_record_stays_for_a_day_from_its_last_failure(
    store: OrderStore, shop: SmallShop, is_created: bool
) -> None:
    order = new_order()
    if is_created:
        await store.create(order, LONG)
    await store.fail(order.pk)
    shop.let_pass(DAY_SECONDS - 60)
    await store.fail(order.pk)
    shop.let_pass(DAY_SECONDS - 60)
    assert await store.create(order, LONG) is FAILED
    assert await store.place(order.pk, reserved(order)) is None
    shop.let_pass(61)
    assert await store.record(order.pk) is None
    assert await store.create(order, LONG) is PENDING


async def test_a_pending_record_does_not_go_away_by_itself(
    store: OrderStore, shop: SmallShop
) -> None:
    order = new_order()
    await store.create(order, LONG)
    shop.let_pass(30 * DAY_SECONDS)
    assert await status(store, order.pk) is PENDING


@pytest.mark.parametrize("ending", ENDINGS)
@pytest.mark.parametrize("other", ENDINGS)
async def test_an_order_ends_once_and_its_end_is_final(
    store: OrderStore, ending: OrderStatus, other: OrderStatus
) -> None:
    order = await placed(store)
    ended = replace(order, status=ending)
    assert await store.move(order.pk, ending) == ended
    assert await store.move(order.pk, other) == ended
    assert await store.get(order.pk) == ended


@pytest.mark.parametrize("ending", ENDINGS)
async def test_what_was_never_placed_is_not_found(store: OrderStore, ending: OrderStatus) -> None:
    unknown, pending, failed = new_order(), new_order(), new_order()
    await store.create(pending, LONG)
    await store.fail(failed.pk)
    for order, before in ((unknown, None), (pending, PENDING), (failed, FAILED)):
        with pytest.raises(OrderNotFound):
            await store.move(order.pk, ending)
        with pytest.raises(OrderNotFound):
            await store.get(order.pk)
        assert await status(store, order.pk) is before


async def test_an_order_of_somebody_else_is_not_found(store: OrderStore) -> None:
    theirs, nobodys = await placed(store, "customer 1"), await placed(store)
    assert await store.get(theirs.pk) == await store.get(theirs.pk, "customer 1") == theirs
    for order in (theirs, nobodys):
        with pytest.raises(OrderNotFound):
            await store.get(order.pk, "customer 2")


async def test_of_many_that_race_one_ends_the_order(store: OrderStore) -> None:
    order = await placed(store)
    ended = await asyncio.gather(
        *(store.move(order.pk, ending) for _ in range(20) for ending in ENDINGS)
    )
    assert len({one.status for one in ended}) == 1


async def test_placing_and_failing_at_once_agree(store: OrderStore) -> None:
    for _ in range(20):
        order = new_order()
        await store.create(order, LONG)
        is_placed, outcome, _ = await asyncio.gather(
            store.place(order.pk, reserved(order)), store.fail(order.pk), store.fail(order.pk)
        )
        assert outcome is (PLACED if is_placed else FAILED)
        assert await status(store, order.pk) is outcome


# Lists


async def test_lists_hold_all_orders_and_those_of_a_user_in_the_order_of_pks(
    store: OrderStore,
) -> None:
    users = [None, "anna", "bob", "anna", None, "anna"]
    orders = [await placed(store, user) for user in users]
    for order in reversed(orders):
        await store.list_order(order)  # a second time: nothing is doubled
    for user in ("anna", "bob", "nobody"):
        page = await store.list_page(user, None, 100)
        assert page.items == [order for order in orders if order.user_id == user]
    assert (await store.list_page(None, None, 100)).items == orders


async def test_an_order_is_in_no_list_before_it_is_listed(store: OrderStore) -> None:
    order = new_order("anna")
    await store.create(order, LONG)
    await store.place(order.pk, reserved(order))
    for user in (None, "anna"):
        assert (await store.list_page(user, None, 100)).items == []


async def test_a_list_shows_orders_as_they_are_now(store: OrderStore) -> None:
    order = await placed(store)
    ended = await store.move(order.pk, CANCELLED)
    assert (await store.list_page(None, None, 100)).items == [ended]


@pytest.mark.parametrize("limit", [1, 2, 3, 4, 5])
async def test_a_walk_by_pages_meets_every_order_once(store: OrderStore, limit: int) -> None:
    orders = [await placed(store) for _ in range(4)]
    walked: list[Order] = []
    after: str | None = None
    while True:
        page = await store.list_page(None, after, limit)
        assert len(page.items) <= limit
        walked += page.items
        after = page.next_after
        if after is None:
            break
    assert walked == orders


async def test_a_full_last_page_has_nothing_after_it(store: OrderStore) -> None:
    orders = [await placed(store) for _ in range(3)]
    page = await store.list_page(None, None, 3)
    assert (page.items, page.next_after) == (orders, None)
    assert (await store.list_page(None, orders[-1].pk, 3)).items == []


# Idempotency keys


def claiming(
    store: OrderStore, owner: str, order: str, seconds: float = LONG, request: str = "request"
) -> Awaitable[Claim]:
    return store.claim("key", request, owner, order, seconds)


async def test_a_new_key_is_bound_to_the_order_and_keeps_it(store: OrderStore) -> None:
    assert await claiming(store, "anna", "first") == Claim("first", is_mine=True)
    await store.end_claim("key", "anna", forget=False)
    assert await claiming(store, "bob", "second") == Claim("first", is_mine=True)


async def test_a_key_has_one_owner_until_its_seconds_are_over(
    store: OrderStore, shop: SmallShop
) -> None:
    await claiming(store, "anna", "first")
    shop.let_pass(4)
    rival = await claiming(store, "bob", "second")
    assert (rival.order_pk, rival.is_mine) == ("first", False)
    assert rival.seconds_left == pytest.approx(6, abs=0.9)
    shop.let_pass(7)
    assert await claiming(store, "bob", "second") == Claim("first", is_mine=True)
    assert not (await claiming(store, "anna", "first")).is_mine


async def test_an_owner_that_claims_again_is_no_rival_to_itself(
    store: OrderStore, shop: SmallShop
) -> None:
    await claiming(store, "anna", "first")
    shop.let_pass(6)
    assert await claiming(store, "anna", "first") == Claim("first", is_mine=True)
    shop.let_pass(6)
    assert not (await claiming(store, "bob", "second")).is_mine


@pytest.mark.parametrize("is_held", [True, False])
async def test_a_key_that_came_with_another_request_is_refused(
    store: OrderStore, is_held: bool
) -> None:
    await claiming(store, "anna", "first")
    if not is_held:
        await store.end_claim("key", "anna", forget=False)
    for owner in ("anna", "bob"):
        with pytest.raises(IdempotencyKeyReused):
            await claiming(store, owner, "second", request="another")
    assert (await claiming(store, "anna", "first")).is_mine


async def test_a_key_is_kept_for_a_day_from_its_last_claim(
    store: OrderStore, shop: SmallShop
) -> None:
    await claiming(store, "anna", "first")
    shop.let_pass(DAY_SECONDS - 60)
    await claiming(store, "bob", "second")
    await store.rebind("key", "bob", "third")
    await store.end_claim("key", "bob", forget=False)
    shop.let_pass(DAY_SECONDS - 60)
    with pytest.raises(IdempotencyKeyReused):
        await claiming(store, "bob", "second", request="another")
    shop.let_pass(61)
    assert await claiming(store, "cleo", "fourth", request="another") == Claim(
        "fourth", is_mine=True
    )


async def test_a_claim_that_was_not_given_does_not_keep_the_key_longer(
    store: OrderStore, shop: SmallShop
) -> None:
    await claiming(store, "anna", "first", seconds=DAY_SECONDS)
    shop.let_pass(DAY_SECONDS - 60)
    assert not (await claiming(store, "bob", "second")).is_mine
    with pytest.raises(IdempotencyKeyReused):
        await claiming(store, "bob", "second", request="another")
    shop.let_pass(61)
    assert await claiming(store, "bob", "second") == Claim("second", is_mine=True)


async def test_only_the_present_owner_binds_a_key_anew(store: OrderStore, shop: SmallShop) -> None:
    assert not await store.rebind("key", "anna", "second")
    await claiming(store, "anna", "first", seconds=1)
    assert await store.rebind("key", "anna", "second")
    assert not await store.rebind("key", "bob", "third")
    shop.let_pass(2)
    assert await claiming(store, "bob", "fourth") == Claim("second", is_mine=True)
    assert not await store.rebind("key", "anna", "fifth")
    await store.end_claim("key", "bob", forget=False)
    assert not await store.rebind("key", "bob", "sixth")
    assert await claiming(store, "cleo", "seventh") == Claim("second", is_mine=True)


@pytest.mark.parametrize("forget", [True, False])
async def test_only_the_present_owner_ends_a_claim(
    store: OrderStore, shop: SmallShop, forget: bool
) -> None:
    await store.end_claim("key", "anna", forget=forget)
    await claiming(store, "anna", "first", seconds=1)
    shop.let_pass(2)
    await claiming(store, "bob", "second")
    await store.end_claim("key", "anna", forget=forget)
    assert not (await claiming(store, "cleo", "third")).is_mine
    await store.end_claim("key", "bob", forget=forget)
    await store.end_claim("key", "bob", forget=forget)
    bound = "third" if forget else "first"
    assert await claiming(store, "cleo", "third") == Claim(bound, is_mine=True)


async def test_a_forgotten_key_may_come_with_another_request(store: OrderStore) -> None:
    await claiming(store, "anna", "first")
    await store.end_claim("key", "anna", forget=True)
    assert await claiming(store, "bob", "second", request="another") == Claim(
        "second", is_mine=True
    )


async def test_of_many_that_claim_a_key_at_once_one_gets_it(store: OrderStore) -> None:
    claims = await asyncio.gather(*(claiming(store, f"{n}", f"order {n}") for n in range(20)))
    assert sum(claim.is_mine for claim in claims) == 1
    assert len({claim.order_pk for claim in claims}) == 1


# Redis


@pytest.fixture(params=[-3600, 3600])
def wrong_clock(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> Callable[[], None]:
    """Call it to have the clock of this process, not that of Redis, an hour wrong."""
    right = time.time
    return lambda: monkeypatch.setattr(time, "time", lambda: right() + request.param)


@pytest.mark.parametrize("storage", ["redis"])
async def test_on_redis_nothing_depends_on_the_clock_of_the_service(
    store: OrderStore, shop: SmallShop, wrong_clock: Callable[[], None]
) -> None:
    mark, order, failed = new_mark(), new_order(), new_order()
    await store.mark(mark)
    await store.create(order, LONG)
    await claiming(store, "anna", "first")
    wrong_clock()
    await store.fail(failed.pk)
    assert await store.old_marks(1) == []
    assert (await store.marks_of(mark.pk, mark.product_id))[mark] < 1
    assert not (await claiming(store, "bob", "second")).is_mine
    assert await store.place(order.pk, reserved(order))
    shop.let_pass(LONG + 1)
    assert await store.old_marks(LONG) == [mark]
    assert (await claiming(store, "bob", "second")).is_mine
    assert await status(store, failed.pk) is FAILED


@pytest.mark.parametrize("storage", ["redis"])
async def test_on_redis_an_older_score_is_an_older_mark(
    store: OrderStore, redis_server: RedisServer
) -> None:
    mark = new_mark()
    await store.mark(mark)
    [key] = redis_server.client.keys("*:orders-placing")
    seconds, _ = redis_server.client.time()
    redis_server.client.zadd(key, {f"{mark.pk} {mark.product_id}": seconds - 100})
    assert await store.old_marks(100) == [mark]
    assert await store.old_marks(102) == []


@pytest.mark.parametrize("storage", ["redis"])
async def test_on_redis_a_walk_skips_a_listed_order_whose_record_is_not_there(
    store: OrderStore,
) -> None:
    orders = [await placed(store) for _ in range(2)]
    await store.list_order(new_order())
    assert (await store.list_page(None, None, 100)).items == orders
