"""The product service, asked over HTTP with `requests`, in threads, each with a session."""

import asyncio
import logging
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import NoReturn, Self

import requests
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from shopsphere.errors import (
    InsufficientQuantity,
    ProductNotFound,
    ProductServiceUnavailable,
    StorageMismatch,
)
from shopsphere.logs import REQUEST_ID
from shopsphere.models import Money, Reservation, to_cents
from shopsphere.sessions import RETRIES, session
from shopsphere.stores import StorageName
from shopsphere.tokens import SERVICE_TOKEN_SECONDS, Tokens

log = logging.getLogger("shopsphere.product_client")

CALLS_AT_ONCE = 32
"""Threads that wait for the product service. What waits for a thread keeps to ORDER_TIMEOUT."""

AGAIN = RETRIES.new(
    total=2, backoff_factor=0.1, backoff_jitter=0.1, respect_retry_after_header=False
)


class _Reserved(BaseModel):
    """What a product service of ours answers; anything else is no answer."""

    model_config = ConfigDict(strict=True)

    quantity: int
    unit_price: Money
    product_name: str = Field(min_length=1)


class _Refusal(BaseModel):
    code: str
    available: int = 0


class _OfThread(threading.local):
    """What each thread has of its own: a session, as its connections are kept and not shared."""

    def __init__(self) -> None:
        self.session = session(AGAIN)


def _was_repeated(response: requests.Response) -> bool:
    return bool(response.raw.retries and response.raw.retries.history)


def _prepared(
    method: str, url: str, headers: dict[str, str], body: dict[str, int] | None
) -> requests.PreparedRequest:
    """Return a request that is ready to be sent.

    `Session.request` would take the URL apart and merge settings that a session here never has:
    a quarter of the CPU of a call.
    """
    request = requests.PreparedRequest()
    request.prepare_method(method)
    request.url = url
    request.prepare_headers(headers)
    request.prepare_cookies({})
    request.prepare_body(None, None, json=body)
    return request


class ProductClient:
    """Reserves stock at the product service. Every call may be sent more than once."""

    def __init__(
        self, url: str, storage: StorageName, timeout_seconds: float, tokens: Tokens
    ) -> None:
        self._url = url
        self._tokens = tokens
        self._service_token = ""
        self._token_made_at = 0.0
        self._storage = storage
        self._timeout_seconds = timeout_seconds
        self._threads = ThreadPoolExecutor(CALLS_AT_ONCE, thread_name_prefix="product-service")
        self._of_thread = _OfThread()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def reserve(
        self, product_id: str, order_pk: str, quantity: int, *, is_first: bool
    ) -> Reservation:
        """Hold the units for this order; the same again returns the same reservation.

        Raise InsufficientQuantity or ProductNotFound when the product service refuses, which is
        final; a product that is not there refuses only what `is_first`, as an earlier attempt may
        have reserved before the product was deleted. Anything else it says, or nothing, leaves the
        outcome unknown: then raise ProductServiceUnavailable or StorageMismatch.
        """
        response = await self._call(
            "PUT", f"/products/{product_id}/reservations/{order_pk}", {"quantity": quantity}
        )
        if response.status_code not in (200, 201):
            self._refuse(response, is_first and not _was_repeated(response))
        try:
            answer = _Reserved.model_validate_json(response.content)
        except ValidationError as error:
            raise ProductServiceUnavailable from error
        if answer.quantity != quantity:
            log.warning("the product service reserved %s, not %s", answer.quantity, quantity)
            raise ProductServiceUnavailable
        price_cents = to_cents(answer.unit_price)
        return Reservation(product_id, order_pk, quantity, price_cents, answer.product_name)

    async def release(self, product_id: str, order_pk: str) -> None:
        """Give the units back, once. Raise ProductServiceUnavailable or StorageMismatch."""
        await self._command("DELETE", f"/products/{product_id}/reservations/{order_pk}")

    async def ship(self, product_id: str, order_pk: str) -> None:
        """Say that the units have left. Raise ProductServiceUnavailable or StorageMismatch."""
        await self._command("POST", f"/products/{product_id}/reservations/{order_pk}/ship")

    async def _command(self, method: str, path: str) -> None:
        response = await self._call(method, path, None)
        if response.status_code != 204:
            self._refuse(response, is_first=False)

    def _refuse(self, response: requests.Response, is_first: bool) -> NoReturn:
        """Raise what an answer means that is not a yes."""
        try:
            refusal = _Refusal.model_validate_json(response.content)
        except ValidationError as error:
            raise ProductServiceUnavailable from error
        match response.status_code, refusal.code:
            case 409, "insufficient_quantity":
                raise InsufficientQuantity(refusal.available)
            case 404, "product_not_found" if is_first:
                raise ProductNotFound
            case _, "storage_mismatch":
                raise StorageMismatch
            case 401 | 403, _:
                log.error("the product service refuses our token: JWT_SECRET has to be the same")
        log.warning(
            "the product service answered %s %s", response.status_code, response.content[:200]
        )
        raise ProductServiceUnavailable

    async def _call(self, method: str, path: str, body: dict[str, int] | None) -> requests.Response:
        """Send one request, again on a broken connection, a timeout or 502 to 504."""
        headers = {
            "X-Storage": self._storage,
            "X-Request-ID": REQUEST_ID.get(),
            "Authorization": f"Bearer {self._token()}",
        }
        request = _prepared(method, self._url + path, headers, body)

        def send() -> requests.Response:
            asking = self._of_thread.session
            return asking.send(request, timeout=self._timeout_seconds, allow_redirects=False)

        try:
            return await asyncio.get_running_loop().run_in_executor(self._threads, send)
        except requests.RequestException as error:
            log.warning("the product service cannot be asked: %s", type(error).__name__)
            raise ProductServiceUnavailable from error

    def _token(self) -> str:
        """Return a token of this service that is good for half of its time or more."""
        age = time.time() - self._token_made_at
        if not 0 <= age < SERVICE_TOKEN_SECONDS / 2:  # a clock can be set back, too
            self._token_made_at = time.time()
            self._service_token = self._tokens.issue_for_service("order-service")
        return self._service_token
