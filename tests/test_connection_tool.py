"""`python test_connection.py`: what its table says, and how it ends."""

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import test_connection
from shopsphere.security_hints import others_reach, security_hints
from shopsphere.settings import Settings
from tests.launching import BARE_PYTHON, copy_of_the_product, ready_copy
from tests.servers import ROOT, RedisServer, Service, Trio, answering, free_port, wait_until

Result = subprocess.CompletedProcess[str]
Table = dict[str, tuple[str, str]]
SECRET = "x" * 32
NOWHERE = "http://127.0.0.1:1"


@pytest.fixture(scope="module")
def redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    """A Redis of our own, to set as we like."""
    server = RedisServer(tmp_path_factory.mktemp("redis"), "--appendonly", "yes")
    yield server
    server.client.close()
    server.stop()


@pytest.fixture(scope="module")
def shop(redis: RedisServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Trio]:
    """The three services on that Redis."""
    settings = {"USE_REDIS": "required", "ORDER_TIMEOUT": "2", "JWT_SECRET": SECRET}
    trio = Trio(tmp_path_factory.mktemp("shop"), REDIS_PORT=str(redis.port), **settings)
    try:
        yield trio.start()
    finally:
        trio.stop()


@pytest.fixture(scope="module")
def product_in_memory(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """One more product service, which keeps its products elsewhere than the shop."""
    log = tmp_path_factory.mktemp("memory") / "product.log"
    service = Service(
        "product", log, USE_REDIS="true", REDIS_PORT=str(free_port()), JWT_SECRET=SECRET
    )
    try:
        yield service.start()
    finally:
        service.stop()


def settings_of(**given: str) -> Settings:
    return Settings.model_validate({"jwt_secret": SECRET, **given})


def look(shop: Trio, **changes: str) -> Table:
    """Return the state and the text of each line, with the settings of this shop but these."""
    given = {name.lower(): value for name, value in {**shop.user.environment, **changes}.items()}
    known = {name: value for name, value in given.items() if name in Settings.model_fields}
    lines = test_connection.check(Settings.model_validate(known))
    return {line.name.strip(): (line.state, line.text) for line in lines}


def run(shop: Trio, *options: str, python: str = sys.executable, folder: Path = ROOT) -> Result:
    return subprocess.run(
        [python, str(folder / "test_connection.py"), *options],
        env=shop.user.environment,
        capture_output=True,
        text=True,
        timeout=60,
    )


def test_all_is_well_and_json_says_the_same(
    shop: Trio, redis: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("http_proxy", NOWHERE)  # which does not come between
    table = look(shop)
    version = redis.client.info()["redis_version"]
    state, text = table.pop("Redis")
    assert state == "ok"
    assert text.startswith(f"localhost:{redis.port}, version {version}, round trip 0.")
    assert table == {
        "persistence": ("ok", "appendonly is on"),
        "eviction": ("ok", "noeviction: nothing is thrown away"),
        **{f"{each.name} service": ("ok", f"{each.url} on redis") for each in shop.services},
    }

    printed, told = run(shop), json.loads(run(shop, "--json", "--audit").stdout)
    assert (printed.returncode, printed.stderr) == (0, "")
    assert [line.split()[0] for line in printed.stdout.splitlines()] == [
        line["name"].split()[0] for line in told["lines"]
    ]
    assert told["ok"] is True
    assert {line["name"]: (line["state"], line["text"]) for line in told["lines"]}.keys() > {
        *table
    } - {"persistence", "eviction"}
    assert [(line["name"], line["state"]) for line in told["audit"]] == [("audit", "ok")]


def test_what_it_cannot_do_is_said_in_a_line(shop: Trio, tmp_path: Path) -> None:
    asked = run(shop, "--json", "--repair")
    assert (asked.returncode, asked.stdout) == (2, "")
    assert "add --yes" in asked.stderr

    reading, writing = os.pipe()
    os.close(reading)
    command, environment = [sys.executable, "test_connection.py"], shop.user.environment
    with open(writing, "wb") as nobody:
        ended = subprocess.run(
            command, cwd=ROOT, env=environment, stdout=nobody, stderr=subprocess.PIPE, timeout=60
        )
    assert (ended.returncode, ended.stderr) == (1, b"")

    wrong = subprocess.run(
        command, cwd=ROOT, env={**environment, "REDIS_PORT": "six"}, capture_output=True, text=True
    )
    assert (wrong.returncode, wrong.stdout, wrong.stderr.count("\n")) == (2, "", 1)
    assert wrong.stderr.startswith("REDIS_PORT ")

    assert run(shop, python=BARE_PYTHON, folder=ready_copy(tmp_path / "a shop")).returncode == 0
    copy = copy_of_the_product(tmp_path / "shop")
    bare = subprocess.run(
        [BARE_PYTHON, "-S", copy / "test_connection.py"], capture_output=True, text=True
    )
    assert (bare.returncode, bare.stderr.count("\n")) == (1, 1)
    assert "python start_all_services.py" in bare.stderr


# The services


def test_a_service_that_does_not_serve_as_it_should_is_named(
    shop: Trio, product_in_memory: Service, redis: RedisServer, tmp_path: Path
) -> None:
    for changes, name, state, text in (
        ({"USER_SERVICE_URL": NOWHERE}, "user service", "not running", f"not running at {NOWHERE}"),
        (
            {"PRODUCT_SERVICE_URL": shop.user.url},
            "product service",
            "failed",
            f"what answers at {shop.user.url} is not the product service",
        ),
        (
            {"PRODUCT_SERVICE_URL": product_in_memory.url},
            "product service",
            "other storage",
            f"{product_in_memory.url} on memory (no Redis was there when it started): another "
            "storage than redis. Restart it, with the USE_REDIS and",
        ),
        (
            {"PRODUCT_SERVICE_URL": product_in_memory.url},
            "storage",
            "failed",
            "the services are on different storages: orders will be refused",
        ),
    ):
        table = look(shop, **changes)
        assert table[name][0] == state
        assert table[name][1].startswith(text)
        assert table["order service"][0] == "ok"

    users = Service("user", tmp_path / "log", USE_REDIS="false", JWT_SECRET=SECRET)
    order = Service("order", tmp_path / "log2", 0, REDIS_PORT=str(redis.port), JWT_SECRET="y" * 32)
    try:
        table = look(shop, USER_SERVICE_URL=users.start().url, ORDER_SERVICE_URL=order.start().url)
    finally:
        users.stop()
        order.stop()
    assert table["storage"] == ("failed", "the services are on different storages")
    assert table["JWT_SECRET"][0] == "failed"
    assert table["JWT_SECRET"][1].startswith("another at the order service than at the rest:")
    environment = {**shop.user.environment, "ORDER_SERVICE_URL": shop.user.url}
    audited = subprocess.run(
        [sys.executable, "test_connection.py", "--audit"],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert audited.returncode == 1
    assert "audit            FAILED   not done: first mend the service" in audited.stdout


@pytest.mark.parametrize(
    "body", [b"<html>", b"[1]", b"[" * 9999, b'{"service": "order", "storage": {}}']
)
def test_what_answers_nonsense_is_not_taken_for_a_service(body: bytes) -> None:
    with answering(body) as url:
        line = test_connection.look_at("order", settings_of(order_service_url=url)).line
    assert line.text == f"what answers at {url} is not the order service"


def test_what_hangs_is_told_from_what_does_not_run(
    shop: Trio, redis: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    redis.process.send_signal(signal.SIGSTOP)
    try:
        table = look(shop)
    finally:
        redis.process.send_signal(signal.SIGCONT)
    assert "gives no answer: it is frozen, or overloaded" in table["Redis"][1]
    for service in shop.services:
        text = f"{service.url} runs, but is not ready: its storage is away"
        assert table[f"{service.name} service"] == ("not ready", text)

    monkeypatch.setattr(test_connection, "TIMEOUT_SECONDS", 0.2)
    shop.order.process.send_signal(signal.SIGSTOP)
    try:
        settings = settings_of(order_service_url=shop.order.url, order_timeout="0.2")
        line = test_connection.look_at("order", settings).line
    finally:
        shop.order.process.send_signal(signal.SIGCONT)
    assert (line.state, line.text) == (
        "failed",
        f"what listens at {shop.order.url} gives no answer",
    )


# Redis


def test_a_redis_that_cannot_be_used_is_said_without_its_password(
    shop: Trio, redis: RedisServer
) -> None:
    port = str(free_port())
    for changes, state, text in (
        ({"USE_REDIS": "true", "REDIS_PORT": port}, "warning", "nothing answers"),
        ({"USE_REDIS": "required", "REDIS_PORT": port}, "failed", "nothing answers"),
        ({"USE_REDIS": "false"}, "ok", "not used (USE_REDIS=false)"),
        ({"REDIS_URL": "redis://:hush-hush@localhost:port/0"}, "failed", "REDIS_URL"),
    ):
        found = look(shop, **changes)["Redis"]
        assert found[0] == state
        assert text in found[1]
        assert "hush-hush" not in found[1]
    redis.client.config_set("requirepass", "hush-hush")
    try:
        refused = [look(shop, REDIS_PASSWORD=password)["Redis"] for password in ("", "a-guess")]
        right = look(shop, REDIS_PASSWORD="hush-hush")
    finally:
        redis.client.config_set("requirepass", "")
    assert right["Redis"][0] == "ok"
    for state, text in refused:
        assert state == "failed"
        assert "refuses us" in text
        assert "REDIS_PASSWORD" in text
    assert "hush-hush" not in str([right, refused])
    assert "a-guess" not in str(refused)


def test_a_redis_that_can_lose_data_is_a_warning(
    shop: Trio, redis: RedisServer, tmp_path: Path
) -> None:
    replica = RedisServer(tmp_path, "--replicaof", "127.0.0.1", str(redis.port))
    redis.client.config_set("appendonly", "no")
    redis.client.config_set("maxmemory-policy", "allkeys-lru")
    try:
        wait_until(lambda: redis.client.info()["connected_slaves"] == 1)
        without_limit = look(shop)
        redis.client.config_set("maxmemory", "1gb")
        redis.client.config_set("min-replicas-to-write", "1")
        table = look(shop)
    finally:
        redis.client.config_set("appendonly", "yes")
        redis.client.config_set("maxmemory-policy", "noeviction")
        redis.client.config_set("maxmemory", "0")
        redis.client.config_set("min-replicas-to-write", "0")
        replica.stop()
    state, text = without_limit["replication"]
    assert state == "warning"
    assert text.startswith("min-replicas-to-write is 0: a failover can lose acknowledged orders")
    assert table["replication"] == ("ok", "min-replicas-to-write is set")
    assert table["persistence"][0] == "warning"
    assert "appendonly is off" in table["persistence"][1]
    assert without_limit["eviction"][0] == "ok"
    assert "no maxmemory is set" in without_limit["eviction"][1]
    assert table["eviction"][0] == "warning"
    assert table["eviction"][1].startswith("allkeys-lru: a full Redis throws records")


def test_one_part_of_a_cluster_that_would_lose_orders_is_a_warning() -> None:
    unreplicated = {"aof_enabled": 1, "maxmemory": 1, "maxmemory_policy": "noeviction"}
    waited_for = {**unreplicated, "connected_slaves": 1, "min_slaves_good_slaves": 1}
    for weak in (
        {**waited_for, "aof_enabled": 0},
        {**waited_for, "maxmemory_policy": "allkeys-lru"},
        {**unreplicated, "connected_slaves": 1},
    ):
        lines = test_connection._durability_lines([{**waited_for, "maxmemory": 0}, weak])
        assert sorted(line.state for line in lines) == ["ok", "ok", "warning"]


def test_it_speaks_the_protocol_that_redis_knew_before_hello(
    shop: Trio, redis: RedisServer
) -> None:
    redis.client.execute_command("ACL", "SETUSER", "default", "-hello")
    try:
        assert look(shop)["Redis"][0] == "ok"
    finally:
        redis.client.execute_command("ACL", "SETUSER", "default", "+hello")


# What is dangerous about the settings


def hints(**given: str) -> dict[str, str]:
    """Return what is said of these settings, by variable."""
    urls = {f"{service}_service_url": NOWHERE for service in ("product", "user", "order")}
    return dict(security_hints(settings_of(**{"use_redis": "false", **urls, **given})))


@pytest.mark.filterwarnings("ignore::jwt.InsecureKeyLengthWarning")
def test_a_secret_that_can_be_guessed_or_is_not_the_shops_is_a_warning(shop: Trio) -> None:
    assert hints() == {}
    for secret in ("supersecret", "short enough to guess", "x" * 31):
        assert "make any token" in hints(jwt_secret=secret)["JWT_SECRET"]
    table = look(shop, JWT_SECRET="short enough to guess")
    assert table["JWT_SECRET"] == (
        "warning",
        "the services have another than is set here, so theirs is not looked at",
    )
    assert "short enough" not in str(table)


@pytest.mark.parametrize("service", ["product", "user", "order"])
def test_an_open_shop_that_others_can_reach_is_a_warning(service: str) -> None:
    given = {f"{service}_service_url": "http://198.51.100.1"}
    assert "others can reach http://198.51.100.1" in hints(**given)["AUTH_REQUIRED"]
    assert hints(**given, auth_required="true") == {}


@pytest.mark.parametrize(
    ("url", "is_warned"),
    [
        ("redis://198.51.100.1:6379/0", True),
        ("redis+sentinel://198.51.100.1:26379,198.51.100.2:26379/shop", True),
        ("redis://user:hush-hush@198.51.100.1:6379/0", False),
        ("redis://localhost:1/0", False),
        ("redis://[::1]:1/0", False),
        ("unix:///nowhere/redis.sock", False),
        ("redis://no-such-name.invalid/0", False),
        ("redis://[::1:6379", False),
        ("redis://..ä:6379", False),
    ],
)
def test_a_redis_without_password_that_others_can_reach_is_a_warning(
    url: str, is_warned: bool
) -> None:
    told = hints(use_redis="required", redis_url=url)
    assert set(told) == ({"REDIS_PASSWORD"} if is_warned else set())
    assert "hush-hush" not in str(told)


@pytest.mark.skipif(sys.platform == "darwin", reason="macOS has no 127.0.0.2")
def test_what_does_not_listen_on_127_0_0_1_alone_is_reached_by_others() -> None:
    for host, is_reached in (("127.0.0.1", False), ("127.0.0.2", True)):
        with socket.create_server((host, 0)) as server:
            assert others_reach(f"http://localhost:{server.getsockname()[1]}") is is_reached
