"""Placing, cancelling and shipping an order: the one hard thing (DESIGN section 5).

The product service owns the stock. Checking and taking it is one step there, keyed by the order, so
that it can be repeated and given back. Whatever could be left half done is marked before; what a
crash, a lost message or a slow neighbour leaves behind is put right by `settling`.
"""

import asyncio
import logging
from dataclasses import dataclass
from typing import Protocol

from shopsphere.errors import (
    InsufficientQuantity,
    OrderGivenUp,
    OrderIsCancelled,
    OrderIsShipped,
    ProductNotFound,
    ProductServiceUnavailable,
    ShopError,
    Unavailable,
)
from shopsphere.models import SEEN, Command, Mark, Order, OrderStatus, Reservation, is_pk, new_pk
from shopsphere.ordering.figures import OrderFigures
from shopsphere.stores import OrderStore

log = logging.getLogger("shopsphere.ordering")

ENDED_AS = {Command.CANCELLING: OrderStatus.CANCELLED, Command.SHIPPING: OrderStatus.SHIPPED}
"""What a command makes of a PLACED order."""


class Products(Protocol):
    """What ordering needs of the product service; `ProductClient` says what it promises."""

    async def reserve(
        self, product_id: str, order_pk: str, quantity: int, *, is_first: bool
    ) -> Reservation: ...

    async def release(self, product_id: str, order_pk: str) -> None: ...

    async def ship(self, product_id: str, order_pk: str) -> None: ...


@dataclass(frozen=True, slots=True)
class Wish:
    """What a customer wants; `user_id` is None for an anonymous one."""

    product_id: str
    quantity: int
    user_id: str | None


class Checkout:
    """The commands of customers and of the shop. Each can be sent again after any failure."""

    def __init__(self, orders: OrderStore, products: Products, figures: OrderFigures) -> None:
        self._orders = orders
        self._products = products
        self._figures = figures

    async def place(
        self, wish: Wish, seconds: float, pk: str | None = None, *, is_first: bool = True
    ) -> Order:
        """Take the stock and place the order, within so many seconds.

        `pk` is the order's, where a key binds the wish to it; it may be under way elsewhere, and
        `is_first` is false when it may have been tried before. Raise ProductNotFound or
        InsufficientQuantity when it is refused: then nothing stays behind. Raise Unavailable when
        the outcome is not known: then the mark stays, and settling puts right what is left.
        """
        if not is_pk(wish.product_id):
            raise self._refused(ProductNotFound())
        try:
            placed = await self._place(wish, seconds, pk, is_first)
        except (ProductNotFound, InsufficientQuantity) as refusal:
            raise self._refused(refusal) from None
        except Unavailable as error:
            error.leaving_open()
            raise
        self._figures.placed.inc()
        return placed

    async def _place(self, wish: Wish, seconds: float, pk: str | None, is_first: bool) -> Order:
        loop = asyncio.get_running_loop()
        place_by = loop.time() + seconds
        order = Order(
            pk or new_pk(), wish.product_id, "", wish.quantity, 0, OrderStatus.PENDING, wish.user_id
        )
        mark = Mark(Command.PLACING, order.pk, wish.product_id)
        await self._orders.mark(mark)
        status = await self._orders.create(order, place_by - loop.time())
        if status is OrderStatus.PENDING:
            try:
                reservation = await self._products.reserve(
                    wish.product_id, order.pk, wish.quantity, is_first=is_first
                )
            except (InsufficientQuantity, ProductNotFound) as refusal:
                has_rivals = pk is not None
                await self._give_up(mark, refusal, has_rivals)
                raise
            placed = await self._orders.place(order.pk, reservation)
        else:
            placed = await self._orders.get(order.pk) if status in SEEN else None
        if placed is None:  # settling gave this order up, or its time was over
            raise OrderGivenUp
        await self._orders.list_order(placed)
        await self._orders.unmark(mark)
        return placed

    async def _give_up(self, mark: Mark, refusal: ShopError, has_rivals: bool) -> None:
        """Leave nothing behind of an order that was refused."""
        if await self._orders.fail(mark.pk) is not OrderStatus.FAILED:
            raise ProductServiceUnavailable  # a rival placed it: that is another answer
        if has_rivals and isinstance(refusal, ProductNotFound):
            # A rival may have reserved before the product was deleted, so give that back first.
            try:
                await self._products.release(mark.product_id, mark.pk)
            except Unavailable:
                return  # the mark stays, and settling gives it back
        await self._orders.unmark(mark)

    def _refused(self, refusal: ShopError) -> ShopError:
        self._figures.refused.labels(refusal.code).inc()
        return refusal

    async def cancel(self, pk: str, user_id: str | None, seconds: float) -> Order:
        """Cancel a placed order; its stock goes back, once, however often this is called.

        With a `user_id`, only an order of that user is found. It succeeds while the product service
        is away, and the stock follows. Raise OrderNotFound or OrderIsShipped.
        """
        order = await self._orders.get(pk, user_id)
        return await self._end(Mark(Command.CANCELLING, pk, order.product_id), seconds)

    async def ship(self, pk: str, seconds: float) -> Order:
        """Say that a placed order has left, which is final; its units count as shipped, once.

        It succeeds while the product service is away, and the figures follow. Raise OrderNotFound
        or OrderIsCancelled.
        """
        order = await self._orders.get(pk)
        return await self._end(Mark(Command.SHIPPING, pk, order.product_id), seconds)

    async def _end(self, mark: Mark, seconds: float) -> Order:
        await self._orders.mark(mark)
        order = await self._orders.move(mark.pk, ENDED_AS[mark.command])
        if order.status is not ENDED_AS[mark.command]:
            await self._orders.unmark(mark)
            raise OrderIsShipped if order.status is OrderStatus.SHIPPED else OrderIsCancelled
        try:
            async with asyncio.timeout(seconds / 2):
                await tell(self._products, mark)
        except (Unavailable, TimeoutError):
            log.warning("order %s is %s; the product service is told later", mark.pk, order.status)
        else:
            await self._orders.unmark(mark)
        return order


async def tell(products: Products, mark: Mark) -> None:
    """Tell the product service what became of an order's units; return when it has said yes."""
    if mark.command is Command.SHIPPING:
        await products.ship(mark.product_id, mark.pk)
    else:
        await products.release(mark.product_id, mark.pk)
