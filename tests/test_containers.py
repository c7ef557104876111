"""The image and `compose.yaml`, as far as it goes without an engine: what they say is done here."""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from contextlib import ExitStack
from fnmatch import fnmatch
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import uvicorn
import yaml

from shopsphere.settings import Settings
from tests.launching import Started
from tests.servers import ROOT, RedisServer, Service, Trio, wait_until

SERVICES = ["product", "user", "order"]


@cache
def given(instruction: str) -> list[str]:
    """Return what each instruction of this name in the Dockerfile is given."""
    text = (ROOT / "Dockerfile").read_text(encoding="utf-8").replace("\\\n", " ")
    return [rest.strip() for rest in re.findall(rf"(?m)^{instruction} (.*)$", text)]


@cache
def compose() -> dict[str, Any]:
    services: dict[str, Any] = yaml.safe_load((ROOT / "compose.yaml").read_text())["services"]
    return services


def copied() -> list[Path]:
    """Return what the image is made of, from the folder of the project."""
    sources = [source for line in given("COPY") for source in line.split()[:-1]]
    assert all(any(ROOT.glob(source)) for source in sources)
    return [path for source in sources for path in ROOT.glob(source)]


def in_the_image() -> dict[str, str]:
    """Return the environment that the image sets."""
    return dict(pair.split("=", 1) for line in given("ENV") for pair in shlex.split(line))


def test_compose_runs_the_three_services_on_a_redis_that_keeps_its_data() -> None:
    assert set(compose()) == {"redis", *SERVICES}
    redis = compose()["redis"]
    assert "--appendonly yes --maxmemory-policy noeviction" in redis["command"]
    assert redis["volumes"] == ["redis:/data"]
    assert "ports" not in redis  # only the services reach it


def test_compose_gives_each_service_its_settings_and_a_secret() -> None:
    options = {f"UVICORN_{option.name}".upper() for option in uvicorn.main.params}
    known = {field.upper() for field in Settings.model_fields} | options
    known |= {"PYTHONUNBUFFERED", "FORWARDED_ALLOW_IPS"}
    ports = {name: compose()[name]["environment"]["UVICORN_PORT"] for name in SERVICES}
    for name, port in ports.items():
        service, environment = compose()[name], compose()[name]["environment"]
        assert service["ports"] == [f"127.0.0.1:{port}:{port}"]
        assert service["depends_on"] == {"redis": {"condition": "service_healthy"}}
        assert environment["JWT_SECRET"].startswith("${JWT_SECRET:?")
        assert environment["UVICORN_APP"] == f"{name}_service:app"
        assert environment["USE_REDIS"] == "required"
        assert environment["REDIS_URL"] == "redis://redis:6379/0"
        for other in SERVICES:
            address = f"http://{other}:{ports[other]}"
            assert environment[f"{other.upper()}_SERVICE_URL"] == address
        assert {*environment, *in_the_image()} <= known


def test_a_service_ends_by_itself_before_compose_kills_it(monkeypatch: pytest.MonkeyPatch) -> None:
    for variable, value in in_the_image().items():
        monkeypatch.setenv(variable, value)
    options = uvicorn.main.make_context("uvicorn", json.loads(given("CMD")[0])[1:]).params
    assert options["timeout_graceful_shutdown"] == 15
    assert {compose()[name]["stop_grace_period"] for name in SERVICES} == {"20s"}


def test_the_image_is_run_by_a_number_that_is_not_root() -> None:
    text = (ROOT / "Dockerfile").read_text(encoding="utf-8")
    assert re.search(r"(?s)\nUSER [1-9]\d{3,}:[1-9]\d{3,}\n(?!.*\n(RUN|USER) )", text)


def test_what_the_image_copies_is_not_kept_from_it() -> None:
    rules = (ROOT / ".dockerignore").read_text(encoding="utf-8").split()
    for path in copied():
        name = path.relative_to(ROOT).as_posix()
        last = [rule for rule in rules if fnmatch(name, rule.removeprefix("!"))][-1]
        assert last.startswith("!"), name
    assert not any(fnmatch(".env", rule.removeprefix("!")) for rule in rules if rule != "*")


@pytest.mark.skipif(os.name == "nt", reason="a container runs on Linux")
def test_the_image_is_healthy_while_redis_is_there(own_redis: RedisServer, tmp_path: Path) -> None:
    folder = tmp_path / "shop"
    folder.mkdir()
    for path in copied():
        copy = shutil.copytree if path.is_dir() else shutil.copy
        copy(path, folder / path.name)
    path_to_programs = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    here = {"UVICORN_HOST": "127.0.0.1", "REDIS_PORT": str(own_redis.port)}
    shop = Trio(tmp_path, **in_the_image() | here | {"PATH": path_to_programs})
    command = json.loads(given("CMD")[0])
    check = given("HEALTHCHECK")[0].partition(" CMD ")[2].strip()

    def is_healthy(service: Service) -> bool:
        return subprocess.run(["sh", "-c", check], env=service.environment).returncode == 0

    with ExitStack() as running:
        for service in reversed(shop.services):  # who needs another does not wait for it
            app = compose()[service.name]["environment"]["UVICORN_APP"]
            service.environment |= {"UVICORN_APP": app, "UVICORN_PORT": str(service.port)}
            container = Started(command, folder, service.log, **service.environment)
            running.enter_context(container).wait_for_answer(f"{service.url}/ready")
        checked = ["python", "test_connection.py"]
        assert not subprocess.run(checked, cwd=folder, env=shop.order.environment).returncode
        assert all(map(is_healthy, shop.services))
        own_redis.stop()
        assert shop.order.get("/").ok  # it runs all the same
        assert not is_healthy(shop.order)
        own_redis.start()
        wait_until(lambda: is_healthy(shop.order))
