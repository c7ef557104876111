"""Who is calling. In open mode a token is optional, but a bad one is still refused."""

from typing import Annotated

from fastapi import Depends, Request, Security
from fastapi.security import HTTPBearer

from shopsphere.errors import InvalidToken
from shopsphere.tokens import Caller, Tokens

_swagger_authorize = HTTPBearer(
    auto_error=False, description="The `access_token` that POST /login of the user service gives."
)


async def optional_caller(
    request: Request, _: Annotated[object, Security(_swagger_authorize)]
) -> Caller | None:
    """Return whom the bearer token speaks for, or None without one; raise InvalidToken."""
    headers = request.headers.getlist("authorization")
    if not headers:
        return None
    scheme, _, token = headers[0].partition(" ")
    if len(headers) > 1 or scheme.lower() != "bearer":
        raise InvalidToken("Send one header: Authorization: Bearer <token>.")
    tokens: Tokens = request.app.state.tokens
    return tokens.read(token.strip())


OptionalCaller = Annotated[Caller | None, Depends(optional_caller)]


async def signed_in(caller: OptionalCaller) -> Caller:
    """Return whom the bearer token speaks for; raise InvalidToken without one."""
    if caller is None:
        raise InvalidToken
    return caller


SignedIn = Annotated[Caller, Depends(signed_in)]

TOKEN_CHECKED = Depends(optional_caller)
"""For a route on which a token could matter: a bad one is refused."""
