"""The pages, taken at their word: commands are run, answers, names and places compared."""

import asyncio
import inspect
import json
import os
import re
import shlex
import shutil
import signal
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from functools import partial
from operator import itemgetter
from pathlib import Path

import certifi
import pytest
import requests
import uvicorn
from dotenv import dotenv_values
from opentelemetry.sdk import environment_variables as opentelemetry_variables
from redis.asyncio.connection import SSLConnection
from uvicorn.importer import import_from_string

import benchmarks.__main__
from shopsphere.redis_clients.connecting import connect
from shopsphere.redis_clients.errors import NothingResponds
from shopsphere.settings import MIN_SECRET_BYTES, Settings
from shopsphere.tools import demo
from tests import pages
from tests.apps import BUILD, openapi_of, resolve, settings_of
from tests.launching import PORTS, Started, copy_of_the_product, needs_fixed_ports, three_services
from tests.servers import ROOT, RedisServer, Service, Trio, free_port, wait_until

API, EXTENDING, OPERATING, SETTINGS, STARTING = (
    pages.read(ROOT / "docs" / f"{page}.md")
    for page in ("api", "extending", "operating", "settings", "starting")
)
ALERTS = (ROOT / "docs" / "alerts.yml").read_text(encoding="utf-8")
EXTENDING_PAGE, README_PAGE = ROOT / "docs" / "extending.md", ROOT / "README.md"
ON_PATH = {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
"""With it, `uvicorn` and `python` are those of the running environment."""
WORDS_OF_OTHERS = {
    *("kill", "process_", "histogram_quantile"),  # a shell's and Prometheus's
    *("curl", "exe", "powershell", "executionpolicy", "bypass", "scripts", "activate"),  # shells
    *("uv", "docker", "bash"),
    *("brand", "review_service", "reviews"),  # what the reader is to add
    *("appendonlydir", "environmentfile"),  # Redis's and systemd's
    *("parentbased_always_on", "parentbased_traceidratio", "traceparent"),  # OpenTelemetry's
    *("limits", "libpass", "a_code", "systemctl", "edit"),  # packages, one of many codes, systemd's
}
EXAMPLE = dotenv_values(ROOT / ".env.example", interpolate=False)
LAPTOP = {"name": "Laptop", "price": 999.99, "quantity": 10}
MEASURE = "python -m benchmarks"
MEASURING = {command for command in pages.in_the_text() if command.startswith(MEASURE)}
SOURCES = (
    *("*.py", "*.ps1", "*.yaml", "shopsphere/**/*.py", "benchmarks/*.py", "benchmarks/*.lua"),
    *("docs/*.yml", "tests/redis_groups.py", "docs/deploying/*", "Dockerfile"),
    ".env.example",
)
"""Where a name has to stand: in the product, its benchmarks or settings, or what others get."""
on_posix = pytest.mark.skipif(os.name == "nt", reason="runs commands in a shell of POSIX")
with_curl = pytest.mark.skipif(not shutil.which("curl"), reason="there is no curl here to run")


@pytest.fixture(scope="module")
def own_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    """A Redis that keeps its data."""
    with RedisServer(tmp_path_factory.mktemp("redis"), "--appendonly", "yes") as server:
        server.client.config_set("save", "3600 1")
        yield server


@pytest.fixture(scope="module")
def trio(own_server: RedisServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Trio]:
    """The three services on it, which log in JSON."""
    settings = {"SETTLE_INTERVAL": "0.1", "LOG_FORMAT": "json"}
    on_redis = {"USE_REDIS": "required", "REDIS_PORT": str(own_server.port)}
    with three_services(tmp_path_factory.mktemp("shop"), **settings, **on_redis) as trio:
        yield trio


# --- what is run ---------------------------------------------------------------------------------


@on_posix
@with_curl
@pytest.mark.parametrize(
    "page",
    [page for page in pages.PAGES if page != EXTENDING_PAGE and pages.steps(page)],
    ids=lambda page: page.name,
)
def test_what_a_page_shows_is_what_happens(page: Path, trio: Trio, own_server: RedisServer) -> None:
    own_server.client.flushall()
    pk = trio.product.post("/products", LAPTOP).json()["pk"]
    moved = partial(pages.moved, trio=trio, redis=own_server, pk=pk)
    commands, answers = zip(*pages.steps(page), strict=True)
    printed = pages.run_all(map(moved, commands), trio.order.environment)
    for said, shown in zip(printed, answers, strict=True):
        if "json" in shown:
            assert pages.are_alike(said, shown["json"])
        if "text" in shown:
            expected = pages.without_numbers(moved(shown["text"]))
            assert pages.without_numbers(said).endswith(expected)
        for line in shown.get("jsonl", "").splitlines():
            service, request_id = itemgetter("service", "request_id")(json.loads(line))
            assert pages.are_alike(logged_line(getattr(trio, service), request_id), line)


def test_uvicorn_knows_every_option_shown_and_each_app_is_there() -> None:
    all_blocks = "".join(text for page in pages.PAGES for _, text in pages.blocks(page))
    for arguments in re.findall(r"(?m)^ *uvicorn (.*)$", all_blocks):
        context = uvicorn.main.make_context("uvicorn", shlex.split(arguments))
        assert import_from_string(context.params["app"])


def logged_line(service: Service, request_id: str) -> str:
    wait_until(lambda: request_id in service.log.read_text())
    [line] = (line for line in service.log.read_text().splitlines() if request_id in line)
    return line


@on_posix
def test_the_line_for_several_workers_starts_them(own_server: RedisServer, tmp_path: Path) -> None:
    [line] = re.findall(r"(?m)^uvicorn .*$", OPERATING)
    [option] = re.findall(r"`(--log-config [^`]+)`", OPERATING)
    command = shlex.split(f"{sys.executable} -m {line.replace('8002', str(free_port()))} {option}")
    on_redis = {"USE_REDIS": "required", "REDIS_PORT": str(own_server.port), "LOG_FORMAT": "json"}
    with Started(command, ROOT, tmp_path / "log", **on_redis) as order:
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
    sorted(pages.in_the_text() - MEASURING - {*pages.EXCEPTED}),
)
def test_a_command_in_the_text_runs(
    command: str, trio: Trio, own_server: RedisServer, tmp_path: Path
) -> None:
    whole = pages.moved(command, trio, own_server, "")
    if command in COMPLETED:
        whole = COMPLETED[command].format(folder=tmp_path, port=own_server.port)
    printed = pages.run(whole, trio.order.environment)
    if "secrets" in command:
        assert len(printed.strip()) >= MIN_SECRET_BYTES


@pytest.mark.parametrize("command", sorted(MEASURING))
def test_a_measurement_in_the_text_is_known(command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    _, _, module, *arguments = shlex.split(command)
    monkeypatch.setenv("PATH", "")  # so it stops where it needs wrk
    if module == "benchmarks":
        assert benchmarks.__main__.main(arguments) == 1
    else:
        assert import_from_string(f"{module}:main")


def names_in(heading: str) -> list[str]:
    """Return the names in the first column of the tables under a heading of `operating`."""
    section = OPERATING.partition(f"\n## {heading}\n")[2].partition("\n## ")[0]
    firsts = re.findall(r"(?m)^\| (.*?) \| ", section)
    return [name for first in firsts for name in re.findall(r"`([^`]+)`", first)]


def test_every_field_of_a_log_line_is_explained(trio: Trio) -> None:
    trio.order.get("/orders", headers={"X-Request-ID": "explained"})
    assert set(json.loads(logged_line(trio.order, "explained"))) == set(names_in("Logs"))


def test_every_metric_is_explained_and_alerts_ask_for_those_there_are(trio: Trio) -> None:
    text = "".join(service.get("/metrics").text for service in trio.services)
    kinds = dict(re.findall(r"(?m)^# TYPE (\w+?) (?<!_created )(\w+)$", text))
    of_the_process = {kind for kind in kinds if kind.startswith("process_")}
    assert of_the_process or sys.platform != "linux"
    assert set(names_in("Metrics")) == {*kinds, "process_*"} - of_the_process
    questions = " ".join([ALERTS, *names_in("Alerts")])
    asked = set(re.findall(r"\b(?:http|orders)_\w+", questions))
    assert asked <= {*kinds, *(f"{name}_bucket" for name in kinds if kinds[name] == "histogram")}


@on_posix
@with_curl
def test_the_fourth_service_is_one_of_the_family(tmp_path: Path) -> None:
    copy = copy_of_the_product(tmp_path / "shop")
    port = str(free_port())
    [code] = re.findall(r"```python\n(.*?)```", EXTENDING, re.DOTALL)
    (copy / "review_service.py").write_text(code.replace("8003", port), encoding="utf-8")
    commands, answers = zip(*pages.steps(EXTENDING_PAGE), strict=True)
    with Started([sys.executable, "review_service.py"], copy, tmp_path / "log") as service:
        url = f"http://127.0.0.1:{port}"
        assert service.wait_for_answer(url).json()["service"] == "review"
        printed = pages.run_all((each.replace("8003", port) for each in commands), {})
        assert len(printed) == 3
        assert [*map(json.loads, printed)] == [json.loads(each["json"]) for each in answers]
        document = requests.get(f"{url}/openapi.json", timeout=10).json()
        assert "400" in document["paths"]["/reviews"]["post"]["responses"]
        assert 'route="/reviews",status="201"' in requests.get(f"{url}/metrics", timeout=10).text


@on_posix
@with_curl
def test_in_a_closed_shop_the_administrator_adds_products_and_customers_order_them(
    own_server: RedisServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings, closing = [text for _, text in pages.blocks(README_PAGE) if "you@example" in text]
    walkthrough = [step for step in pages.steps(README_PAGE) if re.search(r"ada@|\$ORDER", step[0])]
    password = "a-long-secret-of-32-bytes-or-more"
    chosen = dict(re.findall(r"(?m)^(\w+)=(\S+)", settings.replace("...", password)))
    with three_services(tmp_path, USE_REDIS="false", **chosen) as shop:
        url = shop.product.url
        refused = pages.run(f"python -m shopsphere.tools.demo {url}", {})
        assert refused.startswith("--demo added no products: ")
        assert "services' AUTH_REQUIRED and JWT_SECRET" in refused
        for variable, value in chosen.items():
            monkeypatch.setenv(variable, value)
        assert demo.add_products(url).startswith("--demo added 12 products")
        assert demo.add_products(url) == "--demo added no products: the shop already has some."
        blocks = [closing.replace("...", password), *(command for command, _ in walkthrough)]
        *_, cancelled = pages.run_all(
            (pages.moved(each, shop, own_server, "") for each in blocks), {}
        )
        assert pages.are_alike(cancelled, walkthrough[-1][1]["json"])


@needs_fixed_ports
@on_posix
@pytest.mark.parametrize(
    "line",
    [
        "uvicorn {name}_service:app --reload --host 127.0.0.1 --port {port}",
        "python {name}_service.py",
    ],
)
def test_each_service_starts_without_the_others(line: str, tmp_path: Path) -> None:
    copy, running = copy_of_the_product(tmp_path / "shop"), []
    with ExitStack() as stack:
        for name in ("order", "user", "product"):  # who needs another comes first
            command = line.format(name=name, port=PORTS[name])
            assert command in STARTING or command.startswith("python")
            log = tmp_path / f"{name}.log"
            service = Started(shlex.split(command), copy, log, USE_REDIS="false", **ON_PATH)
            running.append(stack.enter_context(service))
            health = service.wait_for_answer(f"http://127.0.0.1:{PORTS[name]}/ready").json()
            assert (health["service"], health["storage"]) == (name, "memory")
            requests.get(f"http://127.0.0.1:{PORTS[name]}/none", timeout=10)
        lamp = {"name": "Lamp", "price": 5, "quantity": 1}
        product = requests.post("http://localhost:8000/products", json=lamp, timeout=10).json()
        order = {"product_id": product["pk"], "quantity": 1}
        assert requests.post("http://localhost:8002/order", json=order, timeout=10).ok
        assert {service.press_ctrl_c() for service in running} <= {0, -signal.SIGINT}
    for service in running:
        assert "Traceback" not in service.output
        assert service.output.count("GET /none ") == 1  # in our line, and not in uvicorn's too


# --- what is named -------------------------------------------------------------------------------


def test_a_block_is_in_a_language_that_is_run_or_compared() -> None:
    found = {language for page in pages.PAGES for language, _ in pages.blocks(page)}
    assert found <= pages.LANGUAGES | pages.ONLY_SHOWN


def test_a_page_links_only_to_what_is_there() -> None:
    for page in pages.PAGES:
        for link, heading in re.findall(r"\]\(([^)#:]*)#?([^):]*)\)", pages.read(page)):
            target = page.parent / link if link else page
            assert target.exists(), (page, link)
            assert not heading or heading in headings(target), (page, link, heading)


def headings(page: Path) -> list[str]:
    """Return the headings of a page as links name them."""
    found = re.findall(r"(?m)^##+ (.*)$", pages.read(page).lower())
    return [re.sub(r"[^\w -]", "", heading).replace(" ", "-") for heading in found]


def test_all_that_is_in_code_type_is_there(redis_server: RedisServer) -> None:
    known = words_of_the_project(redis_server) | WORDS_OF_OTHERS
    for page in pages.PAGES:
        named = [*pages.spans(page), *words_of_drawings(page)]
        assert [span for span in named if not is_there(span, known)] == [], page


def test_settings_in_a_block_are_accepted_together() -> None:
    all_blocks = [text for page in pages.PAGES for _, text in pages.blocks(page)]
    for text in filter(pages.is_settings, all_blocks):
        given = re.findall(r"(?m)^(\w+)=(\S*)", text.replace("=...", f"={'dots' * 8}"))
        assert is_accepted(**dict(given)), text


def words_of_drawings(page: Path) -> list[str]:
    """Return the states, modules, ports and routes that stand in the drawings of a page."""
    text = "\n".join(text for _, text in pages.blocks(page) if pages.is_drawing(text))
    return re.findall(r"[A-Z]{3,} /[\w/{}]+|\b[A-Z]{5,}\b|\w+_\w+|\b[89]\d{3}\b", text)


def is_there(span: str, known: set[str]) -> bool:
    """Tell whether a span is right; the first that it looks like decides."""
    if pages.is_command(span) or span in pages.EXCEPTED:
        return True  # test_docs runs the one, `pages` names the other
    if route := re.fullmatch(r"([A-Z]{3,}) (/[^\s?]*)(?:\?(\S*))?(?: \{(.*)\})?", span):
        return is_route(*route.groups(""))
    if setting := re.fullmatch(r"([A-Z][A-Z_]+)=(.*)", span):
        return is_accepted(**{setting[1]: setting[2]})
    if re.match(r"(redis|unix)\S*://.", span):
        return is_address(span)
    return words_in(span) <= known


def words_in(text: str) -> set[str]:
    words = re.findall(r"[a-z_]\w+", text.lower())
    return {re.sub("_(total|bucket)$", "", word) for word in words}


def words_of_the_project(server: RedisServer) -> set[str]:
    """Return every word of the code and its file names, of uvicorn, Redis and their options."""
    files = [file for pattern in SOURCES for file in ROOT.glob(pattern)]
    texts = [
        *(file.read_text(encoding="utf-8") for file in files),
        *(file.name for place in ("*", "docs/*", "tests/*") for file in ROOT.glob(place)),
        *(str(openapi_of(service)) for service in BUILD),
        *(f"{option.opts} UVICORN_{option.name}" for option in uvicorn.main.params),
        str([server.client.config_get(), server.client.command()]),
        str([inspect.signature(SSLConnection), dir(signal), dir(opentelemetry_variables)]),
    ]
    return words_in(" ".join(texts))


def is_route(method: str, path: str, query: str, fields: str) -> bool:
    """Tell whether a service has the route, with these names in its query and its body."""
    asked, given = (set(re.findall(r"\w+", text)) for text in (query, fields))
    for document in map(openapi_of, BUILD):
        routes = {shape(known): methods for known, methods in document["paths"].items()}
        if route := routes.get(shape(path), {}).get(method.lower()):
            takes = {parameter["name"] for parameter in route.get("parameters", [])}
            forms = re.findall(r"#/components/schemas/\w+", str(route.get("requestBody")))
            bodies = [set(resolve(form, document)["properties"]) for form in forms]
            return asked <= takes and given in (set(), *bodies)
    return path in ("/docs", "/redoc", "/openapi.json")


def shape(path: str) -> str:
    return re.sub(r"\{\w+\}", "{}", path)


def is_accepted(**environment: str) -> bool:
    """Tell whether these are settings; fail if a start does not accept them."""
    settings_of(environment)
    return {name.lower() for name in environment} <= set(Settings.model_fields)


def is_address(url: str) -> bool:
    """Fail unless Redis would be looked for there; nothing listens where it is."""
    url = re.sub(r"\bhost\d?:(\d+|port)", f"127.0.0.1:{free_port()}", url)
    url = url.replace("/etc/shop/ca.pem", certifi.where())
    with pytest.raises(NothingResponds):
        asyncio.run(connect(settings_of({"REDIS_URL": url})))
    return True


# --- the tables ----------------------------------------------------------------------------------


def test_the_endpoint_tables_list_exactly_what_each_service_has() -> None:
    for name, port in PORTS.items():
        paths = openapi_of(name)["paths"]
        routes = {f"{method.upper()} {path}" for path in paths for method in paths[path]}
        table = API.partition(f", :{port} |")[2].partition("\n\n")[0]
        shown = re.findall(r"(?m)^\| `([A-Z]+ /[^\s?`]*)", table)
        assert sorted(["GET /", "GET /ready", "GET /metrics", *shown]) == sorted(routes)


def test_the_example_of_a_settings_file_lists_every_setting_with_its_default() -> None:
    example = {name.lower(): value for name, value in EXAMPLE.items()}
    assert set(example) == set(Settings.model_fields)
    assert Settings.model_validate(example) == Settings.model_construct()


def test_the_settings_table_lists_every_setting_with_its_default() -> None:
    rows = re.findall(r"(?m)^\| `([A-Z_]+)` \| (?:`(.*?)`|empty) \|", SETTINGS)
    assert dict(rows) == EXAMPLE
