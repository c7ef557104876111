"""The time of a request, and what may have come of it when that is over."""

import asyncio
import socket
from dataclasses import dataclass

WRITE_SECONDS = 1
"""A write lands within a second of its read, or not at all."""

TCP_OPTIONS: dict[int, int] = (
    {socket.TCP_USER_TIMEOUT: 4000} if hasattr(socket, "TCP_USER_TIMEOUT") else {}
)
"""Options of every TCP socket to another service or to Redis. On Linux, what is not acknowledged in
4 s is dropped, even after the socket was closed; otherwise it can arrive minutes later."""


@dataclass(slots=True)
class Deadline:
    """When a request must end, in the time of the event loop.

    `order_pk` is the order that it may have placed by then; empty until it may. `began` is when it
    first wrote to the storage, by the storage's clock; 0 until it did.
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
        """Until when the record of an order may be read to be placed. So nothing is placed when the
        time is over; with less than 2 s in all, half of it is kept for the write."""
        return self.at - min(WRITE_SECONDS, self.timeout_seconds / 2)
