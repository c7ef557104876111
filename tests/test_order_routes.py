"""The order service over HTTP, beside a real product service, and beside one that misbehaves."""

import contextlib
import json
import re
import socketserver
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from typing import Any

import jwt
import pytest

from shopsphere.domain.pks import is_pk, new_pk
from tests.apps import JWT_SECRET, CheckedClient, refusal, running
from tests.network import Line
from tests.servers import RedisServer, Service, free_port, wait_until

MEMORY = {"USE_REDIS": "false"}


@dataclass(frozen=True)
class Shop:
    """A product service that runs, and the storage that it shares with the order service."""

    products: Service
    storage: str
    environment: dict[str, str]

    def add(self, name: str = "Lamp", price: float = 19.99, quantity: int = 10) -> Any:
        body = {"name": name, "price": price, "quantity": quantity}
        return self.products.post("/products", body).json()

    def stock(self, pk: str) -> dict[str, int]:
        figures: dict[str, int] = self.products.get(f"/products/{pk}/stock").json()
        return figures


@pytest.fixture(scope="module", params=["memory", "redis"])
def shop(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Shop]:
    """A product service as a process of its own, on each storage."""
    environment = MEMORY
    if request.param == "redis":
        server: RedisServer = request.getfixturevalue("redis_server")
        environment = {"USE_REDIS": "required", "REDIS_PORT": str(server.port)}
    log = tmp_path_factory.mktemp("orders") / "product.log"
    service = Service("product", log, 0, JWT_SECRET=JWT_SECRET, **environment)
    try:
        yield Shop(service.start(), request.param, environment)
    finally:
        service.stop()


@pytest.fixture
def orders(shop: Shop) -> Iterator[CheckedClient]:
    """An order service on the same storage as the products, without any order."""
    with order_service(shop, shop.products.url) as orders:
        yield orders


def order_service(shop: Shop, product_service_url: str, **more: object) -> Any:
    """Run an order service whose orders lie under a prefix of their own."""
    settings = {"redis_prefix": f"orders-{new_pk()}", "product_service_timeout": 0.3, **more}
    settings |= {name.lower(): value for name, value in shop.environment.items()} | more
    return running("order", {}, product_service_url=product_service_url, **settings)


# Placing


def test_an_order_takes_stock_and_is_found_where_location_says(
    orders: CheckedClient, shop: Shop
) -> None:
    lamp = shop.add(price=0.1, quantity=10)
    response = orders.post("/order", json={"product_id": lamp["pk"], "quantity": 3})
    assert response.status_code == 201
    order = response.json()
    assert is_pk(order.pop("pk"))
    assert order.pop("created_at").endswith("Z")
    assert order == {
        "product_id": lamp["pk"], "product_name": "Lamp", "quantity": 3, "unit_price": 0.1,
        "total": 0.3, "status": "PLACED", "user_id": None,
    }  # fmt: skip
    assert response.headers["Location"] == f"/orders/{response.json()['pk']}"
    assert orders.get(response.headers["Location"]).json() == response.json()
    assert orders.get("/orders").json() == [response.json()]
    assert shop.stock(lamp["pk"]) == {"received": 10, "available": 7, "reserved": 3, "shipped": 0}


def test_an_order_of_too_many_says_what_there_is_and_takes_nothing(
    orders: CheckedClient, shop: Shop
) -> None:
    lamp = shop.add(quantity=2)
    response = orders.post("/order", json={"product_id": lamp["pk"], "quantity": 3})
    assert refusal(response) == (400, "insufficient_quantity")
    assert response.json()["available"] == 2
    assert "2" in response.json()["detail"]
    assert shop.stock(lamp["pk"])["available"] == 2
    assert orders.get("/orders").json() == []


def test_an_order_of_no_such_product_is_404(orders: CheckedClient) -> None:
    for product_id in ("", "abc123", new_pk(), "x" * 30_000, "../products", "a/b", "\0", "é" * 26):
        response = orders.post("/order", json={"product_id": product_id, "quantity": 1})
        assert refusal(response) == (404, "product_not_found"), product_id
    assert orders.get("/orders").json() == []


# A product service that misbehaves


in_memory = pytest.mark.parametrize("shop", ["memory"], indirect=True)
"""For what an order service does before it comes to any storage."""

THIS_PRODUCT, THIS_ORDER = "THIS_PRODUCT".ljust(26, "_"), "THIS_ORDER".ljust(26, "_")
"""What a misbehaving server replaces by the pks that it is asked for, which are as long."""
ENDLESS = b"..."


@contextlib.contextmanager
def misbehaving(answer: bytes | None) -> Iterator[tuple[str, list[bytes]]]:
    """Answer every request like this, or not at all; yield the address, and what was asked.

    Where it ends in dots it goes on, until the order service hangs up, which is noted too.
    """
    requests: list[bytes] = []

    class Handler(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            received = self.request.recv(65536)
            while b"\r\n\r\n" not in received or (b"PUT" in received and received[-1:] != b"}"):
                received += self.request.recv(65536)
            requests.append(received)
            _, _, product_pk, _, order_pk = received.split()[1].split(b"/")[:5]
            with contextlib.suppress(ConnectionError):
                if answer is None:
                    self.request.recv(1)
                else:
                    about = answer.replace(THIS_PRODUCT.encode(), product_pk)
                    self.request.sendall(about.replace(THIS_ORDER.encode(), order_pk))
                while answer and answer.endswith(ENDLESS):
                    self.request.sendall(b".")
            requests.append(b"hung up")

    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}", requests
        server.shutdown()


def asked(requests: list[bytes], method: str) -> list[bytes]:
    """Return the requests with this method."""
    return [request for request in requests if request.startswith(method.encode())]


def answer(status: str, body: object, *headers: str) -> bytes:
    """Return a response as it goes over the wire."""
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    head = [f"HTTP/1.1 {status}", f"Content-Length: {len(content)}", "Connection: close", *headers]
    return "\r\n".join([*head, "", ""]).encode() + content


NOT_FOUND = {"detail": "There is no such product.", "code": "product_not_found"}
RESERVED = {
    "product_id": THIS_PRODUCT, "order_id": THIS_ORDER, "quantity": 1, "unit_price": 1.0,
    "product_name": "Lamp",
}  # fmt: skip


MISBEHAVIOURS = {
    "hanging": None,
    "closing the connection": b"",
    "half an answer": b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{",
    "a head without end": b"HTTP/1.1 200 OK\r\nA: " + ENDLESS,
    "a body without end": b"HTTP/1.1 200 OK\r\n\r\n{" + ENDLESS,
    "too many headers": answer("200 OK", RESERVED, *["A: b"] * 300),
    "no gzip": answer("200 OK", b"garbage", "Content-Encoding: gzip"),
    "deeply nested garbage": answer("201 Created", b"[" * 100_000),
    "another product": answer("201 Created", {**RESERVED, "product_id": "another"}),
    "another order": answer("201 Created", {**RESERVED, "order_id": "another"}),
    "another quantity": answer("201 Created", {**RESERVED, "quantity": 5}),
    "a price of half a cent": answer("201 Created", {**RESERVED, "unit_price": 0.005}),
    "a price without end": answer("201 Created", RESERVED).replace(b" 1.0", b"1e5000000"),
    "no name": answer("201 Created", {**RESERVED, "product_name": ""}),
    "an accepted": answer("202 Accepted", RESERVED),
    "a redirect": answer("307 Temporary Redirect", b"", "Location: /elsewhere"),
    "404 of another path": answer("404 Not Found", {"detail": "Not here.", "code": "not_found"}),
    "product_not_found as 400": answer("400 Bad Request", NOT_FOUND),
    "401": answer("401 Unauthorized", {"detail": "No.", "code": "invalid_token"}),
    "an odd refusal": answer("409 Conflict", {"code": "insufficient_quantity", "available": "x"}),
}


@in_memory
@pytest.mark.parametrize("name", MISBEHAVIOURS)
def test_whatever_the_product_service_does_wrong_the_outcome_is_unknown_and_503(
    shop: Shop, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with (
        misbehaving(MISBEHAVIOURS[name]) as (url, requests),
        order_service(shop, url, product_service_timeout=0.1) as orders,
    ):
        response = orders.post("/order", json={"product_id": new_pk(), "quantity": 1})
        assert refusal(response) == (503, "product_service_unavailable")
        order_id = response.json()["order_id"]
        assert f"/reservations/{order_id} ".encode() in requests[0]
        assert orders.get(f"/orders/{order_id}").status_code == 404
        assert orders.get("/orders").json() == []
        wait_until(lambda: b"hung up" in requests)  # so that no thread waits for ever
    assert ("JWT_SECRET has to be the same" in capsys.readouterr().err) == (name == "401")


@in_memory
def test_while_nothing_listens_an_order_is_503_and_a_retry_that_notes_none_names_none(
    shop: Shop,
) -> None:
    with order_service(shop, f"http://127.0.0.1:{free_port()}") as orders:
        body, key = {"product_id": new_pk(), "quantity": 1}, {"Idempotency-Key": "mine"}
        response = orders.post("/order", json=body, headers=key)
        assert refusal(response) == (503, "product_service_unavailable")
        assert orders.get(f"/orders/{response.json()['order_id']}").status_code == 404
        again = orders.post("/order", json=body, headers=key)  # it cannot release the first
        assert refusal(again) == (503, "product_service_unavailable")
        assert "order_id" not in again.json()
        assert orders.get("/orders").json() == []


@in_memory
def test_no_reservation_is_asked_for_after_the_time_of_the_request(shop: Shop) -> None:
    quick = {"order_timeout": 0.15, "settle_after": 1, "settle_interval": 0.05}
    with (
        misbehaving(answer("503 Away", b"")) as (url, requests),
        order_service(shop, url, **quick) as orders,
    ):
        response = orders.post("/order", json={"product_id": new_pk(), "quantity": 1})
        assert refusal(response) == (503, "request_timeout")
        before = len(asked(requests, "PUT"))
        wait_until(lambda: asked(requests, "DELETE"))  # by when all attempts would have been made
        assert len(asked(requests, "PUT")) == before > 0
        assert orders.get(f"/orders/{response.json()['order_id']}").status_code == 404


def test_a_reservation_says_whose_it_is_where_and_until_when(shop: Shop) -> None:
    body = {"product_id": new_pk(), "quantity": 3}
    with (
        misbehaving(answer("404 Not Found", NOT_FOUND)) as (url, requests),
        order_service(shop, url, order_timeout=5) as orders,
    ):
        began = time.time()
        response = orders.post("/order", json=body, headers={"X-Request-ID": "passed on"})
        ended = time.time()
    assert refusal(response) == (404, "product_not_found")
    [received] = asked(requests, "PUT")
    head, _, content = received.decode().partition("\r\n\r\n")
    path = rf"/products/{body['product_id']}/reservations/[0-9A-Z]{{26}}"
    assert re.match(f"PUT {path} HTTP/1.1\r\n", head)
    assert {"X-Request-ID: passed on", f"X-Storage: {shop.storage}"} <= set(head.splitlines())
    assert json.loads(content) == {"quantity": 3}
    [token] = re.findall(r"Bearer (\S+)", head)
    claims = jwt.decode(token, JWT_SECRET, algorithms=["HS256"], audience="shopsphere")
    assert (claims["sub"], claims["role"]) == ("order-service", "service")
    assert began + 5 <= claims["exp"] <= ended + 15


@pytest.mark.parametrize("shop", ["redis"], indirect=True)
def test_a_503_before_the_order_was_noted_names_no_order(
    shop: Shop, redis_server: RedisServer
) -> None:
    body = {"product_id": shop.add()["pk"], "quantity": 2}
    with (
        closing(Line(redis_server.port)) as line,
        order_service(shop, shop.products.url, redis_port=line.port) as orders,
    ):
        line.cut_after(b"place 0")
        response = orders.post("/order", json=body)
    assert refusal(response) == (503, "storage_unavailable")
    assert "order_id" not in response.json()
    assert shop.stock(body["product_id"])["reserved"] == 0


def test_every_figure_of_orders_is_there_before_there_is_anything_to_count(
    orders: CheckedClient, shop: Shop
) -> None:
    figures = orders.get("/metrics").text
    refused = 'orders_refused_total{reason="insufficient_quantity"}'
    outcomes = ("placed", "failed", "cancelled", "shipped")
    settled = [f'orders_settled_total{{outcome="{outcome}"}}' for outcome in outcomes]
    for figure in (refused, "orders_placed_total", *settled):
        assert f"{figure} 0.0\n" in figures
    orders.post("/order", json={"product_id": shop.add(quantity=1)["pk"], "quantity": 2})
    assert f"{refused} 1.0\n" in orders.get("/metrics").text
