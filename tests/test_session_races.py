"""Races between two user services on one Redis.

The services hash with different rounds, so a login at one renews what the other has hashed.
"""

import random
from collections.abc import Callable, Iterator
from functools import partial

import pytest

from tests.load import Answer, at_once, send
from tests.servers import RedisServer, Service

ROUNDS = range(8)
PASSWORD, OTHER = "the first password", "the second password"


@pytest.fixture(scope="module")
def services(
    redis_server: RedisServer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[list[Service]]:
    redis_server.client.flushall()
    folder = tmp_path_factory.mktemp("users")
    settings = {"USE_REDIS": "required", "REDIS_PORT": str(redis_server.port)}
    settings |= {"LOGIN_LIMIT": "10000/minute", "LOG_LEVEL": "WARNING"}
    services = [
        Service("user", folder / rounds, 0, BCRYPT_ROUNDS=rounds, **settings) for rounds in "45"
    ]
    try:
        yield [service.start() for service in services]
    finally:
        for service in services:
            service.stop()


def post(service: Service, path: str, token: str | None = None, **body: str) -> Answer:
    return send("POST", f"{service.url}{path}", body, token=token)


def register(service: Service, email: str, password: str = PASSWORD) -> Answer:
    return post(service, "/register", email=email, password=password)


def log_in(service: Service, email: str, password: str = PASSWORD) -> Answer:
    return post(service, "/login", email=email, password=password)


def refresh(service: Service, token: str) -> Answer:
    return post(service, "/refresh", refresh_token=token)


def log_out(service: Service, session: dict[str, str]) -> Answer:
    return post(service, "/logout", refresh_token=session["refresh_token"])


def change(service: Service, session: dict[str, str]) -> Answer:
    body = {"current_password": PASSWORD, "password": OTHER}
    return send("PATCH", f"{service.url}/me", body, token=session["access_token"])


def delete(service: Service, session: dict[str, str]) -> Answer:
    return post(service, "/me/delete", session["access_token"], current_password=PASSWORD)


def race(*calls: Callable[[], Answer]) -> list[Answer]:
    """Make these calls at once, begun in any order; return their answers in the order given."""
    order = random.sample(range(len(calls)), len(calls))
    answers = at_once(len(calls), lambda at: calls[at](), order)
    return [answer for _, answer in sorted(zip(order, answers, strict=True))]


def given(answers: list[Answer]) -> set[str]:
    """Return the refresh tokens of these answers."""
    return {answer.body["refresh_token"] for answer in answers if answer.status == 200}


def must_be_over(services: list[Service], tokens: set[str]) -> None:
    answers = [refresh(service, token) for service in services for token in tokens]
    assert {answer.code for answer in answers} == {"invalid_refresh_token"}


def must_be_usable(services: list[Service], email: str, *passwords: str) -> None:
    """Fail unless one of these passwords fits, at each service, or the address is free."""
    logins = [[log_in(each, email, one).status for each in services] for one in passwords]
    assert all(codes in ([200, 200], [401, 401]) for codes in logins)
    fitting = logins.count([200, 200])
    assert fitting == 1 or (fitting == 0 and register(services[0], email).status == 201)


def session_of(services: list[Service], email: str) -> dict[str, str]:
    """Register this address and log in."""
    assert register(services[0], email).status == 201
    session: dict[str, str] = log_in(services[1], email).body
    return session


@pytest.mark.parametrize("ending", [log_out, change, delete])
def test_nothing_that_races_the_end_of_a_session_outlives_it(
    services: list[Service], ending: Callable[[Service, dict[str, str]], Answer]
) -> None:
    for number in ROUNDS:
        session = session_of(services, email := f"{ending.__name__}{number}@example.com")
        token = session["refresh_token"]
        refreshes = [partial(refresh, each, token) for each in services * 3]
        logins = [partial(log_in, each, email) for each in services * 2]
        answers = race(partial(ending, services[number % 2], session), *refreshes, *logins)
        assert answers[0].status == (200 if ending is change else 204)
        assert {answer.status for answer in answers[1:]} <= {200, 401}
        must_be_over(services, {token} | given(answers[1 : 7 if ending is log_out else None]))
        last = {log_in(each, email).status for each in services}
        assert last == {200 if ending is log_out else 401}
        if ending is change:
            assert given([refresh(services[0], *given(answers[:1]))])
            must_be_usable(services, email, PASSWORD, OTHER)


def test_an_address_that_is_deleted_and_registered_at_once_has_one_user_or_none(
    services: list[Service],
) -> None:
    for number in ROUNDS:
        session = session_of(services, email := f"both{number}@example.com")
        answers = race(
            partial(delete, services[number % 2], session),
            *(partial(log_in, each, email) for each in services * 2),
            *(partial(register, each, email, OTHER) for each in services * 4),
        )
        assert answers[0].status == 204
        assert [answer.status for answer in answers[5:]].count(201) <= 1
        must_be_over(services, {session["refresh_token"]} | given(answers[1:5]))
        must_be_usable(services, email, PASSWORD, OTHER)
