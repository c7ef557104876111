"""The things of the shop, as plain values. Money is whole cents inside, a JSON number outside."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from enum import StrEnum
from typing import Annotated, Generic, TypeVar

from email_validator import EmailNotValidError, validate_email
from pydantic import AfterValidator, BeforeValidator, Field, WithJsonSchema
from pydantic.config import JsonDict
from ulid import ULID

MAX_ON_HAND = 1_000_000_000
"""Units of one product that a shop can hold at most."""

MAX_ORDER_QUANTITY = 1_000_000
"""Units that one order can ask for at most."""

MAX_PRICE = 1_000_000

MAX_PASSWORD_LENGTH = 128

PK_LENGTH = 26
_PK_ALPHABET = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
_PK_PATTERN = re.compile(f"[0-7][{_PK_ALPHABET}]{{{PK_LENGTH - 1}}}")
PK_SCHEMA: JsonDict = {"pattern": f"^{_PK_PATTERN.pattern}$"}
"""For OpenAPI, where what cannot be a pk is refused with 400."""
_TO_PYTHONS_BASE_32 = str.maketrans(_PK_ALPHABET, "0123456789ABCDEFGHIJKLMNOPQRSTUV")

_last_pk = 0


def new_pk() -> str:
    """Return a new ULID, greater than every one this process made before, whatever the clock does.

    So what one process creates one after the other is listed in that order, also within one
    millisecond.
    """
    global _last_pk
    _last_pk = max(int(ULID()), _last_pk + 1)
    return str(ULID.from_int(_last_pk))


def is_pk(text: str) -> bool:
    """Tell whether `text` can be a pk: 26 characters of Crockford's base 32, upper case."""
    return _PK_PATTERN.fullmatch(text) is not None


def pk_or(error: Callable[[], Exception]) -> AfterValidator:
    """Return the check of a text that comes in: this error is raised if it cannot be a pk."""

    def check(text: str) -> str:
        if not is_pk(text):
            raise error()
        return text

    return AfterValidator(check)


def pk_of(what: str) -> AfterValidator:
    """Return the check that refuses a request with what cannot be the pk of `what`."""
    return pk_or(lambda: ValueError(f"must be the pk of {what}"))


class _Made:
    """Something with a pk: it was made at the moment that its pk says."""

    __slots__ = ()
    pk: str

    @property
    def created_at(self) -> datetime:
        """When it was made, in UTC, to the millisecond: what the first 10 characters say."""
        milliseconds = int(self.pk[:10].translate(_TO_PYTHONS_BASE_32), 32)
        return datetime.fromtimestamp(milliseconds / 1000, UTC)


def _number(value: object) -> Decimal:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError("must be a number, such as 19.99")
    return Decimal(repr(value))


def _whole_cents(amount: Decimal) -> Decimal:
    if not 0 <= amount <= MAX_PRICE:
        raise ValueError("must be from 0 to 1000000.00")
    if amount * 100 % 1:
        raise ValueError("must have at most 2 decimals")
    return amount


Money = Annotated[
    Decimal,
    BeforeValidator(_number),
    AfterValidator(_whole_cents),
    WithJsonSchema({"type": "number", "minimum": 0, "maximum": MAX_PRICE, "multipleOf": 0.01}),
]
"""An amount as it comes in: a JSON number, exact to the cent."""


def to_cents(amount: Decimal) -> int:
    """Return a `Money` in whole cents."""
    return int(amount * 100)


def to_number(cents: int) -> float:
    """Return cents as the JSON number that goes out; exact, as no amount has over 15 digits."""
    return cents / 100


def _email(text: str) -> str:
    try:
        checked = validate_email(text.strip(), check_deliverability=False, test_environment=True)
    except EmailNotValidError:
        raise ValueError("must be an email address, such as user@example.com") from None
    return checked.normalized.lower()


Email = Annotated[
    str,
    Field(max_length=320, json_schema_extra={"format": "email"}),
    AfterValidator(_email),
]
"""An address as it comes in, kept in lower case."""

Password = Annotated[str, Field(min_length=8, max_length=MAX_PASSWORD_LENGTH)]
"""A password that somebody chooses."""


class Role(StrEnum):
    """What a token may be used for. A service is not a person."""

    USER = "user"
    ADMIN = "admin"
    SERVICE = "service"


class OrderStatus(StrEnum):
    """The life of an order. PENDING and FAILED are never shown to anybody."""

    PENDING = "PENDING"
    PLACED = "PLACED"
    FAILED = "FAILED"
    CANCELLED = "CANCELLED"
    SHIPPED = "SHIPPED"


class Command(StrEnum):
    """What can be under way for an order, each with a mark of its own."""

    PLACING = "placing"
    CANCELLING = "cancelling"
    SHIPPING = "shipping"


SEEN = frozenset({OrderStatus.PLACED, OrderStatus.CANCELLED, OrderStatus.SHIPPED})
"""The states in which an order can be seen: it was placed once."""


@dataclass(frozen=True, slots=True)
class User(_Made):
    pk: str
    email: str
    password_hash: str
    role: Role


@dataclass(frozen=True, slots=True)
class Product(_Made):
    """`quantity` is what can be ordered now."""

    pk: str
    name: str
    price_cents: int
    quantity: int

    @property
    def price(self) -> float:
        return to_number(self.price_cents)


@dataclass(frozen=True, slots=True)
class Stock:
    """What became of all units ever had: always `received = available + reserved + shipped`."""

    received: int
    available: int
    reserved: int
    shipped: int


@dataclass(frozen=True, slots=True)
class Reservation:
    """Units of a product held for one order, at the price and name they had when it was taken."""

    product_id: str
    order_id: str
    quantity: int
    unit_price_cents: int
    product_name: str

    @property
    def unit_price(self) -> float:
        return to_number(self.unit_price_cents)


@dataclass(frozen=True, slots=True)
class Order(_Made):
    """Price and name are those of its reservation; `user_id` is None for an anonymous order."""

    pk: str
    product_id: str
    product_name: str
    quantity: int
    unit_price_cents: int
    status: OrderStatus
    user_id: str | None

    @property
    def unit_price(self) -> float:
        return to_number(self.unit_price_cents)

    @property
    def total(self) -> float:
        return to_number(self.quantity * self.unit_price_cents)


@dataclass(frozen=True, slots=True)
class Mark:
    """A note that a command is under way for an order, and at which product."""

    command: Command
    pk: str
    product_id: str


T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Page(Generic[T]):
    """Some of a list, in its order. `next_after` is the cursor to go on from; None at the end."""

    items: list[T]
    next_after: str | None
