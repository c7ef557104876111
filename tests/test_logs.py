"""The log: in JSON one object a line, which can be joined across the services; text for people."""

import json
import logging
import re
from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import Any

import pytest

from shopsphere.domain.values import User
from tests.apps import running
from tests.people import ADMINISTRATOR, CLOSED, CUSTOMER, PEOPLE
from tests.servers import Service, Trio, free_port, wait_until

Entry = dict[str, Any]
REQUEST_FIELDS = {
    "timestamp", "level", "service", "request_id", "method", "route", "path", "status",
    "duration_ms", "user", "message", "logger",
}  # fmt: skip


@pytest.fixture(scope="module")
def trio(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Trio]:
    """The three services, which want tokens and log in JSON."""
    folder = tmp_path_factory.mktemp("logs")
    services = Trio(folder, USE_REDIS="false", LOG_FORMAT="json", **CLOSED)
    try:
        yield services.start()
    finally:
        services.stop()


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


def new_product(trio: Trio, request_id: str) -> str:
    body = {"name": "Laptop", "price": 999.99, "quantity": 10}
    product = trio.product.post("/products", body, headers=as_("administrator", request_id))
    return str(product.json()["pk"])


def test_a_request_is_one_line_that_says_who_asked_what_and_what_became_of_it(trio: Trio) -> None:
    pk = new_product(trio, "made")
    path = f"/products/{pk}/stock"
    trio.product.get(f"{path}?secret=1", headers=as_("administrator", "looked"))
    [line] = requests_with("looked", trio.product)
    assert set(line) == REQUEST_FIELDS
    assert line["service"] == "product"
    assert line["level"] == "INFO"
    assert (line["method"], line["route"], line["path"]) == ("GET", "/products/{pk}/stock", path)
    assert line["status"] == 200
    assert line["user"] == ADMINISTRATOR.pk
    assert 0 < line["duration_ms"] < 20_000
    age = datetime.now().astimezone() - datetime.fromisoformat(line["timestamp"])
    assert timedelta(0) < age < timedelta(minutes=1)


def test_an_order_and_what_it_asked_of_the_product_service_have_one_request_id(trio: Trio) -> None:
    order = {"product_id": new_product(trio, "made-to-order"), "quantity": 2}
    placed = trio.order.post("/order", order, headers=as_("customer", "joined"))
    [asked] = requests_with("joined", trio.order)
    [called] = requests_with("joined", trio.product)
    assert (asked["method"], asked["route"], asked["status"]) == ("POST", "/order", 201)
    assert asked["user"] == CUSTOMER.pk
    assert called["method"] == "PUT"
    assert called["route"] == "/products/{pk}/reservations/{order_pk}"
    assert called["path"].endswith(placed.json()["pk"])
    assert called["status"] == 201
    assert called["user"] is None  # a service is not a person


@pytest.mark.parametrize(
    ("who", "path", "status", "route", "user"),
    [
        ("nobody", "/orders", 401, "/orders", None),
        ("order service", "/orders", 403, "/orders", None),
        pytest.param("customer", "/orders/none", 404, "/orders/{pk}", CUSTOMER, id="a customer"),
        ("customer", "/no-where", 404, None, None),
        ("customer", "/", 200, "/", None),
    ],
)
def test_what_is_refused_is_logged_too(
    trio: Trio, who: str, path: str, status: int, route: str | None, user: User | None
) -> None:
    request_id = f"{who} {path}"
    trio.order.get(path, headers=as_(who, request_id))
    [line] = requests_with(request_id, trio.order)
    assert (line["status"], line["route"]) == (status, route)
    assert line["user"] == (user.pk if user else None)


def test_every_line_is_json_from_the_first_to_the_last(trio: Trio) -> None:
    nowhere = {"PRODUCT_SERVICE_URL": f"http://127.0.0.1:{free_port()}"}
    log = trio.order.log.with_name("away")
    service = Service("order", log, 0, **trio.order.environment | nowhere)
    order = {"product_id": ADMINISTRATOR.pk, "quantity": 1}
    try:
        service.start()
        assert service.post("/order", order, headers=PEOPLE["customer"]).status_code == 503
    finally:
        service.stop()
    said = [entry["message"] for entry in entries(service)]
    assert said[0].startswith("Started server process")
    assert said[-1].startswith("Finished server process")
    for entry in entries(service):
        assert {"timestamp", "level", "service", "request_id", "message"} <= set(entry)
        assert "color_message" not in entry
    assert "shopsphere.product_client" in {entry["logger"] for entry in entries(service)}


def test_what_a_library_logs_is_json_too(capsys: pytest.CaptureFixture[str]) -> None:
    with running("product", {"USE_REDIS": "false", "LOG_FORMAT": "json"}):
        logging.getLogger("some.library").warning("broken %s", "pipe")
    logged = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    [entry] = (each for each in logged if each["logger"] == "some.library")
    assert (entry["level"], entry["message"]) == ("WARNING", "broken pipe")


def test_a_start_that_fails_says_so_in_json(trio: Trio) -> None:
    redis = {"USE_REDIS": "required", "REDIS_PORT": str(free_port())}
    log = trio.product.log.with_name("failed")
    service = Service("product", log, 0, **trio.product.environment | redis)
    service.start(wait=False)
    wait_until(lambda: service.process.poll() is not None, why="it ends")
    [error] = (e for e in entries(service) if e["message"].startswith("USE_REDIS=required"))
    assert error["level"] == "ERROR"


@pytest.mark.parametrize(
    "administrator", [{}, {"ADMIN_EMAIL": "a@shop.example", "ADMIN_PASSWORD": "a long password"}]
)
def test_a_closed_shop_that_may_have_no_administrator_says_so(
    administrator: dict[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    closed = {"USE_REDIS": "false", "AUTH_REQUIRED": "true", "JWT_SECRET": CLOSED["JWT_SECRET"]}
    with running("user", closed | administrator):
        pass
    assert ("ADMIN_EMAIL is empty" in capsys.readouterr().err) is not bool(administrator)


def test_text_is_for_people(capsys: pytest.CaptureFixture[str]) -> None:
    with running("product", {"USE_REDIS": "false"}) as products:
        products.get("/products/1", headers={"X-Request-ID": "mine"})
    logged = capsys.readouterr().err
    moment = r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3}"
    assert re.search(rf"(?m)^{moment} INFO    GET /products/1 404 in \d+\.\d ms \[mine\]$", logged)
    assert re.search(rf"(?m)^{moment} WARNING AUTH_REQUIRED is false: .* \[-\]$", logged)
