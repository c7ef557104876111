"""uvicorn protocols that close connections on which no complete request head arrives.

uvicorn 0.54 waits for a request head forever, with no setting to change that, and with httptools it
buffers heads and trailers of any size: a thousand silent connections, or one endless line, would
stop a service from serving anyone.
"""

import asyncio
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

MAX_HEAD_BYTES = 64 * 1024
"""The limit for httptools; h11 has its own of 16 KiB."""
MAX_WAITING = 100
"""The most pipelined requests; httptools would accept any number."""


class _GivesUp(asyncio.Protocol):
    """Closes a connection that sends no complete head within `head_seconds`, a value of the app's
    lifespan state."""

    app_state: dict[str, Any]
    cycle: Any
    loop: asyncio.AbstractEventLoop
    transport: Any
    _timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self._wait_for_a_head()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self.cycle is None or self.cycle.response_complete:
            self._wait_for_a_head()
        elif self._timer:
            self._timer.cancel()
            self._timer = None

    def _wait_for_a_head(self) -> None:
        if self._timer is None:
            seconds = self.app_state["head_seconds"]
            self._timer = self.loop.call_later(seconds, self.transport.close)


class H11(_GivesUp, H11Protocol):
    """uvicorn's h11 protocol."""

    def send_400_response(self, msg: str) -> None:
        """Respond to an invalid request unless a response has begun, and prevent later ones.

        With uvicorn 0.54 the two responses would collide, and each would leave a traceback.
        """
        if self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            super().send_400_response(msg)
        self.transport.close()
        if self.cycle is not None:
            self.cycle.disconnected = True
            self.cycle.message_event.set()


class HttpTools(_GivesUp, HttpToolsProtocol):
    """uvicorn's httptools protocol.

    Data received between two callbacks is part of a head or trailers, so its size is limited.
    """

    _head_bytes = 0

    def data_received(self, data: bytes) -> None:
        self._head_bytes += len(data)
        super().data_received(data)
        if self._head_bytes > MAX_HEAD_BYTES or len(self.pipeline) > MAX_WAITING:
            self.transport.close()

    def on_headers_complete(self) -> None:
        self._head_bytes = 0
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        self._head_bytes = 0
        super().on_body(body)


PROTOCOL = HttpTools
"""The faster of the two."""
