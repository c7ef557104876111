"""The product as a person gets it: a copy of its files, an environment of its own, a real start."""

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import sysconfig
import venv
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
import requests

from tests.servers import ROOT, Trio, wait_until

PORTS = {"product": 8000, "user": 8001, "order": 8002}
BARE_PYTHON = getattr(sys, "_base_executable", sys.executable)
"""The Python that the environment of the tests was made with: it has no packages of ours."""


needs_quick_start_ports = pytest.mark.usefixtures("quick_start_ports")
"""Mark a test that needs the ports 8000, 8001 and 8002 for itself."""


def is_free(port: int) -> bool:
    """Whether a server could listen there."""
    try:
        with socket.create_server(("127.0.0.1", port)):
            return True
    except OSError:
        return False


def copy_of_the_product(folder: Path) -> Path:
    """Copy what a fresh clone holds, without anybody's `.env`, `.venv` and `redis-data`."""
    leave = shutil.ignore_patterns(
        ".*", "__pycache__", "tests", "benchmarks", "build", "redis-data"
    )
    shutil.copytree(ROOT, folder, ignore=leave)
    return folder


def ready_copy(folder: Path) -> Path:
    """Copy the product, with a `.venv` that sees the packages of the running environment.

    It counts as installed, so the launcher asks nothing of pip, nor of the network.
    """
    copy_of_the_product(folder)
    environment = folder / ".venv"
    venv.create(environment, symlinks=os.name != "nt")
    packages = next(environment.glob("lib/python*/site-packages"), None)
    packages = packages or environment / "Lib" / "site-packages"
    (packages / "tests.pth").write_text(sysconfig.get_path("purelib"), encoding="utf-8")
    for listed in folder.glob("requirements*.txt"):
        shutil.copy(listed, environment)
    return folder


def every_python_first_runs(folder: Path, *lines: str) -> dict[str, str]:
    """Return the environment in which every Python runs these lines before anything else."""
    folder.mkdir(exist_ok=True)
    (folder / "sitecustomize.py").write_text("\n".join(["import sys", *lines]), encoding="utf-8")
    return {"PYTHONPATH": str(folder)}


def processes_of(folder: Path) -> dict[int, str]:
    """Return the pid and the command of what runs on this copy's `.venv`."""
    found = {}
    for place in Path("/proc").glob("[0-9]*/cmdline"):  # a slim Linux has no `ps`
        with suppress(OSError):  # it ended meanwhile
            found[int(place.parent.name)] = place.read_text(errors="replace").replace("\0", " ")
    if not found:
        table = subprocess.check_output(["ps", "-axww", "-o", "pid=,args="], text=True)
        rows = (row.split(maxsplit=1) for row in table.splitlines())
        found = {int(pid): command for pid, command in rows}
    return {pid: run for pid, run in found.items() if run.startswith(f"{folder}/.venv")}


def unread(
    command: list[str], folder: Path, environment: Mapping[str, str] = os.environ
) -> tuple[int, bytes]:
    """Run a command whose output nobody reads; return its exit status and what it complains."""
    reading, writing = os.pipe()
    os.close(reading)
    with open(writing, "wb") as nobody:
        result = subprocess.run(
            command, cwd=folder, env=environment, stdout=nobody, stderr=subprocess.PIPE, timeout=60
        )
    return result.returncode, result.stderr


def said_on_a_terminal(code: str, **environment: str) -> str:
    """Run these lines of Python in a terminal of 80 columns; return the few lines it shows."""
    reading, writing = os.openpty()
    try:
        subprocess.run(
            [sys.executable, "-c", code],
            cwd=ROOT,
            env={**os.environ, "COLUMNS": "80", "TERM": "xterm", **environment},
            stdout=writing,
            stderr=writing,
            timeout=60,
            check=True,
        )
    finally:
        os.close(writing)
    with open(reading, "rb", buffering=0) as terminal:
        return terminal.read(4096).decode().replace("\r\n", "\n")


class Started:
    """A command of a person, running in a process group of its own as if in a terminal."""

    def __init__(
        self, command: list[str], folder: Path, log: Path, environment: dict[str, str]
    ) -> None:
        self.log = log
        with log.open("wb") as output:
            self.process = subprocess.Popen(
                command,
                cwd=folder,
                env={**os.environ, **environment},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )

    @property
    def output(self) -> str:
        return self.log.read_text(encoding="utf-8", errors="replace")

    def has(self, pattern: str) -> bool:
        return re.search(pattern, self.output) is not None

    def wait_for(self, text: str, seconds: float = 30) -> None:
        """Return as soon as it has said this; fail if it ends before."""

        def is_said() -> bool:
            has_ended = self.process.poll() is not None
            assert text in self.output or not has_ended, self.output
            return text in self.output

        wait_until(is_said, seconds, f"{text!r} in {self.log}")

    def wait_for_answer(self, url: str, seconds: float = 30) -> requests.Response:
        """Return the first answer that this address gives; fail if the command ends before."""
        answers: list[requests.Response] = []

        def answered() -> bool:
            assert self.process.poll() is None, self.output
            with suppress(requests.ConnectionError):
                answers.append(requests.get(url, timeout=5))
            return bool(answers)

        wait_until(answered, seconds, f"{url} answers; see {self.log}")
        return answers[0]

    def end(self, with_signal: int = signal.SIGTERM) -> int:
        """Send the signal to the first process alone, and return the exit status."""
        self.process.send_signal(with_signal)
        return self.process.wait(20)

    def press_ctrl_c(self) -> int:
        """Send what a terminal sends to all that runs in it, and return the exit status."""
        os.killpg(self.process.pid, signal.SIGINT)
        return self.process.wait(20)


@contextmanager
def started(command: list[str], folder: Path, log: Path, **environment: str) -> Iterator[Started]:
    """Start a command of a person; whatever the test does, it has ended afterwards."""
    running = Started(command, folder, log, environment)
    try:
        yield running
    finally:
        if running.process.poll() is None:
            running.end()


@contextmanager
def launched(
    copy: Path, log: Path, *arguments: str, python: str = BARE_PYTHON, **environment: str
) -> Iterator[Started]:
    """Run `start_all_services.py` of this copy, from another folder, by a Python of no packages."""
    command = [python, str(copy / "start_all_services.py"), *arguments]
    environment = {"USE_REDIS": "false", "BCRYPT_ROUNDS": "4", "PIP_NO_INDEX": "1", **environment}
    with started(command, copy.parent, log, **environment) as launcher:
        yield launcher


@contextmanager
def three_services(folder: Path, **environment: str) -> Iterator[Trio]:
    """Run the three services on free ports; they have ended afterwards."""
    trio = Trio(folder, **environment)
    try:
        yield trio.start()
    finally:
        trio.stop()
