"""Logging: one line per event, as text or as JSON, with the request's id."""

import logging
import sys
from contextvars import ContextVar

from pythonjsonlogger.core import RESERVED_ATTRS
from pythonjsonlogger.json import JsonFormatter

from shopsphere.settings import Settings

OTHERS = ("asyncio", "urllib3", "py.warnings")
"""Other loggers that may write in our processes."""

TEXT_FORMATTER = logging.Formatter("%(asctime)s %(levelname)-7s %(message)s [%(request_id)s]")

REQUEST_ID: ContextVar[str] = ContextVar("request_id", default="-")
"""The id of the request that is being served."""


def configure_logging(service: str, settings: Settings) -> None:
    """Send every line to standard error, in one form; ours replace uvicorn's access log.

    To be called before uvicorn's first line, which it writes when it has imported the app.
    """

    def add_context(record: logging.LogRecord) -> bool:
        record.service = service
        record.request_id = REQUEST_ID.get()
        return True

    # Caller, thread and process are in no line: four tenths of its cost, by the chapter
    # "Optimization" of Python's logging HOWTO.
    logging._srcfile = None
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False
    handler = logging.StreamHandler(sys.stderr)
    handler.addFilter(add_context)
    handler.setFormatter(json_formatter() if settings.log_format == "json" else TEXT_FORMATTER)
    for name in ("shopsphere", "uvicorn.error"):
        logger = logging.getLogger(name)
        logger.handlers = [handler]
        logger.propagate = False
        logger.setLevel(settings.log_level)
    for name in OTHERS:
        logging.getLogger(name).handlers = [handler]
    logging.captureWarnings(True)
    uvicorn = logging.getLogger("uvicorn.error")
    # At DEBUG, websockets 17.4 writes every header of a handshake here, tokens among them; and why
    # a start failed is an ERROR, which a person sees whatever the level.
    uvicorn.setLevel(min(max(uvicorn.level, logging.INFO), logging.ERROR))
    access = logging.getLogger("uvicorn.access")
    access.handlers = []
    access.propagate = False


def json_formatter() -> logging.Formatter:
    """Return what makes a line an object; `json_lines.json` names it, for lines before the app."""
    return JsonFormatter(
        "%(levelname)s %(name)s %(service)s %(request_id)s %(message)s",
        timestamp=True,
        reserved_attrs=[*RESERVED_ATTRS, "color_message"],  # uvicorn's, for a terminal
        rename_fields={"levelname": "level", "name": "logger"},
    )
