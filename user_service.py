"""The user service, port 8001: registering, logging in, who am I."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import datetime
from typing import Annotated, Literal

from fastapi import APIRouter, Depends, FastAPI, Request
from pydantic import BaseModel, Field
from starlette.datastructures import State

from shopsphere.access import SignedIn, anyone
from shopsphere.accounts.users import Users
from shopsphere.administrator import ensure_administrator
from shopsphere.domain.errors import (
    EmailTaken,
    InvalidCredentials,
    StoreUnavailable,
    TooManyLogins,
    UserNotFound,
)
from shopsphere.domain.values import User
from shopsphere.error_answers import error_responses
from shopsphere.examples import USER_MADE_AT, USER_PK
from shopsphere.failed_logins import FailedLogins, client_of
from shopsphere.models import MAX_PASSWORD_LENGTH, Email, Password
from shopsphere.passwords import Passwords
from shopsphere.settings import Settings
from shopsphere.tokens import Tokens
from shopsphere.web import Body, Public, create_app, from_state, serve
from storage import open_storage

PORT = 8001
DESCRIPTION = """
Accounts, and the tokens that the other services take.

**To try it:** register, log in, copy the `access_token` from the answer, press **Authorize** and
paste it there. The same token works at the products (port 8000) and the orders (port 8002). A page
that is loaded anew has forgotten it.
"""
TAGS = {"accounts": "Registering and logging in.", "me": "The account that a token belongs to."}

AnyPassword = Annotated[str, Field(max_length=MAX_PASSWORD_LENGTH)]


class UserCreate(Body):
    email: Email = Field(examples=["user@example.com"])
    password: Password = Field(examples=["securepass123"])


class Login(Body):
    email: Email = Field(examples=["user@example.com"])
    password: AnyPassword = Field(examples=["securepass123"])


class PasswordChange(Body):
    current_password: AnyPassword = Field(examples=["securepass123"])
    password: Password = Field(examples=["securepass123"], description="The new one.")


class UserPublic(Public):
    pk: str = Field(examples=[USER_PK])
    email: str = Field(examples=["user@example.com"])
    created_at: datetime = Field(examples=[USER_MADE_AT])


class AccessToken(BaseModel):
    access_token: str = Field(examples=["eyJhbGciOiJIUzI1NiIs..."])
    token_type: Literal["bearer"] = "bearer"
    expires_in: int = Field(examples=[3600], description="Seconds from now.")


async def _client(request: Request) -> str:
    return client_of(request.client.host if request.client else "")


AllUsers = Annotated[Users, from_state("users")]
Hashing = Annotated[Passwords, from_state("passwords")]
Signing = Annotated[Tokens, from_state("tokens")]
Failures = Annotated[FailedLogins, from_state("failed_logins")]
Client = Annotated[str, Depends(_client)]

accounts = APIRouter(tags=["accounts"], responses=error_responses(StoreUnavailable))
own = APIRouter(tags=["me"], responses=error_responses(StoreUnavailable))


@accounts.post(
    "/register",
    summary="Make an account",
    response_model=UserPublic,
    status_code=201,
    responses=error_responses(EmailTaken),
)
@anyone
async def register(body: UserCreate, users: AllUsers, passwords: Hashing) -> User:
    """Make an account with an email address and a password of 8 to 128 characters.

    The address is kept in lower case. One that is registered already is refused: log in with it.
    """
    return await users.register(body.email, await passwords.hash(body.password))


@accounts.post(
    "/login", summary="Get a token", responses=error_responses(InvalidCredentials, TooManyLogins)
)
@anyone
async def login(
    body: Login,
    users: AllUsers,
    passwords: Hashing,
    tokens: Signing,
    failures: Failures,
    client: Client,
) -> AccessToken:
    """Get a token, to send as `Authorization: Bearer <access_token>`.

    Here, copy the `access_token` from the answer, and paste it where **Authorize** asks for it.

    A wrong password and an unknown address get the same answer, in the same time. Fail too often,
    and you are refused for a while; others, elsewhere, are not.
    """
    async with failures.attempt(client, body.email):
        user = await users.find(body.email)
        is_right = await passwords.verify(body.password, user.password_hash if user else None)
        if user is None or not is_right:
            raise InvalidCredentials
    return AccessToken(
        access_token=tokens.issue(user.pk, user.role), expires_in=tokens.expires_seconds
    )


async def _me(caller: SignedIn, users: AllUsers) -> User:
    user = await users.get(caller.user_id)
    if user is None:
        raise UserNotFound
    return user


Me = Annotated[User, Depends(_me)]


@own.get(
    "/me",
    summary="Whose token is this?",
    response_model=UserPublic,
    responses=error_responses(UserNotFound),
)
async def me(caller: SignedIn, user: Me) -> User:
    """Your account, as whoever the token was given to."""
    return user


@own.patch(
    "/me",
    summary="Change your password",
    response_model=UserPublic,
    responses=error_responses(InvalidCredentials, UserNotFound, TooManyLogins),
)
async def change_password(
    caller: SignedIn,
    user: Me,
    body: PasswordChange,
    users: AllUsers,
    passwords: Hashing,
    failures: Failures,
    client: Client,
) -> User:
    """Choose a new password. A wrong current one is refused, and counts as a failed login.

    Tokens that you have been given stay good until they expire.
    """
    async with failures.attempt(client, user.email):
        if not await passwords.verify(body.current_password, user.password_hash):
            raise InvalidCredentials("The current password is wrong.")
    if not await users.set_password(user, await passwords.hash(body.password), user.role):
        raise InvalidCredentials
    return user


@asynccontextmanager
async def _accounts(state: State) -> AsyncIterator[None]:
    settings: Settings = state.settings
    state.users = Users(state.opened.records)
    with Passwords(settings.bcrypt_rounds) as passwords:
        await ensure_administrator(settings, state.users, passwords)
        state.passwords = passwords
        state.failed_logins = FailedLogins(state.opened.records.counters, settings.login_limit)
        yield


def build(settings: Settings | None = None) -> FastAPI:
    """Return the app, with these settings or those of the environment."""
    return create_app(
        "user",
        description=DESCRIPTION,
        tags=TAGS,
        routers=[accounts, own],
        open_storage=open_storage,
        resources=_accounts,
        settings=settings,
    )


app = build()

if __name__ == "__main__":
    serve(app, PORT)
