"""A customer's story from end to end: real services on a Redis that goes away and comes back."""

from functools import partial
from pathlib import Path

import requests

from tests.launching import three_services
from tests.servers import RedisServer, Service, Trio, wait_until


def order(shop: Trio, product: str, quantity: int, **headers: str) -> requests.Response:
    body = {"product_id": product, "quantity": quantity}
    return shop.order.post("/order", body, headers=headers)


def stock(shop: Trio, product: str) -> tuple[int, ...]:
    counts = shop.product.get(f"/products/{product}/stock").json()
    return tuple(counts[kind] for kind in ("received", "available", "reserved", "shipped"))


def test_a_customer_orders_until_it_is_gone_though_redis_was_away(
    own_redis: RedisServer, tmp_path: Path
) -> None:
    on_redis = {"USE_REDIS": "required", "REDIS_PORT": str(own_redis.port)}
    with three_services(tmp_path, **on_redis) as shop:
        account = {"email": "Ada@Example.com", "password": "correct horse"}
        user = shop.user.post("/register", account).json()
        token = shop.user.post("/login", account).json()["access_token"]
        bearer = {"Authorization": f"Bearer {token}"}
        assert shop.user.get("/me", headers=bearer).json() == user
        body = {"name": "Desk Lamp", "price": 24.99, "quantity": 10}
        lamp = shop.product.post("/products", body).json()["pk"]
        receipt = order(shop, lamp, 7, **bearer).json()
        assert (receipt["user_id"], receipt["total"]) == (user["pk"], 174.93)
        assert stock(shop, lamp) == (10, 3, 7, 0)

        item = {"product_id": lamp, "quantity": 1}
        bodies = {"/products": body, "/order": item, "/register": account}
        own_redis.stop()
        for service, path, method in (
            (shop.product, f"/products/{lamp}", "GET"),
            (shop.product, "/products", "POST"),
            (shop.order, f"/orders/{receipt['pk']}", "GET"),
            (shop.order, "/order", "POST"),
            (shop.user, "/register", "POST"),
            *((service, "/ready", "GET") for service in shop.services),
        ):
            answer = service.request(method, path, json=bodies.get(path))
            assert (answer.status_code, answer.json()["code"]) == (503, "storage_unavailable")
            assert int(answer.headers["Retry-After"]) >= 1
        assert all(service.get("/").json()["storage"] == "redis" for service in shop.services)

        own_redis.start()
        for service in shop.services:
            wait_until(partial(is_ready, service), why=f"{service.name} is ready again")
        assert shop.order.get(f"/orders/{receipt['pk']}").json() == receipt
        assert order(shop, lamp, 3).status_code == 201
        assert order(shop, lamp, 1).status_code == 400
        assert stock(shop, lamp) == (10, 0, 10, 0)


def is_ready(service: Service) -> bool:
    return service.get("/ready").ok
