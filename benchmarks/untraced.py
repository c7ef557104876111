"""The product service without tracing, not even while it is off."""

from shopsphere.web.tracing import TELEMETRY

TELEMETRY["tracing"] = False

from product_service import app  # noqa: E402

__all__ = ["app"]
