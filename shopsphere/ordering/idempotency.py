"""Idempotency keys: a request that is sent again makes no second order (`domain.idempotency`)."""

import asyncio
import contextlib
from collections.abc import Callable, Sequence
from functools import partial

from shopsphere.deadline import Deadline
from shopsphere.domain import idempotency as rules
from shopsphere.domain import orders
from shopsphere.domain.errors import (
    IdempotencyKeyReused,
    OrderGivenUp,
    OrderRefused,
    RequestInProgress,
    StoreUnavailable,
)
from shopsphere.domain.idempotency import Binding
from shopsphere.domain.pks import is_pk, new_pk
from shopsphere.domain.records import KeyRecord, OrderRecord
from shopsphere.domain.values import Item, Order
from shopsphere.ordering.checkout import Checkout
from shopsphere.ordering.notes import Command, PendingCommand
from shopsphere.ordering.orders import Orders
from shopsphere.ordering.telling import Telling
from shopsphere.records import Records

LEASE_MARGIN_SECONDS = 2
"""How much longer than its request may run a key is held, in case its process dies."""


class IdempotentCheckout:
    """Places what a key stands for: the same order, however often it is sent."""

    def __init__(
        self, records: Records, checkout: Checkout, telling: Telling, lease_seconds: float
    ) -> None:
        self._records = records
        self._lease_seconds = lease_seconds
        self._checkout = checkout
        self._telling = telling
        self._orders = Orders(records)
        self._endings: set[asyncio.Task[None]] = set()

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
        kept, request = KeyRecord(pk=key), rules.digest_of(items)
        if not all(is_pk(item.product_pk) for item in items):
            [record] = await self._records.read(kept)
            if record.request not in ("", request):
                raise IdempotencyKeyReused
            return await self._checkout.place(pk, items, user_pk, deadline), False
        bind = partial(rules.bind, request=request, order_pk=pk, lease_seconds=self._lease_seconds)
        binding = await self._records.change(bind, kept)
        if binding.order_pk != pk:
            earlier = await self._settle(binding, items)
            if earlier:
                return earlier, True
            if deadline.seconds_left < deadline.timeout_seconds / 2:
                await self._records.change(partial(rules.forget, order_pk=binding.order_pk), kept)
                raise OrderGivenUp
            await self._records.change(
                partial(
                    rules.rebind, request=request, settled_pk=binding.order_pk, order_pk=pk,
                    lease_seconds=self._lease_seconds,
                ),
                kept,
            )  # fmt: skip
        afterwards: Callable[..., None] | None = rules.end_lease
        try:
            order = await self._checkout.place(pk, items, user_pk, deadline)
            afterwards = None
        except OrderRefused:
            afterwards = rules.forget
            raise
        finally:
            if afterwards:
                await self._finish(partial(afterwards, order_pk=pk), kept)
        return order, False

    async def _settle(self, bound: Binding, items: Sequence[Item]) -> Order | None:
        """Return the order that a key is bound to, in its lists, or make sure it never is placed.

        Raise RequestInProgress while its request may still run, Unavailable where what it holds
        cannot be given back.
        """
        order = await self._orders.find(bound.order_pk)
        if order is None:
            if bound.lease_seconds_left:
                raise RequestInProgress(bound.lease_seconds_left)
            order = await self._records.change(orders.fail, OrderRecord(pk=bound.order_pk))
        if order:
            await self._orders.enter(order)
            return order
        product_pks = [item.product_pk for item in items]  # the same as of the earlier request
        await self._telling.tell(Command.CANCEL, bound.order_pk, product_pks)
        note = PendingCommand.of(Command.PLACE, bound.order_pk, product_pks)
        await self._records.remove_note(note.text)
        return None

    async def _finish(self, rule: Callable[[float, KeyRecord], None], kept: KeyRecord) -> None:
        """Free a key, or end its lease; where that fails, the lease ends by itself.

        When the time of the request is over, its response does not wait for this.
        """

        async def finish() -> None:
            with contextlib.suppress(StoreUnavailable):
                await self._records.change(rule, kept)

        finishing = asyncio.create_task(finish())
        self._endings.add(finishing)
        finishing.add_done_callback(self._endings.discard)
        request = asyncio.current_task()
        if request is None or not request.cancelling():
            await asyncio.shield(finishing)
