"""Placing, cancelling and shipping an order: the hard part (docs/ordering.md).

The product service owns the stock. It checks and reserves stock in one step, keyed by the order, so
a reservation can be repeated and released. Every command is noted before it begins; if a crash, a
lost message or a slow service interrupts it, `settling` finishes it.
"""

import asyncio
import contextlib
import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial

from shopsphere.deadline import Deadline
from shopsphere.domain import errors
from shopsphere.domain import idempotency as keys
from shopsphere.domain import orders as rules
from shopsphere.domain.errors import OrderRefused, ProductNotFound, StoreUnavailable, Unavailable
from shopsphere.domain.pks import is_pk, new_pk
from shopsphere.domain.records import KeyRecord, OrderRecord
from shopsphere.domain.values import Item, Order, Reservation, by_product
from shopsphere.ordering.metrics import OrderMetrics
from shopsphere.ordering.notes import ENDS_AS, Command, PendingCommand
from shopsphere.ordering.orders import Orders
from shopsphere.ordering.product_client import ProductClient
from shopsphere.ordering.settling import Settling
from shopsphere.records import Records

log = logging.getLogger("shopsphere.ordering")


@dataclass
class Checkout:
    """The commands of customers and administrators. Each is safe to repeat after any failure.

    `settling` finishes what is interrupted; one request holds an idempotency key for
    `lease_seconds`; `orders` are those that were placed.
    """

    records: Records
    products: ProductClient
    settling: Settling
    metrics: OrderMetrics
    lease_seconds: float
    _freeing: set[asyncio.Task[None]] = field(init=False, default_factory=set)

    def __post_init__(self) -> None:
        self.orders = Orders(self.records)

    async def place(
        self, key: str | None, items: Sequence[Item], user_pk: str | None, deadline: Deadline
    ) -> tuple[Order, bool]:
        """Place an order for all items or for none; each item is of a different product.

        Return the order, and whether an earlier request with this `key` placed it. Without a key,
        it is always a new order. Raise the OrderRefused of the first item that is refused; the
        units of the others are released, if necessary by settling, and the key is free. Raise
        Unavailable if the outcome is unknown; the note then remains. Raise RequestInProgress while
        another request may be placing the order, IdempotencyKeyReused if the key was used for a
        different request.
        """
        pk = new_pk()
        if key is not None:
            earlier = await self._bind(key, pk, items, deadline)
            if earlier:
                return earlier, True
        try:
            order = await self._place(pk, items, user_pk, deadline)
        except OrderRefused as refusal:
            self.metrics.refused.labels(refusal.code).inc()
            await self._free(partial(keys.forget, pk=pk), key)
            raise
        except BaseException:
            await self._free(partial(keys.end_lease, pk=pk), key)
            raise
        self.metrics.placed.inc()
        return order, False

    async def _bind(
        self, key: str, pk: str, items: Sequence[Item], deadline: Deadline
    ) -> Order | None:
        """Bind a key to this pk, or return the order of an earlier request, entered in its lists.

        If that request placed no order, first make sure that it never will. Raise RequestInProgress
        while it may still be running, Unavailable if its reservations cannot be released or too
        little time is left.
        """
        record, request = KeyRecord(pk=key), keys.digest_of(*by_product(items))
        bind = partial(keys.bind, request=request, pk=pk, lease_seconds=self.lease_seconds)
        bound = await self.records.change(bind, record)
        deadline.began = bound.bound_at
        if bound.pk == pk:
            return None
        if bound.lease_seconds_left and not await self.orders.find(bound.pk):
            raise errors.RequestInProgress(retry_after=bound.lease_seconds_left)
        product_pks = [item.product_pk for item in items if is_pk(item.product_pk)]
        # The key is bound to the same items, so these are the earlier request's products.
        pending = PendingCommand.of(Command.PLACE, bound.pk, product_pks)
        order = await self.settling.settle(pending)
        if order:
            return order
        if deadline.seconds_left < deadline.timeout_seconds / 2:
            await self._free(partial(keys.forget, pk=bound.pk), key)
            raise errors.OrderGivenUp
        if (await self.records.change(partial(bind, settled_pk=bound.pk), record)).pk != pk:
            raise errors.RequestInProgress(retry_after=1)
        return None

    async def _place(
        self, pk: str, items: Sequence[Item], user_pk: str | None, deadline: Deadline
    ) -> Order:
        """Place a new order with this pk."""
        wanted = by_product(items)
        for item in wanted:
            if not is_pk(item.product_pk):
                raise ProductNotFound(product_id=item.product_pk)
        note = PendingCommand.of(Command.PLACE, pk, [item.product_pk for item in wanted])
        noted_at = await self.records.add_note(note.text)
        deadline.order_pk, deadline.began = pk, deadline.began or noted_at
        held: dict[str, Reservation] = {}
        try:
            for item in wanted:
                held[item.product_pk] = await self.products.reserve(pk, item, deadline.at)
        except OrderRefused as refusal:
            to_release = [*held] if refusal.is_remembered else [*held, item.product_pk]
            await self._finish(note, deadline, to_release)
            raise
        in_order = [held[item.product_pk] for item in items]
        place = partial(rules.place, held=in_order, user_pk=user_pk, began=deadline.began)
        order = await self.records.change(place, OrderRecord(pk=pk), within=deadline.place_by)
        await self.orders.enter(order)
        await self._finish(note, deadline)
        return order

    async def cancel(self, pk: str, user_pk: str | None, deadline: Deadline) -> Order:
        """Cancel a placed order; its stock is released once, however often this is called.

        With a `user_pk`, only orders of that user are found. This works while the product service
        is unreachable; the stock is then released later. Raise OrderNotFound or OrderIsShipped.
        """
        return await self._end(Command.CANCEL, await self.orders.get(pk, user_pk), deadline)

    async def ship(self, pk: str, deadline: Deadline) -> Order:
        """Mark a placed order as shipped, which is final; its units count as shipped, once.

        This works while the product service is unreachable; the stock is then updated later. Raise
        OrderNotFound or OrderIsCancelled.
        """
        return await self._end(Command.SHIP, await self.orders.get(pk), deadline)

    async def _end(self, command: Command, order: Order, deadline: Deadline) -> Order:
        note = PendingCommand.of(command, order.pk, [item.product_pk for item in order.items])
        await self.records.add_note(note.text)
        ended = await self.settling.end(note)
        if ended is None or ended.status is not ENDS_AS[command]:
            await self._finish(note, deadline)
            is_cancel = command is Command.CANCEL
            has_ended = errors.OrderIsShipped if is_cancel else errors.OrderIsCancelled
            raise has_ended if ended else errors.OrderNotFound
        await self._finish(note, deadline, note.product_pks)
        return ended

    async def _finish(
        self, note: PendingCommand, deadline: Deadline, product_pks: Iterable[str] = ()
    ) -> None:
        """Notify the product service of these products within half the time left, then remove the
        note; if that fails, settling does it."""
        try:
            async with asyncio.timeout(deadline.seconds_left / 2):
                await self.settling.notify(note.command, note.order_pk, product_pks)
                await self.records.remove_note(note.text)
        except (Unavailable, TimeoutError):
            log.warning("command interrupted; settling will finish it: %s", note.text)

    async def _free(self, rule: Callable[[float, KeyRecord], None], key: str | None) -> None:
        """Free a key or end its lease with this rule; if that fails, the lease ends by itself.

        Once the request has timed out, its response does not wait for this.
        """
        if key is None:
            return

        async def free() -> None:
            with contextlib.suppress(StoreUnavailable):
                await self.records.change(rule, KeyRecord(pk=key))

        freeing = asyncio.create_task(free())
        self._freeing.add(freeing)
        freeing.add_done_callback(self._freeing.discard)
        request = asyncio.current_task()
        if request is None or not request.cancelling():
            await asyncio.shield(freeing)
