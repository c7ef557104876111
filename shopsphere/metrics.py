"""Prometheus metrics of this process, or of all workers of a service that share a folder."""

import os
import struct
import sys
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any

import prometheus_client as prometheus
from prometheus_client import values
from prometheus_client.multiprocess import MultiProcessCollector

from shopsphere.settings import CannotStart

__all__ = ["RequestMetrics", "exposition", "prometheus"]

METRICS_FOLDER = "PROMETHEUS_MULTIPROC_DIR"
"""A setting of prometheus_client."""
SHARED = os.environ.get(METRICS_FOLDER)
METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})


def _share(service: str) -> None:
    """Make prometheus_client use a subfolder for this service, if its setting names a folder."""
    os.environ.pop(METRICS_FOLDER, None)
    if SHARED and sys.platform != "win32":  # where such files cannot grow
        folder = Path(SHARED, service)
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            TemporaryFile(dir=folder).close()
        except OSError as error:
            raise CannotStart(f"{METRICS_FOLDER} cannot be used ({error}).") from None
        os.environ[METRICS_FOLDER] = str(folder)
    values.ValueClass = values.get_value_class()  # type: ignore[no-untyped-call]  # by the setting


class RequestMetrics:
    """Counts requests and their duration, by route template."""

    def __init__(self, service: str = "") -> None:
        """`service` names the subfolder that its workers share, if they share one."""
        _share(service)
        labels = ("method", "route", "status")
        self.registry = registry = prometheus.CollectorRegistry()
        self._requests = prometheus.Counter(
            "http_requests", "Requests handled.", labels, registry=registry
        )
        self._seconds = prometheus.Histogram(
            "http_request_duration_seconds", "Response time.", labels, registry=registry
        )
        if METRICS_FOLDER not in os.environ:  # of several workers, one would report only itself
            prometheus.ProcessCollector(registry=registry)
        self._known: dict[tuple[str, str, int], tuple[Any, Any]] = {}

    def count(self, method: str, route: str, status: int, seconds: float) -> None:
        """Count one finished request."""
        key = (method if method in METHODS else "OTHER", route, status)
        if key not in self._known:
            self._known[key] = (self._requests.labels(*key), self._seconds.labels(*key))
        requests, duration = self._known[key]
        requests.inc()
        duration.observe(seconds)


def exposition(registry: prometheus.CollectorRegistry) -> bytes:
    """Return the metrics in Prometheus's format, summed over workers that share a folder."""
    if METRICS_FOLDER in os.environ:
        registry = prometheus.CollectorRegistry()
        MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
    while True:
        with suppress(struct.error):  # from prometheus_client 0.26 while a worker creates its file
            return prometheus.generate_latest(registry)
