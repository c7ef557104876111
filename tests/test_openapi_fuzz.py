"""Schemathesis, over what each service says of itself: it finds nothing that is not so.

All its checks are on, and all its phases, with the same examples each time.
"""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from shopsphere.domain.values import Role
from tests.people import CLOSED, METRICS_TOKEN, OPEN, TOKENS
from tests.servers import ROOT, RedisServer, Service, Trio

NAMES = ["user", "product", "order"]
EMAIL, PASSWORD = "boss@example.com", "securepass123"
CONFIG = """
hooks = "tests.openapi_hooks"
headers = {{ Authorization = "Bearer {administrator}" }}

[generation]
deterministic = true
database = "none"
max-examples = 2
no-shrink = true

[[operations]]
include-name = "GET /metrics"
headers = {{ Authorization = "Bearer {metrics}" }}

[[operations]]
include-path-regex = "/reservations/"
headers = {{ Authorization = "Bearer {order_service}" }}
"""


class Fuzzing:
    """A shop, and a Schemathesis for each of its services, all under way."""

    def __init__(self, stack: ExitStack, folder: Path, environment: dict[str, str]) -> None:
        self._folder = folder
        shop = Trio(folder, ADMIN_EMAIL=EMAIL, ADMIN_PASSWORD=PASSWORD, **environment)
        stack.callback(shop.stop)
        answer = shop.start().user.post("/login", {"email": EMAIL, "password": PASSWORD})
        config = folder / "schemathesis.toml"
        config.write_text(
            CONFIG.format(
                administrator=answer.json()["access_token"],
                order_service=TOKENS.issue("order-service", Role.SERVICE),
                metrics=METRICS_TOKEN,
            )
        )
        self.services = {service.name: service for service in shop.services}
        self._running = {
            name: self._run(service, config) for name, service in self.services.items()
        }
        for process in self._running.values():
            stack.callback(process.wait)  # after the kill: what is called back last comes first
            stack.callback(process.kill)

    def _run(self, service: Service, config: Path) -> subprocess.Popen[bytes]:
        command = [
            sys.executable, "-m", "schemathesis.cli", f"--config-file={config}", "run",
            "--checks=all", "--continue-on-failure", "--no-color", f"{service.url}/openapi.json",
        ]  # fmt: skip
        with (self._folder / f"{service.name}.txt").open("wb") as output:
            return subprocess.Popen(
                command,
                cwd=self._folder,
                env={**os.environ, "PYTHONPATH": str(ROOT)},
                stdout=output,
                stderr=output,
            )

    def result(self, name: str) -> tuple[int, str]:
        """Wait until this service has been gone through; return exit status and findings."""
        status = self._running[name].wait(300)
        return status, (self._folder / f"{name}.txt").read_text()


@pytest.fixture(scope="module", params=["memory, closed", "redis, open"])
def fuzzing(
    request: pytest.FixtureRequest,
    redis_server: RedisServer,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Fuzzing]:
    """One on each storage, and in each mode."""
    environment = {"USE_REDIS": "false", **CLOSED}
    if request.param == "redis, open":
        environment = {"USE_REDIS": "required", "REDIS_PORT": str(redis_server.port), **OPEN}
        environment["REDIS_PREFIX"] = "fuzzed"
    with ExitStack() as stack:
        yield Fuzzing(stack, tmp_path_factory.mktemp("fuzzed"), environment)


@pytest.mark.parametrize("name", NAMES)
def test_a_service_is_as_its_openapi_says(fuzzing: Fuzzing, name: str) -> None:
    status, findings = fuzzing.result(name)
    assert status == 0, findings
    log = fuzzing.services[name].log.read_text()
    assert "Traceback" not in log
    assert PASSWORD not in log
