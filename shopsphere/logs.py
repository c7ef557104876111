"""Logging: one line per event, as text or as JSON, with the request's id."""

import logging
import sys
from contextvars import ContextVar

from pythonjsonlogger.json import JsonFormatter

from shopsphere.settings import Settings

REQUEST_ID: ContextVar[str] = ContextVar("request_id", default="-")
"""The id of the request that is being served."""


class _WithContext(logging.Filter):
    def __init__(self, service: str) -> None:
        super().__init__()
        self._service = service

    def filter(self, record: logging.LogRecord) -> bool:
        record.service = self._service
        record.request_id = REQUEST_ID.get()
        return True


def configure_logging(service: str, settings: Settings) -> None:
    """Send our lines and uvicorn's to standard error, in one form; ours replace its access log."""
    _leave_out_what_no_line_shows()
    handler = logging.StreamHandler(sys.stderr)
    handler.addFilter(_WithContext(service))
    handler.setFormatter(_formatter(settings.log_format))
    for name in ("shopsphere", "uvicorn.error"):
        logger = logging.getLogger(name)
        logger.handlers = [handler]
        logger.propagate = False
        logger.setLevel(settings.log_level)
    uvicorn = logging.getLogger("uvicorn.error")
    # At DEBUG, websockets 17.4 writes every header of a handshake here, tokens among them.
    uvicorn.setLevel(max(uvicorn.level, logging.INFO))
    access = logging.getLogger("uvicorn.access")
    access.handlers = []
    access.propagate = False


def _leave_out_what_no_line_shows() -> None:
    """Do not look up caller, thread and process for each line: four tenths of its cost.

    These switches are the "Optimization" chapter of Python's logging HOWTO.
    """
    logging._srcfile = None
    logging.logThreads = False
    logging.logProcesses = False
    logging.logMultiprocessing = False


def _formatter(log_format: str) -> logging.Formatter:
    if log_format == "json":
        return JsonFormatter(
            "%(levelname)s %(name)s %(service)s %(request_id)s %(message)s",
            timestamp=True,
            rename_fields={"levelname": "level", "name": "logger"},
        )
    return logging.Formatter("%(asctime)s %(levelname)-7s %(message)s [%(request_id)s]")
