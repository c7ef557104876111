"""Who may do what. Each route has exactly one of these rules, before anything else it depends on.

With AUTH_REQUIRED=false a token is optional and everything is open; but a bad token is refused, and
a service is never taken for a person. `anyone` looks at no token at all.
"""

import secrets
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Annotated, TypeVar

from fastapi import Depends, Request, Security
from fastapi.openapi.models import HTTPBearer as HTTPBearerModel
from fastapi.routing import APIRoute
from fastapi.security import HTTPBearer
from fastapi.security.base import SecurityBase

from shopsphere.domain.errors import Forbidden, InvalidToken
from shopsphere.domain.values import Role
from shopsphere.settings import Settings
from shopsphere.tokens import Caller, Tokens

# It only gives OpenAPI what Swagger's Authorize button needs: `_bearer` reads the header.
_metrics_token = HTTPBearer(
    auto_error=False,
    scheme_name="MetricsToken",
    description="For /metrics alone: the METRICS_TOKEN of the settings.",
)


Endpoint = TypeVar("Endpoint", bound=Callable[..., object])
_open_endpoints: set[object] = set()


@dataclass(frozen=True, slots=True)
class Person:
    """Somebody who orders. `user_id` is None for a person without a token, in open mode.

    `orders_of` is whose orders this person sees and cancels: those of one user, or all when None.
    """

    user_id: str | None
    orders_of: str | None


class _AccessToken(SecurityBase):
    """The token in the Authorization header, also as Swagger's Authorize button knows it.

    Both in one dependency, as each costs a request 15 µs.
    """

    model = HTTPBearerModel(
        description="The `access_token` that POST /login of the user service gives."
    )
    scheme_name = "AccessToken"

    async def __call__(self, request: Request) -> Caller | None:
        """Return whom the token speaks for, or None without one; raise InvalidToken."""
        tokens: Tokens = request.app.state.tokens
        token = _bearer(request)
        caller = None if token is None else tokens.read(token)
        request.scope["shopsphere.caller"] = caller  # for the log
        return caller


optional_caller = _AccessToken()
OptionalCaller = Annotated[Caller | None, Security(optional_caller)]


def anyone(endpoint: Endpoint) -> Endpoint:
    """Let everybody into this route, whatever token they send; a request pays nothing for it."""
    _open_endpoints.add(endpoint)
    return endpoint


async def administrator(request: Request, caller: OptionalCaller) -> None:
    """Let administrators in."""
    _require(request, caller, Role.ADMIN)


async def order_service(request: Request, caller: OptionalCaller) -> None:
    """Let the order service in."""
    _require(request, caller, Role.SERVICE)


async def administrator_or_order_service(request: Request, caller: OptionalCaller) -> None:
    """Let administrators and the order service in."""
    _require(request, caller, Role.ADMIN, Role.SERVICE)


async def customer(request: Request, caller: OptionalCaller) -> Person:
    """Let people in, and say whose orders they see. A service is not a person in either mode."""
    _require(request, caller, Role.USER, Role.ADMIN)
    if caller is None:
        return Person(None, orders_of=None)
    _refuse_service(caller)
    sees_all = _is_open(request) or caller.role is Role.ADMIN
    return Person(caller.user_id, orders_of=None if sees_all else caller.user_id)


async def signed_in(request: Request, caller: OptionalCaller) -> Caller:
    """Let people with a token in, and nobody without, in either mode."""
    if caller is None:
        raise InvalidToken
    _refuse_service(caller)
    return caller


async def metrics_reader(request: Request, _: Annotated[object, Security(_metrics_token)]) -> None:
    """Let those in who send METRICS_TOKEN, and nobody while it is empty; in open mode everybody."""
    settings: Settings = request.app.state.settings
    expected = settings.metrics_token.get_secret_value()
    if _is_open(request):
        return
    if not expected:
        raise Forbidden("Nobody may read the metrics as long as METRICS_TOKEN is empty.")
    if not secrets.compare_digest((_bearer(request) or "").encode(), expected.encode()):
        raise InvalidToken("Send METRICS_TOKEN, in the header: Authorization: Bearer <token>.")


ADMINISTRATOR = Depends(administrator)
ORDER_SERVICE = Depends(order_service)
ADMINISTRATOR_OR_ORDER_SERVICE = Depends(administrator_or_order_service)
METRICS_READER = Depends(metrics_reader)
Customer = Annotated[Person, Depends(customer)]
SignedIn = Annotated[Caller, Depends(signed_in)]

_ON_TOKENS: tuple[Callable[[Request, Caller | None], Awaitable[object]], ...] = (
    administrator,
    order_service,
    administrator_or_order_service,
    customer,
    signed_in,
)


def rules_of(route: APIRoute) -> list[object]:
    """Return the rules of a route, in the order in which they are asked: just one is right."""
    calls = [dependency.call for dependency in route.dependant.dependencies]
    rules: list[object] = [call for call in calls if call in (metrics_reader, *_ON_TOKENS)]
    return [anyone, *rules] if route.endpoint in _open_endpoints else rules


def is_token_optional(route: APIRoute, settings: Settings) -> bool:
    """Tell whether the route also lets somebody in without a token."""
    return not settings.auth_required and signed_in not in rules_of(route)


async def check_access(request: Request) -> None:
    """Apply the rule of the route, before FastAPI comes to it; raise InvalidToken or Forbidden.

    FastAPI 0.165 parses a body before it solves dependencies, and who may not come in is not to be
    told what is wrong with a body.
    """
    calls = [dependency.call for dependency in request.scope["route"].dependant.dependencies]
    for rule in _ON_TOKENS:
        if rule in calls:
            await rule(request, await optional_caller(request))


def _require(request: Request, caller: Caller | None, *roles: Role) -> None:
    """Raise InvalidToken or Forbidden, unless the shop is open or the caller has such a role."""
    if _is_open(request):
        return
    if caller is None:
        raise InvalidToken
    if caller.role not in roles:
        raise Forbidden


def _refuse_service(caller: Caller) -> None:
    if caller.role is Role.SERVICE:
        raise Forbidden("A service is not a person: only a person's token can be used for this.")


def _is_open(request: Request) -> bool:
    settings: Settings = request.app.state.settings
    return not settings.auth_required


def _bearer(request: Request) -> str | None:
    """Return the token of the one Authorization header, None without one; raise InvalidToken."""
    headers = request.headers.getlist("authorization")
    if not headers:
        return None
    scheme, _, token = headers[0].partition(" ")
    if len(headers) > 1 or scheme.lower() != "bearer":
        raise InvalidToken("Send one header: Authorization: Bearer <token>.")
    return token.strip()
