"""The outermost layers of a service: what happens to every request on its way in and out.

Small ASGI wrappers instead of a middleware library for each, as those cost a fifth of the speed.
"""

import asyncio
import logging
import re
import secrets
import time

from starlette.datastructures import Headers
from starlette.middleware.body_limit import RequestBodyLimitMiddleware
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from shopsphere.deadline import Deadline
from shopsphere.domain import errors
from shopsphere.domain.values import Role
from shopsphere.logs import REQUEST_ID
from shopsphere.tokens import Caller
from shopsphere.web.error_responses import error_response
from shopsphere.web.service import Service

log = logging.getLogger("shopsphere.request")

MAX_BODY_BYTES = 64 * 1024
EXPOSED_HEADERS = ("Idempotent-Replayed", "Link", "Location", "Retry-After", "X-Request-ID")

_GOOD_REQUEST_ID = re.compile(rb"[\x21-\x7e]([\x20-\x7e]{0,126}[\x21-\x7e])?")


class RequestLayer:
    """Request id, metrics, log line, time limit and body limit of each request, and CORS.

    Also the last handler: what no one foresaw is logged and answered with 500 in our shape. A
    response that has begun is cut off instead, so that nobody takes it for whole. Where a service
    cannot start, the server is given one line instead of a traceback.
    """

    def __init__(self, app: ASGIApp, service: Service[object]) -> None:
        self._app = app
        self._service = service
        settings = service.settings
        self._timeout_seconds = settings.order_timeout
        self._origins = settings.origins
        self._app_with_cors = Cors(app, settings.origins)
        self._logs_fields = settings.log_format == "json"

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._lifespan(scope, receive, send)
        elif scope["type"] == "websocket":
            await error_response(errors.NoSuchPath())(scope, receive, send)
        else:
            await self._request(scope, receive, send)

    async def _lifespan(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_one_line(message: Message) -> None:
            if message["type"] == "lifespan.startup.failed" and self._service.cannot_start:
                message = {**message, "message": self._service.cannot_start}
            await send(message)

        await self._app(scope, receive, send_one_line)

    async def _request(self, scope: Scope, receive: Receive, send: Send) -> None:
        started = time.perf_counter()
        headers = dict(scope["headers"])
        request_id = headers.get(b"x-request-id", b"")
        if not _GOOD_REQUEST_ID.fullmatch(request_id):
            request_id = secrets.token_hex(13).encode()
        token = REQUEST_ID.set(request_id.decode())
        # Without an Origin, CORS is a header: starlette 1.10 takes 9 % of a request's time for it.
        is_same_origin = b"origin" not in headers
        app = self._app if is_same_origin else self._app_with_cors
        if b"content-length" in headers or b"transfer-encoding" in headers:
            app = RequestBodyLimitMiddleware(app, MAX_BODY_BYTES)
        method = scope["method"]
        if method == "HEAD":  # as GET; the server leaves the body out (RFC 9110, section 9.3.2)
            scope = {**scope, "method": "GET"}
        status = 0
        error: errors.ShopError | None = None

        async def send_ours(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                ours = [(b"x-request-id", request_id)]
                if is_same_origin:
                    ours.append((b"vary", b"Origin"))
                message["headers"] = [*message.get("headers", ()), *ours]
                if error is None:  # the response begins: from here on it may take its time
                    deadline.reschedule(None)
            await send(message)

        try:
            if int(headers.get(b"content-length", b"0")) > MAX_BODY_BYTES:
                raise errors.BodyTooLarge
            async with asyncio.timeout(self._timeout_seconds) as deadline:
                scope["shopsphere.deadline"] = Deadline(deadline.when() or 0, self._timeout_seconds)
                await app(scope, receive, send_ours)
        except errors.BodyTooLarge as too_large:
            error = too_large
        except Exception as unexpected:  # the last handler
            if isinstance(unexpected, TimeoutError) and deadline.expired():
                error = errors.RequestTimedOut()
            else:
                log.exception("unexpected error")
                error = errors.ShopError()
        if error and not status:
            response = error_response(error, scope.get("shopsphere.deadline"))
            app = response if is_same_origin else Cors(response, self._origins)
            await app(scope, receive, send_ours)
        seconds = time.perf_counter() - started
        scope["method"] = method
        route = getattr(scope.get("route"), "path", "unmatched")
        self._service.metrics.count(method, route, status, seconds)
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
        "user": caller.user_pk if caller and caller.role is not Role.SERVICE else None,
    }


class Cors(CORSMiddleware):
    """CORS as starlette does it, but what it refuses is told in our shape."""

    def __init__(self, app: ASGIApp, origins: list[str]) -> None:
        super().__init__(
            app, origins, allow_methods=["*"], allow_headers=["*"], expose_headers=EXPOSED_HEADERS
        )

    def preflight_response(self, request_headers: Headers) -> Response:
        response = super().preflight_response(request_headers)
        if response.status_code == 200:
            return response
        error = errors.InvalidRequest(("Origin", "or method is not allowed (CORS)"))
        refusal = error_response(error)
        refusal.headers["Vary"] = response.headers["Vary"]
        return refusal
