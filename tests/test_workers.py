"""Several workers of one service on Redis: where they share a folder, their metrics add up."""

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest
import requests

from shopsphere.workers import METRICS_FOLDER
from tests.servers import ROOT, RedisServer, Service, free_port, wait_until

pytestmark = pytest.mark.skipif(os.name == "nt", reason="stops a process as POSIX does")

NOT_THERE = 'method="GET",route="/products/{pk}",status="404"'
ASKED = f"http_requests_total{{{NOT_THERE}}}"
TOOK = f"http_request_duration_seconds_count{{{NOT_THERE}}}"


@contextmanager
def two_workers(name: str, folder: Path, redis: RedisServer, **more: str) -> Iterator[Service]:
    """Run a service with two workers on Redis that share a folder; both have started."""
    redis.client.flushall()
    more |= {"USE_REDIS": "required", "REDIS_PORT": str(redis.port)}
    more |= {METRICS_FOLDER: str(folder / "metrics" / "shop")}
    service = Service(name, folder / f"{name}.log", 0, **more)
    try:
        service.start("--workers", "2")
        wait_until_all_run(service, 2)
        yield service
    finally:
        service.stop()


def wait_until_all_run(service: Service, workers: int) -> None:
    """Wait until so many workers have started since the beginning."""
    wait_until(lambda: service.log.read_text().count("startup complete") == workers, 30)


def metric(service: Service, line: str) -> set[float | None]:
    """Return what is said of a metric when many ask at once, so that both workers answer."""

    def ask(_: int) -> float | None:
        text = requests.get(f"{service.url}/metrics", timeout=10).text
        found = re.search(rf"(?m)^{re.escape(line)} (\S+)$", text)
        return float(found[1]) if found else None

    with ThreadPoolExecutor(8) as readers:
        return set(readers.map(ask, range(40)))


def test_two_workers_count_together_and_go_on(redis_server: RedisServer, tmp_path: Path) -> None:
    with two_workers("product", tmp_path, redis_server) as products:
        with ThreadPoolExecutor(8) as customers:
            list(customers.map(lambda n: requests.get(f"{products.url}/products/{n}"), range(200)))
        wait_until(lambda: metric(products, ASKED) == {200})  # it is counted after the response
        assert metric(products, TOOK) == {200}
        log = products.log.read_text()
        first, _ = re.findall(r"Started server process \[(\d+)\]", log)
        os.kill(int(first), signal.SIGKILL)
        wait_until_all_run(products, 3)
        assert metric(products, ASKED) == {200}


def test_orders_unsettled_are_counted_once(redis_server: RedisServer, tmp_path: Path) -> None:
    settings = {"PRODUCT_SERVICE_URL": f"http://127.0.0.1:{free_port()}"}
    settings |= {"ORDER_TIMEOUT": "0.5", "SETTLE_INTERVAL": "0.2"}
    order = {"product_id": "01JDX4Q8Z6W9RVCNKE3M5T7PBA", "quantity": 1}
    with two_workers("order", tmp_path, redis_server, **settings) as orders:
        for left_open in (1, 2):
            assert orders.post("/order", order).status_code == 503
            wait_until(lambda: metric(orders, "orders_unsettled") == {left_open})  # noqa: B023


def test_each_service_has_a_folder_for_itself_which_others_cannot_read(tmp_path: Path) -> None:
    assert "1.0" in metrics_of("product", tmp_path / "metrics").stdout
    own = tmp_path / "metrics" / "product"
    assert list(own.iterdir()) != []
    assert own.stat().st_mode & 0o077 == 0


def test_a_folder_that_cannot_be_made_is_one_line_and_each_worker_counts_for_itself() -> None:
    result = metrics_of("product", Path(os.devnull) / "metrics")
    assert "1.0" in result.stdout
    assert result.stderr.startswith(f"{METRICS_FOLDER} cannot be used (")
    assert result.stderr.endswith(": each worker reports its own metrics only\n")
    assert result.stderr.count("\n") == 1


def metrics_of(service: str, folder: Path) -> "subprocess.CompletedProcess[str]":
    """Count one request of a service whose workers are to share this folder."""
    code = (
        f"from shopsphere.metrics import *; metrics = RequestMetrics({service!r});"
        "metrics.count('GET', '/', 200, 0.1); print(exposition(metrics.registry).decode())"
    )
    environment = {**os.environ, METRICS_FOLDER: str(folder)}
    return subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=environment, capture_output=True, text=True
    )
