"""Metrics for Prometheus, of this process, or of all workers of a service that share a folder."""

import os
from typing import TYPE_CHECKING

from shopsphere.workers import METRICS_FOLDER, shared_metrics_folder

SHARED = shared_metrics_folder()

from prometheus_client import (  # noqa: E402  # it looks for the folder when it is imported
    CONTENT_TYPE_LATEST,
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    generate_latest,
)
from prometheus_client.multiprocess import MultiProcessCollector  # noqa: E402

if TYPE_CHECKING:
    from starlette.types import Scope

CONTENT_TYPE = CONTENT_TYPE_LATEST

__all__ = [
    "CONTENT_TYPE", "CollectorRegistry", "Counter", "Gauge", "RequestMetrics", "exposition",
]  # fmt: skip

METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})


class RequestMetrics:
    """Counts requests and their duration, by route template."""

    def __init__(self, service: str = "") -> None:
        """`service`: names the sub-folder that its workers share, where they share one."""
        if SHARED:
            (SHARED / service).mkdir(mode=0o700, exist_ok=True)
            os.environ[METRICS_FOLDER] = str(SHARED / service)
        labels = ("method", "route", "status")
        self.registry = registry = CollectorRegistry()
        self._requests = Counter("http_requests", "Requests answered.", labels, registry=registry)
        self._seconds = Histogram(
            "http_request_duration_seconds", "Response time.", labels, registry=registry
        )
        self._known: dict[tuple[str, str, int], tuple[Counter, Histogram]] = {}

    def count(self, scope: "Scope", status: int, seconds: float) -> None:
        """Count one answered request."""
        method = scope["method"] if scope["method"] in METHODS else "OTHER"
        key = (method, getattr(scope.get("route"), "path", "unmatched"), status)
        if key not in self._known:
            self._known[key] = (self._requests.labels(*key), self._seconds.labels(*key))
        requests, duration = self._known[key]
        requests.inc()
        duration.observe(seconds)


def exposition(registry: CollectorRegistry) -> bytes:
    """Return the metrics as Prometheus reads them, added up where workers share a folder."""
    if SHARED:
        registry = CollectorRegistry()
        MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
    return generate_latest(registry)
