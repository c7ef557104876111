"""The order service over HTTP, beside a real product service, and beside one that misbehaves."""

import contextlib
import json
import re
import socket
import socketserver
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import jwt
import pytest

from shopsphere.domain.pks import is_pk, new_pk
from shopsphere.domain.values import Role
from shopsphere.tokens import Tokens
from tests.apps import JWT_SECRET, CheckedClient, bearer, running
from tests.bad_bodies import (
    NOT_TEXT,
    NOT_WHOLE,
    refuse_bad_bodies,
    refuse_bad_field,
    refuse_missing_fields,
)
from tests.proxy import Proxy, well
from tests.servers import RedisServer, Service, free_port, wait_until

MEMORY = {"USE_REDIS": "false"}
NO_PK = "01M88Y16NKGWHEF1SV8EAR85EK"
"""It could be a pk, but nothing has it; always the same, as names of tests must be."""


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
    return running("order", shop.environment, product_service_url=product_service_url, **settings)


def refusal(response: Any) -> tuple[int, str]:
    """Return status and code of a refusal."""
    return response.status_code, response.json()["code"]


# Placing


def test_an_order_takes_stock_and_is_found_where_location_says(
    orders: CheckedClient, shop: Shop
) -> None:
    lamp = shop.add(price=19.99, quantity=10)
    response = orders.post("/order", json={"product_id": lamp["pk"], "quantity": 3})
    assert response.status_code == 201
    order = response.json()
    assert is_pk(order.pop("pk"))
    assert order.pop("created_at").endswith("Z")
    assert order == {
        "product_id": lamp["pk"],
        "product_name": "Lamp",
        "quantity": 3,
        "unit_price": 19.99,
        "total": 59.97,
        "status": "PLACED",
        "user_id": None,
    }
    assert response.headers["Location"] == f"/orders/{response.json()['pk']}"
    assert orders.get(response.headers["Location"]).json() == response.json()
    assert orders.get("/orders").json() == [response.json()]
    assert shop.stock(lamp["pk"]) == {"received": 10, "available": 7, "reserved": 3, "shipped": 0}


def test_an_order_keeps_the_price_and_the_name_it_was_placed_with(
    orders: CheckedClient, shop: Shop
) -> None:
    lamp = shop.add()
    order = orders.post("/order", json={"product_id": lamp["pk"], "quantity": 1}).json()
    shop.products.request("PATCH", f"/products/{lamp['pk']}", json={"name": "Torch", "price": 1})
    shop.products.request("DELETE", f"/products/{lamp['pk']}")
    assert orders.get(f"/orders/{order['pk']}").json() == order


@pytest.mark.parametrize(
    ("price", "quantity", "total"),
    [(0, 1, 0), (0.01, 1_000_000, 10_000), (0.1, 3, 0.3), (999_999.99, 1_000_000, 999_999_990_000)],
)
def test_a_total_is_exact(
    orders: CheckedClient, shop: Shop, price: float, quantity: int, total: float
) -> None:
    product = shop.add(price=price, quantity=quantity)
    order = orders.post("/order", json={"product_id": product["pk"], "quantity": quantity}).json()
    assert (order["unit_price"], order["total"]) == (price, total)


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
    assert orders.post("/order", json={"product_id": lamp["pk"], "quantity": 2}).is_success


@pytest.mark.parametrize(
    "product_id", ["", "abc123", NO_PK, "x" * 30_000, "../products", "a/b", "\0", "é" * 26]
)
def test_an_order_of_no_such_product_is_404(
    orders: CheckedClient, shop: Shop, product_id: str
) -> None:
    response = orders.post("/order", json={"product_id": product_id, "quantity": 1})
    assert refusal(response) == (404, "product_not_found")
    assert orders.get("/orders").json() == []


def test_a_deleted_product_cannot_be_ordered(orders: CheckedClient, shop: Shop) -> None:
    lamp = shop.add()
    shop.products.request("DELETE", f"/products/{lamp['pk']}")
    response = orders.post("/order", json={"product_id": lamp["pk"], "quantity": 1})
    assert refusal(response) == (404, "product_not_found")


def test_no_bad_body_places_an_order(orders: CheckedClient, shop: Shop) -> None:
    lamp = shop.add()
    good = {"product_id": f'"{lamp["pk"]}"', "quantity": "1"}
    bad_quantities = [*NOT_WHOLE, "0", "-1", "1000001"]
    refuse_bad_field(orders, "POST", "/order", good, "quantity", bad_quantities)
    no_text = [value for value in NOT_TEXT if not value.startswith('"')]
    refuse_bad_field(orders, "POST", "/order", good, "product_id", no_text)
    refuse_missing_fields(orders, "POST", "/order", good)
    for half in (r'"\ud800"', r'"a\udfffb"'):  # no product has such a pk
        body = f'{{"product_id": {half}, "quantity": 1}}'
        assert orders.send_text("POST", "/order", body).status_code in (400, 404)
    assert shop.stock(lamp["pk"])["available"] == 10
    refuse_bad_bodies(orders, "POST", "/order", good)
    assert shop.stock(lamp["pk"])["available"] == 9


# Reading


@pytest.mark.parametrize(
    "pk", ["x", "abc123", NO_PK, NO_PK.lower(), "0" * 10_000, "%00", "%ff" * 26, "8" * 26]
)
def test_an_order_that_is_not_there_is_404(orders: CheckedClient, pk: str) -> None:
    assert refusal(orders.get(f"/orders/{pk}")) == (404, "order_not_found")


def test_a_walk_over_orders_meets_each_once(orders: CheckedClient, shop: Shop) -> None:
    body = {"product_id": shop.add()["pk"], "quantity": 1}
    placed = [orders.post("/order", json=body).json() for _ in range(5)]
    whole = orders.get("/orders")
    assert (whole.json(), "Link" in whole.headers) == (placed, False)
    pages = []
    path = "/orders?limit=2"
    while path:
        page = orders.get(path)
        pages.append(page.json())
        path = "".join(re.findall(r'<(.+)>; rel="next"', page.headers.get("Link", "")))
    assert pages == [placed[:2], placed[2:4], placed[4:]]
    assert "Link" not in orders.get("/orders?limit=5").headers
    assert orders.get(f"/orders?after={placed[3]['pk']}").json() == placed[4:]


def test_a_bad_limit_or_cursor_is_400(orders: CheckedClient) -> None:
    for name, values in (
        ("limit", ["", "0", "-1", "1001", "x", "1.5", "9" * 5000]),
        ("after", ["", "x", "%00", "0" * 25, "0" * 10_000]),
    ):
        for value in values:
            response = orders.get(f"/orders?{name}={value}")
            assert refusal(response) == (400, "invalid_request"), (name, value)
            assert response.json()["errors"][0]["field"] == name


def cursor_of(page: Any) -> str:
    """Return the cursor of the page after this one."""
    [cursor] = re.findall("after=([^&>]+)", page.headers["Link"])
    return str(cursor)


def test_a_cursor_is_good_for_its_own_list_alone(orders: CheckedClient, shop: Shop) -> None:
    lamps = [shop.add() for _ in range(2)]
    placed = [
        orders.post("/order", json={"product_id": lamp["pk"], "quantity": 1}).json()
        for lamp in lamps
    ]
    of_orders = cursor_of(orders.get("/orders?limit=1"))
    of_products = cursor_of(shop.products.get("/products?limit=1"))
    assert orders.get(f"/orders?after={of_orders}").json() == placed[1:]
    for other in (of_products, lamps[0]["pk"], NO_PK):
        assert refusal(orders.get(f"/orders?after={other}")) == (400, "invalid_request"), other
    for other in (of_orders, placed[0]["pk"]):
        response = shop.products.get(f"/products?after={other}")
        assert refusal(response) == (400, "invalid_request"), other


# Tokens, while none is needed


def test_an_order_carries_the_user_of_a_good_token(orders: CheckedClient, shop: Shop) -> None:
    anna = new_pk()
    token = Tokens(JWT_SECRET, 60).issue(anna, Role.USER)
    body = {"product_id": shop.add()["pk"], "quantity": 1}
    order = orders.post("/order", json=body, headers=bearer(token)).json()
    assert order["user_id"] == anna


def test_a_bad_token_is_401_and_takes_nothing(orders: CheckedClient, shop: Shop) -> None:
    lamp = shop.add()
    body = {"product_id": lamp["pk"], "quantity": 1}
    bad = bearer("nonsense")
    for response in (
        orders.post("/order", json=body, headers=bad),
        orders.get("/orders", headers=bad),
        orders.get(f"/orders/{new_pk()}", headers=bad),
    ):
        assert refusal(response) == (401, "invalid_token")
    assert shop.stock(lamp["pk"])["available"] == 10


# Two storages


def test_an_order_and_its_stock_must_not_live_in_different_worlds(
    shop: Shop, request: pytest.FixtureRequest
) -> None:
    lamp = shop.add()
    other = MEMORY
    if shop.storage == "memory":
        server: RedisServer = request.getfixturevalue("redis_server")
        other = {"USE_REDIS": "required", "REDIS_PORT": str(server.port)}
    with running("order", other, product_service_url=shop.products.url) as orders:
        response = orders.post("/order", json={"product_id": lamp["pk"], "quantity": 1})
        assert refusal(response) == (503, "storage_mismatch")
    assert shop.stock(lamp["pk"])["available"] == 10


# A product service that misbehaves


THIS_PRODUCT, THIS_ORDER = "THIS_PRODUCT".ljust(26, "_"), "THIS_ORDER".ljust(26, "_")
"""What a misbehaving server replaces by the pks that it is asked for, which are as long."""


@dataclass
class Misbehaving:
    """A server that answers every request with the same bytes, or not at all."""

    answer: bytes | None
    requests: list[bytes] = field(default_factory=list)
    ended: threading.Event = field(default_factory=threading.Event)

    def handle(self, connection: Any) -> None:
        received = b""
        while b"\r\n\r\n" not in received or (b"PUT" in received and received[-1:] != b"}"):
            more = connection.recv(65536)
            if not more:
                return
            received += more
        self.requests.append(received)
        if self.answer is None:
            self.ended.wait(10)
        else:
            _, _, product_pk, _, order_pk = received.split()[1].split(b"/")[:5]
            about = self.answer.replace(THIS_PRODUCT.encode(), product_pk)
            connection.sendall(about.replace(THIS_ORDER.encode(), order_pk))

    def asked(self, method: str) -> list[bytes]:
        """Return the requests with this method."""
        return [request for request in self.requests if request.startswith(method.encode())]


Misbehave = Callable[[bytes | None], tuple[str, Misbehaving]]


@pytest.fixture
def misbehave() -> Iterator[Misbehave]:
    """Start a server that answers like this; return its address and what it was asked."""
    started: list[tuple[socketserver.ThreadingTCPServer, Misbehaving]] = []

    def start(answer: bytes | None) -> tuple[str, Misbehaving]:
        behaviour = Misbehaving(answer)

        class Handler(socketserver.BaseRequestHandler):
            def handle(self) -> None:
                behaviour.handle(self.request)

        server = socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler)
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        started.append((server, behaviour))
        return f"http://127.0.0.1:{server.server_address[1]}", behaviour

    yield start
    for server, behaviour in started:
        behaviour.ended.set()
        server.shutdown()
        server.server_close()


@pytest.fixture
def dripping() -> Iterator[Callable[[bytes], tuple[str, threading.Event]]]:
    """Start a server that begins like this and goes on for ever, a byte at a time; return its
    address, and what is set when the order service has hung up."""
    listening = socket.create_server(("127.0.0.1", 0))
    hung_up, is_over = threading.Event(), threading.Event()

    def drip(beginning: bytes) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = listening.accept()
                with connection, contextlib.suppress(ConnectionError):
                    connection.sendall(beginning)
                    while not is_over.wait(0.01):
                        connection.sendall(b"x")
                hung_up.set()

    def start(beginning: bytes) -> tuple[str, threading.Event]:
        threading.Thread(target=drip, args=(beginning,), daemon=True).start()
        return f"http://127.0.0.1:{listening.getsockname()[1]}", hung_up

    yield start
    is_over.set()
    listening.close()


@pytest.fixture
def proxy() -> Iterator[Proxy]:
    """A proxy for the product service, to be started."""
    proxy = Proxy()
    yield proxy
    proxy.stop()


def answer(status: str, body: object, *headers: str) -> bytes:
    """Return a response as it goes over the wire."""
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    head = [f"HTTP/1.1 {status}", f"Content-Length: {len(content)}", "Connection: close", *headers]
    return "\r\n".join([*head, "", ""]).encode() + content


NOT_FOUND = {"detail": "There is no such product.", "code": "product_not_found"}
RESERVED = {
    "product_id": THIS_PRODUCT,
    "order_id": THIS_ORDER,
    "quantity": 1,
    "unit_price": 1.0,
    "product_name": "Lamp",
}


def without(name: str) -> dict[str, object]:
    return {key: value for key, value in RESERVED.items() if key != name}


MISBEHAVIOURS = {
    "hanging": None,
    "closing the connection": b"",
    "no HTTP": b"hello\r\n\r\n",
    "half an answer": b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{",
    "a strange length": b"HTTP/1.1 200 OK\r\nContent-Length: x, y\r\n\r\n{}",
    "too many headers": answer("200 OK", RESERVED, *["A: b"] * 300),
    "no gzip": answer("200 OK", b"garbage", "Content-Encoding: gzip"),
    "500": answer("500 Oh no", {"detail": "Something went wrong.", "code": "internal_error"}),
    "502": answer("502 Bad Gateway", b"<html>"),
    "503": answer("503 Away", {"detail": "Away.", "code": "storage_unavailable"}),
    "503 for an hour": answer("503 Away", b"", "Retry-After: 3600"),
    "garbage": answer("201 Created", b"\xff\x00{["),
    "deeply nested garbage": answer("201 Created", b"[" * 100_000),
    "204": b"HTTP/1.1 204 No Content\r\n\r\n",
    "an array": answer("201 Created", []),
    "nothing of which product": answer("201 Created", without("product_id")),
    "nothing of which order": answer("201 Created", without("order_id")),
    "nothing of the price": answer("201 Created", without("unit_price")),
    "another product": answer("201 Created", {**RESERVED, "product_id": NO_PK}),
    "another order": answer("201 Created", {**RESERVED, "order_id": NO_PK}),
    "another order's, again": answer("200 OK", {**RESERVED, "order_id": NO_PK}),
    "no price": answer("201 Created", {**RESERVED, "unit_price": "free"}),
    "a price of NaN": answer("201 Created", {**RESERVED, "unit_price": float("nan")}),
    "another quantity": answer("201 Created", {**RESERVED, "quantity": 5}),
    "a price below zero": answer("201 Created", {**RESERVED, "unit_price": -5}),
    "a price beyond all": answer("201 Created", {**RESERVED, "unit_price": 1e300}),
    "a price of half a cent": answer("201 Created", {**RESERVED, "unit_price": 0.005}),
    "a price as text": answer("201 Created", {**RESERVED, "unit_price": "5"}),
    "a price without end": answer(
        "201 Created", json.dumps(RESERVED).replace("1.0", "1e5000000").encode()
    ),
    "no name": answer("201 Created", {**RESERVED, "product_name": ""}),
    "an accepted": answer("202 Accepted", RESERVED),
    "a redirect": answer("307 Temporary Redirect", b"", "Location: /elsewhere"),
    "404 of another server": answer("404 Not Found", b"<html>not found</html>"),
    "404 of another path": answer("404 Not Found", {"detail": "Not here.", "code": "not_found"}),
    "product_not_found as 400": answer("400 Bad Request", NOT_FOUND),
    "too few as 400": answer("400 Bad", {"code": "insufficient_quantity", "available": 0}),
    "401": answer("401 Unauthorized", {"detail": "No.", "code": "invalid_token"}),
    "released": answer("409 Conflict", {"detail": "No.", "code": "reservation_released"}),
    "conflict": answer("409 Conflict", {"detail": "No.", "code": "reservation_conflict"}),
    "an odd refusal": answer("409 Conflict", {"code": "insufficient_quantity", "available": "x"}),
}


@pytest.mark.parametrize("name", MISBEHAVIOURS)
def test_whatever_the_product_service_does_wrong_the_outcome_is_unknown_and_503(
    shop: Shop, misbehave: Misbehave, name: str
) -> None:
    url, server = misbehave(MISBEHAVIOURS[name])
    with order_service(shop, url, product_service_timeout=0.1) as orders:
        response = orders.post("/order", json={"product_id": new_pk(), "quantity": 1})
        assert refusal(response) == (503, "product_service_unavailable")
        order_id = response.json()["order_id"]
        assert f"/reservations/{order_id} ".encode() in server.asked("PUT")[0]
        assert orders.get(f"/orders/{order_id}").status_code == 404
        assert orders.get("/orders").json() == []
        assert orders.get("/ready").status_code == 200


def test_what_a_product_service_should_respond_makes_an_order(
    shop: Shop, misbehave: Misbehave
) -> None:
    for status in ("200 OK", "201 Created"):
        url, _ = misbehave(answer(status, RESERVED))
        with order_service(shop, url) as orders:
            response = orders.post("/order", json={"product_id": new_pk(), "quantity": 1})
            assert response.status_code == 201


@pytest.mark.parametrize("endless", [b"HTTP/1.1 200 OK\r\nA: ", b"HTTP/1.1 200 OK\r\n\r\n{"])
def test_a_product_service_that_never_ends_takes_no_thread(
    shop: Shop, dripping: Callable[[bytes], tuple[str, threading.Event]], endless: bytes
) -> None:
    url, hung_up = dripping(endless)
    with order_service(shop, url, product_service_timeout=0.1) as orders:
        response = orders.post("/order", json={"product_id": new_pk(), "quantity": 1})
        assert refusal(response) == (503, "product_service_unavailable")
        assert hung_up.wait(10), "the order service still listens"


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


def test_a_retry_after_a_lost_response_holds_nothing_of_the_first_attempt(
    shop: Shop, proxy: Proxy
) -> None:
    lamp = shop.add()
    body, key = {"product_id": lamp["pk"], "quantity": 4}, {"Idempotency-Key": "mine"}
    proxy.behave = lambda connection, _: (connection.forward(), connection.drop())[1]
    proxy.start(shop.products.url)
    with order_service(shop, proxy.url) as orders:
        lost = orders.post("/order", json=body, headers=key)
        assert refusal(lost) == (503, "product_service_unavailable")
        assert shop.stock(lamp["pk"])["reserved"] == 4
        shop.products.request("DELETE", f"/products/{lamp['pk']}")
        proxy.behave = well
        again = orders.post("/order", json=body, headers=key)
        assert refusal(again) == (404, "product_not_found")
        assert orders.get(f"/orders/{lost.json()['order_id']}").status_code == 404
        assert shop.stock(lamp["pk"])["available"] == 10


def settled(orders: CheckedClient) -> bool:
    """Tell whether an order was made to fail."""
    return 'orders_settled_total{outcome="failed"} 1.0' in orders.get("/metrics").text


def test_an_order_whose_time_is_over_is_not_there_and_never_will_be(
    shop: Shop, proxy: Proxy
) -> None:
    lamp = shop.add()
    proxy.behave = lambda connection, _: (
        connection.keep_for_later() if connection.command == "PUT" else well(connection, 1)
    )
    proxy.start(shop.products.url)
    quick = {"product_service_timeout": 5, "order_timeout": 0.2}
    with order_service(shop, proxy.url, settle_after=0.3, settle_interval=0.05, **quick) as orders:
        response = orders.post("/order", json={"product_id": lamp["pk"], "quantity": 1})
        assert refusal(response) == (503, "request_timeout")
        order = f"/orders/{response.json()['order_id']}"
        assert orders.get(order).status_code == 404
        wait_until(lambda: settled(orders))
        proxy.bring_what_is_late()
        assert orders.get(order).status_code == 404
        assert orders.get("/orders").json() == []
        assert shop.stock(lamp["pk"])["available"] == 10


def test_no_reservation_is_asked_for_after_the_time_of_the_request(
    shop: Shop, misbehave: Misbehave
) -> None:
    url, server = misbehave(answer("503 Away", b""))
    with order_service(
        shop, url, order_timeout=0.15, settle_after=1, settle_interval=0.05
    ) as orders:
        response = orders.post("/order", json={"product_id": new_pk(), "quantity": 1})
        assert refusal(response) == (503, "request_timeout")
        asked = len(server.asked("PUT"))
        wait_until(lambda: server.asked("DELETE"))  # by when all attempts would have been made
        assert len(server.asked("PUT")) == asked > 0


@pytest.mark.parametrize("order_timeout", [5, 120])
def test_the_token_of_a_reservation_is_good_for_little_longer_than_its_request(
    shop: Shop, misbehave: Misbehave, order_timeout: int
) -> None:
    url, server = misbehave(answer("404 Not Found", NOT_FOUND))
    with order_service(shop, url, order_timeout=order_timeout) as orders:
        began = time.time()
        orders.post("/order", json={"product_id": new_pk(), "quantity": 1})
        ended = time.time()
    [token] = re.findall(rb"Bearer (\S+)", server.asked("PUT")[0])
    claims = jwt.decode(token, JWT_SECRET, algorithms=["HS256"], audience="shopsphere")
    assert (claims["sub"], claims["role"]) == ("order-service", "service")
    assert began + order_timeout <= claims["exp"] <= ended + order_timeout + 10


# A line to Redis that breaks


class Line(socketserver.ThreadingTCPServer):
    """A line to a Redis. It breaks where the reply to a request with `fatal` in it would come."""

    daemon_threads = True

    def __init__(self, port: int, fatal: bytes) -> None:
        super().__init__(("127.0.0.1", 0), _EndOfLine)
        self.target = ("127.0.0.1", port)
        self.fatal = fatal
        self.is_broken = False
        threading.Thread(target=self.serve_forever, args=(0.01,), daemon=True).start()


class _EndOfLine(socketserver.BaseRequestHandler):
    server: Line

    def handle(self) -> None:
        if self.server.is_broken:
            return
        with socket.create_connection(self.server.target) as far:
            replies = threading.Thread(target=self._hand_back, args=(far,), daemon=True)
            replies.start()
            while (request := self.request.recv(2**20)) and not self.server.is_broken:
                self.server.is_broken = self.server.fatal in request
                far.sendall(request)
            far.shutdown(socket.SHUT_WR)
            replies.join()

    def _hand_back(self, far: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while reply := far.recv(2**20):
                if self.server.is_broken:
                    self.request.shutdown(socket.SHUT_RDWR)
                else:
                    self.request.sendall(reply)


@pytest.fixture
def line(redis_server: RedisServer, request: pytest.FixtureRequest) -> Iterator[Line]:
    """A line to the Redis of the whole run."""
    with Line(redis_server.port, request.param) as line:
        yield line
        line.shutdown()


on_redis = pytest.mark.parametrize("shop", ["redis"], indirect=True)


@on_redis
@pytest.mark.parametrize("line", [b"PLACED"], indirect=True)
def test_an_order_that_was_placed_when_redis_was_cut_off_is_found_as_its_503_says(
    shop: Shop, line: Line
) -> None:
    body = {"product_id": shop.add()["pk"], "quantity": 2}
    key, prefix = {"Idempotency-Key": "mine"}, f"orders-{new_pk()}"
    cut_off = Shop(
        shop.products, shop.storage, shop.environment | {"REDIS_PORT": str(line.server_address[1])}
    )
    with order_service(cut_off, shop.products.url, redis_prefix=prefix) as orders:
        response = orders.post("/order", json=body, headers=key)
        assert refusal(response) == (503, "storage_unavailable")
        assert orders.get("/orders").status_code == 503
    with order_service(shop, shop.products.url, redis_prefix=prefix) as elsewhere:
        placed = elsewhere.get(f"/orders/{response.json()['order_id']}")
        assert (placed.status_code, placed.json()["status"]) == (200, "PLACED")
        again = elsewhere.post("/order", json=body, headers=key)
        assert (again.status_code, again.json()) == (201, placed.json())
        assert again.headers["Idempotent-Replayed"] == "true"
        assert elsewhere.get("/orders").json() == [placed.json()]
    assert shop.stock(body["product_id"])["reserved"] == 2


@on_redis
@pytest.mark.parametrize("line", [b"place 0"], indirect=True)
def test_a_503_before_the_order_was_noted_names_no_order(shop: Shop, line: Line) -> None:
    body = {"product_id": shop.add()["pk"], "quantity": 2}
    cut_off = Shop(
        shop.products, shop.storage, shop.environment | {"REDIS_PORT": str(line.server_address[1])}
    )
    with order_service(cut_off, shop.products.url) as orders:
        response = orders.post("/order", json=body)
    assert refusal(response) == (503, "storage_unavailable")
    assert "order_id" not in response.json()
    assert shop.stock(body["product_id"])["reserved"] == 0


def test_the_product_service_is_told_request_id_storage_and_quantity(
    shop: Shop, misbehave: Misbehave
) -> None:
    url, server = misbehave(answer("404 Not Found", NOT_FOUND))
    lamp = new_pk()
    with order_service(shop, url) as orders:
        response = orders.post(
            "/order",
            json={"product_id": lamp, "quantity": 3},
            headers={"X-Request-ID": "passed on"},
        )
    assert refusal(response) == (404, "product_not_found")
    [received] = server.asked("PUT")
    head, _, body = received.decode().partition("\r\n\r\n")
    first, *headers = head.split("\r\n")
    assert re.fullmatch(rf"PUT /products/{lamp}/reservations/[0-9A-Z]{{26}} HTTP/1.1", first)
    assert "X-Request-ID: passed on" in headers
    assert f"X-Storage: {shop.storage}" in headers
    assert json.loads(body) == {"quantity": 3}


def test_every_figure_of_orders_is_there_before_there_is_anything_to_count(
    orders: CheckedClient, shop: Shop
) -> None:
    figures = orders.get("/metrics").text
    for labels in ('refused_total{reason="insufficient_quantity"}', "placed_total"):
        assert f"orders_{labels} 0.0\n" in figures
    for outcome in ("placed", "failed", "cancelled", "shipped"):
        assert f'orders_settled_total{{outcome="{outcome}"}} 0.0\n' in figures

    orders.post("/order", json={"product_id": shop.add(quantity=1)["pk"], "quantity": 2})
    figures = orders.get("/metrics").text
    assert 'orders_refused_total{reason="insufficient_quantity"} 1.0\n' in figures
