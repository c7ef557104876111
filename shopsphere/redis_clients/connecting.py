"""Opens the client that the settings choose, and checks that Redis serves it."""

import asyncio
import logging
import ssl
from collections.abc import Iterator

from redis import exceptions
from redis._parsers.socket import SERVER_CLOSED_CONNECTION_ERROR
from redis.asyncio import BlockingConnectionPool
from redis.exceptions import ConnectionError, RedisClusterException, RedisError, TimeoutError

from shopsphere.redis_clients.client import ShopRedis
from shopsphere.redis_clients.cluster import cluster_client
from shopsphere.redis_clients.errors import NothingResponds, cannot_serve, is_refusal
from shopsphere.redis_clients.options import CONNECTION, POOL, TCP, try_options
from shopsphere.redis_clients.sentinel import sentinel_client
from shopsphere.settings import CannotStart, Settings

log = logging.getLogger("shopsphere.redis")

PROBE = "return redis.call('SET', KEYS[1], '1', 'EX', '1')"
"""Checks that Redis can serve; PING succeeds even if Redis can neither read nor write."""


def _client(settings: Settings) -> ShopRedis:
    """Return the client. It repeats commands when a connection breaks, so all must allow that."""
    url = settings.redis_full_url
    scheme, _, rest = url.partition("://")
    try:
        if scheme == "redis+sentinel":
            return sentinel_client(rest)
        if scheme == "redis+cluster":
            return cluster_client(rest)
        tcp = {} if scheme == "unix" else TCP
        pool: BlockingConnectionPool = BlockingConnectionPool.from_url(
            url, **POOL, **CONNECTION, **tcp
        )
        try_options(pool)
        return ShopRedis(connection_pool=pool)
    except (ValueError, TypeError, RedisError, RedisClusterException):
        raise CannotStart(
            "REDIS_URL, or REDIS_HOST, is not a valid address, such as redis://localhost:6379/0, "
            "or has an unknown option."
        ) from None
    except OSError as error:
        raise CannotStart(f"REDIS_URL names an unusable certificate or key: {error}.") from None


async def connect(settings: Settings) -> ShopRedis:
    """Open the client of this process and check that Redis serves it; wait while it is loading.

    Raise NothingResponds if nothing responds, CannotStart if Redis responds but refuses.
    """
    client = _client(settings)
    try:
        while not await _serves(client, f"{settings.redis_prefix}:probe"):
            log.warning("Redis is loading its data; waiting for it")
            await asyncio.sleep(0.5)
    except BaseException:
        await client.close_all()
        raise
    return client


async def _serves(client: ShopRedis, probe: str) -> bool:
    """Return whether Redis has loaded its data; raise NothingResponds or CannotStart."""
    is_there = False
    try:
        await client.require_answer()
        is_there = True
        await client.send_raw("EVAL", PROBE, 1, probe)
    except (RedisError, RedisClusterException) as error:
        causes = list(_causes(error))

        def came_of(*kinds: type[Exception]) -> bool:
            return any(isinstance(cause, kinds) for cause in causes)

        if came_of(exceptions.BusyLoadingError):
            return False
        if came_of(ssl.SSLError):
            raise CannotStart(
                f"Redis cannot be trusted ({error}). Check its certificate, and ssl_ca_certs in "
                "REDIS_URL."
            ) from error
        if any(is_refusal(cause) for cause in causes):
            raise CannotStart(
                f"Redis is there but refuses us ({error}). Check REDIS_URL or REDIS_PASSWORD and "
                "the permissions of that Redis user."
            ) from error
        if is_there and cannot_serve(error):
            log.warning("Redis responds, but cannot write now: %s", error)
        elif came_of(ConnectionError, TimeoutError) and not (
            came_of(exceptions.ResponseError) or any(_was_closed(cause) for cause in causes)
        ):
            raise NothingResponds from error
        else:
            raise CannotStart(
                "What listens at REDIS_URL, or REDIS_HOST, REDIS_PORT, does not serve us: "
                f"{error}. Is it Redis? Does it expect TLS (rediss://)? Has it reached maxclients?"
            ) from error
    return True


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    """Yield the error and its causes."""
    while error:
        yield error
        error = error.__cause__ or error.__context__


def _was_closed(error: object) -> bool:
    """Return whether something listens there: otherwise a connection is refused or times out."""
    return isinstance(error, ConnectionResetError) or str(error) == SERVER_CLOSED_CONNECTION_ERROR
