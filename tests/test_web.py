"""What holds for all three services: metrics, docs, request ids, limits, errors, CORS."""

import asyncio
import json
import re
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.testclient import TestClient
from starlette.types import Message, Receive, Scope, Send

from shopsphere.metrics import RequestMetrics
from shopsphere.web.layers import RequestLayer
from tests.apps import (
    BUILD,
    CheckedClient,
    check_error,
    complaints,
    openapi_of,
    refusal,
    running,
    settings_of,
)

MEMORY = {"USE_REDIS": "false"}
LIMIT = 64 * 1024


@pytest.fixture(params=BUILD)
def service(request: pytest.FixtureRequest) -> str:
    """Each of the three services in turn."""
    name: str = request.param
    return name


@pytest.fixture
def client(service: str) -> Iterator[CheckedClient]:
    """A client of each service in turn, in memory."""
    with running(service, MEMORY) as client:
        yield client


# Metrics


def test_metrics_count_requests_by_route_and_not_by_path() -> None:
    with running("product", MEMORY) as products:
        for number in range(3):
            products.get(f"/products/{number}")
            products.get(f"/nowhere/{number}")
            products.put(f"/products/{number}")
        metrics = products.get("/metrics")
    assert metrics.headers["Content-Type"].startswith("text/plain; version=")
    for labels in (
        'method="GET",route="/products/{pk}",status="404"',
        'method="GET",route="unmatched",status="404"',
        'method="PUT",route="/products/{pk}",status="405"',
    ):
        assert f"http_requests_total{{{labels}}} 3.0\n" in metrics.text
    assert "nowhere" not in metrics.text
    assert "http_request_duration_seconds_bucket" in metrics.text


# Docs and OpenAPI


def test_every_operation_says_what_it_is_for_and_shows_all_that_it_can_answer(
    service: str,
) -> None:
    document = openapi_of(service)
    tags = [tag["name"] for tag in document["tags"] if tag["description"].endswith(".")]
    operations = [each for path in document["paths"].values() for each in path.values()]
    assert tags == list(dict.fromkeys(tag for each in operations for tag in each["tags"]))
    assert document["servers"] == [{"url": "/"}]
    for operation in operations:
        assert operation["summary"]
        assert operation["description"]
        for status, response in operation["responses"].items():
            for content in response.get("content", {}).values():
                if status >= "400":
                    assert f"`{content['example']['code']}`" in response["description"]
                    assert complaints(content["example"], content["schema"], document) == []
    for name, schema in document["components"]["schemas"].items():
        for field, shown in schema.get("properties", {}).items():
            is_shown = {"examples", "const"} & {*shown} or name in ("ErrorBody", "FieldError")
            assert is_shown, (name, field)
            for example in shown.get("examples", ()):
                assert complaints(example, shown, document) == []


# Request ids


GOOD_IDS = [b"a", b"x" * 128, b"~!@#$%^&*()_+{}|:<>?", b"two words"]
BAD_IDS = [b"", b" ", b"x" * 129, b"\xc3\xa9", b"a\x00b", b"a\tb", b"\x7f", b"a\r\nX: y", b"a\n"]


def test_a_good_request_id_is_answered_and_any_other_replaced(client: CheckedClient) -> None:
    def answered(given: bytes) -> str:
        return str(client.get("/", headers={b"X-Request-ID": given}).headers["X-Request-ID"])

    assert [answered(given).encode() for given in GOOD_IDS] == GOOD_IDS
    ids = {answered(given) for given in BAD_IDS * 2}
    assert len(ids) == 2 * len(BAD_IDS)
    assert all(re.fullmatch("[0-9a-f]{26}", each) for each in ids)


# The body limit


@pytest.mark.parametrize("is_chunked", [False, True])
def test_a_body_of_64_kib_is_read_and_no_more(is_chunked: bool) -> None:
    body = json.dumps({"name": "Lamp", "price": 1, "quantity": 1}).encode()
    with running("product", MEMORY) as products:
        for size, status in ((LIMIT, 201), (LIMIT + 1, 413), (20_000_000, 413)):
            whole = body.ljust(size)
            parts = (whole[start : start + 100_000] for start in range(0, size, 100_000))
            answer = products.post(
                "/products",
                content=parts if is_chunked else whole,
                headers={"Content-Type": "application/json"},
            )
            assert answer.status_code == status


# What is not there


def test_an_unknown_path_is_404_and_another_method_is_405_and_names_those_there_are(
    client: CheckedClient, service: str
) -> None:
    unknown = ["nowhere", "nowhere//x", "docs/x", "static-offline-docs/%00", "..%2f", "%ff"]
    known = [*openapi_of(service)["paths"], "/docs", "/redoc", "/openapi.json"]
    for path in [f"/{each}" for each in unknown] + [f"{each}/" for each in known if each != "/"]:
        answer = client.get(path)
        assert refusal(answer) == (404, "not_found"), path
    for path, operations in openapi_of(service)["paths"].items():
        answer = client.request("TRACE", path)
        assert refusal(answer) == (405, "method_not_allowed"), path
        with_head = {*operations, "head"} if "get" in operations else operations
        assert answer.headers["Allow"] == ", ".join(sorted(with_head)).upper(), path


# The last handler, the time limit, and what a developer adds


def test_what_nobody_foresaw_or_begins_too_late_is_an_error_in_our_shape(
    capsys: pytest.CaptureFixture[str],
) -> None:
    app = BUILD["product"](settings_of(MEMORY, order_timeout=0.05))

    @app.get("/fails")
    async def fails() -> None:
        raise RuntimeError("my secret")

    @app.get("/hangs")
    async def hangs() -> None:
        await asyncio.Event().wait()

    @app.get("/takes-its-time")
    async def takes_its_time() -> StreamingResponse:
        async def parts() -> AsyncIterator[bytes]:
            yield b"begun, "
            await asyncio.sleep(0.1)
            yield b"ended"
            raise RuntimeError("too late for another response")

        return StreamingResponse(parts())

    with TestClient(app) as client:
        for path, status, code in (
            ("/fails", 500, "internal_error"),
            ("/hangs", 503, "request_timeout"),
        ):
            headers = {"X-Request-ID": f"id of {path}", "Origin": "http://shop.example"}
            answer = client.get(path, headers=headers)
            assert refusal(answer) == (status, code)
            check_error(answer, answer.text)
            assert "secret" not in answer.text
            assert answer.headers["X-Request-ID"] == f"id of {path}"
            assert answer.headers["Access-Control-Allow-Origin"] == "*"
            assert f'route="{path}",status="{status}"' in client.get("/metrics").text
        assert client.get("/takes-its-time").text == "begun, ended"
    logged = capsys.readouterr().err
    assert "RuntimeError: my secret" in logged
    assert "unexpected error [id of /fails]" in logged
    assert "unexpected error [id of /hangs]" not in logged


def test_middleware_and_handlers_can_be_added_and_errors_of_the_framework_raised() -> None:
    app = BUILD["product"](settings_of(MEMORY))

    @app.middleware("http")
    async def mark(request: Request, call_next: Any) -> Response:
        await request.body()
        response: Response = await call_next(request)
        response.headers["X-Marked"] = "yes"
        return response

    @app.get("/raises")
    async def raises() -> None:
        raise ZeroDivisionError

    @app.get("/refuses/{status}")
    async def refuses(status: int) -> None:
        raise HTTPException(status, "Not with us.", {"X-Why": "no"})

    app.add_exception_handler(ZeroDivisionError, lambda *_: Response("handled", 418))
    with TestClient(app) as client:
        raised = client.get("/raises")
        too_large = client.post("/", content=b"a" * (LIMIT + 1))
        assert refusal(too_large) == (413, "body_too_large")
        for status in (400, 404, 429, 502):
            refused = client.get(f"/refuses/{status}")
            assert (refused.status_code, refused.headers["X-Why"]) == (status, "no")
            assert refused.json() == {"detail": "Not with us.", "code": "http_error"}
    assert (raised.status_code, raised.text) == (418, "handled")
    assert raised.headers["X-Marked"] == "yes"


@pytest.mark.anyio
async def test_an_answer_that_breaks_off_is_not_ended_as_if_it_were_whole() -> None:
    sent: list[Message] = []

    async def app(_: Scope, __: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        raise RuntimeError

    async def send(message: Message) -> None:
        sent.append(message)

    scope = {"type": "http", "headers": [], "method": "GET", "raw_path": b"/"}
    service = BUILD["product"](settings_of(MEMORY)).state.service
    service.metrics = RequestMetrics()
    await RequestLayer(app, service)(scope, Request(scope).receive, send)
    assert [message["type"] for message in sent] == ["http.response.start"]


def test_location_and_link_have_the_prefix_of_a_proxy() -> None:
    with TestClient(BUILD["product"](settings_of(MEMORY)), root_path="/catalog") as client:
        lamp = {"name": "Lamp", "price": 1, "quantity": 1}
        made = [client.post("/products", json=lamp) for _ in range(2)]
        assert made[0].headers["Location"] == f"/catalog/products/{made[0].json()['pk']}"
        link = client.get("/catalog/products?limit=1").headers["Link"]  # as uvicorn passes it on
        assert link.startswith("</catalog/products?limit=1&after=")


# CORS


@pytest.mark.parametrize(
    ("origin", "is_allowed"),
    [
        ("https://other.example", True),
        ("https://a.b-1.shop.example", True),
        ("https://shop.example", False),
        ("http://a.shop.example", False),
        ("https://a.shop.example.evil.example", False),
        ("https://evil.example/.shop.example", False),
        ("https://a.shopxexample", False),
    ],
)
def test_only_the_origins_in_the_settings_may_read_when_there_are_some(
    origin: str, is_allowed: bool
) -> None:
    origins = "https://*.shop.example, https://other.example"
    asks = {
        "Origin": origin,
        "Access-Control-Request-Method": "PATCH",
        "Access-Control-Request-Headers": "authorization,idempotency-key",
    }
    with TestClient(BUILD["user"](settings_of(MEMORY, cors_origins=origins))) as client:
        asked, read = client.options("/", headers=asks), client.get("/", headers={"Origin": origin})
        for answer in (read, client.get("/"), client.get("/nowhere")):
            assert "Origin" in answer.headers["Vary"]  # a cache keeps them apart
    assert (asked.status_code, read.status_code) == (200 if is_allowed else 400, 200)
    for answer in (asked, read):
        allowed = answer.headers.get("Access-Control-Allow-Origin")
        assert allowed == (origin if is_allowed else None)
        assert "Access-Control-Allow-Credentials" not in answer.headers
        assert answer.headers["X-Request-ID"]
    if is_allowed:
        assert "PATCH" in asked.headers["Access-Control-Allow-Methods"]
        assert "idempotency-key" in asked.headers["Access-Control-Allow-Headers"]
    else:
        check_error(asked, asked.text)


def test_any_origin_may_read_any_answer_but_never_with_credentials() -> None:
    headers = {"Origin": "http://shop.example", "X-Request-ID": "mine"}
    with running("product", MEMORY) as client:
        answers = [
            client.get("/", headers=headers),
            client.get("/nowhere", headers=headers),
            client.post("/", headers=headers),
            client.post("/products", content=b"a" * (LIMIT + 1), headers=headers),
        ]
    assert [answer.status_code for answer in answers] == [200, 404, 405, 413]
    for answer in answers:
        assert answer.headers["Access-Control-Allow-Origin"] == "*"
        assert "Access-Control-Allow-Credentials" not in answer.headers
        assert answer.headers["X-Request-ID"] == "mine"
        exposed = answer.headers["Access-Control-Expose-Headers"].split(", ")
        assert set(exposed) == {
            "Idempotent-Replayed", "Link", "Location", "Retry-After", "WWW-Authenticate",
            "X-Cursor", "X-Request-ID", "X-Total-Count",
        }  # fmt: skip
