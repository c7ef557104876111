"""Sessions over HTTP, on each storage: what starts them, what ends them, and who else may try."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from httpx2 import Response
from starlette.testclient import TestClient

from shopsphere.accounts.refresh_tokens import RefreshToken, RefreshTokens
from shopsphere.domain import sessions
from shopsphere.domain.values import Role
from tests.apps import CheckedClient, bearer, running
from tests.people import CLOSED, SECRET, TOKENS

ADA = {"email": "ada@example.com", "password": "correct horse"}
BOB = {"email": "bob@example.com", "password": "battery staple"}
BOSS = {"email": "boss@example.com", "password": "the boss's password"}
FOR_THE_BOSS = {"ADMIN_EMAIL": BOSS["email"], "ADMIN_PASSWORD": BOSS["password"]}
OTHER_SECRET = "another secret of tests, as long as the first one of them"


@pytest.fixture
def users(storage_environment: dict[str, str]) -> Iterator[CheckedClient]:
    """A user service where Ada and Bob have accounts, and the settings name an administrator."""
    with running("user", {**storage_environment, **CLOSED, **FOR_THE_BOSS}) as users:
        for account in (ADA, BOB):
            assert users.post("/register", json=account).status_code == 201
        yield users


def log_in(users: TestClient, account: dict[str, str] = ADA) -> dict[str, Any]:
    response = users.post("/login", json=account)
    assert response.status_code == 200, response.text
    assert response.headers["Cache-Control"] == "no-store"
    session: dict[str, Any] = response.json()
    return session


def refresh(users: TestClient, token: str) -> Response:
    return users.post("/refresh", json={"refresh_token": token})


def refreshed(users: TestClient, token: str) -> str:
    """Refresh, and return the new refresh token."""
    response = refresh(users, token)
    assert response.status_code == 200, response.text
    assert response.headers["Cache-Control"] == "no-store"
    assert set(response.json()) == {"access_token", "token_type", "expires_in", "refresh_token"}
    return str(response.json()["refresh_token"])


def log_out(users: TestClient, token: str) -> None:
    response = users.post("/logout", json={"refresh_token": token})
    assert (response.status_code, response.content) == (204, b"")


def is_over(users: TestClient, token: str) -> bool:
    response = refresh(users, token)
    return (response.status_code, response.json().get("code")) == (401, "invalid_refresh_token")


@contextmanager
def after(seconds: float, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Have the rules of sessions applied as if so many seconds had gone by."""
    apply = sessions.refresh

    def later(now: float, *records: Any, **parameters: Any) -> Any:
        return apply(now + seconds, *records, **parameters)

    with monkeypatch.context() as patch:
        patch.setattr(sessions, "refresh", later)
        yield


def test_a_session_goes_on_by_refreshing(
    users: CheckedClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = log_in(users)
    assert (session["token_type"], session["expires_in"]) == ("bearer", 3600)
    token = session["refresh_token"]
    for minutes in range(1, 4):
        with after(minutes * 61, monkeypatch):
            response = refresh(users, token)
        me = users.get("/me", headers=bearer(response.json()["access_token"]))
        assert me.json()["email"] == ADA["email"]
        assert response.json()["refresh_token"] != token
        token = response.json()["refresh_token"]


def test_a_token_that_is_used_again_later_ends_its_session_and_no_other(
    users: CheckedClient, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    first, other = log_in(users)["refresh_token"], log_in(users)["refresh_token"]
    second = refreshed(users, first)
    with after(61, monkeypatch):
        assert is_over(users, first)
        assert is_over(users, second)
    assert refreshed(users, other)
    [logged] = [each for each in caplog.messages if " /" not in each]
    assert "a refresh token was used again; its session has ended" in logged
    assert first not in logged


def test_a_session_that_is_not_used_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    with running("user", {"USE_REDIS": "false", "SESSION_DAYS": "7"}) as users:
        users.post("/register", json=ADA)
        for days, is_too_long in ((6, False), (7.01, True), (-7.01, True)):
            token = log_in(users)["refresh_token"]
            with after(days * 86_400, monkeypatch):
                assert is_over(users, token) is is_too_long


def test_a_logout_takes_any_text_and_ends_one_session(users: CheckedClient) -> None:
    ended, other = log_in(users), log_in(users)
    used = ended["refresh_token"]
    newest = refreshed(users, used)
    for text in ("", "a.b.c.d", "\0", "ü.\u2028.1.x", newest[:-1], newest + "0", "." * 10_000):
        log_out(users, text)
    assert refreshed(users, newest) == newest
    log_out(users, used)
    assert is_over(users, newest)
    log_out(users, newest)
    assert users.get("/me", headers=bearer(ended["access_token"])).status_code == 200
    assert refreshed(users, other["refresh_token"])


def test_neither_looks_at_an_authorization_header(users: CheckedClient) -> None:
    token = log_in(users)["refresh_token"]
    headers = {"Authorization": "Bearer nonsense"}
    assert users.post("/refresh", json={"refresh_token": token}, headers=headers).status_code == 200
    assert users.post("/logout", json={"refresh_token": token}, headers=headers).status_code == 204


def test_another_password_ends_all_sessions_and_starts_one(users: CheckedClient) -> None:
    sessions_before = [log_in(users) for _ in range(3)]
    me = bearer(sessions_before[0]["access_token"])
    change = {"current_password": ADA["password"], "password": "a new password"}
    wrong = users.patch("/me", json={**change, "current_password": "wrong"}, headers=me)
    assert (wrong.status_code, wrong.json()["code"]) == (401, "invalid_credentials")
    assert not is_over(users, sessions_before[1]["refresh_token"])
    changed = users.patch("/me", json=change, headers=me)
    assert changed.headers["Cache-Control"] == "no-store"
    body = changed.json()
    tokens = {"access_token", "token_type", "expires_in", "refresh_token"}
    assert set(body) == {"pk", "email", "created_at", *tokens}
    assert {**body, **users.get("/me", headers=me).json()} == body
    assert all(is_over(users, each["refresh_token"]) for each in sessions_before)
    assert refreshed(users, body["refresh_token"])
    assert users.post("/login", json=ADA).status_code == 401


def test_a_deleted_account_is_gone_and_its_address_is_free(users: CheckedClient) -> None:
    session = log_in(users)
    me = bearer(session["access_token"])
    wrong = users.post("/me/delete", json={"current_password": "wrong"}, headers=me)
    assert (wrong.status_code, wrong.json()["code"]) == (401, "invalid_credentials")
    sure = {"current_password": ADA["password"]}
    assert users.post("/me/delete", json=sure, headers=me).status_code == 204
    for method, path, body in (
        ("GET", "/me", None),
        ("POST", "/me/delete", sure),
        ("PATCH", "/me", {**sure, "password": "a new password"}),
    ):
        gone = users.request(method, path, json=body, headers=me)
        assert (gone.status_code, gone.json()["code"]) == (404, "user_not_found")
    assert users.post("/login", json=ADA).status_code == 401
    assert is_over(users, session["refresh_token"])
    again = users.post("/register", json=ADA).json()
    assert users.get("/me", headers=bearer(log_in(users)["access_token"])).json() == again
    assert is_over(users, session["refresh_token"])


def test_failures_at_a_deletion_and_a_change_count_as_failed_logins(users: CheckedClient) -> None:
    me = bearer(log_in(users)["access_token"])
    wrong = {"current_password": "wrong"}
    for number in range(10):
        if number % 2:
            answer = users.post("/me/delete", json=wrong, headers=me)
        else:
            answer = users.patch("/me", json={**wrong, "password": "12345678"}, headers=me)
        assert answer.status_code == 401
    assert users.post("/login", json=ADA).status_code == 429
    sure = {"current_password": ADA["password"]}
    assert users.post("/me/delete", json=sure, headers=me).status_code == 429


def test_the_account_of_the_settings_is_changed_by_the_settings(users: CheckedClient) -> None:
    me = bearer(log_in(users, BOSS)["access_token"])
    sure = {"current_password": BOSS["password"]}
    for answer in (
        users.post("/me/delete", json=sure, headers=me),
        users.patch("/me", json={**sure, "password": "another one"}, headers=me),
    ):
        assert (answer.status_code, answer.json()["code"]) == (409, "account_is_configured")


@pytest.mark.parametrize("storage", ["redis"])  # where things outlive a service
@pytest.mark.parametrize("same_password", [False, True])
def test_whoever_registered_the_address_of_an_administrator_before_is_logged_out(
    storage_environment: dict[str, str], same_password: bool
) -> None:
    squatter = BOSS if same_password else {**BOSS, "password": "a squatter's own"}
    with running("user", {**storage_environment, **CLOSED}) as users:
        users.post("/register", json=squatter)
        token = log_in(users, squatter)["refresh_token"]
    with running("user", {**storage_environment, **CLOSED, **FOR_THE_BOSS}) as users:
        assert is_over(users, token)
        token = log_in(users, BOSS)["refresh_token"]
    with running("user", {**storage_environment, **CLOSED, **FOR_THE_BOSS}) as users:
        access_token = refresh(users, token).json()["access_token"]
        assert TOKENS.read(access_token).role is Role.ADMIN


@pytest.mark.parametrize("storage", ["redis"])
def test_a_secret_is_changed_without_refusing_anybody(storage_environment: dict[str, str]) -> None:
    steps = [(SECRET, ""), (SECRET, OTHER_SECRET), (OTHER_SECRET, SECRET), (OTHER_SECRET, "")]
    session: dict[str, Any] = {}
    for secret, old in steps:
        environment = {**storage_environment, **CLOSED, "JWT_SECRET": secret}
        with running("user", {**environment, "JWT_SECRET_OLD": old}) as users:
            if not session:
                users.post("/register", json=ADA)
                session = log_in(users)
            me = users.get("/me", headers=bearer(session["access_token"]))
            assert me.status_code == 200
            session = refresh(users, session["refresh_token"]).json()
    with running("user", {**storage_environment, **CLOSED}) as users:  # the first secret again
        assert users.get("/me", headers=bearer(session["access_token"])).status_code == 401
        assert is_over(users, session["refresh_token"])


def test_tokens_that_nobody_gave_are_refused_and_end_nothing(users: CheckedClient) -> None:
    session, token_of_bob = log_in(users), log_in(users, BOB)["refresh_token"]
    token = session["refresh_token"]
    user_pk, session_id, number, mac = token.split(".")
    _, _, _, mac_of_bob = token_of_bob.split(".")
    forged = RefreshTokens([OTHER_SECRET]).write(RefreshToken(user_pk, session_id, 1))
    for text in (
        "", ".", "...", token[:-1], token[1:], f"{token}0", token.upper(), f" {token}",
        f"{user_pk}.{session_id}.2.{mac}", f"{user_pk}.{session_id}.{mac}", mac,
        f"{user_pk}.{session_id}.01.{mac}", f"{user_pk}.{session_id}.{number}.{mac_of_bob}",
        f"{token_of_bob.split('.')[0]}.{session_id}.{number}.{mac}", forged,
        session["access_token"], "x" * 10_000, "." * 10_000, f"{token}.{mac}", "\x00", "ü" * 99,
    ):  # fmt: skip
        assert is_over(users, text), text
    for no_text in (None, 1, True, [token], {"a": token}):
        assert users.post("/refresh", json={"refresh_token": no_text}).status_code == 400
    assert users.get("/me", headers=bearer(token)).status_code == 401
    assert refreshed(users, token)


def test_the_longest_unused_of_fifty_sessions_ends(users: CheckedClient) -> None:
    tokens = [log_in(users)["refresh_token"] for _ in range(50)]
    tokens[0] = refreshed(users, tokens[0])
    log_in(users)
    assert is_over(users, tokens[1])
    assert not any(is_over(users, each) for each in (tokens[0], *tokens[2:]))
