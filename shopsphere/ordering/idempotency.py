"""Idempotency keys: a request that is sent again makes no second order.

The contract is Stripe's, the statuses are those of draft-ietf-httpapi-idempotency-key-header.
"""

import asyncio
import contextlib

from shopsphere.errors import (
    InsufficientQuantity,
    ProductNotFound,
    RequestInProgress,
    StoreUnavailable,
)
from shopsphere.models import SEEN, Order, OrderStatus, new_pk
from shopsphere.ordering.checkout import Checkout, Wish
from shopsphere.stores import Claim, OrderStore

LEASE_MARGIN_SECONDS = 2
"""How much longer than its request may run a key is held, in case its process dies."""


class IdempotentCheckout:
    """Places what a key stands for: the same order, however often it is sent."""

    def __init__(self, orders: OrderStore, checkout: Checkout, timeout_seconds: float) -> None:
        self._orders = orders
        self._checkout = checkout
        self._lease_seconds = timeout_seconds + LEASE_MARGIN_SECONDS
        self._endings: set[asyncio.Task[None]] = set()

    async def place(self, key: str | None, wish: Wish, seconds: float) -> tuple[Order, bool]:
        """Return the order of this key, and whether it was placed by a request before this one.

        Without a key it is a new one.

        What `Checkout.place` raises, and RequestInProgress while another request owns the key, or
        IdempotencyKeyReused when the key came with another wish. After a refusal the key is free.
        """
        if key is None:
            return await self._checkout.place(wish, seconds), False
        owner = new_pk()
        request = f"{wish.product_id} {wish.quantity}"
        try:
            claim = await self._orders.claim(key, request, owner, owner, self._lease_seconds)
        except StoreUnavailable as error:
            error.leaving_open()
            raise
        if not claim.is_mine:
            raise RequestInProgress(claim.seconds_left)
        is_refused = False
        try:
            return await self._go_on(key, owner, claim, wish, seconds)
        except (InsufficientQuantity, ProductNotFound):
            is_refused = True
            raise
        finally:
            await self._end_claim(key, owner, forget=is_refused)

    async def _go_on(
        self, key: str, owner: str, claim: Claim, wish: Wish, seconds: float
    ) -> tuple[Order, bool]:
        """Place a first order, show the one that was placed, or go on with what is not known."""
        first_pk = owner
        if claim.order_pk != first_pk:
            order = await self._orders.record(claim.order_pk)
            if order and order.status in SEEN:
                return order, True
            if order is None or order.status is OrderStatus.PENDING:
                placed = await self._checkout.place(wish, seconds, claim.order_pk, is_first=False)
                return placed, False
            if not await self._orders.rebind(key, owner, first_pk):
                raise RequestInProgress
        return await self._checkout.place(wish, seconds, first_pk), False

    async def _end_claim(self, key: str, owner: str, forget: bool) -> None:
        """Stop owning the key; where that fails, the lease ends by itself.

        When the request's time is over, its answer does not wait for this.
        """

        async def end() -> None:
            with contextlib.suppress(StoreUnavailable):
                await self._orders.end_claim(key, owner, forget=forget)

        ending = asyncio.create_task(end())
        self._endings.add(ending)
        ending.add_done_callback(self._endings.discard)
        request = asyncio.current_task()
        if request is None or not request.cancelling():
            await ending
