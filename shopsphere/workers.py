"""Detects several workers from the state of the server, as there are many ways to request them."""

import gc
import multiprocessing
import sys


def runs_alone() -> bool:
    """Return whether this process is the only worker of its server, uvicorn or gunicorn."""
    # uvicorn 0.54 passes its configuration to a child; with `reload`, it ignores `workers`.
    uvicorn = getattr(multiprocessing.current_process(), "_kwargs", {}).get("config")
    if uvicorn:
        return bool(getattr(uvicorn, "reload", False) or uvicorn.workers == 1)
    gunicorn = sys.modules.get("gunicorn.arbiter")
    if gunicorn is None:
        return True
    # A worker of gunicorn 27 is a fork, so it has a copy of the arbiter, which knows their number.
    arbiters = [each for each in gc.get_objects() if issubclass(type(each), gunicorn.Arbiter)]
    return all(each.num_workers == 1 for each in arbiters)
