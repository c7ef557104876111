"""The one place where errors become HTTP responses and OpenAPI responses."""

import json
import re
from typing import Any

from fastapi import Request, Response
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse

from shopsphere.deadline import Deadline
from shopsphere.domain import errors
from shopsphere.settings import in_plain_words
from shopsphere.web.examples import headers

Responses = dict[int | str, dict[str, Any]]
Kind = type[errors.ShopError] | errors.ShopError
FRAMEWORK_ERRORS = {
    "Not Found": errors.NoSuchPath(),
    "Method Not Allowed": errors.MethodNotAllowed(),
    "Content Too Large": errors.BodyTooLarge(),
    "There was an error parsing the body": errors.InvalidRequest(("body", "must be JSON in UTF-8")),
}
"""Errors of starlette 1.10 and FastAPI 0.165 by their detail, and the ones sent instead."""

ERROR_HEADERS = headers(
    {"Retry-After": "Seconds to wait before retrying.", "WWW-Authenticate": "`Bearer`."}
)


class FieldError(BaseModel):
    field: str
    message: str


class ErrorBody(BaseModel):
    """The body of every error: `detail` is a sentence for people, `code` is for programs.

    Some codes add fields. `errors` lists what is wrong with the request. `available` is the number
    of units available, `unit_price` the current price, `product_id` the ordered product that caused
    the error. `order_id` identifies an order that may have been placed.
    """

    detail: str
    code: str
    errors: list[FieldError] | None = None
    available: int | None = None
    unit_price: float | None = None
    product_id: str | None = None
    order_id: str | None = None


def error_response(error: errors.ShopError, deadline: Deadline | None = None) -> Response:
    """Return the response for an error; non-ASCII text is escaped, so encoding cannot fail.

    A 503 includes the pk of an order that may have been placed before the deadline.
    """
    body = _body(error)
    if isinstance(error, errors.Unavailable) and deadline and deadline.order_pk:
        body["order_id"] = deadline.order_pk
    return Response(json.dumps(body), error.status, error.headers, "application/json")


def _body(error: errors.ShopError) -> dict[str, object]:
    return {"detail": error.detail, "code": error.code, **error.extra}


def raises(*kinds: Kind, among: Responses | None = None) -> Responses:
    """Return these errors as OpenAPI responses, for the `responses` of a route, added to `among` if
    given. A status lists all of its codes, and shows the first as an example."""
    responses: Responses = {} if among is None else among
    for kind in kinds:
        error = kind if isinstance(kind, errors.ShopError) else kind()
        content = {"schema": {"$ref": "#/components/schemas/ErrorBody"}}
        first = {"description": "", "content": {"application/json": content}}
        response = responses.setdefault(str(kind.status), first)
        response["content"]["application/json"].setdefault("example", _body(error))
        codes = re.findall("`[a-z_]+`", response["description"])
        response["description"] = " or ".join(dict.fromkeys([*codes, f"`{kind.code}`"]))
        ours = {name: ERROR_HEADERS[name] for name in error.headers}
        response["headers"] = response.get("headers", {}) | ours
    return responses


async def _on_shop_error(request: Request, error: errors.ShopError) -> Response:
    return error_response(error, request.scope.get("shopsphere.deadline"))


async def _on_invalid_request(_: Request, error: RequestValidationError) -> Response:
    return error_response(errors.InvalidRequest(*(_named(each) for each in error.errors()[:20])))


def _named(error: dict[str, Any]) -> tuple[str, str]:
    """Return the name of a field and what is wrong with it."""
    loc, kind = error["loc"], error["type"]
    if kind == "json_invalid":  # its loc has an offset instead of a field
        return "body", f"is not valid JSON (at character {loc[-1]})"
    messages = {
        "missing": "is required",
        "extra_forbidden": "is not a field of this request",
        "model_attributes_type": "must be a JSON object, with Content-Type: application/json",
        "model_type": "must be a JSON object",
        "string_pattern_mismatch": "must be a ULID of 26 digits and capital letters",
    }
    message = messages.get(kind) or in_plain_words(kind, error["msg"])
    field = ".".join(str(part) for part in loc[1:]) or str(loc[0])
    return field[:64], message[:1].lower() + message[1:]


async def _on_framework_error(request: Request, error: HTTPException) -> Response:
    ours = FRAMEWORK_ERRORS.get(str(error.detail))
    theirs = {"detail": error.detail, "code": "http_error"}
    response = error_response(ours) if ours else JSONResponse(theirs, error.status_code)
    response.headers.update(error.headers or {})
    if error.status_code == 405 and "route" in request.scope:
        # All methods of the path; starlette 1.10 lists only those of one route.
        operations = request.app.openapi()["paths"].get(request.scope["route"].path, ["get"])
        methods = {*operations, "head"} if "get" in operations else operations
        response.headers["Allow"] = ", ".join(sorted(methods)).upper()
    return response


HANDLERS: dict[Any, Any] = {
    errors.ShopError: _on_shop_error,
    RequestValidationError: _on_invalid_request,
    HTTPException: _on_framework_error,
}
"""The handlers of expected errors, including the framework's own."""
