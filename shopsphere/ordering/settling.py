"""Settling: finishes commands interrupted by a crash, a lost message or a slow service.

It handles notes that are old enough. It may run in every worker at once and alongside live
requests: each step is a compare-and-set or can be repeated.
"""

import asyncio
import logging
import math
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from functools import partial

from shopsphere.domain import orders as rules
from shopsphere.domain.errors import ReservationReleased, ReservationShipped, Unavailable
from shopsphere.domain.records import OrderRecord
from shopsphere.domain.values import Order, OrderStatus
from shopsphere.logs import REQUEST_ID
from shopsphere.ordering.metrics import OrderMetrics
from shopsphere.ordering.notes import ENDS_AS, Command, PendingCommand, pending_commands
from shopsphere.ordering.orders import Orders
from shopsphere.ordering.product_client import ProductClient
from shopsphere.records import Records

log = logging.getLogger("shopsphere.settling")

SETTLED_AT_ONCE = 8
NOTIFIED_AT_ONCE = 8
"""How many notifications of one order are sent concurrently."""

Outcome = StrEnum("Outcome", "FAILED PLACED CANCELLED SHIPPED RELEASED UNDER_WAY")
"""What settling did: the new status of the order, or why nothing changed."""


@dataclass(frozen=True)
class Settling:
    """Settles orders whose notes are at least `after_seconds` old by the storage's clock."""

    records: Records
    products: ProductClient
    metrics: OrderMetrics
    after_seconds: float

    async def run(self, interval_seconds: float) -> None:
        """Settle now and at every interval until cancelled. No error stops this."""
        while True:
            [failure] = await asyncio.gather(self.settle_all(), return_exceptions=True)
            if failure:
                self.metrics.unsettled.set(math.nan)
            if isinstance(failure, Unavailable):
                log.warning("the storage is unavailable; settling resumes when it is back")
            elif failure:
                self.metrics.settling_errors.inc()
                log.error("settling failed; it will run again", exc_info=failure)
            await asyncio.sleep(interval_seconds)

    async def settle_all(self) -> None:
        """Settle all old enough orders; one that cannot be settled never blocks the others."""
        some = asyncio.Semaphore(SETTLED_AT_ONCE)

        async def settle(pending: PendingCommand) -> None:
            async with some:
                REQUEST_ID.set(f"settle-{pending.order_pk}")
                await self.settle(pending)

        noted = await pending_commands(self.records)
        old = [pending for pending in noted if pending.is_older_than(self.after_seconds)]
        self.metrics.unsettled.set(len(old))
        results = await asyncio.gather(*map(settle, old), return_exceptions=True)
        for pending, result in zip(old, results, strict=True):
            if isinstance(result, Unavailable):
                log.info("order %s cannot be settled yet: %s", pending.order_pk, result.code)
            elif result:
                self.metrics.settling_errors.inc()
                log.error("order %s cannot be settled", pending.order_pk, exc_info=result)

    async def settle(self, pending: PendingCommand) -> Order | None:
        """Finish a command, then remove its note; return the order if it was ever placed.

        An order that is not placed by now never will be; a pending cancellation or shipment is
        completed. Raise Unavailable if the product service could not be notified.
        """
        order = await self.end(pending)
        if status_of(order) is ENDS_AS[pending.command]:
            await self.notify(pending.command, pending.order_pk, pending.product_pks)
        if await self.records.remove_note(pending.text):
            self.metrics.settled.labels(status_of(order).lower()).inc()
            log.info("settled order %s; its status is now %s", pending.order_pk, status_of(order))
        return order

    async def settle_order(self, pk: str, product_pk: str) -> Outcome:
        """Settle one order at one product, unless a request may be working on it.

        This needs no note: stock held for an unplaced order is released, and the product service is
        notified again of a cancelled or shipped order.
        """
        noted = [each for each in await pending_commands(self.records) if each.order_pk == pk]
        if not all(pending.is_older_than(self.after_seconds) for pending in noted):
            return Outcome.UNDER_WAY
        for pending in noted:
            await self.settle(pending)
        order = await self.settle(PendingCommand.of(Command.PLACE, pk, [product_pk]))
        if order and product_pk not in {item.product_pk for item in order.items}:
            await self.notify(Command.CANCEL, pk, [product_pk])
            return Outcome.RELEASED
        for command in (Command.CANCEL, Command.SHIP):
            if status_of(order) is ENDS_AS[command]:
                await self.notify(command, pk, [product_pk])
        return Outcome(status_of(order).lower())

    async def end(self, pending: PendingCommand) -> Order | None:
        """Give an order the status in which its command ends, if it can still get that, and enter
        it in its lists; return the order as it is now, if it was ever placed."""
        rule = partial(rules.end, status=ENDS_AS[pending.command])
        order = await self.records.change(rule, OrderRecord(pk=pending.order_pk))
        if order:
            await Orders(self.records).enter(order)
        return order

    async def notify(self, command: Command, order_pk: str, product_pks: Iterable[str]) -> None:
        """Ship or release the units that an order holds of these products, depending on its
        command; return when all calls have succeeded.

        A definite refusal means that one of the two services lost data in a failover: it is logged
        for the audit and counts as a success. Raise Unavailable for any other failure.
        """
        some = asyncio.Semaphore(NOTIFIED_AT_ONCE)
        is_shipment = command is Command.SHIP
        send = self.products.ship if is_shipment else self.products.release

        async def notify_of(product_pk: str) -> None:
            try:
                async with some:
                    await send(product_pk, order_pk)
            except (ReservationReleased, ReservationShipped) as refusal:
                self.metrics.inconsistent.inc()
                what = f"order {order_pk}, product {product_pk}: {refusal.detail}"
                log.error("inconsistent: %s Run: python test_connection.py --audit", what)

        results = await asyncio.gather(*map(notify_of, product_pks), return_exceptions=True)
        for result in results:
            if result:
                raise result


def status_of(order: Order | None) -> OrderStatus:
    """Return the status of a settled order; one that was never placed is FAILED."""
    return order.status if order else OrderStatus.FAILED
