"""Who may do what. Each route has exactly one rule, which is asked before its request is read.

With AUTH_REQUIRED=false a token is optional and everything is open; but a bad token is refused, and
a service is never taken for a person. `anyone` looks at no token at all.
"""

import secrets
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, TypeVar

from fastapi import Request, Security
from fastapi.openapi.models import HTTPBearer
from fastapi.routing import APIRoute
from fastapi.security.base import SecurityBase
from starlette.types import ASGIApp, Receive, Scope, Send

from shopsphere.domain.errors import Forbidden, InvalidToken
from shopsphere.domain.values import Role
from shopsphere.settings import Settings
from shopsphere.tokens import Caller
from shopsphere.web.service import service_of

Endpoint = TypeVar("Endpoint", bound=Callable[..., object])
_open_endpoints: set[object] = set()


@dataclass(frozen=True, slots=True)
class Person:
    """Somebody who orders. `user_id` is None for a person without a token, in open mode.

    `orders_of` is whose orders this person sees and cancels: those of one user, or all when None.
    """

    user_id: str | None
    orders_of: str | None


class Rule(SecurityBase):
    """Lets in whoever has one of these roles, by the access token; in open mode, everybody.

    But a rule for people lets in no service in either mode. FastAPI knows a rule as a dependency on
    the caller, and as the security of the route for Swagger's Authorize button.
    """

    model = HTTPBearer(description="The `access_token` that POST /login of the user service gives.")
    scheme_name = "AccessToken"

    def __init__(self, *roles: Role, needs_token: bool = False) -> None:
        """`needs_token`: in open mode too."""
        self._roles = roles
        self._is_for_people = Role.USER in roles
        self.needs_token = needs_token

    async def __call__(self, request: Request) -> object:
        """Return the caller, who was let in; None without a token."""
        if "shopsphere.caller" not in request.scope:  # a route that was added without `guard`
            self.require(request)
        return request.scope["shopsphere.caller"]

    def require(self, request: Request) -> None:
        """Raise InvalidToken or Forbidden, unless the caller may come in."""
        token, is_open = _bearer(request), _is_open(request)
        caller = None if token is None else service_of(request).tokens.read(token)
        request.scope["shopsphere.caller"] = caller  # for the log and the idempotency key too
        if caller is None:
            if self.needs_token or not is_open:
                raise InvalidToken
        elif caller.role not in self._roles and (self._is_for_people or not is_open):
            raise Forbidden


class _Customers(Rule):
    """Lets people in, and says whose orders they see."""

    async def __call__(self, request: Request) -> Person:
        caller = await super().__call__(request)
        if not isinstance(caller, Caller):
            return Person(None, orders_of=None)
        sees_all = _is_open(request) or caller.role is Role.ADMIN
        return Person(caller.user_id, orders_of=None if sees_all else caller.user_id)


class _MetricsReaders(Rule):
    """Lets in who sends METRICS_TOKEN, and nobody while it is empty; in open mode, everybody."""

    model = HTTPBearer(description="For /metrics alone: the METRICS_TOKEN of the settings.")
    scheme_name = "MetricsToken"

    def require(self, request: Request) -> None:
        expected = service_of(request).settings.metrics_token.get_secret_value()
        request.scope["shopsphere.caller"] = None
        if _is_open(request):
            return
        if not expected:
            raise Forbidden("Nobody may read the metrics as long as METRICS_TOKEN is empty.")
        if not secrets.compare_digest((_bearer(request) or "").encode(), expected.encode()):
            raise InvalidToken("Send METRICS_TOKEN, in the header: Authorization: Bearer <token>.")


ADMINISTRATOR = Security(Rule(Role.ADMIN))
ORDER_SERVICE = Security(Rule(Role.SERVICE))
ADMINISTRATOR_OR_ORDER_SERVICE = Security(Rule(Role.ADMIN, Role.SERVICE))
METRICS_READER = Security(_MetricsReaders())
Customer = Annotated[Person, Security(_Customers(Role.USER, Role.ADMIN))]
SignedIn = Annotated[Caller, Security(Rule(Role.USER, Role.ADMIN, needs_token=True))]


def anyone(endpoint: Endpoint) -> Endpoint:
    """Let everybody into this route, whatever token they send; a request pays nothing for it."""
    _open_endpoints.add(endpoint)
    return endpoint


class _Guarded:
    """What a route does, for those whom its rule lets in."""

    def __init__(self, app: ASGIApp, rule: Rule) -> None:
        self._app = app
        self.rule = rule

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.rule.require(Request(scope))
        await self._app(scope, receive, send)


def guard(route: APIRoute) -> None:
    """Have the rule of a route asked before anything else; raise TypeError unless it has just one.

    FastAPI 0.165 parses a body before it solves dependencies, and who may not come in is not to be
    told what is wrong with a body.
    """
    calls = [dependency.call for dependency in route.dependant.dependencies]
    rules = [call for call in calls if isinstance(call, Rule)]
    if len(rules) + (route.endpoint in _open_endpoints) != 1:
        raise TypeError(f"{route.path} needs exactly one rule of access, or to be for anyone")
    if rules and not isinstance(route.app, _Guarded):  # another app with this route guards it too
        route.app = _Guarded(route.app, rules[0])


def is_token_optional(route: APIRoute, settings: Settings) -> bool:
    """Tell whether a route also lets somebody in without a token."""
    needs_token = isinstance(route.app, _Guarded) and route.app.rule.needs_token
    return not settings.auth_required and not needs_token


def _is_open(request: Request) -> bool:
    return not service_of(request).settings.auth_required


def _bearer(request: Request) -> str | None:
    """Return the token of the one Authorization header, None without one; raise InvalidToken."""
    headers = request.headers.getlist("authorization")
    if not headers:
        return None
    scheme, _, token = headers[0].partition(" ")
    if len(headers) > 1 or scheme.lower() != "bearer":
        raise InvalidToken("Send one header: Authorization: Bearer <token>.")
    return token.strip()
