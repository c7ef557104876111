"""Several workers of one service on Redis: their figures add up, whichever of them answers."""

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

from shopsphere.workers import FIGURES
from tests.apps import running
from tests.servers import RedisServer, Service, free_port, wait_until

pytestmark = pytest.mark.skipif(os.name == "nt", reason="stops a process as POSIX does")


def pids(service: Service) -> list[int]:
    """Return the processes that have said they serve."""
    return [int(pid) for pid in re.findall(r"Started server process \[(\d+)\]", log_of(service))]


def log_of(service: Service) -> str:
    return service.log.read_text(encoding="utf-8")


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
    """Run a service with two workers on Redis; both have started."""
    redis.client.flushall()
    on_redis = {"USE_REDIS": "required", "REDIS_PORT": str(redis.port)}
    log = folder / f"{name}.log"
    service = Service(name, log, 0, TMPDIR=str(folder), **on_redis, **environment)
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
    wait_until(lambda: log_of(service).count("startup complete") == workers, 30)


def figure(service: Service, line: str) -> str:
    """Return one figure, read over a connection of its own; "0.0" where there is none."""
    text = requests.get(f"{service.url}/metrics", timeout=10).text
    found = re.findall(rf"(?m)^{re.escape(line)} (\S+)$", text)
    assert len(found) <= 1, text
    return str(found[0]) if found else "0.0"


def folders_of_figures(temporary: Path) -> list[Path]:
    return sorted(temporary.glob("shopsphere-figures-*"))


def left_behind_by(pid: int, temporary: Path) -> Path:
    folder = temporary / f"shopsphere-figures-{pid}-1"
    folder.mkdir()
    (folder / f"counter_{pid}.db").touch()
    return folder


@pytest.fixture(scope="module")
def temporary(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder for temporary files, with what a dead and a living parent keep there."""
    folder = tmp_path_factory.mktemp("temporary")
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    left_behind_by(ended.pid, folder)
    left_behind_by(os.getpid(), folder)
    return folder


@pytest.fixture(scope="module")
def products(redis_server: RedisServer, temporary: Path) -> Iterator[Service]:
    """A product service with two workers."""
    with two_workers("product", temporary, redis_server) as service:
        yield service


NOT_THERE = 'method="GET",route="/products/{pk}",status="404"'
ASKED = f"http_requests_total{{{NOT_THERE}}}"
TOOK = f"http_request_duration_seconds_count{{{NOT_THERE}}}"


def test_what_services_that_have_ended_left_behind_is_removed(
    products: Service, temporary: Path
) -> None:
    owners = [int(folder.name.split("-")[2]) for folder in folders_of_figures(temporary)]
    assert sorted(owners) == sorted([os.getpid(), products.process.pid])


def test_the_figures_of_two_workers_add_up_whichever_answers(products: Service) -> None:
    workers = pids(products)
    for worker, share in zip(workers, (30, 10), strict=True):
        with only(worker, workers):
            for number in range(share):
                requests.get(f"{products.url}/products/{number}", timeout=10)
    for worker in workers:
        with only(worker, workers):
            assert figure(products, ASKED) == "40.0"
            assert figure(products, TOOK) == "40.0"


def test_a_worker_that_dies_takes_no_figure_with_it_and_others_cannot_read_them(
    products: Service, temporary: Path
) -> None:
    folders = folders_of_figures(temporary)
    workers = pids(products)
    with only(workers[0], workers):
        requests.get(f"{products.url}/products/1", timeout=10)
        before = figure(products, ASKED)
    os.kill(workers[0], signal.SIGKILL)
    wait_until_all_run(products, 3)
    assert float(before) >= 1
    assert figure(products, ASKED) == before
    assert folders_of_figures(temporary) == folders
    [own] = (folder for folder in folders if f"-{products.process.pid}-" in folder.name)
    assert own.stat().st_mode & 0o077 == 0


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
                    assert figure(orders, "orders_unsettled") == f"{left_open}.0"


def test_one_process_keeps_its_figures_to_itself() -> None:
    with running("product", {"USE_REDIS": "false"}) as products:
        assert "http_requests" in products.get("/metrics").text
    assert FIGURES not in os.environ
