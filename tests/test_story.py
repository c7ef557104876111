"""The story of a shop from end to end: real services on a Redis that goes away and comes back."""

import re
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from redis_db import NEEDED
from tests.launching import three_services
from tests.servers import ROOT, RedisServer, Service, Trio, wait_until

ACCOUNT = {"email": "Ada@Example.com", "password": "correct horse"}
LAMP = {"name": "Desk Lamp", "price": 24.99, "quantity": 10}


def stock(shop: Trio, product: str) -> tuple[int, ...]:
    counts = shop.product.get(f"/products/{product}/stock").json()
    return tuple(counts[kind] for kind in ("received", "available", "reserved", "shipped"))


def whole_story(shop: Trio) -> Any:
    """Do everything that a shop can do; return the receipt of an order of 7 out of 10 lamps."""
    user = shop.user.post("/register", ACCOUNT).json()
    assert shop.user.post("/register", ACCOUNT).json()["code"] == "email_taken"
    wrong = shop.user.post("/login", {**ACCOUNT, "password": "wrong"}).json()
    assert wrong["code"] == "invalid_credentials"
    token = shop.user.post("/login", ACCOUNT).json()["access_token"]
    bearer = {"Authorization": f"Bearer {token}"}
    assert shop.user.get("/me", headers=bearer).json() == user
    token = shop.user.post("/login", ACCOUNT).json()["refresh_token"]
    token = shop.user.post("/refresh", {"refresh_token": token}).json()["refresh_token"]
    assert shop.user.post("/logout", {"refresh_token": token}).status_code == 204
    assert shop.user.post("/refresh", {"refresh_token": token}).status_code == 401
    guest = {"email": "guest@example.com", "password": "for one day"}
    shop.user.post("/register", guest)
    asked = {"Authorization": f"Bearer {shop.user.post('/login', guest).json()['access_token']}"}
    sure = {"current_password": guest["password"]}
    assert shop.user.post("/me/delete", sure, headers=asked).status_code == 204
    assert shop.user.post("/register", guest).status_code == 201

    lamp, chair, table = [shop.product.post("/products", LAMP).json()["pk"] for _ in range(3)]
    shop.product.request("PATCH", f"/products/{chair}", json={"name": "Chair"})
    assert [one["pk"] for one in shop.product.get("/products/search?name=CHAIR").json()] == [chair]
    assert shop.product.request("DELETE", f"/products/{table}").status_code == 204
    first_page = shop.product.get("/products?limit=1")
    rest = shop.product.get(first_page.links["next"]["url"].removeprefix(shop.product.url))
    assert [one["pk"] for one in first_page.json() + rest.json()] == [lamp, chair]

    body, key = {"product_id": lamp, "quantity": 7}, {"Idempotency-Key": "mine", **bearer}
    receipt, again = (shop.order.post("/order", body, headers=key) for _ in range(2))
    assert (again.json(), again.headers["Idempotent-Replayed"]) == (receipt.json(), "true")
    assert (receipt.json()["user_id"], receipt.json()["total"]) == (user["pk"], 174.93)
    assert shop.order.post("/order", body).json()["available"] == 3
    body = {"product_id": chair, "quantity": 2}
    cancelled, shipped = (shop.order.post("/order", body).json()["pk"] for _ in range(2))
    assert shop.order.post(f"/orders/{cancelled}/cancel").json()["status"] == "CANCELLED"
    assert shop.order.post(f"/orders/{shipped}/ship").json()["status"] == "SHIPPED"
    settled = shop.order.post(f"/orders/{cancelled}/settle", {"product_id": chair})
    assert settled.json()["outcome"] == "cancelled"
    orders = [order["pk"] for order in shop.order.get("/orders").json()]
    assert orders == [receipt.json()["pk"], cancelled, shipped]
    assert (stock(shop, lamp), stock(shop, chair)) == ((10, 3, 7, 0), (10, 8, 0, 2))
    return receipt.json()


def test_a_customer_orders_until_it_is_gone_though_redis_was_away(
    own_redis: RedisServer, tmp_path: Path
) -> None:
    on_redis = {"USE_REDIS": "required", "REDIS_PORT": str(own_redis.port)}
    with three_services(tmp_path, **on_redis) as shop:
        receipt = whole_story(shop)
        order, item = f"/orders/{receipt['pk']}", {"product_id": receipt["product_id"]}
        own_redis.stop()
        for service, method, path, body in (
            (shop.product, "POST", "/products", LAMP),
            (shop.order, "GET", order, None),
            (shop.order, "POST", "/order", {**item, "quantity": 1}),
            (shop.user, "POST", "/register", ACCOUNT),
            *((service, "GET", "/ready", None) for service in shop.services),
        ):
            answer = service.request(method, path, json=body)
            assert (answer.status_code, answer.json()["code"]) == (503, "storage_unavailable")
            assert int(answer.headers["Retry-After"]) >= 1
        assert all(service.get("/").json()["storage"] == "redis" for service in shop.services)

        own_redis.start()
        for service in shop.services:
            wait_until(partial(is_ready, service), why=f"{service.name} is ready again")
        assert shop.order.get(order).json() == receipt
        assert shop.order.post("/order", {**item, "quantity": 3}).status_code == 201
        assert shop.order.post("/order", {**item, "quantity": 1}).status_code == 400
        assert stock(shop, receipt["product_id"]) == (10, 0, 10, 0)


DOCS = (ROOT / "docs" / "redis.md").read_text(encoding="utf-8")
EACH_COMMAND = " ".join(f"+{command.split()[0]}" for command in NEEDED)


@pytest.mark.parametrize("rights", ["", f"on >a-password ~shopsphere:* {EACH_COMMAND}"])
def test_the_story_needs_no_other_rights_than_those_of_the_docs(
    own_redis: RedisServer, tmp_path: Path, rights: str
) -> None:
    [example] = re.findall("ACL SETUSER shop (.+)", DOCS)
    own_redis.client.execute_command("ACL SETUSER", "shop", *(rights or example).split())
    user = {"REDIS_USERNAME": "shop", "REDIS_PASSWORD": "a-password"}
    on_redis = {"USE_REDIS": "required", "REDIS_PORT": str(own_redis.port), **user}
    with three_services(tmp_path, **on_redis) as shop:
        whole_story(shop)


def is_ready(service: Service) -> bool:
    return service.get("/ready").ok
