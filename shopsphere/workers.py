"""How many worker processes uvicorn runs, and the folder in which they put their figures together.

Nothing here imports prometheus_client: that looks for the folder when it is imported.
"""

import hashlib
import multiprocessing
import os
import shutil
import sys
import tempfile
from pathlib import Path

FIGURES = "PROMETHEUS_MULTIPROC_DIR"
_FOLDERS = "shopsphere-figures-"


def workers_asked_for() -> int:
    """Return how many workers uvicorn was told to run.

    A worker of uvicorn 0.54 is not told. It is a child process of multiprocessing, which hands the
    command line on; WEB_CONCURRENCY is what uvicorn reads where the command line is silent.
    """
    if multiprocessing.parent_process() is None:
        return 1
    asked = os.environ.get("WEB_CONCURRENCY", "1")
    for word, following in zip(sys.argv, [*sys.argv[1:], ""], strict=True):
        if word == "--workers":
            asked = following
        elif word.startswith("--workers="):
            asked = word.partition("=")[2]
    return int(asked) if asked.isdigit() else 1


def share_figures() -> None:
    """Name the folder for prometheus_client's multiprocess mode, where several workers run.

    It belongs to the parent process: all workers that it starts, also in the place of one that
    died, have its `authkey`, which is of 32 random bytes and so never that of an earlier parent.
    What parents left behind that have ended is removed.
    """
    if FIGURES in os.environ or workers_asked_for() == 1:
        return
    parent = multiprocessing.parent_process()
    assert parent is not None
    temporary = Path(tempfile.gettempdir())
    for folder in temporary.glob(f"{_FOLDERS}*"):
        pid = folder.name.removeprefix(_FOLDERS).partition("-")[0]
        if pid.isdigit() and not _is_alive(int(pid)):
            shutil.rmtree(folder, ignore_errors=True)
    secret = hashlib.sha256(multiprocessing.current_process().authkey).hexdigest()
    own = temporary / f"{_FOLDERS}{parent.pid}-{secret}"
    own.mkdir(mode=0o700, exist_ok=True)
    os.environ[FIGURES] = str(own)


def _is_alive(pid: int) -> bool:
    if os.name == "nt":  # there, signal 0 is Ctrl-C
        return True
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True
