"""The user service, port 8001: registration, login and the caller's own account."""

import shopsphere.packages  # noqa: F401  # those of .venv, if need be

# isort: split

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated, Literal

from fastapi import APIRouter, Depends, FastAPI, Request, Response
from pydantic import Field

from shopsphere.accounts.administrator import ensure_administrator
from shopsphere.accounts.failed_logins import client_of
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
paste it there. Where tokens are required, the same token works at the product service (port 8000)
and the order service (port 8002).

Before it expires, `POST /refresh` with the `refresh_token` returns new ones. `POST /logout` ends
the session, `PATCH /me` with another password ends all of them, and `POST /me/delete` deletes the
account.
"""
TAGS = {"accounts": "Register, log in and out.", "me": "The account that a token belongs to."}


REFRESH_TOKEN = f"{USER_PK}.01M8706R0WQ3Y5D2K8B7N4T6VE.1.5f1c..."


class UserCreate(Body):
    email: Email = Field(examples=["user@example.com"])
    password: Password = Field(examples=["securepass123"])


class Login(Body):
    email: Email = Field(examples=["user@example.com"])
    password: AnyPassword = Field(examples=["securepass123"])


class PasswordChange(Body):
    current_password: AnyPassword = Field(examples=["securepass123"])
    password: Password = Field(examples=["securepass123"], description="The new one.")


class Deletion(Body):
    current_password: AnyPassword = Field(examples=["securepass123"])


class SessionToken(Body):
    refresh_token: str = Field(examples=[REFRESH_TOKEN])


class UserPublic(Public):
    pk: str = Field(examples=[USER_PK])
    email: str = Field(examples=["user@example.com"])
    created_at: Timestamp = Field(examples=[USER_MADE_AT])


class SessionPublic(Public):
    access_token: str = Field(examples=["eyJhbGciOiJIUzI1NiIs..."])
    token_type: Literal["bearer"] = "bearer"
    expires_in: int = Field(examples=[3600], description="Seconds from now.")
    refresh_token: str = Field(examples=[REFRESH_TOKEN])


class UserInNewSession(SessionPublic, UserPublic): ...


async def _no_store(response: Response) -> None:
    response.headers["Cache-Control"] = "no-store"


async def _client(request: Request) -> str:
    if request.client is None:
        log.warning("a client has no address, so its login limit is shared: see docs/operating.md")
    return client_of(request.client.host if request.client else "")


AllUsers = Annotated[Users, OWN]
Client = Annotated[str, Depends(_client)]
NO_STORE = Depends(_no_store)
"""For responses with tokens, which no cache may keep (RFC 6749, section 5.1)."""
NEEDS_PASSWORD = raises(
    errors.InvalidCredentials, errors.UserNotFound, errors.AccountIsConfigured, errors.TooManyLogins
)

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
    response_model=SessionPublic,
    responses=raises(errors.InvalidCredentials, errors.TooManyLogins),
    dependencies=[NO_STORE],
)
@anyone
async def login(body: Login, users: AllUsers, client: Client) -> Session:
    """Start a session: get an access token, to send as `Authorization: Bearer <access_token>`, and
    a refresh token, to get the next one.

    On this page, copy the `access_token` from the response, and paste it into **Authorize**.

    A wrong password and an unknown address get the same response after the same time. After too
    many failures, your client is refused for a while; other clients are unaffected.
    """
    return await users.log_in(client, body.email, body.password)


@accounts.post(
    "/refresh",
    response_model=SessionPublic,
    responses=raises(errors.InvalidRefreshToken),
    dependencies=[NO_STORE],
)
@anyone
async def refresh(body: SessionToken, users: AllUsers) -> Session:
    """Get a new access token and a new refresh token, which replaces the one you send.

    Repeats within 60 seconds return the same new refresh token. A token that is used again later
    ends its session, because it may have been stolen.
    """
    return await users.refresh(body.refresh_token)


@accounts.post("/logout", status_code=204)
@anyone
async def logout(body: SessionToken, users: AllUsers) -> None:
    """End the session of a refresh token. Access tokens remain valid until they expire."""
    await users.log_out(body.refresh_token)


@own.get("/me", response_model=UserPublic, responses=raises(errors.UserNotFound))
async def get_me(caller: SignedIn, users: AllUsers) -> User:
    """Your account: the one that the token was issued for."""
    return await users.get(caller.user_pk)


@own.patch(
    "/me", response_model=UserInNewSession, responses=NEEDS_PASSWORD, dependencies=[NO_STORE]
)
async def change_password(
    caller: SignedIn, body: PasswordChange, users: AllUsers, client: Client
) -> dict[str, object]:
    """Change your password, end all your sessions, and start a new one.

    A wrong current password is refused and counts as a failed login. Access tokens issued earlier
    remain valid until they expire.
    """
    user, session = await users.change_password(
        client, caller.user_pk, body.current_password, body.password
    )
    return {**UserPublic.model_validate(user).model_dump(), **session._asdict()}


@own.post("/me/delete", status_code=204, responses=NEEDS_PASSWORD)
async def delete_me(caller: SignedIn, body: Deletion, users: AllUsers, client: Client) -> None:
    """Delete your account and end all your sessions. Your orders remain, and the address can be
    registered again.

    A wrong password is refused and counts as a failed login. Access tokens remain valid until they
    expire.
    """
    await users.delete(client, caller.user_pk, body.current_password)


@asynccontextmanager
async def _users(service: Service[Users]) -> AsyncIterator[Users]:
    settings = service.settings
    passwords = Passwords(settings.bcrypt_rounds)
    users = Users(service.opened.records, settings, service.tokens, passwords)
    await ensure_administrator(settings, users)
    yield users


def build(settings: Settings | None = None) -> FastAPI:
    """Return the app, with these settings or those from the environment."""
    return create_app("user", DESCRIPTION, TAGS, [accounts, own], open_storage, _users, settings)


app = build()

if __name__ == "__main__":
    serve(app, PORT)
