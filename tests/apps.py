"""The apps as the route tests meet them: each answer is held against the app's own OpenAPI."""

import functools
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx2
import jsonschema_rs
from fastapi import FastAPI
from starlette.testclient import TestClient

import order_service
import product_service
import user_service
from shopsphere.settings import Settings
from shopsphere.web.layers import EXPOSED_HEADERS

BUILD = {"user": user_service.build, "product": product_service.build, "order": order_service.build}
JWT_SECRET = "a secret of tests, so long that PyJWT warns of it with no algorithm"
UNDOCUMENTED_PATHS = re.compile(r"/(docs|docs/oauth2-redirect|redoc|openapi\.json)")


def settings_of(environment: dict[str, str], **more: object) -> Settings:
    """Return the settings that these environment variables give, and no `.env` file."""
    values: dict[str, Any] = {"bcrypt_rounds": 4, "jwt_secret": JWT_SECRET}
    values |= {name.lower(): value for name, value in environment.items()} | more
    return Settings(**values)


@contextmanager
def running(service: str, environment: dict[str, str], **more: object) -> Iterator["CheckedClient"]:
    """Run a service in this process, and yield a client that checks what it answers."""
    with CheckedClient(BUILD[service](settings_of(environment, **more))) as client:
        yield client


class CheckedClient(TestClient):
    """A client that fails when an answer is not as the service's OpenAPI says it can be."""

    def __init__(self, app: FastAPI) -> None:
        super().__init__(app, follow_redirects=False)
        self.service: str = app.state.service.name

    def send(self, request: httpx2.Request, **options: Any) -> httpx2.Response:
        response = super().send(request, **options)
        check_answer(self.service, request.method, request.url.path, response)
        return response

    def send_text(self, method: str, path: str, text: str) -> httpx2.Response:
        """Send a body as it is written, as JSON."""
        headers = {"Content-Type": "application/json"}
        return self.request(method, path, content=text.encode(), headers=headers)


@functools.cache
def openapi_of(service: str) -> dict[str, Any]:
    """Return the OpenAPI document of a service."""
    document = BUILD[service](settings_of({"USE_REDIS": "false"})).openapi()
    for schema in document["components"]["schemas"].values():
        schema["additionalProperties"] = False  # what it does not name counts as wrong
    return document


def check_answer(service: str, method: str, path: str, answer: httpx2.Response) -> None:
    """Fail unless the answer is documented for its route, and errors have our one shape."""
    said = f"{method} {path[:80]} -> {answer.status_code} {answer.text[:300]}"
    assert answer.headers["X-Request-ID"], said
    assert "Traceback" not in answer.text, said
    if answer.status_code >= 400:
        check_error(answer, said)
    operation = _operation(service, method, path)
    if operation is None:
        assert answer.status_code in (404, 405, 413) or UNDOCUMENTED_PATHS.fullmatch(path), said
        return
    responses = operation["responses"]
    if answer.status_code == 413 and "requestBody" not in operation:
        return
    assert str(answer.status_code) in responses, f"not documented: {said}"
    documented = responses[str(answer.status_code)]
    sent = {name for name in EXPOSED_HEADERS if name in answer.headers}
    assert sent <= set(documented["headers"]), said
    if answer.status_code == 204:
        assert answer.text == "", said
        return
    [(media_type, content)] = documented["content"].items()
    assert answer.headers["Content-Type"].split(";")[0] == media_type, said
    if media_type == "application/json":
        body = json.loads(answer.text)
        root = openapi_of(service)
        assert complaints(body, content["schema"], root) == [], said
        if answer.status_code >= 400:
            assert f"`{body['code']}`" in documented["description"], f"code not listed: {said}"
            if body["code"] == content["example"]["code"]:
                assert set(content["example"]) == set(body) - {"order_id"}, f"example: {said}"


def refusal(answer: httpx2.Response) -> tuple[int, str]:
    """Return status and code of a refusal."""
    return answer.status_code, answer.json()["code"]


def check_error(answer: httpx2.Response, said: str) -> None:
    """Fail unless this is an error as every service answers it."""
    assert answer.headers["Content-Type"] == "application/json", said
    body = json.loads(answer.text)
    assert re.fullmatch(r"[a-z]+(_[a-z]+)*", body["code"]), said
    assert re.fullmatch(r".+\.", body["detail"], re.DOTALL), said
    if body["code"] == "invalid_request":
        assert answer.status_code == 400, said
        assert body["errors"], said
    if answer.status_code == 503:
        assert int(answer.headers["Retry-After"]) > 0, said
    if "order_id" in body:
        assert answer.status_code == 503, said
        may_be_placed = body["code"] in ("storage_unavailable", "request_timeout")
        assert not (may_be_placed and "Try again" in body["detail"]), said  # it could order twice
    if body["code"] == "invalid_token":
        assert answer.headers["WWW-Authenticate"] == "Bearer", said


def _operation(service: str, method: str, path: str) -> dict[str, Any] | None:
    """Return what is documented for a method and a path; a literal path comes before a pattern."""
    paths: dict[str, dict[str, dict[str, Any]]] = openapi_of(service)["paths"]
    for template in sorted(paths, key=lambda template: template.count("{")):
        pattern = re.sub(r"\{\w+\}", "[^/]+", template)
        if method.lower() in paths[template] and re.fullmatch(pattern, path, re.DOTALL):
            return paths[template][method.lower()]
    return None


def complaints(value: object, schema: dict[str, Any], root: dict[str, Any]) -> list[str]:
    """Return where a value is not what a schema of this document says."""
    validator = jsonschema_rs.validator_for({**schema, "components": root["components"]})
    return [error.message for error in validator.iter_errors(value)]


def resolve(reference: str, root: dict[str, Any]) -> dict[str, Any]:
    """Return the schema that a `$ref` of the document points to."""
    schema: dict[str, Any] = functools.reduce(
        lambda place, name: place[name], reference.removeprefix("#/").split("/"), root
    )
    return schema


def bearer(token: str) -> dict[str, str]:
    """Return the header that carries a token."""
    return {"Authorization": f"Bearer {token}"}
