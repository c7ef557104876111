"""Protocols for uvicorn that give up connections on which no request comes to be.

uvicorn 0.54 waits for the head of a request for ever and has no setting for it, and with httptools
it keeps as much of a head, or of what follows a chunked body, as is sent: a thousand silent
connections, or one line that never ends, and a service serves nobody.
"""

import asyncio
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

MAX_HEAD_BYTES = 64 * 1024
"""As uvicorn has it for h11, which counts by itself."""
MAX_WAITING = 100
"""Requests sent before the answer to an earlier one, all of which httptools takes in."""


class _GivesUp(asyncio.Protocol):
    """Closes a connection that sends no whole head in `head_seconds`, which is in the state that
    the lifespan of the app yields."""

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
    """uvicorn's protocol on h11."""

    def send_400_response(self, msg: str) -> None:
        """Answer nonsense where nothing was answered yet, and have nobody answer after that.

        With uvicorn 0.54 the two answers get into each other's way, and each leaves a traceback.
        """
        if self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            super().send_400_response(msg)
        self.transport.close()
        if self.cycle is not None:
            self.cycle.disconnected = True
            self.cycle.message_event.set()


PROTOCOL: type[asyncio.Protocol] = H11
"""The faster one of those that this system has."""

try:
    from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
except ImportError:  # httptools is not made for every system
    pass
else:

    class HttpTools(_GivesUp, HttpToolsProtocol):
        """uvicorn's protocol on httptools.

        What it is given between two callbacks is part of a head, or of what follows a body.
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
