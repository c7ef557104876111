"""Counts failed logins, and refuses clients with too many for a while."""

import asyncio
import hashlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from functools import partial
from ipaddress import IPv6Address, ip_address, ip_network

from shopsphere.accounts.passwords import HASHING_THREADS
from shopsphere.domain import people
from shopsphere.domain.errors import InvalidCredentials
from shopsphere.domain.records import FailedLogins
from shopsphere.records import Records
from shopsphere.settings import failures_in_seconds

ANY_ADDRESS_FACTOR = 10
"""A client's limit for all email addresses together, as a multiple of that for one address."""


class LoginThrottle:
    """Counts a client's failures per email address and in total; successes never count.

    An attempt waits for a free hashing thread before it checks the counts. So of concurrent
    attempts, fewer than HASHING_THREADS per worker exceed a limit, and none is refused because of
    attempts that may still succeed. Clients are independent: nobody can lock the owner of an
    address out from another client.
    """

    def __init__(self, records: Records, limit: str) -> None:
        """`limit` is a LOGIN_LIMIT."""
        self._records = records
        self._most, self._seconds = failures_in_seconds(limit)
        self._turns = asyncio.Semaphore(HASHING_THREADS)

    @asynccontextmanager
    async def attempt(self, client: str, email: str) -> AsyncIterator[None]:
        """Allow one password attempt, or raise TooManyLogins.

        InvalidCredentials raised inside counts as a failure; leaving without an error clears this
        client's count for this email address.
        """
        at_address, at_any = _counted(client, email), _counted(client)
        limits = ((at_address, self._most), (at_any, ANY_ADDRESS_FACTOR * self._most))
        async with self._turns:
            for counted, most in limits:
                await self._records.change(partial(people.require_few, most=most), counted)
            try:
                yield
            except InvalidCredentials:
                count = partial(people.count_failure, seconds=self._seconds)
                for counted, _ in limits:
                    await self._records.change(count, counted)
                raise
            await self._records.change(people.clear_failures, at_address)


def _counted(*parts: str) -> FailedLogins:
    """Return the record of a client's failures, for one email address or in total."""
    return FailedLogins(pk=hashlib.sha256(" ".join(parts).encode()).hexdigest())


def client_of(host: str) -> str:
    """Return the client that this IP address counts as: for IPv6, its /64 network.

    A provider's customer can use any address in such a network.
    """
    with suppress(ValueError):
        address = ip_address(host)
        if isinstance(address, IPv6Address):
            return str(address.ipv4_mapped or ip_network((int(address), 64), strict=False))
    return host
