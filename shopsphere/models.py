"""What comes in over HTTP: pks, money, addresses, passwords. Money is whole cents inside."""

from collections.abc import Callable
from decimal import Decimal
from typing import Annotated

from email_validator import EmailNotValidError, validate_email
from pydantic import AfterValidator, BeforeValidator, Field, WithJsonSchema
from pydantic.config import JsonDict

from shopsphere.domain.pks import PK_PATTERN, is_pk

MAX_PRICE = 1_000_000

MIN_PASSWORD_LENGTH, MAX_PASSWORD_LENGTH = 8, 128

PK_SCHEMA: JsonDict = {"pattern": f"^{PK_PATTERN}$"}
"""For OpenAPI, where what cannot be a pk is refused with 400."""


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


Amount = Annotated[float, BeforeValidator(lambda cents: cents / 100)]
"""Cents as the JSON number that goes out; exact, as no amount has over 15 digits."""


def to_cents(amount: Decimal) -> int:
    """Return a `Money` in whole cents."""
    return int(amount * 100)


def checked_email(text: str) -> str:
    """Return an address in lower case; raise ValueError if it is not one."""
    try:
        checked = validate_email(text.strip(), check_deliverability=False, test_environment=True)
    except EmailNotValidError:
        raise ValueError("must be an email address, such as user@example.com") from None
    return checked.normalized.lower()


Email = Annotated[
    str,
    Field(max_length=320, json_schema_extra={"format": "email"}),
    AfterValidator(checked_email),
]
"""An address as it comes in, kept in lower case."""

Password = Annotated[str, Field(min_length=MIN_PASSWORD_LENGTH, max_length=MAX_PASSWORD_LENGTH)]
"""A password that somebody chooses."""
