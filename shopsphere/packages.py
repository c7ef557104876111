"""Finds the packages of `.venv`. A file that can be run imports this first.

If this Python lacks the packages, `.venv`'s Python runs the same command instead. Without a
`.venv`, or where another program such as uvicorn imports the file, it exits with a sentence.
"""

import os
import signal
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

from shopsphere import PYTHON, ROOT

program = Path(getattr(sys.modules["__main__"], "__file__", None) or "-").resolve()
is_for_developers = program.parent.parent == ROOT  # of tests or benchmarks
needed = ("fastapi", "pytest") if is_for_developers else ("fastapi",)
if not all(map(find_spec, needed)):
    if (
        ROOT in (program.parent, program.parent.parent)
        and PYTHON.exists()
        and sys.executable != str(PYTHON)
    ):
        command = [str(PYTHON), *sys.orig_argv[1:]]
        if sys.platform == "win32":  # there, execv returns to the shell at once
            signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C ends the command itself
            sys.exit(subprocess.call(command))
        os.execv(command[0], command)
    how = "python run_tests.py" if is_for_developers else "python start_all_services.py"
    sys.exit(f"The packages of ShopSphere are not installed. To install them, run: {how}")
