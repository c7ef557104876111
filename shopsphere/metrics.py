"""Prometheus metrics of this process, or of all workers of a service that share a folder."""

import logging
import os
from pathlib import Path
from typing import Any

METRICS_FOLDER = "PROMETHEUS_MULTIPROC_DIR"
"""A setting of prometheus_client."""


def _shared_folder() -> Path | None:
    """Return the folder in which workers share their metrics, created if missing; None without one.

    A folder that is not writable is logged as a warning, and hidden from prometheus_client.
    """
    name = os.environ.pop(METRICS_FOLDER, "")
    if not name:
        return None
    try:
        Path(name).mkdir(mode=0o700, parents=True, exist_ok=True)
        if not os.access(name, os.W_OK | os.X_OK):
            raise PermissionError(f"{name} is not writable")
    except OSError as error:
        logging.getLogger("shopsphere").warning(
            "%s cannot be used (%s): each worker reports its own metrics only",
            METRICS_FOLDER,
            error,
        )
        return None
    os.environ[METRICS_FOLDER] = name
    return Path(name)


SHARED = _shared_folder()

import prometheus_client as prometheus  # noqa: E402  # it reads the setting on import
from prometheus_client.multiprocess import MultiProcessCollector  # noqa: E402

__all__ = ["RequestMetrics", "exposition", "prometheus"]

METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})


class RequestMetrics:
    """Counts requests and their duration, by route template."""

    def __init__(self, service: str = "") -> None:
        """`service` names the subfolder that its workers share, if they share one."""
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
        """Count one finished request."""
        key = (method if method in METHODS else "OTHER", route, status)
        if key not in self._known:
            self._known[key] = (self._requests.labels(*key), self._seconds.labels(*key))
        requests, duration = self._known[key]
        requests.inc()
        duration.observe(seconds)


def exposition(registry: prometheus.CollectorRegistry) -> bytes:
    """Return the metrics in Prometheus's format, summed over workers that share a folder."""
    if SHARED:
        registry = prometheus.CollectorRegistry()
        MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
    return prometheus.generate_latest(registry)
