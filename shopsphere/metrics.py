"""Prometheus metrics of this process, or of all workers of a service that share a folder."""

import logging
import os
import sys
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any, TextIO

import prometheus_client as prometheus
from prometheus_client import values
from prometheus_client.multiprocess import MultiProcessCollector

if sys.platform != "win32":
    import fcntl

__all__ = ["RequestMetrics", "exposition", "prometheus"]

METRICS_FOLDER = "PROMETHEUS_MULTIPROC_DIR"
"""A setting of prometheus_client."""
SHARED = os.environ.get(METRICS_FOLDER, "")
METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})


def _share(service: str) -> Callable[[], None]:
    """Have prometheus_client use a subfolder for this service, if its setting names a folder.

    Each worker holds a lock while it runs. Whoever is alone removes the subfolder: at the start
    what was left by processes that were killed, at the end its own. If that folder cannot be used,
    a warning says so, and the setting is hidden from prometheus_client. Return what to call at the
    end.
    """
    os.environ.pop(METRICS_FOLDER, None)
    if not SHARED or sys.platform == "win32":
        return lambda: None
    folder = Path(SHARED, service)
    try:
        folder.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        lock = folder.with_suffix(".lock").open("w")
        _remove_if_alone(folder, lock)
        fcntl.flock(lock, fcntl.LOCK_SH)
        folder.mkdir(mode=0o700, exist_ok=True)
        TemporaryFile(dir=folder).close()
    except OSError as error:
        text = "%s cannot be used (%s): each worker reports its own metrics only"
        logging.getLogger("shopsphere").warning(text, METRICS_FOLDER, error)
        return lambda: None
    os.environ[METRICS_FOLDER] = str(folder)
    return partial(_remove_if_alone, folder, lock)


def _remove_if_alone(folder: Path, lock: TextIO) -> None:
    with suppress(OSError):
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        for file in folder.glob("*.db"):
            file.unlink()
        folder.rmdir()


class RequestMetrics:
    """Counts requests and their duration, by route template."""

    def __init__(self, service: str = "") -> None:
        """`service` names the subfolder that its workers share, if they share one."""
        self.close = _share(service)
        values.ValueClass = values.get_value_class()  # type: ignore[no-untyped-call]  # by the setting
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
    if METRICS_FOLDER in os.environ:
        registry = prometheus.CollectorRegistry()
        MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
    return prometheus.generate_latest(registry)
