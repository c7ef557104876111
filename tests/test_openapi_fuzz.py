"""Schemathesis, over what each service says of itself: it finds nothing that is not so.

All its checks are on, and all its phases, with the same examples each time.
"""

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from shopsphere.domain.values import Role
from tests.launching import three_services
from tests.people import CLOSED, METRICS_TOKEN, TOKENS
from tests.servers import ROOT, RedisServer, Service

ADMIN = {"ADMIN_EMAIL": "boss@example.com", "ADMIN_PASSWORD": "securepass123"}
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


def fuzz(service: Service, folder: Path) -> tuple[int, str]:
    """Run Schemathesis, and return its exit status, what it says, and what the service logged."""
    command = [
        sys.executable, "-m", "schemathesis.cli", f"--config-file={folder}/schemathesis.toml",
        "run", "--checks=all", "--continue-on-failure", "--no-color", f"{service.url}/openapi.json",
    ]  # fmt: skip
    ended = subprocess.run(
        command, cwd=folder, env={**os.environ, "PYTHONPATH": str(ROOT)}, timeout=300,
        capture_output=True, text=True,
    )  # fmt: skip
    return ended.returncode, ended.stdout + service.log.read_text()


def test_each_service_is_as_its_openapi_says(redis_server: RedisServer, tmp_path: Path) -> None:
    redis = {
        "USE_REDIS": "required",
        "REDIS_PORT": str(redis_server.port),
        "REDIS_PREFIX": "fuzzed",
    }
    with three_services(tmp_path, **redis, **CLOSED, **ADMIN) as shop:
        login = {"email": ADMIN["ADMIN_EMAIL"], "password": ADMIN["ADMIN_PASSWORD"]}
        tokens = {
            "administrator": shop.user.post("/login", login).json()["access_token"],
            "order_service": TOKENS.issue("order-service", Role.SERVICE),
            "metrics": METRICS_TOKEN,
        }
        (tmp_path / "schemathesis.toml").write_text(CONFIG.format(**tokens))
        with ThreadPoolExecutor(3) as threads:
            findings = list(threads.map(lambda service: fuzz(service, tmp_path), shop.services))
    for status, text in findings:
        assert status == 0, text
        assert "Traceback" not in text
        assert ADMIN["ADMIN_PASSWORD"] not in text
