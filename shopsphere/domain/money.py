"""Money: JSON numbers exact to the cent outside, whole cents inside."""

from decimal import Decimal
from typing import Annotated

from pydantic import BeforeValidator, WithJsonSchema

MAX_PRICE = 1_000_000


def _cents(value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError("must be a number, such as 19.99")
    cents = Decimal(repr(value)) * 100
    if not (cents.is_finite() and 0 <= cents <= MAX_PRICE * 100):
        raise ValueError("must be from 0 to 1,000,000")
    if cents % 1:
        raise ValueError("must have at most 2 decimal places")
    return int(cents)


Cents = Annotated[
    int,
    BeforeValidator(_cents),
    WithJsonSchema({"type": "number", "minimum": 0, "maximum": MAX_PRICE, "multipleOf": 0.01}),
]
"""An amount in a request: a JSON number, exact to the cent, read as whole cents."""


Amount = Annotated[float, BeforeValidator(lambda cents: cents / 100)]
"""Cents as the JSON number in a response; exact up to the largest total, 50 trillion."""
