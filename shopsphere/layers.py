"""The outermost layers of a service: what happens to every request on its way in and out.

Small ASGI wrappers instead of a middleware library for each, as those cost a fifth of the speed.
"""

import asyncio
import logging
import re
import secrets
import time

from starlette.datastructures import Headers, State
from starlette.middleware.body_limit import RequestBodyLimitMiddleware
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from shopsphere.deadline import Deadline
from shopsphere.domain import errors
from shopsphere.domain.values import Role
from shopsphere.error_answers import error_answer
from shopsphere.logs import REQUEST_ID
from shopsphere.metrics import RequestMetrics
from shopsphere.settings import Settings
from shopsphere.tokens import Caller

log = logging.getLogger("shopsphere.request")

MAX_BODY_BYTES = 64 * 1024
EXPOSED_HEADERS = ("Idempotent-Replayed", "Link", "Location", "Retry-After", "X-Request-ID")

_GOOD_REQUEST_ID = re.compile(rb"[\x21-\x7e]([\x20-\x7e]{0,126}[\x21-\x7e])?")


class RequestLog:
    """Request ids, metrics and the log line of each request.

    Where a service cannot start, the server is given one line instead of a traceback.
    """

    def __init__(self, app: ASGIApp, state: State) -> None:
        self.app = app
        self._state = state
        self._metrics: RequestMetrics = state.metrics
        settings: Settings = state.settings
        self._logs_fields = settings.log_format == "json"

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._lifespan(scope, receive, send)
        elif scope["type"] == "websocket":
            await error_answer(errors.NoSuchPath())(scope, receive, send)
        else:
            await self._request(scope, receive, send)

    async def _lifespan(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_one_line(message: Message) -> None:
            line = getattr(self._state, "cannot_start", None)
            if message["type"] == "lifespan.startup.failed" and line:
                message = {**message, "message": line}
            await send(message)

        await self.app(scope, receive, send_one_line)

    async def _request(self, scope: Scope, receive: Receive, send: Send) -> None:
        started = time.perf_counter()
        request_id = _request_id(dict(scope["headers"]))
        token = REQUEST_ID.set(request_id.decode())
        status = 0
        method = scope["method"]
        if method == "HEAD":  # as GET; the server leaves the body out (RFC 9110, section 9.3.2)
            scope = {**scope, "method": "GET"}

        async def send_with_id(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message.get("headers", ()), (b"x-request-id", request_id)]
            await send(message)

        await self.app(scope, receive, send_with_id)
        seconds = time.perf_counter() - started
        scope["method"] = method
        self._metrics.count(scope, status, seconds)
        path = scope["raw_path"].decode("ascii", "backslashreplace")
        fields = _fields(scope, path, status, seconds) if self._logs_fields else None
        log.info("%s %s %s in %.1f ms", method, path, status, seconds * 1000, extra=fields)
        REQUEST_ID.reset(token)


def _fields(scope: Scope, path: str, status: int, seconds: float) -> dict[str, object]:
    """Return what a log in JSON says of a request; its user is a person, not a service."""
    caller: Caller | None = scope.get("shopsphere.caller")
    return {
        "method": scope["method"],
        "route": getattr(scope.get("route"), "path", None),
        "path": path,
        "status": status,
        "duration_ms": round(seconds * 1000, 2),
        "user": caller.user_id if caller and caller.role is not Role.SERVICE else None,
    }


class Limits:
    """The time limit and the body limit of each request.

    Also the last handler: what no one foresaw is logged and answered with 500 in our shape. An
    answer that has begun is cut off instead, so that nobody takes it for whole.
    """

    def __init__(self, app: ASGIApp, timeout_seconds: float) -> None:
        self.app = app
        self._app_with_body = RequestBodyLimitMiddleware(app, MAX_BODY_BYTES)
        self._timeout_seconds = timeout_seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            await self._request(scope, receive, send)
        else:
            await self.app(scope, receive, send)

    async def _request(self, scope: Scope, receive: Receive, send: Send) -> None:
        has_begun = False

        async def send_in_time(message: Message) -> None:
            nonlocal has_begun
            if not has_begun:  # the answer begins: from here on it may take its time
                has_begun = True
                deadline.reschedule(None)
            await send(message)

        error: errors.ShopError | None = None
        headers = dict(scope["headers"])
        has_body = b"content-length" in headers or b"transfer-encoding" in headers
        app = self._app_with_body if has_body else self.app
        try:
            if has_body and int(headers.get(b"content-length", b"0")) > MAX_BODY_BYTES:
                raise errors.BodyTooLarge
            async with asyncio.timeout(self._timeout_seconds) as deadline:
                scope["shopsphere.deadline"] = Deadline(deadline.when() or 0, self._timeout_seconds)
                await app(scope, receive, send_in_time)
        except errors.BodyTooLarge as too_large:
            error = too_large
        except Exception as unexpected:  # the last handler
            if isinstance(unexpected, TimeoutError) and deadline.expired():
                error = errors.RequestTimedOut()
            else:
                log.exception("unexpected error")
                error = errors.ShopError()
        if error and not has_begun:
            await error_answer(error, scope.get("shopsphere.deadline"))(scope, receive, send)


class Cors(CORSMiddleware):
    """CORS as starlette does it, but what it refuses is told in our shape."""

    def __init__(self, app: ASGIApp, origins: list[str]) -> None:
        super().__init__(
            app, origins, allow_methods=["*"], allow_headers=["*"], expose_headers=EXPOSED_HEADERS
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """As starlette 1.10 does it, but requests without an Origin skip it: 9 % of their time."""

        async def send_varying(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message.get("headers", ()), (b"vary", b"Origin")]
            await send(message)

        if scope["type"] != "http" or any(name == b"origin" for name, _ in scope["headers"]):
            await super().__call__(scope, receive, send)
        else:
            await self.app(scope, receive, send_varying)

    def preflight_response(self, request_headers: Headers) -> Response:
        answer = super().preflight_response(request_headers)
        if answer.status_code == 200:
            return answer
        refusal = error_answer(errors.InvalidRequest(("Origin", "or method is not allowed (CORS)")))
        refusal.headers["Vary"] = answer.headers["Vary"]
        return refusal


def _request_id(headers: dict[bytes, bytes]) -> bytes:
    """Return the caller's request id if it is a good one, or a new one."""
    given = headers.get(b"x-request-id", b"")
    return given if _GOOD_REQUEST_ID.fullmatch(given) else secrets.token_hex(13).encode()
