"""Users: registration, sessions, password changes and deletion."""

import logging
from functools import partial
from typing import NamedTuple, TypeVar

from shopsphere.accounts.failed_logins import LoginThrottle
from shopsphere.accounts.passwords import Passwords
from shopsphere.accounts.refresh_tokens import RefreshToken, RefreshTokens
from shopsphere.domain import errors, people, sessions
from shopsphere.domain.pks import new_pk
from shopsphere.domain.records import DAY, Address, Sessions, User
from shopsphere.domain.values import Role
from shopsphere.records import Records, Rule
from shopsphere.settings import Settings
from shopsphere.tokens import Tokens

log = logging.getLogger("shopsphere.accounts.users")

T = TypeVar("T")


class Session(NamedTuple):
    """An access token, its lifetime in seconds, and the refresh token of the session."""

    access_token: str
    expires_in: int
    refresh_token: str


class Users:
    """The registered users and their sessions. Email addresses must be passed in lower case.

    A `client` identifies the origin of an attempt with a password.
    """

    def __init__(
        self, records: Records, settings: Settings, tokens: Tokens, passwords: Passwords
    ) -> None:
        self._records = records
        self._passwords = passwords
        self._tokens = tokens
        self._refresh_tokens = RefreshTokens(settings.jwt_secrets)
        self._session_seconds = settings.session_days * DAY
        self._administrator = settings.admin_email
        self._throttle = LoginThrottle(records, settings.login_limit)

    async def register(self, email: str, password: str, role: Role = Role.USER) -> User:
        """Create a user; raise errors.EmailTaken if the address belongs to another user.

        The address is claimed after the user is created, so a crash in between does not block it.
        The address of a deleted user is free.
        """
        pk, password_hash = new_pk(), await self._passwords.hash(password)
        register = partial(people.register, email=email, password_hash=password_hash, role=role)
        await self._records.change(register, User(pk=pk))
        [address] = await self._records.read(_address(email))
        [holder] = await self._records.read(User(pk=address.user_pk))
        gone_pk = "" if holder.email else address.user_pk
        claim = partial(people.claim, user_pk=pk, gone_pk=gone_pk)
        try:
            await self._records.change(claim, _address(email))
        except errors.EmailTaken:
            await self._delete(pk, password_hash)
            raise
        return User(pk=pk, email=email, password_hash=password_hash, role=role)

    async def get(self, pk: str) -> User:
        """Return the user with this pk; raise errors.UserNotFound."""
        [user] = await self._records.read(User(pk=pk))
        if not user.email:
            raise errors.UserNotFound
        return user

    async def find(self, email: str) -> User | None:
        """Return the user with exactly this (lower-case) address, or None."""
        [address] = await self._records.read(_address(email))
        [user] = await self._records.read(User(pk=address.user_pk))
        return user if user.email else None

    async def log_in(self, client: str, email: str, password: str) -> Session:
        """Start a session. Raise TooManyLogins, or InvalidCredentials, after the same time for an
        unknown address as for a wrong password.

        A hash made with a different BCRYPT_ROUNDS is replaced.
        """
        async with self._throttle.attempt(client, email):
            while True:  # the password may be changed while it is verified
                user = await self.find(email)
                if not await self.has_password(user, password) or user is None:
                    raise errors.InvalidCredentials
                new_hash = user.password_hash
                if self._passwords.is_outdated(new_hash):
                    new_hash = await self._passwords.hash(password)
                if session := await self._start(user, new_hash, ends_others=False):
                    return session

    async def refresh(self, text: str) -> Session:
        """Exchange a refresh token for the next one and an access token.

        Raise InvalidRefreshToken. A token that was used more than a minute ago ends its session.
        """
        token = self._refresh_tokens.read(text)
        if token is None:
            raise errors.InvalidRefreshToken
        user_pk, session_id, number = token
        rule = partial(sessions.refresh, session_id=session_id, number=number)
        try:
            newest, role = await self._change(partial(rule, seconds=self._session_seconds), user_pk)
        except errors.RefreshTokenReused:
            log.warning("user %s: a refresh token was used again; its session has ended", user_pk)
            raise
        return self._session(RefreshToken(user_pk, session_id, newest), role)

    async def log_out(self, text: str) -> None:
        """End the session of a refresh token, whether that was used or not; ignore other texts."""
        if token := self._refresh_tokens.read(text):
            rule = partial(sessions.end, session_id=token.session_id)
            await self._records.change(rule, Sessions(pk=token.user_pk))

    async def has_password(self, user: User | None, password: str) -> bool:
        """Return whether a password is this user's; for None, return false after the same time."""
        return await self._passwords.verify(password, user.password_hash if user else None)

    async def change_password(
        self, client: str, user_pk: str, current: str, password: str
    ) -> tuple[User, Session]:
        """Change a user's password, end all sessions of the user, and start one.

        Raise UserNotFound, AccountIsConfigured, InvalidCredentials, which counts as a failed login,
        or TooManyLogins.
        """
        async with self._throttle.attempt(client, (await self._own(user_pk)).email):
            while True:
                user = await self._verified(user_pk, current)
                new_hash = await self._passwords.hash(password)
                if session := await self._start(user, new_hash, ends_others=True):
                    return user, session

    async def delete(self, client: str, user_pk: str, current: str) -> None:
        """Remove a user and all sessions, then free the address. Raise as `change_password`."""
        email = (await self._own(user_pk)).email
        async with self._throttle.attempt(client, email):
            while True:
                user = await self._verified(user_pk, current)
                if await self._delete(user_pk, user.password_hash):
                    break
        free = partial(people.give_up, user_pk=user_pk)
        await self._records.change(free, _address(email))

    async def _own(self, user_pk: str) -> User:
        """Return a user, unless the settings name that user."""
        user = await self.get(user_pk)
        if user.email == self._administrator:
            raise errors.AccountIsConfigured
        return user

    async def _verified(self, user_pk: str, password: str) -> User:
        """Return a user whose password this is."""
        user = await self._own(user_pk)
        if not await self.has_password(user, password):
            raise errors.InvalidCredentials("The current password is wrong.")
        return user

    async def make_administrator(self, email: str, password: str) -> None:
        """Give the user with this address the role and password, and end all sessions, in one step;
        do nothing if there is no such user."""
        new_hash = await self._passwords.hash(password)  # once, to be faster than other changes
        while user := await self.find(email):
            if await self._start(user, new_hash, ends_others=True, new_role=Role.ADMIN):
                return

    async def _start(
        self, user: User, new_hash: str, ends_others: bool, new_role: Role | None = None
    ) -> Session | None:
        """Set the hash of a password, perhaps the role, and start a session, if the stored hash is
        still that of `user`."""
        session_id, role = new_pk(), new_role or user.role
        start = partial(sessions.start, session_id=session_id, ends_others=ends_others)
        rule = partial(start, known_hash=user.password_hash, new_hash=new_hash, role=role)
        if await self._change(rule, user.pk):
            return self._session(RefreshToken(user.pk, session_id, 1), role)
        return None

    async def _delete(self, user_pk: str, known_hash: str) -> bool:
        return await self._change(partial(sessions.delete, known_hash=known_hash), user_pk)

    async def _change(self, rule: Rule[User, Sessions, T], user_pk: str) -> T:
        """Apply a rule to a user and the user's sessions, in one step."""
        return await self._records.change(rule, User(pk=user_pk), Sessions(pk=user_pk))

    def _session(self, token: RefreshToken, role: Role) -> Session:
        access_token = self._tokens.issue(token.user_pk, role)
        seconds = self._tokens.expires_seconds
        return Session(access_token, seconds, self._refresh_tokens.write(token))


def _address(email: str) -> Address:
    """Return the record of an address. The `@` keeps its slot from beginning with a brace."""
    return Address(pk=f"@{email}")
