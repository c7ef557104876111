"""How a shop starts: which secrets it takes, and the administrator that it makes."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from httpx2 import Response
from starlette.testclient import TestClient

import product_service
import user_service
from shopsphere.accounts.users import Users
from shopsphere.administrator import ensure_administrator
from shopsphere.domain.errors import CannotStart
from shopsphere.domain.values import Role, User
from shopsphere.passwords import Passwords
from shopsphere.settings import Settings
from storage import open_storage
from tests.people import CLOSED, OPEN, SECRET, TOKENS, bearer, settings
from tests.servers import RedisServer, Service, wait_until

EMAIL, PASSWORD = "boss@example.com", "the boss's password"
ADMIN = {"ADMIN_EMAIL": EMAIL, "ADMIN_PASSWORD": PASSWORD}
ANOTHER_PASSWORD = "another password"


@contextmanager
def user_service_with(environment: dict[str, str]) -> Iterator[TestClient]:
    """Run a user service of a closed shop."""
    with TestClient(user_service.build(settings({**environment, **CLOSED}))) as client:
        yield client


def log_in(users: TestClient, password: str) -> Response:
    return users.post("/login", json={"email": EMAIL, "password": password})


def role_of(answer: Response) -> Role:
    return TOKENS.read(answer.json()["access_token"]).role


REFUSED: dict[str, tuple[dict[str, str], str]] = {
    "the default secret": ({"AUTH_REQUIRED": "true"}, "JWT_SECRET"),
    "the default secret, set": ({"AUTH_REQUIRED": "1", "JWT_SECRET": "supersecret"}, "JWT_SECRET"),
    "an empty secret": ({"AUTH_REQUIRED": "true", "JWT_SECRET": ""}, "JWT_SECRET"),
    "a secret of 31 bytes": ({"AUTH_REQUIRED": "true", "JWT_SECRET": "x" * 31}, "JWT_SECRET"),
    "an address alone": ({"ADMIN_EMAIL": EMAIL}, "ADMIN_PASSWORD"),
    "a password alone": ({"ADMIN_PASSWORD": PASSWORD}, "ADMIN_PASSWORD"),
    "an address alone, closed": ({**CLOSED, "ADMIN_EMAIL": EMAIL}, "ADMIN_PASSWORD"),
    "neither true nor false": ({"AUTH_REQUIRED": "perhaps"}, "AUTH_REQUIRED"),
    "a metrics token with a space": ({"METRICS_TOKEN": "two words"}, "METRICS_TOKEN"),
    **{
        f"a login limit of {limit}": ({"LOGIN_LIMIT": limit}, "LOGIN_LIMIT")
        for limit in (
            "10", "ten/minute", "10/fortnight", "0/minute", "-1/minute", "10/minute;5/second",
            "1/99999999999 year", "10/minute or so",
        )
    },
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_a_wrong_setting_is_refused_in_one_line_that_names_it_and_tells_no_secret(
    case: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    environment, variable = REFUSED[case]
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(CannotStart) as refusal:
        Settings.load()
    line = str(refusal.value)
    assert line.startswith(variable)
    assert line.count("Set it in the environment") == 1
    assert "\n" not in line
    secrets = {environment.get(name) for name in ("JWT_SECRET", "ADMIN_PASSWORD", "METRICS_TOKEN")}
    assert not [secret for secret in secrets if secret and secret in line]


@pytest.mark.parametrize(
    "environment",
    [
        {"AUTH_REQUIRED": "true", "JWT_SECRET": "x" * 32},
        {"AUTH_REQUIRED": "true", "JWT_SECRET": "ü" * 16},
        {"AUTH_REQUIRED": "false", "JWT_SECRET": "short"},
        {"ADMIN_EMAIL": "", "ADMIN_PASSWORD": ""},
        ADMIN,
        {"LOGIN_LIMIT": "100/2 hours"},
        {"LOGIN_LIMIT": "1 per second"},
    ],
)
def test_a_right_setting_is_taken(
    environment: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert Settings.load()


def test_settings_show_no_secret_when_they_are_printed() -> None:
    shown = repr(settings({**CLOSED, **ADMIN}))
    for secret in (SECRET, PASSWORD, CLOSED["METRICS_TOKEN"]):
        assert secret not in shown


@pytest.mark.parametrize(
    ("variable", "wrong"),
    [
        ("ADMIN_EMAIL", "boss"),
        ("ADMIN_EMAIL", f"boss@{'x' * 320}.example"),
        ("ADMIN_PASSWORD", "1234567"),
        ("ADMIN_PASSWORD", "x" * 129),
    ],
    ids=["no address", "a long address", "a short password", "a long password"],
)
def test_an_administrator_who_could_not_register_is_refused_in_one_line(
    variable: str, wrong: str
) -> None:
    app = user_service.build(settings({"USE_REDIS": "false", **OPEN, **ADMIN, variable: wrong}))
    with pytest.raises(CannotStart) as refusal, TestClient(app):
        pass
    line = app.state.cannot_start
    assert line == str(refusal.value)
    assert line.startswith(variable)
    assert "\n" not in line
    assert not [secret for secret in (PASSWORD, "1234567", "x" * 129) if secret in line]


@pytest.mark.parametrize("name", ["product", "user", "order"])
def test_a_service_with_the_default_secret_ends_with_one_line(name: str, tmp_path: Path) -> None:
    service = Service(name, tmp_path / "log", USE_REDIS="false", AUTH_REQUIRED="true")
    service.start(wait=False)
    wait_until(lambda: service.process.poll() is not None, why="it ends")
    log = service.log.read_text()
    assert service.process.returncode != 0
    assert "ERROR:    JWT_SECRET must be" in log
    assert "Traceback" not in log


def test_the_administrator_is_made_at_the_start(storage_environment: dict[str, str]) -> None:
    with user_service_with({**storage_environment, **ADMIN}) as users:
        answer = log_in(users, PASSWORD)
        token = answer.json()["access_token"]
        assert users.get("/me", headers=bearer(token)).json()["email"] == EMAIL
    assert role_of(answer) is Role.ADMIN
    with TestClient(product_service.build(settings({"USE_REDIS": "false", **CLOSED}))) as products:
        body = {"name": "Laptop", "price": 999.99, "quantity": 10}
        assert products.post("/products", json=body, headers=bearer(token)).status_code == 201


def test_an_open_shop_has_its_administrator_too(storage_environment: dict[str, str]) -> None:
    app = user_service.build(settings({**storage_environment, **OPEN, **ADMIN}))
    with TestClient(app) as users:
        assert role_of(log_in(users, PASSWORD)) is Role.ADMIN


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


def test_a_changed_password_takes_effect_at_the_next_start(
    redis_environment: dict[str, str],
) -> None:
    with user_service_with({**redis_environment, **ADMIN}) as users:
        pk = TOKENS.read(log_in(users, PASSWORD).json()["access_token"]).user_id
    changed = {**ADMIN, "ADMIN_PASSWORD": ANOTHER_PASSWORD}
    with user_service_with({**redis_environment, **changed}) as users:
        assert log_in(users, PASSWORD).status_code == 401
        answer = log_in(users, ANOTHER_PASSWORD)
    assert role_of(answer) is Role.ADMIN
    assert TOKENS.read(answer.json()["access_token"]).user_id == pk


def test_a_start_with_the_same_password_leaves_the_account_as_it_is(
    redis_environment: dict[str, str], redis_server: RedisServer
) -> None:
    def account() -> dict[str, str]:
        [key] = redis_server.client.scan_iter("shopsphere:user:*")
        fields: dict[str, str] = redis_server.client.hgetall(key)
        return fields

    with user_service_with({**redis_environment, **ADMIN}):
        first = account()
    with user_service_with({**redis_environment, **ADMIN}):
        assert account() == first


def test_an_administrator_whom_no_setting_names_any_more_stays_one(
    redis_environment: dict[str, str],
) -> None:
    with user_service_with({**redis_environment, **ADMIN}):
        pass
    with user_service_with(redis_environment) as users:
        assert role_of(log_in(users, PASSWORD)) is Role.ADMIN


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


def test_several_workers_that_start_at_once_make_one_administrator(
    redis_environment: dict[str, str], redis_server: RedisServer, tmp_path: Path
) -> None:
    environment = {**redis_environment, **CLOSED, **ADMIN}
    service = Service("user", tmp_path / "user.log", 0, **environment)
    try:
        service.start("--workers", "3")
        wait_until(lambda: service.log.read_text().count("startup complete") == 3)
        body = {"email": EMAIL, "password": PASSWORD}
        answers = [service.post("/login", body).status_code for _ in range(6)]
    finally:
        service.stop()
    assert answers == [200] * 6
    assert len(list(redis_server.client.scan_iter("shopsphere:user:*"))) == 1


@pytest.mark.parametrize("is_taken", [False, True], ids=["free", "taken"])
def test_many_at_once_agree_on_one_administrator_whoever_had_the_address(
    storage_environment: dict[str, str], is_taken: bool
) -> None:
    async def scenario() -> tuple[User | None, list[bool]]:
        named = settings({**storage_environment, **ADMIN})
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


def test_a_start_while_redis_cannot_write_says_so_in_one_line(tmp_path: Path) -> None:
    server = RedisServer(tmp_path)
    environment = {"USE_REDIS": "required", "REDIS_PORT": str(server.port), **CLOSED, **ADMIN}
    service = Service("user", tmp_path / "user.log", 0, **environment)
    try:
        server.client.config_set("min-replicas-to-write", 1)
        service.start(wait=False)
        wait_until(lambda: service.process.poll() is not None, why="it ends")
    finally:
        service.stop()
        server.client.close()
        server.stop()
    log = service.log.read_text()
    assert "The administrator of ADMIN_EMAIL cannot be made" in log
    assert "Traceback" not in log
