"""Several workers of one service on Redis: where they share a folder, their metrics add up."""

import os
import re
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
import requests

from shopsphere.metrics import METRICS_FOLDER
from tests.servers import ROOT, RedisServer, Service, free_port, wait_until

pytestmark = pytest.mark.skipif(os.name == "nt", reason="stops a process as POSIX does")

NOT_THERE = 'method="GET",route="/orders/{pk}",status="404"'
ASKED = f"http_requests_total{{{NOT_THERE}}}"
TOOK = f"http_request_duration_seconds_count{{{NOT_THERE}}}"


def metric(service: Service, line: str) -> set[float | None]:
    """Return what is said of a metric when many ask at once, so that both workers answer."""

    def ask(_: int) -> float | None:
        text = requests.get(f"{service.url}/metrics", timeout=10).text
        found = re.search(rf"(?m)^{re.escape(line)} (\S+)$", text)
        return float(found[1]) if found else None

    with ThreadPoolExecutor(8) as readers:
        return set(readers.map(ask, range(40)))


def test_metrics_of_two_workers_are_their_sum(redis_server: RedisServer, tmp_path: Path) -> None:
    redis_server.client.flushall()
    settings = {"USE_REDIS": "required", "REDIS_PORT": str(redis_server.port)}
    settings |= {"PRODUCT_SERVICE_URL": f"http://127.0.0.1:{free_port()}", "ORDER_TIMEOUT": "0.5"}
    folder = tmp_path / "metrics" / "shop"
    settings |= {"SETTLE_AFTER": "0.1", "SETTLE_INTERVAL": "0.2", METRICS_FOLDER: str(folder)}
    killed = metrics_in(folder, "order", "/orders/{pk}", then="os.kill(os.getpid(), 9)")
    assert (killed.returncode, len(list(folder.glob("order/*.db")))) == (-signal.SIGKILL, 2)
    orders = Service("order", tmp_path / "order.log", 0, **settings)

    def wait_until_started(workers: int) -> None:
        wait_until(lambda: orders.log.read_text().count("startup complete") == workers, 30)

    with orders:
        orders.start("--workers", "2")
        wait_until_started(2)
        with ThreadPoolExecutor(8) as customers:
            list(customers.map(lambda n: requests.get(f"{orders.url}/orders/{n}"), range(200)))
        wait_until(lambda: metric(orders, ASKED) == {200})  # it is counted after the response
        assert metric(orders, TOOK) == {200}
        order = {"product_id": "01JDX4Q8Z6W9RVCNKE3M5T7PBA", "quantity": 1}
        for left_open in (1, 2):
            assert orders.post("/order", order).status_code == 503
            wait_until(lambda: metric(orders, "orders_unsettled") == {left_open})  # noqa: B023
        first, _ = re.findall(r"Started server process \[(\d+)\]", orders.log.read_text())
        os.kill(int(first), signal.SIGKILL)
        wait_until_started(3)
        assert metric(orders, ASKED) == {200}
        assert metric(orders, ASKED.replace("404", "200")) == {1}  # of the process killed before


def test_each_service_has_a_folder_for_itself_which_others_cannot_read(tmp_path: Path) -> None:
    look = "[own] = Path(sys.argv[1]).glob('*/'); print(own.name, oct(own.stat().st_mode))"
    result = metrics_in(tmp_path / "metrics", "product", "/", then=look)
    assert re.search(r"(?m)^http_requests_total.* 1\.0$", result.stdout)
    assert (result.stdout.splitlines()[-1], result.stderr) == ("product 0o40700", "")


@pytest.mark.parametrize("folder", ["a file/metrics", "of a file", "of another user"])
def test_a_folder_that_cannot_be_used_stops_the_start(folder: str) -> None:
    with TemporaryDirectory() as place:
        Path(place).chmod(0o777)
        Path(place, "a file").touch()
        Path(place, "of a file").mkdir()
        Path(place, "of a file", "product").touch()
        Path(place, "of another user", "product", "of theirs").mkdir(parents=True)
        Path(place, "of another user", "product").chmod(0)
        for shared in Path(place).iterdir():
            shared.chmod(0o777)
        result = metrics_in(Path(place, folder), "product", "/", user=65534)
    assert f"CannotStart: {METRICS_FOLDER} cannot be used (" in result.stderr


def metrics_in(
    folder: Path, service: str, route: str, *, then: str = "pass", user: int = 0
) -> "subprocess.CompletedProcess[str]":
    """Count one request of a service whose workers are to share this folder."""
    code = (
        f"import sys; from shopsphere.metrics import *; from shopsphere.metrics import os, Path;"
        f"os.geteuid() or os.seteuid({user}); metrics = RequestMetrics('{service}');"
        f"metrics.count('GET', '{route}', 200, 0.1);"
        f"print(exposition(metrics.registry).decode()); {then}"
    )
    command = [sys.executable, "-c", code, str(folder)]
    environment = {**os.environ, METRICS_FOLDER: str(folder)}
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
