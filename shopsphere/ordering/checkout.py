"""Placing an order: the one hard thing (DESIGN section 5).

The product service owns the stock. Checking and taking it is one step there, keyed by the order, so
that it can be repeated and given back. Whatever could be left half done is marked before.
"""

from typing import Protocol

from shopsphere.errors import (
    InsufficientQuantity,
    ProductNotFound,
    ProductServiceUnavailable,
)
from shopsphere.models import Order, OrderStatus, Reservation, is_pk, new_pk
from shopsphere.stores import OrderStore


class Products(Protocol):
    """What checkout needs of the product service; `ProductClient` says what it promises."""

    async def reserve(self, product_id: str, order_pk: str, quantity: int) -> Reservation: ...


class Checkout:
    """Places orders. Each method is one command of a customer."""

    def __init__(self, orders: OrderStore, products: Products) -> None:
        self._orders = orders
        self._products = products

    async def place(self, product_id: str, quantity: int, user_id: str | None) -> Order:
        """Take the stock and place the order; a crash anywhere leaves a mark to settle it by.

        Raise ProductNotFound or InsufficientQuantity when it is refused; then nothing stays
        behind. Raise Unavailable when the outcome is not known; then the mark stays.
        """
        if not is_pk(product_id):
            raise ProductNotFound
        order = Order(new_pk(), product_id, "", quantity, 0, OrderStatus.PENDING, user_id)
        await self._orders.mark_placing(order.pk, product_id)
        await self._orders.create(order)
        try:
            reservation = await self._products.reserve(product_id, order.pk, quantity)
        except (InsufficientQuantity, ProductNotFound):
            await self._orders.fail(order.pk)
            await self._orders.unmark_placing(order.pk, product_id)
            raise
        placed = await self._orders.place(order.pk, reservation)
        if placed is None:  # settling gave this order up meanwhile
            raise ProductServiceUnavailable
        await self._orders.list_order(placed)
        await self._orders.unmark_placing(order.pk, product_id)
        return placed
