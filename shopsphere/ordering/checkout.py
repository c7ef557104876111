"""Placing, cancelling and shipping an order: the one hard thing (DESIGN section 5).

The product service owns the stock. Checking and taking it is one step there, keyed by the order, so
it can be repeated and given back. Whatever could be left half done is noted first; what a crash, a
lost message or a slow neighbour leaves behind is finished by `settling`.
"""

import asyncio
import contextlib
import logging
from collections.abc import Sequence
from functools import partial

from shopsphere.deadline import Deadline
from shopsphere.domain import orders as rules
from shopsphere.domain.errors import (
    OrderIsCancelled,
    OrderIsShipped,
    OrderRefused,
    ProductNotFound,
    StoreUnavailable,
    Unavailable,
)
from shopsphere.domain.pks import is_pk
from shopsphere.domain.records import OrderRecord
from shopsphere.domain.values import Item, Order, OrderStatus, Reservation, by_product
from shopsphere.ordering.figures import OrderFigures
from shopsphere.ordering.notes import ENDED_AS, Command, PendingCommand
from shopsphere.ordering.orders import Orders
from shopsphere.ordering.telling import ProductService, Telling
from shopsphere.records import Records

log = logging.getLogger("shopsphere.ordering")


class Checkout:
    """The commands of customers and of the shop. Each can be sent again after any failure."""

    def __init__(
        self, records: Records, products: ProductService, telling: Telling, figures: OrderFigures
    ) -> None:
        self._records = records
        self._products = products
        self._telling = telling
        self._figures = figures
        self._orders = Orders(records)

    async def place(
        self, pk: str, items: Sequence[Item], user_pk: str | None, deadline: Deadline
    ) -> Order:
        """Place an order of all items, or of none. Only the request that made `pk` calls this, with
        items of different products.

        Raise the OrderRefused of the first item that is refused: then nothing is held, or settling
        gives it back. Raise Unavailable when the outcome is not known: then the note stays.
        """
        try:
            if not all(is_pk(item.product_pk) for item in items):
                raise ProductNotFound
            order = await self._place(pk, items, user_pk, deadline)
        except OrderRefused as refusal:
            self._figures.refused.labels(refusal.code).inc()
            raise
        self._figures.placed.inc()
        return order

    async def _place(
        self, pk: str, items: Sequence[Item], user_pk: str | None, deadline: Deadline
    ) -> Order:
        note = PendingCommand.of(Command.PLACE, pk, [item.product_pk for item in items])
        await self._records.add_note(note.text)
        deadline.order_pk = pk
        held: list[Reservation] = []
        try:
            for item in by_product(items):
                held.append(await self._products.reserve(pk, item, deadline.at))
        except OrderRefused as refusal:
            to_release = [each.product_pk for each in held]
            if not refusal.is_remembered:
                to_release.append(item.product_pk)
            if await self._tell(Command.CANCEL, pk, to_release, deadline):
                await self._forget(note)
            raise
        order = await self._records.change(
            partial(rules.place, held=held, user_pk=user_pk),
            OrderRecord(pk=pk),
            within=deadline.place_by,
        )
        await self._orders.enter(order)
        await self._forget(note)
        return order

    async def cancel(self, pk: str, user_pk: str | None, deadline: Deadline) -> Order:
        """Cancel a placed order; its stock goes back, once, however often this is called.

        With a `user_pk`, only an order of that user is found. It succeeds while the product service
        is unreachable, and the stock follows. Raise OrderNotFound or OrderIsShipped.
        """
        return await self._end(Command.CANCEL, await self._orders.get(pk, user_pk), deadline)

    async def ship(self, pk: str, deadline: Deadline) -> Order:
        """Mark a placed order as shipped, which is final; its units count as shipped, once.

        It succeeds while the product service is unreachable, and the stock figures follow. Raise
        OrderNotFound or OrderIsCancelled.
        """
        return await self._end(Command.SHIP, await self._orders.get(pk), deadline)

    async def _end(self, command: Command, order: Order, deadline: Deadline) -> Order:
        note = PendingCommand.of(command, order.pk, [item.product_pk for item in order.items])
        await self._records.add_note(note.text)
        order = await self._records.change(
            partial(rules.end, status=ENDED_AS[command]), OrderRecord(pk=order.pk)
        )
        if order.status is not ENDED_AS[command]:
            await self._forget(note)
            raise OrderIsShipped if order.status is OrderStatus.SHIPPED else OrderIsCancelled
        await self._orders.enter(order)
        if await self._tell(command, order.pk, note.product_pks, deadline):
            await self._forget(note)
        return order

    async def _tell(
        self, command: Command, order_pk: str, product_pks: Sequence[str], deadline: Deadline
    ) -> bool:
        """Tell the product service what became of an order, in half of the time that is left."""
        try:
            async with asyncio.timeout(deadline.seconds_left / 2):
                await self._telling.tell(command, order_pk, product_pks)
        except (Unavailable, TimeoutError):
            log.warning("order %s: the product service will be told later (%s)", order_pk, command)
            return False
        return True

    async def _forget(self, note: PendingCommand) -> None:
        """Remove a note of what is done; one that stays is settled, which changes nothing."""
        with contextlib.suppress(StoreUnavailable):
            await self._records.remove_note(note.text)
