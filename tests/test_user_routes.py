"""The user service over HTTP, on each storage."""

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jwt
import pytest

from shopsphere.domain.pks import new_pk
from shopsphere.domain.values import Role
from shopsphere.tokens import Tokens
from tests.apps import JWT_SECRET, CheckedClient, bearer, running
from tests.bad_bodies import NOT_TEXT, refuse_bad_bodies, refuse_bad_field, refuse_missing_fields

EMAIL = "user@example.com"
PASSWORD = "correct horse battery staple"


@pytest.fixture
def users(storage_environment: dict[str, str]) -> Iterator[CheckedClient]:
    """A user service on each storage, with nobody registered."""
    with running("user", storage_environment) as users:
        yield users


@pytest.fixture
def anna(users: CheckedClient) -> dict[str, Any]:
    """Somebody who is registered."""
    answer: dict[str, Any] = register(users, EMAIL, PASSWORD)
    return answer


def register(users: CheckedClient, email: str, password: str) -> Any:
    response = users.post("/register", json={"email": email, "password": password})
    assert response.status_code == 201, response.text
    return response.json()


def log_in(users: CheckedClient, email: str, password: str) -> Any:
    return users.post("/login", json={"email": email, "password": password})


# Registering


def test_registering_answers_with_the_account_and_nothing_of_the_password(
    users: CheckedClient,
) -> None:
    response = users.post("/register", json={"email": EMAIL, "password": PASSWORD})
    assert response.status_code == 201
    account = response.json()
    assert set(account) == {"pk", "email", "created_at"}
    assert account["email"] == EMAIL
    assert account["created_at"].endswith("Z")


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


@pytest.mark.parametrize("again", [EMAIL, "USER@example.com", " user@EXAMPLE.com "])
def test_an_address_can_be_registered_once(
    users: CheckedClient, anna: dict[str, Any], again: str
) -> None:
    response = users.post("/register", json={"email": again, "password": "another password"})
    assert (response.status_code, response.json()["code"]) == (400, "email_taken")
    assert log_in(users, EMAIL, PASSWORD).status_code == 200
    assert log_in(users, EMAIL, "another password").status_code == 401


def test_of_many_who_register_one_address_at_once_one_gets_it(users: CheckedClient) -> None:
    def register_with(password: str) -> int:
        body = {"email": EMAIL, "password": password}
        return users.post("/register", json=body).status_code

    passwords = [f"password {number}" for number in range(8)]
    with ThreadPoolExecutor(8) as threads:
        statuses = list(threads.map(register_with, passwords))
    assert sorted(statuses) == [201] + [400] * 7
    winner = passwords[statuses.index(201)]
    accepted = [each for each in passwords if log_in(users, EMAIL, each).status_code == 200]
    assert accepted == [winner]


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
        ("💶" * 7, 400), ("💶" * 8, 201), ("💶" * 128, 201), ("\0" * 8, 201), (" " * 8, 201),
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


def test_every_character_of_a_password_counts(users: CheckedClient) -> None:
    register(users, EMAIL, "a" * 80)
    assert log_in(users, EMAIL, "a" * 79).status_code == 401
    assert log_in(users, EMAIL, "a" * 79 + "b").status_code == 401


# Logging in


def test_logging_in_gives_a_token_that_tells_who_one_is(
    users: CheckedClient, anna: dict[str, Any]
) -> None:
    response = log_in(users, EMAIL, PASSWORD)
    assert response.status_code == 200
    token = response.json()
    assert set(token) == {"access_token", "token_type", "expires_in"}
    assert (token["token_type"], token["expires_in"]) == ("bearer", 3600)
    me = users.get("/me", headers=bearer(token["access_token"]))
    assert (me.status_code, me.json()) == (200, anna)


def test_a_wrong_password_and_an_unknown_address_get_the_same_answer(
    users: CheckedClient, anna: dict[str, Any]
) -> None:
    wrong = log_in(users, EMAIL, "wrong password")
    unknown = log_in(users, "nobody@example.com", PASSWORD)
    assert (wrong.status_code, wrong.json()["code"]) == (401, "invalid_credentials")
    assert unknown.status_code == 401
    assert wrong.json() == unknown.json()


@pytest.mark.parametrize("password", ["", "short", PASSWORD.upper(), PASSWORD + " "])
def test_logging_in_with_any_other_password_fails(
    users: CheckedClient, anna: dict[str, Any], password: str
) -> None:
    assert log_in(users, EMAIL, password).status_code == 401


# Who am I


@pytest.mark.parametrize("scheme", ["Bearer", "bearer", "BEARER"])
def test_the_scheme_of_a_token_has_no_case(
    users: CheckedClient, anna: dict[str, Any], scheme: str
) -> None:
    token = Tokens(JWT_SECRET, 60).issue(anna["pk"], Role.USER)
    assert users.get("/me", headers={"Authorization": f"{scheme} {token}"}).json() == anna


@pytest.mark.parametrize(
    "headers",
    [
        [],
        [("Authorization", "")],
        [("Authorization", "Bearer")],
        [("Authorization", "Bearer ")],
        [("Authorization", "Bearer x")],
        [("Authorization", "Bearer x.y.z")],
        [("Authorization", "Bearer " + "W1" * 10_000 + ".e30.aaaa")],
        [("Authorization", "Bearer " + "W1tb" * 10_000 + ".e30.aaaa")],
        [("Authorization", "Basic dXNlcjpwYXNzd29yZA==")],
        [("Authorization", "token")],
        [("Authorization", b"Bearer \xff\xfe.\xc3\xa9.a")],
        [("Authorization", "Bearer a.b.c"), ("Authorization", "Bearer a.b.c")],
    ],
)
def test_no_token_or_none_at_all_is_401(users: CheckedClient, headers: Any) -> None:
    response = users.get("/me", headers=headers)
    assert (response.status_code, response.json()["code"]) == (401, "invalid_token")


def test_two_good_tokens_are_one_too_many(users: CheckedClient, anna: dict[str, Any]) -> None:
    [good] = bearer(Tokens(JWT_SECRET, 60).issue(anna["pk"], Role.USER)).items()
    assert users.get("/me", headers=[good]).status_code == 200
    assert users.get("/me", headers=[good, good]).status_code == 401


@pytest.mark.parametrize(
    ("changes", "secret", "algorithm"),
    [
        ({}, "another secret, as long as the right one", "HS256"),
        ({}, JWT_SECRET, "HS512"),
        ({}, "", "none"),
        ({"exp": 1}, JWT_SECRET, "HS256"),
        ({"exp": None}, JWT_SECRET, "HS256"),
        ({"exp": "soon"}, JWT_SECRET, "HS256"),
        ({"iat": 1e12}, JWT_SECRET, "HS256"),
        ({"iat": None}, JWT_SECRET, "HS256"),
        ({"sub": None}, JWT_SECRET, "HS256"),
        ({"sub": 5}, JWT_SECRET, "HS256"),
        ({"iss": "elsewhere"}, JWT_SECRET, "HS256"),
        ({"iss": None}, JWT_SECRET, "HS256"),
        ({"aud": "elsewhere"}, JWT_SECRET, "HS256"),
        ({"aud": None}, JWT_SECRET, "HS256"),
        ({"role": "king"}, JWT_SECRET, "HS256"),
        ({"role": ["admin"]}, JWT_SECRET, "HS256"),
        ({"role": None}, JWT_SECRET, "HS256"),
    ],
)
def test_a_token_that_does_not_hold_is_401(
    users: CheckedClient,
    anna: dict[str, Any],
    changes: dict[str, object],
    secret: str,
    algorithm: str,
) -> None:
    now = int(time.time())
    good = {
        "sub": anna["pk"],
        "role": "user",
        "iss": "shopsphere",
        "aud": "shopsphere",
        "iat": now,
        "exp": now + 60,
    }
    assert users.get("/me", headers=bearer(jwt.encode(good, JWT_SECRET))).status_code == 200
    claims = {name: value for name, value in (good | changes).items() if value is not None}
    token = jwt.encode(claims, secret, algorithm=algorithm)
    response = users.get("/me", headers=bearer(token))
    assert (response.status_code, response.json()["code"]) == (401, "invalid_token")
    assert JWT_SECRET not in response.text
    assert token not in response.text


def test_a_good_token_of_somebody_who_is_gone_is_404(users: CheckedClient) -> None:
    token = Tokens(JWT_SECRET, 60).issue(new_pk(), Role.USER)
    response = users.get("/me", headers=bearer(token))
    assert (response.status_code, response.json()["code"]) == (404, "user_not_found")


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


@pytest.mark.parametrize("path", ["/register", "/login"])
def test_no_answer_and_no_log_line_repeats_a_password(
    users: CheckedClient, path: str, capsys: pytest.CaptureFixture[str]
) -> None:
    secret = "hunter2-hunter2"
    for body in (
        f'{{"email": "{EMAIL}", "password": "{secret}"}}',
        f'{{"email": "no address", "password": "{secret}"}}',
        f'{{"email": "{EMAIL}", "password": "{secret}"',
        f'{{"email": "{EMAIL}", "password": ["{secret}"]}}',
        f'{{"email": "{EMAIL}", "password": "{secret * 10}"}}',
        f'{{"email": "{secret}", "password": "a"}}',
        f'["{secret}"]',
        f'"{secret}"',
    ):
        assert secret not in users.send_text("POST", path, body).text
    assert "hunter2" not in capsys.readouterr().err
