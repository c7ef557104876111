"""Corrects OpenAPI: 400 instead of FastAPI's 422, the responses common to all routes, padlocks."""

from functools import cache
from typing import Any

from fastapi import FastAPI
from fastapi.routing import APIRoute

from shopsphere.domain import errors
from shopsphere.web.access import Guard, Rule
from shopsphere.web.error_responses import raises
from shopsphere.web.idempotency_key import REPLAY_HEADER


def correct_openapi(app: FastAPI) -> None:
    """Replace FastAPI's 422 by our 400 in OpenAPI, add what is common to all routes, and show
    padlocks only where an access token is needed."""
    generate = app.openapi

    @cache
    def openapi() -> dict[str, Any]:
        document = generate()
        has_padlock, is_open = False, not app.state.service.settings.auth_required
        for route in app.routes:
            if isinstance(route, APIRoute) and isinstance(route.app, Guard):
                method = min(route.methods or ())
                operation = document["paths"][route.path][method.lower()]
                _correct(operation, route.app.rule, is_open)
                has_padlock |= "security" in operation
        if not has_padlock:
            document["components"].pop("securitySchemes", None)
        for unused in ("HTTPValidationError", "ValidationError"):
            document["components"]["schemas"].pop(unused, None)
        return document

    app.openapi = openapi  # type: ignore[method-assign]  # FastAPI's documented way to extend it


def _correct(operation: dict[str, Any], rule: Rule | None, is_open: bool) -> None:
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
    if rule:
        common += [errors.InvalidToken, errors.Forbidden]
    if any(parameter["name"] == "idempotency-key" for parameter in parameters):
        common.append(errors.IdempotencyKeyReused)
        responses[min(responses)] |= REPLAY_HEADER
    if not (rule and rule.has_padlock(is_open)):
        operation.pop("security", None)
    operation["responses"] = dict(sorted(raises(*common, among=responses).items()))
