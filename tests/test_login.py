"""Registering, logging in and changing the password: only so many attempts, on each storage."""

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import pytest
from httpx2 import Response
from passlib.context import CryptContext
from starlette.testclient import TestClient

import user_service
from shopsphere.accounts.failed_logins import client_of
from shopsphere.accounts.passwords import HASHING_THREADS, Passwords
from shopsphere.domain import people
from shopsphere.domain.values import Role
from shopsphere.tokens import Caller
from tests.apps import bearer, settings_of
from tests.people import OPEN, TOKENS
from tests.servers import RedisServer

EMAIL, PASSWORD = "ada@example.com", "securepass123"
HOME, ELSEWHERE = "198.51.100.1", "203.0.113.9"


@contextmanager
def user_app(environment: dict[str, str], **more: str) -> Iterator[TestClient]:
    """Run a user service where Ada has an account; its caller is at home."""
    app = user_service.build(settings_of({**environment, **OPEN, **more}))
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


def test_who_registers_and_logs_in_gets_a_token_that_tells_who_one_is(users: TestClient) -> None:
    account = {"email": "anna@example.com", "password": PASSWORD}
    anna = users.post("/register", json=account).json()
    assert set(anna) == {"pk", "email", "created_at"}
    assert (anna["email"], anna["created_at"][-1]) == ("anna@example.com", "Z")
    taken = users.post("/register", json={**account, "email": "ANNA@example.com"})
    assert (taken.status_code, taken.json()["code"]) == (400, "email_taken")
    session = users.post("/login", json=account).json()
    assert session == {**session, "token_type": "bearer", "expires_in": 3600}
    assert TOKENS.read(session["access_token"]) == Caller(anna["pk"], Role.USER)
    me = users.get("/me", headers=bearer(session["access_token"]))
    assert (me.status_code, me.json()) == (200, anna)


def test_a_client_without_an_address_is_warned_of(capsys: pytest.CaptureFixture[str]) -> None:
    app = user_service.build(settings_of({"USE_REDIS": "false"}))
    for client in (None, (HOME, 50_000)):  # a Unix socket has none
        with TestClient(app, client=client) as users:  # type: ignore[arg-type]  # None works too
            users.post("/login", json={"email": EMAIL, "password": PASSWORD})
        assert ("a client has no address" in capsys.readouterr().err) == (client is None)


def test_an_address_is_composed_once_more_in_lower_case() -> None:
    assert people.checked_email("x\u1fbc\u0301@example.com") == "x\u1fb4@example.com"


def test_an_address_is_kept_in_lower_case(users: TestClient) -> None:
    for given, kept in (
        ("User@Example.COM", "user@example.com"),
        ("  padded@example.com\n", "padded@example.com"),
        ("first.last+tag@sub.example.co.uk", "first.last+tag@sub.example.co.uk"),
        ("jürgen@bücher.example.com", "jürgen@bücher.example.com"),
        ("someone@example.test", "someone@example.test"),
    ):
        made = users.post("/register", json={"email": given, "password": PASSWORD})
        assert made.json()["email"] == kept
        logins = [log_in(users, email=email) for email in (given, kept.upper())]
        assert statuses(logins) == [200, 200]


@pytest.mark.parametrize("password", ["a" * 8, "a" * 128, "💶" * 128, "\0" * 8])
def test_a_password_has_8_to_128_characters_of_any_kind(users: TestClient, password: str) -> None:
    users.post("/register", json={"email": "anna@example.com", "password": password})
    logins = [log_in(users, each, "anna@example.com") for each in (password, password[:-1])]
    assert statuses(logins) == [200, 401]


def test_a_password_is_the_same_however_a_keyboard_composes_it(users: TestClient) -> None:
    composed, decomposed = "caf\u00e9 noir", "cafe\u0301 noir"
    for number, made in enumerate((composed, decomposed)):
        email = f"anna{number}@example.com"
        users.post("/register", json={"email": email, "password": made})
        logins = [log_in(users, typed, email) for typed in (composed, decomposed, "cafe noir")]
        assert statuses(logins) == [200, 200, 401]
    of_0_1_0 = CryptContext(["bcrypt_sha256"], bcrypt_sha256__rounds=4).hash(decomposed)
    assert users.portal
    assert users.portal.call(Passwords(4).verify, decomposed, of_0_1_0)


def test_a_wrong_password_and_an_unknown_address_get_the_same_answer_for_the_same_work(
    users: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    verified: list[str] = []
    verify = CryptContext.verify

    def spy(self: CryptContext, secret: str, hashed: str) -> bool:
        verified.append(hashed)
        return bool(verify(self, secret, hashed))

    monkeypatch.setattr(CryptContext, "verify", spy)
    for password, hashes in (("wrong", 1), ("wrong cafe\u0301", 2)):  # composed, and as typed
        verified.clear()
        wrong = log_in(users, password)
        unknown = log_in(users, password, "nobody@example.com")
        assert wrong.status_code == unknown.status_code == 401
        assert wrong.json() == unknown.json()
        assert wrong.json()["code"] == "invalid_credentials"
        assert {*wrong.headers} == {*unknown.headers}
        kinds = [(hashed.split("$")[:3], len(hashed)) for hashed in verified]
        assert kinds == [(["", "bcrypt-sha256", "v=2,t=2b,r=4"], len(verified[0]))] * 2 * hashes


@pytest.mark.parametrize("email", [EMAIL, "nobody@example.com"])
def test_a_client_that_fails_too_often_at_an_address_is_refused_without_a_hash(
    users: TestClient, email: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    spellings = (email, email.upper(), f" {email}")
    assert statuses([log_in(users, "wrong", spelling) for spelling in spellings]) == [401] * 3
    assert log_in(users, PASSWORD, "another@example.com").status_code == 401
    monkeypatch.delattr(CryptContext, "verify")
    refused = log_in(users, PASSWORD, email)
    assert (refused.status_code, refused.json()["code"]) == (429, "too_many_logins")
    seconds = refused.headers["Retry-After"]
    assert 3500 < int(seconds) <= 3600
    assert refused.json()["detail"] == f"Too many failed logins. Try again in {seconds} s."


def test_nobody_can_lock_an_owner_out_from_elsewhere(users: TestClient) -> None:
    answers = [log_in(users, "wrong", at=ELSEWHERE) for _ in range(5)]
    assert statuses(answers) == [401, 401, 401, 429, 429]
    assert log_in(users).status_code == 200


def test_failures_that_cannot_be_counted_are_an_outage(own_redis: RedisServer) -> None:
    with user_app({"USE_REDIS": "required", "REDIS_PORT": str(own_redis.port)}) as users:
        own_redis.client.config_set("maxmemory", 1)  # reads go on, writes are refused
        answer = log_in(users, "wrong")
    assert (answer.status_code, answer.json()["code"]) == (503, "storage_unavailable")


def test_a_client_is_an_ipv4_address_or_an_ipv6_network() -> None:
    assert client_of("2001:db8:1:2:3:4:5:6") == client_of("2001:db8:1:2::1")
    assert client_of("2001:db8:1:2::1") != client_of("2001:db8:1:3::1")
    assert client_of("::ffff:198.51.100.1") == client_of("198.51.100.1")


def test_a_client_that_fails_at_many_addresses_is_refused_at_all(users: TestClient) -> None:
    answers = [log_in(users, "wrong", f"{n}@example.com") for n in range(29)]
    assert statuses(answers) == [401] * 29
    assert log_in(users).status_code == 200  # and does not clear this count
    assert log_in(users, "wrong").status_code == 401
    assert log_in(users).status_code == 429
    assert log_in(users, at=ELSEWHERE).status_code == 200


def test_a_success_clears_the_clients_count_at_that_address_alone(users: TestClient) -> None:
    def fail(times: int, email: str = EMAIL, at: str = HOME) -> list[int]:
        return statuses([log_in(users, "wrong", email, at) for _ in range(times)])

    others = (EMAIL, ELSEWHERE), ("nobody@example.com", HOME)
    for email, at in (*others, (EMAIL, HOME)):
        fail(2, email, at)
    assert log_in(users).status_code == 200
    assert fail(4) == [401, 401, 401, 429]
    for email, at in others:
        assert fail(2, email, at) == [401, 429]


def test_attempts_that_come_at_once_hardly_pass_the_limit(users: TestClient) -> None:
    with ThreadPoolExecutor(20) as threads:
        answers = list(threads.map(lambda _: log_in(users, "wrong"), range(20)))
    assert 3 <= statuses(answers).count(401) < 3 + HASHING_THREADS
    assert {*statuses(answers)} == {401, 429}


def test_who_logs_in_holds_nobody_up(users: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    has_begun, is_served = threading.Event(), threading.Event()

    def verify(*_: object) -> bool:
        has_begun.set()
        return is_served.wait(10)

    monkeypatch.setattr(CryptContext, "verify", verify)
    with ThreadPoolExecutor(1) as threads:
        login = threads.submit(log_in, users)
        assert has_begun.wait(10)
        assert users.get("/ready").status_code == 200
        is_served.set()
    assert login.result().status_code == 200
