"""Commands that come in one turn of the event loop go out together."""

import asyncio
from typing import Any

from redis.asyncio import ConnectionPool, Redis
from redis.exceptions import ConnectionError

from shopsphere.redis_clients.errors import our_errors


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
