"""Fixtures that all tests share. Nothing here reads a `.env` file or talks to a foreign Redis."""

import os
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

os.environ["SHOPSPHERE_ENV_FILE"] = os.devnull

from in_memory_db import MemoryRecords  # from here on settings are read, so not before
from redis_db import RedisRecords
from shopsphere.records import Records
from shopsphere.settings import Settings
from tests.launching import PORTS, is_free
from tests.lossy_wire import connected
from tests.moved_clock import MovedClock
from tests.servers import RedisServer
from tests.small_shop import SmallShop, small_shop

if sys.platform != "win32":
    import fcntl

for variable in Settings.model_fields:
    os.environ.pop(variable.upper(), None)
os.environ.pop("WEB_CONCURRENCY", None)
os.environ["BCRYPT_ROUNDS"] = "4"


@pytest.fixture
def quick_start_ports() -> Iterator[None]:
    """Let a test that needs the ports of the quick start wait for one in another process."""
    with (Path(tempfile.gettempdir()) / "shopsphere-ports.lock").open("w") as lock:
        if sys.platform != "win32":
            fcntl.flock(lock, fcntl.LOCK_EX)
        if not all(map(is_free, PORTS.values())):
            pytest.skip(
                "something listens on 8000, 8001 or 8002, the ports of the quick start: end it"
            )
        yield


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="session")
def redis_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    """A real redis-server for the whole run. Tests that stop or fill one make their own."""
    with RedisServer(tmp_path_factory.mktemp("redis")) as server:
        yield server


@pytest.fixture
def own_redis(tmp_path: Path) -> Iterator[RedisServer]:
    """A Redis for one test to stop and start, which keeps its data."""
    with RedisServer(tmp_path, "--appendonly", "yes") as server:
        yield server


@pytest.fixture
def clock(redis_server: RedisServer) -> MovedClock:
    """The clock of records in memory, and of the Redis of the whole run, which is empty."""
    redis_server.client.flushall()
    return MovedClock(redis_server)


@pytest.fixture(params=["memory", "redis", "redis over a lossy wire"])
async def records(
    request: pytest.FixtureRequest, clock: MovedClock, redis_server: RedisServer
) -> AsyncIterator[Records]:
    """Empty records on each storage in turn.

    On the lossy wire the first response to each request is lost, so Redis gets each one twice.
    """
    if request.param == "memory":
        yield MemoryRecords(clock)
        return
    async with connected(redis_server, is_lossy="lossy" in request.param) as client:
        yield RedisRecords(client, "shop")


@pytest.fixture(params=["memory", "redis"])
def storage(request: pytest.FixtureRequest) -> str:
    """Each of the two storages in turn."""
    return str(request.param)


@pytest.fixture
async def shop(storage: str, redis_server: RedisServer) -> AsyncIterator[SmallShop]:
    """A shop in this process, on each storage in turn."""
    async with small_shop(storage, redis_server) as shop:
        yield shop


@pytest.fixture
def storage_environment(storage: str, request: pytest.FixtureRequest) -> dict[str, str]:
    """The settings that put a service on that storage, which is empty."""
    if storage == "memory":
        return {"USE_REDIS": "false"}
    server: RedisServer = request.getfixturevalue("redis_server")
    server.client.flushall()
    return {"USE_REDIS": "required", "REDIS_PORT": str(server.port)}
