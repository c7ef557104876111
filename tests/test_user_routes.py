"""The user service over HTTP, on each storage."""

from collections.abc import Iterator
from typing import Any

import pytest

from tests.apps import CheckedClient, bearer, running
from tests.bad_bodies import NOT_TEXT, refuse_bad_bodies, refuse_bad_field, refuse_missing_fields

EMAIL = "user@example.com"
PASSWORD = "correct horse battery staple"


@pytest.fixture
def users(storage_environment: dict[str, str]) -> Iterator[CheckedClient]:
    """A user service on each storage, with nobody registered."""
    with running("user", storage_environment) as users:
        yield users


def register(users: CheckedClient, email: str, password: str) -> Any:
    response = users.post("/register", json={"email": email, "password": password})
    assert response.status_code == 201, response.text
    return response.json()


def log_in(users: CheckedClient, email: str, password: str) -> Any:
    return users.post("/login", json={"email": email, "password": password})


# Registering


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ("User@Example.COM", "user@example.com"),
        ("  padded@example.com\n", "padded@example.com"),
        ("first.last+tag@sub.example.co.uk", "first.last+tag@sub.example.co.uk"),
        ("jürgen@bücher.example.com", "jürgen@bücher.example.com"),
        ("someone@example.test", "someone@example.test"),
    ],
)
def test_an_address_is_kept_in_lower_case(users: CheckedClient, given: str, kept: str) -> None:
    assert register(users, given, PASSWORD)["email"] == kept
    assert log_in(users, given, PASSWORD).status_code == 200
    assert log_in(users, kept.upper(), PASSWORD).status_code == 200


@pytest.mark.parametrize(
    "email",
    [
        "", " ", "plain", "@example.com", "user@", "user@localhost", "a b@example.com", "a@b",
        "user@example..com", "user@example.com, other@example.com", "<user@example.com>",
        "user@[127.0.0.1]", "user\0@example.com", "user@exam\nple.com", "user@-example.com",
        "a@" + "b" * 300 + ".com", "a" * 10_000 + "@example.com",
    ],
)  # fmt: skip
def test_what_is_no_address_is_refused(users: CheckedClient, email: str) -> None:
    for path in ("/register", "/login"):
        response = users.post(path, json={"email": email, "password": PASSWORD})
        assert response.status_code == 400
        assert response.json()["errors"][0]["field"] == "email"


@pytest.mark.parametrize(
    ("password", "status"),
    [
        ("a" * 7, 400), ("a" * 8, 201), ("a" * 128, 201), ("a" * 129, 400),
        ("💶" * 7, 400), ("💶" * 128, 201), ("\0" * 8, 201),
    ],
)  # fmt: skip
def test_a_password_has_8_to_128_characters_of_any_kind(
    users: CheckedClient, password: str, status: int
) -> None:
    response = users.post("/register", json={"email": EMAIL, "password": password})
    assert response.status_code == status
    if status == 400:
        assert response.json()["errors"][0]["field"] == "password"
    else:
        assert log_in(users, EMAIL, password).status_code == 200
        assert log_in(users, EMAIL, password[:-1]).status_code == 401


# Logging in


def test_who_registers_and_logs_in_gets_a_token_that_tells_who_one_is(users: CheckedClient) -> None:
    anna = register(users, EMAIL, PASSWORD)
    assert set(anna) == {"pk", "email", "created_at"}
    assert (anna["email"], anna["created_at"][-1]) == (EMAIL, "Z")
    taken = users.post("/register", json={"email": EMAIL.upper(), "password": "another password"})
    assert (taken.status_code, taken.json()["code"]) == (400, "email_taken")
    assert log_in(users, EMAIL, "another password").status_code == 401
    response = log_in(users, EMAIL, PASSWORD)
    assert response.status_code == 200
    token = response.json()
    assert set(token) == {"access_token", "token_type", "expires_in"}
    assert (token["token_type"], token["expires_in"]) == ("bearer", 3600)
    me = users.get("/me", headers=bearer(token["access_token"]))
    assert (me.status_code, me.json()) == (200, anna)


# Who am I


def test_registering_and_logging_in_ignore_a_bad_token(users: CheckedClient) -> None:
    body = {"email": EMAIL, "password": PASSWORD}
    for path in ("/register", "/login"):
        assert users.post(path, json=body, headers=bearer("nonsense")).is_success


# Bad input


@pytest.mark.parametrize("path", ["/register", "/login"])
def test_no_bad_body_is_taken_and_none_does_harm(users: CheckedClient, path: str) -> None:
    good = {"email": f'"{EMAIL}"', "password": f'"{PASSWORD}"'}
    if path == "/login":
        register(users, EMAIL, PASSWORD)
    for field in good:
        refuse_bad_field(users, "POST", path, good, field, NOT_TEXT)
    refuse_missing_fields(users, "POST", path, good)
    refuse_bad_bodies(users, "POST", path, good)
