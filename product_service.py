"""The product service, port 8000: the catalogue and the stock."""

import shopsphere.packages  # noqa: F401  # so that `python product_service.py` finds .venv

# isort: split

from contextlib import nullcontext
from functools import partial
from typing import Annotated, Self

from fastapi import APIRouter, Depends, FastAPI, Header, Path, Query, Request, Response
from pydantic import ConfigDict, Field, TypeAdapter, model_validator

from shopsphere.catalogue.products import Products
from shopsphere.domain import errors
from shopsphere.domain.money import Amount, Cents
from shopsphere.domain.values import MAX_ON_HAND, MAX_ORDER_QUANTITY, Product, Reservation, Stock
from shopsphere.records import StorageName
from shopsphere.settings import Settings
from shopsphere.web.access import ADMINISTRATOR, ADMINISTRATOR_OR_SERVICE, ANYONE, ORDER_SERVICE
from shopsphere.web.app import create_app, serve
from shopsphere.web.error_responses import raises
from shopsphere.web.examples import ORDER_PK, PRODUCT_MADE_AT, PRODUCT_PK
from shopsphere.web.idempotency_key import OncePerKey
from shopsphere.web.paging import COUNTED_LIST, LIST, AnyPaging, PagingByEntry, listing
from shopsphere.web.schemas import PRICE_SEEN, Body, Name, PkOrNone, Public, StrictPk, Timestamp
from shopsphere.web.service import OWN, Service, service_of
from storage import open_storage

PORT = 8000
DESCRIPTION = """
The catalogue, and the stock of each product.

**To try it:** Add a product, and copy its `pk` from the response. Use it on this page, or to order
the product from the [order service]({order_service_url}/docs). If tokens are required, log in at
the [user service]({user_service_url}/docs) as an administrator, and paste the token into
**Authorize**.
"""
TAGS = {
    "catalogue": "View products; administrators also add, change and delete them.",
    "stock": "View and change the stock of a product.",
    "reservations": "Units held for orders. For the order service only.",
}


class ProductCreate(Body):
    name: Name = Field(examples=["Laptop"])
    price: Cents = Field(examples=[999.99])
    quantity: int = Field(ge=0, le=MAX_ON_HAND, examples=[10])


class ProductUpdate(Body):
    model_config = ConfigDict(json_schema_extra={"minProperties": 1})

    name: Name = Field(None, examples=["Laptop, 14 inch"])  # type: ignore[assignment]  # absent
    price: Cents = Field(None, examples=[899.5])  # type: ignore[assignment]  # absent

    @model_validator(mode="after")
    def _changes_something(self) -> Self:
        if not self.model_fields_set:
            raise ValueError("must contain a name, a price or both")
        return self


class StockChange(Body):
    change: int = Field(examples=[5], description="Units to add; negative to remove.")


class ReservationCreate(Body):
    quantity: int = Field(ge=1, le=MAX_ORDER_QUANTITY, examples=[2])
    unit_price: Cents | None = Field(None, examples=[999.99], description=PRICE_SEEN)


class ProductPublic(Public):
    pk: str = Field(examples=[PRODUCT_PK])
    name: str = Field(examples=["Laptop"])
    price: Amount = Field(validation_alias="price_cents", examples=[999.99])
    quantity: int = Field(examples=[10], description="Units available to order.")
    created_at: Timestamp = Field(examples=[PRODUCT_MADE_AT])


class StockPublic(Public):
    received: int = Field(examples=[10], description="All units ever added, less those removed.")
    available: int = Field(examples=[8], description="Units available to order.")
    reserved: int = Field(examples=[2], description="Units held for placed orders.")
    shipped: int = Field(examples=[0], description="Units of shipped orders.")


class ReservationPublic(Public):
    product_id: str = Field(validation_alias="product_pk", examples=[PRODUCT_PK])
    order_id: str = Field(validation_alias="order_pk", examples=[ORDER_PK])
    quantity: int = Field(examples=[2])
    unit_price: Amount = Field(validation_alias="unit_price_cents", examples=[999.99])
    product_name: str = Field(examples=["Laptop"])


PRODUCTS = TypeAdapter(list[ProductPublic])
RESERVATIONS = TypeAdapter(list[ReservationPublic])


OrdersStorage = Annotated[StorageName | None, Header(include_in_schema=False)]


async def _same_storage(request: Request, x_storage: OrdersStorage = None) -> None:
    if x_storage not in (None, service_of(request).opened.storage):
        raise errors.StorageMismatch


Catalogue = Annotated[Products, OWN]
Pk = Annotated[PkOrNone, Path(description="The `pk` of a product.")]
OfOrder = Annotated[
    StrictPk, Path(description="The `pk` of an order.", json_schema_extra={"example": ORDER_PK})
]

NOT_FOUND = raises(errors.ProductNotFound)

catalogue = APIRouter(prefix="/products", tags=["catalogue"], dependencies=[ANYONE])
administration = APIRouter(prefix="/products", dependencies=[ADMINISTRATOR], responses=NOT_FOUND)
stock = APIRouter(
    prefix="/products/{pk}",
    tags=["stock"],
    dependencies=[ADMINISTRATOR_OR_SERVICE],
    responses=NOT_FOUND,
)
reservations = APIRouter(
    prefix="/products/{pk}/reservations/{order_pk}",
    tags=["reservations"],
    dependencies=[ORDER_SERVICE, Depends(_same_storage)],
    responses=raises(errors.StorageMismatch),
)


@catalogue.get("/search", response_model=list[ProductPublic], responses=LIST)
async def search_products(
    request: Request,
    name: Annotated[
        str,
        Query(min_length=1, description="Part of a name.", json_schema_extra={"example": "lap"}),
    ],
    paging: AnyPaging,
    products: Catalogue,
) -> Response:
    """Search products by name.

    A name matches if it contains the text anywhere, ignoring case and accents. Results are sorted
    by the name from the match onward.
    """
    return await listing(request, paging, partial(products.search_page, name), PRODUCTS)


@catalogue.get("/{pk}", response_model=ProductPublic, responses=NOT_FOUND)
async def get_product(pk: Pk, request: Request) -> Product:
    """Get a product.

    Its `quantity` is the number of units available to order.
    """
    # A dependency would cost 12 µs on this busiest route.
    products: Products = service_of(request).own
    return await products.get(pk)


@administration.post("", response_model=ProductPublic, status_code=201, tags=["catalogue"])
async def create_product(body: ProductCreate, products: Catalogue, once: OncePerKey) -> Product:
    """Add a product.

    Use the returned `pk` to order it.

    With an `Idempotency-Key`, repeats within 24 hours return the same product in its current state,
    with `Idempotent-Replayed: true`, or 404 if it was deleted. Using the key for another product
    returns 422. Keys are separate for each user.
    """
    product, is_replay = await products.create(body.name, body.price, body.quantity, once.key)
    once.respond(is_replay, f"/products/{product.pk}")
    return product


@catalogue.get("", response_model=list[ProductPublic], responses=COUNTED_LIST)
async def list_products(request: Request, paging: PagingByEntry, products: Catalogue) -> Response:
    """List products.

    They are sorted from oldest to newest. Use `limit` and `after` to get the list in pages.
    """
    return await listing(request, paging, partial(products.page, span=paging.span), PRODUCTS)


@administration.patch("/{pk}", response_model=ProductPublic, tags=["catalogue"])
async def update_product(pk: Pk, body: ProductUpdate, products: Catalogue) -> Product:
    """Change a product's name or price.

    Existing orders keep the name and price they were placed with.
    """
    return await products.update(pk, body.name, body.price)


@administration.delete("/{pk}", status_code=204, tags=["catalogue"])
async def delete_product(pk: Pk, products: Catalogue) -> None:
    """Delete a product.

    Its orders remain, and can still be shipped or cancelled.
    """
    await products.delete(pk)


@administration.post(
    "/{pk}/stock",
    response_model=ProductPublic,
    tags=["stock"],
    responses=raises(errors.StockTooLow(available=3), errors.StockLimit),
)
async def change_stock(pk: Pk, body: StockChange, products: Catalogue, once: OncePerKey) -> Product:
    """Add or remove stock.

    Only available units can be removed. At most 1,000,000,000 units can be on hand.

    With an `Idempotency-Key`, the change takes effect once in 24 hours. Repeats return the product
    in its current state, with `Idempotent-Replayed: true`. Using the key for another change returns
    422. A rejected change leaves the key free. Keys are separate for each user and product.
    """
    change = max(-MAX_ON_HAND - 1, min(body.change, MAX_ON_HAND + 1))
    product, is_replay = await products.change_stock(pk, change, once.key)
    once.respond(is_replay)
    return product


@stock.get("/stock", response_model=StockPublic)
async def get_stock(pk: Pk, products: Catalogue) -> Stock:
    """Get the stock breakdown of a product.

    The numbers always add up: `received = available + reserved + shipped`.
    """
    return await products.stock(pk)


@stock.get("/reservations", response_model=list[ReservationPublic], responses=LIST)
async def list_reservations(
    pk: Pk, request: Request, paging: AnyPaging, products: Catalogue
) -> Response:
    """List the active reservations of a product.

    They are neither released nor shipped, and are sorted by the `pk` of the order.
    """
    return await listing(request, paging, partial(products.reservations_page, pk), RESERVATIONS)


@reservations.put(
    "",
    response_model=ReservationPublic,
    status_code=201,
    responses=raises(
        errors.ProductNotFound,
        errors.PriceChanged,
        errors.ReservationRefused,
        errors.ReservationReleased,
        errors.ReservationConflict,
    )
    | {200: {"model": ReservationPublic, "description": "Already reserved."}},
)
async def reserve(
    pk: Pk, order_pk: OfOrder, body: ReservationCreate, products: Catalogue, response: Response
) -> Reservation:
    """Reserve units for an order.

    Stock is checked and reserved in one step. A repeat returns 200 and reserves nothing more. After
    a 409 `price_changed` or `insufficient_quantity`, repeats within ten minutes return the same,
    even if stock has been added.
    """
    reservation, is_new = await products.reserve(pk, order_pk, body.quantity, body.unit_price)
    response.status_code = 201 if is_new else 200
    return reservation


@reservations.delete("", status_code=204, responses=raises(errors.ReservationShipped))
async def release(pk: Pk, order_pk: OfOrder, products: Catalogue) -> None:
    """Release the units of an order.

    Repeats have no further effect. For ten minutes, the order cannot reserve units of this product
    again. This works even if the product does not exist.
    """
    await products.release(pk, order_pk)


@reservations.post("/ship", status_code=204, responses=raises(errors.ReservationReleased))
async def ship(pk: Pk, order_pk: OfOrder, products: Catalogue) -> None:
    """Mark the units of an order as shipped.

    They move from `reserved` to `shipped`. Repeats have no further effect.
    """
    await products.ship(pk, order_pk)


def _catalogue(service: Service[Products]) -> nullcontext[Products]:
    return nullcontext(Products(service.opened.records))


def build(settings: Settings | None = None) -> FastAPI:
    """Return the app, with these settings or those from the environment."""
    routers = [catalogue, administration, stock, reservations]
    return create_app("product", DESCRIPTION, TAGS, routers, open_storage, _catalogue, settings)


app = build()

if __name__ == "__main__":
    serve(app, PORT)
