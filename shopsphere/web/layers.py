"""The outermost layer of a service, which every request and response passes through.

It is one ASGI wrapper, because a middleware for each task would cost a fifth of the speed.
"""

import asyncio
import logging
import re
import secrets
import time
from functools import partial

from opentelemetry import trace
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from shopsphere.deadline import Deadline
from shopsphere.domain import errors
from shopsphere.domain.values import Role
from shopsphere.logs import REQUEST_ID, TRACE_ID
from shopsphere.tokens import Caller
from shopsphere.web.error_responses import error_response
from shopsphere.web.service import Service

log = logging.getLogger("shopsphere.request")

MAX_BODY_BYTES = 64 * 1024
PROBES = frozenset({"/", "/ready", "/metrics"})
"""Routes whose requests are logged at DEBUG unless slow or failed: monitoring sends thousands."""
VARY = ((b"vary", b"Origin"),)
# Browsers can read only the response headers listed here.
EXPOSED_HEADERS = (
    "Idempotent-Replayed", "Link", "Location", "Retry-After", "WWW-Authenticate", "X-Cursor",
    "X-Request-ID", "X-Total-Count",
)  # fmt: skip

_GOOD_REQUEST_ID = re.compile(rb"[\x21-\x7e]([\x20-\x7e]{0,126}[\x21-\x7e])?")


class RequestLayer:
    """Adds to each request its id, metrics, log line, time limit, body limit and CORS.

    Unexpected errors are logged and become a 500 in our format. A response that has already begun
    is cut off instead, so that no client takes it as complete. If a service cannot start, the
    server logs one line instead of a traceback.
    """

    def __init__(self, app: ASGIApp, service: Service[object]) -> None:
        self._app = app
        self._service = service
        self._settings = service.settings
        self._app_with_cors = Cors(app, service.settings.origins)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._app(scope, receive, partial(_in_one_line, send))
        elif scope["type"] == "websocket":
            await error_response(errors.NoSuchPath())(scope, receive, send)
        else:
            await self._request(scope, receive, send)

    async def _request(self, scope: Scope, receive: Receive, send: Send) -> None:
        started = time.perf_counter()
        headers = dict(scope["headers"])
        request_id = headers.get(b"x-request-id", b"")
        if not _GOOD_REQUEST_ID.fullmatch(request_id):
            request_id = secrets.token_hex(13).encode()
        token = REQUEST_ID.set(request_id.decode())
        if scope.get("fastapi.telemetry"):
            span = trace.get_current_span().get_span_context()
            TRACE_ID.set(trace.format_trace_id(span.trace_id) if span.is_valid else "")
        # Without an Origin, CORS is one header, but costs 9 % of a request in starlette 1.10.
        has_origin = b"origin" in headers
        app = self._app_with_cors if has_origin else self._app
        ours = [(b"x-request-id", request_id), *(() if has_origin else VARY)]
        method = scope["method"]
        if method == "HEAD":  # as GET; the server omits the body (RFC 9110, section 9.3.2)
            scope = {**scope, "method": "GET"}
        if b"content-length" in headers:  # rejected by `access`, once the caller is known
            scope["shopsphere.is_too_large"] = int(headers[b"content-length"]) > MAX_BODY_BYTES
        size = status = 0
        error: errors.ShopError | None = None

        async def receive_some() -> Message:
            nonlocal size
            message = await receive()
            size += len(message.get("body", b""))
            if size > MAX_BODY_BYTES:
                raise HTTPException(413, "Content Too Large")  # FastAPI would replace other errors
            return message

        async def send_ours(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message.get("headers", ()), *ours]
                if error is None:  # once the response has begun, there is no time limit
                    deadline.reschedule(None)
            await send(message)

        try:
            async with asyncio.timeout(self._settings.order_timeout) as deadline:
                at = deadline.when() or 0
                scope["shopsphere.deadline"] = Deadline(at, self._settings.order_timeout)
                await app(scope, receive_some, send_ours)
        except Exception as unexpected:  # the last resort
            if isinstance(unexpected, TimeoutError) and deadline.expired():
                error = errors.RequestTimedOut()
            elif size > MAX_BODY_BYTES:
                error = errors.BodyTooLarge()
            else:
                log.exception("unexpected error")
                error = errors.ShopError()
        if error and not status:
            response = error_response(error, scope.get("shopsphere.deadline"))
            app = Cors(response, self._settings.origins) if has_origin else response
            await app(scope, receive, send_ours)
        seconds = time.perf_counter() - started
        scope["method"] = method
        route = getattr(scope.get("route"), "path", "unmatched")
        self._service.metrics.count(method, route, status, seconds)
        path = scope["raw_path"].decode("ascii", "backslashreplace")
        is_json = self._settings.log_format == "json"
        fields = _fields(scope, path, status, seconds) if is_json else None
        is_probe = route in PROBES and 0 < status < 400 and seconds < 1
        level = logging.DEBUG if is_probe else logging.INFO
        log.log(level, "%s %s %s in %.1f ms", method, path, status, seconds * 1000, extra=fields)
        REQUEST_ID.reset(token)


async def _in_one_line(send: Send, message: Message) -> None:
    """Send a lifespan message, without the traceback of an expected error."""
    if message["type"] == "lifespan.startup.failed":
        *_, sentence = re.split("(?:CannotStart|StoreUnavailable): ", message["message"])
        message["message"] = sentence.strip()
    await send(message)


def _fields(scope: Scope, path: str, status: int, seconds: float) -> dict[str, object]:
    """Return the fields of a JSON log line for a request; `user` is never a service."""
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
    """Starlette's CORS, with errors in our format."""

    def __init__(self, app: ASGIApp, origins: list[str]) -> None:
        escaped = "|".join(map(re.escape, origins))
        super().__init__(
            app,
            allow_origins=origins,
            allow_origin_regex=escaped.replace(r"\*\.", r"([a-z0-9_-]+\.)+"),
            allow_methods=["*"],
            allow_headers=["*"],
            expose_headers=EXPOSED_HEADERS,
        )

    def preflight_response(self, request_headers: Headers) -> Response:
        response = super().preflight_response(request_headers)
        if response.status_code == 200:
            return response
        return error_response(errors.InvalidRequest(("Origin", "or method is not allowed (CORS)")))
