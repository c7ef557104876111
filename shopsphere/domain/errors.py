"""All errors that callers can get, each with its status, code and sentence."""

import math
from typing import ClassVar


class ShopError(Exception):
    """Base of every error that is reported to a caller.

    `status` is the HTTP status, `code` the stable machine-readable name. Subclasses set both in
    their class statement, or inherit them. `extra` holds additional fields of the response body,
    except those that are None; the `sentence` can contain them. `headers` are additional headers.
    """

    status: ClassVar[int] = 500
    code: ClassVar[str] = "internal_error"
    sentence: ClassVar[str] = "Internal error. The log has details under the id in X-Request-ID."

    def __init_subclass__(cls, *, status: int | None = None, code: str | None = None) -> None:
        cls.status = status or cls.status
        cls.code = code or cls.code

    def __init__(
        self, detail: str | None = None, *, retry_after: float | None = None, **extra: object
    ) -> None:
        """`retry_after` is in seconds, and rounded up."""
        self.detail = detail or self.sentence.format(**extra)
        self.extra = {name: value for name, value in extra.items() if value is not None}
        # Every 401 must name an authentication scheme (RFC 9110, section 15.5.2).
        self.headers = {"WWW-Authenticate": "Bearer"} if self.status == 401 else {}
        if retry_after is not None:
            self.headers["Retry-After"] = str(max(1, math.ceil(retry_after)))
        super().__init__(self.detail)


class InvalidRequest(ShopError, status=400, code="invalid_request"):
    """The request is not valid; each of `errors` names the `field` to change."""

    def __init__(self, *errors: tuple[str, str]) -> None:
        errors = errors or (("page", "is not a known parameter"),)  # an example for the docs
        field, message = errors[0]
        listed = [{"field": field, "message": message} for field, message in errors]
        super().__init__(f"The request is not valid: {field} {message}.", errors=listed)


class NoSuchPath(ShopError, status=404, code="not_found"):
    sentence = "Nothing was found at this path. See /docs for all paths."


class MethodNotAllowed(ShopError, status=405, code="method_not_allowed"):
    sentence = "This path does not support this method. See /docs for those it supports."


class BodyTooLarge(ShopError, status=413, code="body_too_large"):
    sentence = "The request body is larger than 64 KiB. Send a smaller one."


class EmailTaken(ShopError, status=400, code="email_taken"):
    sentence = "This email address is already registered. Log in, or use another address."


class InvalidCredentials(ShopError, status=401, code="invalid_credentials"):
    sentence = "The email address or password is wrong."


class InvalidRefreshToken(ShopError, status=401, code="invalid_refresh_token"):
    sentence = "The refresh token is invalid or has expired. Log in again."


class RefreshTokenReused(InvalidRefreshToken):
    """The refresh token was used before, so its session was ended."""


class AccountIsConfigured(ShopError, status=409, code="account_is_configured"):
    sentence = "This account is managed by ADMIN_EMAIL and ADMIN_PASSWORD. Change those settings."


class TooManyLogins(ShopError, status=429, code="too_many_logins"):
    def __init__(self, seconds_left: float = 60) -> None:
        seconds = max(1, math.ceil(seconds_left))
        super().__init__(f"Too many failed logins. Try again in {seconds} s.", retry_after=seconds)


class InvalidToken(ShopError, status=401, code="invalid_token"):
    """The bearer token is missing or invalid (RFC 6750)."""

    sentence = "Send a valid access token; get one with POST /login at the user service."


class Forbidden(ShopError, status=403, code="forbidden"):
    sentence = "You do not have permission to do this. Use an account that does."


class UserNotFound(ShopError, status=404, code="user_not_found"):
    sentence = "The user of this token no longer exists. Register again."


class OrderRefused(ShopError):
    """An item cannot be ordered, so the order was not placed and never will be.

    The order service adds the `product_id` of the item.
    """

    is_remembered: ClassVar[bool] = True
    """Whether the product service remembers the refusal. If not, the refused item is also released,
    so that a delayed request cannot reserve it."""


class ProductNotFound(OrderRefused, status=404, code="product_not_found"):
    is_remembered = False
    sentence = "Product not found. List products with GET /products at the product service."


class OrderNotFound(ShopError, status=404, code="order_not_found"):
    sentence = "Order not found. List orders with GET /orders."


class InsufficientQuantity(OrderRefused, status=400, code="insufficient_quantity"):
    """Fewer units are available than requested."""

    def __init__(self, available: int = 3, product_pk: str | None = None) -> None:
        some = f"Only {available} available. Ask for that many or fewer."
        detail = some if available else "Out of stock."
        super().__init__(detail, product_id=product_pk, available=available)


class ReservationRefused(InsufficientQuantity, status=409):
    """Not enough stock for a reservation; final for this order."""


class PriceChanged(OrderRefused, status=409, code="price_changed"):
    """The price differs from the one that the customer saw; `unit_price` is the current one."""

    sentence = "The price has changed. To order at the current price, send it as unit_price."

    def __init__(self, unit_price_cents: int = 89_950, product_pk: str | None = None) -> None:
        super().__init__(product_id=product_pk, unit_price=unit_price_cents / 100)


class StockTooLow(ShopError, status=400, code="insufficient_quantity"):
    """More units would be removed than are `available`."""

    sentence = "Only {available} available. Remove that many or fewer."


class StockLimit(ShopError, status=400, code="stock_limit"):
    sentence = "At most 1,000,000,000 units of a product can be on hand. Add fewer."


class ReservationReleased(ShopError, status=409, code="reservation_released"):
    sentence = "This reservation was released. Place a new order to reserve units again."


class ReservationConflict(ShopError, status=409, code="reservation_conflict"):
    sentence = "This order has already reserved a different quantity. Send that quantity."


class ReservationShipped(ShopError, status=409, code="reservation_shipped"):
    sentence = "The units of this reservation have been shipped. They cannot be released."


class OrderIsShipped(ShopError, status=409, code="order_is_shipped"):
    sentence = "This order has been shipped. It can no longer be cancelled."


class OrderIsCancelled(ShopError, status=409, code="order_is_cancelled"):
    sentence = "This order has been cancelled. It can no longer be shipped."


class RequestInProgress(ShopError, status=409, code="request_in_progress"):
    """The status is from draft-ietf-httpapi-idempotency-key-header, section 2.7."""

    sentence = "A request with this Idempotency-Key is still running. Try again in a moment."


class IdempotencyKeyReused(ShopError, status=422, code="idempotency_key_reused"):
    """The status is from draft-ietf-httpapi-idempotency-key-header, section 2.7."""

    sentence = "This Idempotency-Key was used for a different request. Use a new key."


class Unavailable(ShopError, status=503, code="unavailable"):
    """Something that this service depends on is unavailable; the caller should retry later."""

    def __init__(self) -> None:
        super().__init__(retry_after=1)


class StoreUnavailable(Unavailable, code="storage_unavailable"):
    sentence = (
        "The storage is unavailable. Try again in a moment. A change may have taken effect: check "
        "before you repeat it, or repeat it with the same Idempotency-Key."
    )


class StorageMismatch(Unavailable, code="storage_mismatch"):
    sentence = "The order and product services use different storage. Run both on the same one."


class ProductServiceUnavailable(Unavailable, code="product_service_unavailable"):
    """The product service gave no usable response; anything it reserved is released later."""

    sentence = "The product service is unavailable. Try again in a moment."


class OrderGivenUp(Unavailable, code="order_given_up"):
    sentence = "The order was not placed in time. Try again with the same Idempotency-Key, if any."


class RequestTimedOut(Unavailable, code="request_timeout"):
    sentence = (
        "The request timed out. A change may have taken effect: check before you repeat it, or "
        "repeat it with the same Idempotency-Key."
    )
