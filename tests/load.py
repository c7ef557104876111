"""Many requests at once, cheaply: the services need the processor more than the test does."""

import http.client
import json
import select
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, TypeVar
from urllib.parse import urlsplit

A = TypeVar("A")
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back, a text where it was no JSON; status 0 where nothing came."""

    status: int
    body: Any = None
    headers: dict[str, str] = field(default_factory=dict)

    @property
    def code(self) -> str:
        return str(self.body.get("code", "")) if isinstance(self.body, dict) else ""


class _Connections(threading.local):
    """One kept connection per thread and server."""

    def __init__(self) -> None:
        self.open: dict[str, http.client.HTTPConnection] = {}


_connections = _Connections()


def send(
    method: str,
    url: str,
    body: object = None,
    key: str | None = None,
    token: str | None = None,
    timeout: float = 30,
) -> Answer:
    """Send one request, once, and return what came back."""
    parts = urlsplit(url)
    connection = _connection(parts.netloc, timeout)
    headers = {"Content-Type": "application/json"}
    if key is not None:
        headers["Idempotency-Key"] = key
    if token is not None:
        headers["Authorization"] = f"Bearer {token}"
    target = f"{parts.path}?{parts.query}" if parts.query else parts.path
    text = None if body is None else json.dumps(body)
    try:
        connection.request(method, target, text, headers)
        response = connection.getresponse()
        content = response.read()
    except (OSError, http.client.HTTPException):
        connection.close()
        del _connections.open[parts.netloc]
        return Answer(0)
    is_json = response.headers.get_content_type() == "application/json"
    return Answer(
        response.status,
        json.loads(content) if is_json and content else content.decode() or None,
        {name.lower(): value for name, value in response.getheaders()},
    )


def _connection(netloc: str, timeout: float) -> http.client.HTTPConnection:
    connection = _connections.open.setdefault(netloc, http.client.HTTPConnection(netloc))
    connection.timeout = timeout
    if connection.sock:
        connection.sock.settimeout(timeout)
        if select.select([connection.sock], [], [], 0)[0]:  # the server has closed it
            connection.close()
    return connection


def close_connections() -> None:
    """Close those of this thread."""
    for connection in _connections.open.values():
        connection.close()
    _connections.open.clear()


def at_once(threads: int, call: Callable[[A], T], each: Sequence[A]) -> list[T]:
    """Call it for each, at least `threads` of them and so many at a time; return what each call
    returned."""
    together = threading.Barrier(threads)

    def leave(_: int) -> None:
        together.wait()
        close_connections()

    with ThreadPoolExecutor(threads, initializer=together.wait) as pool:
        try:
            return list(pool.map(call, each))
        finally:
            list(pool.map(leave, range(threads)))
