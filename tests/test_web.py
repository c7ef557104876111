"""What holds for all three services: health, docs, request ids, limits, errors, CORS."""

import asyncio
import json
import re
import socket
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.testclient import TestClient
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from shopsphere import __version__
from shopsphere.layers import RequestLayer
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
from tests.servers import RedisServer, Service, wait_until

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


# Docs and OpenAPI


def test_every_operation_says_what_it_is_for_and_all_that_it_can_answer(service: str) -> None:
    document = openapi_of(service)
    text = json.dumps(document)
    assert "ValidationError" not in text
    assert all(resolve(found, document) for found in re.findall(r'"\$ref": "([^"]+)"', text))
    sections: list[str] = []
    for path, operations in document["paths"].items():
        for operation in operations.values():
            assert operation["summary"], path
            assert operation["description"], path
            sections += operation["tags"]
            assert "413" in operation["responses"], path
            assert "400" in operation["responses"] or "requestBody" not in operation, path
            for status, response in operation["responses"].items():
                for content in response.get("content", {}).values():
                    for code, shown in examples(status, content, document):
                        assert code is None or shown["code"] == code, path
                        assert complaints(shown, content["schema"], document) == [], path
    in_order = list(dict.fromkeys(sections))
    assert [tag["name"] for tag in document["tags"]] == in_order
    assert all(tag["description"].endswith(".") for tag in document["tags"])


def examples(status: str, content: Any, document: dict[str, Any]) -> list[tuple[str | None, Any]]:
    """Return what is shown of an answer: of an error by its code, and at least one."""
    if status >= "400":
        assert content["examples"]
        return [(code, example["value"]) for code, example in content["examples"].items()]
    shown = content.get("example") or sample(content["schema"], document)
    assert shown
    return [(None, shown)]


@pytest.mark.parametrize("path", ["/docs", "/redoc"])
def test_the_docs_need_no_internet(client: CheckedClient, path: str) -> None:
    page = client.get(path)
    assert page.status_code == 200
    assert not re.search(r"""(src|href|url)\s*[=:(]\s*["']?(https?:)?//""", page.text)
    assets = re.findall(r"""(?:src|href)="([^"]+)""", page.text)
    assert any(asset.endswith(".js") for asset in assets)
    with TestClient(client.app) as plain:  # without the checks, which are for the API
        assert all(plain.get(asset).status_code == 200 for asset in assets)


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


# Request ids


@pytest.mark.parametrize("given", [b"a", b"x" * 128, b"~!@#$%^&*()_+{}|:<>?", b"two words"])
def test_a_good_request_id_is_answered(given: bytes) -> None:
    with running("product", MEMORY) as products:
        answer = products.get("/", headers={b"X-Request-ID": given})
    assert answer.headers["X-Request-ID"] == given.decode()


@pytest.mark.parametrize("given", [b"", b" ", b"x" * 129, b"\xc3\xa9", b"a\x00b", b"a\tb", b"\x7f"])
def test_any_other_request_id_is_replaced(given: bytes) -> None:
    with running("product", MEMORY) as products:
        answers = [products.get("/", headers={b"X-Request-ID": given}) for _ in range(2)]
    ids = {answer.headers["X-Request-ID"] for answer in answers}
    assert [bool(re.fullmatch("[0-9a-f]{26}", each)) for each in ids] == [True, True]


# The body limit


@pytest.mark.parametrize("is_chunked", [False, True])
def test_a_body_of_64_kib_is_read_and_no_more(products: Service, is_chunked: bool) -> None:
    body = json.dumps({"name": "Lamp", "price": 1, "quantity": 1}).encode()
    for size, status in ((LIMIT, 201), (LIMIT + 1, 413), (20_000_000, 413)):
        whole = body.ljust(size)
        parts = (whole[start : start + 100_000] for start in range(0, size, 100_000))
        answer = products.http.post(
            f"{products.url}/products",
            parts if is_chunked else whole,
            headers={"Content-Type": "application/json"},
        )
        assert answer.status_code == status
        check_answer("product", "POST", "/products", answer)
    assert products.get("/").ok


# What is not there


def test_an_unknown_path_or_a_slash_too_many_is_404(client: CheckedClient, service: str) -> None:
    unknown = ["nowhere", "nowhere//x", "docs/x", "static-offline-docs/%00", "..%2f", "%ff"]
    known = [*openapi_of(service)["paths"], "/docs", "/redoc", "/openapi.json"]
    for path in [f"/{each}" for each in unknown] + [f"{each}/" for each in known if each != "/"]:
        answer = client.get(path)
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
    line = f'"message": "HEAD {path.partition("?")[0]} {status} in '
    wait_until(lambda: line in products.log.read_text())


# The last handler, the time limit, and what a developer adds


def app_with_routes() -> FastAPI:
    """Return a service to which routes were added that fail, hang, or take their time."""
    app = BUILD["product"](settings_of(MEMORY, order_timeout=0.05))

    @app.get("/fails")
    async def fails() -> None:
        raise RuntimeError("my secret")

    @app.get("/hangs")
    async def hangs() -> None:
        await asyncio.Event().wait()

    @app.get("/takes-its-time")
    async def takes_its_time(request: Request) -> StreamingResponse:
        async def parts() -> AsyncIterator[bytes]:
            yield b"begun, "
            is_late = asyncio.Event()
            deadline = request.scope["shopsphere.deadline"].at
            asyncio.get_running_loop().call_at(deadline + 0.05, is_late.set)
            await is_late.wait()
            yield b"ended"

        return StreamingResponse(parts())

    return app


@pytest.mark.parametrize(
    ("path", "expected"),
    [("/fails", (500, "internal_error")), ("/hangs", (503, "request_timeout"))],
)
def test_what_nobody_foresaw_or_takes_too_long_is_an_error_in_our_shape(
    capsys: pytest.CaptureFixture[str], path: str, expected: tuple[int, str]
) -> None:
    headers = {"X-Request-ID": "unlucky", "Origin": "http://shop.example"}
    with TestClient(app_with_routes()) as client:
        answer = client.get(path, headers=headers)
        assert (answer.status_code, answer.json()["code"]) == expected
        check_error(answer, answer.text)
        assert "secret" not in answer.text
        assert answer.headers["X-Request-ID"] == "unlucky"
        assert answer.headers["Access-Control-Allow-Origin"] == "*"
        assert client.get("/").status_code == 200
        assert f'route="{path}",status="{expected[0]}"' in client.get("/metrics").text
    logged = capsys.readouterr().err
    assert ("RuntimeError: my secret" in logged) == (expected[0] == 500)
    assert ("unexpected error [unlucky]" in logged) == (expected[0] == 500)


def test_an_answer_that_has_begun_may_take_its_time() -> None:
    with TestClient(app_with_routes()) as client:
        assert client.get("/takes-its-time").text == "begun, ended"


@pytest.mark.anyio
async def test_an_answer_that_breaks_off_is_not_ended_as_if_it_were_whole() -> None:
    sent: list[Message] = []

    async def app(_: Scope, __: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        raise RuntimeError

    async def send(message: Message) -> None:
        sent.append(message)

    scope = {"type": "http", "headers": [], "method": "GET", "raw_path": b"/"}
    state = BUILD["product"](settings_of(MEMORY)).state
    await RequestLayer(app, state)(scope, Request(scope).receive, send)
    assert [message["type"] for message in sent] == ["http.response.start"]


def test_middleware_and_exception_handlers_can_be_added() -> None:
    app = BUILD["product"](settings_of(MEMORY))

    class Nonsense(Exception): ...

    @app.middleware("http")
    async def mark(request: Request, call_next: Any) -> Response:
        if "nonsense" in request.headers:
            return Response("from the middleware")
        response: Response = await call_next(request)
        response.headers["X-Marked"] = "yes"
        return response

    @app.get("/raises")
    async def raises() -> None:
        raise Nonsense

    app.add_exception_handler(Nonsense, lambda *_: Response("handled", 418))
    build = app.build_middleware_stack
    layers: list[ASGIApp] = []

    def instrumented() -> ASGIApp:
        layers.append(build())
        return layers[0]

    app.build_middleware_stack = instrumented  # type: ignore[method-assign]  # as OpenTelemetry does
    with TestClient(app) as client:
        raised, health = client.get("/raises"), client.get("/")
        assert (raised.status_code, raised.text) == (418, "handled")
        assert raised.headers["X-Marked"] == health.headers["X-Marked"] == "yes"
        assert client.get("/", headers={"Nonsense": "1"}).text == "from the middleware"
    assert len(layers) == 1


# CORS


@pytest.mark.parametrize(
    ("origin", "status", "allowed"),
    [("https://other.example", 200, "https://other.example"), ("https://evil.example", 400, None)],
)
def test_only_the_origins_in_the_settings_may_read_when_there_are_some(
    service: str, origin: str, status: int, allowed: str | None
) -> None:
    origins = "https://shop.example, https://other.example"
    app = BUILD[service](settings_of(MEMORY, cors_origins=origins))
    asks = {
        "Origin": origin,
        "Access-Control-Request-Method": "PATCH",
        "Access-Control-Request-Headers": "authorization,idempotency-key",
    }
    with TestClient(app) as client:
        asked, read = client.options("/", headers=asks), client.get("/", headers={"Origin": origin})
        for answer in (asked, read, client.get("/"), client.get("/nowhere")):
            assert "Origin" in answer.headers["Vary"]  # a cache keeps them apart
    assert (asked.status_code, read.status_code) == (status, 200)
    for answer in (asked, read):
        assert answer.headers.get("Access-Control-Allow-Origin") == allowed
        assert "Access-Control-Allow-Credentials" not in answer.headers
        assert answer.headers["X-Request-ID"]
    if allowed:
        assert "PATCH" in asked.headers["Access-Control-Allow-Methods"]
        assert "idempotency-key" in asked.headers["Access-Control-Allow-Headers"]
    else:
        check_error(asked, asked.text)


def test_any_origin_may_read_any_answer_but_never_with_credentials(client: CheckedClient) -> None:
    headers = {"Origin": "http://shop.example", "X-Request-ID": "mine"}
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
        assert answer.headers["X-Request-ID"] == "mine"
        exposed = answer.headers["Access-Control-Expose-Headers"].split(", ")
        assert {"Link", "Location", "Retry-After", "X-Request-ID"} <= set(exposed)
