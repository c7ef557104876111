"""Races between two user services on one Redis.

The services hash with different rounds, so a login at one renews what the other has hashed.
"""

import random
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from shopsphere.domain import people
from shopsphere.records import Records
from tests.load import Answer, at_once, send
from tests.people import users_in
from tests.servers import MovableRedis, RedisServer, Service, wait_until

ROUNDS = range(8)
PASSWORD, OTHER = "the first password", "the second password"


@contextmanager
def users_on(redis: RedisServer, folder: Path, rounds: str) -> Iterator[Service]:
    """Run a user service that hashes with so many rounds."""
    settings = {"BCRYPT_ROUNDS": rounds, "LOGIN_LIMIT": "10000/minute", "LOG_LEVEL": "WARNING"}
    settings |= {"USE_REDIS": "required", "REDIS_PORT": str(redis.port)}
    service = Service("user", folder / f"{rounds}.log", 0, **settings)
    try:
        yield service.start()
    finally:
        service.stop()


@pytest.fixture(scope="module")
def services(
    redis_server: RedisServer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[list[Service]]:
    redis_server.client.flushall()
    folder = tmp_path_factory.mktemp("users")
    with users_on(redis_server, folder, "4") as one, users_on(redis_server, folder, "5") as other:
        yield [one, other]


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


def test_refreshes_of_one_token_give_the_same_one_beside_logins(services: list[Service]) -> None:
    for number in ROUNDS:
        token = session_of(services, email := f"refresh{number}@example.com")["refresh_token"]
        refreshes = [partial(refresh, each, token) for each in services * 6]
        answers = race(*refreshes, *(partial(log_in, each, email) for each in services))
        assert {answer.status for answer in answers} == {200}
        [newest] = given(answers[:12])
        assert given([refresh(each, newest) for each in services]) == {newest} != {token}
        assert len(given([refresh(services[0], each) for each in given(answers[12:])])) == 2


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


def test_of_many_who_register_one_address_one_has_it(services: list[Service]) -> None:
    passwords = [f"password {number}" for number in range(8)]
    for number in ROUNDS:
        email = f"many{number}@example.com"
        many = zip(services * 4, passwords, strict=True)
        answers = race(*(partial(register, service, email, each) for service, each in many))
        assert Counter(answer.status for answer in answers) == {201: 1, 400: 7}
        must_be_usable(services, email, *passwords)


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


@pytest.mark.anyio
async def test_a_deletion_does_not_free_an_address_that_was_taken_meanwhile(
    records: Records, monkeypatch: pytest.MonkeyPatch
) -> None:
    users, email, change = users_in(records), "ada@example.com", records.change
    ada = await users.register(email, PASSWORD)

    async def interrupted(rule: Any, *wanted: Any) -> object:
        if getattr(rule, "func", rule) is people.give_up:
            monkeypatch.undo()
            await users.register(email, OTHER)
        return await change(rule, *wanted)

    monkeypatch.setattr(records, "change", interrupted)
    await users.delete("a client", ada.pk, PASSWORD)
    assert await users.find(email) is not None
    await users.log_in("a client", email, OTHER)


def test_a_token_outlives_an_outage_and_for_a_minute_a_lost_response(tmp_path: Path) -> None:
    with (
        MovableRedis(tmp_path, "--appendonly", "yes") as redis,
        users_on(redis, tmp_path, "4") as users,
    ):
        token = session_of([users, users], "outage@example.com")["refresh_token"]
        [unheard] = given([refresh(users, token)])
        redis.stop()
        assert refresh(users, token).status == 503
        redis.start()
        wait_until(lambda: refresh(users, token).status == 200)
        redis.move_clock(45)
        assert given([refresh(users, token)]) == {unheard}
        redis.move_clock(16)
        must_be_over([users], {token})
        must_be_over([users], {unheard})
        must_be_usable([users, users], "outage@example.com", PASSWORD)
