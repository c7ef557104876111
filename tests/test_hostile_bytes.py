"""What somebody sends who speaks no proper HTTP, or takes all the time there is."""

import itertools
import re
import socket
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import pytest

from tests.people import CLOSED, PEOPLE, SECRET
from tests.servers import Service, wait_until

ENVIRONMENT = {"LOG_LEVEL": "DEBUG", "USE_REDIS": "false", **CLOSED}


@pytest.fixture(scope="module")
def started(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """A product service of a closed shop, which gives up after a second."""
    log = tmp_path_factory.mktemp("hostile") / "log"
    with Service("product", log, 0, ORDER_TIMEOUT="1", **ENVIRONMENT) as service:
        yield service.start("--http", "shopsphere.web.slow_clients:PROTOCOL")


@pytest.fixture
def service(started: Service) -> Iterator[Service]:
    """The service. Afterwards it serves, and its log has no traceback and no secret."""
    yield started
    assert started.get("/ready").ok
    log = started.log.read_text()
    secrets = [SECRET, PEOPLE["administrator"]["Authorization"].split()[1]]
    assert not [text for text in ("Traceback", *secrets) if text in log]


def talk(service: Service, pieces: Iterable[bytes], wait: float = 0) -> bytes:
    """Send piece after piece, each after so many seconds; return what came until the end.

    Fail where the service leaves a connection open that brings nothing for 20 seconds.
    """
    received = b""
    connection = socket.create_connection(("127.0.0.1", service.port))
    with connection, suppress(ConnectionError):
        for piece in pieces:
            connection.settimeout(20)
            connection.sendall(piece)
            connection.settimeout(wait or 1e-6)
            with suppress(TimeoutError):
                came = connection.recv(65536)
                received += came
                if not came:
                    return received
        connection.settimeout(20)
        received += b"".join(iter(lambda: connection.recv(65536), b""))
    return received


def head(*more: str) -> bytes:
    """Return the head of a request with a body, of somebody who may send it."""
    lines = ["POST /products HTTP/1.1", "Host: x", "Content-Type: application/json", *more]
    lines += [f"{name}: {value}" for name, value in PEOPLE["administrator"].items()]
    return "\r\n".join([*lines, "", ""]).encode()


def trickle(first: bytes, then: bytes) -> Iterator[bytes]:
    """Yield the first piece, and the other for longer than anybody would wait."""
    return itertools.chain([first], itertools.repeat(then, 1000))


def statuses(received: bytes) -> list[int]:
    return [int(status) for status in re.findall(rb"HTTP/1\.1 (\d{3}) ", received)]


def test_slow_clients_are_given_up_all_at_once(service: Service) -> None:
    whole, begun = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", b"GET / HTTP/1.1\r\nX: "
    counted, chunked = head("Content-Length: 50000"), head("Transfer-Encoding: chunked")
    talks: list[tuple[list[int], Iterable[bytes]]] = [
        ([], [b""]),
        ([], [b"GET "]),
        ([], trickle(begun, b"x")),
        ([], trickle(begun, b"x\r\nX: ")),
        ([200], trickle(whole + begun, b"x")),
        ([503], [head("Content-Length: 50", "Connection: close"), b'{"name": ']),
        ([503], trickle(counted, b" ")),
        ([503], trickle(chunked, b"1\r\n \r\n")),
    ]
    with ThreadPoolExecutor(len(talks)) as threads:
        came = list(threads.map(lambda pieces: talk(service, pieces[1], 0.05), talks))
    assert [statuses(received) for received in came] == [expected for expected, _ in talks]
    assert all(b'"code": "request_timeout"' in received for received in came[-3:])


ENDLESS = (
    b"GET /",
    b"GET / HTTP/1.1\r\nX: ",
    b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nX: ",
)


def test_a_head_that_never_ends_is_cut_off_long_before_its_time_is_over(tmp_path: Path) -> None:
    with Service("product", tmp_path / "log", 0, ORDER_TIMEOUT="120", **ENVIRONMENT) as service:
        service.start("--http", "shopsphere.web.slow_clients:PROTOCOL")
        for begun in ENDLESS:
            sent = itertools.count()
            endless = (b"x" * 65536 for _ in itertools.islice(sent, 1500))
            assert statuses(talk(service, itertools.chain([begun], endless))) in ([], [400], [405])
            assert next(sent) < 750  # how much the kernel holds between the two is not known


def test_who_asks_without_end_before_an_answer_is_cut_off(service: Service) -> None:
    asked = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n" * 20_000
    last = b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
    assert len(statuses(talk(service, [asked + last]))) < 20_000


def test_a_chunked_body_that_never_ends_is_413(service: Service) -> None:
    chunk = b"2000\r\n" + b" " * 0x2000 + b"\r\n"
    chunked = head("Transfer-Encoding: chunked", "Connection: close")
    received = talk(service, trickle(chunked, chunk), wait=0.01)
    assert statuses(received) == [413]
    assert b'"code": "body_too_large"' in received


def test_what_is_sent_around_heads_and_bodies_counts_anew_each_time(service: Service) -> None:
    heads = [b"GET / HTTP/1.1\r\nHost: x\r\nX: " + b"y" * 10_000 + b"\r\n\r\n"] * 20
    last = head("Transfer-Encoding: chunked", "Connection: close")
    last += b"1;%b\r\n \r\n" % (b"x" * 100) * 5000 + b"2\r\n{}\r\n0\r\nX: y\r\n\r\n"
    assert statuses(talk(service, [*heads, last], wait=0.1)) == [200] * 20 + [400]


@pytest.mark.parametrize("is_answered_before", [False, True])
def test_a_body_that_breaks_off_in_nonsense_leaves_no_traceback(
    service: Service, is_answered_before: bool
) -> None:
    head = b"GET / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
    begin, nonsense = head + b"1\r\nx\r\n", b"no chunk\r\n\r\n"
    pieces = [begin, nonsense] if is_answered_before else [begin + nonsense]
    assert talk(service, pieces, 0.5).count(b"HTTP/1.1") >= 1


# What is not HTTP, or says two things at once


BROKEN = {
    "half a request": b"",
    "two lengths": b"Content-Length: 5\r\nContent-Length: 6\r\n\r\nhello",
    "a length and chunks": b"Content-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "an unknown encoding": b"Transfer-Encoding: xchunked\r\n\r\nhello",
    "a chunk that is far too large": b"Transfer-Encoding: chunked\r\n\r\n" + b"f" * 17 + b"\r\nhi",
    "NUL in a header": b"X-Request-ID: a\0b\r\n\r\n",
}


@pytest.mark.parametrize("what", BROKEN)
def test_a_request_that_says_two_things_at_once_is_refused(service: Service, what: str) -> None:
    sent = b"POST /products HTTP/1.1\r\nHost: x\r\nConnection: close\r\n" + BROKEN[what]
    behind = b"GET /smuggled HTTP/1.1\r\nHost: x\r\n\r\n"
    received = statuses(talk(service, [sent + behind]))
    assert len(received) <= 1
    assert set(received) <= {400, 401, 413, 503}
    assert "/smuggled" not in service.log.read_text()


def test_a_websocket_finds_nothing_and_its_headers_are_in_no_log(service: Service) -> None:
    websocket = "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13"
    key, token = "dGhlIHNhbXBsZSBub25jZQ==", PEOPLE["administrator"]["Authorization"]
    sent = f"GET / HTTP/1.1\r\nHost: x\r\n{websocket}\r\nSec-WebSocket-Key: {key}\r\n"
    received = talk(service, [f"{sent}Authorization: {token}\r\n\r\n".encode()])
    assert statuses(received) == [404]
    assert b'"not_found"' in received


def test_head_is_answered_as_get_is_without_the_body(service: Service) -> None:
    lamp = {"name": "Lamp", "price": 1, "quantity": 1}
    for _ in range(2):
        service.post("/products", lamp, headers=PEOPLE["administrator"])

    def answer(method: str, path: str) -> tuple[list[bytes], bytes]:
        """Return the head of an answer, without what differs by chance, and its body."""
        sent = f"{method} {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
        head, _, body = talk(service, [sent.encode()]).lower().partition(b"\r\n\r\n")
        by_chance = (b"date:", b"x-request-id:", b"transfer-encoding:")
        return [line for line in head.splitlines() if not line.startswith(by_chance)], body

    for path in ("/", "/ready", "/docs", "/products", "/products?limit=1", "/metrics", "/none"):
        head, body = answer("GET", path)
        assert body
        assert answer("HEAD", path) == (head, b"")
    wait_until(lambda: "HEAD /none 404 in " in service.log.read_text())
