"""Settling: what a crash, a lost message or a slow neighbour left behind is put right.

It takes the marks that are old enough. It may run in every worker at once and beside live requests:
each step is a compare-and-set, or can be repeated.
"""

import asyncio
import logging
from enum import StrEnum

from shopsphere.errors import OrderNotFound, ShopError, StoreUnavailable, Unavailable
from shopsphere.logs import REQUEST_ID
from shopsphere.models import Command, Mark, OrderStatus
from shopsphere.ordering.checkout import ENDED_AS, Products, tell
from shopsphere.ordering.figures import OrderFigures
from shopsphere.stores import OrderStore

log = logging.getLogger("shopsphere.settling")

SETTLED_AT_ONCE = 8


class Outcome(StrEnum):
    """What settling did: what the order is now, or why there was nothing to do."""

    FAILED = "failed"
    PLACED = "placed"
    CANCELLED = "cancelled"
    SHIPPED = "shipped"
    RELEASED = "released"
    UNDER_WAY = "under_way"


class Settling:
    """Settles orders whose marks are at least `after_seconds` old by the store's clock."""

    def __init__(
        self, orders: OrderStore, products: Products, figures: OrderFigures, after_seconds: float
    ) -> None:
        self._orders = orders
        self._products = products
        self._figures = figures
        self._after_seconds = after_seconds

    async def run(self, interval_seconds: float) -> None:
        """Settle now and at every interval, until cancelled."""
        while True:
            try:
                await self.settle_all()
            except StoreUnavailable:
                log.warning("the storage does not answer; orders are settled when it does")
            await asyncio.sleep(interval_seconds)

    async def settle_all(self) -> None:
        """Settle every mark that is old enough; one that cannot be never holds up the others."""
        some = asyncio.Semaphore(SETTLED_AT_ONCE)

        async def settle(mark: Mark) -> None:
            async with some:
                REQUEST_ID.set(f"settle-{mark.pk}")
                await self.settle(mark)

        marks = await self._orders.old_marks(self._after_seconds)
        results = await asyncio.gather(*map(settle, marks), return_exceptions=True)
        for mark, result in zip(marks, results, strict=True):
            if isinstance(result, Unavailable):
                log.info("order %s cannot be settled yet: %s", mark.pk, result.code)
            elif isinstance(result, ShopError):
                log.error("order %s cannot be settled: %s", mark.pk, result.detail)
            elif result is not None:
                log.error("order %s cannot be settled", mark.pk, exc_info=result)

    async def settle(self, mark: Mark) -> Outcome:
        """Bring what this mark began to an end, then take it away.

        An order that is still not placed never will be; one that is being cancelled or shipped is
        cancelled or shipped. Raise Unavailable when the product service could not be told.
        """
        if mark.command is Command.PLACING:
            status = await self._settle_placing(mark)
        else:
            status = await self._settle_ending(mark)
        outcome = Outcome(status.lower())
        if await self._orders.unmark(mark):
            self._figures.settled.labels(outcome.value).inc()
            log.info("order %s was settled: %s", mark.pk, outcome.value)
        return outcome

    async def settle_order(self, pk: str, product_id: str) -> Outcome:
        """Settle one order at one product, unless it is still under way.

        Also where no mark is left: then stock that is held for an order which is not placed goes
        back, and what the order is now is told again.
        """
        marks = await self._orders.marks_of(pk, product_id)
        if any(age < self._after_seconds for age in marks.values()):
            return Outcome.UNDER_WAY
        order = await self._orders.record(pk)
        if order and order.product_id not in ("", product_id):
            await self._products.release(product_id, pk)
            return Outcome.RELEASED
        for mark in marks:
            await self.settle(mark)
        outcome = await self.settle(Mark(Command.PLACING, pk, product_id))
        for command, status in ENDED_AS.items():
            if outcome.value == status.lower():
                await tell(self._products, Mark(command, pk, product_id))
        return outcome

    async def _settle_placing(self, mark: Mark) -> OrderStatus:
        status = await self._orders.fail(mark.pk)
        if status is OrderStatus.FAILED:
            await self._products.release(mark.product_id, mark.pk)
        else:
            await self._orders.list_order(await self._orders.get(mark.pk))
        return status

    async def _settle_ending(self, mark: Mark) -> OrderStatus:
        try:
            order = await self._orders.move(mark.pk, ENDED_AS[mark.command])
        except OrderNotFound:
            return OrderStatus.FAILED
        if order.status is ENDED_AS[mark.command]:
            await tell(self._products, mark)
        return order.status
