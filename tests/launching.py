"""The product as a person gets it: a copy of its files, an environment of its own, a real start."""

import os
import re
import shutil
import signal
import subprocess
import sys
import sysconfig
import venv
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Self

import pytest
import requests

from shopsphere.tools.launcher import why_no_port
from tests.servers import ROOT, Trio, free_port, wait_until

PORTS = {"product": 8000, "user": 8001, "order": 8002}
BARE_PYTHON = getattr(sys, "_base_executable", sys.executable)
"""The Python that the environment of the tests was made with: it has no packages of ours."""


needs_fixed_ports = pytest.mark.usefixtures("quick_start_ports")
"""Mark a test that needs the ports 8000, 8001 and 8002 for itself."""


def first_of_three_free_ports() -> int:
    """Return a port that nothing listens on, nor on the next two."""
    while True:
        first = free_port()
        if not any(why_no_port("127.0.0.1", port) for port in (first + 1, first + 2)):
            return first


def copy_of_the_product(folder: Path) -> Path:
    """Copy what a fresh clone holds, without anybody's `.env`, `.venv` and `redis-data`."""
    skip = shutil.ignore_patterns(".*", "__pycache__", "tests", "benchmarks", "build", "redis-data")
    shutil.copytree(ROOT, folder, ignore=skip)
    return folder


def ready_copy(folder: Path) -> Path:
    """Copy the product, with a `.venv` that sees the packages of the running environment.

    It counts as installed, so the launcher asks nothing of pip, nor of the network.
    """
    return with_packages(copy_of_the_product(folder))


def with_packages(folder: Path) -> Path:
    """Give a copy a `.venv` that sees the packages of the running environment."""
    environment = folder / ".venv"
    venv.create(environment, symlinks=os.name != "nt")
    packages = Path(sysconfig.get_path("purelib", "venv", {"base": str(environment)}))
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


def said_on_a_terminal(code: str, **environment: str) -> str:
    """Run these lines of Python in a terminal of 80 columns; return the few lines it shows."""
    command = [sys.executable, "-c", code]
    environment = {**os.environ, "COLUMNS": "80", "TERM": "xterm", **environment}
    reading, writing = os.openpty()
    with open(reading, "rb", buffering=0) as shown, open(writing, "wb", buffering=0) as screen:
        subprocess.run(
            command, cwd=ROOT, env=environment, stdout=screen, stderr=screen, timeout=60, check=True
        )
        return shown.read(4096).decode().replace("\r\n", "\n")


class Started:
    """A command of a person, running in a process group of its own as if in a terminal.

    Whatever the test does, it has ended afterwards.
    """

    def __init__(self, command: list[str], folder: Path, log: Path, **environment: str) -> None:
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

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.end()

    @property
    def output(self) -> str:
        return self.log.read_text(encoding="utf-8", errors="replace")

    def wait_for(self, pattern: str) -> None:
        """Return as soon as it has said this; fail if it ends before."""

        def is_said() -> bool:
            has_ended = self.process.poll() is not None
            found = re.search(pattern, self.output)
            assert found or not has_ended, self.output
            return found is not None

        wait_until(is_said, 30, f"{pattern!r} in {self.log}")

    def wait_for_answer(self, url: str) -> requests.Response:
        """Return the first answer that this address gives; fail if the command ends before."""
        answers: list[requests.Response] = []

        def answered() -> bool:
            assert self.process.poll() is None, self.output
            with suppress(requests.ConnectionError):
                answers.append(requests.get(url, timeout=5))
            return bool(answers)

        wait_until(answered, 30, f"{url} answers; see {self.log}")
        return answers[0]

    def end(self, with_signal: int = signal.SIGTERM) -> int:
        """Send the signal to the first process alone, and return the exit status."""
        self.process.send_signal(with_signal)
        return self.process.wait(20)

    def press_ctrl_c(self) -> int:
        """Send what a terminal sends to all that runs in it, and return the exit status."""
        os.killpg(self.process.pid, signal.SIGINT)
        return self.process.wait(20)


def launched(copy: Path, *arguments: str, **environment: str) -> Started:
    """Run `start_all_services.py` of this copy, from another folder, by a Python of no packages."""
    command = [BARE_PYTHON, str(copy / "start_all_services.py"), *arguments]
    environment = {"USE_REDIS": "false", "BCRYPT_ROUNDS": "4", "PIP_NO_INDEX": "1", **environment}
    return Started(command, copy.parent, copy.parent / "output.txt", **environment)


@contextmanager
def three_services(folder: Path, **environment: str) -> Iterator[Trio]:
    """Run the three services on free ports; they have ended afterwards."""
    trio = Trio(folder, **environment)
    try:
        yield trio.start()
    finally:
        trio.stop()
