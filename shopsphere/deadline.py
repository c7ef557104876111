"""The deadline of a request, and what it may have done by then."""

import asyncio
import socket
from dataclasses import dataclass

WRITE_SECONDS = 1
"""A write takes effect within a second of its read, or not at all."""

TCP_OPTIONS: dict[int, int] = (
    {socket.TCP_USER_TIMEOUT: 4000} if hasattr(socket, "TCP_USER_TIMEOUT") else {}
)
"""Options of every TCP socket to another service or to Redis. On Linux, data that stays
unacknowledged for 4 s is dropped, even after close; otherwise it can arrive minutes later."""


@dataclass(slots=True)
class Deadline:
    """When a request must end, in the event loop's time.

    `order_pk` is the order that it may have placed; empty until that is possible. `began` is when
    it first wrote to the storage, by the storage's clock; 0 until then.
    """

    at: float
    timeout_seconds: float
    order_pk: str = ""
    began: float = 0

    @property
    def seconds_left(self) -> float:
        return self.at - asyncio.get_running_loop().time()

    @property
    def place_by(self) -> float:
        """The latest time to read an order's record when placing it. It leaves a second for the
        write, or half of a timeout below 2 s, so that no order is placed after the deadline."""
        return self.at - min(WRITE_SECONDS, self.timeout_seconds / 2)
