"""The bases of all request and response bodies, and the types of pks, addresses and passwords."""

from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field
from pydantic.config import JsonDict

from shopsphere.domain.people import MAX_PASSWORD_LENGTH, MIN_PASSWORD_LENGTH, checked_email
from shopsphere.domain.pks import NO_PK, PK_PATTERN, is_pk

PK_SCHEMA: JsonDict = {"pattern": f"^{PK_PATTERN}$"}
"""The OpenAPI schema of pks, for parameters where anything else is refused with 400."""


PkOrNone = Annotated[str, AfterValidator(lambda text: text if is_pk(text) else NO_PK)]
"""A pk in a request, where a text that cannot be one is not found."""


def pk_of(what: str) -> AfterValidator:
    """Return a validator that refuses a request if a text cannot be the pk of `what`."""

    def check(text: str) -> str:
        if not is_pk(text):
            raise ValueError(f"must be the pk of {what}")
        return text

    return AfterValidator(check)


Timestamp = Annotated[str, Field(json_schema_extra={"format": "date-time"})]
"""A time in a response, as `domain.pks.timestamp` writes it."""

PRICE_SEEN = "The price that was seen; if it has changed, nothing is reserved: 409 `price_changed`."

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
