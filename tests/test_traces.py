"""Traces: an order is one trace through both services, sent as OTLP over HTTP to a collector."""

import gzip
import signal
import socket
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import NamedTuple

import opentelemetry.instrumentation.auto_instrumentation as instrumented
import pytest
import requests
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from tests.servers import wait_until
from tests.shop import Shop

SERVER = 2
"""The kind of a span of a server, in OTLP."""
PUT = "PUT /products/{pk}/reservations/{order_pk}"


class Span(NamedTuple):
    service: str
    name: str
    pk: str
    parent: str
    trace: str


class Collector(ThreadingHTTPServer):
    """Keeps the spans of servers that it receives."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Receiver)
        self.spans: list[Span] = []
        self.variables = {"OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{self.server_port}"}

    def named(self, name: str, count: int = 1) -> list[Span]:
        """Return the spans of this name once there are so many."""
        wait_until(lambda: sum(span.name == name for span in self.spans) >= count, why=name)
        return [span for span in self.spans if span.name == name]


class _Receiver(BaseHTTPRequestHandler):
    server: Collector

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self.headers["Content-Encoding"] == "gzip":
            body = gzip.decompress(body)
        for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
            names = {each.key: each.value.string_value for each in resource.resource.attributes}
            for span in (each for scope in resource.scope_spans for each in scope.spans):
                pks = span.span_id.hex(), span.parent_span_id.hex(), span.trace_id.hex()
                if span.kind == SERVER:
                    self.server.spans.append(Span(names["service.name"], span.name, *pks))
        self.send_response(200)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture
def collector() -> Iterator[Collector]:
    with Collector() as collector:
        threading.Thread(target=collector.serve_forever, daemon=True).start()
        yield collector
        collector.shutdown()


@pytest.fixture
def cleanup(monkeypatch: pytest.MonkeyPatch) -> Iterator[ExitStack]:
    monkeypatch.delenv("OTEL_SERVICE_NAME", raising=False)  # of apps in this process
    with ExitStack() as stack:
        yield stack


def started(cleanup: ExitStack, folder: Path, **variables: str) -> Shop:
    soon = {"USE_REDIS": "false", "OTEL_BSP_SCHEDULE_DELAY": "50", "LOG_FORMAT": "json"}
    shop = Shop(folder, {**soon, **variables})
    cleanup.callback(shop.stop)
    return shop.start()


AUTOMATIC = {"FASTAPI_OTEL_AUTO_CONFIGURE": "true"}
INSTRUMENTED = {  # what the command opentelemetry-instrument sets
    "PYTHONPATH": instrumented.__path__[0],
    "OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf",
    "OTEL_METRICS_EXPORTER": "none",
    "OTEL_SERVICE_NAME": "shop",
}


@pytest.mark.parametrize("variables", [AUTOMATIC, INSTRUMENTED])
def test_an_order_is_one_trace_through_both_services(
    collector: Collector, cleanup: ExitStack, tmp_path: Path, variables: dict[str, str]
) -> None:
    shop = started(cleanup, tmp_path, **variables, **collector.variables)
    products = [shop.new_product(5), shop.new_product(5)]
    for path in ("/", "/ready", "/metrics"):
        for service in shop.services:
            assert service.get(path).ok
    assert shop.place_basket(dict.fromkeys(products, 1)).status == 201
    reserved = collector.named(PUT, 2)
    [placed] = collector.named("POST /order")
    assert (len(reserved), placed.parent) == (2, "")
    assert {span.trace for span in reserved} == {placed.trace}
    for service in shop.services:  # what is left is sent when a service ends
        service.stop()
    names = sorted(span.name for span in collector.spans)
    assert names == ["POST /order", "POST /products", "POST /products", PUT, PUT]
    if variables is AUTOMATIC:
        assert {span.parent for span in reserved} == {placed.pk}
        assert {span.service for span in reserved} == {"shopsphere-product"}
        assert placed.service == "shopsphere-order"
    for service in shop.services:
        assert f'"trace_id": "{placed.trace}"' in service.log.read_text()


def test_nothing_is_sent_without_being_asked(
    collector: Collector, cleanup: ExitStack, tmp_path: Path
) -> None:
    shop = started(cleanup, tmp_path, **collector.variables)
    shop.placed(shop.new_product(1))
    shop.stop()
    assert not collector.spans
    assert "trace_id" not in shop.order.log.read_text()


def test_a_collector_that_does_not_respond_delays_nothing_and_is_logged_once_a_minute(
    cleanup: ExitStack, tmp_path: Path
) -> None:
    silent = cleanup.enter_context(socket.create_server(("127.0.0.1", 0), backlog=99))
    endpoint = f"http://127.0.0.1:{silent.getsockname()[1]}"
    # An order that waited for an export, which is given up after 2 s, would be a 503.
    variables = {"OTEL_EXPORTER_OTLP_ENDPOINT": endpoint, "ORDER_TIMEOUT": "1.5"}
    shop = started(cleanup, tmp_path, **AUTOMATIC, **variables)
    product = shop.new_product(1_000_000)

    def failures() -> int:
        return shop.product.log.read_text().count('"logger": "opentelemetry')

    def order_until_it_is_logged() -> bool:
        shop.placed(product)
        return bool(failures())

    wait_until(order_until_it_is_logged)
    with ThreadPoolExecutor(8) as readers:  # as many spans as can be waiting
        list(readers.map(lambda _: requests.get(f"{shop.product.url}/products"), range(2500)))
    shop.product.process.send_signal(signal.SIGTERM)
    shop.product.process.wait(6)
    assert failures() == 1
    assert "Traceback" not in shop.product.log.read_text()
