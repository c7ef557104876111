"""Bare FastAPI apps that give the same answers, as somebody would write them in a quarter hour.

What they leave out is what ShopSphere is for. They are started by the same command, with the same
loop, one worker, and uvicorn's access log where ShopSphere writes a line of its own.
"""

import os
from datetime import UTC, datetime

import requests
from fastapi import FastAPI
from pydantic import BaseModel
from requests.adapters import HTTPAdapter

CREATED_AT = datetime(2026, 1, 1, tzinfo=UTC)
PK = "01JGFJJZ00ABCDEFGHJKMNPQRS"


class Product(BaseModel):
    pk: str
    name: str
    price: float
    quantity: int
    created_at: datetime


class ReservationCreate(BaseModel):
    quantity: int


class Reservation(BaseModel):
    product_id: str
    order_id: str
    quantity: int
    unit_price: float
    product_name: str


class OrderCreate(BaseModel):
    product_id: str
    quantity: int


class Order(BaseModel):
    pk: str
    product_id: str
    product_name: str
    quantity: int
    unit_price: float
    total: float
    status: str
    user_id: str | None
    created_at: datetime


product_app = FastAPI()
order_app = FastAPI()
collector_app = FastAPI()

products = {PK: Product(pk=PK, name="Laptop", price=999.99, quantity=10, created_at=CREATED_AT)}


@product_app.get("/")
@order_app.get("/")
async def health() -> dict[str, str]:
    return {"status": "ok"}


@product_app.get("/products/{pk}")
async def get_product(pk: str) -> Product:
    return products[pk]


@product_app.put("/products/{pk}/reservations/{order_pk}", status_code=201)
async def reserve(pk: str, order_pk: str, body: ReservationCreate) -> Reservation:
    return Reservation(
        product_id=pk,
        order_id=order_pk,
        quantity=body.quantity,
        unit_price=999.99,
        product_name="Laptop",
    )


session = requests.Session()
session.mount("http://", HTTPAdapter(pool_maxsize=40))  # as many as FastAPI has threads
product_service_url = os.environ.get("PRODUCT_SERVICE_URL", "http://127.0.0.1:8000")


@order_app.post("/order", status_code=201)
def place_order(body: OrderCreate) -> Order:
    answer = session.put(
        f"{product_service_url}/products/{body.product_id}/reservations/{PK}",
        json={"quantity": body.quantity},
        timeout=3,
    )
    answer.raise_for_status()
    reservation = answer.json()
    return Order(
        pk=PK,
        product_id=body.product_id,
        product_name=reservation["product_name"],
        quantity=body.quantity,
        unit_price=reservation["unit_price"],
        total=body.quantity * reservation["unit_price"],
        status="PLACED",
        user_id=None,
        created_at=CREATED_AT,
    )


@collector_app.get("/")
@collector_app.post("/v1/traces")
async def collect() -> None:
    """Take spans, as a collector of OpenTelemetry does, and keep none."""
