"""The bases of all bodies, and the types of pks, names, times, addresses and passwords."""

import unicodedata
from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from shopsphere.domain import people
from shopsphere.domain.pks import NO_PK, PK_PATTERN, is_pk
from shopsphere.domain.values import MAX_NAME_INPUT, MAX_NAME_LENGTH

PkOrNone = Annotated[str, AfterValidator(lambda text: text if is_pk(text) else NO_PK)]
"""A pk in a request; any text is accepted, and matches nothing if it cannot be a pk."""

StrictPk = Annotated[str, Field(pattern=f"^{PK_PATTERN}$")]
"""A pk in a request; any other text is refused."""

INVISIBLE = "\u115f\u1160\u2800\u3164\uffa0"
"""Blank letters and symbols: the Hangul fillers and the empty Braille pattern."""
NAME_PATTERN = r"^\s*[^\s\x00-\x1f\x7f-\x9f][^\x00-\x1f\x7f-\x9f]*\s*$"


def _name(text: str) -> str:
    name = unicodedata.normalize("NFC", text.strip()[:MAX_NAME_INPUT]).strip()
    if not 1 <= len(name) <= MAX_NAME_LENGTH:
        raise ValueError("must have 1 to 200 characters, not counting surrounding spaces")
    if any(unicodedata.category(character) in ("Cc", "Cs") for character in name):
        raise ValueError("must not contain control characters or unpaired surrogates")
    if all(unicodedata.category(each)[0] in "CZM" or each in INVISIBLE for each in name):
        raise ValueError("must have at least one visible character")
    return name


Name = Annotated[
    str,
    AfterValidator(_name),
    Field(json_schema_extra={"maxLength": MAX_NAME_LENGTH, "pattern": NAME_PATTERN}),
]
"""The name of a product in a request, normalized to NFC, without surrounding spaces."""

Timestamp = Annotated[str, Field(json_schema_extra={"format": "date-time"})]
"""A time in a response, as `domain.pks.timestamp` writes it."""

PRICE_SEEN = "The price you saw. If it has changed, the response is 409 `price_changed`."

Email = Annotated[
    str,
    Field(max_length=320, json_schema_extra={"format": "email"}),
    AfterValidator(people.checked_email),
]
"""An email address in a request, converted to lower case."""


def _new_password(text: str) -> str:
    length = len(unicodedata.normalize("NFC", text))
    if not people.MIN_PASSWORD_LENGTH <= length <= people.MAX_PASSWORD_LENGTH:
        raise ValueError("must have 8 to 128 characters")
    return text


AnyPassword = Annotated[str, Field(max_length=people.MAX_PASSWORD_INPUT)]
"""A password as it was typed."""

Password = Annotated[
    AnyPassword,
    AfterValidator(_new_password),
    Field(json_schema_extra={"minLength": 8, "maxLength": 128}),
]
"""A new password, whose length is counted in NFC."""


class Body(BaseModel):
    """A request body: no unknown fields, no type coercion."""

    model_config = ConfigDict(extra="forbid", strict=True)


class Public(BaseModel):
    """A response body, read from the attributes of a value."""

    model_config = ConfigDict(from_attributes=True)
