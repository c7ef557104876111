"""Access control. Each route has exactly one rule, checked before the request body is read.

In open mode (AUTH_REQUIRED=false), tokens are optional and everything is allowed, except invalid
tokens, and service tokens where a person is expected. Routes for ANYONE ignore tokens.
"""

import secrets
from collections import Counter
from dataclasses import dataclass
from typing import Annotated, NamedTuple

from fastapi import Depends, Request, Security
from fastapi.dependencies.utils import get_flat_params
from fastapi.openapi.models import HTTPBearer
from fastapi.params import Header, Path
from fastapi.routing import APIRoute
from fastapi.security.base import SecurityBase
from starlette.datastructures import QueryParams
from starlette.types import ASGIApp, Receive, Scope, Send

from shopsphere.domain.errors import BodyTooLarge, Forbidden, InvalidRequest, InvalidToken
from shopsphere.domain.values import Role
from shopsphere.tokens import Caller
from shopsphere.web.service import service_of


class Person(NamedTuple):
    """A customer. `user_pk` is None without a token, in open mode.

    `orders_of` is the user whose orders this person may see and cancel; None means all orders.
    """

    user_pk: str | None
    orders_of: str | None


class Rule(SecurityBase):
    """Admits access tokens with one of these roles; in open mode, everyone.

    A rule for people never admits a service, in either mode. To FastAPI, a rule is a dependency
    that returns the caller, and the route's security scheme for Swagger's Authorize button.
    """

    model = HTTPBearer(description="The `access_token` from `POST /login` of the user service.")
    scheme_name = "AccessToken"

    def __init__(self, *roles: Role, needs_token: bool = False) -> None:
        """`needs_token`: a token is required even in open mode."""
        self._roles = roles
        self._needs_token = needs_token

    def has_padlock(self, is_open: bool) -> bool:
        """Return whether an access token is required."""
        return self._needs_token or not is_open

    async def __call__(self, request: Request) -> object:
        """Return the caller that `guard` admitted; None without a token."""
        return request.scope["shopsphere.caller"]

    def require(self, request: Request) -> None:
        """Raise InvalidToken or Forbidden unless the caller is admitted."""
        token, is_open = _bearer(request), _is_open(request)
        caller = None if token is None else service_of(request).tokens.read(token)
        request.scope["shopsphere.caller"] = caller  # for the log and the idempotency key too
        if caller is None:
            if self.has_padlock(is_open):
                raise InvalidToken
        elif caller.role not in self._roles and (Role.USER in self._roles or not is_open):
            raise Forbidden


class _Customers(Rule):
    """Admits people, and determines whose orders they may see."""

    async def __call__(self, request: Request) -> Person:
        caller = await super().__call__(request)
        if not isinstance(caller, Caller):
            return Person(None, orders_of=None)
        sees_all = _is_open(request) or caller.role is Role.ADMIN
        return Person(caller.user_pk, orders_of=None if sees_all else caller.user_pk)


class _MetricsReaders(Rule):
    """Admits METRICS_TOKEN only, and nobody while it is empty; in open mode, everyone."""

    def has_padlock(self, is_open: bool) -> bool:
        return False  # it is not an access token

    def require(self, request: Request) -> None:
        expected = service_of(request).settings.metrics_token.get_secret_value()
        request.scope["shopsphere.caller"] = None
        if _is_open(request):
            return
        if not expected:
            raise Forbidden("Metrics are disabled while METRICS_TOKEN is empty. Set it first.")
        if not secrets.compare_digest((_bearer(request) or "").encode(), expected.encode()):
            raise InvalidToken("Send METRICS_TOKEN in the header Authorization: Bearer <token>.")


async def _anyone() -> None: ...


ANYONE = Depends(_anyone)
"""The rule of a route that admits everyone and ignores tokens."""
ADMINISTRATOR = Security(Rule(Role.ADMIN))
ORDER_SERVICE = Security(Rule(Role.SERVICE))
ADMINISTRATOR_OR_SERVICE = Security(Rule(Role.ADMIN, Role.SERVICE))
METRICS_READER = Security(_MetricsReaders())
Customer = Annotated[Person, Security(_Customers(Role.USER, Role.ADMIN))]
SignedIn = Annotated[Caller, Security(Rule(Role.USER, Role.ADMIN, needs_token=True))]


def guard(route: APIRoute, ignores_query: bool) -> None:
    """Check the rule of a route before anything else; raise TypeError unless it has exactly one.

    FastAPI 0.165 parses a body before it resolves dependencies, but callers without access must not
    learn what is wrong with a body.
    """
    if isinstance(route.app, Guard):  # already guarded by another app
        return
    dependencies = route.dependant.dependencies
    rules = [each for each in dependencies if isinstance(each.call, Rule) or each.call is _anyone]
    if len(rules) != 1:
        raise TypeError(f"{route.path} needs exactly one access rule")
    rule = rules[0].call
    if not isinstance(rule, Rule):
        dependencies.remove(rules[0])  # resolving it would cost 12 µs
        rule = None
    parameters = get_flat_params(route.dependant)
    names = {each.alias for each in parameters if not isinstance(each.field_info, Path | Header)}
    route.app = Guard(route.app, rule, None if ignores_query else names)


@dataclass(frozen=True, slots=True)
class Guard:
    """Runs a route's app if the rule admits the caller and all query parameters are `known`."""

    app: ASGIApp
    rule: Rule | None
    known: set[str] | None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if self.rule:
            self.rule.require(Request(scope))
        if scope.get("shopsphere.is_too_large"):
            raise BodyTooLarge
        if scope["query_string"] and self.known is not None:
            _require_known(QueryParams(scope["query_string"]), self.known)
        await self.app(scope, receive, send)


def _require_known(sent: QueryParams, known: set[str]) -> None:
    """Raise InvalidRequest for parameters that are unknown, empty or repeated."""
    times = Counter(name for name, _ in sent.multi_items())
    wrong = {
        name: "must be sent once, with a value" if name in known else "is not a known parameter"
        for name, value in sent.multi_items()
        if name not in known or not value or times[name] > 1
    }
    if wrong:
        raise InvalidRequest(*[(name[:64] or "?", why) for name, why in wrong.items()][:20])


def _is_open(request: Request) -> bool:
    return not service_of(request).settings.auth_required


def _bearer(request: Request) -> str | None:
    """Return the token of the only Authorization header, None without one; raise InvalidToken."""
    headers = request.headers.getlist("authorization")
    if not headers:
        return None
    scheme, _, token = headers[0].partition(" ")
    if len(headers) > 1 or scheme.lower() != "bearer":
        raise InvalidToken("Send exactly one header Authorization: Bearer <token>.")
    return token.strip()
