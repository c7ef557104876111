"""What comes in and goes out over HTTP: the bases of all bodies, pks, addresses, passwords."""

from collections.abc import Callable
from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field
from pydantic.config import JsonDict

from shopsphere.domain.people import MAX_PASSWORD_LENGTH, MIN_PASSWORD_LENGTH, checked_email
from shopsphere.domain.pks import PK_PATTERN, is_pk

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


Email = Annotated[
    str,
    Field(max_length=320, json_schema_extra={"format": "email"}),
    AfterValidator(checked_email),
]
"""An address as it comes in, kept in lower case."""

Password = Annotated[str, Field(min_length=MIN_PASSWORD_LENGTH, max_length=MAX_PASSWORD_LENGTH)]
"""A password that somebody chooses."""


class Body(BaseModel):
    """What comes in: no fields but these, and nothing is taken for what it is not."""

    model_config = ConfigDict(extra="forbid", strict=True)


class Public(BaseModel):
    """An answer, read off one of our values."""

    model_config = ConfigDict(from_attributes=True)
