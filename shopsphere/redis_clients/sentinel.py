"""The client of the current master, as named by Sentinels."""

import asyncio
from typing import Any

from redis.asyncio import BlockingConnectionPool, sentinel
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from shopsphere.redis_clients.client import ShopRedis
from shopsphere.redis_clients.errors import came_of
from shopsphere.redis_clients.options import CONNECTION, POOL, TCP, parts_of, try_options


class _AsksSentinels(sentinel.SentinelManagedConnection):
    """Asks for the master before repeating a command; redis-py 8.1 reconnects to the old one."""

    async def send_packed_command(self, *args: Any, **options: Any) -> None:
        if not self.is_connected:
            await self.connect()
        await super().send_packed_command(*args, **options)


class _AsksSentinelsTLS(_AsksSentinels, sentinel.SentinelManagedSSLConnection): ...


class _SentinelPool(sentinel.SentinelConnectionPool, BlockingConnectionPool):
    """Connections to the current master; callers wait for a free one, as with a single Redis."""


class ShopMaster(ShopRedis):
    """A client of the current master, with our errors."""

    connection_pool: sentinel.SentinelConnectionPool

    async def require_answer(self) -> None:
        """Return if a Sentinel responds; otherwise raise redis-py's error, if possible one that
        shows that something is there."""
        sentinels = self.connection_pool.sentinel_manager.sentinels
        answers = await asyncio.gather(*(s.ping() for s in sentinels), return_exceptions=True)
        errors = [answer for answer in answers if isinstance(answer, BaseException)]
        if len(errors) == len(sentinels):
            raise min(errors, key=lambda error: came_of(error, OSError))

    async def close_all(self) -> None:
        """Close all connections, including those to the Sentinels."""
        await super().close_all()
        await self.connection_pool.sentinel_manager.aclose()  # type: ignore[attr-defined]  # types-redis


def sentinel_client(rest: str) -> ShopRedis:
    """Return a client of the master that the Sentinels name; all share one user and password.

    From Redis 6 on, a Sentinel without a password accepts any, if a user is given.
    """
    nodes, name, options = parts_of(rest)
    if not name:
        raise ValueError("the name of the master is missing")
    once = CONNECTION | TCP | {"retry": Retry(NoBackoff(), 0)}
    user = {"username": "default"} if "password" in options else {}
    sentinels = sentinel.Sentinel(nodes, sentinel_kwargs=once | user | options)
    options["connection_class"] = _AsksSentinelsTLS if options.pop("ssl") else _AsksSentinels
    pool = _SentinelPool(name, sentinels, **POOL | CONNECTION | TCP | options)
    try_options(pool)
    return ShopMaster(connection_pool=pool)
