"""The storage switch: settings in, opened stores out. It is thrown once, at start.

What a store needs is imported only when it is known to be opened: redis-om alone takes 30 ms.
"""

import logging
import sys
import textwrap
from collections.abc import Awaitable, Callable
from typing import TypeVar

from shopsphere.errors import CannotStart
from shopsphere.settings import Settings
from shopsphere.stores import Opened, OrderStore, ProductStore, Store, UserStore
from shopsphere.workers import workers_asked_for

log = logging.getLogger("shopsphere.storage")

S = TypeVar("S", bound=Store)

FALLBACK_WARNING = (
    "No Redis answers at {}. This service now keeps everything IN MEMORY: it is gone when the "
    "service ends. Start Redis and restart the service to use it, or set USE_REDIS=false to mean "
    "it, or USE_REDIS=required to forbid it."
)


async def open_user_store(settings: Settings) -> Opened[UserStore]:
    """Open the users' store; raise CannotStart when the settings forbid what is there."""

    async def on_redis() -> UserStore:
        from redis_clients import connect

        client = await connect(settings)
        from redis_stores.users import RedisUserStore

        return RedisUserStore(client, settings.redis_prefix)

    def in_memory() -> UserStore:
        from in_memory_db import MemoryUserStore

        return MemoryUserStore()

    return await _open(settings, on_redis, in_memory)


async def open_product_store(settings: Settings) -> Opened[ProductStore]:
    """Open the products' store; raise CannotStart when the settings forbid what is there."""

    async def on_redis() -> ProductStore:
        from redis_clients import connect

        client = await connect(settings)
        from redis_stores.products import RedisProductStore

        return RedisProductStore(client, settings.redis_prefix)

    def in_memory() -> ProductStore:
        from in_memory_db import MemoryProductStore

        return MemoryProductStore()

    return await _open(settings, on_redis, in_memory)


async def open_order_store(settings: Settings) -> Opened[OrderStore]:
    """Open the orders' store; raise CannotStart when the settings forbid what is there."""

    async def on_redis() -> OrderStore:
        from redis_clients import connect

        client = await connect(settings)
        from redis_stores.orders import RedisOrderStore

        return RedisOrderStore(client, settings.redis_prefix)

    def in_memory() -> OrderStore:
        from in_memory_db import MemoryOrderStore

        return MemoryOrderStore()

    return await _open(settings, on_redis, in_memory)


async def _open(
    settings: Settings, on_redis: Callable[[], Awaitable[S]], in_memory: Callable[[], S]
) -> Opened[S]:
    if settings.use_redis != "false":
        from redis_clients import NothingAnswers

        try:
            return Opened(await on_redis(), "redis")
        except NothingAnswers:
            if settings.use_redis == "required":
                raise CannotStart(
                    f"USE_REDIS=required, but no Redis answers at {settings.redis_address}. "
                    "Start it, or correct REDIS_HOST, REDIS_PORT or REDIS_URL."
                ) from None
    _refuse_several_workers()
    if settings.use_redis == "true":
        _warn_of_fallback(settings)
    return Opened(in_memory(), "memory", is_fallback=settings.use_redis == "true")


def _warn_of_fallback(settings: Settings) -> None:
    warning = FALLBACK_WARNING.format(settings.redis_address)
    if settings.log_format == "text" and sys.stderr.isatty():
        stars = "*" * 70
        warning = f"\n{stars}\n{textwrap.fill(warning, 70)}\n{stars}"
    log.warning("%s", warning)


def _refuse_several_workers() -> None:
    if workers_asked_for() > 1:
        raise CannotStart(
            "Memory serves one process: several workers would each have a shop of their own. "
            "Start one worker, or Redis and USE_REDIS=required."
        )
