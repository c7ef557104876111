"""What `UserStore` promises, on every storage; then what only Redis can get wrong.

On the lossy wire every answer of Redis is lost once, so each command comes to Redis twice.
"""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace

import pytest
from redis_stores.users import RedisUserStore
from shopsphere.stores import UserStore

from in_memory_db import MemoryUserStore
from shopsphere.domain.errors import EmailTaken
from shopsphere.domain.pks import new_pk
from shopsphere.domain.values import Role, User
from tests.lossy_wire import connected
from tests.moved_clock import MovedClock
from tests.servers import RedisServer

pytestmark = pytest.mark.anyio


@pytest.fixture(params=["memory", "redis", "redis over a lossy wire"])
async def store(
    request: pytest.FixtureRequest, clock: MovedClock, redis_server: RedisServer
) -> AsyncIterator[UserStore]:
    """An empty store of users, on each storage in turn."""
    if request.param == "memory":
        yield MemoryUserStore()
        return
    async with connected(redis_server, is_lossy="lossy" in request.param) as client:
        yield RedisUserStore(client, "shop")


def user(email: str = "anna@example.com", role: Role = Role.USER) -> User:
    """Return a new user, whose password hash is like nobody else's."""
    pk = new_pk()
    return User(pk, email, f"$bcrypt-sha256$v=2,t=2b,r=12${pk}", role)


@pytest.mark.parametrize("role", list(Role))
async def test_a_user_is_found_by_pk_and_by_email(store: UserStore, role: Role) -> None:
    anna = user(role=role)
    await store.add(anna)

    assert await store.get(anna.pk) == anna
    assert await store.find("anna@example.com") == anna


async def test_who_is_not_there_is_none(store: UserStore) -> None:
    await store.add(user())

    assert await store.get(new_pk()) is None
    assert await store.find("bert@example.com") is None


async def test_an_email_is_found_exactly(store: UserStore) -> None:
    await store.add(user("anna@example.com"))

    for other in ("Anna@example.com", "anna@example.co", "anna@example.com ", "*", ""):
        assert await store.find(other) is None


@pytest.mark.parametrize("email", ["o'neill+{shop}:*@example.com", "用户@例子.广告"])
async def test_an_unusual_email_is_kept_as_it_is(store: UserStore, email: str) -> None:
    someone = user(email)
    await store.add(someone)

    assert await store.find(email) == someone


async def test_a_taken_email_is_refused_and_its_owner_stays(store: UserStore) -> None:
    anna, rival, bert = user(), user(), user("bert@example.com")
    await store.add(anna)

    with pytest.raises(EmailTaken):
        await store.add(rival)
    await store.add(bert)

    assert await store.find(anna.email) == anna
    assert await store.get(rival.pk) is None
    assert await store.find(bert.email) == bert


async def test_of_many_who_register_an_email_at_once_one_gets_it(store: UserStore) -> None:
    rivals = [user() for _ in range(20)]

    outcomes = await asyncio.gather(*(store.add(each) for each in rivals), return_exceptions=True)

    [winner] = [each for each, error in zip(rivals, outcomes, strict=True) if error is None]
    assert [type(error) for error in outcomes if error] == [EmailTaken] * 19
    assert await store.find(winner.email) == winner
    assert [each for each in rivals if await store.get(each.pk)] == [winner]


async def test_a_password_and_a_role_are_set_on_the_user_who_has_the_known_password(
    store: UserStore,
) -> None:
    anna, bert = user(), user("bert@example.com")
    await store.add(anna)
    await store.add(bert)

    assert await store.set_password(anna, "another hash", Role.ADMIN)

    changed = replace(anna, password_hash="another hash", role=Role.ADMIN)
    assert await store.get(anna.pk) == changed
    assert await store.find(anna.email) == changed
    assert await store.get(bert.pk) == bert


async def test_a_password_that_was_set_meanwhile_is_left_alone(store: UserStore) -> None:
    anna = user()
    await store.add(anna)
    assert await store.set_password(anna, "another hash", Role.USER)

    assert not await store.set_password(anna, "a third hash", Role.ADMIN)

    assert await store.get(anna.pk) == replace(anna, password_hash="another hash")


async def test_setting_the_password_of_nobody_makes_no_user(store: UserStore) -> None:
    anna = user()

    assert not await store.set_password(anna, "another hash", Role.ADMIN)

    assert await store.get(anna.pk) is None
    assert await store.find(anna.email) is None


async def test_of_many_who_set_a_password_at_once_one_does(store: UserStore) -> None:
    anna = user()
    await store.add(anna)

    hashes = [f"hash {number}" for number in range(20)]
    setting = [store.set_password(anna, each, Role.USER) for each in hashes]
    outcomes = await asyncio.gather(*setting)

    [winner] = [each for each, was_set in zip(hashes, outcomes, strict=True) if was_set]
    assert await store.get(anna.pk) == replace(anna, password_hash=winner)


async def test_a_record_that_a_crash_left_without_its_email_blocks_nobody(
    clock: MovedClock, redis_server: RedisServer
) -> None:
    async with connected(redis_server) as client:
        store = RedisUserStore(client, "shop")
        await store.add(user())
        redis_server.client.delete("shop:email:anna@example.com")
        assert await store.find("anna@example.com") is None

        again = user()
        await store.add(again)

        assert await store.find("anna@example.com") == again


async def test_users_and_their_emails_never_go_away_by_themselves(
    clock: MovedClock, redis_server: RedisServer
) -> None:
    async with connected(redis_server) as client:
        store = RedisUserStore(client, "shop")
        anna = user()
        await store.add(anna)

        clock.move(10_000_000)

        assert sorted(redis_server.client.keys()) == [
            "shop:email:anna@example.com",
            f"shop:user:{{{anna.pk}}}",
        ]
