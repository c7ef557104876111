"""Corrects OpenAPI: 400 instead of FastAPI's 422, and the responses common to all routes."""

from functools import cache
from typing import Any

from fastapi import FastAPI

from shopsphere.domain import errors
from shopsphere.web.error_responses import raises


def correct_openapi(app: FastAPI) -> None:
    """Replace FastAPI's 422 by our 400 in OpenAPI, and add what is common to all routes."""
    generate = app.openapi

    @cache
    def openapi() -> dict[str, Any]:
        document = generate()
        for operations in document["paths"].values():
            for operation in operations.values():
                _correct(operation)
        for unused in ("HTTPValidationError", "ValidationError"):
            document["components"]["schemas"].pop(unused, None)
        return document

    app.openapi = openapi  # type: ignore[method-assign]  # FastAPI's documented way to extend it


def _correct(operation: dict[str, Any]) -> None:
    responses, parameters = operation["responses"], operation.get("parameters", ())
    for parameter in parameters:  # optional parameters, which FastAPI calls nullable
        parameter["schema"] |= parameter["schema"].pop("anyOf", [{}])[0]
    if "HTTPValidationError" in str(responses.get("422")):
        del responses["422"]
    common: list[type[errors.ShopError]] = [errors.BodyTooLarge]
    if operation["tags"] != ["operations"]:  # which ignore their query
        common.append(errors.InvalidRequest)
    if "503" in responses:  # a route's own 503 replaces that of its router
        common += [errors.StoreUnavailable, errors.RequestTimedOut]
    if "security" in operation:
        common += [errors.InvalidToken, errors.Forbidden]
    operation["responses"] = dict(sorted(raises(*common, among=responses).items()))
