"""Translates every way in which Redis cannot serve into one error."""

import asyncio
import logging
from collections.abc import Iterator
from contextlib import contextmanager

from redis import exceptions
from redis.exceptions import ConnectionError, RedisClusterException, RedisError, TimeoutError

from shopsphere.domain.errors import StoreUnavailable

log = logging.getLogger("shopsphere.redis")

CANNOT_SERVE = (
    ConnectionError, TimeoutError, RedisClusterException, exceptions.InvalidResponse,
    exceptions.ClusterError, exceptions.AskError, exceptions.TryAgainError,
)  # fmt: skip
CANNOT_SERVE_WORDS = (
    "NOPERM", "user executing the script can't", "READONLY", "OOM", "NOREPLICAS", "MISCONF", "BUSY",
    "UNBLOCKED", "non local key", "undeclared keys",
)  # fmt: skip
"""Parts of ResponseErrors, also of those in scripts, which show that Redis cannot serve."""


class NothingResponds(Exception):
    """Nothing responds at the address of Redis."""


def cannot_serve(error: RedisError | RedisClusterException) -> bool:
    said = f"{getattr(error, 'status_code', '')} {error}"
    return isinstance(error, CANNOT_SERVE) or any(word in said for word in CANNOT_SERVE_WORDS)


@contextmanager
def our_errors() -> Iterator[None]:
    """Raise StoreUnavailable for every way in which Redis cannot serve, and log the reason.

    Also raise any cancellation swallowed by Python 3.11's asyncio.wait_for, which redis-py 8.1 uses
    to send; otherwise the cancelled task would continue past its deadline.
    """
    task = asyncio.current_task()
    cancellations = task.cancelling() if task else 0
    try:
        yield
        if task and task.cancelling() > cancellations:
            raise asyncio.CancelledError
    except (RedisError, RedisClusterException) as error:
        if cannot_serve(error):
            log.warning("Redis is unavailable: %s: %.300s", type(error).__name__, error)
            raise StoreUnavailable from error
        raise


def came_of(error: BaseException | None, *kinds: type[Exception]) -> bool:
    """Return whether the error or one of its causes is of these kinds."""
    while error and not isinstance(error, kinds):
        error = error.__cause__ or error.__context__
    return error is not None
