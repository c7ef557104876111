"""`python test_connection.py`: what its table says, and how it ends."""

import json
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

import test_connection
from shopsphere.domain.pks import new_pk
from tests.apps import settings_of
from tests.launching import BARE_PYTHON, copy_of_the_product, three_services, with_packages
from tests.people import CLOSED, PEOPLE
from tests.servers import ROOT, RedisServer, Trio, answering, free_port, redis_client

Main = Callable[..., tuple[int, str, str]]
Table = dict[str, tuple[str, str]]
pytestmark = pytest.mark.filterwarnings("ignore::jwt.InsecureKeyLengthWarning")
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
        ("eviction", "ok", "nothing is discarded"),
        *((f"{each.name} service", "ok", f"{each.url}, storage: redis") for each in shop.services),
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
    assert (status, printed.splitlines()[-1][:25]) == (0, "audit            ok      ")
    assert told == "Found differences. Checking again in 0.4 s.\n"
    for wrong in ({"AUTH_REQUIRED": "false"}, {"JWT_SECRET": "another secret of 32 bytes or more"}):
        status, printed, _ = main("--audit", **wrong)
        assert (status, "services' AUTH_REQUIRED and JWT_SECRET" in printed) == (1, True)


def test_what_it_cannot_do_is_said_in_a_line(shop: Trio, main: Main) -> None:
    with pytest.raises(SystemExit, match="2"):
        main("--json", "--repair")
    with answering(IN_MEMORY % b"order") as elsewhere:
        for url in (shop.user.url, elsewhere):
            status, printed, _ = main("--audit", ORDER_SERVICE_URL=url)
            assert status == 1
            assert printed.endswith("FAILED   not done: first fix each line that FAILED\n")
    status, printed, errors = main(REDIS_PORT="six")
    assert (status, printed, errors.count("\n")) == (2, "", 1)
    assert errors.startswith("REDIS_PORT ")
    for url in ("redis://127.0.0.1:1", "http://127.0.0.1"):  # an audit asks no Redis
        status, printed, _ = main("--audit", REDIS_URL=url, ORDER_SERVICE_URL=shop.order.url)
        assert (status, printed.splitlines()[-1][:25]) == (1, "audit            ok      ")


def test_it_ends_quietly_when_nobody_reads_on(shop: Trio) -> None:
    command = f"{sys.executable} test_connection.py | true; exit ${{PIPESTATUS[0]}}"
    result = subprocess.run(
        ["bash", "-c", command], cwd=ROOT, env=shop.user.environment, stderr=subprocess.PIPE
    )
    assert (result.returncode, result.stderr) == (1, b"")


@pytest.mark.parametrize(
    ("command", "how"),
    [
        ("test_connection.py", "start_all_services.py"),
        ("product_service.py", "start_all_services.py"),
        ("-m benchmarks", "run_tests.py"),
        ("-m tests.soak", "run_tests.py"),
    ],
)
def test_a_command_finds_the_packages_or_says_how(tmp_path: Path, command: str, how: str) -> None:
    def run(*options: str) -> "subprocess.CompletedProcess[str]":
        everything = [BARE_PYTHON, *options, *command.split(), "--help"]
        return subprocess.run(everything, cwd=copy, capture_output=True, text=True, timeout=60)

    copy = copy_of_the_product(tmp_path / "a shop")
    for package in ("tests", "benchmarks"):
        shutil.copytree(ROOT / package, copy / package)
    missing = run("-S")
    text = f"The packages of ShopSphere are not installed. To install them, run: python {how}\n"
    assert (missing.returncode, missing.stderr) == (1, text)
    with_packages(copy)
    if not command.endswith("_service.py"):  # which has no --help
        assert run().stdout.startswith("usage: ")


# The services


def test_a_service_on_another_storage_is_named(shop: Trio) -> None:
    with answering(IN_MEMORY % b"product") as url:
        table = look(shop, PRODUCT_SERVICE_URL=url)
        alone = test_connection.look_at("product", settings_of({"PRODUCT_SERVICE_URL": url})).line
    assert alone.state == "warning"
    assert alone.text == f"{url}, storage: memory (Redis was unreachable when it started)"
    assert table["product service"] == ("warning", alone.text)
    assert table["order service"] == ("ok", f"{shop.order.url}, storage: redis")
    text = "some services use Redis and others memory: restart them with the same settings"
    assert table["storage"] == ("failed", text)


def test_services_whose_secrets_differ_fail(shop: Trio) -> None:
    text = "differs from the one that the services use"
    assert look(shop, JWT_SECRET="x" * 32)["JWT_SECRET"] == ("warning", text)
    with answering(b'{"service": "order", "storage": "redis"}') as takes_every_token:
        table = look(shop, JWT_SECRET="y" * 32, ORDER_SERVICE_URL=takes_every_token)
    state, text = table["JWT_SECRET"]
    assert state == "failed"
    assert text.startswith("differs between the product and user service and the others")


def test_what_answers_as_something_else_is_not_taken_for_a_service() -> None:
    for body in (b"[" * 9999, IN_MEMORY % b"user", b'{"service": "order", "storage": {}}'):
        with answering(body) as url:
            line = test_connection.look_at("order", settings_of({"ORDER_SERVICE_URL": url})).line
        text = f"no valid response from the order service at {url}"
        assert line == ("order service", "failed", text)


def test_what_hangs_is_told_from_what_does_not_run(
    shop: Trio, redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(test_connection, "TIMEOUT_SECONDS", 0.5)
    with frozen(redis_server.process):
        table = look(shop, USER_SERVICE_URL=NOWHERE)
    assert table["Redis"][0] == "failed"  # under services that need it
    assert table["Redis"][1].startswith("nothing responds at localhost:")
    for service in (shop.product, shop.order):
        text = f"{service.url} is running, but its storage is unreachable"
        assert table[f"{service.name} service"] == ("not ready", text)
    how = "python start_all_services.py, or correct USER_SERVICE_URL"
    text = f"not running at {NOWHERE}. Start it with: {how}"
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
    assert "refuses the connection" in refused.text
    assert "REDIS_PASSWORD" in refused.text
    assert "a-guess" not in refused.text


def test_one_part_of_redis_that_can_lose_orders_is_a_warning(own_redis: RedisServer) -> None:
    own_redis.client.config_set("min-replicas-to-write", "1")
    strong = {**own_redis.client.info(), "connected_slaves": 1}
    for count, (setting, value, warning) in enumerate(
        (
            ("maxmemory-policy", "allkeys-lru", ""),
            ("maxmemory", "1gb", "a full Redis discards data: set maxmemory-policy noeviction"),
            ("appendonly", "no", "appendonly is off: changes not yet in a snapshot are lost if"),
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


REACHED = "redis://198.51.100.1:6379/0"


@pytest.mark.parametrize(
    ("given", "warned"),
    [
        ({"USE_REDIS": "false", "REDIS_URL": REACHED}, {"AUTH_REQUIRED"}),
        ({"USE_REDIS": "false", "AUTH_REQUIRED": "true"}, set()),
        ({"JWT_SECRET": "x" * 31}, {"AUTH_REQUIRED", "JWT_SECRET"}),
        ({"REDIS_URL": REACHED}, {"AUTH_REQUIRED", "REDIS_PASSWORD"}),
        ({"REDIS_HOST": "redis", "AUTH_REQUIRED": "true"}, {"REDIS_PASSWORD"}),
        ({"REDIS_HOST": "redis", "REDIS_PASSWORD": "hush", "AUTH_REQUIRED": "true"}, set()),
        (
            {"REDIS_URL": "redis+sentinel://198.51.100.1:1,a:2/b"},
            {"AUTH_REQUIRED", "REDIS_PASSWORD"},
        ),
        ({"REDIS_URL": "redis://me:hush-hush@198.51.100.1:6379/0"}, {"AUTH_REQUIRED"}),
        ({"REDIS_URL": "redis://[::1]:1/0"}, {"AUTH_REQUIRED"}),
        ({"REDIS_URL": "unix:///nowhere/redis.sock"}, {"AUTH_REQUIRED"}),
    ],
)
def test_what_is_dangerous_is_a_warning(
    given: dict[str, str], warned: set[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(test_connection, "redis_lines", lambda *_: ())
    urls = {f"{service}_SERVICE_URL": NOWHERE for service in ("PRODUCT", "USER", "ORDER")}
    settings = settings_of({"JWT_SECRET": "x" * 32, **urls, **given})
    assert {line.name for line in test_connection.check(settings) if line.is_good} == warned
