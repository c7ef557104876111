"""Idempotency keys: a request that is sent again makes no second order (`domain.idempotency`)."""

import asyncio
import contextlib
from collections.abc import Callable, Sequence
from functools import partial

from shopsphere.deadline import Deadline
from shopsphere.domain import idempotency as rules
from shopsphere.domain.errors import (
    OrderGivenUp,
    OrderRefused,
    RequestInProgress,
    StoreUnavailable,
)
from shopsphere.domain.idempotency import Binding
from shopsphere.domain.pks import is_pk, new_pk
from shopsphere.domain.records import KeyRecord
from shopsphere.domain.values import Item, Order
from shopsphere.ordering.checkout import Checkout
from shopsphere.ordering.notes import Command, PendingCommand
from shopsphere.ordering.orders import Orders
from shopsphere.ordering.settling import Settling
from shopsphere.records import Records

LEASE_MARGIN_SECONDS = 2
"""How much longer than its request may run a key is held, in case its process dies."""


class IdempotentCheckout:
    """Places what a key stands for: the same order, however often it is sent."""

    def __init__(
        self, records: Records, checkout: Checkout, settling: Settling, lease_seconds: float
    ) -> None:
        self._records = records
        self._lease_seconds = lease_seconds
        self._checkout = checkout
        self._settling = settling
        self._orders = Orders(records)
        self._freeing: set[asyncio.Task[None]] = set()

    async def place(
        self, key: str | None, items: Sequence[Item], user_pk: str | None, deadline: Deadline
    ) -> tuple[Order, bool]:
        """Return the order of this key, and whether it was placed by a request before this one.

        Without a key it is a new one. Raise what `Checkout.place` raises, RequestInProgress while
        another request may be placing it, IdempotencyKeyReused when the key came with another
        request. After a refusal the key is free.
        """
        pk = new_pk()
        if key is None:
            return await self._checkout.place(pk, items, user_pk, deadline), False
        record, request = KeyRecord(pk=key), rules.digest_of(items)
        bind = partial(rules.bind, request=request, order_pk=pk, lease_seconds=self._lease_seconds)
        binding = await self._records.change(bind, record)
        deadline.began = binding.bound_at
        if binding.order_pk != pk:
            earlier = await self._settle(binding, items)
            if earlier:
                return earlier, True
            if deadline.seconds_left < deadline.timeout_seconds / 2:
                await self._free(partial(rules.forget, order_pk=binding.order_pk), record)
                raise OrderGivenUp
            bind_again = partial(bind, settled_pk=binding.order_pk)
            if (await self._records.change(bind_again, record)).order_pk != pk:
                raise RequestInProgress
        try:
            return await self._checkout.place(pk, items, user_pk, deadline), False
        except OrderRefused:
            await self._free(partial(rules.forget, order_pk=pk), record)
            raise
        except BaseException:
            await self._free(partial(rules.end_lease, order_pk=pk), record)
            raise

    async def _settle(self, bound: Binding, items: Sequence[Item]) -> Order | None:
        """Return the order that a key is bound to, once it is in its lists; if it was not placed,
        make sure that it never will be.

        Raise RequestInProgress while its request may still run, Unavailable where what it holds
        cannot be given back.
        """
        order = await self._orders.find(bound.order_pk)
        if order:
            await self._orders.enter(order)
            return order
        if bound.lease_seconds_left:
            raise RequestInProgress(bound.lease_seconds_left)
        product_pks = [item.product_pk for item in items if is_pk(item.product_pk)]
        # The request is the same as the earlier one, and so are its products.
        pending = PendingCommand.of(Command.PLACE, bound.order_pk, product_pks)
        return await self._settling.settle(pending)

    async def _free(self, rule: Callable[[float, KeyRecord], None], record: KeyRecord) -> None:
        """Free a key, or end its lease; where that fails, the lease ends by itself.

        When the time of the request is over, its response does not wait for this.
        """

        async def free() -> None:
            with contextlib.suppress(StoreUnavailable):
                await self._records.change(rule, record)

        freeing = asyncio.create_task(free())
        self._freeing.add(freeing)
        freeing.add_done_callback(self._freeing.discard)
        request = asyncio.current_task()
        if request is None or not request.cancelling():
            await asyncio.shield(freeing)
