"""The client of the current master, as named by Sentinels."""

import asyncio
from typing import Any

from redis.asyncio import BlockingConnectionPool
from redis.asyncio.retry import Retry
from redis.asyncio.sentinel import (
    Sentinel,
    SentinelConnectionPool,
    SentinelManagedConnection,
    SentinelManagedSSLConnection,
)
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError, TimeoutError

from shopsphere.redis_clients.client import ShopRedis
from shopsphere.redis_clients.errors import is_refusal
from shopsphere.redis_clients.options import CONNECTION, POOL, TCP, parts_of, try_options
from shopsphere.settings import CannotStart


class _AsksSentinels(SentinelManagedConnection):
    """Asks for the master before repeating a command; redis-py 8.1 reconnects to the old one."""

    async def send_packed_command(self, *args: Any, **options: Any) -> None:
        if not self.is_connected:
            await self.connect()
        await super().send_packed_command(*args, **options)


class _AsksSentinelsTLS(_AsksSentinels, SentinelManagedSSLConnection): ...


class _SentinelPool(SentinelConnectionPool, BlockingConnectionPool):
    """Connections to the current master; callers wait for a free one, as with a single Redis."""


class ShopMaster(ShopRedis):
    """A client of the current master, with our errors."""

    connection_pool: SentinelConnectionPool

    async def require_answer(self) -> None:
        """Return if the master responds; raise CannotStart if only Sentinels do, otherwise
        redis-py's error."""
        try:
            await super().require_answer()
        except (ConnectionError, TimeoutError) as error:
            if not is_refusal(error) and await self._hears_sentinel():
                raise CannotStart(
                    "The Sentinels name no master that serves us. Wait until there is one, or "
                    "check name, user and password in REDIS_URL."
                ) from error
            raise

    async def close_all(self) -> None:
        """Close all connections, including those to the Sentinels."""
        await super().close_all()
        await self.connection_pool.sentinel_manager.aclose()  # type: ignore[attr-defined]  # types-redis

    async def _hears_sentinel(self) -> bool:
        sentinels = self.connection_pool.sentinel_manager.sentinels
        answers = await asyncio.gather(*(s.ping() for s in sentinels), return_exceptions=True)
        return any(
            is_refusal(answer) or not isinstance(answer, (ConnectionError, TimeoutError))
            for answer in answers
        )


def sentinel_client(rest: str) -> ShopRedis:
    """Return a client of the master that the Sentinels name; all share one user and password.

    From Redis 6 on, a Sentinel without a password accepts any, if a user is given.
    """
    nodes, name, login, options = parts_of(rest)
    if not name:
        raise ValueError("the name of the master is missing")
    once = CONNECTION | TCP | {"retry": Retry(NoBackoff(), 0)}
    user = {"username": "default"} if login else {}
    sentinels = Sentinel(nodes, sentinel_kwargs=once | options | user | login)
    is_tls = options.pop("ssl")
    pool = _SentinelPool(
        name,
        sentinels,
        connection_class=_AsksSentinelsTLS if is_tls else _AsksSentinels,
        **POOL | CONNECTION | TCP | options | login,
    )
    try_options(pool)
    return ShopMaster(connection_pool=pool)
