"""The user service, port 8001: registration, login and the caller's own account."""

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated, Literal

from fastapi import APIRouter, Depends, FastAPI, Request
from pydantic import Field

from shopsphere.accounts.administrator import ensure_administrator
from shopsphere.accounts.failed_logins import LoginThrottle, client_of
from shopsphere.accounts.passwords import Passwords
from shopsphere.accounts.users import Session, Users
from shopsphere.domain import errors
from shopsphere.domain.records import User
from shopsphere.settings import Settings
from shopsphere.web.access import SignedIn, anyone
from shopsphere.web.app import create_app, serve
from shopsphere.web.error_responses import raises
from shopsphere.web.examples import USER_MADE_AT, USER_PK
from shopsphere.web.schemas import AnyPassword, Body, Email, Password, Public, Timestamp
from shopsphere.web.service import OWN, Service
from storage import open_storage

log = logging.getLogger("shopsphere.user_service")

PORT = 8001
DESCRIPTION = """
User accounts, and the access tokens that all services accept.

**To try it:** register, log in, copy the `access_token` from the response, press **Authorize** and
paste it there. The same token works at the product service (port 8000) and the order service (port
8002). Reloading the page clears it.
"""
TAGS = {"accounts": "Register and log in.", "me": "The account that a token belongs to."}


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
    created_at: Timestamp = Field(examples=[USER_MADE_AT])


class AccessToken(Public):
    access_token: str = Field(examples=["eyJhbGciOiJIUzI1NiIs..."])
    token_type: Literal["bearer"] = "bearer"
    expires_in: int = Field(examples=[3600], description="Seconds from now.")


async def _client(request: Request) -> str:
    if request.client is None:
        log.warning("a client has no address, so its login limit is shared: see docs/operating.md")
    return client_of(request.client.host if request.client else "")


AllUsers = Annotated[Users, OWN]
Client = Annotated[str, Depends(_client)]

accounts = APIRouter(tags=["accounts"], responses=raises(errors.StoreUnavailable))
own = APIRouter(tags=["me"], responses=raises(errors.StoreUnavailable))


@accounts.post(
    "/register", response_model=UserPublic, status_code=201, responses=raises(errors.EmailTaken)
)
@anyone
async def register(body: UserCreate, users: AllUsers) -> User:
    """Create an account with an email address and a password of 8 to 128 characters.

    The address is stored in lower case. An already registered address is refused.
    """
    return await users.register(body.email, body.password)


@accounts.post(
    "/login",
    response_model=AccessToken,
    responses=raises(errors.InvalidCredentials, errors.TooManyLogins),
)
@anyone
async def login(body: Login, users: AllUsers, client: Client) -> Session:
    """Get an access token, to send as `Authorization: Bearer <access_token>`.

    On this page, copy the `access_token` from the response, and paste it into **Authorize**.

    A wrong password and an unknown address get the same response after the same time. After too
    many failures, your client is refused for a while; other clients are unaffected.
    """
    return await users.log_in(client, body.email, body.password)


@own.get("/me", response_model=UserPublic, responses=raises(errors.UserNotFound))
async def get_me(caller: SignedIn, users: AllUsers) -> User:
    """Your account: the one that the token was issued for."""
    return await users.get(caller.user_pk)


@own.patch(
    "/me",
    response_model=UserPublic,
    responses=raises(errors.InvalidCredentials, errors.UserNotFound, errors.TooManyLogins),
)
async def change_password(
    caller: SignedIn, body: PasswordChange, users: AllUsers, client: Client
) -> User:
    """Change your password. A wrong current password is refused and counts as a failed login.

    Access tokens issued earlier remain valid until they expire.
    """
    return await users.change_password(client, caller.user_pk, body.current_password, body.password)


@asynccontextmanager
async def _users(service: Service[Users]) -> AsyncIterator[Users]:
    settings, records = service.settings, service.opened.records
    throttle = LoginThrottle(records, settings.login_limit)
    users = Users(records, Passwords(settings.bcrypt_rounds), service.tokens, throttle)
    await ensure_administrator(settings, users)
    yield users


def build(settings: Settings | None = None) -> FastAPI:
    """Return the app, with these settings or those from the environment."""
    return create_app("user", DESCRIPTION, TAGS, [accounts, own], open_storage, _users, settings)


app = build()

if __name__ == "__main__":
    serve(app, PORT)
