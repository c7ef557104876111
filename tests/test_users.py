"""What `Users` promises, on each storage."""

import asyncio
from dataclasses import replace
from typing import Any

import pytest

from shopsphere.accounts.users import Users
from shopsphere.domain import people
from shopsphere.domain.errors import EmailTaken, StoreUnavailable
from shopsphere.domain.pks import is_pk, new_pk
from shopsphere.domain.records import UserRecord
from shopsphere.domain.values import Role, User
from shopsphere.records import Records
from tests.moved_clock import MovedClock

pytestmark = pytest.mark.anyio

ANNA, BERT = "anna@example.com", "bert@example.com"


@pytest.fixture
def users(records: Records) -> Users:
    return Users(records)


@pytest.mark.parametrize("role", list(Role))
async def test_a_user_is_found_by_pk_and_by_email(users: Users, role: Role) -> None:
    anna = await users.register(ANNA, "hash", role)

    assert (anna.email, anna.password_hash, anna.role) == (ANNA, "hash", role)
    assert await users.get(anna.pk) == anna
    assert await users.find(ANNA) == anna


async def test_who_is_not_there_is_none(users: Users) -> None:
    await users.register(ANNA, "hash")

    assert await users.get(new_pk()) is None
    assert await users.find(BERT) is None


async def test_an_email_is_found_exactly(users: Users) -> None:
    await users.register(ANNA, "hash")

    for other in ("Anna@example.com", "anna@example.co", "anna@example.com ", "*", ""):
        assert await users.find(other) is None


@pytest.mark.parametrize("email", ["o'neill+{shop}:*@example.com", "用户@例子.广告"])
async def test_an_unusual_email_is_kept_as_it_is(users: Users, email: str) -> None:
    someone = await users.register(email, "$bcrypt-sha256$v=2,t=2b,r=12$")

    assert someone.email == email
    assert await users.find(email) == someone


async def test_a_taken_email_is_refused_and_its_owner_stays(users: Users) -> None:
    anna = await users.register(ANNA, "hash")

    with pytest.raises(EmailTaken):
        await users.register(ANNA, "another hash", Role.ADMIN)
    bert = await users.register(BERT, "hash")

    assert await users.find(ANNA) == anna
    assert await users.find(BERT) == bert


async def test_of_many_who_register_an_email_at_once_one_gets_it(users: Users) -> None:
    outcomes = await asyncio.gather(
        *(users.register(ANNA, f"hash {number}") for number in range(20)), return_exceptions=True
    )

    [winner] = [outcome for outcome in outcomes if isinstance(outcome, User)]
    assert [type(outcome) for outcome in outcomes].count(EmailTaken) == 19
    assert await users.find(ANNA) == winner


async def test_who_lost_an_email_leaves_no_user_behind(records: Records) -> None:
    made: list[str] = []

    class Watched:
        read = staticmethod(records.read)

        async def change(self, rule: Any, record: Any) -> object:
            made.append(record.pk)
            return await records.change(rule, record)

    watched: Any = Watched()
    await Users(watched).register(ANNA, "hash")
    with pytest.raises(EmailTaken):
        await Users(watched).register(ANNA, "hash")

    [anna, rival] = [pk for pk in dict.fromkeys(made) if is_pk(pk)]
    assert await Users(records).get(anna)
    assert await Users(records).get(rival) is None


async def test_a_password_and_a_role_are_set_on_the_user_who_has_the_known_password(
    users: Users,
) -> None:
    anna, bert = await users.register(ANNA, "hash"), await users.register(BERT, "hash")

    assert await users.set_password(anna, "another hash", Role.ADMIN)

    changed = replace(anna, password_hash="another hash", role=Role.ADMIN)
    assert await users.get(anna.pk) == changed
    assert await users.find(ANNA) == changed
    assert await users.get(bert.pk) == bert


async def test_a_password_that_was_set_meanwhile_is_left_alone(users: Users) -> None:
    anna = await users.register(ANNA, "hash")
    assert await users.set_password(anna, "another hash", Role.USER)

    assert not await users.set_password(anna, "a third hash", Role.ADMIN)

    assert await users.get(anna.pk) == replace(anna, password_hash="another hash")


async def test_setting_the_password_of_nobody_makes_no_user(users: Users) -> None:
    anna = User(new_pk(), ANNA, "hash", Role.USER)

    assert not await users.set_password(anna, "another hash", Role.ADMIN)

    assert await users.get(anna.pk) is None
    assert await users.find(ANNA) is None


async def test_of_many_who_set_a_password_at_once_one_does(users: Users) -> None:
    anna = await users.register(ANNA, "hash")

    hashes = [f"hash {number}" for number in range(20)]
    outcomes = await asyncio.gather(*(users.set_password(anna, h, Role.USER) for h in hashes))

    [winner] = [each for each, was_set in zip(hashes, outcomes, strict=True) if was_set]
    assert await users.get(anna.pk) == replace(anna, password_hash=winner)


async def test_a_crash_before_the_address_is_claimed_blocks_nobody(records: Records) -> None:
    class CutOff:
        read = staticmethod(records.read)

        async def change(self, rule: Any, record: Any) -> object:
            if not is_pk(record.pk):
                raise StoreUnavailable
            return await records.change(rule, record)

    cut_off: Any = CutOff()
    with pytest.raises(StoreUnavailable):
        await Users(cut_off).register(ANNA, "hash")
    assert await Users(records).find(ANNA) is None

    again = await Users(records).register(ANNA, "hash")

    assert await Users(records).find(ANNA) == again


async def test_users_and_their_emails_never_go_away_by_themselves(
    users: Users, clock: MovedClock
) -> None:
    anna = await users.register(ANNA, "hash")

    clock.move(10_000_000)

    assert await users.find(ANNA) == anna


async def test_an_email_whose_user_is_gone_can_be_registered(records: Records) -> None:
    lost = await Users(records).register(ANNA, "hash")
    await records.change(people.forget, UserRecord(pk=lost.pk))

    again = await Users(records).register(ANNA, "another hash")

    assert await Users(records).find(ANNA) == again


async def test_an_email_that_begins_with_a_brace_is_kept_like_any_other(users: Users) -> None:
    anna = await users.register("}{anna@example.com", "hash")

    assert await users.find("}{anna@example.com") == anna
