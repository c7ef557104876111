"""A line to Redis that a test holds up."""

import socket
import threading
from contextlib import suppress
from dataclasses import dataclass

from tests.servers import wait_until

LAST = b"*2\r\n$4\r\nECHO\r\n$7\r\nthe end\r\n"


@dataclass
class _Wire:
    """One connection through a line: what is sent while it is silent is held up here."""

    near: socket.socket
    far: socket.socket
    is_silent: bool = False
    held: bytes = b""
    unheard: bytes = b""

    def is_delivered(self) -> bool:
        return self.unheard.endswith(b"the end\r\n")

    def close(self) -> None:
        for end in (self.near, self.far):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()


class Line:
    """A TCP proxy before Redis.

    Whoever uses a silent wire of it hears nothing, and may hang up. Redis does not know that, and
    gets what was sent over it when the test says so.
    """

    def __init__(self, redis_port: int) -> None:
        self._redis_port = redis_port
        self._lock = threading.Lock()
        self._wires: list[_Wire] = []
        self._awaited: bytes | None = None
        self._hangs_up = self._cuts = self._is_cut = False
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listening.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def silence(self, first: bytes = b"", *, hangs_up: bool = False) -> None:
        """Hold up the next request that has this text in it, and what follows on the wires that
        are open then; new ones are good. The silent ones hang up, or have their users wait."""
        self._awaited, self._hangs_up, self._cuts = first, hangs_up, False

    def cut_after(self, text: bytes) -> None:
        """Have Redis get the next request that has this text in it, and then nothing more."""
        self._awaited, self._hangs_up, self._cuts = text, False, True

    def mend(self) -> None:
        """Let requests through again."""
        self._is_cut = False

    def deliver(self) -> bytes:
        """Bring Redis what was held up; return that when Redis has done it."""
        delivered = b""
        for wire in [wire for wire in self._wires if wire.held]:
            with self._lock:
                held, wire.held = wire.held, b""
                wire.far.sendall(held + LAST)
            wait_until(wire.is_delivered, why="what was held up is done")
            delivered += held
        return delivered

    def close(self) -> None:
        self._listening.close()
        for wire in self._wires:
            wire.close()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                near, _ = self._listening.accept()
                wire = _Wire(near, socket.create_connection(("127.0.0.1", self._redis_port)))
                self._wires.append(wire)
                for carry in (self._carry_requests, self._carry_responses):
                    threading.Thread(target=carry, args=(wire,), daemon=True).start()

    def _carry_requests(self, wire: _Wire) -> None:
        with suppress(OSError):
            while request := wire.near.recv(2**16):
                with self._lock:
                    self._carry_request(wire, request)
        if not wire.is_silent:
            wire.close()

    def _carry_request(self, wire: _Wire, request: bytes) -> None:
        is_awaited = self._awaited is not None and self._awaited in request
        if is_awaited:
            self._awaited, self._is_cut = None, self._cuts
            for each in self._wires:
                each.is_silent = True
        if is_awaited and self._cuts:  # after it is silent, or the response could come through
            wire.far.sendall(request)
            request = b""
        if wire.is_silent:
            wire.held += request
            if self._hangs_up:
                wire.near.shutdown(socket.SHUT_RDWR)
        elif self._is_cut:
            raise ConnectionAbortedError
        else:
            wire.far.sendall(request)

    def _carry_responses(self, wire: _Wire) -> None:
        with suppress(OSError):
            while response := wire.far.recv(2**16):
                if wire.is_silent:
                    wire.unheard += response
                else:
                    wire.near.sendall(response)
        wire.close()
