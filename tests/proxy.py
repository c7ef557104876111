"""A proxy between the order service and the product service that misbehaves on purpose."""

import http.client
import threading
import zlib
from collections import Counter
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit


class Connection(BaseHTTPRequestHandler):
    """One connection of the order service."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: "Proxy"

    @property
    def order(self) -> int:
        """A number of the order that this is about: the same at each attempt, else random."""
        return zlib.crc32(self.path.removesuffix("/ship").encode())

    def forward(self) -> tuple[int, bytes]:
        """Have the product service do it; return its answer, 502 where there is none."""
        connection = http.client.HTTPConnection(self.server.behind)
        try:
            connection.request(self.command, self.path, self.body, dict(self.headers.items()))
            answer = connection.getresponse()
            return answer.status, answer.read()
        except (OSError, http.client.HTTPException):
            return 502, b""
        finally:
            connection.close()

    def answer(self, status: int, content: bytes = b"") -> None:
        self.send_response_only(status)
        self.send_header("Content-Type", "application/json")
        if status != 204:
            self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def drop(self) -> None:
        """Close the connection, whatever the order service waits for."""
        self.close_connection = True

    def keep_for_later(self) -> None:
        """Have this request land when the test says so."""
        self.server.late.append(self.forward)

    def handle(self) -> None:
        try:
            super().handle()
        except OSError:  # the order service gave up, or died
            self.close_connection = True

    def _handle(self) -> None:
        self.body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        attempt = self.server.count(f"{self.command} {self.path}")
        self.server.behave(self, attempt)

    do_PUT = do_POST = do_DELETE = _handle  # noqa: N815  # names that http.server looks for


Behave = Callable[[Connection, int], None]
"""What to do with a request, and the how manieth of its kind it is, from 1 on."""


def well(connection: Connection, attempt: int) -> None:
    """Hand everything on."""
    connection.answer(*connection.forward())


class Proxy(ThreadingHTTPServer):
    """Listens where the order service looks for the product service, and hands on to that."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Connection)
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.behind = ""
        self.behave: Behave = well
        self.late: list[Callable[[], tuple[int, bytes]]] = []
        """Requests that are still on their way."""
        self._attempts = Counter[str]()
        self._thread = threading.Thread(target=self.serve_forever, args=(0.05,))

    def start(self, url: str) -> None:
        """Serve, in front of this product service."""
        self.behind = urlsplit(url).netloc
        self._thread.start()

    def stop(self) -> None:
        self.shutdown()
        self._thread.join()
        self.server_close()

    def count(self, request: str) -> int:
        """Return the how manieth attempt this is; an order service makes one after the other."""
        self._attempts[request] += 1
        return self._attempts[request]

    def bring_what_is_late(self) -> None:
        """Have what is still on its way land now."""
        while self.late:
            self.late.pop()()
