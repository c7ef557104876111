"""The order service, port 8002: places orders, asking the product service for the stock."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import datetime
from typing import Annotated, Literal

from fastapi import APIRouter, Depends, FastAPI, Request, Response
from pydantic import BaseModel, ConfigDict, Field
from starlette.datastructures import State

from shopsphere.access import TOKEN_CHECKED, OptionalCaller
from shopsphere.error_answers import errors
from shopsphere.errors import (
    InsufficientQuantity,
    InvalidToken,
    OrderNotFound,
    ProductNotFound,
    ProductServiceUnavailable,
    StorageMismatch,
)
from shopsphere.models import MAX_ORDER_QUANTITY, Order, is_pk
from shopsphere.ordering.checkout import Checkout
from shopsphere.ordering.product_client import ProductClient
from shopsphere.paging import LINK_HEADER, PagingByPk, listing
from shopsphere.settings import Settings
from shopsphere.stores import OrderStore
from shopsphere.web import create_app, serve
from storage import open_order_store

PORT = 8002


class OrderCreate(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)

    product_id: str = Field(examples=["abc123"], description="The `pk` of a product.")
    quantity: int = Field(ge=1, le=MAX_ORDER_QUANTITY, examples=[2])


class OrderPublic(BaseModel):
    model_config = ConfigDict(from_attributes=True)

    pk: str
    product_id: str
    product_name: str
    quantity: int
    unit_price: float
    total: float
    status: Literal["PLACED", "CANCELLED", "SHIPPED"]
    user_id: str | None
    created_at: datetime


def _store(request: Request) -> OrderStore:
    store: OrderStore = request.app.state.opened.store
    return store


def _checkout(request: Request) -> Checkout:
    checkout: Checkout = request.app.state.checkout
    return checkout


def _possible_pk(pk: str) -> str:
    if not is_pk(pk):
        raise OrderNotFound
    return pk


Orders = Annotated[OrderStore, Depends(_store)]
Pk = Annotated[str, Depends(_possible_pk)]

router = APIRouter(tags=["orders"], dependencies=[TOKEN_CHECKED], responses=errors(InvalidToken))


@router.post(
    "/order",
    response_model=OrderPublic,
    status_code=201,
    responses=errors(
        InsufficientQuantity, ProductNotFound, ProductServiceUnavailable, StorageMismatch
    ),
)
async def place_order(
    body: OrderCreate,
    caller: OptionalCaller,
    checkout: Annotated[Checkout, Depends(_checkout)],
    response: Response,
) -> Order:
    """Order some units of a product: they are taken from its stock, or the order is refused.

    A 503 does not mean that nothing was placed: the product service may have been heard and not
    its answer. Look at `GET /orders` before you send the order again.
    """
    user_id = caller.user_id if caller else None
    order = await checkout.place(body.product_id, body.quantity, user_id)
    response.headers["Location"] = f"/orders/{order.pk}"
    return order


@router.get("/orders", response_model=list[OrderPublic], responses={200: {"headers": LINK_HEADER}})
async def list_orders(request: Request, paging: PagingByPk, orders: Orders) -> Response:
    """All orders, oldest first: the whole list, or a page of it with `limit` and `after`."""
    return await listing(
        request,
        paging,
        lambda after, limit: orders.list_page(None, after, limit),
        OrderPublic.model_validate,
    )


@router.get("/orders/{pk}", response_model=OrderPublic, responses=errors(OrderNotFound))
async def get_order(pk: Pk, orders: Orders) -> Order:
    """One order."""
    return await orders.get(pk)


@asynccontextmanager
async def _ordering(state: State) -> AsyncIterator[None]:
    settings: Settings = state.settings
    with ProductClient(
        settings.product_service_url, state.opened.storage, settings.product_service_timeout
    ) as products:
        state.checkout = Checkout(state.opened.store, products)
        yield


def build(settings: Settings | None = None) -> FastAPI:
    """Return the app, with these settings or those of the environment."""
    return create_app(
        "order",
        title="ShopSphere orders",
        description="Orders, which never take what is not there.",
        router=router,
        open_store=open_order_store,
        around=_ordering,
        settings=settings,
    )


app = build()

if __name__ == "__main__":
    serve(app, PORT)
