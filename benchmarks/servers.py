"""The processes that are measured, all started by the same command, and wrk, which drives them."""

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

import requests

from tests.servers import RedisServer, free_port

ROOT = Path(__file__).resolve().parent.parent
Environment = Mapping[str, str]
LOAD = Path(__file__).with_name("load.lua")
CONNECTIONS = 16

NO_WRK = (
    "The benchmarks need wrk, which sends the requests. On Debian and Ubuntu: "
    "sudo apt install wrk; on macOS: brew install wrk."
)


class CannotMeasure(Exception):
    """Why a row has no figure, in a sentence."""


@dataclass(frozen=True, slots=True)
class Load:
    """What one run of wrk saw."""

    requests: int
    seconds: float
    p99_seconds: float
    cpu_seconds: float

    @property
    def rate(self) -> float:
        """Requests answered per second."""
        return self.requests / self.seconds

    @property
    def cpu_each(self) -> float:
        """Seconds of CPU that the server spent on a request."""
        return self.cpu_seconds / self.requests


def require_wrk() -> str:
    """Return where wrk is; raise CannotMeasure, with how to get it."""
    found = shutil.which("wrk")
    if found is None:
        raise CannotMeasure(NO_WRK)
    return found


class Server:
    """A uvicorn that serves an app of ours or a bare one."""

    def __init__(self, app: str, log: Path, environment: Environment, workers: int) -> None:
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.log = log
        with log.open("ab") as output:
            self.process = subprocess.Popen(
                [
                    *(sys.executable, "-m", "uvicorn", app, "--port", str(self.port)),
                    *("--workers", str(workers)),
                ],
                cwd=ROOT,
                env={**os.environ, **environment},
                stdout=output,
                stderr=output,
            )

    def answers(self) -> bool:
        """Tell whether it serves; raise CannotMeasure when it has ended."""
        if self.process.poll() is not None:
            raise CannotMeasure("a server ended: " + self.log.read_text()[-500:])
        try:
            return requests.get(self.url, timeout=5).ok
        except requests.RequestException:
            return False

    def wait(self, *, shows_log: bool = False) -> "Server":
        """Return when it serves; meanwhile show what it writes, if wanted."""
        with self.log.open(errors="replace") as log:
            while not self.answers():
                if shows_log:
                    print(log.read(), end="", file=sys.stderr, flush=True)
                time.sleep(0.03)
        return self

    def drive(
        self,
        path: str,
        seconds: int,
        method: str = "GET",
        *more: str,
        connections: int = CONNECTIONS,
    ) -> Load:
        """Send one kind of request for some seconds over kept connections.

        `more` is what load.lua takes besides: a body, a file of product pks.
        """
        command = [require_wrk(), "-t1", f"-c{connections}", f"-d{seconds}s", "-s", str(LOAD)]
        arguments = [method, *more]
        before = self.cpu_seconds()
        answer = subprocess.run(
            [*command, self.url + path, "--", *arguments], capture_output=True, text=True
        )
        report = [line.split() for line in answer.stdout.splitlines() if line.startswith("REPORT")]
        if not report:
            raise CannotMeasure(f"wrk failed: {answer.stdout}{answer.stderr}")
        sent, microseconds, p99, errors = map(int, report[0][1:])
        if errors or not sent:
            raise CannotMeasure(f"{errors} of {sent} requests to {path} failed")
        return Load(sent, microseconds / 1e6, p99 / 1e6, self.cpu_seconds() - before)

    def cpu_seconds(self) -> float:
        """Return the CPU time that the process has used so far."""
        return cpu_seconds(self.process.pid)

    def memory_bytes(self) -> int:
        """Return how much memory the process holds now."""
        return int(_ps("rss", self.process.pid)) * 1024

    def stop(self) -> None:
        self.process.terminate()
        try:
            self.process.wait(15)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


def cpu_seconds(pid: int) -> float:
    """Return the CPU time of a process, all its threads together."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _ps(what: str, pid: int) -> str:
    return subprocess.run(
        ["ps", "-o", f"{what}=", "-p", str(pid)], capture_output=True, text=True, check=True
    ).stdout


class Stage:
    """Where the servers of one row live and leave their logs; all end with it."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._servers: list[Server] = []
        self.shops: tuple[Server, Server] | None = None
        self._redis: RedisServer | None = None

    def server(
        self, app: str, environment: Environment = MappingProxyType({}), workers: int = 1
    ) -> Server:
        """Start one server; it need not serve yet."""
        log = self._folder / f"{len(self._servers)}.log"
        self._servers.append(Server(app, log, environment, workers))
        return self._servers[-1]

    def file(self, name: str, text: str) -> str:
        """Write a file that a server or wrk is to read; return where it is."""
        path = self._folder / name
        path.write_text(text, encoding="utf-8")
        return str(path)

    def redis(self) -> RedisServer:
        """Return the Redis of this row, started when it is first asked for."""
        if self._redis is None:
            self._redis = RedisServer(self._folder)
        return self._redis

    def on_redis(self, prefix: str = "shop") -> dict[str, str]:
        """Return the settings that put a service on that Redis."""
        return {
            "USE_REDIS": "required",
            "REDIS_URL": f"redis://127.0.0.1:{self.redis().port}",
            "REDIS_PREFIX": prefix,
        }

    def clear(self) -> None:
        for server in self._servers:
            server.stop()
        if self._redis:
            self._redis.client.close()
            self._redis.stop()


@contextmanager
def stage(folder: Path) -> Iterator[Stage]:
    """Yield a stage; whatever happens, its servers are ended."""
    folder.mkdir(parents=True)
    made = Stage(folder)
    try:
        yield made
    finally:
        made.clear()
