"""What `Users` promises beyond its rules, on each storage."""

import asyncio
from dataclasses import replace
from unittest.mock import DEFAULT, AsyncMock

import pytest

from shopsphere.accounts.users import Users
from shopsphere.domain import people
from shopsphere.domain.errors import EmailTaken, StoreUnavailable
from shopsphere.domain.pks import new_pk
from shopsphere.domain.records import UserRecord
from shopsphere.domain.values import Role, User
from shopsphere.records import Records
from tests.moved_clock import MovedClock

pytestmark = pytest.mark.anyio

ANNA, BERT = "anna@example.com", "bert@example.com"


@pytest.mark.parametrize(
    "email", [ANNA, "o'neill+{shop}:*@example.com", "用户@例子.广告", "}{anna@example.com"]
)
async def test_a_user_is_found_by_pk_and_by_exactly_this_email_for_good(
    records: Records, clock: MovedClock, email: str
) -> None:
    users = Users(records)
    user = await users.register(email, "$bcrypt-sha256$v=2,t=2b,r=12$", Role.ADMIN)
    clock.move(10_000_000)

    assert user == User(user.pk, email, "$bcrypt-sha256$v=2,t=2b,r=12$", Role.ADMIN)
    assert await users.get(user.pk) == await users.find(email) == user
    assert await users.get(new_pk()) is None
    for other in (ANNA.upper(), email[:-1], f"{email} ", "*", "", BERT):
        assert await users.find(other) is None


async def test_who_lost_an_email_leaves_no_user_behind(
    records: Records, monkeypatch: pytest.MonkeyPatch
) -> None:
    anna = await Users(records).register(ANNA, "hash")
    changes = AsyncMock(wraps=records.change)
    monkeypatch.setattr(records, "change", changes)
    with pytest.raises(EmailTaken):
        await Users(records).register(ANNA, "hash", Role.ADMIN)

    assert await Users(records).get(anna.pk) == await Users(records).find(ANNA) == anna
    _, rival = changes.await_args_list[0].args
    assert await Users(records).get(rival.pk) is None


async def test_a_crash_before_the_address_is_claimed_blocks_nobody(
    records: Records, monkeypatch: pytest.MonkeyPatch
) -> None:
    cut_off = AsyncMock(wraps=records.change, side_effect=[DEFAULT, StoreUnavailable])
    monkeypatch.setattr(records, "change", cut_off)
    with pytest.raises(StoreUnavailable):
        await Users(records).register(ANNA, "hash")
    monkeypatch.undo()
    assert await Users(records).find(ANNA) is None

    again = await Users(records).register(ANNA, "hash")

    assert await Users(records).find(ANNA) == again


async def test_an_email_whose_user_is_gone_can_be_registered(records: Records) -> None:
    lost = await Users(records).register(ANNA, "hash")
    await records.change(people.forget, UserRecord(pk=lost.pk))

    again = await Users(records).register(ANNA, "another hash")

    assert await Users(records).find(ANNA) == again


async def test_of_many_who_set_a_password_at_once_one_does(records: Records) -> None:
    users = Users(records)
    anna = await users.register(ANNA, "hash")

    hashes = [f"hash {number}" for number in range(20)]
    outcomes = await asyncio.gather(*(users.set_password(anna, h, Role.ADMIN) for h in hashes))

    [winner] = [each for each, was_set in zip(hashes, outcomes, strict=True) if was_set]
    changed = replace(anna, password_hash=winner, role=Role.ADMIN)
    assert await users.get(anna.pk) == await users.find(ANNA) == changed
    assert not await users.set_password(replace(anna, pk=new_pk()), "another hash", Role.ADMIN)
