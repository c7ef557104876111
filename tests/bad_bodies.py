"""Bodies that no route takes, and fields that no route takes, written down as they are sent."""

import json

from tests.apps import CheckedClient

JSON = "application/json"
BAD_BODIES: dict[str, tuple[bytes, str]] = {
    "nothing": (b"", JSON),
    "malformed": (b'{"name": ', JSON),
    "a comma too many": (b'{"a": 1,}', JSON),
    "an array": (b"[]", JSON),
    "a text": (b'"text"', JSON),
    "null": (b"null", JSON),
    "deeply nested arrays": (b"[" * 30_000 + b"]" * 30_000, JSON),
    "deeply nested objects": (b'{"a":' * 10_000 + b"1" + b"}" * 10_000, JSON),
    "a number of 5000 digits": (b'{"quantity": ' + b"9" * 5000 + b"}", JSON),
    "invalid UTF-8": (b'{"name": "\xff\xfe"}', JSON),
    "a surrogate as a name": (b'{"\\ud800": 1}', JSON),
    "binary": (bytes(range(256)), JSON),
    "a form": (b"name=Lamp&price=1&quantity=1", "application/x-www-form-urlencoded"),
    "a multipart form": (b"--x\r\n\r\n--x--", "multipart/form-data; boundary=x"),
    "a broken content type": (b"{}", ";;;==/"),
}
NOT_A_NUMBER = ["null", '"5"', "true", "[]", "{}", "[1]", "NaN", "Infinity", "-Infinity", "1e400"]
NOT_WHOLE = [*NOT_A_NUMBER, "5.0", "5.5", "1e2", "9" * 4000, "9" * 5000, "-1" + "0" * 4000]
NOT_TEXT = ["null", "5", "1.5", "true", "[]", "{}", '["a"]', r'"\ud800"', r'"a\udfffb"']


def refuse_bad_bodies(client: CheckedClient, method: str, path: str, good: dict[str, str]) -> None:
    """Send every bad body; then see that the good one works. `good` holds each field's JSON."""
    for name, (content, content_type) in BAD_BODIES.items():
        headers = {"Content-Type": content_type}
        response = client.request(method, path, content=content, headers=headers)
        assert response.status_code == 400, (name, response.text)
        assert response.json()["code"] == "invalid_request", (name, response.text)
    plain = client.request(
        method, path, content=written(good), headers={"Content-Type": "text/plain"}
    )
    assert plain.status_code == 400, plain.text
    unknown = client.send_text(method, path, written({**good, "colour": '"red"'}))
    assert (unknown.status_code, unknown.json()["errors"][0]["field"]) == (400, "colour")
    assert client.send_text(method, path, written(good)).is_success


def refuse_bad_field(
    client: CheckedClient, method: str, path: str, good: dict[str, str], field: str, bad: list[str]
) -> None:
    """Send the good body with one field wrong, in each way; the answer names the field."""
    for value in bad:
        response = client.send_text(method, path, written({**good, field: value}))
        assert response.status_code == 400, (value[:50], response.text)
        body = response.json()
        assert body["code"] == "invalid_request", (value[:50], body)
        is_readable = len(value) <= 4300  # Python reads no whole number of more digits
        assert body["errors"][0]["field"] == (field if is_readable else "body"), (value[:50], body)


def refuse_missing_fields(
    client: CheckedClient, method: str, path: str, good: dict[str, str]
) -> None:
    """Send the good body without each of its fields; the answer names it."""
    for field in good:
        less = {name: value for name, value in good.items() if name != field}
        response = client.send_text(method, path, written(less))
        assert response.status_code == 400, response.text
        assert response.json()["errors"] == [{"field": field, "message": "is required"}]


def written(fields: dict[str, str]) -> str:
    """Return an object as JSON, each value being JSON as it is written already."""
    members = ", ".join(f"{json.dumps(name)}: {value}" for name, value in fields.items())
    return f"{{{members}}}"
