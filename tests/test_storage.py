"""The storage switch: what a service stands on, and what stops its start."""

import asyncio
import os
import re
import signal
import subprocess
import sys
from asyncio import StreamReader, StreamWriter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from redis.asyncio import ConnectionPool

from redis_db import FORMAT, NEEDED, open_records
from shopsphere.catalogue.products import Products
from shopsphere.domain.errors import StoreUnavailable
from shopsphere.redis_clients.client import ShopRedis, pipeline
from shopsphere.redis_clients.cluster import cluster_client
from shopsphere.redis_clients.connecting import connect
from shopsphere.redis_clients.options import CONNECTION
from shopsphere.settings import CannotStart, Settings
from storage import open_storage
from tests.launching import said_on_a_terminal
from tests.people import users_in
from tests.servers import ROOT, RedisServer, Service, free_port, wait_until

pytestmark = pytest.mark.anyio

SECRET = "hunter2-is-a-secret"


async def opened_storage(settings: Settings) -> tuple[str, bool]:
    """Open and close the storage; return which it is, and whether that is a fallback."""
    opened = await open_storage(settings)
    await opened.records.close()
    return opened.storage, opened.is_fallback


@asynccontextmanager
async def responding(respond: Callable[[bytes], Awaitable[bytes]]) -> AsyncIterator[int]:
    """Yield the port of a server that responds to each command like this; to b"" it hangs up.

    In the end the clients must have closed their connections.
    """
    connected: set[StreamWriter] = set()

    async def serve(reader: StreamReader, writer: StreamWriter) -> None:
        connected.add(writer)
        response = b"begun"
        while response and (commands := await reader.read(2**16)):
            for command in re.split(rb"(?=\*\d+\r\n\$)", commands)[1:]:
                response = await respond(command)
                writer.write(response)
        writer.close()
        connected.remove(writer)

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        yield server.sockets[0].getsockname()[1]
        await asyncio.to_thread(wait_until, lambda: not connected, 5, "all have hung up")


async def refusal(**settings: object) -> str:
    """Open a storage that must not open; return the one line that says why not."""
    with pytest.raises(CannotStart) as refusal:
        await opened_storage(Settings.model_validate(settings))
    line = str(refusal.value)
    assert SECRET not in line
    assert "\n" not in line
    return line


# The switch


def test_a_service_that_finds_no_redis_serves_from_memory_and_warns(tmp_path: Path) -> None:
    nobody = str(free_port())
    with Service("user", tmp_path / "log", REDIS_PORT=nobody, WEB_CONCURRENCY="2") as service:
        service.start("--reload")  # it serves from one child process, whatever WEB_CONCURRENCY says
        health = service.get("/").json()
        assert (health["storage"], health["fallback"]) == ("memory", True)
        assert service.get("/ready").status_code == 200
        warning = f"No Redis responds at localhost:{nobody}. This service now stores"
        assert service.log.read_text().count(warning) == 1


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such terminals")
@pytest.mark.parametrize(("log_format", "lines"), [("text", 6), ("json", 1)])
def test_on_a_terminal_the_warning_of_memory_is_a_box_but_never_in_json(
    log_format: str, lines: int
) -> None:
    opening = "import asyncio, storage; asyncio.run(storage.open_storage(storage.Settings.load()))"
    said = said_on_a_terminal(opening, LOG_FORMAT=log_format, REDIS_PORT=str(free_port())).strip()
    assert "No Redis responds at localhost:" in said
    assert len(said.splitlines()) == lines
    assert ("*****" in said) == (log_format == "text")


def test_without_redis_nothing_of_it_is_imported() -> None:
    script = """
import asyncio, sys
import order_service, product_service, storage, user_service
from shopsphere.settings import Settings

assert asyncio.run(storage.open_storage(Settings.load())).storage == "memory"
ours = {"redis_db", "aredis_om", "redis_om", "redis"}
print(sorted(ours & {module.partition(".")[0] for module in sys.modules}))
"""
    run = subprocess.run(
        [sys.executable, "-c", script],
        cwd=ROOT, env=os.environ | {"USE_REDIS": "false"}, stdout=subprocess.PIPE, check=True,
    )  # fmt: skip

    assert run.stdout.strip() == b"[]"


def test_several_workers_in_memory_are_refused_in_one_line_however_they_were_asked_for(
    tmp_path: Path,
) -> None:
    chosen = Service("product", tmp_path / "1", USE_REDIS="false")
    fallback = Service("user", tmp_path / "2", REDIS_PORT=str(free_port()), WEB_CONCURRENCY="2")
    other = Service("order", tmp_path / "3", USE_REDIS="false", UVICORN_WORKERS="2")
    chosen.start("--workers=2", wait=False)
    other.start(wait=False)
    fallback.start(wait=False)

    for service in (chosen, fallback, other):
        wait_until(lambda: service.log.read_text().count("startup failed") == 2, 30)  # noqa: B023
        service.stop(signal.SIGKILL)  # uvicorn's parent process notices it after 5 s
        log = service.log.read_text()
        reasons = [line for line in log.splitlines() if "ERROR" in line and "one worker" in line]
        assert len(reasons) in (2, 3)  # the third if uvicorn has begun to replace a worker
        assert 0 <= 2 * len(reasons) - log.count("ERROR") <= 1
        assert "Traceback" not in log


@pytest.mark.skipif(os.name == "nt", reason="gunicorn does not run on Windows")
@pytest.mark.parametrize(("workers", "is_served"), [(1, True), (2, False)])
def test_gunicorn_serves_memory_with_one_worker_only(
    tmp_path: Path, workers: int, is_served: bool
) -> None:
    service = Service("product", tmp_path / "log")
    command = f"gunicorn -w {workers} -b 127.0.0.1:{service.port} -k uvicorn.workers.UvicornWorker"
    with service.log.open("wb") as log:
        service.process = subprocess.Popen(
            [sys.executable, "-m", *command.split(), "product_service:app"],
            cwd=ROOT, env=os.environ | {"USE_REDIS": "false"}, stdout=log, stderr=log,
        )  # fmt: skip
    with service:
        if is_served:
            wait_until(service.answers)
        else:
            assert service.process.wait(30) != 0
            assert "only one worker" in service.log.read_text()


async def test_a_redis_that_is_required_and_not_there_stops_the_start() -> None:
    nowhere = f"127.0.0.1:{free_port()}"
    line = await refusal(use_redis="required", redis_url=f"redis://:{SECRET}@{nowhere}")
    assert f"USE_REDIS=required, but no Redis responds at {nowhere}" in line


async def test_a_redis_that_is_loading_is_waited_for(caplog: pytest.LogCaptureFixture) -> None:
    loading = iter([b"-LOADING Redis is loading the dataset in memory\r\n"] * 9)

    async def respond(command: bytes) -> bytes:
        return b"+OK\r\n" if b"CLIENT" in command else next(loading, b"+PONG\r\n")

    async with responding(respond) as port:
        client = await connect(Settings(redis_host="127.0.0.1", redis_port=port))
        await client.close_all()
    assert not list(loading)
    assert "Redis is loading its data; waiting for it" in caplog.messages


# What is there and of no use


@pytest.mark.parametrize(
    ("says", "reason"), [(b"", "rediss://"), (b"HTTP/1.1 418 I am a teapot\r\n\r\n", "REDIS_HOST")]
)
async def test_what_is_no_redis_stops_the_start(says: bytes, reason: str) -> None:
    async def respond(_: bytes) -> bytes:
        """Do what an HTTP server does, or one for TLS, which says nothing."""
        return says

    async with responding(respond) as port:
        assert reason in await refusal(redis_host="127.0.0.1", redis_port=port)


def test_every_command_of_the_scripts_is_tried_at_the_start() -> None:
    text = (ROOT / "redis_db.py").read_text(encoding="utf-8")
    in_scripts = set(re.findall(r"redis\.call\('(\w+)'", text))
    commands = set(re.findall(r'yield "([A-Z]+)"', text))  # which the script of a step runs
    assert in_scripts | commands <= {command.split()[0] for command in NEEDED}


async def test_a_redis_that_refuses_us_stops_the_start(own_redis: RedisServer) -> None:
    redis, port = own_redis.client, own_redis.port
    for use_redis in ("true", "required"):
        line = await refusal(use_redis=use_redis, redis_port=port, redis_password=SECRET)
        assert "REDIS_PASSWORD" in line, "it wants none"
    for keys, *commands in (("*", "+ping"), ("other:*", "+@all"), ("*", "+@all", "-set")):
        redis.acl_setuser("shop", enabled=True, reset=True, passwords=[f"+{SECRET}"], keys=[keys],
                          commands=commands)  # fmt: skip
        assert "permissions" in await refusal(redis_url=f"redis://shop:{SECRET}@127.0.0.1:{port}")
    for missing in ("TIME", "EVALSHA", "ZUNIONSTORE"):
        redis.acl_setuser("shop", enabled=True, reset=True, passwords=[f"+{SECRET}"], keys=["*"],
                          commands=["+@all", "-info", f"-{missing}"])  # fmt: skip
        line = await refusal(redis_username="shop", redis_password=SECRET, redis_port=port)
        assert line.startswith(f"The Redis user may not run {missing}. See docs/redis.md")
    redis.config_set("requirepass", SECRET)
    for password in ("", "another"):
        assert "REDIS_PASSWORD" in await refusal(redis_port=port, redis_password=password)
    redis.config_set("maxclients", 1)
    for _ in range(6):  # now and then Redis can say why before it closes the connection
        assert "clients" in await refusal(redis_port=port)


@pytest.mark.parametrize(
    "url",
    [
        "redis://127.0.0.1:99999",
        "redis://127.0.0.1:port",
        "redis://127.0.0.[1",
        "redis://127.0.0.1?socket_timeout=soon",
        f"redis://127.0.0.1:1?no={SECRET}",
        "rediss://localhost:6379?ssl_cert_reqs=perhaps",
        "rediss://localhost:6379?ssl_ca_certs=/no/such/file",
        "redis+cluster://localhost",
        "redis+cluster://localhost:6379?db=1",
        "redis+cluster://localhost:6379?ssl=true&ssl_ca_certs=/no/such/file",
        "http://localhost:6379",
        "localhost:6379",
        "redis+sentinel://localhost:26379",
        "redis+sentinel://localhost:26379/name?no_such_option=1",
    ],
)
async def test_an_address_that_is_none_stops_the_start(url: str) -> None:
    assert "REDIS_URL" in await refusal(redis_url=url)


# What Redis says when it cannot serve


@pytest.mark.parametrize(
    "reply",
    [
        b"-LOADING Redis is loading the dataset in memory",
        b"-NOAUTH Authentication required.",
        b"-NOPERM this user has no permissions to run the 'get' command",
        b"-ERR Error running script: The user executing the script can't run this command",
        b"-READONLY You can't write against a read only replica.",
        b"-OOM command not allowed when used memory > 'maxmemory'.",
        b"-ERR Error running script (call to f_1): @user_script:1: -OOM command not allowed",
        b"-NOREPLICAS Not enough good replicas to write.",
        b"-MISCONF Redis is configured to save RDB snapshots, but it cannot persist on disk.",
        b"-BUSY Redis is busy running a script.",
        b"-UNBLOCKED force unblock from blocking operation, instance state changed",
        b"-CLUSTERDOWN The cluster is down",
        b"-TRYAGAIN Multiple keys request during rehashing of slot",
        b"-MOVED 7 127.0.0.1:1",
        b"-ASK 7 127.0.0.1:1",
        b"-ERR undeclared keys were accessed during rehashing of the slot",
        b"-ERR Lua script attempted to access a non local key in a cluster node",
        b"HTTP/1.1 502 Bad Gateway",
    ],
)
async def test_whatever_redis_says_instead_of_serving_means_unavailable(reply: bytes) -> None:
    async def respond(command: bytes) -> bytes:
        return b"+OK\r\n" if b"CLIENT" in command else reply + b"\r\n"

    async with responding(respond) as port:
        client = ShopRedis(ConnectionPool(host="127.0.0.1", port=port, **CONNECTION))
        with pytest.raises(StoreUnavailable):
            await client.get("key")
        await client.close_all()


async def test_a_slot_that_a_cluster_does_not_serve_disturbs_no_other_command() -> None:
    asked: list[bytes] = []
    is_asked, may_respond = asyncio.Event(), asyncio.Event()

    async def respond(command: bytes) -> bytes:
        if b"SLOTS" in command:
            return b"*1\r\n*3\r\n:0\r\n:16383\r\n*2\r\n$9\r\n127.0.0.1\r\n:%d\r\n" % port
        if b"lost" in command:
            return b"-CLUSTERDOWN Hash slot not served\r\n"
        if b"slow" in command:
            asked.append(command)
            is_asked.set()
            await may_respond.wait()
        return b"+OK\r\n"

    async with responding(respond) as port, asyncio.timeout(20):
        client = cluster_client(f"127.0.0.1:{port}?socket_timeout=10")

        async def get_by_pipeline(key: str) -> None:
            async with pipeline(client) as pipe:
                pipe.get(key)
                assert await pipe.execute() == ["OK"]

        slow = asyncio.create_task(client.get("slow"))
        await is_asked.wait()
        for get in (client.get, get_by_pipeline):
            with pytest.raises(StoreUnavailable):
                await get("lost")
        may_respond.set()
        assert await slow == "OK"
        assert len(asked) == 1
        for get in (client.get, get_by_pipeline):  # more at once than connections
            may_respond.clear()
            asyncio.get_running_loop().call_later(1, may_respond.set)
            await asyncio.gather(*(get("slow") for _ in range(250)))
        with pytest.raises(StoreUnavailable):
            await client.get("lost")
        await client.close_all()


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
async def test_data_of_another_version_refuses_the_start_and_stays_as_it_is(
    key: str, value: str, redis_server: RedisServer
) -> None:
    redis_server.client.flushall()
    redis_server.client.set(f"my:shop:{key}", value)

    line = await refusal(redis_port=redis_server.port, redis_prefix="my:shop")

    assert "another REDIS_PREFIX" in line
    assert "REDIS_PREFIX=my:shop" in line
    assert set(redis_server.client.keys()) - {"my:shop:probe"} == {f"my:shop:{key}"}
    assert redis_server.client.get(f"my:shop:{key}") == value


async def test_keys_of_other_programs_and_prefixes_that_begin_alike_do_not(
    redis_server: RedisServer,
) -> None:
    redis_server.client.flushall()
    for prefix in ("shopsphere2", "shop", "SHOPSPHERE", "a:shopsphere"):
        redis_server.client.mset({f"{prefix}:{key}": "theirs" for key in KEYS_OF_0_1_0})
    redis_server.client.set("shopsphere:productions:1", "theirs")

    assert await opened_storage(Settings(redis_port=redis_server.port)) == ("redis", False)
    assert redis_server.client.get("shopsphere:format") == FORMAT


async def test_a_redis_that_cannot_tell_its_format_stops_the_start(own_redis: RedisServer) -> None:
    client = await connect(Settings(redis_port=own_redis.port))
    own_redis.stop(signal.SIGKILL)
    with pytest.raises(CannotStart, match="Redis is unavailable"):
        await open_records(client, "shopsphere")


async def listed_after_adding(server: RedisServer, name: str) -> list[str]:
    opened = await open_storage(Settings(redis_port=server.port))
    await Products(opened.records).create(name, 1, 1)
    await users_in(opened.records).register(f"{name}@example.com", "hash")
    listed = await Products(opened.records).page(None, 10)
    await opened.records.close()
    return [product.name for product in listed.items]


async def test_what_this_version_kept_is_opened_again_also_without_the_number_of_its_format(
    redis_server: RedisServer,
) -> None:
    """That is lost where its node of a Cluster came back empty, say."""
    redis_server.client.flushall()
    await listed_after_adding(redis_server, "first")
    assert await listed_after_adding(redis_server, "second") == ["first", "second"]
    redis_server.client.delete("shopsphere:format")

    assert len(await listed_after_adding(redis_server, "third")) == 3
    assert redis_server.client.get("shopsphere:format") == FORMAT
