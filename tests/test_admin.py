"""How a shop starts: which secrets it takes, and the administrator that it makes."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from httpx2 import Response
from starlette.testclient import TestClient

import user_service
from shopsphere.accounts.administrator import ensure_administrator
from shopsphere.accounts.passwords import Passwords
from shopsphere.accounts.users import Users
from shopsphere.domain.errors import CannotStart
from shopsphere.domain.values import Role, User
from storage import open_storage
from tests.apps import bearer, settings_of
from tests.people import CLOSED, TOKENS
from tests.servers import RedisServer, Service

EMAIL, PASSWORD = "boss@example.com", "the boss's password"
ADMIN = {"ADMIN_EMAIL": EMAIL, "ADMIN_PASSWORD": PASSWORD}
ANOTHER_PASSWORD = "another password"


@contextmanager
def user_service_with(environment: dict[str, str]) -> Iterator[TestClient]:
    """Run a user service of a closed shop."""
    with TestClient(user_service.build(settings_of({**environment, **CLOSED}))) as client:
        yield client


def log_in(users: TestClient, password: str) -> Response:
    return users.post("/login", json={"email": EMAIL, "password": password})


def role_of(answer: Response) -> Role:
    return TOKENS.read(answer.json()["access_token"]).role


REFUSED: dict[str, tuple[str, dict[str, str]]] = {
    "the default secret": ("JWT_SECRET", {"AUTH_REQUIRED": "true"}),
    "31 bytes": ("JWT_SECRET", {"AUTH_REQUIRED": "true", "JWT_SECRET": "x" * 31}),
    "a password alone": ("ADMIN_PASSWORD", {"ADMIN_PASSWORD": PASSWORD}),
    "an address alone": ("ADMIN_PASSWORD", {**CLOSED, "ADMIN_EMAIL": EMAIL}),
    "a metrics token with a space": ("METRICS_TOKEN", {"METRICS_TOKEN": "two words"}),
    "an unknown period": ("LOGIN_LIMIT", {"LOGIN_LIMIT": "10/fortnight"}),
    "no failure at all": ("LOGIN_LIMIT", {"LOGIN_LIMIT": "0/minute"}),
    "two limits": ("LOGIN_LIMIT", {"LOGIN_LIMIT": "10/minute;5/second"}),
    "no end": ("LOGIN_LIMIT", {"LOGIN_LIMIT": "1/99999999999 year"}),
    "no address": ("ADMIN_EMAIL", {**ADMIN, "ADMIN_EMAIL": "boss"}),
    "a short password": ("ADMIN_PASSWORD", {**ADMIN, "ADMIN_PASSWORD": "1234567"}),
    "a long password": ("ADMIN_PASSWORD", {**ADMIN, "ADMIN_PASSWORD": "x" * 129}),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_wrong_is_told_in_one_line_that_names_it_and_tells_no_secret(
    case: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    variable, environment = REFUSED[case]
    for name, value in {"USE_REDIS": "false", **environment}.items():
        monkeypatch.setenv(name, value)
    app = user_service.build()
    with pytest.raises(CannotStart), TestClient(app):
        pass
    line = app.state.service.cannot_start
    assert line.startswith(variable)
    assert "\n" not in line
    secrets = {environment.get(name) for name in ("JWT_SECRET", "ADMIN_PASSWORD")}
    assert not [secret for secret in secrets if secret and secret in line]


@pytest.mark.parametrize(
    "environment",
    [
        {"AUTH_REQUIRED": "true", "JWT_SECRET": "ü" * 16},
        {"AUTH_REQUIRED": "false", "JWT_SECRET": "short", "ADMIN_EMAIL": "", "ADMIN_PASSWORD": ""},
        {"LOGIN_LIMIT": "100/2 hours"},
        {"LOGIN_LIMIT": "1 per second"},
    ],
)
def test_a_right_setting_is_taken(environment: dict[str, str]) -> None:
    assert settings_of(environment)


def test_a_service_that_cannot_start_ends_with_one_line(tmp_path: Path) -> None:
    server = RedisServer(tmp_path)
    redis = {"USE_REDIS": "required", "REDIS_PORT": str(server.port), **ADMIN}
    try:
        server.client.config_set("min-replicas-to-write", 1)
        for environment, line in (
            ({**redis, **CLOSED}, "The administrator of ADMIN_EMAIL cannot be made"),
            ({"AUTH_REQUIRED": "true"}, "ERROR:    JWT_SECRET must be"),
        ):
            service = Service("user", tmp_path / "user.log", 0, **environment)
            service.start(wait=False)
            assert service.process.wait(30) != 0
            log = service.log.read_text()
            assert line in log
            assert "Traceback" not in log
    finally:
        server.client.close()
        server.stop()


def test_somebody_who_registers_is_no_administrator(storage_environment: dict[str, str]) -> None:
    account = {"email": "ada@example.com", "password": ANOTHER_PASSWORD}
    with user_service_with({**storage_environment, **ADMIN}) as users:
        again = users.post("/register", json={**account, "email": EMAIL.upper()})
        assert again.json()["code"] == "email_taken"
        assert users.post("/register", json={**account, "role": "admin"}).status_code == 400
        users.post("/register", json=account)
        assert role_of(users.post("/login", json=account)) is Role.USER


@pytest.fixture
def redis_environment(redis_server: RedisServer) -> dict[str, str]:
    """The settings for Redis, where things outlive a service."""
    redis_server.client.flushall()
    return {"USE_REDIS": "required", "REDIS_PORT": str(redis_server.port)}


def test_the_administrator_is_as_the_settings_of_the_last_start_that_named_one_say(
    redis_environment: dict[str, str], redis_server: RedisServer
) -> None:
    def account() -> tuple[str, dict[str, str]]:
        [key] = redis_server.client.scan_iter("shopsphere:user:*")
        return str(key), redis_server.client.hgetall(key)

    with user_service_with({**redis_environment, **ADMIN}) as users:
        assert role_of(log_in(users, PASSWORD)) is Role.ADMIN
        first = account()
    with user_service_with({**redis_environment, **ADMIN}):
        assert account() == first
    with user_service_with(redis_environment) as users:
        assert role_of(log_in(users, PASSWORD)) is Role.ADMIN
    changed = {**ADMIN, "ADMIN_PASSWORD": ANOTHER_PASSWORD}
    with user_service_with({**redis_environment, **changed}) as users:
        assert log_in(users, PASSWORD).status_code == 401
        answer = log_in(users, ANOTHER_PASSWORD)
    assert role_of(answer) is Role.ADMIN
    assert account()[0] == first[0]


def test_who_registered_the_address_before_is_no_administrator(
    redis_environment: dict[str, str],
) -> None:
    account = {"email": EMAIL, "password": ANOTHER_PASSWORD}
    with user_service_with(redis_environment) as users:
        pk = users.post("/register", json=account).json()["pk"]
        old_token = log_in(users, ANOTHER_PASSWORD).json()["access_token"]
    with user_service_with({**redis_environment, **ADMIN}) as users:
        assert log_in(users, ANOTHER_PASSWORD).status_code == 401
        answer = log_in(users, PASSWORD)
        body = {"current_password": ANOTHER_PASSWORD, "password": "taken back again"}
        taken_back = users.patch("/me", json=body, headers=bearer(old_token))
    assert taken_back.status_code == 401
    assert role_of(answer) is Role.ADMIN
    assert TOKENS.read(answer.json()["access_token"]).user_id == pk
    assert TOKENS.read(old_token).role is Role.USER


@pytest.mark.parametrize("is_taken", [False, True], ids=["free", "taken"])
def test_many_at_once_agree_on_one_administrator_whoever_had_the_address(
    storage_environment: dict[str, str], is_taken: bool
) -> None:
    async def scenario() -> tuple[User | None, list[bool]]:
        named = settings_of({**storage_environment, **ADMIN})
        records = (await open_storage(named)).records
        users = Users(records)
        with Passwords(4) as passwords:
            theirs = await passwords.hash(ANOTHER_PASSWORD)
            if is_taken:
                await users.register(EMAIL, theirs)
            starts = [ensure_administrator(named, users, passwords) for _ in range(5)]
            await asyncio.gather(*starts)
            found = await users.find(EMAIL)
            hashed = found.password_hash if found else None
            right = [await passwords.verify(text, hashed) for text in (PASSWORD, ANOTHER_PASSWORD)]
        await records.close()
        return found, right

    found, right = asyncio.run(scenario())
    assert found
    assert found.role is Role.ADMIN
    assert right == [True, False]
