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
    found = [sorted(ROOT.glob(source)) for source in sources]
    assert all(found)
    return [path for paths in found for path in paths]


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
    known = {field.upper() for field in Settings.model_fields} | {"SERVICE", "PORT"}
    ports = {name: compose()[name]["environment"]["PORT"] for name in SERVICES}
    for name, port in ports.items():
        service, environment = compose()[name], compose()[name]["environment"]
        assert service["ports"] == [f"127.0.0.1:{port}:{port}"]
        assert service["depends_on"] == {"redis": {"condition": "service_healthy"}}
        assert environment["JWT_SECRET"].startswith("${JWT_SECRET:?")
        assert (environment["SERVICE"], environment["USE_REDIS"]) == (name, "required")
        assert environment["REDIS_URL"] == "redis://redis:6379/0"
        for other in SERVICES:
            address = f"http://{other}:{ports[other]}"
            assert environment[f"{other.upper()}_SERVICE_URL"] == address
        assert {*environment, *in_the_image()} <= known | {"PYTHONUNBUFFERED"}


def test_the_image_is_run_by_somebody_who_is_not_root() -> None:
    text = (ROOT / "Dockerfile").read_text(encoding="utf-8")
    assert given("USER") == ["shop"]
    assert any("useradd" in line and line.endswith("shop") for line in given("RUN"))
    assert "\nRUN " not in text.partition("\nUSER ")[2]


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
    settings = in_the_image() | {"REDIS_PORT": str(own_redis.port), "PATH": path_to_programs}
    shop = Trio(tmp_path, **settings)
    command = [word.replace("0.0.0.0", "127.0.0.1") for word in json.loads(given("CMD")[0])]
    check = given("HEALTHCHECK")[0].partition(" CMD ")[2].strip()

    def is_healthy(service: Service) -> bool:
        return subprocess.run(["sh", "-c", check], env=service.environment).returncode == 0

    with ExitStack() as running:
        for service in reversed(shop.services):  # who needs another does not wait for it
            service.environment |= {"SERVICE": service.name, "PORT": str(service.port)}
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
