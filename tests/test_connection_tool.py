"""`python test_connection.py`: what its table says, and how it ends."""

import json
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

import test_connection
from shopsphere.domain.pks import new_pk
from shopsphere.tools.audit import Shop
from shopsphere.tools.security_hints import others_reach, security_hints
from tests.apps import settings_of
from tests.launching import BARE_PYTHON, copy_of_the_product, ready_copy, three_services
from tests.people import CLOSED, PEOPLE
from tests.servers import ROOT, RedisServer, Trio, answering, free_port, redis_client

Main = Callable[..., tuple[int, str, str]]
Table = dict[str, tuple[str, str]]
NOWHERE = "http://127.0.0.1:1"
IN_MEMORY = b'{"service": "%s", "storage": "memory", "fallback": true}'
ADMIN = {"ADMIN_EMAIL": "admin@example.com", "ADMIN_PASSWORD": "securepass123"}


@pytest.fixture(scope="module")
def shop(redis_server: RedisServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Trio]:
    """The three services on Redis, which want tokens."""
    redis_server.client.flushall()
    settings = {"USE_REDIS": "required", "REDIS_PORT": str(redis_server.port), "ORDER_TIMEOUT": "2"}
    settings |= {"SETTLE_AFTER": "0.2", "SETTLE_INTERVAL": "0.1", **CLOSED, **ADMIN}
    with three_services(tmp_path_factory.mktemp("shop"), **settings) as shop:
        yield shop


@pytest.fixture
def main(shop: Trio, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Main:
    """Run the tool with the settings of this shop but these; return status, output and errors."""

    def main(*arguments: str, **changes: str) -> tuple[int, str, str]:
        for name, value in {**shop.user.environment, **changes}.items():
            monkeypatch.setenv(name, value)
        status = test_connection.main(arguments)
        return status, *capsys.readouterr()

    return main


def look(shop: Trio, **changes: str) -> Table:
    """Return the state and the text of each line, with the settings of this shop but these."""
    lines = test_connection.check(settings_of({**shop.user.environment, **changes}))
    return {line.name.strip(): (line.state, line.text) for line in lines}


@contextmanager
def frozen(process: "subprocess.Popen[bytes]") -> Iterator[None]:
    process.send_signal(signal.SIGSTOP)
    try:
        yield
    finally:
        process.send_signal(signal.SIGCONT)


# How it is run, and how it ends


def test_all_is_well_and_json_says_so(shop: Trio, redis_server: RedisServer, main: Main) -> None:
    status, printed, _ = main("--json", "--audit", http_proxy=NOWHERE)  # which is not used
    told = json.loads(printed)
    [audit] = told.pop("audit")
    lines = [(line["name"], line["state"], line["text"]) for line in told.pop("lines")]
    version = redis_server.client.info()["redis_version"]
    assert lines[0][2].startswith(f"localhost:{redis_server.port}, version {version}, round trip ")
    assert lines == [
        ("Redis", "ok", lines[0][2]),
        ("persistence", "warning", lines[1][2]),
        ("eviction", "ok", "nothing is thrown away"),
        *((f"{each.name} service", "ok", f"{each.url} on redis") for each in shop.services),
    ]
    assert audit["text"] == "0 products and 0 orders: the stock adds up"
    assert (status, told) == (0, {"ok": True})
    assert set(json.loads(main("--json")[1])) == {"ok", "lines"}


def test_the_exit_status_tells_whether_the_stock_adds_up(shop: Trio, main: Main) -> None:
    lamp = {"name": "Lamp", "price": 5, "quantity": 10}
    product = shop.product.post("/products", lamp, headers=PEOPLE["administrator"]).json()["pk"]
    held = f"/products/{product}/reservations/{new_pk()}"
    order_service = PEOPLE["order service"]
    assert shop.product.request("PUT", held, json={"quantity": 2}, headers=order_service).ok
    assert main()[0] == 0
    assert main("--audit")[0] == 1
    status, printed, told = main("--audit", "--repair", "--yes")
    assert (status, "settled" in printed) == (0, True)
    assert {line.partition(":")[0] for line in told.splitlines()} == {
        "Something is off, or under way"
    }
    status, printed, _ = main("--audit", ADMIN_EMAIL="", ADMIN_PASSWORD="")
    assert status == 1
    assert "Set ADMIN_EMAIL and ADMIN_PASSWORD here" in printed
    status, printed, _ = main("--audit", USER_SERVICE_URL=shop.product.url)
    assert (status, "/login responds with 404" in printed) == (1, True)


def test_audits_displace_no_session_of_the_administrator(shop: Trio) -> None:
    account = {"email": ADMIN["ADMIN_EMAIL"], "password": ADMIN["ADMIN_PASSWORD"]}
    token = {"refresh_token": shop.user.post("/login", account).json()["refresh_token"]}
    for _ in range(51):
        with closing(Shop(settings_of(shop.user.environment))) as audited:
            assert audited.ask("GET", f"{shop.order.url}/orders") == ([], "")
    assert shop.user.post("/refresh", token).status_code == 200


def test_what_it_cannot_do_is_said_in_a_line(shop: Trio, main: Main) -> None:
    with pytest.raises(SystemExit, match="2"):
        main("--json", "--repair")
    with answering(IN_MEMORY % b"order") as elsewhere:
        for url in (shop.user.url, elsewhere):
            status, printed, _ = main("--audit", ORDER_SERVICE_URL=url)
            assert status == 1
            assert printed.endswith("FAILED   not done: first fix what FAILED above\n")
    status, printed, errors = main(REDIS_PORT="six")
    assert (status, printed, errors.count("\n")) == (2, "", 1)
    assert errors.startswith("REDIS_PORT ")


def test_it_ends_quietly_when_nobody_reads_on(shop: Trio) -> None:
    command = f"{sys.executable} test_connection.py | true; exit ${{PIPESTATUS[0]}}"
    result = subprocess.run(
        ["bash", "-c", command], cwd=ROOT, env=shop.user.environment, stderr=subprocess.PIPE
    )
    assert (result.returncode, result.stderr) == (1, b"")


def test_it_finds_the_packages_of_the_launcher_or_says_how(shop: Trio, tmp_path: Path) -> None:
    def run(copy: Path, *options: str) -> "subprocess.CompletedProcess[str]":
        command = [BARE_PYTHON, *options, str(copy / "test_connection.py")]
        environment = shop.user.environment
        return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)

    found = run(ready_copy(tmp_path / "a shop"))
    assert (found.returncode, found.stderr) == (0, "")
    assert f"order service    ok       {shop.order.url} on redis\n" in found.stdout
    missing = run(copy_of_the_product(tmp_path / "bare"), "-S")
    assert (missing.returncode, missing.stderr.count("\n")) == (1, 1)
    assert "python start_all_services.py" in missing.stderr


# The services


def test_a_service_on_another_storage_is_named(shop: Trio) -> None:
    with answering(IN_MEMORY % b"product") as url:
        table = look(shop, PRODUCT_SERVICE_URL=url)
        alone = test_connection.look_at("product", settings_of({"PRODUCT_SERVICE_URL": url})).line
    assert alone.state == "warning"
    assert alone.text == f"{url} on memory (Redis was unreachable when it started)"
    assert table["product service"] == ("warning", alone.text)
    assert table["order service"] == ("ok", f"{shop.order.url} on redis")
    state, text = table["storage"]
    assert state == "failed"
    assert "storages: product on memory, user on redis, order on redis. Restart them" in text


@pytest.mark.filterwarnings("ignore::jwt.InsecureKeyLengthWarning")
def test_services_whose_secrets_differ_fail(shop: Trio) -> None:
    text = "the services use a different one than the one set here, so it was not checked"
    guessable = {"JWT_SECRET": "short enough to guess", "AUTH_REQUIRED": "false"}
    assert look(shop, **guessable)["JWT_SECRET"] == ("warning", text)
    with answering(b'{"service": "order", "storage": "redis"}') as takes_every_token:
        table = look(shop, JWT_SECRET="y" * 32, ORDER_SERVICE_URL=takes_every_token)
    state, text = table["JWT_SECRET"]
    assert state == "failed"
    assert text.startswith("differs between the product and the user service and the rest")


def test_what_answers_as_something_else_is_not_taken_for_a_service() -> None:
    for body in (b"[" * 9999, IN_MEMORY % b"user", b'{"service": "order", "storage": {}}'):
        with answering(body) as url:
            line = test_connection.look_at("order", settings_of({"ORDER_SERVICE_URL": url})).line
        text = f"what listens at {url} does not respond as the order service does"
        assert line == ("order service", "failed", text)


def test_what_hangs_is_told_from_what_does_not_run(
    shop: Trio, redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(test_connection, "TIMEOUT_SECONDS", 0.5)
    with frozen(redis_server.process):
        table = look(shop, USER_SERVICE_URL=NOWHERE)
    assert "does not respond: it is frozen, or overloaded" in table["Redis"][1]
    for service in (shop.product, shop.order):
        text = f"{service.url} is running, but its storage is unreachable"
        assert table[f"{service.name} service"] == ("not ready", text)
    text = f"not running at {NOWHERE}. Start it with: python start_all_services.py"
    assert table["user service"] == ("not running", text)
    with frozen(shop.order.process):
        assert look(shop, ORDER_TIMEOUT="0.2")["order service"][0] == "failed"


# Redis


@pytest.mark.parametrize(
    ("given", "state", "text"),
    [
        ({"USE_REDIS": "true", "REDIS_PORT": "1"}, "warning", "nothing responds at localhost:1."),
        ({"USE_REDIS": "required", "REDIS_PORT": "1"}, "failed", "nothing responds"),
        ({"USE_REDIS": "false"}, "ok", "not used (USE_REDIS=false)"),
        ({"REDIS_URL": "redis://:hush-hush@localhost:port/0"}, "failed", "REDIS_URL"),
    ],
)
def test_no_redis_is_as_bad_as_settings_say(given: dict[str, str], state: str, text: str) -> None:
    [line] = test_connection.redis_lines(settings_of(given))
    assert line.state == state
    assert text in line.text
    assert "hush-hush" not in line.text


def test_a_redis_that_refuses_us_is_said_and_one_without_hello_served(tmp_path: Path) -> None:
    port, without_hello = free_port(), ("--rename-command", "HELLO", "SINCE-6")
    client = redis_client(port, protocol=2)
    settings = settings_of({"REDIS_PORT": str(port), "REDIS_PASSWORD": "a-guess"})
    with RedisServer(tmp_path, *without_hello, port=port, client=client):
        client.config_set("requirepass", "a-word")
        [refused] = test_connection.redis_lines(settings)
        client.config_set("requirepass", "a-guess")
        served, *_ = test_connection.redis_lines(settings)
    assert (refused.state, served.state) == ("failed", "ok")
    assert "refuses us" in refused.text
    assert "REDIS_PASSWORD" in refused.text
    assert "a-guess" not in refused.text


def test_one_part_of_redis_that_can_lose_orders_is_a_warning(own_redis: RedisServer) -> None:
    own_redis.client.config_set("min-replicas-to-write", "1")
    strong = {**own_redis.client.info(), "connected_slaves": 1}
    for count, (setting, value, warning) in enumerate(
        (
            ("maxmemory-policy", "allkeys-lru", ""),
            ("maxmemory", "1gb", "allkeys-lru, noeviction: a full Redis throws records away"),
            ("appendonly", "no", "appendonly is off: what came after the last snapshot is lost"),
            ("min-replicas-to-write", "0", "min-replicas-to-write is 0: a failover can lose"),
        )
    ):
        own_redis.client.config_set(setting, value)
        parts = [strong, {**own_redis.client.info(), "connected_slaves": 1}]
        lines = list(test_connection._durability_lines(parts))
        warnings = [line.text for line in lines if line.state == "warning"]
        assert (len(lines), len(warnings)) == (3, count)
        assert warning in "".join(warnings)


# What is dangerous about the settings


REACHED = "http://198.51.100.1"
ON_REDIS = {"USE_REDIS": "required"}


@pytest.mark.parametrize(
    ("given", "warned"),
    [
        ({"JWT_SECRET": "x" * 32}, set()),
        ({"JWT_SECRET": "x" * 31}, {"JWT_SECRET"}),
        ({"PRODUCT_SERVICE_URL": REACHED}, {"AUTH_REQUIRED"}),
        ({"USER_SERVICE_URL": REACHED}, {"AUTH_REQUIRED"}),
        ({"ORDER_SERVICE_URL": REACHED}, {"AUTH_REQUIRED"}),
        ({"ORDER_SERVICE_URL": REACHED, "AUTH_REQUIRED": "true"}, set()),
        ({**ON_REDIS, "REDIS_URL": "redis://198.51.100.1:6379/0"}, {"REDIS_PASSWORD"}),
        ({**ON_REDIS, "REDIS_URL": "redis+sentinel://198.51.100.1:1,a:2/b"}, {"REDIS_PASSWORD"}),
        ({**ON_REDIS, "REDIS_URL": "redis://me:hush-hush@198.51.100.1:6379/0"}, set()),
        ({**ON_REDIS, "REDIS_URL": "redis://[::1]:1/0"}, set()),
        ({**ON_REDIS, "REDIS_URL": "unix:///nowhere/redis.sock"}, set()),
        ({**ON_REDIS, "REDIS_URL": "redis://no-such-name.invalid/0"}, set()),
        ({**ON_REDIS, "REDIS_URL": "redis://[::1:6379"}, set()),
    ],
)
def test_what_others_reach_or_guess_is_a_warning(given: dict[str, str], warned: set[str]) -> None:
    urls = {f"{service}_SERVICE_URL": NOWHERE for service in ("PRODUCT", "USER", "ORDER")}
    hints = dict(security_hints(settings_of({"USE_REDIS": "false", **urls, **given})))
    assert set(hints) == warned
    assert REACHED in hints.get("AUTH_REQUIRED", REACHED)


@pytest.mark.skipif(sys.platform == "darwin", reason="macOS has no 127.0.0.2")
def test_what_does_not_listen_on_127_0_0_1_alone_is_reached_by_others() -> None:
    for host, is_reached in (("127.0.0.1", False), ("127.0.0.2", True)):
        with socket.create_server((host, 0)) as server:
            assert others_reach(f"http://localhost:{server.getsockname()[1]}") is is_reached
