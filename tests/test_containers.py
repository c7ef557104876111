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
import requests
import yaml

from shopsphere.settings import Settings
from tests.launching import started
from tests.servers import ROOT, RedisServer, free_port, wait_until

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
    found = {
        source: sorted(ROOT.glob(source)) for line in given("COPY") for source in line.split()[:-1]
    }
    assert all(found.values())
    return [path for paths in found.values() for path in paths]


def environment_of(name: str, **values: str) -> dict[str, str]:
    """Return what a container gets, `${NAME:-default}` and `${NAME:?complaint}` filled in."""
    pattern = re.compile(r"\$\{(\w+):[-?]([^}]*)\}")
    return {
        variable: pattern.sub(lambda found: values.get(found[1], found[2]), str(value))
        for variable, value in compose()[name]["environment"].items()
    }


def in_the_image() -> dict[str, str]:
    """Return the environment that the image sets."""
    return dict(pair.split("=", 1) for line in given("ENV") for pair in shlex.split(line))


def test_compose_runs_the_three_services_on_a_redis_that_keeps_its_data() -> None:
    assert set(compose()) == {"redis", *SERVICES}
    redis = compose()["redis"]
    assert "--appendonly yes" in redis["command"]
    assert "--maxmemory-policy noeviction" in redis["command"]
    assert redis["volumes"] == ["redis:/data"]
    assert "ports" not in redis  # only the services reach it


@pytest.mark.parametrize("name", SERVICES)
def test_compose_gives_each_service_its_settings_and_a_secret(name: str) -> None:
    service, environment = compose()[name], environment_of(name)
    port = environment["PORT"]
    assert service["ports"] == [f"127.0.0.1:{port}:{port}"]
    assert service["depends_on"] == {"redis": {"condition": "service_healthy"}}
    assert service["environment"]["JWT_SECRET"].startswith("${JWT_SECRET:?")
    assert environment["USE_REDIS"] == "required"
    assert environment[f"{name.upper()}_SERVICE_URL"] == f"http://{name}:{port}"
    known = {field.upper() for field in Settings.model_fields} | {"SERVICE", "PORT"}
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


def image(folder: Path) -> Path:
    """Make the folder of the image: what it copies, and nothing else."""
    folder.mkdir()
    for path in copied():
        if path.is_dir():
            shutil.copytree(path, folder / path.name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(path, folder)
    return folder


def environments(redis: RedisServer) -> dict[str, dict[str, str]]:
    """Return the environment of each container, but on ports of this machine."""
    ports = {name: str(free_port()) for name in SERVICES}
    moved = {"redis:6379": f"127.0.0.1:{redis.port}"}
    for name in SERVICES:
        moved[f"{name}:{environment_of(name)['PORT']}"] = f"127.0.0.1:{ports[name]}"
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    found = {}
    for name in SERVICES:
        given = in_the_image() | environment_of(name, JWT_SECRET="a secret of the tests " * 2)
        for there, here in moved.items():
            given = {key: value.replace(there, here) for key, value in given.items()}
        found[name] = {**os.environ, **given, "PORT": ports[name], "PATH": path}
    return found


@pytest.mark.skipif(os.name == "nt", reason="a container runs on Linux")
def test_the_image_serves_checks_the_shop_and_is_healthy_only_while_redis_is_there(
    own_redis: RedisServer, tmp_path: Path
) -> None:
    folder = image(tmp_path / "shop")
    environment = environments(own_redis)
    command = [word.replace("0.0.0.0", "127.0.0.1") for word in json.loads(given("CMD")[0])]
    check = given("HEALTHCHECK")[0].partition(" CMD ")[2].strip()

    def is_healthy(name: str) -> bool:
        return not subprocess.run(
            ["sh", "-c", check], env=environment[name], capture_output=True, timeout=30
        ).returncode

    with ExitStack() as running:
        url = {name: f"http://127.0.0.1:{environment[name]['PORT']}" for name in SERVICES}
        containers = {
            name: running.enter_context(
                started(command, folder, tmp_path / f"{name}.log", **environment[name])
            )
            for name in reversed(SERVICES)  # who needs another does not wait for it
        }
        for name, container in containers.items():
            container.wait_for_answer(f"{url[name]}/ready")
        lamp = {"name": "Lamp", "price": 5, "quantity": 1}
        product = requests.post(f"{url['product']}/products", json=lamp, timeout=10).json()
        order = {"product_id": product["pk"], "quantity": 1}
        assert requests.post(f"{url['order']}/order", json=order, timeout=10).status_code == 201
        account = {"email": "user@example.com", "password": "securepass123"}
        assert requests.post(f"{url['user']}/register", json=account, timeout=10).ok
        checked = subprocess.run(
            ["python", "test_connection.py"], cwd=folder, env=environment["order"]
        )
        assert checked.returncode == 0
        assert all(map(is_healthy, SERVICES))
        own_redis.stop()
        assert requests.get(url["order"], timeout=10).ok  # it runs all the same
        assert not is_healthy("order")
        own_redis.start()
        wait_until(lambda: is_healthy("order"))
