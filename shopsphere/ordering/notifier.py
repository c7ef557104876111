"""Notifies the product service of orders that ended."""

import asyncio
import logging

from shopsphere.domain.errors import ReservationReleased, ReservationShipped
from shopsphere.ordering.metrics import OrderMetrics
from shopsphere.ordering.notes import Command, PendingCommand
from shopsphere.ordering.product_client import ProductClient

log = logging.getLogger("shopsphere.ordering")

NOTIFIED_AT_ONCE = 8
"""How many products of one order are notified of concurrently."""


async def notify(products: ProductClient, metrics: OrderMetrics, ended: PendingCommand) -> None:
    """Ship or release what an order holds of these products; return when all calls are delivered.

    A definite refusal means that one of the two services lost data in a failover: it is logged for
    the audit and counts as delivered. Raise Unavailable for any other failure.
    """
    some = asyncio.Semaphore(NOTIFIED_AT_ONCE)
    send = products.ship if ended.command is Command.SHIP else products.release

    async def notify_of(product_pk: str) -> None:
        try:
            async with some:
                await send(product_pk, ended.order_pk)
        except (ReservationReleased, ReservationShipped) as refusal:
            metrics.inconsistent.inc()
            where = f"order {ended.order_pk}, product {product_pk}"
            log.error("inconsistent: %s: %s Run test_connection.py --audit.", where, refusal.detail)

    results = await asyncio.gather(*map(notify_of, ended.product_pks), return_exceptions=True)
    for result in results:
        if result:
            raise result
