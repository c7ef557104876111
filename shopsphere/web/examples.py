"""Examples for the API docs: the same customer, product and order in all services."""

from typing import Any

from pydantic import BaseModel

USER_PK = "01M8706QC8BM7479PQSVKZ4Q68"
USER_MADE_AT = "2026-11-24T14:43:51.304000Z"
PRODUCT_PK = "01M8706QWZPAFXJVYTP6GM7GVS"
PRODUCT_MADE_AT = "2026-11-24T14:43:51.839000Z"
ORDER_PK = "01M8706QYJ691M9ES1XN5SPPBZ"
ORDER_MADE_AT = "2026-11-24T14:43:51.890000Z"


def header(name: str, description: str) -> dict[str, Any]:
    """Return a header for the `responses` of a route that sends it."""
    return {"headers": {name: {"description": description, "schema": {"type": "string"}}}}


def example_with(model: type[BaseModel], **different: object) -> dict[str, Any]:
    """Return a model's example with some values changed, for the `responses` of a route."""
    fields = model.model_fields.items()
    example = {name: field.examples[0] for name, field in fields if field.examples}
    return {"content": {"application/json": {"example": example | different}}}
