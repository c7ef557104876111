"""Users: registration, login and password changes."""

from functools import partial
from typing import NamedTuple

from shopsphere.accounts.failed_logins import LoginThrottle
from shopsphere.accounts.passwords import Passwords
from shopsphere.domain import people
from shopsphere.domain.errors import EmailTaken, InvalidCredentials, UserNotFound
from shopsphere.domain.pks import new_pk
from shopsphere.domain.records import Address, User
from shopsphere.domain.values import Role
from shopsphere.records import Records
from shopsphere.tokens import Tokens


class Session(NamedTuple):
    """An access token and its lifetime in seconds."""

    access_token: str
    expires_in: int


class Users:
    """The registered users. Email addresses must be passed in lower case.

    A `client` identifies the origin of a login attempt.
    """

    def __init__(
        self, records: Records, passwords: Passwords, tokens: Tokens, throttle: LoginThrottle
    ) -> None:
        self._records = records
        self._passwords = passwords
        self._tokens = tokens
        self._throttle = throttle

    async def register(self, email: str, password: str, role: Role = Role.USER) -> User:
        """Create a user; raise EmailTaken if the address belongs to another user.

        The address is claimed after the user is created, so a crash in between does not block it.
        An address whose user is gone is free.
        """
        pk, password_hash = new_pk(), await self._passwords.hash(password)
        await self._records.change(
            partial(people.register, email=email, password_hash=password_hash, role=role),
            User(pk=pk),
        )
        [address] = await self._records.read(_address(email))
        gone_pk = "" if await self.find(email) else address.user_pk
        try:
            await self._records.change(
                partial(people.claim, user_pk=pk, gone_pk=gone_pk), _address(email)
            )
        except EmailTaken:
            await self._records.change(people.forget, User(pk=pk))
            raise
        return User(pk=pk, email=email, password_hash=password_hash, role=role)

    async def get(self, pk: str) -> User:
        """Return the user with this pk; raise UserNotFound."""
        [user] = await self._records.read(User(pk=pk))
        if not user.email:
            raise UserNotFound
        return user

    async def find(self, email: str) -> User | None:
        """Return the user with exactly this (lower-case) address, or None."""
        [address] = await self._records.read(_address(email))
        [user] = await self._records.read(User(pk=address.user_pk))
        return user if user.email else None

    async def log_in(self, client: str, email: str, password: str) -> Session:
        """Return a session. Raise TooManyLogins, or InvalidCredentials, after the same time for an
        unknown address as for a wrong password.

        A hash with other rounds than are set now is renewed.
        """
        async with self._throttle.attempt(client, email):
            while True:
                user = await self.find(email)
                if not await self.has_password(user, password) or user is None:
                    raise InvalidCredentials
                if not self._passwords.is_outdated(user.password_hash):
                    break
                await self.set_password(user, password, user.role)  # then verify again
        return Session(self._tokens.issue(user.pk, user.role), self._tokens.expires_seconds)

    async def has_password(self, user: User | None, password: str) -> bool:
        """Return whether a password is this user's; false after the same time for None."""
        return await self._passwords.verify(password, user.password_hash if user else None)

    async def change_password(self, client: str, user_pk: str, current: str, password: str) -> User:
        """Change a user's password; a wrong current one counts as a failed login.

        Raise UserNotFound, InvalidCredentials or TooManyLogins.
        """
        user = await self.get(user_pk)
        async with self._throttle.attempt(client, user.email):
            if not await self.has_password(user, current):
                raise InvalidCredentials("The current password is wrong.")
        if not await self.set_password(user, password, user.role):
            raise InvalidCredentials
        return user

    async def set_password(self, user: User, password: str, role: Role) -> bool:
        """Set password and role in one step if the stored password is still that of `user`; return
        whether it was."""
        rule = partial(
            people.set_password,
            known_hash=user.password_hash,
            new_hash=await self._passwords.hash(password),
            role=role,
        )
        return await self._records.change(rule, User(pk=user.pk))


def _address(email: str) -> Address:
    """Return the record of an address. The `@` keeps its slot from beginning with a brace."""
    return Address(pk=f"@{email}")
