"""The client of the product service: `requests` in threads, one session each."""

import asyncio
import logging
import random
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from contextvars import copy_context
from email.utils import parsedate_to_datetime
from functools import lru_cache, partial
from typing import NamedTuple, NoReturn

import requests
from opentelemetry import propagate
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from urllib3.exceptions import HTTPError

from shopsphere.domain import errors
from shopsphere.domain.errors import ProductServiceUnavailable, ShopError
from shopsphere.domain.money import Cents
from shopsphere.domain.values import Item, Reservation, Role
from shopsphere.http_sessions import NO_RETRY, reason_of, session
from shopsphere.logs import REQUEST_ID
from shopsphere.records import NEVER, StorageName
from shopsphere.settings import Settings
from shopsphere.tokens import LEEWAY_SECONDS, Tokens

log = logging.getLogger("shopsphere.product_client")

CALLS_AT_ONCE = 32
"""Threads for calls to the product service. Waiting for a thread counts toward ORDER_TIMEOUT."""

ATTEMPTS = 3
PAUSE_SECONDS = 0.1
"""The pause before the second attempt, doubled before the third, plus up to 0.1 s at random."""

TRY_AGAIN = frozenset({502, 503, 504})

COMMAND_SECONDS = 60
"""How long a release or shipment may be retried; its token is valid as long."""

TOKEN_STEP_SECONDS = 10
"""Tokens expire at whole multiples of this, so that many calls share one."""

MAX_RESPONSE_BYTES = 64 * 1024


class _Reserved(BaseModel):
    """The response to a reservation; any other response leaves the outcome unknown."""

    model_config = ConfigDict(strict=True)

    product_id: str
    order_id: str
    quantity: int
    unit_price: Cents
    product_name: str = Field(min_length=1)


class _Refusal(BaseModel):
    code: str
    available: int = 0
    unit_price: Cents = 0


class _Response(NamedTuple):
    """A response, fully read, and when it was sent by the clock of its server; "" if unknown."""

    status: int
    body: bytes
    date: str


class ProductClient:
    """Reserves, releases and ships stock. Every call may be sent more than once."""

    def __init__(self, settings: Settings, storage: StorageName, tokens: Tokens) -> None:
        self._url = settings.product_service_url
        self._timeout_seconds = settings.product_service_timeout
        self._storage = storage
        self._threads = ThreadPoolExecutor(CALLS_AT_ONCE, "product-service")
        # By thread, because sessions of `requests` are not thread-safe.
        self._session_of = lru_cache(CALLS_AT_ONCE)(lambda _: session(NO_RETRY, settings.ca_file))
        self._token = lru_cache(4)(
            lambda expires: tokens.issue("order-service", Role.SERVICE, expires)
        )

    def close(self) -> None:
        """Drop calls that have not started, without waiting for the others."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def reserve(self, order_pk: str, item: Item, within: float) -> Reservation:
        """Hold the units for this order; a repeat returns the same reservation.

        Nothing is sent after `within`, a time of the event loop; a request that arrives much later
        is refused because its token has expired. Raise InsufficientQuantity, PriceChanged or
        ProductNotFound if the product service refuses, which is final. Any other response, or none,
        leaves the outcome unknown: raise ProductServiceUnavailable or StorageMismatch.
        """
        body: dict[str, float] = {"quantity": item.quantity}
        if item.unit_price_cents is not None:
            body["unit_price"] = item.unit_price_cents / 100
        response = await self._call("PUT", item.product_pk, order_pk, within, body)
        if response.status not in (200, 201):
            self._refuse(response, item.product_pk, errors.OrderRefused)
        try:
            held = _Reserved.model_validate_json(response.body)
        except ValidationError as error:
            raise ProductServiceUnavailable from error
        identity = held.product_id, held.order_id, held.quantity
        if identity != (item.product_pk, order_pk, item.quantity):
            log.error("the product service returned a different reservation: %s", identity)
            raise ProductServiceUnavailable
        return Reservation(*identity, held.unit_price, held.product_name)

    async def release(self, product_pk: str, order_pk: str) -> None:
        """Release the units, once. Raise ReservationShipped if they were shipped,
        ProductServiceUnavailable or StorageMismatch if the outcome is unknown."""
        response = await self._call("DELETE", product_pk, order_pk)
        if response.status != 204:
            self._refuse(response, product_pk, errors.ReservationShipped)

    async def ship(self, product_pk: str, order_pk: str) -> None:
        """Count the units as shipped, once. Raise ReservationReleased if they were released,
        ProductServiceUnavailable or StorageMismatch if the outcome is unknown."""
        response = await self._call("POST", product_pk, f"{order_pk}/ship")
        if response.status != 204:
            self._refuse(response, product_pk, errors.ReservationReleased)

    def _refuse(self, response: _Response, pk: str, final: type[ShopError]) -> NoReturn:
        """Raise the error that an unsuccessful response about this product means.

        Only `final` errors are definite refusals; all others leave the outcome unknown.
        """
        try:
            refusal = _Refusal.model_validate_json(response.body)
        except ValidationError as error:
            raise ProductServiceUnavailable from error
        known = {
            (409, "insufficient_quantity"): errors.InsufficientQuantity(refusal.available, pk),
            (409, "price_changed"): errors.PriceChanged(refusal.unit_price, pk),
            (404, "product_not_found"): errors.ProductNotFound(product_id=pk),
            (409, "reservation_shipped"): errors.ReservationShipped(),
            (409, "reservation_released"): errors.ReservationReleased(),
            (503, "storage_mismatch"): errors.StorageMismatch(),
        }
        meant = known.get((response.status, refusal.code))
        if meant and isinstance(meant, (errors.StorageMismatch, final)):
            raise meant
        if response.status in (401, 403):
            why = "JWT_SECRET probably differs"
            with suppress(ValueError):  # no date, or an impossible one
                ahead = parsedate_to_datetime(response.date).timestamp() - time.time()
                if abs(ahead) > LEEWAY_SECONDS - 1:
                    why = f"its clock is {ahead:+.0f} s from ours"
            log.error("the product service rejects our token: %s", why)
        log.warning("the product service responded %s %s", response.status, response.body[:200])
        raise ProductServiceUnavailable

    async def _call(
        self, method: str, product_pk: str, path: str, within: float = NEVER, body: object = None
    ) -> _Response:
        """Send one request; retry after a broken connection, a timeout or a 502 to 504."""
        loop = asyncio.get_running_loop()
        seconds_left = COMMAND_SECONDS if within == NEVER else within - loop.time()
        send_by = time.monotonic() + seconds_left
        expires = int((time.time() + seconds_left) // TOKEN_STEP_SECONDS + 1) * TOKEN_STEP_SECONDS
        headers = {
            "X-Storage": self._storage,
            "X-Request-ID": REQUEST_ID.get(),
            "Authorization": f"Bearer {self._token(expires)}",
        }
        propagate.inject(headers)
        url = f"{self._url}/products/{product_pk}/reservations/{path}"
        request = requests.Request(method, url, headers, json=body)
        response: _Response | None = None
        for attempt in range(ATTEMPTS):
            if attempt:
                pause = PAUSE_SECONDS * 2 ** (attempt - 1)
                await asyncio.sleep(pause + random.uniform(0, PAUSE_SECONDS))  # noqa: S311
            try:
                send = partial(copy_context().run, self._send, request, send_by)
                response = await loop.run_in_executor(self._threads, send)
            except (requests.RequestException, HTTPError) as error:
                log.warning("no response from the product service: %s", reason_of(error))
            else:
                if response.status not in TRY_AGAIN:
                    return response
        if response is None:
            raise ProductServiceUnavailable
        return response

    def _send(self, request: requests.Request, send_by: float) -> _Response:
        """Send a request and read its whole response within the timeout; raise requests.Timeout."""
        timeout = min(self._timeout_seconds, send_by - time.monotonic())
        if timeout <= 0:
            raise requests.Timeout("the deadline of the request has passed")
        # Not `Session.prepare_request`, which merges session settings that are never set here.
        with self._session_of(threading.get_ident()).send(
            request.prepare(), timeout=timeout, allow_redirects=False, stream=True
        ) as response:
            body = b""
            while piece := response.raw.read1(MAX_RESPONSE_BYTES):
                body += piece
                if len(body) > MAX_RESPONSE_BYTES:
                    raise requests.Timeout("the response is too long")
            return _Response(response.status_code, body, response.headers.get("Date", ""))
