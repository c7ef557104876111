"""Several workers of one service on Redis: where they share a folder, their metrics add up."""

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
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


def pids(service: Service) -> list[int]:
    """Return the processes that have said they serve."""
    log = service.log.read_text(encoding="utf-8")
    return [int(pid) for pid in re.findall(r"Started server process \[(\d+)\]", log)]


@contextmanager
def only(worker: int, workers: list[int]) -> Iterator[None]:
    """Hold up all other workers, so that this one answers whatever comes."""
    others = [pid for pid in workers if pid != worker]
    for other in others:
        os.kill(other, signal.SIGSTOP)
    wait_until(lambda: all(map(is_stopped, others)))
    try:
        yield
    finally:
        for other in others:
            os.kill(other, signal.SIGCONT)


def is_stopped(pid: int) -> bool:
    stat = Path(f"/proc/{pid}/stat")
    return not stat.exists() or ") T " in stat.read_text()


@contextmanager
def two_workers(
    name: str, folder: Path, redis: RedisServer, **environment: str
) -> Iterator[Service]:
    """Run a service with two workers on Redis that share a folder; both have started."""
    redis.client.flushall()
    environment |= {"USE_REDIS": "required", "REDIS_PORT": str(redis.port)}
    environment |= {METRICS_FOLDER: str(folder / "metrics" / "shop")}
    service = Service(name, folder / f"{name}.log", 0, **environment)
    try:
        # A worker that is held up is not to be taken for one that hangs. But uvicorn 0.54 waits so
        # long for the answer of one that is killed just as it is asked, and does nothing else.
        service.start("--workers", "2", "--timeout-worker-healthcheck", "10")
        wait_until_all_run(service, 2)
        yield service
    finally:
        service.stop()


def wait_until_all_run(service: Service, workers: int) -> None:
    """Wait until so many workers have started since the beginning."""
    wait_until(lambda: service.log.read_text().count("startup complete") == workers, 30)


def metric(service: Service, line: str) -> float:
    """Return one metric, read over a connection of its own; 0 where there is none."""
    text = requests.get(f"{service.url}/metrics", timeout=10).text
    found = re.findall(rf"(?m)^{re.escape(line)} (\S+)$", text)
    assert len(found) <= 1, text
    return float(found[0]) if found else 0


def test_the_metrics_of_two_workers_add_up_whichever_answers_and_outlive_one_that_dies(
    redis_server: RedisServer, tmp_path: Path
) -> None:
    with two_workers("product", tmp_path, redis_server) as products:
        workers = pids(products)
        for worker, share in zip(workers, (30, 10), strict=True):
            with only(worker, workers):
                for number in range(share):
                    requests.get(f"{products.url}/products/{number}", timeout=10)
        for worker in workers:
            with only(worker, workers):
                assert metric(products, ASKED) == 40
                assert metric(products, TOOK) == 40
        os.kill(workers[0], signal.SIGKILL)
        wait_until_all_run(products, 3)
        assert metric(products, ASKED) == 40


def test_orders_unsettled_are_counted_once_however_many_workers_there_are(
    redis_server: RedisServer, tmp_path: Path
) -> None:
    nowhere = f"http://127.0.0.1:{free_port()}"
    order = {"product_id": "01JDX4Q8Z6W9RVCNKE3M5T7PBA", "quantity": 1}
    with two_workers("order", tmp_path, redis_server, PRODUCT_SERVICE_URL=nowhere) as orders:
        workers = pids(orders)
        for left_open, worker in enumerate(workers, 1):
            with only(worker, workers):
                assert orders.post("/order", order).status_code == 503
                orders.http.close()
            for answering in workers:
                with only(answering, workers):
                    assert metric(orders, "orders_unsettled") == left_open


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
        "metrics.count({'method': 'GET'}, 200, 0.1); print(exposition(metrics.registry).decode())"
    )
    environment = {**os.environ, METRICS_FOLDER: str(folder)}
    return subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=environment, capture_output=True, text=True
    )
