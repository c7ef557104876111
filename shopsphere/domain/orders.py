"""The rules of orders."""

from collections.abc import Sequence

from shopsphere.domain.errors import OrderGivenUp, ShopError
from shopsphere.domain.records import TEN_MINUTES, OrderRecord, to_json
from shopsphere.domain.values import EVER_PLACED, Order, OrderStatus, Reservation


def place(
    now: float, record: OrderRecord, held: Sequence[Reservation], user_pk: str | None, began: float
) -> Order | ShopError:
    """Place an order of what is held for it, unless it was given up meanwhile.

    `began` is the storage's time when the request began. A machine that was paused, or a clock that
    jumped, may bring it here when it is forgotten already that the order was given up.
    """
    if record.status is OrderStatus.NONE and abs(now - began) <= TEN_MINUTES / 2:
        record.status, record.items_json = OrderStatus.PLACED, to_json(held)
        record.user_pk, record.placed_ms = user_pk or "", int(now * 1000)
    return record.order() if record.status in EVER_PLACED else OrderGivenUp()


def fail(_: float, record: OrderRecord) -> Order | None:
    """Make sure that an order that is not placed never will be; return it if it was ever placed."""
    if record.status is OrderStatus.NONE:
        record.status = OrderStatus.FAILED
    return record.order() if record.status in EVER_PLACED else None


def end(_: float, record: OrderRecord, status: OrderStatus) -> Order | None:
    """PLACED becomes CANCELLED or SHIPPED; return the order as it is then if it was ever placed."""
    if record.status is OrderStatus.PLACED:
        record.status = status
    return record.order() if record.status in EVER_PLACED else None
