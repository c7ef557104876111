"""Many requests at once, cheaply: the services need the processor more than the test does."""

import http.client
import json
import threading
import time
from collections.abc import Callable, Iterable
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


KEPT_SECONDS = 2
"""How long a connection may be idle and be used again: less than uvicorn keeps it, which is 5."""


class _Connections(threading.local):
    """One kept connection per thread and server, with the time when it was used last."""

    def __init__(self) -> None:
        self.open: dict[str, tuple[http.client.HTTPConnection, float]] = {}


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
    now = time.monotonic()
    connection, used = _connections.open.get(netloc, (None, now))
    if connection is None or now - used > KEPT_SECONDS:
        if connection:
            connection.close()
        connection = http.client.HTTPConnection(netloc)
    _connections.open[netloc] = (connection, now)
    connection.timeout = timeout
    if connection.sock:
        connection.sock.settimeout(timeout)
    return connection


def close_connections() -> None:
    """Close those of this thread."""
    for connection, _ in _connections.open.values():
        connection.close()
    _connections.open.clear()


def at_once(threads: int, call: Callable[[A], T], each: Iterable[A]) -> list[T]:
    """Call it for each, so many at a time, and return what each call returned."""
    each = list(each)
    waiting = threading.Barrier(threads)

    def work(mine: list[tuple[int, A]]) -> list[tuple[int, T]]:
        waiting.wait()
        try:
            return [(number, call(one)) for number, one in mine]
        finally:
            close_connections()

    numbered = list(enumerate(each))
    with ThreadPoolExecutor(threads) as pool:
        shares = pool.map(work, (numbered[start::threads] for start in range(threads)))
    results = sorted((pair for share in shares for pair in share), key=lambda pair: pair[0])
    return [result for _, result in results]
