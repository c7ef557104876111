"""The rules of orders."""

from collections.abc import Sequence

from shopsphere.domain.errors import OrderGivenUp, ShopError
from shopsphere.domain.records import TEN_MINUTES, OrderRecord, to_json
from shopsphere.domain.values import EVER_PLACED, Order, OrderItem, OrderStatus, Reservation


def place(
    now: float, record: OrderRecord, held: Sequence[Reservation], user_pk: str | None, began: float
) -> Order | ShopError:
    """Place an order of what is held for it, unless it was given up meanwhile.

    `began` is the storage's time when the request began. A machine that was paused, or a clock that
    jumped, may bring it here when it is forgotten already that the order was given up.
    """
    if record.status is OrderStatus.FAILED:
        return OrderGivenUp()
    if record.status is OrderStatus.NONE:
        if abs(now - began) > TEN_MINUTES / 2:
            return OrderGivenUp()
        items = (
            OrderItem(each.product_pk, each.quantity, each.unit_price_cents, each.product_name)
            for each in held
        )
        record.status = OrderStatus.PLACED
        record.items_json = to_json(items)
        record.user_pk, record.placed_ms = user_pk or "", int(now * 1000)
    return record.order()


def fail(_: float, record: OrderRecord) -> Order | None:
    """Make sure that an order that is not placed never will be; return it if it is placed."""
    if record.status in EVER_PLACED:
        return record.order()
    record.status = OrderStatus.FAILED
    return None


def end(_: float, record: OrderRecord, status: OrderStatus) -> Order | None:
    """PLACED becomes CANCELLED or SHIPPED; return the order as it is then if it was ever placed."""
    if record.status is OrderStatus.PLACED:
        record.status = status
    return record.order() if record.status in EVER_PLACED else None
