"""Whatever comes into any route of any service: an answer that is documented, and no secret in it.

The client of these tests fails when an answer is not as OpenAPI says, and so at every 500.
"""

import json
import unicodedata
from collections.abc import Iterator
from contextlib import redirect_stderr
from io import StringIO
from typing import Literal

import pytest

from shopsphere.domain.pks import new_pk
from tests.apps import JWT_SECRET, CheckedClient, openapi_of, running
from tests.servers import free_port

PASSWORD = "hunter2-hunter2"
GOOD: dict[str, dict[str, object]] = {
    "UserCreate": {"email": "ada@example.com", "password": PASSWORD},
    "Login": {"email": "ada@example.com", "password": PASSWORD},
    "PasswordChange": {"current_password": PASSWORD, "password": PASSWORD},
    "ProductCreate": {"name": "Lamp", "price": 1, "quantity": 5},
    "ProductUpdate": {"name": "Lamp"},
    "StockChange": {"change": 1},
    "ReservationCreate": {"quantity": 1},
    "OrderCreate": {"product_id": new_pk(), "quantity": 1},
    "Settle": {"product_id": new_pk()},
}
HOSTILE = [
    *(
        json.dumps(text)
        for text in (
            "", "a\0b", "a\udfff", "\U0010ffff", "\x85", "\u202e", "\r\nX: y",
            "\u0315\u0300" * 5_000, "../../etc/passwd", "*", "[", "{x}", "%00", "a@exam\0ple.com",
            "a@\ud800.com", f"{'a' * 64}@{'b' * 60}.{'c' * 60}.com", "ﷺ" * 40, "x" * 2400,
        )
    ),
    "null", "true", "-0", "1e400", "NaN", "9" * 5000, "1." + "0" * 5000 + "1", "1e-5000",
    "[" * 5000 + "]" * 5000, '{"a":' * 5000 + "1" + "}" * 5000, '{"__proto__": 1}', '"\\ud83d"',
    '["hunter2"]', '{"hunter2": 1}', '"hunter2\\ud800"', f'"{"hunter2" * 100}"',
]  # fmt: skip
HOSTILE_PKS = [
    "0" * 26, "Z" * 26, "x" * 10_000, "%00", "%2f", "..%2f..", "%0d%0aX:y", "*", "%F0%9F%92%A1",
    f"{new_pk()}%00", f"%20{new_pk()}", f"{new_pk()}:{new_pk()}",
]  # fmt: skip


@pytest.fixture(params=["user", "product", "order"])
def client(
    request: pytest.FixtureRequest, storage_environment: dict[str, str]
) -> Iterator[CheckedClient]:
    """Each service on each storage. Afterwards its log has no traceback, and nothing secret."""
    nowhere = f"http://127.0.0.1:{free_port()}"
    more = {"product_service_url": nowhere, "login_limit": "1000000/second"}
    with redirect_stderr(StringIO()) as log:
        with running(request.param, storage_environment, **more) as client:
            yield client
            assert client.get("/ready").status_code == 200
        for secret in ("Traceback", "hunter2", JWT_SECRET):
            assert secret not in log.getvalue()


def routes(client: CheckedClient) -> Iterator[tuple[str, str, str | None]]:
    """Yield method, path and the name of the body of each route."""
    for path, operations in openapi_of(client.service)["paths"].items():
        for method, operation in operations.items():
            content = operation.get("requestBody", {}).get("content", {})
            schema = content.get("application/json", {}).get("schema", {})
            yield method.upper(), path, schema.get("$ref", "").rpartition("/")[2] or None


def fill(path: str, pk: str) -> str:
    return path.replace("{pk}", pk).replace("{order_pk}", pk)


def signed_in(client: CheckedClient) -> dict[str, str]:
    """Return the header of somebody who has an account, where accounts are kept."""
    if client.service != "user":
        return {}
    client.post("/register", json=GOOD["UserCreate"])
    token = client.post("/login", json=GOOD["Login"]).json()["access_token"]
    return {"Authorization": f"Bearer {token}"}


def test_hostile_values_in_any_field_break_nothing(client: CheckedClient) -> None:
    headers = {**signed_in(client), "Content-Type": "application/json"}
    for method, path, name in routes(client):
        for field in GOOD[name] if name else ():
            for value in HOSTILE:
                members = json.dumps(GOOD[str(name)])[1:-1]
                members += f", {json.dumps(field)}: {value}"  # the last one of a field counts
                answer = client.request(
                    method, fill(path, new_pk()), content=f"{{{members}}}", headers=headers
                )
                assert "hunter2" not in answer.text, (path, field, value[:50])


def test_a_hostile_pk_is_nothing_that_there_is(client: CheckedClient) -> None:
    headers = signed_in(client)
    for method, path, name in routes(client):
        for pk in HOSTILE_PKS if "{pk}" in path else ():
            answer = client.request(
                method, fill(path, pk), json=GOOD[name] if name else None, headers=headers
            )
            # Giving back what is unknown leaves a mark, and settling what is unknown ends it.
            is_command = "{order_pk}" in path or path.endswith("/settle")
            expected = {204, 400, 404, 409, 503} if is_command else {400, 404}
            assert answer.status_code in expected


def test_of_a_text_too_long_for_a_name_no_more_than_that_is_normalized(
    storage_environment: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    normalize = unicodedata.normalize
    lengths: list[int] = []

    def spy(form: Literal["NFC"], text: str) -> str:
        lengths.append(len(text))
        return normalize(form, text)

    with running("product", storage_environment) as products:
        monkeypatch.setattr(unicodedata, "normalize", spy)
        accents = "e" + "\u0315\u0300" * 5_000
        assert products.get("/products/search", params={"name": accents}).json() == []
        refused = products.post("/products", json={**GOOD["ProductCreate"], "name": accents})
        assert refused.json()["errors"][0]["field"] == "name"
        padded = {**GOOD["ProductCreate"], "name": "Lamp".center(30_000)}
        assert products.post("/products", json=padded).json()["name"] == "Lamp"
    assert 1000 < max(lengths) < 3000
