"""The log: in JSON one object a line, which can be joined across the services; text for people."""

import json
import logging
import re
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from tests.apps import running
from tests.launching import three_services
from tests.people import ADMINISTRATOR, CLOSED, CUSTOMER, PEOPLE
from tests.servers import Service, Trio, free_port, wait_until

Entry = dict[str, Any]


@pytest.fixture(scope="module")
def trio(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Trio]:
    """The three services, which want tokens and log in JSON."""
    folder = tmp_path_factory.mktemp("logs")
    with three_services(folder, USE_REDIS="false", LOG_FORMAT="json", **CLOSED) as trio:
        yield trio


def entries(service: Service) -> list[Entry]:
    """Return all that a service has logged; fail where a line is not JSON."""
    lines = service.log.read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


def requests_with(request_id: str, service: Service) -> list[Entry]:
    """Return what a service logged of the requests with this id, when there is something."""

    def found() -> list[Entry]:
        return [e for e in entries(service) if e["request_id"] == request_id and "status" in e]

    wait_until(found, why=f"{request_id} in {service.log}")
    return found()


def as_(who: str, request_id: str) -> dict[str, str]:
    return {**PEOPLE[who], "X-Request-ID": request_id}


def test_an_order_and_what_it_asked_of_the_product_service_have_one_request_id(trio: Trio) -> None:
    product = {"name": "Laptop", "price": 999.99, "quantity": 10}
    made = trio.product.post("/products", product, headers=PEOPLE["administrator"]).json()
    order = {"product_id": made["pk"], "quantity": 2}
    placed = trio.order.post("/order", order, headers=as_("customer", "joined")).json()
    [asked] = requests_with("joined", trio.order)
    age = datetime.now().astimezone() - datetime.fromisoformat(asked.pop("timestamp"))
    assert timedelta(0) < age < timedelta(minutes=1)
    assert 0 < asked.pop("duration_ms") < 20_000
    assert asked.pop("message").startswith("POST /order 201 in ")
    assert asked == {
        "level": "INFO", "logger": "shopsphere.request", "service": "order", "request_id": "joined",
        "method": "POST", "route": "/order", "path": "/order", "status": 201, "user": CUSTOMER.pk,
    }  # fmt: skip
    [called] = requests_with("joined", trio.product)
    assert (called["method"], called["status"], called["path"]) == (
        "PUT", 201, f"/products/{made['pk']}/reservations/{placed['pk']}",
    )  # fmt: skip
    assert called["route"] == "/products/{pk}/reservations/{order_pk}"
    assert called["user"] is None  # a service is not a person


def test_what_is_refused_is_logged_too(trio: Trio) -> None:
    for who, path, *logged in (
        ("nobody", "/orders?secret=1", 401, "/orders", None),
        ("order service", "/orders", 403, "/orders", None),
        ("customer", "/orders/none", 404, "/orders/{pk}", CUSTOMER.pk),
        ("customer", "/no-where", 404, None, None),
        ("customer", "/openapi.json", 200, None, None),
    ):
        trio.order.get(path, headers=as_(who, f"{who} {path}"))
        [line] = requests_with(f"{who} {path}", trio.order)
        assert [line["status"], line["route"], line["user"]] == logged


def test_every_line_is_json_from_the_first_to_the_last(trio: Trio, tmp_path: Path) -> None:
    nowhere = {"PRODUCT_SERVICE_URL": f"http://127.0.0.1:{free_port()}"}
    service = Service("order", tmp_path / "log", 0, **trio.order.environment | nowhere)
    order = {"product_id": ADMINISTRATOR.pk, "quantity": 1}
    try:
        service.start()
        assert service.post("/order", order, headers=PEOPLE["customer"]).status_code == 503
    finally:
        service.stop()
    first, *_, last = logged = entries(service)
    assert first["message"].startswith("Started server process")
    assert last["message"].startswith("Finished server process")
    for entry in logged:
        assert {"timestamp", "level", "service", "request_id", "message"} <= set(entry)
        assert "color_message" not in entry
    assert "shopsphere.product_client" in {entry["logger"] for entry in logged}


def test_a_start_that_fails_says_so_in_json(tmp_path: Path) -> None:
    redis = {"USE_REDIS": "required", "REDIS_PORT": str(free_port())}
    service = Service("product", tmp_path / "log", 0, LOG_FORMAT="json", **redis)
    service.start(wait=False).process.wait(30)
    [error] = (e for e in entries(service) if e["message"].startswith("USE_REDIS=required"))
    assert error["level"] == "ERROR"


def test_what_a_library_logs_is_json_too(capsys: pytest.CaptureFixture[str]) -> None:
    with running("product", {"USE_REDIS": "false", "LOG_FORMAT": "json"}):
        logging.getLogger("urllib3.connectionpool").warning("broken %s", "pipe")
    logged = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    [entry] = (each for each in logged if each["logger"] == "urllib3.connectionpool")
    assert (entry["level"], entry["message"]) == ("WARNING", "broken pipe")


def test_a_closed_shop_that_may_have_no_administrator_says_so(
    capsys: pytest.CaptureFixture[str],
) -> None:
    named = {"ADMIN_EMAIL": "a@shop.example", "ADMIN_PASSWORD": "a long password"}
    for administrator in ({}, named):
        with running("user", {"USE_REDIS": "false", **CLOSED, **administrator}):
            assert ("ADMIN_EMAIL is empty" in capsys.readouterr().err) is not bool(administrator)


def test_text_is_for_people(capsys: pytest.CaptureFixture[str]) -> None:
    with running("product", {"USE_REDIS": "false"}) as products:
        products.get("/products/1", headers={"X-Request-ID": "mine"})
    logged = capsys.readouterr().err
    moment = r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3}"
    assert re.search(rf"(?m)^{moment} INFO    GET /products/1 404 in \d+\.\d ms \[mine\]$", logged)
    assert re.search(rf"(?m)^{moment} WARNING AUTH_REQUIRED is false: .* \[-\]$", logged)
