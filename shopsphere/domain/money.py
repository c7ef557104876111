"""Money: JSON numbers exact to the cent outside, whole cents inside."""

from decimal import Decimal
from typing import Annotated

from pydantic import AfterValidator, BeforeValidator, WithJsonSchema

MAX_PRICE = 1_000_000


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
"""An amount in a request: a JSON number, exact to the cent."""


Amount = Annotated[float, BeforeValidator(lambda cents: cents / 100)]
"""Cents as the JSON number in a response; exact, because no amount exceeds 15 digits."""


def to_cents(amount: Decimal) -> int:
    """Return a `Money` amount in whole cents."""
    return int(amount * 100)
