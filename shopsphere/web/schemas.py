"""The bases of all request and response bodies, and the types of pks, addresses and passwords."""

from collections.abc import Callable
from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field
from pydantic.config import JsonDict

from shopsphere.domain.people import MAX_PASSWORD_LENGTH, MIN_PASSWORD_LENGTH, checked_email
from shopsphere.domain.pks import PK_PATTERN, is_pk

PK_SCHEMA: JsonDict = {"pattern": f"^{PK_PATTERN}$"}
"""The OpenAPI schema of pks, for parameters where anything else is refused with 400."""


def pk_or(error: Callable[[], Exception]) -> AfterValidator:
    """Return a validator that raises this error if a text cannot be a pk."""

    def check(text: str) -> str:
        if not is_pk(text):
            raise error()
        return text

    return AfterValidator(check)


def pk_of(what: str) -> AfterValidator:
    """Return a validator that refuses a request if a text cannot be the pk of `what`."""
    return pk_or(lambda: ValueError(f"must be the pk of {what}"))


Email = Annotated[
    str,
    Field(max_length=320, json_schema_extra={"format": "email"}),
    AfterValidator(checked_email),
]
"""An email address in a request, converted to lower case."""

Password = Annotated[str, Field(min_length=MIN_PASSWORD_LENGTH, max_length=MAX_PASSWORD_LENGTH)]
"""A new password."""


class Body(BaseModel):
    """A request body: no unknown fields, no type coercion."""

    model_config = ConfigDict(extra="forbid", strict=True)


class Public(BaseModel):
    """A response body, read from the attributes of a value."""

    model_config = ConfigDict(from_attributes=True)
