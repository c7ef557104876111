"""How a shop starts: which secrets it takes, and the administrator that it makes."""

import asyncio
import os
import re
from unittest.mock import AsyncMock, patch

import pytest
from httpx2 import Response
from starlette.testclient import TestClient

from shopsphere.accounts.administrator import ensure_administrator
from shopsphere.accounts.users import Users
from shopsphere.domain.errors import StoreUnavailable
from shopsphere.domain.values import Role
from shopsphere.settings import CannotStart, Settings
from shopsphere.tokens import Caller
from storage import open_storage
from tests.apps import BUILD, running, settings_of
from tests.people import CLOSED, TOKENS, users_in

EMAIL, PASSWORD = "boss@example.com", "the boss's password"
ADMIN = {"ADMIN_EMAIL": EMAIL, "ADMIN_PASSWORD": PASSWORD}
ANOTHER_PASSWORD = "another password"


def log_in(users: TestClient, password: str) -> Response:
    return users.post("/login", json={"email": EMAIL, "password": password})


def caller_of(login: Response) -> Caller:
    return TOKENS.read(login.json()["access_token"])


REFUSED: list[tuple[str, dict[str, str]]] = [
    ("JWT_SECRET", {"AUTH_REQUIRED": "true"}),  # the default one
    ("JWT_SECRET", {"AUTH_REQUIRED": "true", "JWT_SECRET": "x" * 31}),
    ("JWT_SECRET_OLD", {**CLOSED, "JWT_SECRET_OLD": "x" * 31}),
    ("JWT_SECRET_OLD", {**CLOSED, "JWT_SECRET_OLD": "supersecret"}),
    ("SESSION_DAYS", {"SESSION_DAYS": "0"}),
    ("ADMIN_PASSWORD", {"ADMIN_PASSWORD": PASSWORD}),
    ("ADMIN_PASSWORD", {**CLOSED, "ADMIN_EMAIL": EMAIL}),
    ("ADMIN_PASSWORD", {**ADMIN, "ADMIN_PASSWORD": "1234567"}),
    ("ADMIN_PASSWORD", {**ADMIN, "ADMIN_PASSWORD": "x" * 129}),
    ("ADMIN_EMAIL", {**ADMIN, "ADMIN_EMAIL": "boss"}),
    ("METRICS_TOKEN", {"METRICS_TOKEN": "two words"}),
    ("LOGIN_LIMIT", {"LOGIN_LIMIT": "10/fortnight"}),
    ("LOGIN_LIMIT", {"LOGIN_LIMIT": "0/minute"}),
]


def test_what_is_wrong_is_told_in_one_line_that_names_it_and_tells_no_secret() -> None:
    for variable, environment in REFUSED:
        with patch.dict(os.environ, environment), pytest.raises(CannotStart) as refusal:
            Settings.load()
        assert re.fullmatch(f"{variable} .+", str(refusal.value))
        for secret in ("JWT_SECRET", "ADMIN_PASSWORD"):
            assert environment.get(secret, "no secret") not in str(refusal.value)


def test_a_right_setting_is_taken() -> None:
    for environment in (
        {"AUTH_REQUIRED": "true", "JWT_SECRET": "ü" * 16},
        {"AUTH_REQUIRED": "false", "JWT_SECRET": "short", "ADMIN_EMAIL": "", "ADMIN_PASSWORD": ""},
        {"LOGIN_LIMIT": "100 per 2 hours"},
    ):
        assert settings_of(environment)


@pytest.mark.anyio
async def test_a_storage_that_cannot_serve_at_the_start_is_told_in_one_line(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(Users, "find", AsyncMock(side_effect=StoreUnavailable))
    app, send = BUILD["user"](settings_of({"USE_REDIS": "false", **ADMIN})), AsyncMock()
    with pytest.raises(StoreUnavailable) as error:
        await app({"type": "lifespan", "state": {}}, AsyncMock(), send)
    send.assert_awaited_with({"type": "lifespan.startup.failed", "message": str(error.value)})


@pytest.mark.parametrize("storage", ["redis"])  # where things outlive a service
def test_the_administrator_is_as_the_settings_of_the_last_start_that_named_one_say(
    storage_environment: dict[str, str],
) -> None:
    callers = []
    for settings, password in (
        (ADMIN, PASSWORD),
        ({}, PASSWORD),
        ({**ADMIN, "ADMIN_PASSWORD": ANOTHER_PASSWORD}, ANOTHER_PASSWORD),
    ):
        with running("user", {**storage_environment, **CLOSED, **settings}) as users:
            callers.append(caller_of(log_in(users, password)))
            other = PASSWORD if password == ANOTHER_PASSWORD else ANOTHER_PASSWORD
            assert log_in(users, other).status_code == 401
    assert callers == [Caller(callers[0].user_pk, Role.ADMIN)] * 3


@pytest.mark.anyio
@pytest.mark.parametrize("is_taken", [False, True], ids=["free", "taken"])
async def test_many_at_once_agree_on_one_administrator_whoever_had_the_address(
    storage_environment: dict[str, str], is_taken: bool
) -> None:
    named = settings_of({**storage_environment, **ADMIN})
    records = (await open_storage(named)).records
    users = users_in(records)
    taken = await users.register(EMAIL, ANOTHER_PASSWORD) if is_taken else None
    await asyncio.gather(*(ensure_administrator(named, users) for _ in range(5)))
    found = await users.find(EMAIL)
    assert found
    assert found.pk == (taken or found).pk
    assert found.role is Role.ADMIN
    assert await users.has_password(found, PASSWORD)
    assert not await users.has_password(found, ANOTHER_PASSWORD)
    await records.close()
