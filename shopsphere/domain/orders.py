"""The rules of orders."""

from collections.abc import Sequence

from shopsphere.domain.errors import OrderGivenUp, ShopError
from shopsphere.domain.records import TEN_MINUTES, OrderRecord, to_json
from shopsphere.domain.values import EVER_PLACED, Order, OrderStatus, Reservation


def place(
    now: float, record: OrderRecord, held: Sequence[Reservation], user_pk: str | None, began: float
) -> Order | ShopError:
    """Place an order for the units held for it, unless it was given up in the meantime.

    `began` is the storage's time when the request began. After a paused machine or a clock jump,
    the record of a failed order may already have expired, so a stale request is refused by age.
    """
    if record.status is OrderStatus.NONE and abs(now - began) <= TEN_MINUTES / 2:
        record.status, record.items_json = OrderStatus.PLACED, to_json(held)
        record.user_pk, record.placed_ms = user_pk or "", int(now * 1000)
    return record.order() if record.status in EVER_PLACED else OrderGivenUp()


def end(_: float, record: OrderRecord, status: OrderStatus) -> Order | None:
    """Turn PLACED into CANCELLED or SHIPPED, or a missing order into FAILED, so that it is never
    placed; return the order as it is now, if ever placed."""
    start = OrderStatus.NONE if status is OrderStatus.FAILED else OrderStatus.PLACED
    if record.status is start:
        record.status = status
    return record.order() if record.status in EVER_PLACED else None
