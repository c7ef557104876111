"""Failed logins: counted by `limits` on the storage in use; who has too many is refused a while."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from ipaddress import IPv6Address, ip_address

from limits import RateLimitItem, parse
from limits.aio.storage import Storage
from limits.aio.strategies import FixedWindowRateLimiter

from shopsphere.domain.errors import InvalidCredentials, TooManyLogins
from shopsphere.passwords import HASHING_THREADS

ANY_ADDRESS_FACTOR = 10
"""How many times the limit of one address a client has for all addresses together."""


class FailedLogins:
    """Counts the failures of a client at one address, and at any; its successes never count.

    An attempt waits until one of the hashing threads can be had, and only then looks at the counts.
    So of the attempts that come at once fewer than HASHING_THREADS in each worker go past a limit,
    and none is refused for others that may yet succeed. What other clients do does not matter:
    nobody can lock the owner of an address out from elsewhere.
    """

    def __init__(self, counters: Storage, limit: str) -> None:
        self._limiter = FixedWindowRateLimiter(counters)
        self._at_address = parse(limit)
        self._at_any = parse(limit)
        self._at_any.amount *= ANY_ADDRESS_FACTOR
        self._turns = asyncio.Semaphore(HASHING_THREADS)

    @asynccontextmanager
    async def attempt(self, client: str, email: str) -> AsyncIterator[None]:
        """Let one attempt at a password happen, or raise TooManyLogins.

        InvalidCredentials raised inside counts; leaving without an error clears this client's
        count at this address.
        """
        at_address, at_any = ("failed-login", client, email), ("failed-logins", client)
        async with self._turns:
            await self._refuse_too_many(self._at_address, *at_address)
            await self._refuse_too_many(self._at_any, *at_any)
            try:
                yield
            except InvalidCredentials:
                await self._limiter.hit(self._at_address, *at_address)
                await self._limiter.hit(self._at_any, *at_any)
                raise
            await self._limiter.clear(self._at_address, *at_address)

    async def _refuse_too_many(self, limit: RateLimitItem, *key: str) -> None:
        if not await self._limiter.test(limit, *key):
            resets_at, _ = await self._limiter.get_window_stats(limit, *key)
            raise TooManyLogins(resets_at - time.time())


def client_of(host: str) -> str:
    """Return what stands for the client at this address: of IPv6, the network of 64 bits.

    One customer of a provider has all addresses of such a network to choose from.
    """
    try:
        address = ip_address(host)
    except ValueError:
        return host
    if isinstance(address, IPv6Address):
        if address.ipv4_mapped:
            return str(address.ipv4_mapped)
        return f"{IPv6Address(int(address) >> 64 << 64)}/64"
    return host
