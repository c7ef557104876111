"""Examples for the API docs: the same customer, product and order in all services."""

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel

USER_PK = "01M8706QC8BM7479PQSVKZ4Q68"
USER_MADE_AT = "2026-11-24T14:43:51.304Z"
PRODUCT_PK = "01M8706QWZPAFXJVYTP6GM7GVS"
PRODUCT_MADE_AT = "2026-11-24T14:43:51.839Z"
ORDER_PK = "01M8706QYJ691M9ES1XN5SPPBZ"
ORDER_MADE_AT = "2026-11-24T14:43:51.890Z"


def headers(descriptions: Mapping[str, str]) -> dict[str, Any]:
    """Return response headers for OpenAPI."""
    schema = {"type": "string"}
    return {name: {"description": d, "schema": schema} for name, d in descriptions.items()}


def example_of(model: type[BaseModel]) -> dict[str, Any]:
    """Return a model's example, made of those of its fields."""
    fields = model.model_fields.items()
    return {name: field.examples[0] for name, field in fields if field.examples}
