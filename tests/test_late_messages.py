"""Messages to Redis that come late or not at all: after a second attempt, or after a crash.

What a closed connection left behind can arrive minutes later. It must change nothing.
"""

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from redis_clients import connect
from redis_db import RedisRecords
from shopsphere.domain.values import OrderStatus
from shopsphere.ordering.orders import SHOP
from shopsphere.records import Entry, Listing
from shopsphere.settings import Settings
from tests.customers import Customers
from tests.load import Answer, close_connections, send
from tests.network import FarRedis, Line, far_host
from tests.servers import RedisServer, Service, wait_until
from tests.shop import Shop

SETTINGS = {
    "PRODUCT_SERVICE_TIMEOUT": "6",
    "ORDER_TIMEOUT": "8",
    "SETTLE_AFTER": "9",
    "SETTLE_INTERVAL": "1",
}
SETTLED = 9 + 2 * 1 + 5


class LateShop(Shop):
    """A shop whose product service and first order service reach Redis over lines."""

    def __init__(self, folder: Path, redis: RedisServer) -> None:
        environment = {"USE_REDIS": "required", "REDIS_PREFIX": "late", **SETTINGS}
        super().__init__(folder, environment, order_services=2)
        self.redis = redis
        self.product_line, self.order_line = Line(redis.port), Line(redis.port)
        self.lines = self.product_line, self.order_line
        ports = (self.product_line.port, self.order_line.port, redis.port)
        for service, port in zip(self.services, ports, strict=True):
            service.environment["REDIS_PORT"] = str(port)

    def patch(self, product: str, **change: object) -> Answer:
        return send("PATCH", f"{self.product.url}/products/{product}", change)

    def product_of(self, pk: str) -> dict[str, Any]:
        product: dict[str, Any] = send("GET", f"{self.product.url}/products/{pk}").body
        return product

    def listed(self, path: str, at: Service) -> list[str]:
        return [one["pk"] for one in send("GET", f"{at.url}{path}").body]

    def status_at_another(self, pk: str) -> str:
        return str(send("GET", f"{self.orders[1].url}/orders/{pk}").body["status"])

    def entries(self, status: OrderStatus) -> set[str]:
        """Return the orders in the list of this status."""

        async def entries() -> list[Entry]:
            records = RedisRecords(await connect(Settings(redis_port=self.redis.port)), "late")
            try:
                return await records.entries(Listing(SHOP, status), 0, 1000)
            finally:
                await records.close()

        return {entry.member for entry in asyncio.run(entries())}

    def stop(self) -> None:
        super().stop()
        for line in self.lines:
            line.close()


@pytest.fixture(scope="module")
def shop(redis_server: RedisServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LateShop]:
    shop = LateShop(tmp_path_factory.mktemp("shop"), redis_server)
    try:
        shop.start()
        shop.placed(shop.new_product(1))  # the first step of a process does not know Redis's clock
        yield shop
    finally:
        close_connections()
        shop.stop()


at_once_or_late = pytest.mark.parametrize("hangs_up", [True, False], ids=["at once", "late"])
"""A connection that breaks is noticed at once, a silent one after 2 s."""


@at_once_or_late
@pytest.mark.parametrize("more", [0, 1])
def test_a_late_stock_change_counts_once(shop: LateShop, more: int, hangs_up: bool) -> None:
    product = shop.new_product(10)
    shop.product_line.silence(hangs_up=hangs_up)
    assert shop.change_stock(product, 5).status == 200
    if more:
        assert shop.change_stock(product, more).status == 200
    assert product.encode() in shop.product_line.deliver()
    assert shop.stock(product) == (15 + more, 15 + more, 0, 0)


@at_once_or_late
@pytest.mark.parametrize("later", [(2.0,), (2.0, 9.99)], ids=["another", "the first again"])
def test_a_late_price_never_replaces_a_later_one(
    shop: LateShop, later: tuple[float, ...], hangs_up: bool
) -> None:
    product = shop.new_product(10)
    shop.product_line.silence(hangs_up=hangs_up)
    assert shop.patch(product, price=1).status == 200
    for price in later:
        assert shop.patch(product, price=price).status == 200
    assert product.encode() in shop.product_line.deliver()
    assert shop.product_of(product)["price"] == later[-1]


@at_once_or_late
def test_a_late_name_is_found_no_second_time_and_not_after_the_next(
    shop: LateShop, hangs_up: bool
) -> None:
    product = shop.new_product(10)
    shop.product_line.silence(b":names:{names}:", hangs_up=hangs_up)
    for name in ("Interim", "Other", "Interim"):
        assert shop.patch(product, name=name).status == 200
    assert b"nterim" in shop.product_line.deliver()
    assert shop.listed("/products/search?name=interim", shop.product) == [product]
    assert shop.patch(product, name="Other").status == 200
    assert shop.listed("/products/search?name=interim", shop.product) == []


@at_once_or_late
def test_a_product_that_was_deleted_is_not_listed_by_a_late_message(
    shop: LateShop, hangs_up: bool
) -> None:
    shop.product_line.silence(b":list:{products}:all", hangs_up=hangs_up)
    product = shop.new_product(10)
    assert product in shop.listed("/products", shop.product)
    assert shop.delete(product).status == 204
    assert product.encode() in shop.product_line.deliver()
    assert product not in shop.listed("/products", shop.product)


@at_once_or_late
def test_a_late_reservation_does_not_come_back_after_its_release(
    shop: LateShop, hangs_up: bool
) -> None:
    product = shop.new_product(10)
    shop.product_line.silence(b":reservation:", hangs_up=hangs_up)
    order = shop.placed(product, 3)
    assert shop.cancel(order).status == 200
    assert order.encode() in shop.product_line.deliver()
    assert shop.stock(product) == (10, 10, 0, 0)


@at_once_or_late
def test_an_order_that_ended_does_not_become_placed_by_a_late_message(
    shop: LateShop, hangs_up: bool
) -> None:
    product = shop.new_product(10)
    shop.order_line.silence(b"PLACED", hangs_up=hangs_up)
    order = shop.placed(product, 3)
    assert shop.cancel(order).status == 200
    assert order.encode() in shop.order_line.deliver()
    assert shop.order_status(order) == "CANCELLED"
    assert shop.stock(product) == (10, 10, 0, 0)


@at_once_or_late
def test_a_cancelled_order_does_not_enter_the_list_of_placed_ones_late(
    shop: LateShop, hangs_up: bool
) -> None:
    product = shop.new_product(10)
    shop.order_line.silence(b":list:{orders}:PLACED", hangs_up=hangs_up)
    order = shop.placed(product, 3)
    assert shop.cancel(order).status == 200
    assert order.encode() in shop.order_line.deliver()
    assert order not in shop.entries(OrderStatus.PLACED)
    assert order in shop.entries(OrderStatus.CANCELLED)


def test_whatever_comes_late_under_load_the_books_are_exact(shop: LateShop) -> None:
    product = shop.new_product(10_000)
    with Customers(shop, product) as customers:
        for turn in range(6):
            for line in shop.lines:
                line.silence(hangs_up=turn % 2 == 0)
            customers.wait_for(10)
            for line in shop.lines:
                assert line.deliver()
    shop.wait_until_exact(SETTLED)
    customers.assert_served()


def test_a_key_that_was_freed_is_not_bound_again_by_a_late_message(shop: LateShop) -> None:
    product = shop.new_product(0)
    shop.order_line.silence(b":idempotency-key:")
    assert shop.place(product, 1, "freed").status == 400
    assert shop.change_stock(product, 5).status == 200
    assert b":idempotency-key:" in shop.order_line.deliver()
    assert shop.place(product, 1, "freed").status == 201


@pytest.mark.parametrize("key", [None, "cut off", "cut off, then cancelled"])
def test_an_order_whose_service_is_cut_off_after_placing_it_is_found_and_listed(
    shop: LateShop, key: str | None
) -> None:
    product = shop.new_product(10)
    shop.order_line.cut_after(b'"PLACED"')
    answer = shop.place(product, 3, key)
    assert answer.status == 503
    order = answer.body["order_id"]
    assert shop.status_at_another(order) == "PLACED"
    if key:
        if "cancelled" in key:
            assert shop.cancel(order, at=1).status == 200
        again = shop.place(product, 3, key, at=1)
        assert (again.status, again.body["pk"]) == (201, order)
        assert again.headers["idempotent-replayed"] == "true"
        assert order in shop.listed("/orders", shop.orders[1])
    shop.order_line.mend()
    shop.order_line.deliver()
    wait_until(lambda: order in shop.listed("/orders", shop.orders[1]), SETTLED, "it is listed")
    assert shop.order_status(order) == shop.status_at_another(order)


def test_what_a_closed_socket_left_behind_is_dropped(tmp_path: Path) -> None:
    with far_host() as host:
        redis = FarRedis(tmp_path, host)
        url = f"redis://{host.there}:{redis.port}"
        product = Service("product", tmp_path / "log", USE_REDIS="required", REDIS_URL=url)
        try:
            product.start()
            pk = product.post("/products", {"name": "Lamp", "price": 5, "quantity": 10}).json()[
                "pk"
            ]
            host.drop(redis.ports_of_others())
            assert product.post(f"/products/{pk}/stock", {"change": 5}).status_code == 200
            assert product.request("PATCH", f"/products/{pk}", json={"price": 1}).status_code == 200
            assert host.has_undelivered()
            wait_until(lambda: not host.has_undelivered(), 15, "the kernel gives up")
            host.drop_nothing()
            assert product.request("PATCH", f"/products/{pk}", json={"price": 2}).status_code == 200
            assert product.get(f"/products/{pk}/stock").json()["received"] == 15
            assert product.get(f"/products/{pk}").json()["price"] == 2
        finally:
            product.stop()
            redis.stop()
