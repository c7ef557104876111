"""Messages to Redis that come late or not at all: after a second attempt, or after a crash.

What a closed connection left behind can arrive minutes later. It must change nothing.
"""

import asyncio
import os
import socket
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from shopsphere.http_sessions import NO_RETRY, session
from shopsphere.redis_clients.connecting import connect
from shopsphere.settings import Settings
from tests.load import close_connections, send
from tests.network import Line
from tests.servers import RedisServer, Service
from tests.shop import Shop

SETTINGS = {
    "PRODUCT_SERVICE_TIMEOUT": "4",
    "ORDER_TIMEOUT": "6",
    "SETTLE_AFTER": "7",
    "SETTLE_INTERVAL": "1",
}


class LateShop(Shop):
    """A shop whose product service and first order service reach Redis over lines."""

    def __init__(self, folder: Path, redis: RedisServer) -> None:
        environment = {"USE_REDIS": "required", "REDIS_PREFIX": "late", **SETTINGS}
        super().__init__(folder, environment, order_services=2)
        self.redis = redis
        self.lines = self.product_line, self.order_line = Line(redis.port), Line(redis.port)
        ports = (self.product_line.port, self.order_line.port, redis.port)
        for service, port in zip(self.services, ports, strict=True):
            service.environment["REDIS_PORT"] = str(port)

    def patch(self, product: str, **change: object) -> None:
        assert send("PATCH", f"{self.product.url}/products/{product}", change).status == 200

    def get(self, path: str, at: Service) -> Any:
        return send("GET", f"{at.url}{path}").body

    def listed(self, path: str, at: Service) -> list[str]:
        return [one["pk"] for one in self.get(path, at)]

    def entries(self, status: str) -> list[str]:
        """Return the orders in the list of this status."""
        return list(self.redis.client.zrange(f"late:list:{{orders}}:{status}", 0, -1))

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
def test_a_late_stock_change_counts_once_and_a_late_price_never_replaces_a_later_one(
    shop: LateShop, hangs_up: bool
) -> None:
    product = shop.new_product(10)
    shop.product_line.silence(hangs_up=hangs_up)
    assert shop.change_stock(product, 5).status == 200
    assert product.encode() in shop.product_line.deliver()
    assert shop.stock(product) == (15, 15, 0, 0)
    shop.product_line.silence(hangs_up=hangs_up)
    for price in (1, 2.0, 9.99):  # the last is what it was before
        shop.patch(product, price=price)
    assert product.encode() in shop.product_line.deliver()
    assert shop.get(f"/products/{product}", shop.product)["price"] == 9.99


def test_a_late_name_is_found_no_second_time_and_not_after_the_next(shop: LateShop) -> None:
    product = shop.new_product(10)
    shop.product_line.silence(b":names:{names}:", hangs_up=True)
    for name in ("Interim", "Other", "Interim"):
        shop.patch(product, name=name)
    assert b"nterim" in shop.product_line.deliver()
    assert shop.listed("/products/search?name=interim", shop.product) == [product]
    shop.patch(product, name="Other")
    assert shop.listed("/products/search?name=interim", shop.product) == []


@pytest.mark.parametrize("late", [b":reservation:", b"PLACED", b":list:{orders}:PLACED"])
def test_a_cancelled_order_is_not_placed_reserved_or_listed_by_a_late_message(
    shop: LateShop, late: bytes
) -> None:
    line = shop.product_line if b"reservation" in late else shop.order_line
    product = shop.new_product(10)
    line.silence(late, hangs_up=True)
    order = shop.placed(product, 3)
    assert shop.cancel(order).status == 200
    assert order.encode() in line.deliver()
    assert shop.order_status(order) == "CANCELLED"
    assert shop.stock(product) == (10, 10, 0, 0)
    assert order not in shop.entries("PLACED")
    assert order in shop.entries("CANCELLED")


def test_a_key_that_was_freed_is_not_bound_again_by_a_late_message(shop: LateShop) -> None:
    product = shop.new_product(0)
    shop.order_line.silence(b":idempotency-key:")
    assert shop.place(product, 1, "freed").status == 400
    assert shop.change_stock(product, 5).status == 200
    assert b":idempotency-key:" in shop.order_line.deliver()
    assert shop.place(product, 1, "freed").status == 201


def test_an_order_whose_service_is_cut_off_after_placing_it_is_found_replayed_and_listed(
    shop: LateShop,
) -> None:
    product = shop.new_product(10)
    shop.order_line.cut_after(b'"PLACED"')
    answer = shop.place(product, 3, "cut off")
    assert answer.status == 503
    order = answer.body["order_id"]
    assert shop.get(f"/orders/{order}", shop.orders[1])["status"] == "PLACED"
    assert order not in shop.listed("/orders", shop.orders[1])
    again = shop.place(product, 3, "cut off", at=1)
    assert (again.status, again.body["pk"]) == (201, order)
    assert again.headers["idempotent-replayed"] == "true"
    assert order in shop.listed("/orders", shop.orders[1])
    assert shop.cancel(order, at=1).status == 200
    shop.order_line.mend()
    shop.order_line.deliver()
    assert shop.order_status(order) == "CANCELLED"
    assert order in shop.listed("/orders", shop.order)
    assert shop.stock(product) == (10, 10, 0, 0)


def timeouts_of_sockets_to(port: int) -> set[int]:
    """Return after how many milliseconds the kernel drops what our sockets have sent there."""
    found = set()
    for number in os.listdir("/proc/self/fd"):
        with suppress(OSError), socket.socket(fileno=os.dup(int(number))) as connection:
            if connection.getpeername()[1:2] == (port,):
                found.add(connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT))
    return found


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux can drop what was sent")
def test_what_a_closed_socket_left_behind_is_dropped_by_the_kernel(shop: LateShop) -> None:
    async def of_redis() -> set[int]:
        client = await connect(Settings(redis_port=shop.redis.port))
        try:
            return timeouts_of_sockets_to(shop.redis.port)
        finally:
            await client.close_all()

    assert asyncio.run(of_redis()) - {0} == {4000}  # 0 are those of the tests themselves
    with session(NO_RETRY, "") as http:
        assert http.get(shop.product.url, timeout=5).ok
        assert timeouts_of_sockets_to(shop.product.port) - {0} == {4000}
