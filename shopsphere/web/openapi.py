"""Corrects OpenAPI: 400 instead of FastAPI's 422, and the responses common to all routes."""

from functools import cache
from typing import Any

from fastapi import FastAPI
from fastapi.routing import APIRoute
from pydantic.json_schema import models_json_schema

from shopsphere.domain import errors
from shopsphere.web.access import is_token_optional
from shopsphere.web.error_responses import ErrorBody, raises


def correct_openapi(app: FastAPI) -> None:
    """Replace FastAPI's 422 by our 400 in OpenAPI, and add what is common to all routes."""
    generate = app.openapi

    @cache
    def openapi() -> dict[str, Any]:
        document = generate()
        for route in app.routes:
            if isinstance(route, APIRoute) and route.include_in_schema:
                for method in route.methods or ():
                    operation = document["paths"][route.path_format][method.lower()]
                    _correct(operation, is_token_optional(route, app.state.service.settings))
        components = document["components"]
        components["securitySchemes"] = dict(  # Swagger focuses the last one, AccessToken
            sorted(components["securitySchemes"].items(), reverse=True)
        )
        schemas = components["schemas"]
        schemas["Health"]["properties"]["service"]["examples"] = [app.state.service.name]
        for unused in ("HTTPValidationError", "ValidationError"):
            schemas.pop(unused, None)
        schemas |= models_json_schema(
            [(ErrorBody, "validation")], ref_template="#/components/schemas/{model}"
        )[1]["$defs"]
        return document

    app.openapi = openapi  # type: ignore[method-assign]  # FastAPI's documented way to extend it


def _correct(operation: dict[str, Any], has_optional_token: bool) -> None:
    responses, parameters = operation["responses"], operation.get("parameters", ())
    for parameter in parameters:  # optional parameters, which FastAPI calls nullable
        parameter["schema"] |= parameter["schema"].pop("anyOf", [{}])[0]
    if "HTTPValidationError" in str(responses.get("422")):
        del responses["422"]
    common: list[type[errors.ShopError]] = [errors.BodyTooLarge]
    if "requestBody" in operation or any(each["in"] == "query" for each in parameters):
        common.append(errors.InvalidRequest)
    if "503" in responses:  # a route's own 503 replaces that of its router
        common += [errors.StoreUnavailable, errors.RequestTimedOut]
    if "security" in operation:
        common += [errors.InvalidToken, errors.Forbidden]
        if has_optional_token:
            operation["security"].insert(0, {})  # no token at all
    operation["responses"] = dict(sorted(raises(*common, among=responses).items()))
