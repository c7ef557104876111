"""The order service over HTTP, beside a real product service, and beside one that misbehaves."""

import json
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jwt
import pytest

from shopsphere.domain.pks import is_pk, new_pk
from tests.apps import JWT_SECRET, CheckedClient, refusal, running
from tests.people import CUSTOMER, PEOPLE
from tests.proxy import Behave, Connection, Proxy, well
from tests.servers import RedisServer, Service, wait_until

MEMORY = {"USE_REDIS": "false"}


@dataclass(frozen=True)
class Shop:
    """A product service that runs."""

    products: Service

    def add(self, name: str = "Lamp", price: float = 19.99, quantity: int = 10) -> str:
        """Add a product; return its pk."""
        body = {"name": name, "price": price, "quantity": quantity}
        return str(self.products.post("/products", body).json()["pk"])

    def stock(self, pk: str) -> dict[str, int]:
        figures: dict[str, int] = self.products.get(f"/products/{pk}/stock").json()
        return figures


@contextmanager
def running_shop(log: Path, **environment: str) -> Iterator[Shop]:
    """Run a product service as a process of its own."""
    with Service("product", log, 0, JWT_SECRET=JWT_SECRET, **environment) as service:
        yield Shop(service.start())


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shop]:
    with running_shop(tmp_path_factory.mktemp("orders") / "product.log", **MEMORY) as shop:
        yield shop


@pytest.fixture
def orders(shop: Shop) -> Iterator[CheckedClient]:
    """An order service without any order."""
    with order_service(shop.products.url) as orders:
        yield orders


def order_service(product_service_url: str, **more: object) -> Any:
    """Run an order service that asks the product service at this address."""
    settings = {"product_service_timeout": 0.3, **more}
    return running("order", MEMORY, product_service_url=product_service_url, **settings)


# Placing


def test_an_order_takes_stock_and_is_found_where_location_says(
    orders: CheckedClient, shop: Shop
) -> None:
    lamp = shop.add(price=0.1, quantity=10)
    response = orders.post("/order", json={"product_id": lamp, "quantity": 3})
    assert response.status_code == 201
    order = response.json()
    assert is_pk(order.pop("pk"))
    assert order.pop("created_at").endswith("Z")
    only = {"product_id": lamp, "product_name": "Lamp", "quantity": 3, "unit_price": 0.1}
    item = {**only, "subtotal": 0.3}
    assert order == {"items": [item], "total": 0.3, "status": "PLACED", "user_id": None, **only}
    assert response.headers["Location"] == f"/orders/{response.json()['pk']}"
    assert orders.get(response.headers["Location"]).json() == response.json()
    assert orders.get("/orders").json() == [response.json()]
    assert shop.stock(lamp) == {"received": 10, "available": 7, "reserved": 3, "shipped": 0}


def test_an_order_of_no_such_product_is_404(orders: CheckedClient) -> None:
    for product_id in ("", "abc123", new_pk(), "x" * 30_000, "../products", "a/b", "\0", "é" * 26):
        response = orders.post("/order", json={"product_id": product_id, "quantity": 1})
        assert refusal(response) == (404, "product_not_found"), product_id
    assert orders.get("/orders").json() == []


def items_of(*wanted: tuple[str, int, float | None]) -> list[dict[str, Any]]:
    return [{"product_id": pk, "quantity": n, "unit_price": price} for pk, n, price in wanted]


def test_an_order_of_several_products_takes_all_of_them_in_the_order_that_was_sent(
    orders: CheckedClient, shop: Shop
) -> None:
    lamp, shade = shop.add(price=0.1), shop.add("Shade", 4.35)
    items, key = items_of((shade, 2, 4.35), (lamp, 3, None)), {"Idempotency-Key": "basket"}
    response = orders.post("/order", json={"items": items}, headers=key)
    assert response.status_code == 201
    order = response.json()
    assert order["items"] == [
        {"product_id": shade, "product_name": "Shade", "quantity": 2, "unit_price": 4.35,
         "subtotal": 8.7},
        {"product_id": lamp, "product_name": "Lamp", "quantity": 3, "unit_price": 0.1,
         "subtotal": 0.3},
    ]  # fmt: skip
    assert order["total"] == 9
    assert {order[name] for name in ("product_id", "product_name", "quantity", "unit_price")} == {
        None
    }
    assert (shop.stock(lamp)["reserved"], shop.stock(shade)["reserved"]) == (3, 2)
    again = orders.post("/order", json={"items": items[::-1]}, headers=key)
    assert (again.json(), again.headers["Idempotent-Replayed"]) == (order, "true")
    for other in (items[:1], items_of((shade, 2, None), (lamp, 3, None))):
        response = orders.post("/order", json={"items": other}, headers=key)
        assert refusal(response) == (422, "idempotency_key_reused")
    assert orders.post(f"/orders/{order['pk']}/cancel").json()["status"] == "CANCELLED"
    assert (shop.stock(lamp)["available"], shop.stock(shade)["available"]) == (10, 10)


def test_both_forms_of_one_item_are_the_same_request(orders: CheckedClient, shop: Shop) -> None:
    item = {"product_id": shop.add(), "quantity": 2}
    first, *others = [
        orders.post("/order", json=body, headers={"Idempotency-Key": "either"}).json()
        for body in (item, {"items": [item]}, {**item, "unit_price": None, "items": None})
    ]
    assert others == [first, first]


def test_a_refusal_at_the_last_of_fifty_items_gives_back_the_others(
    orders: CheckedClient, shop: Shop
) -> None:
    pks = sorted(shop.add(quantity=2) for _ in range(49))
    for last, status, named in (
        (shop.add(quantity=0), 400, {"detail": "Out of stock.", "available": 0}),
        ("7" + "Z" * 25, 404, {"code": "product_not_found"}),
        ("Z" * 26, 404, {"code": "product_not_found"}),
    ):
        wanted = [*((pk, 1, None) for pk in pks), (last, 1, None)]
        response = orders.post("/order", json={"items": items_of(*reversed(wanted))})
        assert response.status_code == status
        assert response.json().items() >= {**named, "product_id": last}.items()
        for pk in pks:
            assert shop.stock(pk) == {"received": 2, "available": 2, "reserved": 0, "shipped": 0}
    assert orders.get("/orders").json() == []


def test_a_price_that_has_changed_is_told_and_nothing_is_taken(
    orders: CheckedClient, shop: Shop
) -> None:
    lamp, key = shop.add(price=19.99), {"Idempotency-Key": "as seen"}
    for price in (19.98, 0):
        body = {"product_id": lamp, "quantity": 99, "unit_price": price}
        response = orders.post("/order", json=body, headers=key)
        assert refusal(response) == (409, "price_changed")
        assert (response.json()["unit_price"], response.json()["product_id"]) == (19.99, lamp)
    assert shop.stock(lamp)["available"] == 10
    body = {"product_id": lamp, "quantity": 1, "unit_price": 19.99}
    assert orders.post("/order", json=body, headers=key).status_code == 201


# Finding


def test_orders_are_found_by_status_and_time_and_backwards(
    orders: CheckedClient, shop: Shop
) -> None:
    body, pks = {"product_id": shop.add(quantity=100), "quantity": 1}, []
    for number in range(6):
        pks.append(orders.post("/order", json=body).json()["pk"])
        time.sleep(0.002)  # so that the times of no two orders are equal
        if number % 2:
            orders.post(f"/orders/{pks[-1]}/{'cancel' if number < 4 else 'ship'}")
    third = orders.get(f"/orders/{pks[2]}").json()["created_at"].replace("Z", "%2B00:00")

    for query, numbers in (
        ("", [0, 1, 2, 3, 4, 5]), ("order=newest", [5, 4, 3, 2, 1, 0]),
        ("status=PLACED", [0, 2, 4]), ("status=CANCELLED", [1, 3]), ("status=SHIPPED", [5]),
        (f"since={third}", [2, 3, 4, 5]), (f"until={third}", [0, 1]),
        (f"since={third.replace('%2B', ' ')}&status=PLACED&order=newest", [4, 2]),
        (f"since={third}&until={third}", []), (f"until={third}&since=2030-01-01T00:00:00Z", []),
        ("since=0001-01-01T00:00:00%2B14:00", [0, 1, 2, 3, 4, 5]), ("user_id=orders", []),
        (f"user_id={new_pk()}", []),
    ):  # fmt: skip
        whole = orders.get(f"/orders?{query}")
        assert [each["pk"] for each in whole.json()] == [pks[number] for number in numbers], query
        found, path = [], f"/orders?limit=2&{query}"
        while path:
            page = orders.get(path)
            found += page.json()
            assert page.headers["X-Total-Count"] == str(len(numbers)), query
            assert ("X-Cursor" in page.headers) == bool(page.json())
            path = page.links["next"]["url"] if page.links else ""
            assert not path or "00:00" not in query or "%2B" in path  # a `+` is a blank
        assert found == whole.json(), query


@pytest.mark.parametrize(
    ("parameter", "wrong"),
    [
        ("status", "FAILED"), ("order", "oldest"), ("since", "2026-11-24"), ("statu", "PLACED"),
        ("until", "2026-11-24T14:43:51"), ("until", "2026-02-30T14:43:51Z"), ("page", "2"),
        ("since", "1795980900"), ("limit", "1&limit=1"), ("status", ""), ("user_id", ""),
    ],
)  # fmt: skip
def test_a_parameter_that_is_unknown_repeated_empty_or_wrong_is_named(
    orders: CheckedClient, parameter: str, wrong: str
) -> None:
    response = orders.get(f"/orders?{parameter}={wrong}")
    assert refusal(response) == (400, "invalid_request")
    assert [each["field"] for each in response.json()["errors"]] == [parameter]


def test_a_follower_goes_on_from_a_cursor_though_what_it_saw_last_has_moved(
    orders: CheckedClient, shop: Shop
) -> None:
    body = {"product_id": shop.add(), "quantity": 1}
    first, second, third = [orders.post("/order", json=body).json()["pk"] for _ in range(3)]
    cursor = orders.get("/orders?status=PLACED&limit=2").headers["X-Cursor"]
    orders.post(f"/orders/{second}/cancel")
    after = orders.get(f"/orders?status=PLACED&after={cursor}")
    assert [each["pk"] for each in after.json()] == [third]
    before = orders.get(f"/orders?status=PLACED&order=newest&after={cursor}")
    assert [each["pk"] for each in before.json()] == [first]
    assert refusal(orders.get(f"/orders?after={cursor}")) == (400, "invalid_request")
    assert refusal(orders.get(f"/orders?status=PLACED&after={second}")) == (400, "invalid_request")


def test_only_administrators_list_the_orders_of_one_customer(shop: Shop) -> None:
    body = {"product_id": shop.add(), "quantity": 1}
    with order_service(shop.products.url, auth_required=True) as orders:
        theirs = orders.post("/order", json=body, headers=PEOPLE["customer"]).json()
        orders.post("/order", json=body, headers=PEOPLE["another customer"])
        path = f"/orders?user_id={CUSTOMER.pk}"
        assert orders.get(path, headers=PEOPLE["administrator"]).json() == [theirs]
        assert refusal(orders.get(path, headers=PEOPLE["customer"])) == (403, "forbidden")
        assert orders.get("/orders", headers=PEOPLE["customer"]).json() == [theirs]
        assert len(orders.get("/orders", headers=PEOPLE["administrator"]).json()) == 2


def test_an_order_and_its_stock_must_not_live_in_different_worlds(
    shop: Shop, redis_server: RedisServer
) -> None:
    lamp, redis = shop.add(), {"use_redis": "required", "redis_port": redis_server.port}
    with order_service(shop.products.url, **redis) as orders:
        response = orders.post("/order", json={"product_id": lamp, "quantity": 1})
    assert refusal(response) == (503, "storage_mismatch")
    assert shop.stock(lamp)["available"] == 10


# A product service that misbehaves


THIS_PRODUCT, THIS_ORDER = "THIS_PRODUCT".ljust(26, "_"), "THIS_ORDER".ljust(26, "_")
"""What a misbehaving server replaces by the pks that it is asked for, which are as long."""
ENDLESS, DRIPPING = b"...", b"..,"
CONTINUE, TRAILER = b"HTTP/1.1 100 Continue\r\n\r\n", b"A: b\r\n"
GOES_ON = {ENDLESS: b".", DRIPPING: b".", CONTINUE: CONTINUE * 2_000, TRAILER: TRAILER * 9_000}
"""What an answer with this end goes on with."""


@contextmanager
def proxied(behave: Behave, url: str = "http://nowhere") -> Iterator[Proxy]:
    """Put a proxy that behaves like this before the product service."""
    proxy = Proxy()
    proxy.behave = behave
    proxy.start(url)
    try:
        yield proxy
    finally:
        proxy.stop()


@contextmanager
def misbehaving(answer: bytes | None) -> Iterator[tuple[str, list[Connection]]]:
    """Answer every request like this, or not at all; yield the address, and who asked.

    An answer whose end is in GOES_ON goes on, until the order service hangs up.
    """
    asked: list[Connection] = []

    def behave(connection: Connection, _: int) -> None:
        asked.append(connection)
        if answer is None:
            connection.rfile.read(1)
        else:
            path = connection.path.encode().split(b"/")
            about = answer.replace(THIS_PRODUCT.encode(), path[2])
            connection.wfile.write(about.replace(THIS_ORDER.encode(), path[4]))
            more = b"".join(GOES_ON[end] for end in GOES_ON if answer.endswith(end))
            while more:
                connection.wfile.write(more)
                time.sleep(0.01 * answer.endswith(DRIPPING))
        connection.drop()

    with proxied(behave) as proxy:
        yield proxy.url, asked


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
    "going on without end": CONTINUE,
    "trailers without end": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n" + TRAILER,
    "a date that is none": answer(
        "401 Unauthorized", NOT_FOUND, "Date: Thu, 01 Jan 99999 00:00:00 GMT"
    ),
    "a head that drips": b"HTTP/1.1 200 OK\r\nA: " + DRIPPING,
    "a body that drips": b"HTTP/1.1 200 OK\r\n\r\n{" + DRIPPING,
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


@pytest.mark.parametrize("name", MISBEHAVIOURS)
def test_whatever_the_product_service_does_wrong_the_outcome_is_unknown_and_503(
    name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with (
        misbehaving(MISBEHAVIOURS[name]) as (url, asked),
        order_service(url, product_service_timeout=0.1) as orders,
    ):
        response = orders.post("/order", json={"product_id": new_pk(), "quantity": 1})
        assert refusal(response) == (503, "product_service_unavailable")
        order_id = response.json()["order_id"]
        assert all(each.path.endswith(f"/reservations/{order_id}") for each in asked)
        assert orders.get(f"/orders/{order_id}").status_code == 404
        assert orders.get("/orders").json() == []
        wait_until(lambda: all(each.rfile.closed for each in asked))  # no thread waits for ever
    assert ("rejects our token: JWT_SECRET probably differs" in capsys.readouterr().err) == (
        name in ("401", "a date that is none")
    )


def test_a_retry_after_a_lost_response_holds_nothing_of_the_first_attempt(
    storage_environment: dict[str, str], tmp_path: Path
) -> None:
    def lost_on_its_way_back(connection: Connection, _: int) -> None:
        connection.forward()
        connection.drop()

    settings = {name.lower(): value for name, value in storage_environment.items()}
    with (
        running_shop(tmp_path / "product.log", **storage_environment) as shop,
        proxied(lost_on_its_way_back, shop.products.url) as proxy,
        order_service(proxy.url, **settings) as orders,
    ):
        lamp = shop.add()
        body, key = {"product_id": lamp, "quantity": 4}, {"Idempotency-Key": "mine"}
        lost = orders.post("/order", json=body, headers=key)
        assert refusal(lost) == (503, "product_service_unavailable")
        assert shop.stock(lamp)["reserved"] == 4
        shop.products.request("DELETE", f"/products/{lamp}")
        proxy.behave = well
        again = orders.post("/order", json=body, headers=key)
        assert refusal(again) == (404, "product_not_found")
        assert orders.get(f"/orders/{lost.json()['order_id']}").status_code == 404
        assert shop.stock(lamp)["available"] == 10


def test_no_reservation_is_asked_for_after_the_time_of_the_request() -> None:
    quick = {"order_timeout": 0.15, "settle_after": 1, "settle_interval": 0.05}
    with (
        misbehaving(answer("503 Away", b"")) as (url, asked),
        order_service(url, **quick) as orders,
    ):
        response = orders.post("/order", json={"product_id": new_pk(), "quantity": 1})
        assert refusal(response) == (503, "request_timeout")
        before = len(asked)
        wait_until(lambda: len(asked) > before)  # by when all attempts would have been made
        commands = [each.command for each in asked]
        assert (set(commands[:before]), set(commands[before:])) == ({"PUT"}, {"DELETE"})
        assert orders.get(f"/orders/{response.json()['order_id']}").status_code == 404


def test_a_reservation_says_whose_it_is_where_and_until_when() -> None:
    body = {"product_id": new_pk(), "quantity": 3}
    with (
        misbehaving(answer("404 Not Found", NOT_FOUND)) as (url, asked),
        order_service(url, order_timeout=5) as orders,
    ):
        began = time.time()
        response = orders.post("/order", json=body, headers={"X-Request-ID": "passed on"})
        ended = time.time()
    assert refusal(response) == (404, "product_not_found")
    [request] = [each for each in asked if each.command == "PUT"]
    assert re.fullmatch(f"/products/{body['product_id']}/reservations/[0-9A-Z]{{26}}", request.path)
    assert json.loads(request.body) == {"quantity": 3}
    assert request.headers["X-Request-ID"] == "passed on"
    assert request.headers["X-Storage"] == "memory"
    token = request.headers["Authorization"].removeprefix("Bearer ")
    claims = jwt.decode(token, JWT_SECRET, algorithms=["HS256"], audience="shopsphere")
    assert (claims["sub"], claims["role"]) == ("order-service", "service")
    assert began + 5 <= claims["exp"] <= ended + 15


def test_a_503_before_the_order_was_noted_names_no_order(own_redis: RedisServer) -> None:
    with (
        misbehaving(None) as (url, asked),
        order_service(url, use_redis="required", redis_port=own_redis.port) as orders,
    ):
        own_redis.client.config_set("maxmemory", 1)  # reads go on, writes are refused
        response = orders.post("/order", json={"product_id": new_pk(), "quantity": 2})
    assert refusal(response) == (503, "storage_unavailable")
    assert "order_id" not in response.json()
    assert asked == []


def test_every_figure_of_orders_is_there_before_there_is_anything_to_count(
    orders: CheckedClient, shop: Shop
) -> None:
    figures = orders.get("/metrics").text
    refused = 'orders_refused_total{reason="insufficient_quantity"}'
    outcomes = ("placed", "failed", "cancelled", "shipped")
    settled = [f'orders_settled_total{{outcome="{outcome}"}}' for outcome in outcomes]
    for figure in (refused, "orders_placed_total", *settled):
        assert f"{figure} 0.0\n" in figures
    orders.post("/order", json={"product_id": shop.add(quantity=1), "quantity": 2})
    assert f"{refused} 1.0\n" in orders.get("/metrics").text
