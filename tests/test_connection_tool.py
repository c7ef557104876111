"""`python test_connection.py`, run as a person runs it."""

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

import test_connection
from shopsphere.exposure import exposures, others_reach
from shopsphere.settings import Settings
from tests.launching import BARE_PYTHON, copy_of_the_product, ready_copy
from tests.servers import ROOT, RedisServer, Service, Trio, answering, free_port, wait_until

Result = subprocess.CompletedProcess[str]


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
    folder = tmp_path_factory.mktemp("shop")
    settings = {"USE_REDIS": "required", "ORDER_TIMEOUT": "2"}
    trio = Trio(folder, REDIS_PORT=str(redis.port), **settings)
    try:
        yield trio.start()
    finally:
        trio.stop()


@pytest.fixture(scope="module")
def product_in_memory(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """One more product service, which keeps its products elsewhere than the shop."""
    log = tmp_path_factory.mktemp("memory") / "product.log"
    service = Service("product", log, USE_REDIS="true", REDIS_PORT=str(free_port()))
    try:
        yield service.start()
    finally:
        service.stop()


def check(shop: Trio, **environment: str) -> Result:
    """Run the check with the settings of this shop, or others."""
    return run_check(sys.executable, ROOT, **(shop.user.environment | environment))


def run_check(python: str, folder: Path, *options: str, **environment: str) -> Result:
    return subprocess.run(
        [python, str(folder / "test_connection.py"), *options],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=60,
    )


def state_of(name: str, result: Result) -> tuple[str, str]:
    """Return the state and the text that the table has for this name."""
    (line,) = (ln for ln in result.stdout.splitlines() if ln.strip().startswith(f"{name} "))
    state, _, text = line.strip().removeprefix(name).strip().partition(" ")
    return state, text.strip()


def test_all_is_well(shop: Trio, redis: RedisServer) -> None:
    result = check(shop)
    assert result.returncode == 0, result.stdout
    assert result.stderr == ""
    state, text = state_of("Redis", result)
    assert state == "ok"
    version = redis.client.info()["redis_version"]
    assert text.startswith(f"localhost:{redis.port}, version {version}, round trip 0.")
    assert state_of("persistence", result) == ("ok", "appendonly is on")
    assert state_of("eviction", result) == ("ok", "noeviction: nothing is thrown away")
    for service in shop.services:
        name = f"{service.name} service"
        assert state_of(name, result) == ("ok", f"{service.url} on redis")


def test_a_secret_that_is_short_or_the_default_is_a_warning(shop: Trio) -> None:
    for secret in ("", "supersecret"):
        result = check(shop, JWT_SECRET=secret)
        assert result.returncode == 0
        state, text = state_of("JWT_SECRET", result)
        assert state == "warning"
        assert "make any token" in text
    for secret in ("short enough to guess", "x" * 31):
        assert "make any token" in exposed(jwt_secret=secret)["JWT_SECRET"]
    assert exposed(jwt_secret="x" * 32) == {}


def test_a_secret_that_is_not_the_shops_says_nothing_of_the_shops(shop: Trio) -> None:
    result = check(shop, JWT_SECRET="short enough to guess")
    assert result.returncode == 0
    assert state_of("JWT_SECRET", result) == (
        "warning",
        "the services have another than is set here, so theirs is not looked at",
    )
    assert result.stdout.count("JWT_SECRET") == 1
    assert "short enough" not in result.stdout


def test_a_service_with_another_secret_than_the_rest_fails(
    shop: Trio, redis: RedisServer, tmp_path: Path
) -> None:
    environment = {"REDIS_PORT": str(redis.port), "JWT_SECRET": "another " * 4}
    other = Service("order", tmp_path / "log", 0, **environment)
    try:
        other.start()
        result = check(shop, ORDER_SERVICE_URL=other.url)
        assert result.returncode == 1
        state, text = state_of("JWT_SECRET", result)
        assert state == "FAILED"
        assert text.startswith("another at the order service than at the rest:")
        assert "another " * 2 not in result.stdout
    finally:
        other.stop()


def test_it_ends_quietly_when_nobody_reads_on(shop: Trio) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    with open(writing, "wb") as nobody:
        result = subprocess.run(
            [sys.executable, str(ROOT / "test_connection.py")],
            env=shop.user.environment,
            stdout=nobody,
            stderr=subprocess.PIPE,
            timeout=60,
        )
    assert (result.returncode, result.stderr) == (1, b"")


def test_a_redis_that_hangs_is_told_from_services_that_hang(shop: Trio, redis: RedisServer) -> None:
    redis.process.send_signal(signal.SIGSTOP)
    try:
        result = check(shop, ORDER_TIMEOUT="2")
    finally:
        redis.process.send_signal(signal.SIGCONT)
    assert result.returncode == 1
    assert "gives no answer: it is frozen, or overloaded" in state_of("Redis", result)[1]
    for service in shop.services:
        text = state_of(f"{service.name} service", result)[1]
        assert text == f"{service.url} runs, but is not ready: its storage is away"


def test_a_shop_on_this_machine_alone_may_be_open(shop: Trio) -> None:
    result = check(shop)
    assert "AUTH_REQUIRED" not in result.stdout
    assert "REDIS_PASSWORD" not in result.stdout


def exposed(**given: str) -> dict[str, str]:
    """Return what the checklist says of these settings, by variable."""
    nobody = "http://127.0.0.1:1"  # where no test of the quick start's ports starts anything
    urls = {f"{service}_service_url": nobody for service in ("product", "user", "order")}
    values = {"use_redis": "false", "jwt_secret": "x" * 32, **urls, **given}
    return dict(exposures(Settings.model_validate(values)))


@pytest.mark.parametrize("service", ["product", "user", "order"])
def test_an_open_shop_that_others_can_reach_is_a_warning(service: str) -> None:
    given = {f"{service}_service_url": "http://198.51.100.1"}
    assert "others can reach http://198.51.100.1" in exposed(**given)["AUTH_REQUIRED"]
    assert exposed(**given, auth_required="true") == {}


@pytest.mark.parametrize(
    ("url", "state"),
    [
        ("redis://198.51.100.1:6379/0", "warning"),
        ("redis+sentinel://198.51.100.1:26379,198.51.100.2:26379/shop", "warning"),
        ("redis://user:hush-hush@198.51.100.1:6379/0", ""),
        ("redis://localhost:1/0", ""),
        ("redis://[::1]:1/0", ""),
        ("unix:///nowhere/redis.sock", ""),
        ("redis://no-such-name.invalid/0", ""),
        ("redis://[::1:6379", ""),
        ("redis://..ä:6379", ""),
    ],
)
def test_a_redis_without_password_that_others_can_reach_is_a_warning(url: str, state: str) -> None:
    told = exposed(use_redis="required", redis_url=url)
    assert set(told) == ({"REDIS_PASSWORD"} if state else set())
    assert "hush-hush" not in str(told)


@pytest.mark.skipif(sys.platform == "darwin", reason="macOS has no 127.0.0.2")
def test_what_does_not_listen_on_127_0_0_1_alone_is_reached_by_others() -> None:
    for host, is_reached in (("127.0.0.1", False), ("127.0.0.2", True)):
        with socket.create_server((host, 0)) as server:
            assert others_reach(f"http://localhost:{server.getsockname()[1]}") is is_reached


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


def test_a_service_that_is_down_is_not_running(shop: Trio) -> None:
    nowhere = f"http://127.0.0.1:{free_port()}"
    result = check(shop, USER_SERVICE_URL=nowhere)
    assert result.returncode == 1
    state, text = state_of("user service", result)
    assert state == "FAILED"
    assert text.startswith(f"not running at {nowhere}")
    assert state_of("order service", result)[0] == "ok"


def test_a_service_that_is_frozen_is_not_called_one_that_does_not_run(
    shop: Trio, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(test_connection, "TIMEOUT_SECONDS", 0.2)
    secret = SecretStr("x" * 32)
    settings = Settings(order_service_url=shop.order.url, order_timeout=0.2, jwt_secret=secret)
    shop.order.process.send_signal(signal.SIGSTOP)
    try:
        line = test_connection.look_at("order", settings).line
    finally:
        shop.order.process.send_signal(signal.SIGCONT)
    assert line.text == f"what listens at {shop.order.url} gives no answer"
    assert line.state == "failed"


def test_a_service_that_found_no_redis_at_its_start_is_a_warning(
    product_in_memory: Service,
) -> None:
    url = product_in_memory.url
    settings = Settings(product_service_url=url, jwt_secret=SecretStr("x" * 32))
    line = test_connection.look_at("product", settings).line
    assert line.state == "warning"
    assert line.text == f"{url} on memory (no Redis was there when it started)"


@pytest.mark.parametrize(
    "body", [b"<html>", b"[1]", b"[" * 9999, b'{"service": "order", "storage": {}}']
)
def test_what_answers_nonsense_is_not_taken_for_a_service(body: bytes) -> None:
    with answering(body) as url:
        settings = Settings(order_service_url=url, jwt_secret=SecretStr("x" * 32))
        line = test_connection.look_at("order", settings).line
    assert line.text == f"what answers at {url} is not the order service"


def test_another_service_at_the_address_is_not_taken_for_the_right_one(shop: Trio) -> None:
    result = check(shop, PRODUCT_SERVICE_URL=shop.user.url)
    assert result.returncode == 1
    state, text = state_of("product service", result)
    assert state == "FAILED"
    assert "is not the product service" in text


def test_no_audit_waits_for_a_service_that_does_not_answer_as_it_should(shop: Trio) -> None:
    environment = {**shop.user.environment, "ORDER_SERVICE_URL": shop.user.url}
    result = run_check(sys.executable, ROOT, "--audit", **environment)
    assert result.returncode == 1
    assert state_of("audit", result) == ("FAILED", "not done: first mend the service that FAILED")


def test_services_on_different_storages_fail(shop: Trio, product_in_memory: Service) -> None:
    result = check(shop, PRODUCT_SERVICE_URL=product_in_memory.url)
    assert result.returncode == 1
    state, text = state_of("product service", result)
    assert state == "FAILED"
    assert text == (
        f"{product_in_memory.url} on memory (no Redis was there when it started): another storage "
        "than redis. Restart it, with the USE_REDIS and the address of Redis that the others have."
    )
    assert state_of("user service", result)[0] == state_of("order service", result)[0] == "ok"
    assert state_of("storage", result) == (
        "FAILED", "the services are on different storages: orders will be refused"
    )  # fmt: skip


def test_users_on_another_storage_fail_but_hinder_no_order(shop: Trio, tmp_path: Path) -> None:
    users = Service("user", tmp_path / "log", USE_REDIS="false")
    try:
        result = check(shop, USER_SERVICE_URL=users.start().url)
    finally:
        users.stop()
    assert result.returncode == 1
    assert state_of("storage", result) == ("FAILED", "the services are on different storages")


def in_json(shop: Trio, *options: str, **environment: str) -> tuple[int, dict[str, Any]]:
    """Return the exit status and what was printed, which is one JSON object and nothing else."""
    environment = shop.user.environment | environment
    result = run_check(sys.executable, ROOT, "--json", *options, **environment)
    told: dict[str, Any] = json.loads(result.stdout)
    return result.returncode, told


def test_in_json_it_says_the_same_as_in_the_table(shop: Trio) -> None:
    status, told = in_json(shop)
    assert status == 0
    assert set(told) == {"ok", "lines"}
    assert told["ok"] is True
    table = [line.split(maxsplit=1)[0] for line in check(shop).stdout.splitlines()]
    assert [line["name"].split()[0] for line in told["lines"]] == table
    states = {line["name"]: line["state"] for line in told["lines"]}
    assert {states.pop("JWT_SECRET"), *states.values()} == {"warning", "ok"}
    texts = {line["name"]: line["text"] for line in told["lines"]}
    assert texts["order service"] == f"{shop.order.url} on redis"


def test_in_json_what_is_not_running_differs_from_what_is_on_another_storage(
    shop: Trio, product_in_memory: Service
) -> None:
    nowhere = f"http://127.0.0.1:{free_port()}"
    status, told = in_json(
        shop, PRODUCT_SERVICE_URL=product_in_memory.url, USER_SERVICE_URL=nowhere
    )
    assert status == 1
    assert told["ok"] is False
    states = {line["name"]: line["state"] for line in told["lines"]}
    assert states["product service"] == "other storage"
    assert states["user service"] == "not running"
    assert states["order service"] == "ok"
    assert states["storage"] == "failed"


def test_in_json_the_audit_is_told_apart(shop: Trio) -> None:
    status, told = in_json(shop, "--audit", SETTLE_AFTER="0.01", SETTLE_INTERVAL="0.01")
    assert status == 0
    assert [line["name"] for line in told["audit"]] == ["audit"]
    assert told["audit"][0]["text"].endswith("the stock adds up")


def test_in_json_nobody_can_be_asked_before_a_repair(shop: Trio) -> None:
    result = run_check(sys.executable, ROOT, "--json", "--repair", **shop.user.environment)
    assert result.returncode == 2
    assert "add --yes" in result.stderr
    assert result.stdout == ""


def test_a_wrong_setting_is_named_in_one_line(shop: Trio) -> None:
    result = check(shop, REDIS_PORT="six")
    assert result.returncode == 2
    assert result.stderr.startswith("REDIS_PORT ")
    assert result.stderr.count("\n") == 1
    assert result.stdout == ""


def test_a_redis_url_that_is_no_address_is_said_without_a_traceback(shop: Trio) -> None:
    result = check(shop, REDIS_URL="redis://:hush-hush@localhost:port/0")
    assert result.returncode == 1
    assert state_of("Redis", result)[0] == "FAILED"
    assert "REDIS_URL" in state_of("Redis", result)[1]
    assert "hush-hush" not in result.stdout + result.stderr
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize("password", ["", "a-guess"])
def test_a_wrong_redis_password_is_said_and_never_shown(
    password: str, shop: Trio, redis: RedisServer
) -> None:
    redis.client.config_set("requirepass", "hush-hush")
    try:
        result = check(shop, REDIS_PASSWORD=password)
        right = check(shop, REDIS_PASSWORD="hush-hush")
    finally:
        redis.client.config_set("requirepass", "")
    assert result.returncode == 1
    state, text = state_of("Redis", result)
    assert state == "FAILED"
    assert "refuses us" in text
    assert "REDIS_PASSWORD" in text
    assert state_of("Redis", right)[0] == "ok"
    for output in (result.stdout, result.stderr, right.stdout, right.stderr):
        assert "hush-hush" not in output
        assert "a-guess" not in output


def test_a_redis_that_forgets_or_throws_away_is_a_warning(shop: Trio, redis: RedisServer) -> None:
    redis.client.config_set("appendonly", "no")
    redis.client.config_set("maxmemory-policy", "allkeys-lru")
    try:
        without_limit = check(shop)
        redis.client.config_set("maxmemory", "1gb")
        result = check(shop)
    finally:
        redis.client.config_set("appendonly", "yes")
        redis.client.config_set("maxmemory-policy", "noeviction")
        redis.client.config_set("maxmemory", "0")
    assert result.returncode == 0
    assert state_of("persistence", result)[0] == "warning"
    assert "appendonly is off" in state_of("persistence", result)[1]
    assert state_of("eviction", result)[0] == "warning"
    assert state_of("eviction", result)[1].startswith("allkeys-lru: a full Redis throws records")
    assert state_of("eviction", without_limit)[0] == "ok"
    assert "no maxmemory is set" in state_of("eviction", without_limit)[1]


@pytest.mark.parametrize(("use_redis", "state"), [("true", "warning"), ("required", "FAILED")])
def test_no_redis_is_as_bad_as_the_settings_say(use_redis: str, state: str, shop: Trio) -> None:
    result = check(shop, USE_REDIS=use_redis, REDIS_PORT=str(free_port()))
    assert state_of("Redis", result)[0] == state
    assert "nothing answers" in state_of("Redis", result)[1]
    assert result.returncode == (1 if state == "FAILED" else 0)


def test_it_speaks_the_protocol_that_redis_knew_before_hello(
    shop: Trio, redis: RedisServer
) -> None:
    redis.client.execute_command("ACL", "SETUSER", "default", "-hello")
    try:
        result = check(shop)
    finally:
        redis.client.execute_command("ACL", "SETUSER", "default", "+hello")
    assert state_of("Redis", result)[0] == "ok"


def test_memory_alone_needs_no_redis(product_in_memory: Service, shop: Trio) -> None:
    result = check(shop, USE_REDIS="false")
    assert state_of("Redis", result) == ("ok", "not used (USE_REDIS=false)")


def test_a_service_without_its_redis_is_not_ready(tmp_path: Path) -> None:
    redis = RedisServer(tmp_path)
    order = Service("order", tmp_path / "log", USE_REDIS="required", REDIS_PORT=str(redis.port))
    try:
        order.start()
        redis.client.close()
        redis.stop()
        environment = order.environment | {"ORDER_SERVICE_URL": order.url}
        result = run_check(sys.executable, ROOT, **environment)
        told = json.loads(run_check(sys.executable, ROOT, "--json", **environment).stdout)
    finally:
        order.stop()
    assert result.returncode == 1
    states = {line["name"]: line["state"] for line in told["lines"]}
    assert states["order service"] == "not ready"
    state, text = state_of("order service", result)
    assert state == "FAILED"
    assert "not ready" in text


def test_a_proxy_of_the_environment_does_not_come_between(shop: Trio) -> None:
    proxy = {"http_proxy": f"http://127.0.0.1:{free_port()}", "no_proxy": ""}
    assert check(shop, **proxy).returncode == 0


def test_it_finds_the_packages_that_the_launcher_installed(shop: Trio, tmp_path: Path) -> None:
    copy = ready_copy(tmp_path / "a shop")
    assert run_check(BARE_PYTHON, copy, **shop.user.environment).returncode == 0


def test_without_any_packages_it_says_how_to_get_them(tmp_path: Path) -> None:
    copy = copy_of_the_product(tmp_path / "shop")
    command = [BARE_PYTHON, "-S", str(copy / "test_connection.py")]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 1
    assert "python start_all_services.py" in result.stderr
    assert result.stderr.count("\n") == 1


def test_replicas_that_a_master_does_not_wait_for_are_a_warning(
    shop: Trio, redis: RedisServer, tmp_path: Path
) -> None:
    alone = check(shop)
    replica = RedisServer(tmp_path, "--replicaof", "127.0.0.1", str(redis.port))
    try:
        wait_until(lambda: redis.client.info()["connected_slaves"] == 1)
        without = check(shop)
        redis.client.config_set("min-replicas-to-write", "1")
        result = check(shop)
    finally:
        redis.client.config_set("min-replicas-to-write", "0")
        replica.stop()
    assert "replication" not in alone.stdout
    assert without.returncode == 0
    assert state_of("replication", without)[0] == "warning"
    assert state_of("replication", without)[1].startswith("min-replicas-to-write is 0: a failover")
    assert state_of("replication", result) == ("ok", "min-replicas-to-write is set")
