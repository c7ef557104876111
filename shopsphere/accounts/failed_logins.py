"""Failed logins are counted; a client with too many is refused for a while."""

import asyncio
import hashlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from ipaddress import IPv6Address, ip_address

from shopsphere.accounts.passwords import HASHING_THREADS
from shopsphere.domain import people
from shopsphere.domain.errors import InvalidCredentials
from shopsphere.domain.records import FailedLogins
from shopsphere.records import Records
from shopsphere.settings import failures_in_seconds

ANY_ADDRESS_FACTOR = 10
"""How many times the limit of one address a client has for all addresses together."""


class LoginThrottle:
    """Counts the failures of a client at one address, and at any; its successes never count.

    An attempt waits until one of the hashing threads can be had, and only then looks at the counts.
    So of the attempts that come at once fewer than HASHING_THREADS in each worker go past a limit,
    and none is refused for others that may yet succeed. What other clients do does not matter:
    nobody can lock the owner of an address out from elsewhere.
    """

    def __init__(self, records: Records, limit: str) -> None:
        """`limit` is a LOGIN_LIMIT."""
        self._records = records
        self._most, self._seconds = failures_in_seconds(limit)
        self._turns = asyncio.Semaphore(HASHING_THREADS)

    @asynccontextmanager
    async def attempt(self, client: str, email: str) -> AsyncIterator[None]:
        """Let one attempt at a password happen, or raise TooManyLogins.

        InvalidCredentials raised inside counts; leaving without an error clears this client's
        count at this address.
        """
        at_address, at_any = _counted(client, email), _counted(client)
        most_at_any = ANY_ADDRESS_FACTOR * self._most
        async with self._turns:
            await self._records.change(partial(people.require_few, most=self._most), at_address)
            await self._records.change(partial(people.require_few, most=most_at_any), at_any)
            try:
                yield
            except InvalidCredentials:
                for counted in (at_address, at_any):
                    count = partial(people.count_failure, seconds=self._seconds)
                    await self._records.change(count, counted)
                raise
            await self._records.change(people.clear_failures, at_address)


def _counted(*parts: str) -> FailedLogins:
    """Return the record that counts the failures of a client, at one address or at any."""
    return FailedLogins(pk=hashlib.sha256(" ".join(parts).encode()).hexdigest())


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
