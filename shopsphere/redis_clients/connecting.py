"""Opens the client that the settings choose, and checks that Redis serves it."""

import asyncio
import logging
import ssl
from collections.abc import Iterable

from redis import exceptions
from redis.asyncio import BlockingConnectionPool
from redis.asyncio.sentinel import MasterNotFoundError
from redis.exceptions import RedisClusterException, RedisError

from shopsphere.redis_clients.client import ShopRedis
from shopsphere.redis_clients.cluster import cluster_client
from shopsphere.redis_clients.errors import NothingResponds, came_of, cannot_serve, our_errors
from shopsphere.redis_clients.options import CONNECTION, POOL, TCP, try_options
from shopsphere.redis_clients.sentinel import sentinel_client
from shopsphere.settings import CannotStart, Settings

log = logging.getLogger("shopsphere.redis")


def _client(settings: Settings) -> ShopRedis:
    """Return the client. It repeats commands when a connection breaks, so all must allow that."""
    url = settings.redis_full_url
    scheme, _, rest = url.partition("://")
    try:
        if scheme == "redis+sentinel":
            return sentinel_client(rest)
        if scheme == "redis+cluster":
            return cluster_client(rest)
        options = POOL | CONNECTION | ({} if scheme == "unix" else TCP)
        client = ShopRedis(BlockingConnectionPool.from_url(url, **options))
        try_options(client.connection_pool)
        return client
    except (ValueError, TypeError, OSError, RedisError, RedisClusterException):
        wrong = "is malformed, or has an unknown option or an unusable certificate"
        raise CannotStart(f"REDIS_URL (or REDIS_HOST) {wrong}. See .env.example.") from None


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
        # A PING would succeed even if Redis could not write.
        await client.send_raw("SET", probe, "1", "EX", "1")
    except (RedisError, RedisClusterException) as error:
        if came_of(error, exceptions.BusyLoadingError):
            return False
        if came_of(error, ssl.SSLError):
            reason = f"TLS to Redis failed ({error}). Check its certificate and ssl_ca_certs."
            raise CannotStart(reason) from error
        is_refusal = came_of(error, exceptions.AuthenticationError, exceptions.NoPermissionError)
        if not is_refusal and not isinstance(error, MasterNotFoundError):
            if is_there and cannot_serve(error):
                log.warning("Redis responds, but does not accept writes now: %s", error)
                return True
            if came_of(error, OSError) and not came_of(
                error, BrokenPipeError, ConnectionResetError
            ):
                raise NothingResponds from error
        reason = f"Redis responds but refuses the connection ({error})"
        advice = "REDIS_URL (rediss:// for TLS) or REDIS_HOST, REDIS_USERNAME, REDIS_PASSWORD"
        raise CannotStart(f"{reason}. Check {advice}, and Redis's maxclients.") from error
    return True


async def require_rights(client: ShopRedis, commands: Iterable[str]) -> None:
    """Try each command; raise CannotStart, naming those that the Redis user may not run.

    Any other refusal of a command is ignored. Raise StoreUnavailable if Redis cannot serve.
    """
    missing = []
    with our_errors():
        for command in commands:
            try:
                await client.send_raw(*command.split())
            except exceptions.ResponseError as error:
                if isinstance(error, exceptions.NoPermissionError):
                    missing.append(command.split()[0])
    if missing:
        names = ", ".join(missing)
        raise CannotStart(f"The Redis user may not run {names}. See docs/redis.md.")
