"""A product service and order services as real processes, and what tests ask of them."""

import signal
import time
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import Any, Self

from shopsphere.domain.values import Stock
from shopsphere.settings import Settings
from shopsphere.tools import audit
from tests.load import Answer, close_connections, send
from tests.servers import Service, wait_until


class Shop:
    """One product service and some order services, on one storage."""

    def __init__(
        self,
        folder: Path,
        environment: Mapping[str, str],
        *,
        order_services: int = 1,
        workers: int = 1,
        products_seen_at: str | None = None,
    ) -> None:
        """`products_seen_at`: where the order services find the product service, if not at it."""
        self._options = ["--workers", str(workers)] if workers > 1 else []
        self.product = Service("product", folder / "product.log", 0, **environment)
        seen_at = {"PRODUCT_SERVICE_URL": products_seen_at or self.product.url}
        self.orders = [
            Service("order", folder / f"order-{number}.log", 0, **environment, **seen_at)
            for number in range(order_services)
        ]
        self.order = self.orders[0]
        self.services = [self.product, *self.orders]

    def start(self) -> "Shop":
        """Start all at once, and wait until all answer."""
        for service in self.services:
            service.start(*self._options, wait=False)
        return self.wait_until_all_answer()

    def wait_until_all_answer(self) -> "Shop":
        for service in self.services:
            wait_until(service.answers, 30, why=f"{service.name} service answers")
        return self

    def stop(self) -> None:
        close_connections()
        for service in self.services:
            service.process.send_signal(signal.SIGCONT)
            service.stop()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def heal(self) -> None:
        """Have whatever is stopped or dead run again; connections to who died are of no use."""
        close_connections()
        for service in self.services:
            service.process.send_signal(signal.SIGCONT)
            if service.process.poll() is not None:
                service.start(wait=False)
        self.wait_until_all_answer()

    def new_product(self, quantity: int) -> str:
        body = {"name": "Laptop", "price": 9.99, "quantity": quantity}
        return str(send("POST", f"{self.product.url}/products", body).body["pk"])

    def place(self, product: str, quantity: int = 1, key: str | None = None, at: int = 0) -> Answer:
        """Order at the order service of this number, counted around."""
        url = self.orders[at % len(self.orders)].url
        return send("POST", f"{url}/order", {"product_id": product, "quantity": quantity}, key)

    def place_basket(
        self, basket: Mapping[str, int], key: str | None = None, at: int = 0
    ) -> Answer:
        """Order so many units of each of these products."""
        items = [{"product_id": pk, "quantity": quantity} for pk, quantity in basket.items()]
        return send(
            "POST", f"{self.orders[at % len(self.orders)].url}/order", {"items": items}, key
        )

    def placed(self, product: str, quantity: int = 1) -> str:
        """Order, and return the pk."""
        answer = self.place(product, quantity)
        assert answer.status == 201, answer
        return str(answer.body["pk"])

    def cancel(self, pk: str, at: int = 0) -> Answer:
        return send("POST", f"{self.orders[at % len(self.orders)].url}/orders/{pk}/cancel")

    def ship(self, pk: str, at: int = 0) -> Answer:
        return send("POST", f"{self.orders[at % len(self.orders)].url}/orders/{pk}/ship")

    def change_stock(self, product: str, change: int, key: str | None = None) -> Answer:
        return send("POST", f"{self.product.url}/products/{product}/stock", {"change": change}, key)

    def delete(self, product: str) -> Answer:
        return send("DELETE", f"{self.product.url}/products/{product}")

    def stock(self, product: str) -> tuple[int, ...]:
        """Return received, available, reserved and shipped."""
        figures = send("GET", f"{self.product.url}/products/{product}/stock").body
        return tuple(figures[name] for name in Stock._fields)

    def order_status(self, pk: str) -> str:
        """Return the status of an order; empty where there is none."""
        return str((send("GET", f"{self.order.url}/orders/{pk}").body or {}).get("status", ""))

    def orders_of(self, product: str) -> list[str]:
        """Return the pks of a product's orders, whatever their status."""
        return [
            order["pk"]
            for order in self.all_orders()
            if product in (item["product_id"] for item in order["items"])
        ]

    def all_orders(self) -> list[dict[str, Any]]:
        orders: list[dict[str, Any]] = send("GET", f"{self.order.url}/orders").body
        return orders

    def settings(self) -> Settings:
        """Return what an audit of this shop needs, for one that does not wait."""
        return Settings(
            product_service_url=self.product.url,
            order_service_url=self.order.url,
            settle_after=0.01,
            settle_interval=0.01,
        )

    def findings(self) -> list[str]:
        """Return what an audit of the whole shop finds that looks twice without waiting."""
        with closing(audit.Shop(self.settings())) as shop:
            return [finding.text for finding in audit.compare(shop, lambda: None)[0]]

    def wait_until_exact(self, seconds: float) -> None:
        """Return when the audit finds nothing; fail with what it finds when it does in the end."""
        deadline = time.monotonic() + seconds
        while (found := self.findings()) and time.monotonic() < deadline:
            time.sleep(0.02)
        assert not found, f"not exact within {seconds} s: {found}"
