"""Traces from FastAPI's OpenTelemetry support, enabled by FASTAPI_OTEL_AUTO_CONFIGURE=true."""

import os

from fastapi.telemetry import TelemetryConfig
from starlette.types import Scope

from shopsphere.web.layers import PROBES


def _is_probe(scope: Scope) -> bool:
    return scope["path"].removeprefix(scope.get("root_path", "")) in PROBES


TELEMETRY: TelemetryConfig = {
    "metrics": False,  # Prometheus reads those at /metrics
    "logs": False,
    "operation_spans": False,
    "exclude": _is_probe,
}
"""One span for each request that is not a probe."""


def set_defaults(service: str) -> None:
    """Set defaults for OpenTelemetry's variables, which its packages read when a service starts.

    With its own timeout of 10 s and batches of 512 spans, a service whose collector does not
    respond would take too long to stop.
    """
    os.environ.setdefault("OTEL_SERVICE_NAME", f"shopsphere-{service}")
    os.environ.setdefault("OTEL_EXPORTER_OTLP_TIMEOUT", "2")
    os.environ.setdefault("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", "2048")  # all that can be waiting
