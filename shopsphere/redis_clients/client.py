"""The client of a single Redis with its batches, and the scripts and pipelines of all clients."""

import asyncio
import hashlib
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

from redis import exceptions
from redis.asyncio import ConnectionPool, Redis
from redis.asyncio.client import Pipeline

from shopsphere.redis_clients.errors import our_errors


class Script:
    """A script that Redis runs atomically.

    It is sent in full if Redis does not know it. redis-py 8.1 would load it first, and fail if
    Redis forgets it before it runs.
    """

    def __init__(self, text: str) -> None:
        self._text = text
        self._digest = hashlib.sha1(text.encode()).hexdigest()  # noqa: S324  # names it at Redis

    async def run(
        self, client: "ShopRedis", keys: Sequence[str], *args: Any, is_urgent: bool = False
    ) -> Any:
        """Run it on this client; an urgent run is not batched with other commands."""
        execute = client.send_raw if is_urgent else client.execute_command
        with our_errors():
            try:
                return await execute("EVALSHA", self._digest, len(keys), *keys, *args)
            except exceptions.NoScriptError:
                return await execute("EVAL", self._text, len(keys), *keys, *args)


class ShopRedis(Redis):
    """A client of a single Redis, with our errors.

    Commands issued in one turn of the event loop are sent together, in order: a pipeline costs
    little more than one command, here and in Redis.
    """

    def __init__(self, connection_pool: ConnectionPool) -> None:
        super().__init__(connection_pool=connection_pool, decode_responses=True)
        self._waiting: list[tuple[Any, Any, asyncio.Future[Any]]] = []
        self._sending: set[asyncio.Task[None]] = set()

    async def send_raw(self, *args: Any, **options: Any) -> Any:
        """Send one command immediately, without translating redis-py's errors."""
        return await super().execute_command(*args, **options)  # type: ignore[no-untyped-call]  # types-redis

    async def execute_command(self, *args: Any, **options: Any) -> Any:
        answer = asyncio.get_running_loop().create_future()
        self._waiting.append((args, options, answer))
        if len(self._waiting) == 1:
            sending = asyncio.create_task(self._send_all())
            self._sending.add(sending)
            sending.add_done_callback(self._sending.discard)
        with our_errors():
            found = await answer
            if isinstance(found, Exception):
                raise found
            return found

    async def _send_all(self) -> None:
        """Send the waiting commands. As a task, it begins in the next turn of the event loop."""
        waiting, self._waiting = self._waiting, []
        try:
            if len(waiting) == 1:
                [(args, options, _)] = waiting
                found = [await self.send_raw(*args, **options)]
            else:
                async with self.pipeline(transaction=False) as pipe:
                    for args, options, _ in waiting:
                        pipe.execute_command(*args, **options)
                    found = await pipe.execute(raise_on_error=False)
        except Exception as error:  # noqa: BLE001  # raised to every waiting caller
            found = [error] * len(waiting)
        for (_, _, answer), each in zip(waiting, found, strict=True):
            if not answer.done():  # otherwise the caller has given up
                answer.set_result(each)

    async def ask_each(self, *command: str) -> list[dict[str, object]]:
        """Send a command to each Redis that holds data, here only one; raise redis-py's errors."""
        return [await self.send_raw(*command)]

    async def require_answer(self) -> None:
        """Return if Redis responds; otherwise raise redis-py's error."""
        await self.send_raw("PING")

    async def close_all(self) -> None:
        """Close all connections."""
        await self.connection_pool.aclose()


@asynccontextmanager
async def pipeline(client: ShopRedis) -> AsyncIterator[Pipeline]:
    """Yield a non-atomic pipeline; `await pipe.execute()` sends its commands together."""
    with our_errors():
        async with client.pipeline(transaction=False) as pipe:
            yield pipe
