"""A customer's story from end to end: real services, both storages, and a Redis that goes away."""

from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from threading import Barrier

import pytest
import requests

from tests.servers import RedisServer, Service, Trio, wait_until

SO_SLOW_MACHINES_PASS = {"ORDER_TIMEOUT": "25", "PRODUCT_SERVICE_TIMEOUT": "20"}


@pytest.fixture(scope="module")
def redis_that_keeps(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    """A Redis of our own to stop and start, which keeps what it was told."""
    server = RedisServer(tmp_path_factory.mktemp("redis"), "--appendonly", "yes")
    yield server
    server.client.close()
    if server.process.poll() is None:
        server.stop()


@pytest.fixture(scope="module", params=["memory", "redis"])
def shop(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Trio]:
    """The three services on each storage."""
    environment = {"USE_REDIS": "false"}
    if request.param == "redis":
        server: RedisServer = request.getfixturevalue("redis_that_keeps")
        environment = {"USE_REDIS": "required", "REDIS_PORT": str(server.port)}
    trio = Trio(tmp_path_factory.mktemp("shop"), **environment, **SO_SLOW_MACHINES_PASS)
    try:
        yield trio.start()
    finally:
        trio.stop()


def create(shop: Trio, name: str, price: float, quantity: int) -> str:
    answer = shop.product.post("/products", {"name": name, "price": price, "quantity": quantity})
    assert answer.status_code == 201
    pk: str = answer.json()["pk"]
    return pk


def order(shop: Trio, product: str, quantity: int, **headers: str) -> requests.Response:
    body = {"product_id": product, "quantity": quantity}
    return shop.order.post("/order", body, headers=headers)


def available(shop: Trio, product: str) -> int:
    figures = shop.product.get(f"/products/{product}/stock").json()
    kept = figures["available"] + figures["reserved"] + figures["shipped"]
    assert figures["received"] == kept
    count: int = figures["available"]
    return count


def test_a_customer_registers_finds_a_product_and_orders_until_it_is_gone(shop: Trio) -> None:
    account = {"email": "Ada@Example.com", "password": "correct horse"}
    registered = shop.user.post("/register", account)
    assert registered.status_code == 201
    user = registered.json()
    assert user["email"] == "ada@example.com"
    assert shop.user.post("/register", account).json()["code"] == "email_taken"

    login = shop.user.post("/login", account)
    assert login.status_code == 200
    bearer = {"Authorization": f"Bearer {login.json()['access_token']}"}
    assert shop.user.get("/me", headers=bearer).json() == user

    lamp = create(shop, "Desk Lamp", 24.99, 10)
    found = shop.product.get("/products/search", params={"name": "LAMP"}).json()
    assert [product["pk"] for product in found] == [lamp]

    placed = order(shop, lamp, 7, **bearer)
    assert placed.status_code == 201
    receipt = placed.json()
    assert receipt | {"pk": "", "created_at": ""} == {
        "pk": "",
        "product_id": lamp,
        "product_name": "Desk Lamp",
        "quantity": 7,
        "unit_price": 24.99,
        "total": 174.93,
        "status": "PLACED",
        "user_id": user["pk"],
        "created_at": "",
    }
    assert placed.headers["Location"] == f"/orders/{receipt['pk']}"
    assert shop.product.get(f"/products/{lamp}").json()["quantity"] == 3
    assert available(shop, lamp) == 3

    refused = order(shop, lamp, 4)
    assert refused.status_code == 400
    assert refused.json()["code"] == "insufficient_quantity"
    assert refused.json()["available"] == 3
    assert "3" in refused.json()["detail"]
    assert available(shop, lamp) == 3

    assert shop.order.get(f"/orders/{receipt['pk']}").json() == receipt
    assert receipt in shop.order.get("/orders").json()
    assert order(shop, lamp, 3).status_code == 201
    assert available(shop, lamp) == 0


def test_two_hundred_orders_at_once_on_ten_units_sell_ten(shop: Trio) -> None:
    product = create(shop, "Last Ten", 1, 10)
    all_together = Barrier(200)

    def order_one(_: int) -> int:
        all_together.wait(30)
        body = {"product_id": product, "quantity": 1}
        return requests.post(f"{shop.order.url}/order", json=body, timeout=60).status_code

    with ThreadPoolExecutor(200) as customers:
        answers = Counter(customers.map(order_one, range(200)))
    assert answers == {201: 10, 400: 190}
    assert available(shop, product) == 0
    placed = [o for o in shop.order.get("/orders").json() if o["product_id"] == product]
    assert len(placed) == 10
    held = shop.product.get(f"/products/{product}/reservations").json()
    assert {r["order_id"] for r in held} == {o["pk"] for o in placed}


@pytest.mark.parametrize("shop", ["redis"], indirect=True)
def test_the_story_goes_on_by_itself_when_redis_was_away(
    shop: Trio, redis_that_keeps: RedisServer
) -> None:
    product = create(shop, "Radio", 80, 5)
    before = order(shop, product, 2).json()

    redis_that_keeps.stop()
    for service, method, path, body in (
        (shop.product, "GET", f"/products/{product}", None),
        (shop.product, "POST", "/products", {"name": "Late", "price": 1, "quantity": 1}),
        (shop.order, "GET", f"/orders/{before['pk']}", None),
        (shop.order, "POST", "/order", {"product_id": product, "quantity": 1}),
        (shop.user, "POST", "/register", {"email": "late@example.com", "password": "12345678"}),
    ):
        assert_unavailable(service.request(method, path, json=body))
    for service in shop.services:
        assert_unavailable(service.get("/ready"))
        assert service.get("/").json()["storage"] == "redis"

    redis_that_keeps.start()
    for service in shop.services:
        wait_until(partial(is_ready, service), why=f"{service.name} is ready again")
    assert shop.order.get(f"/orders/{before['pk']}").json() == before
    assert available(shop, product) == 3
    assert order(shop, product, 3).status_code == 201
    assert order(shop, product, 1).status_code == 400


def assert_unavailable(answer: requests.Response) -> None:
    assert answer.status_code == 503
    assert answer.json()["code"] == "storage_unavailable"
    assert int(answer.headers["Retry-After"]) >= 1


def is_ready(service: Service) -> bool:
    return service.get("/ready").ok


def test_without_the_product_service_an_order_gets_503_until_it_is_there(tmp_path: Path) -> None:
    shop = Trio(tmp_path, USE_REDIS="false")
    with ExitStack() as stack:
        stack.callback(shop.order.start().stop)
        away = order(shop, "01M8706QWZPAFXJVYTP6GM7GVS", 1)
        assert away.status_code == 503
        assert away.json()["code"] == "product_service_unavailable"
        assert "Retry-After" in away.headers
        assert shop.order.get("/orders").json() == []

        stack.callback(shop.product.start().stop)
        assert order(shop, create(shop, "Chair", 45, 1), 1).status_code == 201
