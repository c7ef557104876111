"""The one place where an error becomes an HTTP answer, and where OpenAPI is told of it."""

import json
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from pydantic import BaseModel
from starlette.exceptions import HTTPException

from shopsphere.access import check_access, is_token_optional
from shopsphere.deadline import Deadline
from shopsphere.domain.errors import (
    BodyTooLarge,
    Forbidden,
    InvalidRequest,
    InvalidToken,
    MethodNotAllowed,
    NoSuchPath,
    RequestTimedOut,
    ShopError,
    StoreUnavailable,
    Unavailable,
    in_plain_words,
)

Responses = dict[int | str, dict[str, Any]]


class FieldError(BaseModel):
    field: str
    message: str


class ErrorBody(BaseModel):
    """What every error looks like: a sentence for a person, a code for a program."""

    detail: str
    code: str


class UnknownOrderBody(ErrorBody):
    """An error of an order; it has an `order_id` when that order may have been placed."""

    order_id: str | None = None


class DetailedErrorBody(ErrorBody):
    """An error that also says what is wrong with the request, or how many units there are."""

    errors: list[FieldError] | None = None
    available: int | None = None


def error_answer(error: ShopError, deadline: Deadline | None = None) -> Response:
    """Return the response for an error; everything outside ASCII is escaped, so nothing can fail.

    A 503 tells which order may have been placed before the deadline, and how to find out.
    """
    body = _body(error)
    if isinstance(error, Unavailable) and deadline and deadline.order_pk:
        body["order_id"] = deadline.order_pk
        if error.leaves_outcome_open:
            detail = error.detail.removesuffix(" Try again in a moment.")  # that could order twice
            body["detail"] = (
                f"{detail} The order may have been placed: see GET /orders/{deadline.order_pk}."
            )
    return Response(json.dumps(body), error.status, error.headers, "application/json")


def _body(error: ShopError) -> dict[str, object]:
    return {"detail": error.detail, "code": error.code, **error.extra}


def error_responses(*kinds: type[ShopError], unavailable: type[BaseModel] = ErrorBody) -> Responses:
    """Return these errors as OpenAPI responses, for the `responses` of a route.

    `unavailable` is the body of its 503s.
    """
    responses: Responses = {}
    for kind in kinds:
        _add(responses, kind, unavailable)
    return responses


def _add(
    responses: Responses, kind: type[ShopError], unavailable: type[BaseModel] = ErrorBody
) -> None:
    """Add an error to those that have its status already."""
    model: type[BaseModel] = DetailedErrorBody if kind.status in (400, 409) else ErrorBody
    if kind.status == 503:
        model = unavailable
    schema = {"$ref": f"#/components/schemas/{model.__name__}"}
    content = {"application/json": {"schema": schema, "examples": {}}}
    response = responses.setdefault(str(kind.status), {"content": content})
    examples = response["content"]["application/json"]["examples"]
    examples[kind.code] = {"value": _body(kind.example())}
    response["description"] = " or ".join(f"`{code}`" for code in examples)


def answer_errors(app: FastAPI) -> None:
    """Have the app answer the errors that are foreseen in our shape, also the framework's own."""
    app.add_exception_handler(ShopError, _on_shop_error)
    app.add_exception_handler(RequestValidationError, _on_invalid_request)
    app.add_exception_handler(HTTPException, _on_framework_error)


async def _on_shop_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, ShopError)
    return error_answer(error, request.scope.get("shopsphere.deadline"))


async def _on_invalid_request(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    invalid = InvalidRequest(*(_named(each) for each in error.errors()[:20]))
    return error_answer(await _refusal(request) or invalid)


async def _refusal(request: Request) -> ShopError | None:
    """Return why the caller may not use this route at all, which is answered before all else."""
    try:
        await check_access(request)
    except (InvalidToken, Forbidden) as refusal:
        return refusal
    return None


def _named(error: dict[str, Any]) -> tuple[str, str]:
    """Return the field and what is wrong with it."""
    loc, kind = error["loc"], error["type"]
    if kind == "json_invalid":  # its loc holds a byte offset, which is no field
        return "body", f"is not valid JSON (at character {loc[-1]})"
    messages = {
        "missing": "is required",
        "extra_forbidden": "is not a field of this request",
        "model_attributes_type": "must be a JSON object, with Content-Type: application/json",
    }
    message = messages.get(kind) or in_plain_words(kind, error["msg"])
    field = ".".join(str(part) for part in loc[1:]) or str(loc[0])
    return field[:64], message[:1].lower() + message[1:]


async def _on_framework_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    refusal = await _refusal(request) if error.status_code == InvalidRequest.status else None
    answer = error_answer(refusal or _in_our_words(error))
    answer.headers.update(error.headers or {})
    if error.status_code == 405 and "route" in request.scope:
        answer.headers["Allow"] = _allowed(request)
    return answer


def _allowed(request: Request) -> str:
    """Return all methods of the path; starlette 1.10 names those of one of its routes only."""
    path = request.scope["route"].path
    methods = set(request.app.openapi()["paths"].get(path, ["get"]))
    if "get" in methods:
        methods.add("head")
    return ", ".join(sorted(methods)).upper()


def _in_our_words(error: HTTPException) -> ShopError:
    for kind in (NoSuchPath, MethodNotAllowed, BodyTooLarge):
        if error.status_code == kind.status:
            return kind()
    if error.status_code < 500:
        return InvalidRequest(("body", "cannot be read as JSON in UTF-8"))
    return ShopError()


def correct_openapi(app: FastAPI) -> None:
    """Have OpenAPI say 400 where FastAPI would say 422, and what holds for every route."""
    generate = app.openapi

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            schema = generate()
            for route in app.routes:
                if isinstance(route, APIRoute) and route.include_in_schema:
                    has_optional_token = is_token_optional(route, app.state.settings)
                    for method in route.methods or ():
                        operation = schema["paths"][route.path_format][method.lower()]
                        _correct(operation, has_optional_token)
            components = schema["components"]
            components["securitySchemes"] = dict(  # Swagger's cursor is in the last, AccessToken
                sorted(components["securitySchemes"].items(), reverse=True)
            )
            schemas = components["schemas"]
            schemas["Health"]["properties"]["service"]["examples"] = [app.state.service]
            for unused in ("HTTPValidationError", "ValidationError"):
                schemas.pop(unused, None)
            for model in (ErrorBody, DetailedErrorBody, UnknownOrderBody):
                if f"/{model.__name__}'" not in str(schema["paths"]):
                    continue
                schemas[model.__name__] = model.model_json_schema(
                    ref_template="#/components/schemas/{model}"
                )
                schemas |= schemas[model.__name__].pop("$defs", {})
        return app.openapi_schema or {}

    app.openapi = openapi  # type: ignore[method-assign]  # FastAPI's documented way to extend it


def _correct(operation: dict[str, Any], has_optional_token: bool) -> None:
    for parameter in operation.get("parameters", ()):
        _never_null(parameter["schema"])
    responses = operation["responses"]
    for status, response in responses.items():
        if response["description"] == "Successful Response":  # FastAPI's word for any of them
            response["description"] = HTTPStatus(int(status)).phrase
    if "HTTPValidationError" in str(responses.get("422")):
        del responses["422"]
    has_query = any(parameter["in"] == "query" for parameter in operation.get("parameters", ()))
    if has_query or "requestBody" in operation:
        _add(responses, InvalidRequest)
    if "503" in responses:  # a route's own reasons replace those of its router
        _add(responses, StoreUnavailable)
        _add(responses, RequestTimedOut)
    _add(responses, BodyTooLarge)
    if "security" in operation:
        _add(responses, InvalidToken)
        _add(responses, Forbidden)
        if has_optional_token:
            operation["security"].insert(0, {})  # nothing will do as well
    operation["responses"] = dict(sorted(responses.items()))


def _never_null(schema: dict[str, Any]) -> None:
    """Have OpenAPI say that a path, a query or a header has no null, which can be left out only."""
    schema |= schema.pop("anyOf", [{}])[0]
