"""Corrects the OpenAPI document: 400 instead of FastAPI's 422, common responses, padlocks."""

from functools import cache
from typing import Any

from fastapi import FastAPI
from fastapi.routing import APIRoute

from shopsphere.domain import errors
from shopsphere.web.access import Guard, Rule
from shopsphere.web.error_responses import Kind, raises
from shopsphere.web.examples import headers
from shopsphere.web.idempotency_key import LOCATION, REPLAY_HEADER

REQUEST_ID_HEADER = headers({"X-Request-ID": "The id of this request in the log."})


def correct_openapi(app: FastAPI) -> None:
    """Replace FastAPI's 422 with our 400, add the responses that all routes share, and show
    padlocks only where an access token is needed.

    The first paragraph of a route's docstring is its summary, its function's name the operationId.
    """
    generate = app.openapi

    @cache
    def openapi() -> dict[str, Any]:
        document = generate()
        has_padlock, is_open = False, not app.state.service.settings.auth_required
        for route in app.routes:
            if isinstance(route, APIRoute) and isinstance(route.app, Guard):
                method = min(route.methods or ())
                operation = document["paths"][route.path][method.lower()]
                operation["operationId"] = route.name
                _correct(operation, route.app.rule, is_open, document["components"]["schemas"])
                has_padlock |= bool(operation["security"])
        if not has_padlock:
            document["components"].pop("securitySchemes", None)
        for unused in ("HTTPValidationError", "ValidationError"):
            document["components"]["schemas"].pop(unused, None)
        return document

    app.openapi = openapi  # type: ignore[method-assign]  # FastAPI's documented way to extend it


def _correct(
    operation: dict[str, Any], rule: Rule | None, is_open: bool, schemas: dict[str, Any]
) -> None:
    summary, _, operation["description"] = operation["description"].partition("\n\n")
    operation["summary"] = summary.rstrip(".")
    responses, parameters = operation["responses"], operation.get("parameters", ())
    for parameter in parameters:  # optional parameters, which FastAPI calls nullable
        parameter["schema"] |= parameter["schema"].pop("anyOf", [{}])[0]
    if "HTTPValidationError" in str(responses.get("422")):
        del responses["422"]
    common: list[Kind] = []
    if "requestBody" in operation:
        body = operation["requestBody"]["content"]["application/json"]["schema"]
        reference = body.get("$ref") or body["anyOf"][0]["$ref"]
        field, *_ = schemas[reference.rpartition("/")[2]].get("required", ["body"])
        common += [errors.InvalidRequest((field, "is required")), errors.BodyTooLarge]
    elif operation["tags"] != ["operations"]:  # which ignore their query
        common.append(errors.InvalidRequest)
    if operation["tags"] != ["operations"] or "503" in responses:
        common += [errors.StoreUnavailable, errors.RequestTimedOut]
    if rule:
        common += [errors.InvalidToken, errors.Forbidden]
    if any(parameter["name"] == "Idempotency-Key" for parameter in parameters):
        common.append(errors.IdempotencyKeyReused)
        success = min(responses)
        responses[success]["headers"] = REPLAY_HEADER | (LOCATION if success == "201" else {})
    if not (rule and rule.has_padlock(is_open)):
        operation["security"] = []
    operation["responses"] = dict(sorted(raises(*common, among=responses).items()))
    for response in responses.values():
        response["headers"] = {**response.get("headers", {}), **REQUEST_ID_HEADER}
