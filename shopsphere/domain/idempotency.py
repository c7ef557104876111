"""The rules of idempotency keys for orders.

The contract is Stripe's; the statuses are from draft-ietf-httpapi-idempotency-key-header.
"""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass

from shopsphere.domain.errors import IdempotencyKeyReused, ShopError
from shopsphere.domain.records import CLOCK_SECONDS, KeyRecord
from shopsphere.domain.values import Item, by_product


@dataclass(frozen=True, slots=True)
class Binding:
    """The order that a key is bound to, and the storage's time; if another request made the order,
    also how long its lease still runs."""

    order_pk: str
    bound_at: float
    lease_seconds_left: float = 0


def digest_of(items: Iterable[Item]) -> str:
    """Return a digest of these items, regardless of their order."""
    text = " ".join(f"{item.product_pk} {item.quantity}" for item in by_product(items))
    return hashlib.sha256(text.encode()).hexdigest()


def bind(
    now: float,
    key: KeyRecord,
    request: str,
    order_pk: str,
    lease_seconds: float,
    settled_pk: str = "",
) -> Binding | ShopError:
    """Bind a key to an order, with a lease, if it is new or still bound to `settled_pk`; return its
    binding.

    A lease with more time left than a new one counts as ended, because the clock went back. The
    times that rules are given differ by up to CLOCK_SECONDS.
    """
    if key.request not in ("", request):
        return IdempotencyKeyReused()
    if key.order_pk in ("", settled_pk):
        key.request, key.order_pk, key.lease_until = request, order_pk, now + lease_seconds
    if key.order_pk == order_pk:
        return Binding(order_pk, now)
    left = key.lease_until - now
    return Binding(key.order_pk, now, left if 0 < left <= lease_seconds + CLOCK_SECONDS else 0)


def forget(_: float, key: KeyRecord, order_pk: str) -> None:
    """Free a key if it is still bound to this order."""
    if key.order_pk == order_pk:
        key.request, key.order_pk, key.lease_until = "", "", 0


def end_lease(_: float, key: KeyRecord, order_pk: str) -> None:
    """Let the next request with this key proceed at once, if it is still bound to this order."""
    if key.order_pk == order_pk:
        key.lease_until = 0
