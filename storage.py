"""Opens the storage that the settings choose, once, at startup.

A storage's modules are imported only when it is used: redis-om alone takes 30 ms.
"""

import logging
import sys
import textwrap

from shopsphere.records import Opened
from shopsphere.settings import CannotStart, Settings
from shopsphere.workers import runs_alone

log = logging.getLogger("shopsphere.storage")

FALLBACK_WARNING = (
    "No Redis responds at {}. This service now stores everything IN MEMORY, and loses it when it "
    "stops. To use Redis, start it and restart this service. To silence this warning, set "
    "USE_REDIS=false. To never fall back to memory, set USE_REDIS=required."
)


async def open_storage(settings: Settings) -> Opened:
    """Open Redis or memory; raise CannotStart if the settings do not allow what is available."""
    if settings.use_redis != "false":
        from shopsphere.redis_clients.connecting import connect
        from shopsphere.redis_clients.errors import NothingResponds

        try:
            client = await connect(settings)
        except NothingResponds:
            if settings.use_redis == "required":
                raise CannotStart(
                    f"USE_REDIS=required, but no Redis responds at {settings.redis_address}. "
                    "Start Redis, or correct REDIS_HOST, REDIS_PORT or REDIS_URL."
                ) from None
        else:
            from redis_db import open_records

            return Opened(await open_records(client, settings.redis_prefix), "redis")
    if not runs_alone():
        raise CannotStart(
            "In-memory storage supports only one worker, because workers do not share memory. "
            "Start one worker, or start Redis and set USE_REDIS=required."
        )
    is_fallback = settings.use_redis == "true"
    if is_fallback:
        _warn_of_fallback(settings)
    from in_memory_db import MemoryRecords

    return Opened(MemoryRecords(), "memory", is_fallback)


def _warn_of_fallback(settings: Settings) -> None:
    warning = FALLBACK_WARNING.format(settings.redis_address)
    if settings.log_format == "text" and sys.stderr.isatty():
        stars = "*" * 70
        warning = f"\n{stars}\n{textwrap.fill(warning, 70)}\n{stars}"
    log.warning("%s", warning)
