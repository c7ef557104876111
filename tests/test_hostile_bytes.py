"""What somebody sends who speaks no proper HTTP, or takes all the time there is."""

import itertools
import json
import re
import socket
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest

from tests.people import CLOSED, PEOPLE, SECRET
from tests.servers import Service, wait_until

KINDS = ["user", "product", "order", "product on h11"]
POSTS = {
    "user": ("/register", "nobody"),
    "product": ("/products", "administrator"),
    "order": ("/order", "customer"),
}
"""What each service is sent with a body, and by whom."""


@pytest.fixture(scope="module")
def services(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Service]]:
    """The three services of a closed shop, which give up after a second; one also on h11."""
    folder = tmp_path_factory.mktemp("hostile")
    environment = {"ORDER_TIMEOUT": "1", "LOG_LEVEL": "DEBUG", "USE_REDIS": "false", **CLOSED}
    started = {kind: Service(kind.split()[0], folder / kind, 0, **environment) for kind in KINDS}
    with ExitStack() as stack:
        for kind, service in started.items():
            service.start("--http", "h11" if "h11" in kind else "httptools", wait=False)
            stack.callback(service.stop)
        for service in started.values():
            wait_until(service.answers, 30)
        yield started


@pytest.fixture(params=KINDS)
def service(services: dict[str, Service], request: pytest.FixtureRequest) -> Iterator[Service]:
    """Each in turn. Afterwards it serves, and its log has no traceback and no secret."""
    service = services[request.param]
    yield service
    assert service.get("/ready").ok
    log = service.log.read_text()
    assert "Traceback" not in log
    tokens = [headers["Authorization"].split()[1] for headers in PEOPLE.values() if headers]
    assert not [secret for secret in (SECRET, *tokens) if secret in log]


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


def at_once(service: Service, talks: dict[str, Iterable[bytes]]) -> dict[str, bytes]:
    """Have these talks at the same time, with waits in between; return what came of each."""
    with ThreadPoolExecutor(len(talks)) as threads:
        came = threads.map(lambda pieces: talk(service, pieces, 0.05), talks.values())
        return dict(zip(talks, came, strict=True))


def head(service: Service, *more: str) -> bytes:
    """Return the head of a request with a body, of somebody who may send it."""
    path, who = POSTS[service.name]
    lines = [f"POST {path} HTTP/1.1", "Host: x", "Content-Type: application/json", *more]
    lines += [f"{name}: {value}" for name, value in PEOPLE[who].items()]
    return "\r\n".join([*lines, "", ""]).encode()


def trickle(first: bytes, then: bytes) -> Iterator[bytes]:
    """Yield the first piece, and the other for longer than anybody would wait."""
    return itertools.chain([first], itertools.repeat(then, 1000))


def statuses(received: bytes) -> list[int]:
    return [int(status) for status in re.findall(rb"HTTP/1\.1 (\d{3}) ", received)]


def code(received: bytes) -> str:
    """Return the code of the one error that was answered."""
    return str(json.loads(received.partition(b"\r\n\r\n")[2])["code"])


def test_a_client_that_never_says_what_it_wants_is_given_up(service: Service) -> None:
    whole, begun = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", b"GET / HTTP/1.1\r\nX: "
    talks = {
        "silent": [b""],
        "stops in its first line": [b"GET "],
        "stops in a header": [begun],
        "trickles a header": trickle(begun, b"x"),
        "trickles headers": trickle(begun, b"x\r\nX: "),
        "trickles after a good request": trickle(whole + begun, b"x"),
    }
    received = at_once(service, talks)
    assert statuses(received.pop("trickles after a good request")) == [200]
    assert set(received.values()) == {b""}


AFTER_A_BODY = b" HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nX: "
ENDLESS = (
    b"GET /",
    b"GET / HTTP/1.1\r\nX: ",
    b"GET /" + AFTER_A_BODY,
    b"POST /products" + AFTER_A_BODY,
)


@pytest.mark.parametrize("http", ["httptools", "h11"])
def test_a_head_that_never_ends_is_cut_off_long_before_its_time_is_over(
    http: str, tmp_path: Path
) -> None:
    service = Service("product", tmp_path / "log", 0, USE_REDIS="false", ORDER_TIMEOUT="120")
    sent = 0

    def endless(begun: bytes) -> Iterator[bytes]:
        nonlocal sent
        yield begun
        sent = 0
        while sent < 100_000_000:
            sent += 65536
            yield b"x" * 65536

    try:
        service.start("--http", http)
        for begun in ENDLESS:
            assert statuses(talk(service, endless(begun))) in ([], [200], [400])
            assert sent < 50_000_000  # how much the kernel holds between the two is not known
        assert service.get("/").ok
    finally:
        service.stop()


def test_a_body_that_takes_its_time_is_given_up(service: Service) -> None:
    counted, chunked = head(service, "Content-Length: 50000"), "Transfer-Encoding: chunked"
    talks = {
        "stops": [head(service, "Content-Length: 50", "Connection: close"), b'{"name": '],
        "trickles": trickle(counted, b" "),
        "trickles chunks": trickle(head(service, chunked), b"1\r\n \r\n"),
    }
    for received in at_once(service, talks).values():
        assert (statuses(received), code(received)) == ([503], "request_timeout")


def test_a_chunked_body_that_never_ends_is_413(service: Service) -> None:
    chunk = b"2000\r\n" + b" " * 0x2000 + b"\r\n"
    chunked = head(service, "Transfer-Encoding: chunked", "Connection: close")
    received = talk(service, trickle(chunked, chunk), wait=0.01)
    assert (statuses(received), code(received)) == ([413], "body_too_large")


def test_a_connection_brings_as_many_heads_as_it_likes(service: Service) -> None:
    heads = [b"GET / HTTP/1.1\r\nHost: x\r\nX: " + b"y" * 10_000 + b"\r\n\r\n"] * 20
    last = b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
    assert statuses(talk(service, [*heads, last], wait=0.1)) == [200] * 21


def test_who_asks_without_end_before_an_answer_is_cut_off(services: dict[str, Service]) -> None:
    asked = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n" * 20_000
    last = b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
    assert len(statuses(talk(services["product"], [asked + last]))) < 20_000


def test_a_body_in_tiny_chunks_is_read_to_its_end_however_much_is_sent_around_it(
    service: Service,
) -> None:
    chunks = b"1;%b\r\n \r\n" % (b"x" * 100) * 5000 + b"2\r\n{}\r\n0\r\nX: y\r\n\r\n"
    received = talk(
        service, [head(service, "Transfer-Encoding: chunked", "Connection: close") + chunks]
    )
    assert (statuses(received), code(received)) == ([400], "invalid_request")


def test_an_offer_of_http_2_is_ignored_on_h11_and_costs_httptools_the_body(
    service: Service, services: dict[str, Service]
) -> None:
    body = b'{"name": "Lamp", "price": 5, "quantity": 1}'
    offer = [
        "Connection: Upgrade, HTTP2-Settings, close",
        "Upgrade: h2c",
        "HTTP2-Settings: AAMAAABk",
    ]
    request = head(service, *offer, f"Content-Length: {len(body)}") + body
    answer = talk(service, [request], 2)
    if service is services["product on h11"]:
        assert b"HTTP/1.1 201" in answer
    else:
        assert b"body is required" in answer


@pytest.mark.parametrize("path", ["/", "/nowhere"])
@pytest.mark.parametrize("is_answered_before", [False, True])
def test_a_body_that_breaks_off_in_nonsense_leaves_no_traceback(
    service: Service, path: str, is_answered_before: bool
) -> None:
    head = f"GET {path} HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
    begin, nonsense = head.encode() + b"1\r\nx\r\n", b"no chunk\r\n\r\n"
    pieces = [begin, nonsense] if is_answered_before else [begin + nonsense]
    assert talk(service, pieces, 0.5).count(b"HTTP/1.1") >= 1


def test_who_sends_half_a_request_and_goes_leaves_nothing_behind(service: Service) -> None:
    for sent in (b"GET", head(service), head(service, "Content-Length: 50"), b"\x16\x03\x01"):
        with socket.create_connection(("127.0.0.1", service.port)) as connection:
            connection.sendall(sent)
    assert service.get("/").ok


# What is not HTTP, or says two things at once


BROKEN = {
    "a length with a sign": b"Content-Length: +5\r\n\r\nhello",
    "a negative length": b"Content-Length: -1\r\n\r\nhello",
    "a length in hexadecimal": b"Content-Length: 0x5\r\n\r\nhello",
    "a length with an underscore": b"Content-Length: 1_0\r\n\r\nhellohello",
    "two lengths": b"Content-Length: 5\r\nContent-Length: 6\r\n\r\nhello",
    "two lengths in one": b"Content-Length: 5, 6\r\n\r\nhello",
    "a length past 64 bits": b"Content-Length: 18446744073709551616\r\n\r\nhello",
    "an unknown encoding": b"Transfer-Encoding: xchunked\r\n\r\nhello",
    "an encoding after chunked": b"Transfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n",
    "a space before the colon": b"Transfer-Encoding : chunked\r\n\r\n0\r\n\r\n",
    "a vertical tab in the encoding": b"Transfer-Encoding:\x0bchunked\r\n\r\n0\r\n\r\n",
    "chunks of no size": b"Transfer-Encoding: chunked\r\n\r\nzz\r\nhello\r\n0\r\n\r\n",
    "chunks of negative size": b"Transfer-Encoding: chunked\r\n\r\n-1\r\nhello\r\n0\r\n\r\n",
    "a chunk that is far too large": b"Transfer-Encoding: chunked\r\n\r\n" + b"f" * 17 + b"\r\nhi",
    "no name of a header": b": x\r\n\r\n",
    "a space in the name of a header": b"A B: x\r\n\r\n",
    "NUL in a header": b"X-Request-ID: a\0b\r\n\r\n",
}


@pytest.mark.parametrize("what", BROKEN)
def test_a_request_that_says_two_things_at_once_is_refused(service: Service, what: str) -> None:
    path, _ = POSTS[service.name]
    sent = f"POST {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n".encode() + BROKEN[what]
    behind = b"GET /smuggled HTTP/1.1\r\nHost: x\r\n\r\n"
    received = statuses(talk(service, [sent + behind]))
    assert len(received) <= 1
    assert set(received) <= {400, 401, 413, 503}  # h11 waits for the end of a chunk of any size
    assert "/smuggled" not in service.log.read_text()


@pytest.mark.parametrize("name", ["X-Request-ID", "Idempotency-Key"])
@pytest.mark.parametrize(
    "value",
    [
        b"a\nSet-Cookie: x=1", b"a\rSet-Cookie: x=1", b"a\r\n\tSet-Cookie: x=1", b"a\0b", b"a\x1fb",
        b"\x7f", b"\xff\xfe", b"a\xc2\x85b", b"\xe2\x80\xa8", b"", b"x" * 60_000, b"%0d%0aX: y",
        b"\\r\\n", b"${x} {{7*7}}",
    ],
)  # fmt: skip
def test_no_header_can_be_put_into_another(service: Service, name: str, value: bytes) -> None:
    body = b'{"product_id": "01M8706QWZPAFXJVYTP6GM7GVS", "quantity": 0}'
    sent = head(service, f"Content-Length: {len(body)}", "Connection: close")
    header = b"\r\n%s: %s\r\nHost: x\r\n" % (name.encode(), value)
    received = talk(service, [sent.replace(b"\r\nHost: x\r\n", header) + body])
    assert statuses(received) in ([400], [503])  # 503: of a folded line, h11 makes one with a space
    assert b"set-cookie" not in received.lower().partition(b"\r\n\r\n")[0].replace(b" set-", b"")


@pytest.mark.parametrize(
    "handshake",
    [
        b"",
        b"Sec-WebSocket-Key: no key\r\n",
        b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n",
        b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nX-Request-ID: \xff\r\n",
        b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nContent-Length: 2\r\n",
    ],
)
def test_a_websocket_is_refused_and_its_headers_are_in_no_log(
    service: Service, handshake: bytes
) -> None:
    secret = PEOPLE["administrator"]["Authorization"].encode()
    sent = (
        b"GET / HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
        b"Sec-WebSocket-Version: 13\r\nAuthorization: %s\r\n%s\r\n"
    )
    received = talk(service, [sent % (secret, handshake)])
    assert set(statuses(received)) <= {400, 404}
