"""The pages, taken at their word: commands are run, answers, names and places compared."""

import importlib
import json
import os
import re
import shlex
import shutil
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
import requests
import uvicorn
from uvicorn.importer import import_from_string

import benchmarks.__main__
from shopsphere.settings import MIN_SECRET_BYTES
from tests import pages
from tests.launching import copy_of_the_product, started, three_services
from tests.servers import ROOT, RedisServer, Service, Trio, free_port, wait_until
from tests.shop import Shop

OPERATING_PAGE, EXTENDING_PAGE = (
    ROOT / "docs" / f"{name}.md" for name in ("operating", "extending")
)
OPERATING, EXTENDING = map(pages.read, (OPERATING_PAGE, EXTENDING_PAGE))
WITH_A_SHOP_OF_THEIR_OWN = {EXTENDING_PAGE, ROOT / "README.md"}
MEASURE = "python -m benchmarks"
MEASURING = [command for command in pages.commands() if command.startswith(MEASURE)]
each_page = pytest.mark.parametrize("page", pages.PAGES, ids=lambda page: str(page.name))
on_posix = pytest.mark.skipif(os.name == "nt", reason="runs commands in a shell of POSIX")
with_curl = pytest.mark.skipif(not shutil.which("curl"), reason="there is no curl here to run")


@pytest.fixture(scope="module")
def redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    """A Redis that keeps its data."""
    server = RedisServer(tmp_path_factory.mktemp("redis"), "--appendonly", "yes")
    yield server
    server.client.close()
    server.stop()


@pytest.fixture(scope="module")
def trio(redis: RedisServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Trio]:
    """The three services on it, which log in JSON."""
    settings = {"SETTLE_AFTER": "0.2", "SETTLE_INTERVAL": "0.1", "LOG_FORMAT": "json"}
    on_redis = {"USE_REDIS": "required", "REDIS_PORT": str(redis.port)}
    with three_services(tmp_path_factory.mktemp("shop"), **settings, **on_redis) as trio:
        yield trio


@each_page
def test_a_block_is_in_a_language_that_is_run_or_compared(page: Path) -> None:
    python = {"python"} if page == EXTENDING_PAGE else set()
    assert {language for language, _ in pages.blocks(page)} <= pages.LANGUAGES | python


@on_posix
@with_curl
@pytest.mark.parametrize(
    "page", sorted({*pages.PAGES} - WITH_A_SHOP_OF_THEIR_OWN), ids=lambda page: str(page.name)
)
def test_what_a_page_shows_is_what_happens(page: Path, trio: Trio, redis: RedisServer) -> None:
    redis.client.flushall()
    lamp = {"name": "Lamp", "price": 5, "quantity": 10}
    pk = trio.product.post("/products", lamp).json()["pk"]
    for step in pages.steps(page):
        if step.command.startswith("uvicorn "):
            assert_starts_a_service(step.command)
        if pages.is_excepted(step.command) or step.command.startswith(("uvicorn ", MEASURE)):
            assert not step.answers
            continue
        printed = pages.run(pages.moved(step.command, trio, redis, pk), trio.order.environment)
        for language, answer in step.answers.items():
            shown = pages.moved(answer, trio, redis, pk)
            if language == "json":
                said, expected = (pages.without_chance(json.loads(it)) for it in (printed, shown))
                assert said == expected
            elif language == "text":
                lines = pages.without_numbers(printed).splitlines()
                assert set(pages.without_numbers(shown).splitlines()) <= set(lines)
            else:
                assert_logged(shown.splitlines(), trio)


def assert_starts_a_service(command: str) -> None:
    """Fail unless uvicorn knows all its options, and the app is there."""
    context = uvicorn.main.make_context("uvicorn", shlex.split(command)[1:])
    assert import_from_string(context.params["app"])


def assert_logged(lines: list[str], trio: Trio) -> None:
    """Fail unless each service logged its line as it is shown."""
    for shown in map(json.loads, lines):
        logged = logged_line(getattr(trio, shown["service"]), shown["request_id"])
        assert pages.without_chance(logged) == pages.without_chance(shown)


def logged_line(service: Service, request_id: str) -> dict[str, object]:
    wait_until(lambda: request_id in service.log.read_text())
    [line] = (line for line in service.log.read_text().splitlines() if request_id in line)
    logged: dict[str, object] = json.loads(line)
    return logged


@on_posix
def test_the_line_for_several_workers_starts_them_and_all_may_log_in_json(
    redis: RedisServer, tmp_path: Path
) -> None:
    commands = [step.command for step in pages.steps(OPERATING_PAGE)]
    [line] = [command for command in commands if command.startswith("uvicorn ")]
    [option] = re.findall(r"`(--log-config [^`]+)`", OPERATING)
    command = shlex.split(f"{sys.executable} -m {line.replace('8002', str(free_port()))} {option}")
    on_redis = {"USE_REDIS": "required", "REDIS_PORT": str(redis.port), "LOG_FORMAT": "json"}
    with started(command, ROOT, tmp_path / "log", **on_redis) as order:
        wait_until(lambda: order.output.count("startup complete") == 2, 30, order.output)
        order.end()
    said = [json.loads(line) for line in order.output.splitlines()]
    services = {"Started parent": [None], "Application shutdown complete": ["order"] * 2}
    for text, expected in services.items():
        assert [entry["service"] for entry in said if text in entry["message"]] == expected


COMPLETED = {
    "redis-cli --rdb": "redis-cli --rdb {folder}/dump.rdb -p {port}",
    "python -m tests.soak": "python -m tests.soak --help",
    "python -m tests.protocol_model": "python -m tests.protocol_model --help",
}
"""Where a command leaves something to the reader, or takes as long as one likes."""


@on_posix
@pytest.mark.parametrize(
    "command",
    [each for each in pages.in_the_text() if each not in MEASURING and not pages.is_excepted(each)],
)
def test_a_command_in_the_text_runs(
    command: str, trio: Trio, redis: RedisServer, tmp_path: Path
) -> None:
    whole = pages.moved(command, trio, redis, pages.PRODUCT_PK)
    if command in COMPLETED:
        whole = COMPLETED[command].format(folder=tmp_path, port=redis.port)
    printed = pages.run(whole, trio.order.environment)
    if "secrets" in command:
        assert len(printed.strip()) >= MIN_SECRET_BYTES


@pytest.mark.parametrize("command", MEASURING)
def test_a_measurement_in_the_text_is_understood(
    command: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, _, module, *arguments = shlex.split(command)
    monkeypatch.setenv("PATH", "")  # so it stops where it needs wrk
    if module == "benchmarks":
        assert benchmarks.__main__.main(arguments) == 1
    assert module == "benchmarks" or hasattr(importlib.import_module(module), "main")


def names_in(heading: str) -> list[str]:
    """Return the names in the first column of the table under a heading of `operating`."""
    section = OPERATING.partition(f"\n## {heading}\n")[2].partition("\n## ")[0]
    firsts = re.findall(r"(?m)^\| (`[^|]*) \|", section)
    return [name for cell in firsts for name in re.findall(r"`([^`]+)`", cell)]


def test_every_field_of_a_log_line_is_explained(trio: Trio) -> None:
    trio.order.get("/", headers={"X-Request-ID": "explained"})
    assert set(logged_line(trio.order, "explained")) == set(names_in("Logs"))


def test_every_metric_is_explained_and_alerts_ask_for_those_there_are(trio: Trio) -> None:
    text = "".join(service.get("/metrics").text for service in trio.services)
    kinds = dict(re.findall(r"(?m)^# TYPE (\w+?) (?<!_created )(\w+)$", text))
    cells = names_in("Metrics")
    assert {cell for cell in cells if re.fullmatch(r"\w+", cell)} == set(kinds)
    questions = " ".join(cell for cell in cells if cell not in kinds)
    asked = set(re.findall(r"\b(?:http|orders)_\w+", questions))
    assert asked
    assert asked <= {*kinds, *(f"{name}_bucket" for name in kinds if kinds[name] == "histogram")}


def test_a_backup_that_is_restored_has_every_order_and_the_stock_adds_up(
    trio: Trio, redis: RedisServer, tmp_path: Path
) -> None:
    redis.client.flushall()
    lamp = {"name": "Lamp", "price": 5, "quantity": 10}
    product = trio.product.post("/products", lamp).json()["pk"]
    order = trio.order.post("/order", {"product_id": product, "quantity": 2}).json()["pk"]
    redis.client.save()
    shutil.copy(Path(redis.client.config_get("dir")["dir"]) / "dump.rdb", tmp_path)
    with ExitStack() as ending:
        restored = RedisServer(tmp_path)
        ending.callback(restored.stop)
        ending.callback(restored.client.close)
        shop = Shop(tmp_path, {"USE_REDIS": "required", "REDIS_PORT": str(restored.port)})
        ending.callback(shop.stop)
        shop.start()
        assert shop.order_status(order) == "PLACED"
        assert shop.stock(product) == (10, 8, 2, 0)
        assert shop.findings() == []


@on_posix
@with_curl
def test_the_fourth_service_is_one_of_the_family(tmp_path: Path) -> None:
    copy = copy_of_the_product(tmp_path / "shop")
    port = str(free_port())
    [code] = re.findall(r"```python\n(.*?)```", EXTENDING, re.DOTALL)
    (copy / "review_service.py").write_text(code.replace("8003", port), encoding="utf-8")
    start, *others = pages.steps(EXTENDING_PAGE)
    command = [sys.executable, *shlex.split(start.command)[1:]]
    with started(command, copy, tmp_path / "log") as service:
        url = f"http://127.0.0.1:{port}"
        assert service.wait_for_answer(url).json()["service"] == "review"
        assert [len(step.answers) for step in others] == [1, 1, 1]
        for step in others:
            answer = json.loads(pages.run(step.command.replace("8003", port), {}))
            assert answer == json.loads(step.answers["json"])
        document = requests.get(f"{url}/openapi.json", timeout=10).json()
        assert "400" in document["paths"]["/reviews"]["post"]["responses"]
        assert 'route="/reviews",status="201"' in requests.get(f"{url}/metrics", timeout=10).text


@each_page
def test_a_page_links_only_to_what_is_there(page: Path) -> None:
    links = re.findall(r"\]\(([^)#:]+)\)", pages.read(page))
    assert [link for link in links if not (page.parent / link).exists()] == []
