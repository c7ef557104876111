"""What holds for all three services: health, docs, request ids, limits, errors, CORS."""

import asyncio
import json
import re
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI
from starlette.requests import Request
from starlette.testclient import TestClient
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from shopsphere import __version__
from shopsphere.layers import Limits
from tests.apps import (
    BUILD,
    CheckedClient,
    check_answer,
    check_error,
    complaints,
    openapi_of,
    resolve,
    running,
    settings_of,
)
from tests.servers import RedisServer, Service, free_port, wait_until

SERVICES = ["user", "product", "order"]
MEMORY = {"USE_REDIS": "false"}
LIMIT = 64 * 1024


@pytest.fixture(params=SERVICES)
def service(request: pytest.FixtureRequest) -> str:
    """Each of the three services in turn."""
    name: str = request.param
    return name


@pytest.fixture
def client(service: str) -> Iterator[CheckedClient]:
    """A client of each service in turn, in memory."""
    with running(service, MEMORY) as client:
        yield client


@pytest.fixture(scope="module")
def products(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """A product service under uvicorn, for what needs a real socket."""
    log = tmp_path_factory.mktemp("web") / "product.log"
    service = Service("product", log, LOG_FORMAT="json", USE_REDIS="false")
    try:
        yield service.start()
    finally:
        service.stop()


def talk(service: Service, sent: bytes) -> tuple[int, dict[str, str], bytes]:
    """Send bytes on a socket of its own; return status, headers (lower case) and body."""
    with socket.create_connection(("127.0.0.1", service.port), timeout=10) as connection:
        connection.sendall(sent)
        answer = b"".join(iter(lambda: connection.recv(65536), b""))
    head, _, body = answer.partition(b"\r\n\r\n")
    first, *lines = head.decode("latin-1").split("\r\n")
    headers = {name.lower(): value for name, value in (line.split(": ", 1) for line in lines)}
    return int(first.split()[1]), headers, body


def logged(service: Service, request_id: str) -> dict[str, Any]:
    """Return the line of the log of the one request with this id, when it is there."""
    wait_until(lambda: request_id in service.log.read_text())
    [line] = [line for line in service.log.read_text().splitlines() if request_id in line]
    entry: dict[str, Any] = json.loads(line)
    return entry


# Health


def test_health_tells_service_storage_and_version(
    service: str, storage: str, storage_environment: dict[str, str]
) -> None:
    with running(service, storage_environment) as client:
        expected = {
            "service": service,
            "status": "ok",
            "storage": storage,
            "fallback": False,
            "version": __version__,
        }
        assert client.get("/").json() == expected
        ready = client.get("/ready")
        assert (ready.status_code, ready.json()) == (200, expected)


def test_health_admits_that_memory_is_a_fallback(service: str) -> None:
    environment = {"USE_REDIS": "true", "REDIS_PORT": str(free_port())}
    with running(service, environment) as client:
        health = client.get("/").json()
        assert (health["storage"], health["fallback"]) == ("memory", True)
        assert client.get("/ready").status_code == 200


def test_the_order_service_is_ready_while_the_product_service_is_away() -> None:
    address = f"http://127.0.0.1:{free_port()}"
    with running("order", MEMORY, product_service_url=address) as orders:
        assert orders.get("/ready").status_code == 200


def test_a_service_is_alive_but_not_ready_while_redis_is_away(service: str, tmp_path: Path) -> None:
    redis_server = RedisServer(tmp_path)
    environment = {"USE_REDIS": "required", "REDIS_PORT": str(redis_server.port)}
    try:
        with running(service, environment) as client:
            assert client.get("/ready").status_code == 200
            redis_server.stop()
            away = client.get("/ready")
            assert (away.status_code, away.json()["code"]) == (503, "storage_unavailable")
            assert client.get("/").json()["storage"] == "redis"
            redis_server.start()
            wait_until(lambda: client.get("/ready").status_code == 200)
    finally:
        redis_server.client.close()
        redis_server.stop()


# Metrics


def test_metrics_count_requests_by_route_and_not_by_path() -> None:
    with running("product", MEMORY) as products:
        for number in range(3):
            products.get(f"/products/{number}")
            products.get(f"/nowhere/{number}")
            products.put(f"/products/{number}")
        metrics = products.get("/metrics")
    assert metrics.headers["Content-Type"].startswith("text/plain; version=")
    for method, route, status in (
        ("GET", "/products/{pk}", 404),
        ("GET", "unmatched", 404),
        ("PUT", "/products/{pk}", 405),
    ):
        line = f'http_requests_total{{method="{method}",route="{route}",status="{status}"}} 3.0'
        assert line in metrics.text.splitlines()
    assert "nowhere" not in metrics.text
    assert "http_request_duration_seconds_bucket" in metrics.text


def test_a_made_up_method_makes_no_metric_of_its_own() -> None:
    with running("product", MEMORY) as products:
        products.request("BREW", "/products")
        assert "BREW" not in products.get("/metrics").text


# Docs and OpenAPI


@pytest.mark.parametrize("path", ["/docs", "/redoc"])
def test_the_docs_need_no_internet(client: CheckedClient, path: str) -> None:
    page = client.get(path)
    assert page.status_code == 200
    assert not re.search(r"""(src|href|url)\s*[=:(]\s*["']?(https?:)?//""", page.text)
    assets = re.findall(r"""(?:src|href)="([^"]+)""", page.text)
    assert any(asset.endswith(".js") for asset in assets)
    with TestClient(client.app) as plain:  # without the checks, which are for the API
        assert all(plain.get(asset).status_code == 200 for asset in assets)


def test_openapi_is_complete_and_knows_no_422(client: CheckedClient, service: str) -> None:
    document = client.get("/openapi.json").json()
    text = json.dumps(document)
    assert "ValidationError" not in text
    for reference in set(re.findall(r'"\$ref": "([^"]+)"', text)):
        assert resolve(reference, document)
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            place = f"{method} {path}"
            assert operation["summary"], place
            assert operation["description"], place
            assert "413" in operation["responses"], place
            if "requestBody" in operation:
                assert "400" in operation["responses"], place


def test_every_documented_error_has_the_error_model_and_true_examples(service: str) -> None:
    document = openapi_of(service)
    for path, operations in document["paths"].items():
        for operation in operations.values():
            for status, response in operation["responses"].items():
                if status < "400":
                    continue
                content = response["content"]["application/json"]
                assert content["examples"], (path, status)
                for code, example in content["examples"].items():
                    assert example["value"]["code"] == code
                    assert complaints(example["value"], content["schema"], document) == []


def test_every_route_has_a_summary_for_a_person_in_a_section_that_is_explained(
    service: str,
) -> None:
    document = openapi_of(service)
    sections: list[str] = []
    for operations in document["paths"].values():
        for operation in operations.values():
            of_the_function = operation["summary"].lower().replace(" ", "_")
            assert not operation["operationId"].startswith(of_the_function), operation["summary"]
            sections += operation["tags"]
    in_order = list(dict.fromkeys(sections))
    assert [tag["name"] for tag in document["tags"]] == in_order
    assert in_order[-1] == "operations"
    assert all(tag["description"].endswith(".") for tag in document["tags"])


def test_every_answer_that_is_no_error_has_a_true_example(service: str) -> None:
    document = openapi_of(service)
    for path, operations in document["paths"].items():
        for operation in operations.values():
            for status, answer in operation["responses"].items():
                for media_type, content in answer.get("content", {}).items():
                    if status < "400":
                        shown = content.get("example") or sample(content["schema"], document)
                        place = f"{path} {status} {media_type}: {shown}"
                        assert shown, place
                        assert complaints(shown, content["schema"], document) == [], place


def sample(schema: dict[str, Any], document: dict[str, Any]) -> object:
    """Return what Swagger UI shows for a schema; fail where it would have to make something up."""
    if "examples" in schema:
        return schema["examples"][0]
    if "$ref" in schema:
        return sample(resolve(schema["$ref"], document), document)
    if schema.get("type") == "array":
        return [sample(schema["items"], document)]
    if "properties" in schema:
        return {name: sample(each, document) for name, each in schema["properties"].items()}
    return schema["const"]


def test_documented_request_examples_are_accepted() -> None:
    with running("product", MEMORY) as products, running("user", MEMORY) as users:
        product = products.post("/products", json=example_of("product", "ProductCreate")).json()
        path = f"/products/{product['pk']}"
        assert products.patch(path, json=example_of("product", "ProductUpdate")).is_success
        assert products.post(f"{path}/stock", json=example_of("product", "StockChange")).is_success
        reservation = f"{path}/reservations/{product['pk']}"
        assert products.put(reservation, json=example_of("product", "ReservationCreate")).is_success
        assert users.post("/register", json=example_of("user", "UserCreate")).is_success
        assert users.post("/login", json=example_of("user", "Login")).is_success


def example_of(service: str, schema: str) -> dict[str, object]:
    """Return the body that the documentation shows for a schema."""
    properties = resolve(f"#/components/schemas/{schema}", openapi_of(service))["properties"]
    return {name: field["examples"][0] for name, field in properties.items()}


# Request ids


@pytest.mark.parametrize("given", ["a", "x" * 128, "~!@#$%^&*()_+{}|:<>?", "two words", "01J.8-Z"])
def test_a_good_request_id_is_answered(client: CheckedClient, given: str) -> None:
    assert client.get("/", headers={"X-Request-ID": given}).headers["X-Request-ID"] == given


@pytest.mark.parametrize("given", [b"", b" ", b"x" * 129, b"\xc3\xa9", b"a\x00b", b"a\tb", b"\x7f"])
def test_any_other_request_id_is_replaced(client: CheckedClient, given: bytes) -> None:
    answered = client.get("/", headers={b"X-Request-ID": given}).headers["X-Request-ID"]
    assert re.fullmatch("[0-9a-f]{26}", answered)


def test_each_request_without_an_id_gets_one_of_its_own(client: CheckedClient) -> None:
    ids = {client.get("/").headers["X-Request-ID"] for _ in range(10)}
    assert len(ids) == 10


def test_errors_carry_the_request_id_too(client: CheckedClient) -> None:
    headers = {"X-Request-ID": "mine"}
    answers = [
        client.get("/nowhere", headers=headers),
        client.delete("/", headers=headers),
        client.request("GET", "/", content=b"a" * (LIMIT + 1), headers=headers),
    ]
    assert [answer.status_code for answer in answers] == [404, 405, 413]
    assert {answer.headers["X-Request-ID"] for answer in answers} == {"mine"}


def test_each_request_is_a_line_of_json_in_the_log_with_its_id(products: Service) -> None:
    products.get("/products/%0Anothing?secret=1", headers={"X-Request-ID": "logged-one"})
    entry = logged(products, "logged-one")
    assert entry["request_id"] == "logged-one"
    assert entry["service"] == "product"
    assert entry["level"] == "INFO"
    assert entry["message"].startswith("GET /products/%0Anothing 404 in ")


# The body limit


def test_a_body_of_64_kib_is_read_and_one_byte_more_is_not() -> None:
    with running("product", MEMORY) as products:
        body = json.dumps({"name": "Lamp", "price": 1, "quantity": 1})
        assert products.send_text("POST", "/products", body.ljust(LIMIT)).status_code == 201
        refused = products.send_text("POST", "/products", body.ljust(LIMIT + 1))
        assert (refused.status_code, refused.json()["code"]) == (413, "body_too_large")
        assert len(products.get("/products").json()) == 1


def test_a_chunked_body_has_the_same_limit(products: Service) -> None:
    body = json.dumps({"name": "Lamp", "price": 1, "quantity": 1}).encode()
    for size, status in ((LIMIT, 201), (LIMIT + 1, 413), (5_000_000, 413)):
        padded = body.ljust(size)
        parts = (padded[start : start + 10_000] for start in range(0, size, 10_000))
        answer = products.http.post(
            f"{products.url}/products", parts, headers={"Content-Type": "application/json"}
        )
        assert answer.status_code == status
        check_answer("product", "POST", "/products", answer)
    assert products.get("/").ok


def test_a_body_far_too_large_is_refused_and_the_connection_goes_on(products: Service) -> None:
    answer = products.post("/products", data=b"a" * 20_000_000)
    check_answer("product", "POST", "/products", answer)
    assert answer.status_code == 413
    assert products.get("/").ok


# What is not there


def test_an_unknown_path_is_404_in_our_shape(client: CheckedClient) -> None:
    for path in (
        "/nowhere",
        "/nowhere//x",
        "/docs/x",
        "/static-offline-docs/%00",
        "/..%2f",
        "/%ff",
    ):
        answer = client.get(path)
        assert (answer.status_code, answer.json()["code"]) == (404, "not_found")


def test_a_slash_too_many_is_404_and_no_redirect(client: CheckedClient, service: str) -> None:
    paths = [*openapi_of(service)["paths"], "/docs", "/redoc", "/openapi.json"]
    for path in paths:
        if path != "/":
            answer = client.get(path + "/")
            assert (answer.status_code, answer.json()["code"]) == (404, "not_found"), path


def test_another_method_is_405_and_names_those_there_are(
    client: CheckedClient, service: str
) -> None:
    for path, operations in openapi_of(service)["paths"].items():
        answer = client.request("TRACE", path)
        assert (answer.status_code, answer.json()["code"]) == (405, "method_not_allowed"), path
        with_head = {*operations, "head"} if "get" in operations else operations
        assert answer.headers["Allow"] == ", ".join(sorted(with_head)).upper(), path


@pytest.mark.parametrize(
    "path", ["/docs", "/redoc", "/openapi.json", "/static-offline-docs/swagger-ui.css"]
)
def test_another_method_on_the_docs_is_405_too(path: str) -> None:
    with running("product", MEMORY) as products:
        answer = products.put(path)
    assert (answer.status_code, answer.json()["code"]) == (405, "method_not_allowed")
    assert "GET" in answer.headers["Allow"]


@pytest.mark.parametrize(
    "path",
    ["/", "/ready", "/metrics", "/docs", "/products", "/products?limit=1", "/products/x", "/none"],
)
def test_head_is_answered_as_get_is_without_the_body(products: Service, path: str) -> None:
    products.post("/products", {"name": "Laptop", "price": 1, "quantity": 1})
    request = f"{path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode()
    status, headers, body = talk(products, b"HEAD " + request)
    as_get, headers_of_get, whole = talk(products, b"GET " + request)
    assert (status, body) == (as_get, b"")
    assert whole
    same = {*headers_of_get} - {"date", "x-request-id", "transfer-encoding"}
    if path == "/metrics":  # which also counts this HEAD
        same -= {"content-length"}
    assert {name: headers.get(name) for name in same} == {n: headers_of_get[n] for n in same}
    entry = logged(products, headers["x-request-id"])
    assert (entry["method"], entry["status"]) == ("HEAD", status)


def test_head_is_405_where_there_is_no_get(products: Service) -> None:
    status, headers, body = talk(
        products,
        b"HEAD /products/x/reservations/y/ship HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
    )
    assert (status, headers["allow"], body) == (405, "POST", b"")


def test_a_websocket_finds_nothing_here(products: Service) -> None:
    status, _, body = talk(
        products,
        b"GET / HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
        b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n",
    )
    assert (status, json.loads(body)["code"]) == (404, "not_found")


# Bytes that no well-meaning client sends


@pytest.mark.parametrize(
    "head",
    [
        b"GET /products/\xff HTTP/1.1",
        b"GET /products?limit=1&x=\xff HTTP/1.1",
        b"BREW / HTTP/1.1",
        b"GET / HTTP/9.9",
        b"POST /products HTTP/1.1\r\nContent-Length: x",
        b"POST /products HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 2",
        b"POST /products HTTP/1.1\r\nContent-Length: " + b"9" * 5000,
        b"POST /products HTTP/1.1\r\nContent-Length: 1\r\nTransfer-Encoding: chunked",
    ],
)
def test_what_is_not_http_is_400_and_the_next_request_works(products: Service, head: bytes) -> None:
    status, _, body = talk(products, head + b"\r\nHost: x\r\nConnection: close\r\n\r\n")
    assert status == 400
    assert b"Traceback" not in body
    assert products.get("/").ok


@pytest.mark.parametrize("host", [b"[", b'a"><b>', b"\xff", b"a b", b"x:99999"])
def test_a_strange_host_header_does_not_break_the_link(products: Service, host: bytes) -> None:
    for name in "ab":
        products.post("/products", {"name": name, "price": 1, "quantity": 1})
    request = b"GET /products?limit=1 HTTP/1.1\r\nHost: %s\r\nConnection: close\r\n\r\n" % host
    status, headers, _ = talk(products, request)
    if status != 400:
        assert status == 200
        assert re.fullmatch(r'<http://[^<>"]+>; rel="next"', headers["link"])


def test_repeated_headers_are_no_error_of_ours(products: Service) -> None:
    status, headers, _ = talk(
        products,
        b"GET / HTTP/1.1\r\nHost: x\r\nX-Request-ID: one\r\nX-Request-ID: two\r\n"
        b"Accept: a\r\nAccept: b\r\nConnection: close\r\n\r\n",
    )
    assert (status, headers["x-request-id"]) == (200, "two")


# The last handler and the time limit


def with_route(app: FastAPI, path: str, error: Exception | None) -> FastAPI:
    """Add a route that fails, or one that never answers when there is no error to raise."""

    @app.get(path)
    async def fails() -> None:
        if error:
            raise error
        await asyncio.Event().wait()

    return app


def test_what_nobody_foresaw_is_500_in_our_shape_and_a_traceback_in_the_log(
    service: str, capsys: pytest.CaptureFixture[str]
) -> None:
    app = with_route(BUILD[service](settings_of(MEMORY)), "/breaks", RuntimeError("my secret"))
    with TestClient(app) as client:
        headers = {"X-Request-ID": "unlucky", "Origin": "http://shop.example"}
        answer = client.get("/breaks", headers=headers)
        assert (answer.status_code, answer.json()["code"]) == (500, "internal_error")
        check_error(answer, answer.text)
        assert "secret" not in answer.text
        assert answer.headers["X-Request-ID"] == "unlucky"
        assert answer.headers["Access-Control-Allow-Origin"] == "*"
        assert client.get("/").status_code == 200
        assert 'route="/breaks",status="500"' in client.get("/metrics").text
    logged = capsys.readouterr().err
    assert "RuntimeError: my secret" in logged
    assert "unexpected error [unlucky]" in logged


def test_a_request_that_takes_too_long_is_503(service: str) -> None:
    app = BUILD[service](settings_of(MEMORY, order_timeout=0.05))
    with TestClient(with_route(app, "/hangs", None)) as client:
        answer = client.get("/hangs", headers={"Origin": "http://shop.example"})
        assert (answer.status_code, answer.json()["code"]) == (503, "request_timeout")
        check_error(answer, answer.text)
        assert answer.headers["Access-Control-Allow-Origin"] == "*"


async def sent_by(app: ASGIApp, timeout_seconds: float) -> list[Message]:
    """Return what the app sends from within its limits to a request without a body."""
    sent: list[Message] = []

    async def send(message: Message) -> None:
        sent.append(message)

    scope = {"type": "http", "method": "GET", "path": "/", "headers": []}
    await Limits(app, timeout_seconds)(scope, Request(scope).receive, send)
    return sent


START: Message = {"type": "http.response.start", "status": 200, "headers": []}
BODY: Message = {"type": "http.response.body", "body": b"[]"}


@pytest.mark.anyio
async def test_an_answer_that_has_begun_may_take_its_time() -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send(START)
        is_late = asyncio.Event()
        asyncio.get_running_loop().call_at(scope["shopsphere.deadline"].at + 0.01, is_late.set)
        await is_late.wait()
        await send(BODY)

    assert await sent_by(app, 0.01) == [START, BODY]


@pytest.mark.anyio
async def test_an_answer_that_breaks_off_is_not_ended_as_if_it_were_whole() -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send(START)
        raise RuntimeError

    assert await sent_by(app, 10) == [START]


# CORS


def test_any_origin_may_read_any_answer_but_never_with_credentials(client: CheckedClient) -> None:
    headers = {"Origin": "http://shop.example"}
    answers = [
        client.get("/", headers=headers),
        client.get("/nowhere", headers=headers),
        client.post("/", headers=headers),
        client.post("/", content=b"a" * (LIMIT + 1), headers=headers),
    ]
    assert [answer.status_code for answer in answers] == [200, 404, 405, 413]
    for answer in answers:
        assert answer.headers["Access-Control-Allow-Origin"] == "*"
        assert "Access-Control-Allow-Credentials" not in answer.headers
        exposed = answer.headers["Access-Control-Expose-Headers"].split(", ")
        assert {"Link", "Location", "Retry-After", "X-Request-ID"} <= set(exposed)


def test_a_browser_may_ask_first(client: CheckedClient) -> None:
    with TestClient(client.app) as plain:
        answer = plain.options(
            "/",
            headers={
                "Origin": "http://shop.example",
                "Access-Control-Request-Method": "PATCH",
                "Access-Control-Request-Headers": "authorization,idempotency-key",
            },
        )
    assert answer.status_code == 200
    assert answer.headers["Access-Control-Allow-Origin"] == "*"
    assert "PATCH" in answer.headers["Access-Control-Allow-Methods"]
    assert "idempotency-key" in answer.headers["Access-Control-Allow-Headers"]
    assert "Access-Control-Allow-Credentials" not in answer.headers


def test_only_the_origins_in_the_settings_may_read_when_there_are_some(service: str) -> None:
    origins = "https://shop.example, https://other.example"
    with running(service, MEMORY, cors_origins=origins) as client:
        known = client.get("/", headers={"Origin": "https://other.example"})
        assert known.headers["Access-Control-Allow-Origin"] == "https://other.example"
        unknown = client.get("/", headers={"Origin": "https://evil.example"})
        assert "Access-Control-Allow-Origin" not in unknown.headers
        assert unknown.status_code == 200
        for answer in (known, unknown, client.get("/"), client.get("/nowhere")):
            assert answer.headers["Vary"] == "Origin"  # a cache keeps them apart


def test_a_foreign_browser_that_asks_first_is_refused_in_our_shape(service: str) -> None:
    app = BUILD[service](settings_of(MEMORY, cors_origins="https://shop.example"))
    with TestClient(app) as client:
        headers = {"Origin": "https://evil.example", "Access-Control-Request-Method": "POST"}
        answer = client.options("/", headers=headers)
    assert (answer.status_code, answer.json()["code"]) == (400, "invalid_request")
    check_error(answer, answer.text)
    assert "Access-Control-Allow-Origin" not in answer.headers
    assert "Origin" in answer.headers["Vary"]
    assert answer.headers["X-Request-ID"]
