"""The client of a Redis Cluster."""

import asyncio
import builtins
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from redis._parsers import AsyncCommandsParser
from redis.asyncio.cluster import ClusterNode, ClusterPipeline, RedisCluster
from redis.exceptions import ConnectionError

from shopsphere.redis_clients.client import ShopRedis
from shopsphere.redis_clients.errors import our_errors
from shopsphere.redis_clients.options import CONNECTION, POOL, TCP, parts_of, try_options


class _KnownCommands(AsyncCommandsParser):
    """Key positions in commands, fetched once: redis-py fetches them every time, even from a dead
    node."""

    async def initialize(self, node: ClusterNode | None = None) -> None:
        if not self.commands:
            await super().initialize(node)


class _ClusterPipeline(ClusterPipeline):
    def __init__(self, client: RedisCluster, turns: asyncio.Semaphore) -> None:
        super().__init__(client)
        self._turns = turns

    async def execute(self, raise_on_error: bool = True, allow_redirections: bool = True) -> Any:
        async with _turn(self._turns):
            return await super().execute(raise_on_error, allow_redirections)


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
        self.commands_parser = _KnownCommands()  # type: ignore[assignment]  # types-redis

    async def aclose(self) -> None:
        """Only reload the layout: redis-py calls this and would close connections still in use."""
        self._initialize = True

    async def require_answer(self) -> None:
        """Return if a node of the Cluster responds; otherwise raise redis-py's error."""
        await self.initialize()

    async def info_of_all(self) -> list[dict[str, object]]:
        """Return the INFO of each master of the Cluster."""
        masters = self.get_primaries()
        return [dict(await self.execute_command("INFO", target_nodes=each)) for each in masters]

    async def close_all(self) -> None:
        """Close all connections."""
        self._initialize = True  # as when nothing is open; otherwise redis-py warns
        await self.nodes_manager.aclose()  # type: ignore[attr-defined]  # types-redis
        await self.nodes_manager.aclose("startup_nodes")  # type: ignore[attr-defined]  # types-redis

    async def send_raw(self, *args: Any, **options: Any) -> Any:
        """Send one command without translating redis-py's errors."""
        return await super().execute_command(*args, **options)

    async def execute_command(self, *args: Any, **options: Any) -> Any:
        async with _turn(self._commands):
            return await self.send_raw(*args, **options)

    execute_urgently = execute_command

    def pipeline(self, transaction: object = None, shard_hint: object = None) -> ClusterPipeline:
        """Return a pipeline with our errors. redis-py uses one for multi-key commands, too."""
        return _ClusterPipeline(self, self._pipelines)


@asynccontextmanager
async def _turn(turns: asyncio.Semaphore) -> AsyncIterator[None]:
    """Wait for a turn as long as for a connection from a pool; translate errors into ours."""
    with our_errors():
        try:
            await asyncio.wait_for(turns.acquire(), POOL["timeout"])
        except builtins.TimeoutError:
            raise ConnectionError("No connection available.") from None
        try:
            yield
        except (AttributeError, RuntimeError) as error:
            # redis-py 8.1 raises these if another command's failure closed the connection, or if a
            # command belongs to a node that is new to the Cluster.
            raise ConnectionError("The connection was closed meanwhile.") from error
        finally:
            turns.release()


def cluster_client(rest: str) -> ShopRedis:
    nodes, _, login, options = parts_of(rest)
    startup_nodes = [ClusterNode(host, port) for host, port in nodes]
    cluster = ShopCluster(startup_nodes=startup_nodes, **CONNECTION | TCP | options | login)
    for node in cluster.nodes_manager.startup_nodes.values():
        try_options(node)
    # It takes the same commands, and the storage uses nothing else of a client.
    return cluster  # type: ignore[return-value]
