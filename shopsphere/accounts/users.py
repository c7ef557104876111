"""Users and their addresses."""

from functools import partial

from shopsphere.domain import people
from shopsphere.domain.errors import EmailTaken
from shopsphere.domain.pks import new_pk
from shopsphere.domain.records import Address, UserRecord
from shopsphere.domain.values import Role, User
from shopsphere.records import Records


class Users:
    """Everybody who has registered. Addresses are compared as they are: in lower case."""

    def __init__(self, records: Records) -> None:
        self._records = records

    async def register(self, email: str, password_hash: str, role: Role = Role.USER) -> User:
        """Make a user; raise EmailTaken if the address is somebody's.

        The address is claimed after the user is made, so that a crash in between blocks nobody; an
        address whose user is gone is free.
        """
        pk = new_pk()
        await self._records.change(
            partial(people.register, email=email, password_hash=password_hash, role=role),
            UserRecord(pk=pk),
        )
        [address] = await self._records.read(_address(email))
        owner_pk = address.user_pk
        gone_pk = owner_pk if owner_pk and await self.get(owner_pk) is None else ""
        try:
            await self._records.change(
                partial(people.claim, user_pk=pk, gone_pk=gone_pk), _address(email)
            )
        except EmailTaken:
            await self._records.change(people.forget, UserRecord(pk=pk))
            raise
        return User(pk, email, password_hash, role)

    async def get(self, pk: str) -> User | None:
        """Return the user with this pk, or None."""
        [record] = await self._records.read(UserRecord(pk=pk))
        return record.user() if record.email else None

    async def find(self, email: str) -> User | None:
        """Return the user with exactly this (lower-case) address, or None."""
        [address] = await self._records.read(_address(email))
        return await self.get(address.user_pk) if address.user_pk else None

    async def set_password(self, user: User, password_hash: str, role: Role) -> bool:
        """Set password and role in one step, if the password is still `user`'s; tell whether it
        was."""
        return await self._records.change(
            partial(
                people.set_password,
                known_hash=user.password_hash,
                new_hash=password_hash,
                role=role,
            ),
            UserRecord(pk=user.pk),
        )


def _address(email: str) -> Address:
    """Return the record of an address; a slot must not begin with a brace, as an address may."""
    return Address(pk=f"@{email}")
