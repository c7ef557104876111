"""Logging in and changing the password: same answers, same work, and only so many attempts."""

import statistics
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest
import redis
from httpx2 import Response
from passlib.context import CryptContext
from starlette.testclient import TestClient

import user_service
from shopsphere.accounts.failed_logins import ANY_ADDRESS_FACTOR, client_of
from shopsphere.passwords import HASHING_THREADS
from tests.people import OPEN, bearer, settings
from tests.servers import RedisServer, Service, wait_until

EMAIL, PASSWORD = "ada@example.com", "securepass123"
HOME, ELSEWHERE = "198.51.100.1", "203.0.113.9"


@contextmanager
def user_app(environment: dict[str, str], **more: str) -> Iterator[TestClient]:
    """Run a user service where Ada has an account; its caller is at home."""
    app = user_service.build(settings({**environment, **OPEN, **more}))
    with TestClient(app, client=(HOME, 50_000)) as client:
        client.post("/register", json={"email": EMAIL, "password": PASSWORD})
        yield client


@pytest.fixture
def users(storage_environment: dict[str, str]) -> Iterator[TestClient]:
    """A user service that lets a client fail three times in an hour."""
    with user_app(storage_environment, LOGIN_LIMIT="3/hour") as client:
        yield client


def log_in(
    users: TestClient, password: str = PASSWORD, email: str = EMAIL, at: str = HOME
) -> Response:
    """Try to log in from this address."""
    caller = TestClient(users.app, client=(at, 50_000))
    caller.portal = users.portal
    return caller.post("/login", json={"email": email, "password": password})


def statuses(answers: list[Response]) -> list[int]:
    return [answer.status_code for answer in answers]


def test_a_wrong_password_and_an_unknown_address_get_the_same_answer(users: TestClient) -> None:
    wrong, unknown = log_in(users, "wrong"), log_in(users, email="nobody@example.com")
    assert wrong.status_code == unknown.status_code == 401
    assert wrong.json() == unknown.json()
    assert wrong.json()["code"] == "invalid_credentials"
    assert {*wrong.headers} == {*unknown.headers}


def test_the_same_work_is_done_for_a_wrong_password_and_an_unknown_address(
    users: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    verified: list[str] = []
    verify = CryptContext.verify

    def spy(self: CryptContext, secret: str, hashed: str) -> bool:
        verified.append(hashed)
        return bool(verify(self, secret, hashed))

    monkeypatch.setattr(CryptContext, "verify", spy)
    log_in(users, "wrong")
    log_in(users, email="nobody@example.com")
    known, unknown = verified
    assert known.split("$")[:3] == unknown.split("$")[:3] == ["", "bcrypt-sha256", "v=2,t=2b,r=4"]
    assert len(known) == len(unknown)


@pytest.mark.parametrize("email", [EMAIL, "nobody@example.com"], ids=["known", "unknown"])
def test_a_client_that_fails_too_often_at_an_address_is_refused(
    users: TestClient, email: str
) -> None:
    assert statuses([log_in(users, "wrong", email) for _ in range(3)]) == [401] * 3
    refused = log_in(users, "wrong", email)
    assert (refused.status_code, refused.json()["code"]) == (429, "too_many_logins")
    seconds = refused.headers["Retry-After"]
    assert 3500 < int(seconds) <= 3600
    assert refused.json()["detail"] == f"Too many failed logins. Try again in {seconds} s."
    assert log_in(users, PASSWORD, email).status_code == 429


def test_a_refused_attempt_costs_no_hash(
    users: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    for _ in range(3):
        log_in(users, "wrong")
    monkeypatch.delattr(CryptContext, "verify")
    assert log_in(users, "wrong").status_code == 429


def test_nobody_can_lock_an_owner_out_from_elsewhere(users: TestClient) -> None:
    answers = [log_in(users, "wrong", at=ELSEWHERE) for _ in range(5)]
    assert statuses(answers) == [401, 401, 401, 429, 429]
    assert log_in(users).status_code == 200


def test_failing_at_one_address_does_not_keep_a_client_from_another(users: TestClient) -> None:
    for _ in range(4):
        log_in(users, "wrong", "nobody@example.com")
    assert log_in(users).status_code == 200


def test_a_success_clears_the_clients_count_at_that_address_alone(users: TestClient) -> None:
    for _ in range(2):
        log_in(users, "wrong")
        log_in(users, "wrong", at=ELSEWHERE)
        log_in(users, "wrong", "nobody@example.com")
    assert log_in(users).status_code == 200
    assert statuses([log_in(users, "wrong") for _ in range(4)]) == [401, 401, 401, 429]
    elsewhere = [log_in(users, "wrong", at=ELSEWHERE) for _ in range(2)]
    assert statuses(elsewhere) == [401, 429]
    other = [log_in(users, "wrong", "nobody@example.com") for _ in range(2)]
    assert statuses(other) == [401, 429]


def test_successes_never_count(users: TestClient) -> None:
    assert statuses([log_in(users) for _ in range(8)]) == [200] * 8


def test_a_client_that_fails_at_many_addresses_is_refused_at_all(users: TestClient) -> None:
    at_all = 3 * ANY_ADDRESS_FACTOR
    answers = [log_in(users, "wrong", f"{n}@example.com") for n in range(at_all)]
    assert statuses(answers) == [401] * at_all
    assert log_in(users).status_code == 429
    assert log_in(users, at=ELSEWHERE).status_code == 200


def test_a_success_does_not_clear_the_count_at_all_addresses(users: TestClient) -> None:
    for n in range(3 * ANY_ADDRESS_FACTOR - 1):
        log_in(users, "wrong", f"{n}@example.com")
    assert log_in(users).status_code == 200
    assert log_in(users, "wrong").status_code == 401
    assert log_in(users).status_code == 429


def test_an_address_is_the_same_in_any_case(users: TestClient) -> None:
    for email in ("ada@example.com", "Ada@Example.COM", " ADA@example.com"):
        log_in(users, "wrong", email)
    assert log_in(users).status_code == 429


def test_attempts_that_come_at_once_hardly_pass_the_limit(users: TestClient) -> None:
    with ThreadPoolExecutor(20) as threads:
        answers = list(threads.map(lambda _: log_in(users, "wrong"), range(20)))
    assert 3 <= statuses(answers).count(401) < 3 + HASHING_THREADS
    assert {*statuses(answers)} == {401, 429}


def test_a_limit_is_over_when_its_time_is(storage_environment: dict[str, str]) -> None:
    with user_app(storage_environment, LOGIN_LIMIT="1/second") as users:
        log_in(users, "wrong")
        assert log_in(users).status_code == 429
        wait_until(lambda: log_in(users).status_code == 200, 5)


def test_the_counts_lie_under_the_prefix_and_go_away(redis_server: RedisServer) -> None:
    redis_server.client.flushall()
    environment = {"USE_REDIS": "required", "REDIS_PORT": str(redis_server.port)}
    with user_app(environment, REDIS_PREFIX="a-shop", LOGIN_LIMIT="3/hour") as users:
        log_in(users, "wrong")
    keys = [str(key) for key in redis_server.client.scan_iter("*login*")]
    assert len(keys) == 2
    assert all(key.startswith("a-shop:") for key in keys)
    assert all(0 < int(str(redis_server.client.ttl(key))) <= 3600 for key in keys)


def test_a_redis_that_cannot_count_is_an_outage(tmp_path: Path) -> None:
    server = RedisServer(tmp_path)
    environment = {"USE_REDIS": "required", "REDIS_PORT": str(server.port)}
    try:
        with user_app(environment) as users:
            server.client.config_set("maxmemory", 1)  # reads go on, writes are refused
            with pytest.raises(redis.RedisError):
                server.client.set("x", 1)
            full = log_in(users, "wrong")
            server.client.config_set("maxmemory", 0)
            assert log_in(users, "wrong").status_code == 401
            server.stop()
            away = log_in(users)
    finally:
        server.client.close()
        server.stop()
    for answer in (full, away):
        assert (answer.status_code, answer.json()["code"]) == (503, "storage_unavailable")
        assert answer.headers["Retry-After"]


@pytest.mark.parametrize(
    ("host", "client"),
    [
        ("198.51.100.1", "198.51.100.1"),
        ("::ffff:198.51.100.1", "198.51.100.1"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("2001:db8:1:2::1", "2001:db8:1:2::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        ("testclient", "testclient"),
        ("", ""),
    ],
)
def test_a_client_is_an_ipv4_address_or_an_ipv6_network(host: str, client: str) -> None:
    assert client_of(host) == client


@pytest.mark.parametrize(
    ("trusted", "limited"), [("192.0.2.1", [401, 429, 429]), ("127.0.0.1", [401, 401, 429])]
)
def test_x_forwarded_for_counts_only_from_a_proxy_that_uvicorn_trusts(
    trusted: str, limited: list[int], tmp_path: Path
) -> None:
    service = Service("user", tmp_path / "user.log", USE_REDIS="false", LOGIN_LIMIT="1/hour")
    try:
        service.start("--forwarded-allow-ips", trusted)
        body = {"email": EMAIL, "password": "wrong"}
        answers = [
            service.post("/login", body, headers={"X-Forwarded-For": client}).status_code
            for client in (HOME, ELSEWHERE, ELSEWHERE)
        ]
    finally:
        service.stop()
    assert answers == limited


def seconds(do: Callable[[], object]) -> float:
    """Return how long this takes."""
    started = time.perf_counter()
    do()
    return time.perf_counter() - started


def test_fifty_logins_at_once_hold_nothing_up(tmp_path: Path) -> None:
    environment = {"USE_REDIS": "false", "BCRYPT_ROUNDS": "10", "ORDER_TIMEOUT": "60"}
    service = Service("user", tmp_path / "user.log", 0, **environment)
    try:
        service.start()
        body = {"email": EMAIL, "password": PASSWORD}
        service.post("/register", body)
        a_login_takes = min(seconds(lambda: service.post("/login", body)) for _ in range(3))
        waits: list[float] = []
        with ThreadPoolExecutor(50) as threads:
            logins: list[Future[int]] = [
                threads.submit(lambda: service.post("/login", body).status_code) for _ in range(50)
            ]
            while not all(login.done() for login in logins):
                waits.append(seconds(lambda: service.get("/ready")))
    finally:
        service.stop()
    assert [login.result() for login in logins] == [200] * 50
    assert statistics.median(waits) < a_login_takes / 2


def change_password(users: TestClient, token: str, current: str, new: str) -> Response:
    body = {"current_password": current, "password": new}
    return users.patch("/me", json=body, headers=bearer(token))


def token_of(users: TestClient) -> str:
    return str(log_in(users).json()["access_token"])


def test_a_new_password_replaces_the_old_one(users: TestClient) -> None:
    token = token_of(users)
    answer = change_password(users, token, PASSWORD, "my next password")
    assert answer.status_code == 200
    assert answer.json() == users.get("/me", headers=bearer(token)).json()
    assert set(answer.json()) == {"pk", "email", "created_at"}
    assert log_in(users, PASSWORD).status_code == 401
    assert log_in(users, "my next password").status_code == 200


def test_a_wrong_current_password_changes_nothing(users: TestClient) -> None:
    answer = change_password(users, token_of(users), "wrong", "my next password")
    assert (answer.status_code, answer.json()["code"]) == (401, "invalid_credentials")
    assert log_in(users, "my next password").status_code == 401
    assert log_in(users).status_code == 200


@pytest.mark.parametrize(
    "body",
    [
        {"current_password": PASSWORD, "password": "short"},
        {"current_password": PASSWORD, "password": "x" * 129},
        {"current_password": PASSWORD},
        {"password": "my next password"},
        {"current_password": PASSWORD, "password": "my next password", "role": "admin"},
        {"current_password": PASSWORD, "password": None},
    ],
    ids=["short", "long", "no new one", "no current one", "a role", "null"],
)
def test_a_new_password_has_to_keep_the_rules_of_registering(
    users: TestClient, body: dict[str, str]
) -> None:
    answer = users.patch("/me", json=body, headers=bearer(token_of(users)))
    assert (answer.status_code, answer.json()["code"]) == (400, "invalid_request")
    assert log_in(users).status_code == 200


def test_guessing_the_current_password_counts_as_failed_logins(users: TestClient) -> None:
    token = token_of(users)
    answers = [change_password(users, token, "wrong", "my next password") for _ in range(4)]
    assert statuses(answers) == [401, 401, 401, 429]
    assert log_in(users).status_code == 429


def test_of_two_changes_at_once_from_one_password_one_wins(users: TestClient) -> None:
    token = token_of(users)
    new = ["the first password", "the second password"]
    with ThreadPoolExecutor(2) as threads:
        answers = list(threads.map(lambda text: change_password(users, token, PASSWORD, text), new))
    winners = [text for text, answer in zip(new, answers, strict=True) if answer.is_success]
    assert len(winners) == 1
    assert {text for text in new if log_in(users, text).is_success} == set(winners)


@pytest.mark.parametrize(
    "password",
    ["nul \x00 inside", "\x00" * 8, "пароль и ключ", "😀" * 8, "\u202e reversed", "x" * 128],
    ids=["nul", "only nul", "cyrillic", "emoji", "direction", "longest"],
)
def test_any_character_can_be_in_a_password(users: TestClient, password: str) -> None:
    account = {"email": "bob@example.com", "password": password}
    assert users.post("/register", json=account).status_code == 201
    assert log_in(users, password, "bob@example.com").status_code == 200
    assert log_in(users, password[:-1], "bob@example.com").status_code == 401


def test_every_byte_of_a_long_password_counts(users: TestClient) -> None:
    account = {"email": "bob@example.com", "password": "x" * 80}
    users.post("/register", json=account)
    assert log_in(users, "x" * 79, "bob@example.com").status_code == 401
    assert log_in(users, "x" * 80, "bob@example.com").status_code == 200


def test_half_a_surrogate_is_refused(users: TestClient) -> None:
    body = b'{"email": "bob@example.com", "password": "\\ud800securepass"}'
    for path in ("/register", "/login"):
        answer = users.post(path, content=body, headers={"Content-Type": "application/json"})
        assert (answer.status_code, answer.json()["code"]) == (400, "invalid_request")
