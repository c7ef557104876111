"""The README, taken at its word: its commands are run, its answers and tables compared."""

import json
import os
import re
import shlex
import shutil
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest
import requests
from pydantic import SecretStr

from shopsphere.settings import Settings
from tests import pages
from tests.launching import PORTS, copy_of_the_product, needs_quick_start_ports, started
from tests.servers import ROOT, RedisServer, Trio

README = (ROOT / "README.md").read_text(encoding="utf-8")
QUICK_START = [
    "uvicorn product_service:app --reload --host 127.0.0.1 --port 8000",
    "uvicorn user_service:app --reload --host 127.0.0.1 --port 8001",
    "uvicorn order_service:app --reload --host 127.0.0.1 --port 8002",
    """\
curl -X POST http://localhost:8001/register \\
  -H "Content-Type: application/json" \\
  -d '{"email": "user@example.com", "password": "securepass123"}'""",
    """\
curl -X POST http://localhost:8001/login \\
  -H "Content-Type: application/json" \\
  -d '{"email": "user@example.com", "password": "securepass123"}'""",
    """\
curl -X POST http://localhost:8000/products \\
  -H "Content-Type: application/json" \\
  -d '{"name": "Laptop", "price": 999.99, "quantity": 10}'""",
    """\
curl -X POST http://localhost:8002/order \\
  -H "Content-Type: application/json" \\
  -d '{"product_id": "abc123", "quantity": 2}'""",
]
on_posix = pytest.mark.skipif(os.name == "nt", reason="presses Ctrl-C as POSIX does")
UVICORN_LINES = {line.split("_")[0].removeprefix("uvicorn "): line for line in QUICK_START[:3]}


@dataclass
class Step:
    """Commands that stand together in the README, and the answer shown below them."""

    commands: list[str]
    answer: object = None


@cache
def steps() -> list[Step]:
    """Return what the README does with curl, in its order."""
    found: list[Step] = []
    for language, text in re.findall(r"```(bash|json)\n(.*?)```", README, re.DOTALL):
        if language == "json":
            found[-1].answer = json.loads(text)
            continue
        if text.startswith(pages.A_TOKEN):
            continue
        lines = text.replace("\\\n", "\0").splitlines()
        commands = [line.replace("\0", "\\\n") for line in lines if line.startswith("curl ")]
        if commands:
            found.append(Step(commands))
    return found


@pytest.fixture(scope="module", params=["memory", "redis"])
def shop(
    request: pytest.FixtureRequest,
    redis_server: RedisServer,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Trio]:
    """A fresh shop on each storage."""
    redis_server.client.flushall()
    on_redis = {"USE_REDIS": "required", "REDIS_PORT": str(redis_server.port)}
    environment = on_redis if request.param == "redis" else {"USE_REDIS": "false"}
    trio = Trio(tmp_path_factory.mktemp(request.param), **environment)
    try:
        yield trio.start()
    finally:
        trio.stop()


@pytest.fixture(scope="module")
def plain_copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the product, in which nobody changes a file while uvicorn looks."""
    return copy_of_the_product(tmp_path_factory.mktemp("by-hand") / "shop")


# --- the quick start -----------------------------------------------------------------------------


@pytest.mark.parametrize("lines", QUICK_START)
def test_the_quick_start_is_in_the_readme_word_for_word(lines: str) -> None:
    assert f"\n{lines}\n" in README


@pytest.mark.skipif(not shutil.which("curl"), reason="there is no curl here to run")
def test_the_story_in_curl_runs_and_answers_as_shown(shop: Trio, redis_server: RedisServer) -> None:
    pk = "abc123"
    for step in steps():
        commands = [pages.moved(command, shop, redis_server, pk) for command in step.commands]
        answers = [json.loads(pages.run(command, {})) for command in commands]
        if step.answer is not None:
            assert pages.without_chance(answers[0]) == pages.without_chance(step.answer), (
                step.commands[0]
            )
        if "/products \\" in step.commands[0]:
            pk = answers[0]["pk"]
    placed = shop.order.get("/orders").json()
    assert [(order["product_id"], order["quantity"]) for order in placed] == [(pk, 2), (pk, 1)]


def test_the_story_shows_an_answer_for_each_thing_it_does() -> None:
    story = README.partition("\n## Who may do what\n")[0]
    assert sum(len(step.commands) for step in steps()) == story.count("\ncurl ")
    assert sum(step.answer is not None for step in steps()) >= 6


@on_posix
@pytest.mark.parametrize("shop", ["redis"], indirect=True)
def test_every_other_command_prints_what_is_shown(shop: Trio, redis_server: RedisServer) -> None:
    all_steps = pages.steps(ROOT / "README.md")
    in_the_story = [step for step in all_steps if step.command.startswith("curl ")]
    assert all(set(step.answers) <= {"json"} for step in in_the_story)
    others = [
        step
        for step in all_steps
        if not (step in in_the_story or pages.is_excepted(step.command))
        and not (step.command in QUICK_START or step.command.startswith(pages.A_TOKEN))
    ]
    for step in others:
        printed = pages.run(step.command, shop.order.environment)
        shown = pages.moved(step.answers["text"], shop, redis_server, "")
        said = pages.without_numbers(printed).splitlines()
        assert pages.without_numbers(shown).splitlines() == said


@on_posix
@pytest.mark.skipif(not shutil.which("curl"), reason="there is no curl here to run")
def test_the_administrator_of_a_closed_shop_puts_a_product_in(
    redis_server: RedisServer, tmp_path: Path
) -> None:
    [block] = [text for _, text in pages.blocks(ROOT / "README.md") if "$TOKEN" in text]
    [settings] = [
        text for _, text in pages.blocks(ROOT / "README.md") if text.startswith("AUTH_REQUIRED")
    ]
    chosen = dict(re.findall(r"(?m)^(\w+)=(\S+)", settings)) | {"JWT_SECRET": "a secret " * 8}
    chosen["ADMIN_PASSWORD"] = "a-long-password"
    trio = Trio(tmp_path, USE_REDIS="false", **chosen)
    try:
        trio.start()
        command = pages.moved(block, trio, redis_server, "").replace("...", "a-long-password")
        product = json.loads(pages.run(command, {}))
        assert product == trio.product.get(f"/products/{product['pk']}").json()
    finally:
        trio.stop()


def in_this_environment() -> dict[str, str]:
    """Return a PATH on which `uvicorn` and `python` are those of the running environment."""
    folder = str(Path(sys.executable).parent)
    return {"PATH": f"{folder}{os.pathsep}{os.environ['PATH']}", "USE_REDIS": "false"}


@needs_quick_start_ports
@on_posix
def test_the_uvicorn_lines_start_each_service_without_the_others(
    plain_copy: Path, tmp_path: Path
) -> None:
    with ExitStack() as stack:
        running = []
        for name in ("order", "user", "product"):  # who needs another comes first
            command = shlex.split(UVICORN_LINES[name])
            log = tmp_path / f"{name}.log"
            service = stack.enter_context(
                started(command, plain_copy, log, **in_this_environment())
            )
            url = f"http://127.0.0.1:{PORTS[name]}"
            assert service.wait_for_answer(url).json()["service"] == name
            assert requests.get(f"{url}/ready", timeout=5).ok
            running.append(service)
        lamp = {"name": "Lamp", "price": 5, "quantity": 1}
        product = requests.post("http://localhost:8000/products", json=lamp, timeout=10).json()
        order = {"product_id": product["pk"], "quantity": 1}
        assert requests.post("http://localhost:8002/order", json=order, timeout=10).ok
        assert [service.press_ctrl_c() for service in running] == [0, 0, 0]


@needs_quick_start_ports
@on_posix
@pytest.mark.parametrize("name", PORTS)
def test_a_service_starts_as_a_script_too(name: str, plain_copy: Path, tmp_path: Path) -> None:
    command = shlex.split(f"python {name}_service.py")
    with started(command, plain_copy, tmp_path / "log", **in_this_environment()) as service:
        health = service.wait_for_answer(f"http://127.0.0.1:{PORTS[name]}/").json()
        assert (health["service"], health["storage"]) == (name, "memory")
        service.press_ctrl_c()
    assert "Traceback" not in service.output
    assert f"Uvicorn running on http://127.0.0.1:{PORTS[name]}" in service.output
    assert service.output.count("GET / ") == 1  # in our line, and not in uvicorn's as well


# --- the tables ----------------------------------------------------------------------------------


def rows_of(heading: str) -> list[list[str]]:
    """Return the cells of the tables under a heading."""
    section = README.partition(f"\n## {heading}\n")[2].partition("\n## ")[0]
    rows = re.findall(r"(?m)^\| (.*) \|$", section)
    return [[cell.strip() for cell in row.split(" | ")] for row in rows]


def routes_of(paths: dict[str, dict[str, object]]) -> set[str]:
    return {f"{method.upper()} {path}" for path, methods in paths.items() for method in methods}


def test_the_endpoint_tables_list_exactly_what_each_service_has(shop: Trio) -> None:
    shown: dict[int, list[str]] = {}
    for first, *_ in rows_of("The endpoints"):
        if port := re.search(r", :(\d+)", first):
            in_this_table = shown.setdefault(int(port[1]), [])
        elif call := re.match(r"`([A-Z]+ /[^\s?`]*)", first):
            in_this_table.append(call[1])
    for service in shop.services:
        routes = routes_of(service.get("/openapi.json").json()["paths"])
        assert routes >= IN_EVERY_SERVICE
        assert sorted(shown[PORTS[service.name]]) == sorted(routes - IN_EVERY_SERVICE)
    assert all(f"`{route}`" in README for route in IN_EVERY_SERVICE)


IN_EVERY_SERVICE = {"GET /", "GET /ready", "GET /metrics"}


def default_settings() -> dict[str, str]:
    """Return every setting and its default, as they are written in a `.env` file."""
    defaults = {}
    for name, field in Settings.model_fields.items():
        value = field.default
        if isinstance(value, SecretStr):
            value = value.get_secret_value()
        defaults[name.upper()] = str(value).lower() if isinstance(value, bool) else str(value)
    return defaults


def test_the_settings_table_lists_every_setting_with_its_default() -> None:
    shown: dict[str, str] = {}
    for names, defaults, _ in rows_of("Settings"):
        if not names.startswith("`"):
            continue
        variables = re.findall(r"`(\w+)`", names)
        values = [value.strip("`") for value in defaults.split(", ")]
        # A list of addresses leaves the host away where it is the one before.
        values = [re.sub(r"^(?=:\d+$)", "http://127.0.0.1", value) for value in values]
        values *= len(variables) if values == ["empty"] else 1
        shown |= zip(variables, ("" if v == "empty" else v for v in values), strict=True)
    assert shown == default_settings()


def test_the_example_of_a_settings_file_lists_every_setting_with_its_default() -> None:
    lines = (ROOT / ".env.example").read_text(encoding="utf-8").splitlines()
    shown = dict(line.split("=", 1) for line in lines if line and not line.startswith("#"))
    assert shown == default_settings()


def test_what_the_readme_says_you_may_see_is_what_the_product_says() -> None:
    product = [*ROOT.glob("*.py"), *ROOT.glob("shopsphere/**/*.py")]
    sources = "\n".join(file.read_text(encoding="utf-8") for file in product)
    said = [
        text.replace("8000", "{port}")
        for cells in rows_of("When something does not work")
        for text in re.findall(r"`([^`]+)`", cells[0])
    ]
    assert len(said) >= 6
    assert [text for text in said if text not in sources] == []


def test_the_places_that_the_readme_names_are_there() -> None:
    places = [p for cells in rows_of("How it is made") for p in re.findall(r"`([^`]+)`", cells[0])]
    assert places
    assert [place for place in places if not (ROOT / place).exists()] == []


def test_the_readme_ends_with_whose_project_it_is() -> None:
    last = " ".join(README.strip().split("\n\n")[-1].split())
    assert last == (
        "ShopSphere is part of the Zalimma internship program for Python developers, which is "
        "also its license."
    )
