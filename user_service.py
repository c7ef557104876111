"""The user service, port 8001: registering, logging in, who am I."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import datetime
from typing import Annotated, Literal

from email_validator import EmailNotValidError, validate_email
from fastapi import APIRouter, Depends, FastAPI, Request
from pydantic import AfterValidator, BaseModel, ConfigDict, Field
from starlette.datastructures import State

from shopsphere.access import SignedIn
from shopsphere.error_answers import errors
from shopsphere.errors import (
    EmailTaken,
    InvalidCredentials,
    InvalidToken,
    StoreUnavailable,
    UserNotFound,
)
from shopsphere.models import Role, User, new_pk
from shopsphere.passwords import Passwords
from shopsphere.settings import Settings
from shopsphere.stores import UserStore
from shopsphere.tokens import Tokens
from shopsphere.web import create_app, serve
from storage import open_user_store

PORT = 8001


def _email(text: str) -> str:
    try:
        checked = validate_email(text.strip(), check_deliverability=False, test_environment=True)
    except EmailNotValidError:
        raise ValueError("must be an email address, such as user@example.com") from None
    return checked.normalized.lower()


Email = Annotated[str, Field(max_length=320), AfterValidator(_email)]
Password = Annotated[str, Field(min_length=8, max_length=128)]


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid")


class UserCreate(_Body):
    email: Email = Field(examples=["user@example.com"])
    password: Password = Field(examples=["securepass123"])


class Login(_Body):
    email: Email = Field(examples=["user@example.com"])
    password: str = Field(max_length=128, examples=["securepass123"])


class UserPublic(BaseModel):
    model_config = ConfigDict(from_attributes=True)

    pk: str
    email: str
    created_at: datetime


class AccessToken(BaseModel):
    access_token: str
    token_type: Literal["bearer"] = "bearer"
    expires_in: int = Field(description="Seconds from now.")


async def _store(request: Request) -> UserStore:
    store: UserStore = request.app.state.opened.store
    return store


async def _passwords(request: Request) -> Passwords:
    passwords: Passwords = request.app.state.passwords
    return passwords


async def _tokens(request: Request) -> Tokens:
    tokens: Tokens = request.app.state.tokens
    return tokens


Users = Annotated[UserStore, Depends(_store)]
Hashing = Annotated[Passwords, Depends(_passwords)]
Signing = Annotated[Tokens, Depends(_tokens)]

router = APIRouter(tags=["users"], responses=errors(StoreUnavailable))


@router.post("/register", response_model=UserPublic, status_code=201, responses=errors(EmailTaken))
async def register(body: UserCreate, users: Users, passwords: Hashing) -> User:
    """Make an account. The address is kept in lower case; the password has 8 to 128 characters."""
    user = User(new_pk(), body.email, await passwords.hash(body.password), Role.USER)
    await users.add(user)
    return user


@router.post("/login", responses=errors(InvalidCredentials))
async def login(body: Login, users: Users, passwords: Hashing, tokens: Signing) -> AccessToken:
    """Get a token to send as `Authorization: Bearer <access_token>`.

    A wrong password and an unknown address get the same answer, in the same time.
    """
    user = await users.find(body.email)
    is_right = await passwords.verify(body.password, user.password_hash if user else None)
    if user is None or not is_right:
        raise InvalidCredentials
    return AccessToken(
        access_token=tokens.issue(user.pk, user.role), expires_in=tokens.expires_seconds
    )


@router.get("/me", response_model=UserPublic, responses=errors(InvalidToken, UserNotFound))
async def me(caller: SignedIn, users: Users) -> User:
    """Whose token is this?"""
    user = await users.get(caller.user_id)
    if user is None:
        raise UserNotFound
    return user


@asynccontextmanager
async def _hashing(state: State) -> AsyncIterator[None]:
    state.passwords = Passwords(state.settings.bcrypt_rounds)
    yield
    state.passwords.close()


def build(settings: Settings | None = None) -> FastAPI:
    """Return the app, with these settings or those of the environment."""
    return create_app(
        "user",
        title="ShopSphere users",
        description="Accounts and the tokens that the other services take.",
        routers=[router],
        open_store=open_user_store,
        around=_hashing,
        settings=settings,
    )


app = build()

if __name__ == "__main__":
    serve(app, PORT)
