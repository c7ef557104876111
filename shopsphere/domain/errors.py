"""Everything that can go wrong in a shop; each error owns its status, code and sentence."""

import math
from typing import ClassVar


class ShopError(Exception):
    """Base of every error that is reported to a caller.

    `status` is the HTTP status, `code` the stable machine-readable name. Subclasses set them in
    their class statement, or inherit them. `extra` holds additional members of the response body,
    unless they are None, and the `sentence` can show them; `headers` additional headers.
    """

    status: ClassVar[int] = 500
    code: ClassVar[str] = "internal_error"
    sentence: ClassVar[str] = "Something went wrong on our side. The request id is in the log."

    def __init_subclass__(cls, *, status: int | None = None, code: str | None = None) -> None:
        cls.status = status or cls.status
        cls.code = code or cls.code

    def __init__(
        self, detail: str | None = None, *, retry_after: float | None = None, **extra: object
    ) -> None:
        """`retry_after` is in seconds; a response rounds it up."""
        self.detail = detail or self.sentence.format(**extra)
        self.extra = {name: value for name, value in extra.items() if value is not None}
        # Every 401 names the scheme to authenticate with (RFC 9110, section 15.5.2).
        self.headers = {"WWW-Authenticate": "Bearer"} if self.status == 401 else {}
        if retry_after is not None:
            self.headers["Retry-After"] = str(max(1, math.ceil(retry_after)))
        super().__init__(self.detail)


class InvalidRequest(ShopError, status=400, code="invalid_request"):
    """The request itself is wrong; each error names the `field` to change."""

    def __init__(self, *errors: tuple[str, str]) -> None:
        errors = errors or (("body", "is required"),)  # an example for the documentation
        field, message = errors[0]
        listed = [{"field": field, "message": message} for field, message in errors]
        super().__init__(f"The request is not valid: {field} {message}.", errors=listed)


class NoSuchPath(ShopError, status=404, code="not_found"):
    sentence = "There is nothing at this path. See /docs for what there is."


class MethodNotAllowed(ShopError, status=405, code="method_not_allowed"):
    sentence = "This path does not take that method. See /docs for what it takes."


class BodyTooLarge(ShopError, status=413, code="body_too_large"):
    sentence = "The body is larger than 64 KiB. Send a smaller one."


class EmailTaken(ShopError, status=400, code="email_taken"):
    sentence = "This email address is registered already. Log in, or use another address."


class InvalidCredentials(ShopError, status=401, code="invalid_credentials"):
    sentence = "Email or password is wrong."


class InvalidRefreshToken(ShopError, status=401, code="invalid_refresh_token"):
    sentence = "The refresh token is invalid or has expired. Log in again."


class RefreshTokenReused(InvalidRefreshToken):
    """The refresh token was used before, so its session has been ended."""


class AccountIsConfigured(ShopError, status=409, code="account_is_configured"):
    sentence = "This account is managed by ADMIN_EMAIL and ADMIN_PASSWORD. Change those settings."


class TooManyLogins(ShopError, status=429, code="too_many_logins"):
    def __init__(self, seconds_left: float = 60) -> None:
        seconds = max(1, math.ceil(seconds_left))
        super().__init__(f"Too many failed logins. Try again in {seconds} s.", retry_after=seconds)


class InvalidToken(ShopError, status=401, code="invalid_token"):
    """The bearer token is missing or invalid (RFC 6750)."""

    sentence = "A valid bearer token is needed. Get one from POST /login of the user service."


class Forbidden(ShopError, status=403, code="forbidden"):
    sentence = "Your token is good, but does not give you the right to do this."


class UserNotFound(ShopError, status=404, code="user_not_found"):
    sentence = "The user of this token does not exist any more. Register again."


class OrderRefused(ShopError):
    """The order cannot be placed, because of one of its items; this is final for it.

    The order service names the product, as `product_pk`.
    """

    is_remembered: ClassVar[bool] = True
    """Whether the product service remembers the refusal. If not, the refused item is released too,
    so that a delayed request cannot still reserve it."""


class ProductNotFound(OrderRefused, status=404, code="product_not_found"):
    is_remembered = False
    sentence = "There is no such product. GET /products of the product service lists all."


class OrderNotFound(ShopError, status=404, code="order_not_found"):
    sentence = "There is no such order. GET /orders lists all."


class InsufficientQuantity(OrderRefused, status=400, code="insufficient_quantity"):
    """Fewer units are available than requested; `available` says how many."""

    def __init__(self, available: int = 3, product_pk: str | None = None) -> None:
        some = f"Only {available} available. Ask for that many or fewer."
        detail = some if available else "Out of stock."
        super().__init__(detail, product_id=product_pk, available=available)


class ReservationRefused(InsufficientQuantity, status=409):
    """Not enough stock for a reservation; final for this order."""


class PriceChanged(OrderRefused, status=409, code="price_changed"):
    """The unit price is not the one that the customer saw; `unit_price` is the present one."""

    sentence = "The price has changed. To order at the current price, send it as unit_price."

    def __init__(self, unit_price_cents: int = 89_950, product_pk: str | None = None) -> None:
        super().__init__(product_id=product_pk, unit_price=unit_price_cents / 100)


class StockTooLow(ShopError, status=400, code="insufficient_quantity"):
    """More units would be removed than are `available`."""

    sentence = "Cannot remove that many: only {available} available. The stock was not changed."


class StockLimit(ShopError, status=400, code="stock_limit"):
    sentence = "A product can have at most 1,000,000,000 units on hand."


class ReservationReleased(ShopError, status=409, code="reservation_released"):
    sentence = "This reservation was released. It cannot be taken up again; place a new order."


class ReservationConflict(ShopError, status=409, code="reservation_conflict"):
    sentence = "This order holds a reservation of another quantity. Send that quantity again."


class ReservationShipped(ShopError, status=409, code="reservation_shipped"):
    sentence = "The units of this reservation have been shipped. They cannot be given back."


class OrderIsShipped(ShopError, status=409, code="order_is_shipped"):
    sentence = "This order was shipped. It cannot be cancelled any more."


class OrderIsCancelled(ShopError, status=409, code="order_is_cancelled"):
    sentence = "This order was cancelled. It cannot be shipped any more."


class RequestInProgress(ShopError, status=409, code="request_in_progress"):
    """The status is from draft-ietf-httpapi-idempotency-key-header, section 2.7."""

    sentence = "A request with this Idempotency-Key is still running. Send it again in a moment."


class IdempotencyKeyReused(ShopError, status=422, code="idempotency_key_reused"):
    """The status is from draft-ietf-httpapi-idempotency-key-header, section 2.7."""

    sentence = "This Idempotency-Key came with another request before. Use a new key."


class Unavailable(ShopError, status=503, code="unavailable"):
    """A dependency of this service cannot serve now; the caller should retry later."""

    advice: ClassVar[str] = "Try again in a moment."
    """What to do next, without doing anything twice."""

    def __init__(self) -> None:
        super().__init__(f"{self.sentence} {self.advice}", retry_after=1)


class StoreUnavailable(Unavailable, code="storage_unavailable"):
    sentence = "The storage does not respond now."
    advice = (
        "If this was a change, it may have been made: without an Idempotency-Key, check before you "
        "repeat it."
    )


class StorageMismatch(Unavailable, code="storage_mismatch"):
    sentence = "The order service and the product service keep their records in different storages."
    advice = "Start both on Redis, or both in memory."


class ProductServiceUnavailable(Unavailable, code="product_service_unavailable"):
    """The product service gave no usable response; anything it reserved is released later."""

    sentence = "The product service does not respond now."


class OrderGivenUp(Unavailable, code="order_given_up"):
    sentence = "The order took too long and was given up."
    advice = "Send it again, with the same Idempotency-Key if it had one."


class RequestTimedOut(Unavailable, code="request_timeout"):
    sentence = "The request took too long and was given up."
    advice = "It may have taken effect: if it had an Idempotency-Key, send it again with that."
