"""Visible orders and their lists."""

import asyncio

from shopsphere.domain.errors import OrderNotFound
from shopsphere.domain.records import OrderRecord
from shopsphere.domain.values import EVER_PLACED, Order, OrderStatus, Page
from shopsphere.lists import page_of
from shopsphere.records import EVERYTHING, Listing, Records, Span

SHOP = "orders"
"""The slot of the shop's lists; a customer's lists are in the customer's own slot."""


class Orders:
    """Placed orders, listed for the shop and for each customer: all, and by status."""

    def __init__(self, records: Records) -> None:
        self._records = records

    async def find(self, pk: str) -> Order | None:
        """Return an order if it was placed."""
        [record] = await self._records.read(OrderRecord(pk=pk))
        return record.order() if record.status in EVER_PLACED else None

    async def get(self, pk: str, user_pk: str | None = None) -> Order:
        """Return a placed order, of this user if one is given; raise OrderNotFound."""
        order = await self.find(pk)
        if order is None or user_pk not in (None, order.user_pk):
            raise OrderNotFound
        return order

    async def page(
        self,
        user_pk: str | None,
        after: str | None,
        limit: int,
        status: str | None = None,
        span: Span = EVERYTHING,
    ) -> Page[Order]:
        """Return up to `limit` orders of one user, or of all if `user_pk` is None, with this status
        if one is given.

        They are in the order in which they became visible, or got this status; there may be fewer,
        even before the end, while orders end. `after` is a cursor or the pk of an order in the same
        list; otherwise raise InvalidRequest.
        """
        wanted = {status} if status else EVER_PLACED
        listing = Listing(user_pk or SHOP, status) if status else Listing(user_pk or SHOP)
        page = await page_of(self._records, listing, span, after, limit, OrderRecord)
        return page.showing([each.order() for each in page.items if each.status in wanted])

    async def enter(self, order: Order) -> None:
        """Add an order to the lists of its status, and remove it from those of its earlier one.

        An order never goes back to PLACED, so the order of concurrent writes does not matter.
        """
        slots = [SHOP, order.user_pk] if order.user_pk else [SHOP]
        await asyncio.gather(*(self._enter(slot, order) for slot in slots))

    async def _enter(self, slot: str, order: Order) -> None:
        is_placed = order.status is OrderStatus.PLACED
        leaving = [] if is_placed else [Listing(slot, OrderStatus.PLACED)]
        await self._records.enter(order.pk, [Listing(slot), Listing(slot, order.status)], leaving)
