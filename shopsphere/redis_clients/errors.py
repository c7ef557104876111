"""Translates every way in which Redis cannot serve into one error."""

import asyncio
import logging
from collections.abc import Iterator
from contextlib import contextmanager

from redis import exceptions
from redis.exceptions import ConnectionError, RedisClusterException, RedisError, TimeoutError

from shopsphere.domain.errors import StoreUnavailable

log = logging.getLogger("shopsphere.redis")

REFUSALS = (
    exceptions.AuthenticationError, exceptions.AuthorizationError, exceptions.NoPermissionError
)  # fmt: skip
REFUSAL_WORDS = ("NOAUTH", "NOPERM", "WRONGPASS", "max number of clients")
CANNOT_SERVE = (
    ConnectionError, TimeoutError, RedisClusterException, *REFUSALS,
    exceptions.InvalidResponse, exceptions.ReadOnlyError, exceptions.ClusterError,
    exceptions.OutOfMemoryError,  # type: ignore[attr-defined]  # types-redis
    exceptions.AskError, exceptions.TryAgainError,
)  # fmt: skip
CANNOT_SERVE_WORDS = (
    "LOADING", "READONLY", "OOM ", "used memory > 'maxmemory'", "NOREPLICAS", "MISCONF",
    "CLUSTERDOWN", "MASTERDOWN", "BUSY ", "TRYAGAIN", "non local key", "UNBLOCKED", *REFUSAL_WORDS,
)  # fmt: skip
"""Parts of plain ResponseErrors, or of scripts' errors, which show that Redis cannot serve."""


class NothingResponds(Exception):
    """Nothing responds at the address of Redis."""


def cannot_serve(error: RedisError | RedisClusterException) -> bool:
    return isinstance(error, CANNOT_SERVE) or any(word in str(error) for word in CANNOT_SERVE_WORDS)


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
            log.warning("Redis cannot serve now: %s: %.300s", type(error).__name__, error)
            raise StoreUnavailable from error
        raise


def is_refusal(error: object) -> bool:
    return isinstance(error, REFUSALS) or any(word in str(error) for word in REFUSAL_WORDS)
