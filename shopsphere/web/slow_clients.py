"""uvicorn's protocol, extended to close connections on which no complete request head arrives.

uvicorn 0.54 waits for a request head forever, without a setting to change that, and buffers heads
and trailers of any size. A thousand silent connections or one endless line could block a service.
"""

import asyncio

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

MAX_HEAD_BYTES = 64 * 1024
MAX_WAITING = 100
"""The maximum number of pipelined requests; httptools accepts any number."""


class ImpatientProtocol(HttpToolsProtocol):
    """Closes a connection that sends no complete head within `head_seconds`, from the app's
    lifespan state.

    Data received between two callbacks belongs to a head or trailers, so its size is limited.
    """

    _head_bytes = 0
    _timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._wait_for_a_head()

    def data_received(self, data: bytes) -> None:
        self._head_bytes += len(data)
        super().data_received(data)
        if self._head_bytes > MAX_HEAD_BYTES or len(self.pipeline) > MAX_WAITING:
            self.transport.close()
        if self.cycle is None or self.cycle.response_complete:
            self._wait_for_a_head()
        elif self._timer:
            self._timer.cancel()
            self._timer = None

    def on_headers_complete(self) -> None:
        self._head_bytes = 0
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        self._head_bytes = 0
        super().on_body(body)

    def _wait_for_a_head(self) -> None:
        if self._timer is None:
            seconds = self.app_state["head_seconds"]
            self._timer = self.loop.call_later(seconds, self.transport.close)


PROTOCOL = ImpatientProtocol
