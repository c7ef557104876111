"""The user service over HTTP, on each storage."""

from collections.abc import Iterator
from typing import Any

import pytest

from tests.apps import CheckedClient, bearer, running

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


def test_an_address_is_kept_in_lower_case(users: CheckedClient) -> None:
    for given, kept in (
        ("User@Example.COM", "user@example.com"),
        ("  padded@example.com\n", "padded@example.com"),
        ("first.last+tag@sub.example.co.uk", "first.last+tag@sub.example.co.uk"),
        ("jürgen@bücher.example.com", "jürgen@bücher.example.com"),
        ("someone@example.test", "someone@example.test"),
    ):
        assert register(users, given, PASSWORD)["email"] == kept
        assert log_in(users, given, PASSWORD).status_code == 200
        assert log_in(users, kept.upper(), PASSWORD).status_code == 200


@pytest.mark.parametrize("password", ["a" * 8, "a" * 128, "💶" * 128, "\0" * 8])
def test_a_password_has_8_to_128_characters_of_any_kind(
    users: CheckedClient, password: str
) -> None:
    register(users, EMAIL, password)
    assert log_in(users, EMAIL, password).status_code == 200
    assert log_in(users, EMAIL, password[:-1]).status_code == 401


def test_who_registers_and_logs_in_gets_a_token_that_tells_who_one_is(users: CheckedClient) -> None:
    anna = register(users, EMAIL, PASSWORD)
    assert set(anna) == {"pk", "email", "created_at"}
    assert (anna["email"], anna["created_at"][-1]) == (EMAIL, "Z")
    taken = users.post("/register", json={"email": EMAIL.upper(), "password": "another password"})
    assert (taken.status_code, taken.json()["code"]) == (400, "email_taken")
    assert log_in(users, EMAIL, "another password").status_code == 401
    token = log_in(users, EMAIL, PASSWORD).json()
    assert token == {**token, "token_type": "bearer", "expires_in": 3600}
    me = users.get("/me", headers=bearer(token["access_token"]))
    assert (me.status_code, me.json()) == (200, anna)
