"""The client of one Redis, and what all clients have in common: scripts and pipelines."""

import hashlib
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

from redis import exceptions
from redis.asyncio.client import Pipeline

from shopsphere.redis_clients.batching import BatchingRedis
from shopsphere.redis_clients.errors import our_errors


class Script:
    """A script that Redis runs in one step.

    It is sent whole where Redis does not know it. redis-py 8.1 loads it first, and fails if it is
    forgotten in between.
    """

    def __init__(self, text: str) -> None:
        self._text = text
        self._digest = hashlib.sha1(text.encode()).hexdigest()  # noqa: S324  # names it at Redis

    async def run(
        self, client: "ShopRedis", keys: Sequence[str], *args: Any, is_urgent: bool = False
    ) -> Any:
        """Run it on this client; what is urgent does not share a pipeline."""
        execute = client.execute_urgently if is_urgent else client.execute_command
        try:
            return await execute("EVALSHA", self._digest, len(keys), *keys, *args)
        except exceptions.NoScriptError:
            return await execute("EVAL", self._text, len(keys), *keys, *args)


class ShopRedis(BatchingRedis):
    """A client of one Redis, and what the storage asks of every client."""

    async def info_of_all(self) -> list[dict[str, object]]:
        """Return what each Redis that holds a part of the data says of itself: here one."""
        return [dict(await self.info())]

    async def require_answer(self) -> None:
        """Return when Redis answers; otherwise raise what redis-py raises."""
        await self.send_raw("PING")

    async def close_all(self) -> None:
        """Close all connections."""
        await self.connection_pool.aclose()

    async def execute_urgently(self, *args: Any) -> Any:
        """Send one command at once, over a connection that it has to itself."""
        with our_errors():
            return await self.send_raw(*args)


@asynccontextmanager
async def pipeline(client: ShopRedis) -> AsyncIterator[Pipeline]:
    """Yield a pipeline, not atomic; its commands go out together in `await pipe.execute()`."""
    with our_errors():
        async with client.pipeline(transaction=False) as pipe:
            yield pipe
