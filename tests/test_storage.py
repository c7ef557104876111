"""The storage switch: what a service stands on, and what stops its start."""

import asyncio
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from socketserver import BaseRequestHandler, StreamRequestHandler, ThreadingTCPServer

import pytest
import redis

from redis_db import FORMAT
from shopsphere.accounts.users import Users
from shopsphere.catalogue.products import Products
from shopsphere.domain.errors import CannotStart
from shopsphere.settings import Settings
from storage import open_storage
from tests.launching import said_on_a_terminal
from tests.servers import ROOT, RedisServer, Service, free_port, wait_until

SECRET = "hunter2-is-a-secret"


@pytest.fixture
def own_redis(tmp_path: Path) -> Iterator[RedisServer]:
    """A Redis that a test may lock."""
    server = RedisServer(tmp_path)
    yield server
    server.client.close()
    server.stop()


async def opened_storage(settings: Settings) -> tuple[str, bool]:
    """Open and close the storage; return which it is, and whether that is a fallback."""
    opened = await open_storage(settings)
    await opened.records.close()
    return opened.storage, opened.is_fallback


def refusal(**settings: object) -> str:
    """Open a storage that must not open; return the one line that says why not."""
    with pytest.raises(CannotStart) as refusal:
        asyncio.run(opened_storage(Settings.model_validate(settings)))
    line = str(refusal.value)
    assert SECRET not in line
    assert "\n" not in line
    return line


# The switch


def test_a_service_keeps_its_records_where_it_says(
    tmp_path: Path, redis_server: RedisServer
) -> None:
    port, nobody = str(redis_server.port), str(free_port())
    services = {
        Service(name, tmp_path / f"log {number}", USE_REDIS=use, REDIS_PORT=at): (storage, option)
        for number, (name, use, at, option, storage) in enumerate((
            ("product", "true", port, "--workers=2", ("redis", False)),
            ("product", "false", port, "--reload", ("memory", False)),
            ("user", "true", nobody, "--workers=1", ("memory", True)),
        ))
    }  # fmt: skip
    try:
        for service, (_, option) in services.items():
            service.start(option, wait=False)
        for service, (storage, _) in services.items():
            wait_until(service.answers)
            health = service.get("/").json()
            assert (health["storage"], health["fallback"]) == storage
            assert service.get("/ready").status_code == 200
            warning = f"No Redis responds at localhost:{nobody}. This service now keeps"
            assert service.log.read_text().count(warning) == storage[1]
    finally:
        for service in services:
            service.stop()


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such terminals")
@pytest.mark.parametrize(("log_format", "lines"), [("text", 6), ("json", 1)])
def test_on_a_terminal_the_warning_of_memory_is_a_box_but_never_in_json(
    log_format: str, lines: int
) -> None:
    warn = "import storage; storage._warn_of_fallback(storage.Settings.load())"
    said = said_on_a_terminal(warn, LOG_FORMAT=log_format, REDIS_HOST="nobody").strip()
    assert "No Redis responds at nobody:6379." in said
    assert len(said.splitlines()) == lines
    assert ("*****" in said) == (log_format == "text")


def test_without_redis_nothing_of_it_is_imported() -> None:
    script = """
import asyncio, sys
import order_service, product_service, storage, user_service
from shopsphere.settings import Settings

assert asyncio.run(storage.open_storage(Settings.load())).storage == "memory"
ours = {"redis_db", "redis_clients", "aredis_om", "redis_om", "redis"}
print(sorted(ours & {module.partition(".")[0] for module in sys.modules}))
"""
    run = subprocess.run(
        [sys.executable, "-c", script],
        cwd=ROOT, env=Service("product", Path(), USE_REDIS="false").environment,
        capture_output=True, text=True, check=True,
    )  # fmt: skip

    assert run.stdout.strip() == "[]"


def has_failed(service: Service, workers: int) -> bool:
    return service.log.read_text().count("startup failed") == workers


def test_what_cannot_be_started_says_so_in_one_line(tmp_path: Path) -> None:
    """Several workers in memory, however they were asked for, and a Redis that is not there."""
    nobody, memory = str(free_port()), "Memory serves one process"
    nowhere = f"redis://:{SECRET}@127.0.0.1:{nobody}?socket_timeout=1"
    missing = f"USE_REDIS=required, but no Redis responds at redis://127.0.0.1:{nobody}"
    cases = [
        (Service("product", tmp_path / "1", USE_REDIS="false"), ["--workers=2"], memory),
        (Service("user", tmp_path / "2", REDIS_PORT=nobody, WEB_CONCURRENCY="2"), [], memory),
        (Service("product", tmp_path / "3", USE_REDIS="required", REDIS_URL=nowhere), [], missing),
    ]
    for service, options, _ in cases:
        service.start(*options, wait=False)

    for service, _, reason in cases:
        workers = 2 if reason is memory else 1
        wait_until(partial(has_failed, service, workers))
        service.stop(signal.SIGKILL)  # uvicorn's parent process notices it after 5 s
        log = service.log.read_text()
        errors = [line for line in log.splitlines() if "ERROR" in line and reason in line]
        assert len(errors) == workers
        assert log.count("ERROR") == 2 * workers
        assert "Traceback" not in log
        assert SECRET not in log


def test_a_redis_that_is_loading_is_waited_for(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    server = RedisServer(tmp_path, "--rdbcompression", "no")
    for number in range(14):  # while loading, Redis listens once in 2 MB
        server.client.setrange(f"filling:{number}", 2 * 2**20, "x")
    server.client.save()
    server.stop()
    server.start("--key-load-delay", "150000", wait=False)
    try:
        wait_until(lambda: is_loading(server), why="Redis is loading")
        storage = asyncio.run(opened_storage(Settings(redis_port=server.port)))

        assert storage == ("redis", False)
        assert "Redis is loading its data; waiting for it" in caplog.messages
        assert server.client.dbsize() >= 14, "it has been waited for to the end"
    finally:
        server.client.close()
        server.stop()


def is_loading(server: RedisServer) -> bool:
    try:
        server.client.ping()
    except redis.ConnectionError as error:
        return isinstance(error, redis.BusyLoadingError)
    return False


# What is there and of no use


@contextmanager
def listening(handler: type[BaseRequestHandler]) -> Iterator[int]:
    """Yield the port of a program that does this with each connection."""
    with ThreadingTCPServer(("127.0.0.1", 0), handler) as server:
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, args=[0.01]).start()
        try:
            yield server.server_address[1]
        finally:
            server.shutdown()


class Teapot(StreamRequestHandler):
    def handle(self) -> None:
        self.wfile.write(b"HTTP/1.1 418 I am a teapot\r\n\r\n")


@pytest.mark.parametrize(
    ("handler", "reason"),
    [(BaseRequestHandler, "rediss://"), (Teapot, "REDIS_HOST")],  # hangs up as one for TLS does
)
def test_what_is_no_redis_stops_the_start(handler: type[BaseRequestHandler], reason: str) -> None:
    with listening(handler) as port:
        assert reason in refusal(redis_host="127.0.0.1", redis_port=port)


def test_a_redis_that_refuses_us_stops_the_start(own_redis: RedisServer) -> None:
    redis, port = own_redis.client, own_redis.port
    for use_redis in ("true", "required"):
        line = refusal(use_redis=use_redis, redis_port=port, redis_password=SECRET)
        assert "REDIS_PASSWORD" in line, "it wants none"
    for keys, commands in (
        ("*", ["+ping"]),
        ("other:*", ["+@all"]),
        ("*", ["+@all", "-@scripting"]),
    ):
        redis.acl_setuser("shop", enabled=True, reset=True, passwords=[f"+{SECRET}"], keys=[keys],
                          commands=commands)  # fmt: skip
        assert "permissions" in refusal(redis_url=f"redis://shop:{SECRET}@127.0.0.1:{port}")
    redis.config_set("requirepass", SECRET)
    try:
        for password in ("", "another"):
            assert "REDIS_PASSWORD" in refusal(redis_port=port, redis_password=password)
    finally:
        redis.config_set("requirepass", "")
    redis.config_set("maxclients", 1)
    for _ in range(6):  # now and then Redis can say why before it closes the connection
        assert "clients" in refusal(redis_port=port)


@pytest.mark.parametrize(
    "rest",
    ["1:99999", "1:port", "[1", "1?socket_timeout=soon", "1:{port}/99", f"1:{{port}}?no={SECRET}"],
)
def test_an_address_that_is_none_stops_the_start(rest: str, redis_server: RedisServer) -> None:
    url = f"redis://127.0.0.{rest.format(port=redis_server.port)}"
    assert "REDIS_URL" in refusal(redis_url=url)


# Data of another version is not touched

PK = "01J8Z3N5T9QWERTY0123456789"
KEYS_OF_0_1_0 = [
    "products", "{product-names}", "{product-names}:lap", f"reservations:{{{PK}}}",
    f"update:{{{PK}}}:xY-_1z", "orders", f"orders:{PK}", "orders-placing", "orders-cancelling",
    "orders-shipping", "email:anna@example.com",
]  # fmt: skip
"""Those that there are no more: whatever 0.1.0 kept, some of these were there as well."""


@pytest.mark.parametrize(
    ("key", "value"),
    [*((key, "whatever") for key in KEYS_OF_0_1_0),
     *(("format", number) for number in ("1", "2", "", "3.0"))],
)  # fmt: skip
def test_data_of_another_version_refuses_the_start_and_stays_as_it_is(
    key: str, value: str, redis_server: RedisServer
) -> None:
    redis_server.client.flushall()
    redis_server.client.set(f"my:shop:{key}", value)

    line = refusal(redis_port=redis_server.port, redis_prefix="my:shop")

    assert "another REDIS_PREFIX" in line
    assert "REDIS_PREFIX=my:shop" in line
    assert set(redis_server.client.keys()) - {"my:shop:probe"} == {f"my:shop:{key}"}
    assert redis_server.client.get(f"my:shop:{key}") == value


def test_keys_of_other_programs_and_prefixes_that_begin_alike_do_not(
    redis_server: RedisServer,
) -> None:
    redis_server.client.flushall()
    for key in KEYS_OF_0_1_0:
        for prefix in ("shopsphere2", "shop", "SHOPSPHERE", "a:shopsphere"):
            redis_server.client.set(f"{prefix}:{key}", "theirs")
    redis_server.client.set("shopsphere:productions:1", "theirs")

    settings = Settings(redis_port=redis_server.port)
    assert asyncio.run(opened_storage(settings)) == ("redis", False)
    assert redis_server.client.get("shopsphere:format") == FORMAT


async def listed_after_adding(server: RedisServer, name: str) -> list[str]:
    opened = await open_storage(Settings(redis_port=server.port))
    await Products(opened.records).create(name, 1, 1)
    await Users(opened.records).register(f"{name}@example.com", "hash")
    listed = await Products(opened.records).page(None, 10)
    await opened.records.close()
    return [product.name for product in listed.items]


def test_what_this_version_kept_is_opened_again_also_without_the_number_of_its_format(
    redis_server: RedisServer,
) -> None:
    """That is lost where its node of a Cluster came back empty, say."""
    redis_server.client.flushall()
    asyncio.run(listed_after_adding(redis_server, "first"))
    assert asyncio.run(listed_after_adding(redis_server, "second")) == ["first", "second"]
    redis_server.client.delete("shopsphere:format")

    assert len(asyncio.run(listed_after_adding(redis_server, "third"))) == 3
    assert redis_server.client.get("shopsphere:format") == FORMAT
