"""Whether a server runs several workers, as the server itself knows it: there are many ways to ask
for them."""

import gc
import multiprocessing
import sys


def runs_alone() -> bool:
    """Return whether this process is the only worker of its server, uvicorn or gunicorn."""
    # uvicorn 0.54 passes its configuration to a child; with `reload`, it ignores `workers`.
    uvicorn = getattr(multiprocessing.current_process(), "_kwargs", {}).get("config")
    if uvicorn:
        return bool(uvicorn.reload or uvicorn.workers == 1)
    gunicorn = sys.modules.get("gunicorn.workers.base")
    if gunicorn is None:
        return True
    # gunicorn 27 can be told to add a worker, which `workers` does not show, but its number does.
    workers = [each for each in gc.get_objects() if issubclass(type(each), gunicorn.Worker)]
    return all(each.cfg.workers == each.age == 1 for each in workers)
