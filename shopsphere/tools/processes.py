"""Starts commands in their own process groups and reads their output.

Standard library only, because it runs before anything is installed.
"""

import contextlib
import io
import os
import signal
import subprocess
import sys
from collections import deque
from collections.abc import Mapping
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
IS_WINDOWS = os.name == "nt"
if isinstance(sys.stdout, io.TextIOWrapper):
    # A console of Windows lacks most characters: escape them, as Python does on stderr.
    sys.stdout.reconfigure(errors="backslashreplace")


def say(text: str) -> None:
    """Print a line in one piece. If nobody reads on, as after `| head`, end as on SIGTERM."""
    try:
        sys.stdout.write(f"{text}\n")
        sys.stdout.flush()
    except BrokenPipeError:
        # Otherwise Python would retry the write at exit and report an error.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        signal.raise_signal(signal.SIGTERM)


def run_to_end(command: list[str]) -> tuple[int, list[str]]:
    """Run a command, show its output, and return its status and last lines. If we are interrupted,
    kill it."""
    lines: deque[str] = deque(maxlen=200)
    with start(command) as process:
        try:
            for line in map(str.rstrip, process.stdout or ()):
                lines.append(line)
                say(line)
        except BaseException:
            end_group(process, force=True)
            raise
    return process.returncode, list(lines)


def start(
    command: list[str], environment: Mapping[str, str] | None = None
) -> "subprocess.Popen[str]":
    """Start a command in its own process group, with all its output in one pipe."""
    return subprocess.Popen(
        command,
        cwd=ROOT,
        env={**(environment or os.environ), "PYTHONIOENCODING": "utf-8"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        encoding="utf-8",
        errors="replace",
        start_new_session=True,  # Windows ignores it, and has the next
        creationflags=getattr(subprocess, "CREATE_NEW_PROCESS_GROUP", 0),
    )


def end_group(process: "subprocess.Popen[str]", force: bool) -> None:
    """Ask a process and its children to end, or kill them; do nothing if they have ended."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        if not IS_WINDOWS:
            os.killpg(process.pid, signal.SIGKILL if force else signal.SIGTERM)
        elif not force:
            process.send_signal(getattr(signal, "CTRL_BREAK_EVENT", signal.SIGTERM))
        elif process.poll() is None:
            subprocess.run(["taskkill", "/F", "/T", "/PID", str(process.pid)], check=False)
