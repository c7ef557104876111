"""The rules of idempotency keys.

The contract is Stripe's; the statuses are from draft-ietf-httpapi-idempotency-key-header.
"""

import hashlib
from typing import NamedTuple

from shopsphere.domain.errors import IdempotencyKeyReused, ShopError
from shopsphere.domain.records import CLOCK_SECONDS, KeyRecord


class Binding(NamedTuple):
    """The pk that a key is bound to, and the storage's time; if another request made the pk, also
    how long its lease still runs."""

    pk: str
    bound_at: float
    lease_seconds_left: float = 0


def digest_of(*request: object) -> str:
    """Return a digest of what a request asks for."""
    return hashlib.sha256(repr(request).encode()).hexdigest()


def bind(
    now: float,
    key: KeyRecord,
    request: str,
    pk: str,
    lease_seconds: float = 0,
    settled_pk: str = "",
) -> Binding | ShopError:
    """Bind a key to a pk, with a lease, if it is new or still bound to `settled_pk`; return its
    binding.

    A lease with more time left than a new one counts as ended, because the clock went back. The
    times that rules are given differ by up to CLOCK_SECONDS.
    """
    if key.request not in ("", request):
        return IdempotencyKeyReused()
    if key.bound_pk in ("", settled_pk):
        key.request, key.bound_pk, key.lease_until = request, pk, now + lease_seconds
    if key.bound_pk == pk:
        return Binding(pk, now)
    left = key.lease_until - now
    return Binding(key.bound_pk, now, left if 0 < left <= lease_seconds + CLOCK_SECONDS else 0)


def forget(_: float, key: KeyRecord, pk: str) -> None:
    """Free a key if it is still bound to this pk."""
    if key.bound_pk == pk:
        key.request, key.bound_pk, key.lease_until = "", "", 0


def end_lease(_: float, key: KeyRecord, pk: str) -> None:
    """Let the next request with this key proceed at once, if it is still bound to this pk."""
    if key.bound_pk == pk:
        key.lease_until = 0
