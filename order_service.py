"""The order service, port 8002: orders, for which it reserves stock at the product service."""

import shopsphere.packages  # noqa: F401  # so that `python order_service.py` finds .venv

# isort: split

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from functools import partial
from typing import Annotated, Any, Literal

from fastapi import APIRouter, FastAPI, Path, Query, Request, Response
from fastapi import Body as FromBody
from pydantic import AfterValidator, AliasPath, BaseModel, Field, PlainValidator, TypeAdapter

from shopsphere.domain import errors
from shopsphere.domain.money import Amount, Cents
from shopsphere.domain.values import MAX_ORDER_QUANTITY, Item, Order
from shopsphere.ordering.checkout import Checkout
from shopsphere.ordering.metrics import OrderMetrics
from shopsphere.ordering.product_client import ProductClient
from shopsphere.ordering.settling import Outcome, Settling
from shopsphere.settings import Settings
from shopsphere.web.access import ADMINISTRATOR, Customer
from shopsphere.web.app import create_app, serve
from shopsphere.web.error_responses import raises
from shopsphere.web.examples import ORDER_MADE_AT, ORDER_PK, PRODUCT_PK, USER_PK, example_of
from shopsphere.web.idempotency_key import OncePerKey
from shopsphere.web.paging import COUNTED_LIST, PagingInTime, listing
from shopsphere.web.schemas import PRICE_SEEN, Body, PkOrNone, Public, StrictPk, Timestamp
from shopsphere.web.service import OWN, RequestDeadline, Service
from storage import open_storage

log = logging.getLogger("shopsphere.order")

PORT = 8002
LEASE_MARGIN_SECONDS = 2
"""If a process dies, its request's key stays locked for ORDER_TIMEOUT and this margin."""
DESCRIPTION = """
Place and manage orders; stock is never oversold.

**To try it:** Add a product at the [product service]({product_service_url}/docs), copy its `pk`,
and order it here: replace `abc123` in the example with that `pk`. If tokens are required, log in at
the [user service]({user_service_url}/docs), and paste the `access_token` into **Authorize**.
"""
MAX_ITEMS = 50
Status = Literal["PLACED", "CANCELLED", "SHIPPED"]
TWO_ITEMS = [{"product_id": "abc123", "quantity": 2}, {"product_id": "xyz789", "quantity": 1}]
ONLY_ITEM = "Copied from the item if the order has only one; otherwise null."
TAGS = {
    "orders": "Place, view and cancel orders.",
    "fulfilment": "Ship orders, and resolve interrupted ones. For administrators.",
}


class OrderItem(Body):
    product_id: str = Field(examples=["abc123"], description="The `pk` of a product.")
    quantity: int = Field(ge=1, le=MAX_ORDER_QUANTITY, examples=[2])
    unit_price: Cents | None = Field(None, examples=[999.99], description=PRICE_SEEN)


def _of_different_products(items: list[OrderItem]) -> list[OrderItem]:
    if len({item.product_id for item in items}) < len(items):
        raise ValueError("must not contain a product twice")
    return items


class OrderOfItems(Body):
    items: Annotated[list[OrderItem], AfterValidator(_of_different_products)] = Field(
        min_length=1, max_length=MAX_ITEMS, examples=[[example_of(OrderItem)]]
    )


def _items_of(body: Any) -> list[OrderItem]:
    """Return the items of an order in either form; null fields count as absent."""
    given = body
    if isinstance(body, dict):
        given = {name: value for name, value in body.items() if value is not None}
        if "items" in given:
            if given.keys() & OrderItem.model_fields:
                raise ValueError("must contain either items, or product_id and quantity")
            return OrderOfItems.model_validate(given).items
    return [OrderItem.model_validate(given, from_attributes=True)]


Items = Annotated[
    list[OrderItem],
    PlainValidator(_items_of, json_schema_input_type=OrderItem | OrderOfItems),
    FromBody(
        openapi_examples={
            "one product": {"value": {"product_id": "abc123", "quantity": 2}},
            "several products": {"value": {"items": TWO_ITEMS}},
        }
    ),
]


class Settle(Body):
    product_id: StrictPk = Field(examples=[PRODUCT_PK], description="The `pk` of the product.")


class Settled(BaseModel):
    pk: str = Field(examples=[ORDER_PK])
    product_id: str = Field(examples=[PRODUCT_PK])
    outcome: Outcome = Field(
        examples=["placed"],
        description="The status of the order now. `released`: the order does not contain this "
        "product, and its reservation was released. `under_way`: a request is still working on "
        "the order; try again later.",
    )


class ItemPublic(Public):
    product_id: str = Field(validation_alias="product_pk", examples=[PRODUCT_PK])
    product_name: str = Field(examples=["Laptop"])
    quantity: int = Field(examples=[2])
    unit_price: Amount = Field(validation_alias="unit_price_cents", examples=[999.99])
    subtotal: Amount = Field(validation_alias="subtotal_cents", examples=[1999.98])


def _of_only_item(name: str, example: object) -> Any:
    path = AliasPath("only_item", name)
    return Field(None, validation_alias=path, examples=[example], description=ONLY_ITEM)


class OrderPublic(Public):
    pk: str = Field(examples=[ORDER_PK])
    items: list[ItemPublic] = Field(examples=[[example_of(ItemPublic)]])
    total: Amount = Field(validation_alias="total_cents", examples=[1999.98])
    status: Status = Field(examples=["PLACED"])
    user_id: str | None = Field(validation_alias="user_pk", examples=[USER_PK])
    created_at: Timestamp = Field(examples=[ORDER_MADE_AT])
    product_id: str | None = _of_only_item("product_pk", PRODUCT_PK)
    product_name: str | None = _of_only_item("product_name", "Laptop")
    quantity: int | None = _of_only_item("quantity", 2)
    unit_price: Amount | None = _of_only_item("unit_price_cents", 999.99)


ORDERS = TypeAdapter(list[OrderPublic])


Own = Annotated[Checkout, OWN]
Pk = Annotated[PkOrNone, Path(description="The `pk` of an order.")]
SettledPk = Annotated[StrictPk, Path(description="The `pk` of an order.")]

ordering = APIRouter(tags=["orders"])
fulfilment = APIRouter(prefix="/orders/{pk}", tags=["fulfilment"], dependencies=[ADMINISTRATOR])


@ordering.post(
    "/order",
    response_model=OrderPublic,
    status_code=201,
    responses=raises(
        errors.InsufficientQuantity(product_pk=PRODUCT_PK),
        errors.PriceChanged(product_pk=PRODUCT_PK),
        errors.ProductNotFound(product_id=PRODUCT_PK),
        errors.RequestInProgress(retry_after=2),
        errors.ProductServiceUnavailable,
        errors.StorageMismatch,
        errors.OrderGivenUp,
    ),
)
async def place_order(
    items: Items, caller: Customer, once: OncePerKey, own: Own, deadline: RequestDeadline
) -> Order:
    """Place an order.

    Send `product_id` and `quantity` to order one product, or `items` to order up to 50. The order
    is placed for all items or for none. If you send the `unit_price` you saw and it has changed,
    the order is rejected. The error's `product_id` is that of a product that cannot be ordered.

    To retry safely, send an `Idempotency-Key`, and use the same key for each retry:

    - If the order was placed, the response is the order in its current state, with
      `Idempotent-Replayed: true`.
    - If the order was not placed, the retry tries to place it. A key never places two orders.
    - 409 `request_in_progress`: an earlier request may still be running. Retry after the number of
      seconds in `Retry-After`.
    - 422: the key was used for other items, quantities or prices.
    - After a 400, a 404 or a 409 `price_changed`, the key is free for another order.

    Keys are kept for 24 hours, separately for each user.

    After a 503 with an `order_id`, the order may have been placed: look for it with
    `GET /orders/{order_id}`. If it is not there ORDER_TIMEOUT seconds (10 by default)
    after the 503, it was not placed and never will be.
    """
    ordered = [Item(each.product_id, each.quantity, each.unit_price) for each in items]
    order, is_replay = await own.place(once.key, ordered, caller.user_pk, deadline)
    once.respond(is_replay, f"/orders/{order.pk}")
    return order


@ordering.get(
    "/orders", response_model=list[OrderPublic], responses=COUNTED_LIST | raises(errors.Forbidden)
)
async def list_orders(
    caller: Customer,
    request: Request,
    paging: PagingInTime,
    own: Own,
    status: Annotated[Status | None, Query(description="Only orders with this status.")] = None,
    user_id: Annotated[
        PkOrNone | None,
        Query(min_length=1, description="Only this customer's orders. For administrators."),
    ] = None,
) -> Response:
    """List your orders.

    They are sorted from oldest to newest. Use `limit` and `after` to get the list in pages. With a
    `status`, they are sorted by when they got that status, and `since` and `until` refer to that
    time.

    Administrators see the orders of all customers. So does everyone if AUTH_REQUIRED is false.
    """
    if user_id is not None and caller.orders_of is not None:
        raise errors.Forbidden
    user_pk = user_id or caller.orders_of
    read = partial(own.orders.page, user_pk, status=status, span=paging.span)
    return await listing(request, paging, read, ORDERS)


@ordering.get("/orders/{pk}", response_model=OrderPublic, responses=raises(errors.OrderNotFound))
async def get_order(caller: Customer, pk: Pk, own: Own) -> Order:
    """Get one of your orders.

    Administrators can get any order.
    """
    return await own.orders.get(pk, caller.orders_of)


@ordering.post(
    "/orders/{pk}/cancel",
    response_model=OrderPublic,
    responses=raises(errors.OrderNotFound, errors.OrderIsShipped),
)
async def cancel_order(caller: Customer, pk: Pk, own: Own, deadline: RequestDeadline) -> Order:
    """Cancel one of your orders.

    Its stock is released. Repeats have no further effect. While the product service is unreachable,
    orders can still be cancelled, and the stock is released later. Administrators can cancel any
    order.
    """
    return await own.cancel(pk, caller.orders_of, deadline)


@fulfilment.post(
    "/ship",
    response_model=OrderPublic,
    responses=raises(errors.OrderNotFound, errors.OrderIsCancelled),
)
async def ship_order(pk: Pk, own: Own, deadline: RequestDeadline) -> Order:
    """Mark an order as shipped.

    This is final. Repeats have no further effect. While the product service is unreachable, orders
    can still be shipped, and the stock is updated later.
    """
    return await own.ship(pk, deadline)


@fulfilment.post(
    "/settle", responses=raises(errors.ProductServiceUnavailable, errors.StorageMismatch)
)
async def settle_order(pk: SettledPk, body: Settle, own: Own) -> Settled:
    """Resolve an interrupted order.

    Use this for repairs after an audit. If the order was not placed, it never will be, and its
    reservation is released. If it was cancelled or shipped, the product service is notified again.
    This is safe to repeat.
    """
    outcome = await own.settling.settle_order(pk, body.product_id)
    return Settled(pk=pk, product_id=body.product_id, outcome=outcome)


@asynccontextmanager
async def _ordering(service: Service[Checkout]) -> AsyncIterator[Checkout]:
    settings, opened = service.settings, service.opened
    metrics = OrderMetrics(service.metrics.registry)
    if settings.settle_after <= settings.order_timeout:
        log.warning("SETTLE_AFTER must exceed ORDER_TIMEOUT, or slow orders will fail")

    with closing(ProductClient(settings, opened.storage, service.tokens)) as products:
        settling = Settling(opened.records, products, metrics, settings.settle_after)
        lease_seconds = settings.order_timeout + LEASE_MARGIN_SECONDS
        checkout = Checkout(opened.records, products, settling, metrics, lease_seconds)
        running = asyncio.create_task(settling.run(settings.settle_interval))
        try:
            yield checkout
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
