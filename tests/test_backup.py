"""A backup is restored as docs/durability.md says, and the books of the shop are exact again."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

import test_connection
from tests.customers import Customers
from tests.load import close_connections
from tests.servers import RedisServer, Service, redis_executable, wait_until
from tests.shop import Shop

ADA = {"email": "ada@example.com", "password": "correct horse"}
SETTINGS = {"SETTLE_AFTER": "0.5", "SETTLE_INTERVAL": "0.1", "ORDER_TIMEOUT": "0.4"}
SECRET, ANOTHER_SECRET = "a secret of the shop before" * 2, "and the one after the backup" * 2


@pytest.fixture
def redis(tmp_path: Path) -> Iterator[RedisServer]:
    with RedisServer(tmp_path, "--appendonly", "yes") as server:
        yield server


def restore(redis: RedisServer, folder: Path, backup: Path) -> None:
    """Start Redis on the backup alone; then have it keep its append-only file again."""
    redis.stop()
    shutil.rmtree(folder / "appendonlydir", ignore_errors=True)
    (folder / "appendonly.aof").unlink(missing_ok=True)  # of Redis 6
    shutil.copy(backup, folder / "dump.rdb")
    redis.start("--appendonly", "no")
    redis.client.config_set("appendonly", "yes")
    wait_until(lambda: not redis.client.info("persistence")["aof_rewrite_in_progress"])
    redis.stop()
    redis.start()


def refresh(users: Service, token: str) -> int:
    return users.post("/refresh", {"refresh_token": token}).status_code


def test_a_restored_backup_is_exact_after_the_audit(
    redis: RedisServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    on_redis = {"USE_REDIS": "required", "REDIS_PORT": str(redis.port), "JWT_SECRET": SECRET}
    shop = Shop(tmp_path, {**on_redis, **SETTINGS})
    users = Service("user", tmp_path / "user.log", 0, **on_redis)
    try:
        shop.start()
        users.start().post("/register", ADA)
        token = users.post("/login", ADA).json()["refresh_token"]
        product, other = shop.new_product(1000), shop.new_product(1000)
        early = shop.placed(product)
        with Customers(shop, product, other) as customers:
            customers.wait_for(20)
            folders = f"{Path(redis_executable()).parent}{os.pathsep}{os.environ['PATH']}"
            command = ["redis-cli", "-p", str(redis.port), "--rdb", str(tmp_path / "backup.rdb")]
            command[0] = shutil.which("redis-cli", path=folders) or "redis-cli"
            subprocess.run(command, check=True, capture_output=True)
            customers.wait_for(20)
        late = shop.placed(product)
        assert shop.cancel(early).status == 200
        assert users.post("/logout", {"refresh_token": token}).status_code == 204
        assert refresh(users, token) == 401

        close_connections()
        for service in (*shop.services, users):
            service.stop()
        restore(redis, tmp_path, tmp_path / "backup.rdb")
        shop.start()
        users.start()
        assert (shop.order_status(early), shop.order_status(late)) == ("PLACED", "")
        before = len(shop.all_orders())
        variables = {**on_redis, **SETTINGS, "USER_SERVICE_URL": users.url}
        variables |= {"PRODUCT_SERVICE_URL": shop.product.url, "ORDER_SERVICE_URL": shop.order.url}
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
        assert test_connection.main(["--audit", "--repair", "--yes"]) == 0
        assert not shop.findings()
        assert shop.cancel(early).status == 200
        assert len(shop.all_orders()) == before >= 21
        assert shop.placed(product)
        shop.wait_until_exact(1)

        assert refresh(users, token) == 200  # the session is back, unless the secret changes
        token = users.post("/login", ADA).json()["refresh_token"]
        users.stop()
        users.environment["JWT_SECRET"] = ANOTHER_SECRET
        assert refresh(users.start(), token) == 401
        redis.stop()
        redis.start()
        assert shop.order_status(early) == "CANCELLED"  # its append-only file has it
    finally:
        shop.stop()
        users.stop()
