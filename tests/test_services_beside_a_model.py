"""The three services over HTTP beside a model too plain to be wrong, on both storages."""

from collections.abc import Iterator
from dataclasses import dataclass

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    precondition,
    rule,
    run_state_machine_as_test,
)

from shopsphere.domain.pks import new_pk
from tests.load import Answer, send
from tests.servers import Service
from tests.shop import Shop

PASSWORD = "securepass123"
KEYS = st.sampled_from([None, "a", "b"])
BUYERS = st.integers(0, 2)
"""Nobody in particular, or one of two users."""


@dataclass
class Product:
    pk: str
    name: str
    cents: int
    received: int
    available: int
    shipped: int = 0
    is_deleted: bool = False


@dataclass
class Order:
    pk: str
    product: Product
    quantity: int
    name: str
    cents: int
    user_id: str | None
    status: str = "PLACED"


class Story(RuleBasedStateMachine):
    """One life of a shop: its products and orders are its own, in a shop that others use too."""

    shop: Shop
    user: Service

    def __init__(self) -> None:
        super().__init__()
        self.products: list[Product] = []
        self.orders: list[Order] = []
        self.ordered: dict[tuple[int, str], tuple[Product, int, Order]] = {}
        self.changed: dict[tuple[int, str, str], int] = {}
        self.life = new_pk()

    @initialize()
    def open(self) -> None:
        self.users: list[tuple[str | None, str | None]] = [(None, None)]
        for number in (1, 2):
            account = {"email": f"{number}.{self.life}@example.com", "password": PASSWORD}
            made = send("POST", f"{self.user.url}/register", account)
            token = send("POST", f"{self.user.url}/login", account).body["access_token"]
            assert send("GET", f"{self.user.url}/me", token=token).body["pk"] == made.body["pk"]
            self.users.append((made.body["pk"], token))
        self.add_product(3, 999)

    @rule(quantity=st.integers(0, 5), cents=st.integers(0, 100_000_000))
    def add_product(self, quantity: int, cents: int) -> None:
        name = f"Laptop {len(self.products)}"
        body = {"name": name, "price": cents / 100, "quantity": quantity}
        answer = send("POST", f"{self.shop.product.url}/products", body)
        assert answer.status == 201
        self.products.append(Product(answer.body["pk"], name, cents, quantity, quantity))

    @rule(which=st.integers(0, 99), cents=st.integers(0, 100_000_000))
    def change_price(self, which: int, cents: int) -> None:
        product = self.products[which % len(self.products)]
        url = f"{self.shop.product.url}/products/{product.pk}"
        answer = send("PATCH", url, {"price": cents / 100})
        assert answer.status == (404 if product.is_deleted else 200)
        if not product.is_deleted:
            assert answer.body["price"] == cents / 100
            product.cents = cents

    @rule(which=st.integers(0, 99), change=st.integers(-3, 4), key=KEYS, buyer=BUYERS)
    def change_stock(self, which: int, change: int, key: str | None, buyer: int) -> None:
        product = self.products[which % len(self.products)]
        url = f"{self.shop.product.url}/products/{product.pk}/stock"
        answer = send("POST", url, {"change": change}, self.own(key), self.users[buyer][1])
        before = self.changed.get((buyer, product.pk, key or ""))
        if product.is_deleted:
            assert_refused(answer, 404, "product_not_found")
        elif before is not None and before != change:
            assert_refused(answer, 422, "idempotency_key_reused")
        elif before is None and product.available + change < 0:
            assert_refused(answer, 400, "insufficient_quantity")
            assert answer.body["available"] == product.available
        else:
            assert answer.status == 200
            assert ("idempotent-replayed" in answer.headers) == (before is not None)
            if before is None:
                product.received += change
                product.available += change
            assert answer.body["quantity"] == product.available
            if key:
                self.changed[buyer, product.pk, key] = change

    @rule(which=st.integers(0, 99))
    def delete(self, which: int) -> None:
        product = self.products[which % len(self.products)]
        answer = self.shop.delete(product.pk)
        assert answer.status == (404 if product.is_deleted else 204)
        product.is_deleted = True

    @rule(which=st.integers(0, 99), quantity=st.integers(1, 3), key=KEYS, buyer=BUYERS)
    def order(self, which: int, quantity: int, key: str | None, buyer: int) -> None:
        product = self.products[which % len(self.products)]
        user_id, token = self.users[buyer]
        body = {"product_id": product.pk, "quantity": quantity}
        answer = send("POST", f"{self.shop.order.url}/order", body, self.own(key), token)
        before = self.ordered.get((buyer, key or ""))
        if before and before[:2] != (product, quantity):
            assert_refused(answer, 422, "idempotency_key_reused")
        elif before:
            assert answer.status == 201
            assert answer.headers["idempotent-replayed"] == "true"
            assert_shown(answer, before[2])
        elif product.is_deleted:
            assert_refused(answer, 404, "product_not_found")
        elif product.available < quantity:
            assert_refused(answer, 400, "insufficient_quantity")
            assert answer.body["available"] == product.available
        else:
            assert answer.status == 201
            assert "idempotent-replayed" not in answer.headers
            pk = answer.body["pk"]
            order = Order(pk, product, quantity, product.name, product.cents, user_id)
            assert_shown(answer, order)
            product.available -= quantity
            self.orders.append(order)
            if key:
                self.ordered[buyer, key] = (product, quantity, order)

    @precondition(lambda self: self.orders)
    @rule(which=st.integers(0, 99))
    def cancel(self, which: int) -> None:
        order = self.orders[which % len(self.orders)]
        answer = self.shop.cancel(order.pk)
        if order.status == "SHIPPED":
            assert_refused(answer, 409, "order_is_shipped")
            return
        if order.status == "PLACED":
            order.product.available += order.quantity
            order.status = "CANCELLED"
        assert answer.status == 200
        assert_shown(answer, order)

    @precondition(lambda self: self.orders)
    @rule(which=st.integers(0, 99))
    def ship(self, which: int) -> None:
        order = self.orders[which % len(self.orders)]
        answer = self.shop.ship(order.pk)
        if order.status == "CANCELLED":
            assert_refused(answer, 409, "order_is_cancelled")
            return
        if order.status == "PLACED":
            order.product.shipped += order.quantity
            order.status = "SHIPPED"
        assert answer.status == 200
        assert_shown(answer, order)

    def teardown(self) -> None:
        """At the end of a life, everything is as the model has it, and the audit finds nothing."""
        for product in self.products:
            held = product.received - product.available - product.shipped
            figures = (product.received, product.available, held, product.shipped)
            assert self.shop.stock(product.pk) == figures
            answer = send("GET", f"{self.shop.product.url}/products/{product.pk}")
            assert answer.status == (404 if product.is_deleted else 200)
        own = {product.pk for product in self.products}
        listed = send("GET", f"{self.shop.order.url}/orders").body
        pks = [order["pk"] for order in listed if order["product_id"] in own]
        assert pks == [order.pk for order in self.orders]
        for order in self.orders:
            assert_shown(send("GET", f"{self.shop.order.url}/orders/{order.pk}"), order)
        assert self.shop.findings() == []

    def own(self, key: str | None) -> str | None:
        """Return a key that no other life uses."""
        return key and f"{self.life} {key}"


def assert_refused(answer: Answer, status: int, code: str) -> None:
    assert (answer.status, answer.code) == (status, code), answer


def assert_shown(answer: Answer, order: Order) -> None:
    shown = {name: value for name, value in answer.body.items() if name != "created_at"}
    assert shown == {
        "pk": order.pk,
        "product_id": order.product.pk,
        "product_name": order.name,
        "quantity": order.quantity,
        "unit_price": order.cents / 100,
        "total": order.quantity * order.cents / 100,
        "status": order.status,
        "user_id": order.user_id,
    }


@pytest.fixture
def story(
    storage_environment: dict[str, str], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[type[Story]]:
    """A story whose lives are lived in a shop on each storage."""
    folder = tmp_path_factory.mktemp("shop")
    user = Service("user", folder / "user.log", 0, **storage_environment)
    shop = Shop(folder, storage_environment)
    shop.services.append(user)
    try:
        shop.start()
        yield type("Story", (Story,), {"shop": shop, "user": user})
    finally:
        shop.stop()


def test_whatever_happens_in_a_shop_it_answers_as_the_model_does(story: type[Story]) -> None:
    run_state_machine_as_test(
        story,
        settings=settings(
            max_examples=12,
            stateful_step_count=25,
            derandomize=True,
            deadline=None,
            phases=[Phase.generate],  # to shrink what failed would take minutes
            database=None,
            suppress_health_check=[HealthCheck.too_slow],
        ),
    )
