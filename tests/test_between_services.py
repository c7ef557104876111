"""Orders across machines: certificates of one's own, clocks that differ, ids in every log line."""

import re
import shutil
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

import test_connection
from tests.apps import settings_of
from tests.redis_groups import new_certificate
from tests.servers import Service, faketime_library, wait_until

LAMP = {"name": "Lamp", "price": 9.99, "quantity": 10}


@pytest.fixture
def services() -> Iterator[ExitStack]:
    with ExitStack() as running:
        yield running


def started(services: ExitStack, service: Service, *options: str) -> Service:
    services.callback(service.stop)
    return service.start(*options)


def order_of(orders: Service, products: Service) -> int:
    """Order a lamp; return the status."""
    pk = products.post("/products", LAMP).json()["pk"]
    return orders.post("/order", {"product_id": pk, "quantity": 1}).status_code


@pytest.mark.skipif(not shutil.which("openssl"), reason="TLS BETWEEN SERVICES IS NOT TESTED")
def test_services_trust_each_other_by_a_certificate_of_their_own(
    services: ExitStack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    certificate = str(new_certificate(tmp_path, "shop"))
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", certificate)  # for the test's own requests
    monkeypatch.setenv("USE_REDIS", "false")
    products = Service("product", tmp_path / "product.log")
    products.url = products.url.replace("http:", "https:")
    options = "--ssl-certfile", certificate, "--ssl-keyfile", f"{certificate}.key"
    started(services, products, *options)
    services.callback(products.http.close)  # uvicorn would wait half a minute for its TLS to end
    seen_at = {"PRODUCT_SERVICE_URL": products.url, "PRODUCT_SERVICE_TIMEOUT": "1"}
    trusting = Service("order", tmp_path / "order.log", 0, **seen_at, CA_FILE=certificate)
    distrusting = Service("order", tmp_path / "other.log", 0, **seen_at)
    for orders, status in ((trusting, 201), (distrusting, 503)):
        assert order_of(started(services, orders), products) == status
    assert "CERTIFICATE_VERIFY_FAILED" in distrusting.log.read_text()
    assert "CA_FILE" in distrusting.log.read_text()
    for ca_file, state in ((certificate, "ok"), ("", "failed")):
        settings = settings_of({}, product_service_url=products.url, ca_file=ca_file)
        line = test_connection.look_at("product", settings)[0]
        assert (line.state, "TLS failed, check CA_FILE" in line.text) == (state, state == "failed")


@pytest.mark.parametrize("seconds", [100, -100])
def test_clocks_that_differ_are_named_in_the_log(
    services: ExitStack, tmp_path: Path, seconds: int
) -> None:
    in_memory = {"USE_REDIS": "false"}
    clock = {
        "LD_PRELOAD": faketime_library(),
        "FAKETIME": f"{seconds:+}",
        "DONT_FAKE_MONOTONIC": "1",
    }
    products = Service("product", tmp_path / "product.log", 0, **in_memory, **clock)
    started(services, products)
    urls = {"PRODUCT_SERVICE_URL": products.url}
    orders = started(services, Service("order", tmp_path / "order.log", 0, **in_memory, **urls))
    assert order_of(orders, products) == 503
    difference = (
        f"rejects our token: its clock is [{'+' if seconds > 0 else '-'}](9[789]|10[012]) s"
    )
    assert re.search(difference, orders.log.read_text())
    assert ("issued in the future" in products.log.read_text()) == (seconds < 0)


def test_what_urllib3_logs_of_a_call_has_the_id_of_its_request(
    services: ExitStack, tmp_path: Path
) -> None:
    from tests.test_order_routes import answer, misbehaving

    with misbehaving(answer("503 Away", b"", "no header at all")) as (url, _):
        settings = {"USE_REDIS": "false", "PRODUCT_SERVICE_URL": url}
        orders = started(services, Service("order", tmp_path / "order.log", 0, **settings))
        order = {"product_id": "01JDX4Q8Z6W9RVCNKE3M5T7PBA", "quantity": 1}
        orders.post("/order", order, headers={"X-Request-ID": "mine"})
        wait_until(lambda: "Failed to parse headers" in orders.log.read_text())
    lines = [line for line in orders.log.read_text().splitlines() if "Failed to parse" in line]
    assert {line.endswith("[mine]") for line in lines} == {True}
