"""The README, taken at its word: its commands are run, its answers and tables compared."""

import json
import os
import re
import shlex
import shutil
import sys
from contextlib import ExitStack
from pathlib import Path

import pytest
import requests

from shopsphere.settings import Settings
from shopsphere.tools import demo
from tests import pages
from tests.apps import openapi_of
from tests.launching import (
    PORTS,
    Started,
    copy_of_the_product,
    needs_quick_start_ports,
    three_services,
)
from tests.servers import ROOT, RedisServer

README = (ROOT / "README.md").read_text(encoding="utf-8")
PAGE = ROOT / "README.md"
ON_PATH = {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
"""With it, `uvicorn` and `python` are those of the running environment."""
on_posix = pytest.mark.skipif(os.name == "nt", reason="runs commands as POSIX does")


# --- the commands --------------------------------------------------------------------------------


@on_posix
@pytest.mark.skipif(not shutil.which("curl"), reason="there is no curl here to run")
def test_the_administrator_of_a_closed_shop_puts_products_in(
    redis_server: RedisServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    blocks = [text for _, text in pages.blocks(PAGE)]
    [command] = [text for text in blocks if "$TOKEN" in text]
    [settings] = [text for text in blocks if text.startswith("AUTH_REQUIRED")]
    chosen = dict(re.findall(r"(?m)^(\w+)=(\S+)", settings)) | {"JWT_SECRET": "a secret " * 8}
    chosen["ADMIN_PASSWORD"] = "a-long-password"
    with three_services(tmp_path, USE_REDIS="false", **chosen) as shop:
        urls = (shop.product.url, shop.user.url)
        refused = pages.run(f"python -m shopsphere.tools.demo {' '.join(urls)}", {})
        assert refused.startswith("--demo added no products: only an administrator can, so set")
        for variable, value in chosen.items():
            monkeypatch.setenv(variable, value)
        assert demo.add_products(*urls).startswith("--demo added 12 products")
        assert demo.add_products(*urls) == "The shop has products already, so --demo adds none."
        moved = pages.moved(command, shop, redis_server, "").replace("...", "a-long-password")
        product = json.loads(pages.run(moved, {}))
        assert product == shop.product.get(f"/products/{product['pk']}").json()


@needs_quick_start_ports
@on_posix
def test_the_uvicorn_lines_start_each_service_without_the_others(tmp_path: Path) -> None:
    copy = copy_of_the_product(tmp_path / "shop")
    with ExitStack() as stack:
        running = []
        for name in ("order", "user", "product"):  # who needs another comes first
            line = f"uvicorn {name}_service:app --reload --host 127.0.0.1 --port {PORTS[name]}"
            assert f"\n{line}\n" in README
            log = tmp_path / f"{name}.log"
            service = Started(shlex.split(line), copy, log, USE_REDIS="false", **ON_PATH)
            running.append(stack.enter_context(service))
            health = running[-1].wait_for_answer(f"http://127.0.0.1:{PORTS[name]}/ready")
            assert (health.status_code, health.json()["service"]) == (200, name)
        lamp = {"name": "Lamp", "price": 5, "quantity": 1}
        product = requests.post("http://localhost:8000/products", json=lamp, timeout=10).json()
        order = {"product_id": product["pk"], "quantity": 1}
        assert requests.post("http://localhost:8002/order", json=order, timeout=10).ok
        assert [service.press_ctrl_c() for service in running] == [0, 0, 0]


@needs_quick_start_ports
@on_posix
@pytest.mark.parametrize("name", PORTS)
def test_a_service_starts_as_a_script_too(name: str, tmp_path: Path) -> None:
    command = ["python", f"{name}_service.py"]
    with Started(command, ROOT, tmp_path / "log", USE_REDIS="false", **ON_PATH) as service:
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


def test_the_endpoint_tables_list_exactly_what_each_service_has() -> None:
    in_every_service = {"GET /", "GET /ready", "GET /metrics"}
    assert all(f"`{route}`" in README for route in in_every_service)
    shown: dict[int, list[str]] = {}
    for first, *_ in rows_of("The endpoints"):
        if port := re.search(r", :(\d+)", first):
            in_this_table = shown.setdefault(int(port[1]), [])
        elif call := re.match(r"`([A-Z]+ /[^\s?`]*)", first):
            in_this_table.append(call[1])
    for name, port_number in PORTS.items():
        paths = openapi_of(name)["paths"]
        routes = {f"{method.upper()} {path}" for path in paths for method in paths[path]}
        assert sorted([*shown[port_number], *in_every_service]) == sorted(routes)


def example_of_settings() -> dict[str, str]:
    lines = (ROOT / ".env.example").read_text(encoding="utf-8").splitlines()
    return dict(line.split("=", 1) for line in lines if line and not line.startswith("#"))


def test_the_example_of_a_settings_file_lists_every_setting_with_its_default() -> None:
    example = {name.lower(): value for name, value in example_of_settings().items()}
    assert set(example) == set(Settings.model_fields)
    assert Settings.model_validate(example) == Settings.model_construct()


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
    assert shown == example_of_settings()
