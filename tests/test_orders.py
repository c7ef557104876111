"""What `Orders` promises, on each storage: orders that were placed, and the lists they stand in."""

from functools import partial

import pytest

from shopsphere.domain import orders as rules
from shopsphere.domain.errors import InvalidRequest, OrderNotFound
from shopsphere.domain.pks import new_pk
from shopsphere.domain.records import OrderRecord
from shopsphere.domain.values import Order, OrderStatus, Reservation
from shopsphere.ordering.orders import SHOP, Orders
from shopsphere.records import EVERYTHING, Listing, Records

pytestmark = pytest.mark.anyio

PLACED, CANCELLED, SHIPPED = OrderStatus.PLACED, OrderStatus.CANCELLED, OrderStatus.SHIPPED
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
    return [entry.member for entry in await records.entries(Listing(slot, name), EVERYTHING, 1000)]


async def test_an_order_is_got_by_its_customer_and_by_the_shop(records: Records) -> None:
    orders, failed = Orders(records), new_pk()
    theirs, nobodys = await placed(records, ANNA), await placed(records)
    await records.change(partial(rules.end, status=OrderStatus.FAILED), OrderRecord(pk=failed))

    assert await orders.get(theirs.pk) == await orders.get(theirs.pk, ANNA) == theirs
    for pk, user_pk in ((theirs.pk, BERT), (nobodys.pk, BERT), (failed, None), (new_pk(), None)):
        with pytest.raises(OrderNotFound):
            await orders.get(pk, user_pk)


async def test_lists_hold_the_orders_of_the_shop_and_of_each_customer_as_they_are_now(
    records: Records,
) -> None:
    orders = Orders(records)
    made = [await entered(records, user) for user in (None, ANNA, BERT, ANNA, None, ANNA)]
    await placed(records, ANNA)  # and not entered
    made[5] = await ended(records, made[5], CANCELLED)
    made[3] = await ended(records, made[3], CANCELLED)
    made[1] = await ended(records, made[1], SHIPPED)
    for order in (made[5], *reversed(made)):
        await orders.enter(order)  # again: nothing is doubled, nothing moves

    for user in (None, ANNA, BERT, new_pk()):
        page = await orders.page(user, None, 100)
        assert page.items == [order for order in made if user in (None, order.user_pk)]
    nobodys = [made[0].pk, made[2].pk, made[4].pk]
    for slot, on_their_way in ((SHOP, nobodys), (ANNA, [])):
        assert await members(records, slot, PLACED) == on_their_way
        assert await members(records, slot, CANCELLED) == [made[5].pk, made[3].pk]
        assert await members(records, slot, SHIPPED) == [made[1].pk]


async def test_a_cursor_is_of_one_list_and_so_is_a_pk(records: Records) -> None:
    orders = Orders(records)
    made = [await entered(records, user) for user in (ANNA, BERT, ANNA)]
    cursor = (await orders.page(ANNA, None, 1)).next_after

    assert (await orders.page(ANNA, cursor, 9)).items == [made[2]]
    assert (await orders.page(ANNA, made[0].pk, 9)).items == [made[2]]
    assert (await orders.page(None, made[0].pk, 1)).items == [made[1]]
    unlisted = await placed(records)
    for user, wrong in ((None, cursor), (BERT, cursor), (ANNA, made[1].pk), (None, unlisted.pk)):
        with pytest.raises(InvalidRequest):
            await orders.page(user, wrong, 9)
