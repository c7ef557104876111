"""What people do with their accounts: register, log in, change a password."""

from typing import NamedTuple

from shopsphere.accounts.failed_logins import LoginThrottle
from shopsphere.accounts.passwords import Passwords
from shopsphere.accounts.users import Users
from shopsphere.domain.errors import InvalidCredentials, UserNotFound
from shopsphere.domain.values import User
from shopsphere.tokens import Tokens


class Session(NamedTuple):
    """An access token, and for how many seconds it is good."""

    access_token: str
    expires_in: int


class Accounts:
    """Accounts, of users who give their address and a password. A `client` is who tries a login."""

    def __init__(
        self, users: Users, passwords: Passwords, tokens: Tokens, throttle: LoginThrottle
    ) -> None:
        self._users = users
        self._passwords = passwords
        self._tokens = tokens
        self._throttle = throttle

    async def register(self, email: str, password: str) -> User:
        """Make a user; raise EmailTaken."""
        return await self._users.register(email, await self._passwords.hash(password))

    async def get(self, user_pk: str) -> User:
        """Return a user; raise UserNotFound."""
        user = await self._users.get(user_pk)
        if user is None:
            raise UserNotFound
        return user

    async def log_in(self, client: str, email: str, password: str) -> Session:
        """Return a session; raise InvalidCredentials, in the same time for an unknown address, or
        TooManyLogins."""
        async with self._throttle.attempt(client, email):
            user = await self._users.find(email)
            is_right = await self._passwords.verify(password, user.password_hash if user else None)
            if user is None or not is_right:
                raise InvalidCredentials
        return Session(self._tokens.issue(user.pk, user.role), self._tokens.expires_seconds)

    async def change_password(self, client: str, user_pk: str, current: str, password: str) -> User:
        """Give a user another password; a wrong current one counts as a failed login.

        Raise UserNotFound, InvalidCredentials or TooManyLogins.
        """
        user = await self.get(user_pk)
        async with self._throttle.attempt(client, user.email):
            if not await self._passwords.verify(current, user.password_hash):
                raise InvalidCredentials("The current password is wrong.")
        new_hash = await self._passwords.hash(password)
        if not await self._users.set_password(user, new_hash, user.role):
            raise InvalidCredentials
        return user
