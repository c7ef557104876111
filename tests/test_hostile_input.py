"""Whatever comes into any route of any service: an answer that is documented, and no secret in it.

The client of these tests fails when an answer is not as OpenAPI says, and so at every 500.
"""

import json
import unicodedata
from collections.abc import Callable, Iterator
from contextlib import redirect_stderr
from functools import partial
from io import StringIO
from unittest.mock import Mock

import pytest
from httpx2 import Response

from shopsphere.domain.pks import new_pk
from tests.apps import JWT_SECRET, CheckedClient, openapi_of, refusal, running
from tests.servers import free_port

PASSWORD = "hunter2-hunter2"
GOOD: dict[str, dict[str, object]] = {
    "UserCreate": {"email": "ada@example.com", "password": PASSWORD},
    "Login": {"email": "ada@example.com", "password": PASSWORD},
    "PasswordChange": {"current_password": PASSWORD, "password": PASSWORD},
    "SessionToken": {"refresh_token": "no such token"},
    "Deletion": {"current_password": "not the password"},
    "ProductCreate": {"name": "Lamp", "price": 1, "quantity": 5},
    "ProductUpdate": {"name": "Lamp", "price": 1},
    "StockChange": {"change": 1},
    "ReservationCreate": {"quantity": 1},
    "OrderItem": {"product_id": new_pk(), "quantity": 1},
    "OrderOfItems": {"items": [{"product_id": new_pk(), "quantity": 1, "unit_price": None}]},
    "Settle": {"product_id": new_pk()},
}
HOSTILE = [
    *(
        json.dumps(text)
        for text in (
            "", "a\0b", "a\udfff", "\U0010ffff", "\r\nX: y", "\u0315\u0300" * 5_000, "*", "{x}",
            "a@exam\0ple.com", "a@\ud800.com", "ﷺ" * 40, "x" * 2400,
        )
    ),
    "-0", "1e400", "NaN", "9" * 5000, "1." + "0" * 5000 + "1", "1e-5000", '"\\ud83d"',
    "[" * 5000 + "]" * 5000, '{"a":' * 5000 + "1" + "}" * 5000, '["hunter2"]', '{"hunter2": 1}',
    '"hunter2\\ud800"', f'"{"hunter2" * 100}"',
]  # fmt: skip

NO_NUMBER = ['"5"', "true", "[]", "{}", "[1]", "NaN", "Infinity", "-Infinity", "1e400"]
NOT_WHOLE = [*NO_NUMBER, "5.0", "5.5", "1e2"]
NO_QUANTITY = [*NOT_WHOLE, "-1", "1000000001", "9" * 4000, "-1" + "0" * 4000]
NO_ORDERED_QUANTITY = [*NO_QUANTITY, "0", "1000001"]
NO_PRICE = [
    *NO_NUMBER, '"19.99"', "-0.01", "0.001", "19.999", "1e-3", "1000000.01", "1e7", "9" * 4000,
    "0.1234567890123456789",
]  # fmt: skip
NO_TEXT = ["5", "1.5", "true", "[]", "{}", '["a"]']
NO_UNICODE = [r'"\ud800"', r'"a\udfffb"']
NO_NAME = [
    "", "  ", "\t\n", "x" * 201, "a\0b", "a\nb", "a\x7fb", "a\x85b", "\0", "x" * 60_000,
    "\u200b\u2060", "\u0301", "\u3164", "\u2800", "\u115f\u1160\uffa0", "\u00ad \ufe0f", "\ue000",
]  # fmt: skip
NO_EMAIL = [
    "", " ", "plain", "@example.com", "user@", "user@localhost", "a b@example.com",
    "user@[127.0.0.1]", "user\0@example.com", "a" * 10_000 + "@example.com",
]  # fmt: skip
TOO_LONG = ["a" * 513]
ITEM = '{"product_id": "%s", "quantity": 1}'
NO_ITEMS = [
    "5", "true", "{}", '"a"', "[]", f"[{ITEM % 'a'}, {ITEM % 'a'}]",
    f"[{', '.join(ITEM % number for number in range(51))}]",
]  # fmt: skip


def texts(*wrong: str) -> list[str]:
    """Return what no field for a text takes, and texts that one field does not."""
    return [*NO_TEXT, *NO_UNICODE, *map(json.dumps, wrong)]


PASSWORDS = texts("a" * 7, "💶" * 7, "e\u0301" * 7, "a" * 129, *TOO_LONG)
REFUSED: dict[str, dict[str, list[str]]] = {
    "UserCreate": {"email": texts(*NO_EMAIL), "password": PASSWORDS},
    "Login": {"email": texts(*NO_EMAIL), "password": texts(*TOO_LONG)},
    "PasswordChange": {"current_password": texts(*TOO_LONG), "password": PASSWORDS},
    "SessionToken": {"refresh_token": NO_TEXT},
    "Deletion": {"current_password": texts(*TOO_LONG)},
    "ProductCreate": {"name": texts(*NO_NAME), "price": NO_PRICE, "quantity": NO_QUANTITY},
    "ProductUpdate": {"name": texts(*NO_NAME), "price": NO_PRICE},
    "StockChange": {"change": NOT_WHOLE},
    "ReservationCreate": {"quantity": NO_ORDERED_QUANTITY, "unit_price": NO_PRICE},
    "OrderItem": {"product_id": NO_TEXT, "quantity": NO_ORDERED_QUANTITY, "unit_price": NO_PRICE},
    "OrderOfItems": {"items": NO_ITEMS},
    "Settle": {"product_id": texts("", "x", new_pk().lower())},
}
"""What each field of each body refuses, as it is written in JSON; null besides."""

BAD_BODIES = {
    "application/json": [
        b"", b'{"name": ', b'{"a": 1,}', b"[]", b'"text"', b"null", bytes(range(256)),
        b"[" * 30_000 + b"]" * 30_000, b'{"a":' * 10_000 + b"1" + b"}" * 10_000,
        b'{"name": "\xff\xfe"}', b'{"\\ud800": 1}',
    ],
    "application/x-www-form-urlencoded": [b"name=Lamp&price=1&quantity=1"],
    "multipart/form-data; boundary=x": [b"--x\r\n\r\n--x--"],
}  # fmt: skip
NO_PKS = [
    "abc123", "0" * 25, "0" * 27, "8" + "0" * 25, "0" * 25 + "%ff", "0" * 26 + "%0a",
    "%2e%2e", "*", "%EF%BC%90" * 26, "%00", new_pk().lower(), f"{new_pk()}:{new_pk()}",
]  # fmt: skip
NO_LIMITS = ["", "0", "-1", "1001", "1.0", "x", "%205", "%EF%BC%95", "1_0", "9" * 5000, "%ff"]
NO_CURSORS = ["", "%00", "%ff", "0" * 25, "0" * 10_000, "1-00000000", "-1-00000000"]


@pytest.fixture(params=["user", "product", "order"])
def client(
    request: pytest.FixtureRequest, storage_environment: dict[str, str]
) -> Iterator[CheckedClient]:
    """Each service on each storage. Afterwards its log has no traceback, and nothing secret."""
    nowhere = f"http://127.0.0.1:{free_port()}"
    more = {"product_service_url": nowhere, "login_limit": "1000000/second"}
    with redirect_stderr(StringIO()) as log:
        with running(request.param, storage_environment, **more) as client:
            client.headers["Content-Type"] = "application/json"
            if client.service == "user":
                client.post("/register", json=GOOD["UserCreate"])
                token = client.post("/login", json=GOOD["Login"]).json()["access_token"]
                client.headers["Authorization"] = f"Bearer {token}"
            yield client
            assert client.get("/ready").status_code == 200
        for secret in ("Traceback", "hunter2", JWT_SECRET):
            assert secret not in log.getvalue()


in_memory = pytest.mark.parametrize("storage", ["memory"])
"""For what is refused before it comes to any storage."""


def routes(client: CheckedClient) -> Iterator[tuple[str, str, str | None]]:
    """Yield method, path and the name of the body of each route."""
    for path, operations in openapi_of(client.service)["paths"].items():
        for method, operation in operations.items():
            content = operation.get("requestBody", {}).get("content", {})
            schema = content.get("application/json", {}).get("schema", {})
            for each in schema.get("anyOf", [schema]):
                yield method.upper(), path, each.get("$ref", "").rpartition("/")[2] or None


def senders(client: CheckedClient) -> Iterator[tuple[str, Callable[..., Response]]]:
    """Yield the name of each body, and what sends another in its place."""
    for method, path, name in routes(client):
        if name:
            path = path.replace("{pk}", new_pk()).replace("{order_pk}", new_pk())
            yield name, partial(client.request, method, path)


def with_field(name: str, field: str, value: str) -> bytes:
    """Return the good body with another value, as it is written, in one field."""
    members = json.dumps(GOOD[name])[1:-1]
    return f"{{{members}, {json.dumps(field)}: {value}}}".encode()  # the last one of a field counts


def faults(answer: Response) -> dict[str, str]:
    """Return what an answer says is wrong with the request, by the name of its field."""
    assert refusal(answer) == (400, "invalid_request"), answer.text
    return {error["field"]: error["message"] for error in answer.json()["errors"]}


def test_hostile_values_in_any_field_break_nothing(client: CheckedClient) -> None:
    for name, send in senders(client):
        for field in GOOD[name]:
            for value in HOSTILE:
                answer = send(content=with_field(name, field, value))
                is_named = (name, field) == ("OrderItem", "product_id")  # by a refusal
                assert is_named or "hunter2" not in answer.text, (name, field, value[:50])


@in_memory
def test_what_a_field_does_not_take_is_refused_and_named(client: CheckedClient) -> None:
    for name, send in senders(client):
        for field, refused in REFUSED[name].items():
            for value in refused:
                told = faults(send(content=with_field(name, field, value)))
                assert [*told] == [field], (name, value[:50])
            too_long = with_field(name, field, "9" * 5000)  # for Python to read it
            assert [*faults(send(content=too_long))] == ["body"]
            answer = send(content=with_field(name, field, "null"))
            nulled = [] if field == "unit_price" else [*faults(answer)]
            if name == "ProductUpdate":  # of which one field can be left out, but not both
                assert (nulled, [*faults(send(content=b"{}"))]) == ([field], ["body"])
            elif name == "OrderOfItems":  # without items it is of the other form
                assert nulled == [*faults(send(content=b"{}"))] == ["product_id", "quantity"]
            elif field != "unit_price":
                assert nulled == [field]
                less = {each: GOOD[name][each] for each in GOOD[name] if each != field}
                assert faults(send(json=less)) == {field: "is required"}


@in_memory
def test_what_is_no_json_object_of_the_known_fields_is_refused(client: CheckedClient) -> None:
    for name, send in senders(client):
        for kind, contents in BAD_BODIES.items():
            for content in contents:
                assert faults(send(content=content, headers={"Content-Type": kind})), content[:50]
        for kind in ("text/plain", ";;;==/"):
            assert faults(send(json=GOOD[name], headers={"Content-Type": kind}))
        assert [*faults(send(json={**GOOD[name], "colour": "red"}))] == ["colour"]


@in_memory
def test_what_cannot_be_a_pk_is_not_found_and_no_order_for_a_command(client: CheckedClient) -> None:
    for method, path, name in routes(client):
        body = GOOD[name] if name else None
        for pk in NO_PKS if "{pk}" in path else ():
            there = path.replace("{pk}", pk).replace("{order_pk}", new_pk())
            answer = client.request(method, there, json=body)
            if path.endswith("/settle"):
                assert [*faults(answer)] == ["pk"], pk
            elif "{order_pk}" in path and method != "PUT":
                assert answer.status_code == 204, pk
            else:
                assert refusal(answer) == (404, f"{client.service}_not_found"), pk
            if "{order_pk}" in path:
                there = path.replace("{pk}", new_pk()).replace("{order_pk}", pk)
                assert [*faults(client.request(method, there, json=body))] == ["order_pk"], pk


@in_memory
def test_what_no_route_takes_is_refused_by_each_that_has_anything_to_do(
    client: CheckedClient,
) -> None:
    for method, path, name in routes(client):
        path = path.replace("{pk}", new_pk()).replace("{order_pk}", new_pk())
        body = GOOD[name] if name else None
        answer = client.request(method, path, params={"colour": "red"}, json=body)
        too_large = client.request(method, path, content=b" " * (64 * 1024 + 1))
        assert refusal(too_large) == (413, "body_too_large")
        if path in ("/", "/ready", "/metrics"):
            assert answer.status_code == 200
        else:
            assert faults(answer) == {"colour": "is not a known parameter"}


@in_memory
def test_a_limit_or_cursor_or_search_that_can_be_none_is_refused(client: CheckedClient) -> None:
    for path, operations in openapi_of(client.service)["paths"].items():
        known = {each["name"] for each in operations.get("get", {}).get("parameters", ())}
        path = path.replace("{pk}", new_pk())
        for parameter, refused in (("limit", NO_LIMITS), ("after", NO_CURSORS), ("name", [""])):
            for value in refused if parameter in known else ():
                others = "name=lamp&" if "name" in known - {parameter} else ""
                told = faults(client.get(f"{path}?{others}{parameter}={value}"))
                assert [*told] == [parameter], (path, value)


def test_what_is_wrong_is_said_in_plain_words_and_not_without_end() -> None:
    with running("product", {"USE_REDIS": "false"}) as products:
        assert faults(products.post("/products", json={"name": 5, "quantity": "5"})) == {
            "name": "must be a string",
            "price": "is required",
            "quantity": "must be a whole number",
        }
        long = products.post("/products", json={"x" * 10_000 + str(n): n for n in range(5)})
        assert len(long.text) < 2000
        many = products.post("/products", json={f"field {number}": number for number in range(99)})
        assert len(many.json()["errors"]) == 20


def test_of_a_text_too_long_for_a_name_no_more_than_that_is_normalized(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    normalize = Mock(wraps=unicodedata.normalize)
    with running("product", {"USE_REDIS": "false"}) as products:
        monkeypatch.setattr(unicodedata, "normalize", normalize)
        accents = "e" + "\u0315\u0300" * 5_000
        assert products.get("/products/search", params={"name": accents}).json() == []
        told = faults(products.post("/products", json={**GOOD["ProductCreate"], "name": accents}))
        assert [*told] == ["name"]
    assert 1000 < max(len(text) for (_, text), _ in normalize.call_args_list) < 3000
