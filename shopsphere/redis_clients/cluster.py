"""The client of a Redis Cluster."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

from redis.asyncio.cluster import ClusterNode, ClusterPipeline, RedisCluster
from redis.exceptions import ConnectionError

from shopsphere.redis_clients.client import ShopRedis
from shopsphere.redis_clients.errors import our_errors
from shopsphere.redis_clients.options import CONNECTION, POOL, TCP, parts_of, try_options


class _FirstIsKey:
    """Key positions in our commands: redis-py asks a node whenever it loads the layout."""

    async def initialize(self, node: ClusterNode | None) -> None: ...

    async def get_keys(self, *command: Any) -> Sequence[Any]:
        return command[1:2]


class ShopCluster(RedisCluster):
    """A client of a Redis Cluster, with our errors.

    redis-py 8.1 reloads the layout of the Cluster whenever a node fails, which disturbs commands to
    all other nodes; hence the overrides below.
    """

    def __init__(self, **options: Any) -> None:
        # Half of the connections are for pipelines, which may have to repeat commands one by one.
        super().__init__(**options, max_connections=2 * POOL["max_connections"])
        self._commands = asyncio.Semaphore(POOL["max_connections"])
        self._pipelines = asyncio.Semaphore(POOL["max_connections"])
        self.commands_parser = _FirstIsKey()  # type: ignore[assignment]  # types-redis

    async def aclose(self) -> None:
        """Only reload the layout: redis-py calls this and would close connections still in use."""
        self._initialize = True

    async def require_answer(self) -> None:
        """Return if a node of the Cluster responds; otherwise raise redis-py's error."""
        await self.initialize()

    async def ask_each(self, *command: str) -> list[dict[str, object]]:
        """Send a command to each master of the Cluster; raise redis-py's errors."""
        masters = self.get_primaries()
        return [await self.send_raw(*command, target_nodes=each) for each in masters]

    async def close_all(self) -> None:
        """Close all connections."""
        self._initialize = False  # otherwise redis-py closes nothing
        await super().aclose()  # type: ignore[misc]  # types-redis

    async def send_raw(self, *args: Any, **options: Any) -> Any:
        """Send one command without translating redis-py's errors."""
        async with _turn(self._commands):
            return await super().execute_command(*args, **options)

    async def execute_command(self, *args: Any, **options: Any) -> Any:
        with our_errors():
            return await self.send_raw(*args, **options)

    @asynccontextmanager
    async def pipeline(self, **_: object) -> AsyncIterator[ClusterPipeline]:  # type: ignore[override]  # it waits
        async with _turn(self._pipelines), ClusterPipeline(self) as pipe:
            yield pipe


@asynccontextmanager
async def _turn(turns: asyncio.Semaphore) -> AsyncIterator[None]:
    """Wait for a turn, and so for a free connection."""
    async with turns:
        try:
            yield
        except (AttributeError, RuntimeError) as error:
            # redis-py 8.1 raises these if another command's failure closed the connection, or if a
            # command belongs to a node that is new to the Cluster.
            raise ConnectionError("The connection was closed meanwhile.") from error


def cluster_client(rest: str) -> ShopRedis:
    nodes, _, options = parts_of(rest)
    startup_nodes = [ClusterNode(*node) for node in nodes]
    cluster = ShopCluster(startup_nodes=startup_nodes, **CONNECTION | TCP | options)
    try_options(next(iter(cluster.nodes_manager.startup_nodes.values())))
    # It takes the same commands, and the storage uses nothing else of a client.
    return cluster  # type: ignore[return-value]
