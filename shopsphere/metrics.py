"""Metrics for Prometheus, of this process, or of all workers of a service that share a folder."""

import os
from typing import Any

from shopsphere.workers import METRICS_FOLDER, shared_metrics_folder

SHARED = shared_metrics_folder()

import prometheus_client as prometheus  # noqa: E402  # it looks for the folder when imported
from prometheus_client.multiprocess import MultiProcessCollector  # noqa: E402

__all__ = ["RequestMetrics", "exposition", "prometheus"]

METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})


class RequestMetrics:
    """Counts requests and their duration, by route template."""

    def __init__(self, service: str = "") -> None:
        """`service`: names the sub-folder that its workers share, where they share one."""
        if SHARED:
            (SHARED / service).mkdir(mode=0o700, exist_ok=True)
            os.environ[METRICS_FOLDER] = str(SHARED / service)
        labels = ("method", "route", "status")
        self.registry = registry = prometheus.CollectorRegistry()
        self._requests = prometheus.Counter(
            "http_requests", "Requests answered.", labels, registry=registry
        )
        self._seconds = prometheus.Histogram(
            "http_request_duration_seconds", "Response time.", labels, registry=registry
        )
        self._known: dict[tuple[str, str, int], tuple[Any, Any]] = {}

    def count(self, method: str, route: str, status: int, seconds: float) -> None:
        """Count one answered request."""
        key = (method if method in METHODS else "OTHER", route, status)
        if key not in self._known:
            self._known[key] = (self._requests.labels(*key), self._seconds.labels(*key))
        requests, duration = self._known[key]
        requests.inc()
        duration.observe(seconds)


def exposition(registry: prometheus.CollectorRegistry) -> bytes:
    """Return the metrics as Prometheus reads them, added up where workers share a folder."""
    if SHARED:
        registry = prometheus.CollectorRegistry()
        MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
    return prometheus.generate_latest(registry)
