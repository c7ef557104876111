"""Figures for Prometheus. Those of several workers of one service add up, whichever answers."""

import os
from typing import TYPE_CHECKING

from shopsphere.workers import FIGURES, share_figures

share_figures()

from prometheus_client import (  # noqa: E402  # it reads where to keep its figures when imported
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
    """Counts requests and how long they took, by route as it is written."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        labels = ("method", "route", "status")
        self._requests = Counter(
            "http_requests", "Requests answered.", labels, registry=self.registry
        )
        self._seconds = Histogram(
            "http_request_duration_seconds",
            "Time until an answer was complete.",
            labels,
            registry=self.registry,
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
    """Return the figures as Prometheus reads them: of this process, or of all workers together."""
    if FIGURES in os.environ:
        registry = CollectorRegistry()
        MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
    return generate_latest(registry)
