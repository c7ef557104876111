"""The storage switch, with real services: what each one stands on, and when that goes away."""

import asyncio
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from socketserver import BaseRequestHandler, StreamRequestHandler, ThreadingTCPServer

import pytest
import redis
import requests

from redis_db import open_records
from shopsphere.accounts.users import Users
from shopsphere.catalogue.products import Products
from shopsphere.domain.errors import CannotStart
from shopsphere.domain.pks import new_pk
from shopsphere.settings import Settings
from storage import open_storage
from tests.launching import said_on_a_terminal
from tests.lossy_wire import connected, wired
from tests.servers import ROOT, RedisServer, Service, free_port, wait_until

SECRET = "hunter2-is-a-secret"
PK = "01J8Z3N5T9QWERTY0123456789"
LAPTOP = {"name": "Laptop", "price": 999.99, "quantity": 10}


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return tmp_path / "log"


@pytest.fixture
def own_redis(tmp_path: Path) -> Iterator[RedisServer]:
    """A Redis that a test may stop, fill and lock; its data outlives a stop."""
    server = RedisServer(tmp_path, "--appendonly", "yes")
    yield server
    server.client.close()
    server.stop()


def storage_of(service: Service) -> tuple[str, bool]:
    """Return what the service stands on, and whether that is a fallback."""
    health = service.get("/").json()
    return health["storage"], health["fallback"]


def refused_start(service: Service, *uvicorn_options: str) -> str:
    """Start a service that must not start; return the one line that it says."""
    service.start(*uvicorn_options, wait=False)
    status = service.process.wait(20)
    service.stop()
    said = service.log.read_text()
    assert status != 0, said
    assert "Traceback" not in said
    assert SECRET not in said
    [line] = [
        line for line in said.splitlines() if "ERROR" in line and "startup failed" not in line
    ]
    return line


class TestSwitch:
    def test_a_service_keeps_its_records_where_it_says(
        self, log: Path, redis_server: RedisServer
    ) -> None:
        port, nobody = str(redis_server.port), str(free_port())
        cases = {
            ("product", "true", port): ("redis", False),
            ("product", "true", nobody): ("memory", True),
            ("product", "false", port): ("memory", False),
            ("user", "required", port): ("redis", False),
            ("user", "true", nobody): ("memory", True),
        }
        services = {
            case: Service(
                case[0], log.with_name("-".join(case)), USE_REDIS=case[1], REDIS_PORT=case[2]
            ).start(wait=False)
            for case in cases
        }
        try:
            for case, storage in cases.items():
                wait_until(services[case].answers)
                assert storage_of(services[case]) == storage
                assert services[case].get("/ready").status_code == 200
                said = services[case].log.read_text()
                warnings = [line for line in said.splitlines() if "IN MEMORY" in line]
                assert len(warnings) == (storage == ("memory", True))
                assert (f"No Redis responds at localhost:{nobody}" in said) == (case[2] == nobody)
        finally:
            for service in services.values():
                service.stop()

    @pytest.mark.skipif(os.name == "nt", reason="Windows has no such terminals")
    @pytest.mark.parametrize(("log_format", "lines"), [("text", 6), ("json", 1)])
    def test_on_a_terminal_the_warning_of_memory_is_a_box_but_never_in_json(
        self, log_format: str, lines: int
    ) -> None:
        warn = "import storage; storage._warn_of_fallback(storage.Settings.load())"
        said = said_on_a_terminal(warn, LOG_FORMAT=log_format, REDIS_HOST="nobody").strip()
        assert "No Redis responds at nobody:6379." in said
        assert len(said.splitlines()) == lines
        assert ("*****" in said) == (log_format == "text")

    def test_without_redis_nothing_of_it_is_imported(self) -> None:
        script = """
import asyncio, sys
import order_service, product_service, storage, user_service
from shopsphere.settings import Settings

async def main():
    settings = Settings.load()
    assert (await storage.open_storage(settings)).storage == "memory"

asyncio.run(main())
ours = {"redis_db", "redis_clients", "aredis_om", "redis_om", "redis"}
print(sorted(ours & {module.partition(".")[0] for module in sys.modules}))
"""
        run = subprocess.run(
            [sys.executable, "-c", script],
            cwd=ROOT, env=Service("product", Path(), USE_REDIS="false").environment,
            capture_output=True, text=True, check=True,
        )  # fmt: skip

        assert run.stdout.strip() == "[]"

    def test_required_and_no_redis_there_the_service_does_not_start(self, log: Path) -> None:
        nobody = str(free_port())
        service = Service(
            "product", log, USE_REDIS="required",
            REDIS_URL=f"redis://:{SECRET}@127.0.0.1:{nobody}?socket_timeout=1",
        )  # fmt: skip

        line = refused_start(service)

        assert f"USE_REDIS=required, but no Redis responds at redis://127.0.0.1:{nobody}" in line

    @pytest.mark.parametrize("name", ["product", "user"])
    def test_a_redis_that_refuses_the_password_stops_the_start(
        self, name: str, log: Path, own_redis: RedisServer
    ) -> None:
        own_redis.client.config_set("requirepass", "another")
        service = Service(
            name, log, USE_REDIS="true", REDIS_PORT=str(own_redis.port), REDIS_PASSWORD=SECRET
        )

        assert "REDIS_PASSWORD" in refused_start(service)

    def test_a_redis_that_refuses_the_user_stops_the_start(
        self, log: Path, own_redis: RedisServer
    ) -> None:
        own_redis.client.acl_setuser("shop", enabled=True, passwords=[f"+{SECRET}"],
                                     keys=["*"], commands=["+ping"])  # fmt: skip
        url = f"redis://shop:{SECRET}@127.0.0.1:{own_redis.port}"

        line = refused_start(Service("product", log, USE_REDIS="true", REDIS_URL=url))

        assert "refuses us" in line
        assert "permissions" in line

    def test_a_redis_that_is_loading_is_waited_for(
        self, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        server = RedisServer(tmp_path, "--rdbcompression", "no")
        for number in range(20):  # while loading, Redis listens once in 2 MB
            server.client.setrange(f"filling:{number}", 2 * 2**20, "x")
        server.client.save()
        server.stop()
        server.start("--key-load-delay", "150000", wait=False)
        try:
            wait_until(lambda: is_loading(server), why="Redis is loading")
            storage = asyncio.run(opened_storage(Settings(redis_port=server.port)))

            assert storage == ("redis", False)
            assert "Redis is loading its data; waiting for it" in caplog.messages
            assert server.client.exists("filling:19"), "it has been waited for to the end"
        finally:
            server.client.close()
            server.stop()


async def opened_storage(settings: Settings) -> tuple[str, bool]:
    """Open and close the storage; return which it is, and whether that is a fallback."""
    opened = await open_storage(settings)
    await opened.records.close()
    return opened.storage, opened.is_fallback


def is_loading(server: RedisServer) -> bool:
    try:
        server.client.ping()
    except redis.BusyLoadingError:
        return True
    except redis.ConnectionError:
        return False
    return False


class TestWorkers:
    def test_memory_refuses_several_workers_and_says_why(self, log: Path) -> None:
        meant = Service("product", log, USE_REDIS="false")
        fallen_back = Service(
            "user", log.with_name("other"), REDIS_PORT=str(free_port()), WEB_CONCURRENCY="2"
        )
        meant.start("--workers", "2", wait=False)
        fallen_back.start(wait=False)

        for service in (meant, fallen_back):
            service.process.wait(20)
            service.stop()
            assert "Memory serves one process" in service.log.read_text()
            assert "Traceback" not in service.log.read_text()
            with pytest.raises(requests.ConnectionError):
                requests.get(service.url, timeout=5)

    @pytest.mark.parametrize("option", ["--workers=1", "--reload"])
    def test_memory_serves_with_one_worker(self, option: str, log: Path) -> None:
        service = Service("product", log, USE_REDIS="false").start(option)
        try:
            assert storage_of(service) == ("memory", False)
        finally:
            service.stop()

    def test_on_redis_several_workers_share_one_shop(
        self, log: Path, redis_server: RedisServer
    ) -> None:
        redis_server.client.flushall()
        service = Service("product", log, REDIS_PORT=str(redis_server.port))
        service.start("--workers", "2")
        try:
            path = service.post("/products", LAPTOP).headers["Location"]
            for _ in range(10):  # each on a connection of its own, so that either worker is met
                assert requests.get(service.url + path, timeout=5).status_code == 200
        finally:
            service.stop()


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


class TestRefusal:
    """Opened in this process: the many ways in which what is there can be of no use."""

    def opened(self, **settings: object) -> str:
        """Open a storage that must not open; return why not."""
        with pytest.raises(CannotStart) as refusal:
            asyncio.run(opened_storage(Settings.model_validate(settings)))
        line = str(refusal.value)
        assert SECRET not in line
        assert "\n" not in line
        return line

    @pytest.mark.parametrize("use_redis", ["true", "required"])
    def test_a_password_where_none_is_needed(
        self, use_redis: str, redis_server: RedisServer
    ) -> None:
        line = self.opened(use_redis=use_redis, redis_port=redis_server.port, redis_password=SECRET)
        assert "REDIS_PASSWORD" in line

    def test_no_password_where_one_is_needed(self, own_redis: RedisServer) -> None:
        own_redis.client.config_set("requirepass", SECRET)

        assert "REDIS_PASSWORD" in self.opened(redis_port=own_redis.port)

    def test_keys_that_this_user_may_not_write(self, own_redis: RedisServer) -> None:
        own_redis.client.acl_setuser("shop", enabled=True, passwords=[f"+{SECRET}"],
                                     keys=["other:*"], commands=["+@all"])  # fmt: skip

        line = self.opened(redis_url=f"redis://shop:{SECRET}@127.0.0.1:{own_redis.port}")
        assert "permissions" in line

    def test_scripts_that_this_user_may_not_run(self, own_redis: RedisServer) -> None:
        own_redis.client.acl_setuser("shop", enabled=True, passwords=[f"+{SECRET}"],
                                     keys=["*"], commands=["+@all", "-@scripting"])  # fmt: skip

        line = self.opened(redis_url=f"redis://shop:{SECRET}@127.0.0.1:{own_redis.port}")
        assert "permissions" in line

    def test_no_room_for_another_client(self, own_redis: RedisServer) -> None:
        own_redis.client.config_set("maxclients", 1)
        for _ in range(6):  # now and then Redis can say why before it closes the connection
            assert "clients" in self.opened(redis_port=own_redis.port)

    def test_a_listener_that_closes_every_connection(self) -> None:
        """As the port of Redis for TLS does when it hears no TLS."""
        with listening(BaseRequestHandler) as port:
            assert "rediss://" in self.opened(redis_host="127.0.0.1", redis_port=port)

    def test_a_database_that_this_redis_does_not_have(self, redis_server: RedisServer) -> None:
        line = self.opened(redis_url=f"redis://:@127.0.0.1:{redis_server.port}/99")
        assert "REDIS_URL" in line

    def test_an_option_that_no_client_knows(self, redis_server: RedisServer) -> None:
        line = self.opened(redis_url=f"redis://127.0.0.1:{redis_server.port}?colour={SECRET}")
        assert "REDIS_URL" in line

    @pytest.mark.parametrize("rest", ["1:99999", "1:port", "[1", "1?socket_timeout=soon"])
    def test_an_address_that_is_none(self, rest: str) -> None:
        assert "REDIS_URL" in self.opened(redis_url=f"redis://:{SECRET}@127.0.0.{rest}")

    def test_something_there_that_is_no_redis(self) -> None:
        class Teapot(StreamRequestHandler):
            def handle(self) -> None:
                self.wfile.write(b"HTTP/1.1 418 I am a teapot\r\n\r\n")

        with listening(Teapot) as port:
            assert "REDIS_HOST" in self.opened(redis_host="127.0.0.1", redis_port=port)


KEYS_OF_0_1_0 = [
    "products", "{product-names}", "{product-names}:lap", f"reservations:{{{PK}}}",
    f"update:{{{PK}}}:xY-_1z", "orders", f"orders:{PK}", "orders-placing", "orders-cancelling",
    "orders-shipping", "email:anna@example.com",
]  # fmt: skip
"""Those that there are no more: whatever 0.1.0 kept, some of these were there as well."""


class TestFormat:
    """Data of another version is not touched."""

    @pytest.fixture(autouse=True)
    def _empty(self, redis_server: RedisServer) -> None:
        redis_server.client.flushall()

    def refusal(self, server: RedisServer, prefix: str = "shopsphere") -> str:
        """Open a storage that must not open and leaves all as it is; return why not."""
        before = server.client.keys()
        with pytest.raises(CannotStart) as refusal:
            asyncio.run(opened_storage(Settings(redis_port=server.port, redis_prefix=prefix)))
        assert set(server.client.keys()) - {f"{prefix}:probe"} == set(before)
        return str(refusal.value)

    @pytest.mark.parametrize("prefix", ["shopsphere", "my:shop"])
    @pytest.mark.parametrize("key", KEYS_OF_0_1_0)
    def test_each_kind_of_key_of_0_1_0_refuses_the_start(
        self, redis_server: RedisServer, key: str, prefix: str
    ) -> None:
        redis_server.client.set(f"{prefix}:{key}", "whatever it is")

        line = self.refusal(redis_server, prefix)

        assert f"REDIS_PREFIX={prefix}" in line
        assert "\n" not in line
        assert redis_server.client.get(f"{prefix}:format") is None

    @pytest.mark.parametrize("number", ["1", "3", "", "2.0"])
    def test_another_format_refuses_the_start(self, redis_server: RedisServer, number: str) -> None:
        redis_server.client.set("shopsphere:format", number)

        assert "REDIS_PREFIX" in self.refusal(redis_server)
        assert redis_server.client.get("shopsphere:format") == number

    def test_keys_of_other_programs_and_prefixes_that_begin_alike_do_not(
        self, redis_server: RedisServer
    ) -> None:
        for key in KEYS_OF_0_1_0:
            for prefix in ("shopsphere2", "shop", "SHOPSPHERE", "a:shopsphere"):
                redis_server.client.set(f"{prefix}:{key}", "theirs")
        for key in ("products", "shopsphere", "shopsphere:", "shopsphere:productions:1"):
            redis_server.client.set(key, "theirs")

        settings = Settings(redis_port=redis_server.port)
        assert asyncio.run(opened_storage(settings)) == ("redis", False)
        assert redis_server.client.get("shopsphere:format")

    def test_what_this_version_kept_is_opened_again(self, redis_server: RedisServer) -> None:
        async def scenario() -> list[str]:
            for name in ("first", "second"):
                opened = await open_storage(Settings(redis_port=redis_server.port))
                await Products(opened.records).create(name, 1, 1)
                await Users(opened.records).register(f"{name}@example.com", "hash")
                listed = await Products(opened.records).page(None, 10)
                await opened.records.close()
            return [product.name for product in listed.items]

        assert asyncio.run(scenario()) == ["first", "second"]

    def test_two_services_that_start_at_once_on_an_empty_redis_both_start(
        self, redis_server: RedisServer
    ) -> None:
        async def start() -> None:
            opened = await open_storage(Settings(redis_port=redis_server.port))
            await Products(opened.records).create("Laptop", 1, 1)
            await opened.records.close()

        async def scenario() -> None:
            for _ in range(20):
                redis_server.client.flushall()
                await asyncio.gather(start(), start(), start())

        asyncio.run(scenario())

    def test_a_service_that_looks_while_another_starts_and_writes_starts_too(
        self, redis_server: RedisServer
    ) -> None:
        async def scenario() -> list[str]:
            async with wired(redis_server) as (slow, wire), connected(redis_server) as fast:
                wire.hold(b"SCAN")
                opening = asyncio.create_task(open_records(slow, "shopsphere"))
                await wire.holds_a_request()
                await Products(await open_records(fast, "shopsphere")).create("Laptop", 1, 1)
                wire.let_through()
                page = await Products(await opening).page(None, 10)
            return [product.name for product in page.items]

        assert asyncio.run(scenario()) == ["Laptop"]

    def test_a_service_says_so_in_one_line(self, log: Path, redis_server: RedisServer) -> None:
        redis_server.client.set("shopsphere:email:anna@example.com", PK)
        service = Service("user", log, USE_REDIS="true", REDIS_PORT=str(redis_server.port))

        assert "REDIS_PREFIX=shopsphere" in refused_start(service)


@pytest.fixture
def pair(tmp_path: Path, own_redis: RedisServer) -> Iterator[list[Service]]:
    """The product service and the user service on a Redis of their own, soon out of patience."""
    url = f"redis://127.0.0.1:{own_redis.port}?socket_timeout=0.3"
    services = [
        Service(name, tmp_path / name, USE_REDIS="required", REDIS_URL=url)
        for name in ("product", "user")
    ]
    for service in services:
        service.start(wait=False)
    for service in services:
        wait_until(service.answers)
    yield services
    for service in services:
        service.stop()


class Requests:
    """Every kind of request that needs the storage, by whether it changes something."""

    def __init__(self, product_service: Service, user_service: Service) -> None:
        product = product_service.post("/products", LAPTOP).headers["Location"]
        stock, wanted = f"{product}/stock", f"{product}/reservations/{new_pk()}"
        held = f"{product}/reservations/{new_pk()}"
        product_service.request("PUT", held, json={"quantity": 1}).raise_for_status()
        anna = {"email": "anna@example.com", "password": "securepass123"}
        user_service.post("/register", anna).raise_for_status()
        token = user_service.post("/login", anna).json()["access_token"]
        bearer = {"Authorization": f"Bearer {token}"}
        ask, other = product_service.request, user_service.request
        self.reads: list[Callable[[], requests.Response]] = [
            lambda: ask("GET", product),
            lambda: ask("GET", "/products"),
            lambda: ask("GET", "/products?limit=1"),
            lambda: ask("GET", "/products/search?name=lap"),
            lambda: ask("GET", stock),
            lambda: ask("GET", f"{product}/reservations"),
            lambda: other("GET", "/me", headers=bearer),
        ]
        self.writes: list[Callable[[], requests.Response]] = [
            lambda: ask("POST", "/products", json=LAPTOP),
            lambda: ask("PATCH", product, json={"name": "Laptop 2"}),
            lambda: ask("PATCH", product, json={"price": 5}),
            lambda: ask("POST", stock, json={"change": 1}),
            lambda: ask("PUT", wanted, json={"quantity": 1}),
            lambda: ask("POST", f"{held}/ship"),
            lambda: ask("DELETE", f"{product}/reservations/{new_pk()}"),
            lambda: ask("DELETE", product),
            lambda: other("POST", "/register", json={**anna, "email": f"{new_pk()}@example.com"}),
            lambda: ask("GET", "/ready"),
            lambda: other("GET", "/ready"),
        ]


def assert_unavailable(*calls: Callable[[], requests.Response]) -> None:
    """Each of these gets the 503 of a storage that is away, and says nothing about why."""
    with ThreadPoolExecutor(len(calls)) as pool:
        answers = list(pool.map(lambda call: call(), calls))
    for answer in answers:
        told = (answer.request.method, answer.request.path_url, answer.status_code, answer.text)
        assert answer.status_code == 503, told
        assert answer.json() == {
            "detail": "The storage does not answer now. Try again in a moment.",
            "code": "storage_unavailable",
        }, told
        assert int(answer.headers["Retry-After"]) >= 1


def assert_serves(*calls: Callable[[], requests.Response]) -> None:
    for call in calls:
        answer = call()
        told = (answer.request.method, answer.request.path_url, answer.status_code, answer.text)
        assert answer.ok, told


def test_while_redis_cannot_serve_it_is_503_and_then_all_works_again_by_itself(
    pair: list[Service], own_redis: RedisServer
) -> None:
    """Every way in turn, as starting services anew for each would take long."""
    asked = Requests(*pair)
    reads, writes, config = asked.reads, asked.writes, own_redis.client.config_set
    assert_serves(*reads)

    own_redis.client.execute_command("REPLICAOF", "127.0.0.1", str(free_port()))
    assert_serves(*reads)
    assert_unavailable(*writes)
    config("replica-serve-stale-data", "no")
    assert_unavailable(*reads, *writes)
    config("replica-serve-stale-data", "yes")
    own_redis.client.execute_command("REPLICAOF", "NO", "ONE")
    assert_serves(*reads)

    config("maxmemory-policy", "noeviction")
    config("maxmemory", "1")
    assert_serves(*reads)
    assert_unavailable(*writes)
    config("maxmemory", "0")

    config("min-replicas-to-write", "1")
    assert_unavailable(*writes)
    config("min-replicas-to-write", "0")

    own_redis.client.execute_command("CLIENT", "PAUSE", "60000")
    assert_unavailable(*reads, *writes)
    own_redis.stop(signal.SIGKILL)
    assert_unavailable(*reads, *writes)
    for service in pair:
        assert storage_of(service) == ("redis", False), "alive, and on what it started with"
    own_redis.start()
    assert_serves(*reads, *writes)
    for service in pair:
        assert "Traceback" not in service.log.read_text()
