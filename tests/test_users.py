"""What `Users` promises beyond its rules, on each storage."""

import asyncio
from functools import partial
from unittest.mock import DEFAULT, AsyncMock

import pytest

from in_memory_db import MemoryRecords
from shopsphere.domain import sessions
from shopsphere.domain.errors import EmailTaken, InvalidCredentials, StoreUnavailable, UserNotFound
from shopsphere.domain.pks import new_pk
from shopsphere.domain.records import Address, Sessions, User
from shopsphere.domain.values import Role
from shopsphere.records import Records
from tests.moved_clock import MovedClock
from tests.people import users_in

pytestmark = pytest.mark.anyio

ANNA, BERT = "anna@example.com", "bert@example.com"


async def registered(records: Records) -> User:
    """Register Anna; return her as she is kept."""
    user = await users_in(records).register(ANNA, "a password")
    return await users_in(records).get(user.pk)


@pytest.mark.parametrize(
    "email", [ANNA, "o'neill+{shop}:*@example.com", "用户@例子.广告", "}{anna@example.com"]
)
async def test_a_user_is_found_by_pk_and_by_exactly_this_email_for_good(
    records: Records, clock: MovedClock, email: str
) -> None:
    users = users_in(records)
    user = await users.register(email, "a password", Role.ADMIN)
    clock.move(10_000_000)

    assert (user.email, user.role) == (email, Role.ADMIN)
    assert await users.get(user.pk) == await users.find(email)
    assert (await users.get(user.pk)).model_dump() == user.model_dump()
    with pytest.raises(UserNotFound):
        await users.get(new_pk())
    for other in (ANNA.upper(), email[:-1], f"{email} ", "*", "", BERT):
        assert await users.find(other) is None


async def test_who_lost_an_email_leaves_no_user_behind(
    records: Records, monkeypatch: pytest.MonkeyPatch
) -> None:
    anna = await registered(records)
    changes = AsyncMock(wraps=records.change)
    monkeypatch.setattr(records, "change", changes)
    with pytest.raises(EmailTaken):
        await users_in(records).register(ANNA, "hash", Role.ADMIN)

    assert await users_in(records).get(anna.pk) == await users_in(records).find(ANNA) == anna
    _, rival = changes.await_args_list[0].args
    with pytest.raises(UserNotFound):
        await users_in(records).get(rival.pk)


async def test_a_crash_before_the_address_is_claimed_blocks_nobody(
    records: Records, monkeypatch: pytest.MonkeyPatch
) -> None:
    cut_off = AsyncMock(wraps=records.change, side_effect=[DEFAULT, StoreUnavailable])
    monkeypatch.setattr(records, "change", cut_off)
    with pytest.raises(StoreUnavailable):
        await users_in(records).register(ANNA, "hash")
    monkeypatch.undo()
    assert await users_in(records).find(ANNA) is None

    again = await registered(records)

    assert await users_in(records).find(ANNA) == again


async def test_a_hash_with_other_rounds_is_renewed_at_a_login(records: Records) -> None:
    user = await registered(records)
    for rounds in (5, 4):
        users = users_in(records, rounds)
        before = await users.get(user.pk)
        await asyncio.gather(*(users.log_in(f"{n}", ANNA, "a password") for n in range(3)))
        after = await users.get(user.pk)
        assert f"r={rounds}$" in after.password_hash
        assert f"r={rounds}$" not in before.password_hash
        await users.log_in("a client", ANNA, "a password")
        assert await users.get(user.pk) == after


@pytest.mark.parametrize("attempt", ["delete", "change_password", "log_in"])
async def test_a_password_that_changes_meanwhile_is_verified_again(
    monkeypatch: pytest.MonkeyPatch, attempt: str
) -> None:
    """A login with other rounds would renew the hash of the old one."""
    records = MemoryRecords()
    user = await registered(records)
    users, elsewhere = users_in(records, 5), users_in(records)
    verify = users._passwords.verify

    async def verify_slowly(password: str, password_hash: str | None) -> bool:
        verified = await verify(password, password_hash)
        if verified:
            await elsewhere.change_password("a client", user.pk, "a password", "the new one")
        return verified

    monkeypatch.setattr(users._passwords, "verify", verify_slowly)
    who = ANNA if attempt == "log_in" else user.pk
    new = ["another one"] if attempt == "change_password" else []
    with pytest.raises(InvalidCredentials):
        await getattr(users, attempt)("a client", who, "a password", *new)
    await elsewhere.log_in("a client", ANNA, "the new one")


async def test_the_record_of_sessions_outlasts_them_so_that_no_late_copy_brings_one_back() -> None:
    kept = Sessions(pk="a user")
    kept.put("a session", 1, 0)
    sessions.end(0, kept, "a session")
    assert (kept.all(), kept == Sessions(pk="a user")) == ({}, False)  # defaults are not stored


async def test_a_deletion_leaves_nothing_of_a_user(records: Records) -> None:
    user = await registered(records)
    await users_in(records).delete("a client", user.pk, "a password")
    left = Address(pk=f"@{ANNA}"), User(pk=user.pk), Sessions(pk=user.pk)
    for each in left:
        [found] = await records.read(each)
        assert found.model_dump() == each.model_dump()


async def test_an_email_whose_user_is_gone_can_be_registered(records: Records) -> None:
    lost = await registered(records)
    forget = partial(sessions.delete, known_hash=lost.password_hash)
    assert await records.change(forget, User(pk=lost.pk), Sessions(pk=lost.pk))

    again = await registered(records)

    assert await users_in(records).find(ANNA) == again
