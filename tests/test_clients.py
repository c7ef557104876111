"""A Python client that is generated from OpenAPI tells the story of a closed shop."""

import os
import subprocess
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from tests.launching import three_services
from tests.people import CLOSED
from tests.servers import Service

BOSS = {"email": "boss@example.com", "password": "a-long-password"}
ADA = {"email": "ada@example.com", "password": "correct horse"}
SETTINGS = {**CLOSED, "ADMIN_EMAIL": BOSS["email"], "ADMIN_PASSWORD": BOSS["password"]}


class Generated:
    """The client of one service: `call` sends an operation, whose id is a function's name."""

    def __init__(self, service: Service, folder: Path) -> None:
        name = f"{service.name}_client"
        command = [sys.executable, "-m", "openapi_python_client", "generate", "--meta=none"]
        source = [f"--url={service.url}/openapi.json", f"--output-path={folder / name}"]
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"  # it runs ruff
        environment = {**os.environ, "PATH": path}
        subprocess.run([*command, *source, "--fail-on-warning"], check=True, env=environment)
        self._package = import_module(name)
        self._models = import_module(f"{name}.models")
        self._url = service.url

    def call(self, operation: str, token: str = "", body: Any = None, **arguments: Any) -> Any:
        """Return the answer, in the client's own model; `body` is a model and its fields."""
        module = import_module(f"{self._package.__name__}.api.{operation}")
        client = self._package.Client(base_url=self._url)
        if token:
            client = self._package.AuthenticatedClient(base_url=self._url, token=token)
        if body:
            model, fields = body
            arguments["body"] = getattr(self._models, model).from_dict(fields)
        with client as connected:
            return module.sync(client=connected, **arguments)


def test_a_generated_client_tells_the_story(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    with three_services(tmp_path, USE_REDIS="false", **SETTINGS) as shop:
        products, users, orders = (Generated(each, tmp_path) for each in shop.services)
        boss = users.call("accounts.login", body=("Login", BOSS)).access_token
        user = users.call("accounts.register", body=("UserCreate", ADA))
        ada = users.call("accounts.login", body=("Login", ADA)).access_token
        assert users.call("me.get_me", ada).pk == user.pk
        items = []
        for name, price, quantity in (("Laptop", 999.99, 1), ("Mouse", 24.5, 2)):
            product = {"name": name, "price": price, "quantity": 10}
            made = products.call("catalogue.create_product", boss, ("ProductCreate", product))
            assert products.call("catalogue.get_product", pk=made.pk) == made
            items.append({"product_id": made.pk, "quantity": quantity})
        body = "OrderOfItems", {"items": items}
        order = orders.call("orders.place_order", ada, body, idempotency_key="once")
        again = orders.call("orders.place_order", ada, body, idempotency_key="once")
        assert (order.status.value, order.total, again) == ("PLACED", 1048.99, order)
        assert orders.call("orders.list_orders", ada, status=order.status) == [order]
        cancelled = orders.call("orders.cancel_order", ada, pk=order.pk)
        assert cancelled.status.value == "CANCELLED"
        refused = orders.call("orders.get_order", ada, pk=made.pk)
        assert refused.code == "order_not_found"
