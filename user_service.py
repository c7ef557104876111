"""The user service, port 8001: registration, login and the caller's own account."""

import shopsphere.packages  # noqa: F401  # so that `python user_service.py` finds .venv

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
from shopsphere.web.access import ANYONE, SignedIn
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

**To try it:** Register and log in. Copy the `access_token` from the response, press **Authorize**
and paste it there. The token also works at the [product service]({product_service_url}/docs) and
the [order service]({order_service_url}/docs).
"""
TAGS = {"accounts": "Register, log in and out.", "me": "View, change or delete your account."}
REFRESH_TOKEN = f"{USER_PK}.01M8706R0WQ3Y5D2K8B7N4T6VE.1.5f1c..."


class UserCreate(Body):
    email: Email = Field(examples=["user@example.com"])
    password: Password = Field(examples=["securepass123"])


class Login(Body):
    email: Email = Field(examples=["user@example.com"])
    password: AnyPassword = Field(examples=["securepass123"])


class PasswordChange(Body):
    current_password: AnyPassword = Field(examples=["securepass123"])
    password: Password = Field(examples=["newsecurepass456"], description="The new password.")


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
    expires_in: int = Field(examples=[3600], description="Seconds until the access token expires.")
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
"""For responses with tokens, which must not be cached (RFC 6749, section 5.1)."""
NEEDS_PASSWORD = raises(
    errors.InvalidCredentials, errors.UserNotFound, errors.AccountIsConfigured, errors.TooManyLogins
)

accounts = APIRouter(tags=["accounts"], dependencies=[ANYONE])
own = APIRouter(tags=["me"])


@accounts.post(
    "/register", response_model=UserPublic, status_code=201, responses=raises(errors.EmailTaken)
)
async def register(body: UserCreate, users: AllUsers) -> User:
    """Create an account.

    The password must have 8 to 128 characters. The email address is stored in lower case.
    """
    return await users.register(body.email, body.password)


@accounts.post(
    "/login",
    response_model=SessionPublic,
    responses=raises(errors.InvalidCredentials, errors.TooManyLogins),
    dependencies=[NO_STORE],
)
async def login(body: Login, users: AllUsers, client: Client) -> Session:
    """Log in and get tokens.

    Send the access token in the header `Authorization: Bearer <access_token>`. On this page, paste
    it into **Authorize**. Before it expires, use the refresh token to get a new one.

    A wrong password and an unknown address get the same response, after the same time. After too
    many failed logins, wait as long as `Retry-After` says; other clients are unaffected.
    """
    return await users.log_in(client, body.email, body.password)


@accounts.post(
    "/refresh",
    response_model=SessionPublic,
    responses=raises(errors.InvalidRefreshToken),
    dependencies=[NO_STORE],
)
async def refresh(body: SessionToken, users: AllUsers) -> Session:
    """Get new tokens.

    The new refresh token replaces the one you send. Repeats within 60 seconds return the same
    refresh token. Using a replaced token later ends its session, as the token may be stolen.
    """
    return await users.refresh(body.refresh_token)


@accounts.post("/logout", status_code=204)
async def logout(body: SessionToken, users: AllUsers) -> None:
    """End a session.

    Its refresh tokens stop working. Access tokens remain valid until they expire.
    """
    await users.log_out(body.refresh_token)


@own.get("/me", response_model=UserPublic, responses=raises(errors.UserNotFound))
async def get_me(caller: SignedIn, users: AllUsers) -> User:
    """Get your account.

    This is the account that the access token was issued for.
    """
    return await users.get(caller.user_pk)


@own.patch(
    "/me", response_model=UserInNewSession, responses=NEEDS_PASSWORD, dependencies=[NO_STORE]
)
async def change_password(
    caller: SignedIn, body: PasswordChange, users: AllUsers, client: Client
) -> dict[str, object]:
    """Change your password.

    All your sessions end, and a new one starts. Earlier access tokens remain valid until they
    expire. A wrong current password counts as a failed login.
    """
    user, session = await users.change_password(
        client, caller.user_pk, body.current_password, body.password
    )
    return {**UserPublic.model_validate(user).model_dump(), **session._asdict()}


@own.post("/me/delete", status_code=204, responses=NEEDS_PASSWORD)
async def delete_me(caller: SignedIn, body: Deletion, users: AllUsers, client: Client) -> None:
    """Delete your account.

    All your sessions end. Your orders remain, and the email address can be registered again. Access
    tokens remain valid until they expire. A wrong password counts as a failed login.
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
