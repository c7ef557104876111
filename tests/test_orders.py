"""What `Orders` promises, on each storage: orders that were placed, and the lists they stand in."""

import asyncio
import itertools
from dataclasses import replace
from functools import partial

import pytest

from shopsphere.domain import orders as rules
from shopsphere.domain.errors import InvalidRequest, OrderNotFound
from shopsphere.domain.pks import new_pk
from shopsphere.domain.records import TEN_MINUTES, OrderRecord
from shopsphere.domain.values import EVER_PLACED, Order, OrderStatus, Reservation
from shopsphere.lists import cursor_of
from shopsphere.ordering.orders import SHOP, Orders
from shopsphere.records import Listing, Records
from tests.moved_clock import MovedClock

pytestmark = pytest.mark.anyio

PLACED, FAILED = OrderStatus.PLACED, OrderStatus.FAILED
CANCELLED, SHIPPED = OrderStatus.CANCELLED, OrderStatus.SHIPPED
ANNA, BERT = new_pk(), new_pk()


async def placed(records: Records, user_pk: str | None = None) -> Order:
    """Place an order of two items, without entering it in any list."""
    pk = new_pk()
    held = [Reservation(new_pk(), pk, 2, 999, "Tea ☕"), Reservation(new_pk(), pk, 1, 5, "Milk")]
    place = partial(rules.place, held=held, user_pk=user_pk, began=await records.add_note(pk))
    return await records.change(place, OrderRecord(pk=pk))


async def ended(records: Records, order: Order, status: OrderStatus) -> Order:
    ended = await records.change(partial(rules.end, status=status), OrderRecord(pk=order.pk))
    assert ended
    return ended


async def entered(records: Records, user_pk: str | None = None) -> Order:
    """Place an order and enter it in its lists."""
    order = await placed(records, user_pk)
    await Orders(records).enter(order)
    return order


async def members(records: Records, slot: str, name: str = "all") -> list[str]:
    return [entry.member for entry in await records.entries(Listing(slot, name), 0, 1000)]


async def lists_of(records: Records, slot: str) -> dict[str, list[str]]:
    """Return what stands in each list of a slot."""
    return {status.value: await members(records, slot, status) for status in EVER_PLACED}


async def test_an_order_is_got_by_its_customer_and_by_the_shop(records: Records) -> None:
    orders = Orders(records)
    theirs, nobodys = await placed(records, ANNA), await placed(records)

    assert await orders.get(theirs.pk) == await orders.get(theirs.pk, ANNA) == theirs
    assert await orders.find(nobodys.pk) == nobodys
    assert theirs.total == 20.03
    for order in (theirs, nobodys):
        with pytest.raises(OrderNotFound):
            await orders.get(order.pk, BERT)


async def test_what_was_never_placed_is_not_there(records: Records) -> None:
    orders, unknown, failed = Orders(records), new_pk(), new_pk()
    await records.change(rules.fail, OrderRecord(pk=failed))

    for pk in (unknown, failed):
        assert await orders.find(pk) is None
        with pytest.raises(OrderNotFound):
            await orders.get(pk)


@pytest.mark.parametrize("status", [PLACED, CANCELLED, SHIPPED])
async def test_an_order_that_was_placed_stays(
    records: Records, clock: MovedClock, status: OrderStatus
) -> None:
    order = await entered(records)
    if status is not PLACED:
        order = await ended(records, order, status)
    clock.move(400 * 24 * 3600)

    assert await Orders(records).get(order.pk) == order
    assert (await Orders(records).page(None, None, 10)).items == [order]


async def test_a_failed_order_is_remembered_for_ten_minutes(
    records: Records, clock: MovedClock
) -> None:
    pk = new_pk()
    await records.change(rules.fail, OrderRecord(pk=pk))
    clock.move(TEN_MINUTES - 60)
    [remembered] = await records.read(OrderRecord(pk=pk))
    clock.move(60)
    [forgotten] = await records.read(OrderRecord(pk=pk))

    assert (remembered.status, forgotten.status) == (FAILED, OrderStatus.NONE)


async def test_lists_hold_the_orders_of_the_shop_and_of_each_customer_as_they_are_now(
    records: Records,
) -> None:
    orders = Orders(records)
    users = [None, ANNA, BERT, ANNA, None, ANNA]
    made = [await entered(records, user) for user in users]
    made[3] = await ended(records, made[3], CANCELLED)
    for order in reversed(made):
        await orders.enter(order)  # a second time: nothing is doubled, nothing moves

    for user in (ANNA, BERT, new_pk()):
        page = await orders.page(user, None, 100)
        assert page.items == [order for order in made if order.user_pk == user]
    assert (await orders.page(None, None, 100)).items == made


async def test_an_order_is_in_no_list_before_it_is_entered(records: Records) -> None:
    await placed(records, ANNA)

    for user in (None, ANNA):
        assert (await Orders(records).page(user, None, 100)).items == []


@pytest.mark.parametrize("limit", [1, 2, 3, 4, 5])
async def test_a_walk_by_pages_meets_every_order_once(records: Records, limit: int) -> None:
    made = [await entered(records, ANNA) for _ in range(4)]
    for user in (None, ANNA):
        pages = [await Orders(records).page(user, None, limit)]
        while (cursor := pages[-1].next_after) is not None:
            pages.append(await Orders(records).page(user, cursor, limit))

        assert [order for page in pages for order in page.items] == made
        assert len(pages) == -(-4 // limit), "an exactly full last page is the last"


async def test_a_cursor_is_of_one_list_and_so_is_a_pk(records: Records) -> None:
    orders = Orders(records)
    made = [await entered(records, user) for user in (ANNA, BERT, ANNA)]
    cursor = (await orders.page(ANNA, None, 1)).next_after

    assert (await orders.page(ANNA, cursor, 9)).items == [made[2]]
    assert (await orders.page(ANNA, made[0].pk, 9)).items == [made[2]]
    assert (await orders.page(None, made[0].pk, 1)).items == [made[1]]
    for user, wrong in (
        (None, cursor),
        (BERT, cursor),
        (ANNA, made[1].pk),
        (ANNA, new_pk()),
        (ANNA, cursor_of(Listing(ANNA, PLACED), 1)),
        (None, (await placed(records)).pk),
    ):
        with pytest.raises(InvalidRequest):
            await orders.page(user, wrong, 9)


@pytest.mark.parametrize("status", [CANCELLED, SHIPPED])
@pytest.mark.parametrize("user_pk", [None, ANNA], ids=["nobody", "anna"])
async def test_whoever_writes_last_an_order_is_in_the_lists_of_its_status(
    records: Records, status: OrderStatus, user_pk: str | None
) -> None:
    orders = Orders(records)
    slots = [SHOP, *([user_pk] if user_pk else [])]
    for writes in itertools.permutations(["placed", "ended", "placed"]):
        order = await placed(records, user_pk)
        end = await ended(records, order, status)
        for write in writes:
            await orders.enter(order if write == "placed" else end)

        for slot in slots:
            lists = await lists_of(records, slot)
            assert [name for name, pks in lists.items() if order.pk in pks] == [status.value]
            assert (await members(records, slot)).count(order.pk) == 1


async def test_each_order_is_in_the_list_of_its_status_with_positions_of_its_own(
    records: Records,
) -> None:
    orders = Orders(records)
    made = [await entered(records, ANNA) for _ in range(4)]
    for order, status in ((made[2], CANCELLED), (made[0], CANCELLED), (made[1], SHIPPED)):
        await orders.enter(await ended(records, order, status))

    for slot in (SHOP, ANNA):
        assert await members(records, slot) == [order.pk for order in made]
        assert await lists_of(records, slot) == {
            "PLACED": [made[3].pk],
            "CANCELLED": [made[2].pk, made[0].pk],
            "SHIPPED": [made[1].pk],
        }


async def test_a_follower_misses_no_order_of_eight_customers_who_place_at_once(
    records: Records,
) -> None:
    async def customer() -> list[Order]:
        user_pk = new_pk()
        return [await entered(records, user_pk) for _ in range(6)]

    placing = asyncio.gather(*(customer() for _ in range(8)))
    seen: list[str] = []
    while True:
        is_last = placing.done()
        page = await Orders(records).page(None, seen[-1] if seen else None, 100)
        seen += [order.pk for order in page.items]
        if is_last:
            break
        await asyncio.sleep(0)
    made = [order.pk for orders in await placing for order in orders]

    assert sorted(seen) == sorted(made)


async def test_an_entry_without_a_placed_order_is_skipped(records: Records) -> None:
    orders = Orders(records)
    made = [await entered(records)]
    await orders.enter(replace(made[0], pk=new_pk()))
    made.append(await entered(records))

    first = await orders.page(None, None, 2)
    assert first.items == made[:1]
    assert (await orders.page(None, first.next_after, 2)).items == made[1:]


async def test_placing_and_failing_at_once_agree(records: Records) -> None:
    for _ in range(10):
        pk = new_pk()
        place = partial(rules.place, held=[], user_pk=None)
        outcomes = await asyncio.gather(
            records.change(place, OrderRecord(pk=pk)),
            *(records.change(rules.fail, OrderRecord(pk=pk)) for _ in range(2)),
            return_exceptions=True,
        )
        [record] = await records.read(OrderRecord(pk=pk))

        is_placed = record.status is PLACED
        assert [isinstance(outcome, Order) for outcome in outcomes] == [is_placed] * 3
