"""The order service, port 8002: places orders, with stock reserved at the product service."""

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from typing import Annotated, Literal

from fastapi import APIRouter, FastAPI, Path, Request, Response
from pydantic import AliasPath, BaseModel, Field, TypeAdapter

from shopsphere.domain import errors
from shopsphere.domain.money import Amount
from shopsphere.domain.values import MAX_ORDER_QUANTITY, Item, Order
from shopsphere.ordering.checkout import Checkout
from shopsphere.ordering.metrics import OrderMetrics
from shopsphere.ordering.orders import Orders
from shopsphere.ordering.product_client import ProductClient
from shopsphere.ordering.settling import Outcome, Settling
from shopsphere.settings import Settings
from shopsphere.web.access import ADMINISTRATOR, Customer
from shopsphere.web.app import create_app, serve
from shopsphere.web.error_responses import raises
from shopsphere.web.examples import ORDER_MADE_AT, ORDER_PK, PRODUCT_PK, USER_PK, example_with
from shopsphere.web.idempotency_key import REPLAY_HEADER, IdempotencyKey, show_replay
from shopsphere.web.paging import WITH_LINK, PagingByEntry, listing
from shopsphere.web.schemas import PK_SCHEMA, Body, Public, pk_of, pk_or
from shopsphere.web.service import OWN, RequestDeadline, Service
from storage import open_storage

log = logging.getLogger("shopsphere.order")

PORT = 8002
LEASE_MARGIN_SECONDS = 2
"""If a process dies, its request's key stays held for ORDER_TIMEOUT and this margin."""
DESCRIPTION = """
Place and manage orders; stock is never oversold.

**To try it:** add a product at the product service (port 8000), copy its `pk`, and order it here:
replace `abc123` with it. The `pk` of your order is in the response and in the list. Log in at the
user service (port 8001), paste the `access_token` into **Authorize**, and the order is yours.
"""
TAGS = {
    "orders": "Place, view and cancel orders.",
    "fulfilment": "For the shop: ship orders, resolve interrupted ones.",
}


class OrderCreate(Body):
    product_id: str = Field(
        examples=["abc123"], description="The `pk` of a product. Replace `abc123` with it."
    )
    quantity: int = Field(ge=1, le=MAX_ORDER_QUANTITY, examples=[2])


class Settle(Body):
    product_id: Annotated[str, pk_of("a product")] = Field(
        examples=[PRODUCT_PK],
        description="The `pk` of the product that was ordered.",
        json_schema_extra=PK_SCHEMA,
    )


class Settled(BaseModel):
    pk: str = Field(examples=[ORDER_PK])
    product_id: str = Field(examples=[PRODUCT_PK])
    outcome: Outcome = Field(
        examples=["placed"],
        description="What the order is now; `released`: it is of another product, and what this "
        "one held for it was given back; `under_way`: a request is at work on it, try again later.",
    )


def _of_item(name: str) -> AliasPath:
    """Return the path of a field of the order's only item."""
    return AliasPath("items", 0, name)


class OrderPublic(Public):
    pk: str = Field(examples=[ORDER_PK])
    product_id: str = Field(validation_alias=_of_item("product_pk"), examples=[PRODUCT_PK])
    product_name: str = Field(validation_alias=_of_item("product_name"), examples=["Laptop"])
    quantity: int = Field(validation_alias=_of_item("quantity"), examples=[2])
    unit_price: Amount = Field(validation_alias=_of_item("unit_price_cents"), examples=[999.99])
    total: Amount = Field(validation_alias="total_cents", examples=[1999.98])
    status: Literal["PLACED", "CANCELLED", "SHIPPED"] = Field(examples=["PLACED"])
    user_id: str | None = Field(validation_alias="user_pk", examples=[USER_PK])
    created_at: datetime = Field(examples=[ORDER_MADE_AT])


ORDERS = TypeAdapter(list[OrderPublic])


@dataclass(frozen=True, slots=True)
class Ordering:
    """The resources of this service alone."""

    orders: Orders
    checkout: Checkout
    settling: Settling


Own = Annotated[Ordering, OWN]
OF_AN_ORDER = "The `pk` of an order, from the response that created it, or from the list."
Pk = Annotated[str, pk_or(errors.OrderNotFound), Path(description=OF_AN_ORDER)]
SettledPk = Annotated[
    str,
    pk_of("an order"),
    Path(description=OF_AN_ORDER, json_schema_extra=PK_SCHEMA),
]

ordering = APIRouter(tags=["orders"], responses=raises(errors.StoreUnavailable))
fulfilment = APIRouter(tags=["fulfilment"], responses=raises(errors.StoreUnavailable))


@ordering.post(
    "/order",
    response_model=OrderPublic,
    status_code=201,
    responses={
        201: REPLAY_HEADER,
        **raises(
            errors.InsufficientQuantity,
            errors.ProductNotFound,
            errors.RequestInProgress,
            errors.IdempotencyKeyReused,
            errors.ProductServiceUnavailable,
            errors.StorageMismatch,
            errors.OrderGivenUp,
        ),
    },
)
async def place_order(
    body: OrderCreate,
    caller: Customer,
    key: IdempotencyKey,
    own: Own,
    deadline: RequestDeadline,
    response: Response,
) -> Order:
    """Order a product: the units are reserved from its stock, or the order is refused.

    After a 503 with an `order_id`, the order may have been placed. If it was,
    `GET /orders/{order_id}` finds it; if it is not there ORDER_TIMEOUT seconds after the 503, it
    never will be. Alternatively, send an `Idempotency-Key` and retry with the same key:

    - The same key with the same product and quantity returns the same order in its current state:
      201, with `Idempotent-Replayed: true`.
    - The same key with another product or quantity: 422.
    - While the first request may still be running: 409 with `Retry-After`. If its process died,
      retry 2 seconds after ORDER_TIMEOUT; after a 503, retry immediately.
    - After a refusal (400, 404), the key is free again.
    - After a 503 or a crash, a retry replaces an attempt that was not placed; there are never two
      orders.

    A key is kept for 24 hours from its last order, separately for each user.
    """
    items = [Item(body.product_id, body.quantity)]
    order, is_replay = await own.checkout.place(key, items, caller.user_pk, deadline)
    response.headers["Location"] = f"/orders/{order.pk}"
    show_replay(response, is_replay)
    return order


@ordering.get("/orders", response_model=list[OrderPublic], responses=WITH_LINK)
async def list_orders(
    caller: Customer, request: Request, paging: PagingByEntry, own: Own
) -> Response:
    """Your orders, oldest first: the whole list, or one page with `limit` and `after`.

    Administrators see all orders; so does everyone while AUTH_REQUIRED is false.
    """
    return await listing(request, paging, partial(own.orders.page, caller.orders_of), ORDERS)


@ordering.get("/orders/{pk}", response_model=OrderPublic, responses=raises(errors.OrderNotFound))
async def get_order(caller: Customer, pk: Pk, own: Own) -> Order:
    """One of your orders. Administrators can get any order."""
    return await own.orders.get(pk, caller.orders_of)


@ordering.post(
    "/orders/{pk}/cancel",
    response_model=OrderPublic,
    responses={
        200: example_with(OrderPublic, status="CANCELLED"),
        **raises(errors.OrderNotFound, errors.OrderIsShipped),
    },
)
async def cancel_order(caller: Customer, pk: Pk, own: Own, deadline: RequestDeadline) -> Order:
    """Cancel one of your orders. Its stock is released once, however often this is called.

    Administrators can cancel any order. This works even while the product service is unreachable;
    the stock is then released later.
    """
    return await own.checkout.cancel(pk, caller.orders_of, deadline)


@fulfilment.post(
    "/orders/{pk}/ship",
    response_model=OrderPublic,
    dependencies=[ADMINISTRATOR],
    responses={
        200: example_with(OrderPublic, status="SHIPPED"),
        **raises(errors.OrderNotFound, errors.OrderIsCancelled),
    },
)
async def ship_order(pk: Pk, own: Own, deadline: RequestDeadline) -> Order:
    """Mark an order as shipped, which is final. Its units count as shipped once.

    This works even while the product service is unreachable; the stock is then updated later.
    """
    return await own.checkout.ship(pk, deadline)


@fulfilment.post(
    "/orders/{pk}/settle",
    dependencies=[ADMINISTRATOR],
    responses=raises(
        errors.InvalidRequest, errors.ProductServiceUnavailable, errors.StorageMismatch
    ),
)
async def settle_order(pk: SettledPk, body: Settle, own: Own) -> Settled:
    """Settle one order now, unless a request is working on it: for repairs after an audit.

    An order that was not placed never will be, and its reservation is released. For a cancelled or
    shipped order, the product service is notified again. Safe to repeat.
    """
    outcome = await own.settling.settle_order(pk, body.product_id)
    return Settled(pk=pk, product_id=body.product_id, outcome=outcome)


@asynccontextmanager
async def _ordering(service: Service[Ordering]) -> AsyncIterator[Ordering]:
    settings, opened = service.settings, service.opened
    metrics = OrderMetrics(service.metrics.registry)
    if settings.settle_after <= settings.order_timeout:
        log.warning("SETTLE_AFTER is not above ORDER_TIMEOUT: orders that are only slow will fail")

    with ProductClient(settings, opened.storage, service.tokens) as products:
        settling = Settling(opened.records, products, metrics, settings.settle_after)
        lease_seconds = settings.order_timeout + LEASE_MARGIN_SECONDS
        checkout = Checkout(opened.records, products, settling, metrics, lease_seconds)
        running = asyncio.create_task(settling.run(settings.settle_interval))
        try:
            yield Ordering(Orders(opened.records), checkout, settling)
        finally:
            while not running.done():  # in Python 3.11, redis-py's wait_for drops cancellations
                running.cancel()
                await asyncio.wait([running], timeout=0.1)


def build(settings: Settings | None = None) -> FastAPI:
    """Return the app, with these settings or those from the environment."""
    routers = [ordering, fulfilment]
    return create_app("order", DESCRIPTION, TAGS, routers, open_storage, _ordering, settings)


app = build()

if __name__ == "__main__":
    serve(app, PORT)
