"""How many workers uvicorn runs, and the folder in which the workers of a service share metrics.

Nothing here imports prometheus_client: that looks for the folder when it is imported.
"""

import argparse
import logging
import multiprocessing
import os
from pathlib import Path

METRICS_FOLDER = "PROMETHEUS_MULTIPROC_DIR"
"""A setting of prometheus_client."""


def workers_asked_for() -> int:
    """Return how many workers uvicorn was asked to run.

    A worker of uvicorn 0.54 does not know. It is a child process of multiprocessing, which passes
    the command line on; WEB_CONCURRENCY is what uvicorn reads where the command line is silent.
    """
    if multiprocessing.parent_process() is None:
        return 1
    options = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    options.add_argument("--workers", default=os.environ.get("WEB_CONCURRENCY", "1"))
    asked: str = options.parse_known_args()[0].workers
    return int(asked) if asked.isdigit() else 1


def shared_metrics_folder() -> Path | None:
    """Return the folder in which workers share their metrics, made if need be; None without one.

    One that cannot be written to is a warning, and prometheus_client does not get to see it.
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
