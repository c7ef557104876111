"""Schemathesis, over what each service says of itself: it finds nothing that is not so.

All its checks are on, and all its phases, with the same examples each time.
"""

import os
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from shopsphere.domain.values import Role
from tests.people import CLOSED, METRICS_TOKEN, OPEN, TOKENS
from tests.servers import ROOT, RedisServer, Service, Trio

NAMES = ["product", "user", "order"]
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


@pytest.fixture(scope="module", params=["memory, closed", "redis, open"])
def findings(
    request: pytest.FixtureRequest,
    redis_server: RedisServer,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[dict[str, tuple[int, str]]]:
    """Exit status and output of a Schemathesis for each service, in a shop of each kind."""
    environment = {"USE_REDIS": "false", **CLOSED}
    if request.param == "redis, open":
        environment = {"USE_REDIS": "required", "REDIS_PORT": str(redis_server.port), **OPEN}
        environment["REDIS_PREFIX"] = "fuzzed"
    folder = tmp_path_factory.mktemp("fuzzed")
    shop = Trio(folder, ADMIN_EMAIL=EMAIL, ADMIN_PASSWORD=PASSWORD, **environment)
    try:
        answer = shop.start().user.post("/login", {"email": EMAIL, "password": PASSWORD})
        tokens = {
            "administrator": answer.json()["access_token"],
            "order_service": TOKENS.issue("order-service", Role.SERVICE),
            "metrics": METRICS_TOKEN,
        }
        (folder / "schemathesis.toml").write_text(CONFIG.format(**tokens))
        with ThreadPoolExecutor(3) as threads:
            found = threads.map(lambda service: fuzz(service, folder), shop.services)
            yield dict(zip(NAMES, found, strict=True))
    finally:
        shop.stop()


def fuzz(service: Service, folder: Path) -> tuple[int, str]:
    """Run Schemathesis, and return its exit status, what it says, and what the service logged."""
    command = [
        sys.executable, "-m", "schemathesis.cli", f"--config-file={folder}/schemathesis.toml",
        "run", "--checks=all", "--continue-on-failure", "--no-color", f"{service.url}/openapi.json",
    ]  # fmt: skip
    ended = subprocess.run(
        command,
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=300,
    )
    return ended.returncode, ended.stdout + service.log.read_text()


@pytest.mark.parametrize("name", NAMES)
def test_a_service_is_as_its_openapi_says(findings: dict[str, tuple[int, str]], name: str) -> None:
    status, text = findings[name]
    assert status == 0, text
    assert "Traceback" not in text
    assert PASSWORD not in text
