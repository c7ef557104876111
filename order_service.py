"""The order service, port 8002: places orders, with stock reserved at the product service."""

import shopsphere.packages  # noqa: F401  # those of .venv, if need be

# isort: split

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
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
"""If a process dies, its request's key stays held for ORDER_TIMEOUT and this margin."""
DESCRIPTION = """
Place and manage orders; stock is never oversold.

**To try it:** add a product at the product service (port 8000), copy its `pk`, and order it here:
replace `abc123` with it. The `pk` of your order is in the response and in the list. Where tokens
are required, log in at the user service (port 8001) and paste the `access_token` into
**Authorize**.
"""
MAX_ITEMS = 50
Status = Literal["PLACED", "CANCELLED", "SHIPPED"]
TWO_ITEMS = [{"product_id": "abc123", "quantity": 2}, {"product_id": "xyz789", "quantity": 1}]
ONLY_ITEM = "Copied from the item if there is only one; otherwise null."
TAGS = {
    "orders": "Place, view and cancel orders.",
    "fulfilment": "For the shop: ship orders, resolve interrupted ones.",
}


class OrderItem(Body):
    product_id: str = Field(
        examples=["abc123"], description="The `pk` of a product. Replace `abc123` with it."
    )
    quantity: int = Field(ge=1, le=MAX_ORDER_QUANTITY, examples=[2])
    unit_price: Cents | None = Field(None, examples=[999.99], description=PRICE_SEEN)


def _of_different_products(items: list[OrderItem]) -> list[OrderItem]:
    if len({item.product_id for item in items}) < len(items):
        raise ValueError("must not name a product twice")
    return items


class OrderOfItems(Body):
    items: Annotated[list[OrderItem], AfterValidator(_of_different_products)] = Field(
        min_length=1, max_length=MAX_ITEMS, examples=[[example_of(OrderItem)]]
    )


def _items_of(body: Any) -> list[OrderItem]:
    """Return the items of an order in either form. A field that is null counts as absent."""
    given = body
    if isinstance(body, dict):
        given = {name: value for name, value in body.items() if value is not None}
        if "items" in given:
            if given.keys() & OrderItem.model_fields:
                raise ValueError("must have either items, or product_id and quantity")
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
    product_id: StrictPk = Field(
        examples=[PRODUCT_PK], description="The `pk` of the product that was ordered."
    )


class Settled(BaseModel):
    pk: str = Field(examples=[ORDER_PK])
    product_id: str = Field(examples=[PRODUCT_PK])
    outcome: Outcome = Field(
        examples=["placed"],
        description="What the order is now; `released`: it is of another product, and what this "
        "one held for it was given back; `under_way`: a request is at work on it, try again later.",
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
OF_AN_ORDER = "The `pk` of an order, from the response that created it, or from the list."
Pk = Annotated[PkOrNone, Path(description=OF_AN_ORDER)]
SettledPk = Annotated[StrictPk, Path(description=OF_AN_ORDER)]

ordering = APIRouter(tags=["orders"], responses=raises(errors.StoreUnavailable))
fulfilment = APIRouter(
    prefix="/orders/{pk}",
    tags=["fulfilment"],
    dependencies=[ADMINISTRATOR],
    responses=raises(errors.StoreUnavailable),
)


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
    """Order 1 to 50 products, all or none: units are reserved from the stock of each.

    One product is ordered by its `product_id` and `quantity`, several by `items`. Each can have the
    `unit_price` that was seen: if that has changed, the order is refused. A refusal names the first
    product, in the order of pks, that cannot be ordered.

    After a 503 with an `order_id`, the order may have been placed. If it was,
    `GET /orders/{order_id}` finds it; if it is not there ORDER_TIMEOUT seconds after the 503, it
    never will be. Alternatively, send an `Idempotency-Key` and retry with the same key:

    - The same key with the same items, in any order and either form, returns the same order in its
      current state: 201, with `Idempotent-Replayed: true`.
    - The same key with other items, quantities or prices: 422.
    - While the first request may still be running: 409 with `Retry-After`. If its process died, or
      the storage was unreachable, retry 2 seconds after ORDER_TIMEOUT; after any other 503,
      immediately.
    - After a refusal (400, 404, 409 `price_changed`), the key is free again.
    - After a 503 or a crash, a retry replaces an attempt that was not placed; there are never two
      orders.

    A key is kept for 24 hours from its last order, separately for each user.
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
        Query(min_length=1, description="Only this customer's; for administrators."),
    ] = None,
) -> Response:
    """Your orders, oldest first: the whole list, or one page with `limit` and `after`.

    Administrators see all orders; so does everyone while AUTH_REQUIRED is false. With a `status`,
    the list is in the order in which orders got that status, and `since` and `until` refer to that
    moment.
    """
    if user_id is not None and caller.orders_of is not None:
        raise errors.Forbidden
    user_pk = user_id or caller.orders_of
    read = partial(own.orders.page, user_pk, status=status, span=paging.span)
    return await listing(request, paging, read, ORDERS)


@ordering.get("/orders/{pk}", response_model=OrderPublic, responses=raises(errors.OrderNotFound))
async def get_order(caller: Customer, pk: Pk, own: Own) -> Order:
    """One of your orders. Administrators can get any order."""
    return await own.orders.get(pk, caller.orders_of)


@ordering.post(
    "/orders/{pk}/cancel",
    response_model=OrderPublic,
    responses=raises(errors.OrderNotFound, errors.OrderIsShipped),
)
async def cancel_order(caller: Customer, pk: Pk, own: Own, deadline: RequestDeadline) -> Order:
    """Cancel one of your orders. Its stock is released once, however often this is called.

    Administrators can cancel any order. This works even while the product service is unreachable;
    the stock is then released later.
    """
    return await own.cancel(pk, caller.orders_of, deadline)


@fulfilment.post(
    "/ship",
    response_model=OrderPublic,
    responses=raises(errors.OrderNotFound, errors.OrderIsCancelled),
)
async def ship_order(pk: Pk, own: Own, deadline: RequestDeadline) -> Order:
    """Mark an order as shipped, which is final. Its units count as shipped once.

    This works even while the product service is unreachable; the stock is then updated later.
    """
    return await own.ship(pk, deadline)


@fulfilment.post(
    "/settle", responses=raises(errors.ProductServiceUnavailable, errors.StorageMismatch)
)
async def settle_order(pk: SettledPk, body: Settle, own: Own) -> Settled:
    """Settle one order now, unless a request is working on it: for repairs after an audit.

    An order that was not placed never will be, and its reservation is released. For a cancelled or
    shipped order, the product service is notified again. Safe to repeat.
    """
    outcome = await own.settling.settle_order(pk, body.product_id)
    return Settled(pk=pk, product_id=body.product_id, outcome=outcome)


@asynccontextmanager
async def _ordering(service: Service[Checkout]) -> AsyncIterator[Checkout]:
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
