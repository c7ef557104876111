"""A bad line between a client and its Redis: responses get lost, requests come late or twice."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Self

from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from shopsphere.redis_clients.client import ShopRedis
from shopsphere.redis_clients.connecting import connect
from shopsphere.settings import Settings
from tests.servers import RedisServer, wait_until


class LossyWire:
    """A TCP proxy that, while it is lossy, loses the first response to each request, and hangs up.

    Redis has done then what it was asked to do. The client cannot know that and sends again the
    same bytes, whose response gets through. It can also hold requests, and it keeps a copy of each.
    """

    def __init__(self, target_port: int) -> None:
        self._target_port = target_port
        self._seen: set[bytes] = set()
        self._carrying: list[asyncio.Task[None]] = []
        self._is_open = asyncio.Event()
        self._is_open.set()
        self.is_lossy = False
        self.lost = 0
        self.requests: list[bytes] = []

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._carry, "127.0.0.1", 0)
        self.port: int = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        for task in self._carrying:
            task.cancel()
        await asyncio.gather(*self._carrying, return_exceptions=True)

    def hold(self) -> None:
        """Keep requests from now on, until they are let through."""
        self._is_open.clear()
        self.requests.clear()

    def let_through(self) -> None:
        self._is_open.set()

    async def holds_a_request(self) -> None:
        """Return when a request is held."""
        await asyncio.to_thread(wait_until, lambda: self.requests, why="a request is on the wire")

    async def bring_again(self) -> None:
        """Have Redis get all requests a second time, and wait for its responses."""
        for request in list(self.requests):
            reader, writer = await asyncio.open_connection("127.0.0.1", self._target_port)
            writer.write(request)
            writer.write_eof()
            await reader.read()
            writer.close()

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        far_reader, far_writer = await asyncio.open_connection("127.0.0.1", self._target_port)
        is_lost = False

        async def carry_requests() -> None:
            nonlocal is_lost
            while request := await reader.read(2**20):
                self.requests.append(request)
                await self._is_open.wait()
                is_lost = self.is_lossy and request not in self._seen
                self._seen.add(request)
                far_writer.write(request)

        async def carry_responses() -> None:
            while (response := await far_reader.read(2**20)) and not is_lost:
                writer.write(response)
            self.lost += is_lost

        both = [asyncio.create_task(carry()) for carry in (carry_requests, carry_responses)]
        self._carrying += both
        await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
        for task, end in zip(both, (writer, far_writer), strict=True):
            task.cancel()
            end.close()


@asynccontextmanager
async def wired(server: RedisServer) -> AsyncIterator[tuple[ShopRedis, LossyWire]]:
    """Yield a client of this server, and the wire between them, which is good at first."""
    async with LossyWire(server.port) as wire:
        client = await connect(Settings(redis_port=wire.port))
        client.set_retry(Retry(NoBackoff(), 2))  # type: ignore[attr-defined]  # types-redis
        try:
            yield client, wire
        finally:
            await client.close_all()


@asynccontextmanager
async def connected(server: RedisServer, *, is_lossy: bool = False) -> AsyncIterator[ShopRedis]:
    """Yield a client of this server, over a good wire or a bad one."""
    async with wired(server) as (client, wire):
        wire.is_lossy = is_lossy
        yield client
    assert bool(wire.lost) == is_lossy, "the wire was not as bad as it should be"
