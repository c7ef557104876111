"""The client of one Redis, its batches, and what all clients share: scripts and pipelines."""

import asyncio
import hashlib
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

from redis import exceptions
from redis.asyncio import ConnectionPool, Redis
from redis.asyncio.client import Pipeline
from redis.exceptions import ConnectionError

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


class BatchingRedis(Redis):
    """A client of one Redis, with our errors.

    Commands that come in one turn of the event loop go out together, in the order in which they
    came: a pipeline costs little more than a command, here and at Redis.
    """

    def __init__(self, connection_pool: ConnectionPool) -> None:
        super().__init__(connection_pool=connection_pool, decode_responses=True)
        self._waiting: list[tuple[Any, Any, asyncio.Future[Any]]] = []
        self._sending: set[asyncio.Task[None]] = set()

    async def send_raw(self, *args: Any, **options: Any) -> Any:
        """Send one command, and let Redis's own errors through."""
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
        """Send the commands that wait; a new task begins in the next turn of the event loop."""
        waiting, self._waiting = self._waiting, []
        found: list[Any] = [ConnectionError("The command may not be sent.")] * len(waiting)
        try:
            if len(waiting) == 1:
                [(args, options, _)] = waiting
                found = [await self.send_raw(*args, **options)]
            else:
                async with self.pipeline(transaction=False) as pipe:
                    for args, options, _ in waiting:
                        pipe.execute_command(*args, **options)
                    found = await pipe.execute(raise_on_error=False)
        except Exception as error:  # noqa: BLE001  # raised to each who asked
            found = [error] * len(waiting)
        finally:
            for (_, _, answer), each in zip(waiting, found, strict=True):
                if not answer.done():  # otherwise, who asked has given up
                    answer.set_result(each)


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
