"""Connections on which no request comes to be: given up after a time, and after so many bytes.

uvicorn 0.54 waits for the head of a request for ever and has no setting for it, and with httptools
it keeps as much of a head, or of what follows a chunked body, as is sent: a thousand silent
connections, or one line that never ends, and a service serves nobody. So this steps in where a
connection hands over what it received.
"""

from asyncio import Transport
from collections.abc import Callable
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

MAX_HEAD_BYTES = 64 * 1024
"""As uvicorn has it for h11, which counts by itself."""
MAX_WAITING = 100
"""Requests sent before the answer to an earlier one, all of which httptools takes in."""


def _counting_anew(handle: Callable[..., None]) -> Callable[..., None]:
    def handle_and_count_anew(self: Any, *received: bytes) -> None:
        self.head_bytes = 0
        handle(self, *received)

    return handle_and_count_anew


_refuse = H11Protocol.send_400_response


def _refuse_once(self: H11Protocol, message: str) -> None:
    """Answer nonsense where nothing was answered yet, and have nobody answer after that.

    With uvicorn 0.54 the two answers get into each other's way, and each leaves a traceback.
    """
    if self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE):
        _refuse(self, message)
    self.transport.close()
    if self.cycle is not None:
        self.cycle.disconnected = True
        self.cycle.message_event.set()


H11Protocol.send_400_response = _refuse_once  # type: ignore[assignment,method-assign]

PROTOCOLS: list[type[Any]] = [H11Protocol]
try:
    from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
except ImportError:  # httptools is not made for every system
    pass
else:
    PROTOCOLS.append(HttpToolsProtocol)
    # What it is given between two of these is part of a head, or of what follows a body.
    for callback in ("on_headers_complete", "on_body"):
        setattr(HttpToolsProtocol, callback, _counting_anew(getattr(HttpToolsProtocol, callback)))

_UVICORNS = {each: (each.connection_made, each.data_received) for each in PROTOCOLS}


def give_up_endless_heads(seconds: float) -> None:
    """Have uvicorn close a connection that sends no whole head in so many seconds, or too long."""
    for protocol in PROTOCOLS:
        _step_in(protocol, seconds)


def _step_in(protocol: type[Any], seconds: float) -> None:
    make_connection, receive = _UVICORNS[protocol]

    def connection_made(self: Any, transport: Transport) -> None:
        make_connection(self, transport)
        self.head_bytes = 0
        self.head_timer = self.loop.call_later(seconds, transport.close)

    def data_received(self: Any, data: bytes) -> None:
        self.head_bytes += len(data)
        receive(self, data)
        if protocol is not H11Protocol and (
            self.head_bytes > MAX_HEAD_BYTES or len(self.pipeline) > MAX_WAITING
        ):
            self.transport.close()
        if self.cycle is not None and not self.cycle.response_complete:  # a request is served
            if self.head_timer:
                self.head_timer.cancel()
                self.head_timer = None
        elif not self.head_timer:
            self.head_timer = self.loop.call_later(seconds, self.transport.close)

    protocol.connection_made = connection_made
    protocol.data_received = data_received
