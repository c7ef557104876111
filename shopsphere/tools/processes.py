"""Starts commands in their own process groups and shows their output.

Standard library only, because it runs before anything is installed.
"""

import contextlib
import io
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from typing import ClassVar

from shopsphere import ROOT

IS_WINDOWS = os.name == "nt"
PROBE = "launcher-probe"
"""The X-Request-ID of the launcher's health checks; log lines with it are not shown."""
OF_ONE_SERVICE = r'^[\d-]+ [\d:,]+ |"(service|timestamp)": "[^"]*"'
"""The parts of a log line that differ between services that say the same."""
if isinstance(sys.stdout, io.TextIOWrapper):
    # A console of Windows lacks most characters: escape them, as Python does on stderr.
    sys.stdout.reconfigure(errors="backslashreplace")


class LauncherError(Exception):
    """ShopSphere cannot start or continue; the message says why and what to do."""


def say(text: str) -> None:
    """Print a line in one piece. If nobody reads on, as after `| head`, end as on SIGTERM."""
    try:
        sys.stdout.write(f"{text}\n")
        sys.stdout.flush()
    except BrokenPipeError:
        # Otherwise Python would retry the write at exit and report an error.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        signal.raise_signal(signal.SIGTERM)


def run_to_end(command: list[str]) -> int:
    """Run a command and return its exit status. If we are interrupted, kill it."""
    return subprocess.call(command, cwd=ROOT, stdin=subprocess.DEVNULL, start_new_session=True)


class Program:
    """A command in its own process group; the lines of its output are shown, with its name.

    While the programs are starting, a warning or error that another has shown is left out.
    """

    is_starting = True
    _first_with: ClassVar[dict[str, "Program"]] = {}

    def __init__(self, name: str, command: list[str], environment: Mapping[str, str]) -> None:
        self.name = name
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
        for line in map(str.rstrip, self.process.stdout or ()):
            if PROBE in line or (self.is_starting and self._is_known(line)):
                continue
            # JSON lines contain the service's name and must stay valid JSON. The terminal may be
            # gone; keep reading, or the program would block.
            with contextlib.suppress(OSError):
                say(line if line.startswith("{") else f"{self.name:<7} | {line}")

    def _is_known(self, line: str) -> bool:
        """Return whether another program has shown this warning or error, or our table will."""
        if not re.search("WARNING|ERROR", line):
            return False
        message = re.sub(OF_ONE_SERVICE, "", line)
        return "IN MEMORY" in line or self._first_with.setdefault(message, self) is not self

    def require_alive(self) -> None:
        """Raise LauncherError if it has ended."""
        status = self.process.poll()
        if status is not None:
            self._reader.join(1)
            how = f"exit status {status}" if status >= 0 else signal.Signals(-status).name
            what = "did not start" if self.is_starting else "has ended"
            who = "Redis" if self.name == "redis" else f"the {self.name} service"
            why = "The lines above say why." if status > 0 else "Start again with the same options."
            raise LauncherError(f"{who} {what} ({how}). {why}")

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
