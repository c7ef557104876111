"""Starts commands in their own process groups and reads their output.

Standard library only, because it runs before anything is installed.
"""

import contextlib
import io
import os
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Mapping

from shopsphere import ROOT

IS_WINDOWS = os.name == "nt"
if isinstance(sys.stdout, io.TextIOWrapper):
    # A console of Windows lacks most characters: escape them, as Python does on stderr.
    sys.stdout.reconfigure(errors="backslashreplace")


class LauncherError(Exception):
    """ShopSphere cannot run; the message says why and what to do."""


def say(text: str) -> None:
    """Print a line in one piece. If nobody reads on, as after `| head`, end as on SIGTERM."""
    try:
        sys.stdout.write(f"{text}\n")
        sys.stdout.flush()
    except BrokenPipeError:
        # Otherwise Python would retry the write at exit and report an error.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        signal.raise_signal(signal.SIGTERM)


class Program:
    """A command in its own process group; each line of its output is shown, with its name."""

    def __init__(self, name: str, command: list[str], environment: Mapping[str, str]) -> None:
        self.name = name
        self.last_lines: deque[str] = deque(maxlen=30)
        self.process = subprocess.Popen(
            command,
            cwd=ROOT,
            env={**environment, "PYTHONIOENCODING": "utf-8"},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            encoding="utf-8",
            errors="replace",
            start_new_session=True,  # Windows ignores it, and has the next
            creationflags=getattr(subprocess, "CREATE_NEW_PROCESS_GROUP", 0),
        )
        self._reader = threading.Thread(target=self._show_lines, daemon=True)
        self._reader.start()

    def _show_lines(self) -> None:
        prefix = f"{self.name:<7} | " if self.name else ""
        for line in map(str.rstrip, self.process.stdout or ()):
            self.last_lines.append(line)
            # JSON lines contain the service's name and must stay valid JSON. The terminal may be
            # gone; keep reading, or the program would block.
            with contextlib.suppress(OSError):
                say(line if line.startswith("{") else prefix + line)

    def require_alive(self) -> None:
        """Raise LauncherError with the program's last lines if it has ended."""
        status = self.process.poll()
        if status is None:
            return
        self._reader.join(1)
        who = "Redis" if self.name == "redis" else f"the {self.name} service"
        how = f"exit status {status}" if status >= 0 else signal.Signals(-status).name
        lines = "\n  ".join(self.last_lines)
        raise LauncherError(f"{who} ended ({how}). Its last lines:\n  {lines}")

    def end(self, force: bool) -> None:
        """Ask it and its children to end, or kill them; do nothing if they have ended."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            if not IS_WINDOWS:
                os.killpg(self.process.pid, signal.SIGKILL if force else signal.SIGTERM)
            elif not force:
                self.process.send_signal(getattr(signal, "CTRL_BREAK_EVENT", signal.SIGTERM))
            elif self.process.poll() is None:
                command = ["taskkill", "/F", "/T", "/PID", str(self.process.pid)]
                subprocess.run(command, check=False)

    def make_sure_it_ended(self, deadline: float) -> None:
        """Wait until the deadline for it to end, then kill it and all its children."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(max(0, deadline - time.monotonic()))
        self.end(force=True)
        self.process.wait()
        self._reader.join(1)


def run_to_end(command: list[str]) -> tuple[int, list[str]]:
    """Run a command, show its output, and return its status and last lines. If we are interrupted,
    kill it."""
    program = Program("", command, os.environ)
    try:
        while program.process.poll() is None:  # on Windows, Ctrl-C does not end a `wait`
            time.sleep(0.05)
    finally:
        program.make_sure_it_ended(time.monotonic())
    return program.process.returncode, list(program.last_lines)
