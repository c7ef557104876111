"""The image and `compose.yaml`, as far as it goes without an engine: what they say is done here."""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import pytest
import requests
import yaml

from shopsphere.settings import Settings
from tests.launching import Started, started
from tests.servers import ROOT, RedisServer, free_port, wait_until

SERVICES = ["product", "user", "order"]
SECRET = "a secret of the tests, of more than 32 bytes"
on_posix = pytest.mark.skipif(os.name == "nt", reason="a container runs on Linux")


def dockerfile() -> list[tuple[str, str]]:
    """Return each instruction of the Dockerfile and what it is given."""
    text = (ROOT / "Dockerfile").read_text(encoding="utf-8").replace("\\\n", " ")
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    return [(line.partition(" ")[0], line.partition(" ")[2].strip()) for line in lines]


def given(instruction: str) -> list[str]:
    return [rest for name, rest in dockerfile() if name == instruction]


def compose() -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load((ROOT / "compose.yaml").read_text(encoding="utf-8"))
    return loaded


def copied() -> list[Path]:
    """Return what the image is made of, from the folder of the project."""
    sources = [source for line in given("COPY") for source in line.split()[:-1]]
    found = {source: sorted(ROOT.glob(source)) for source in sources}
    assert not [source for source in sources if not found[source]]
    return [path for paths in found.values() for path in paths]


def environment_of(name: str, **values: str) -> dict[str, str]:
    """Return what a container gets, `${NAME:-default}` and `${NAME:?complaint}` filled in."""
    given = compose()["services"][name]["environment"]
    pattern = re.compile(r"\$\{(\w+):[-?]([^}]*)\}")
    return {
        variable: pattern.sub(lambda found: values.get(found[1], found[2]), str(value))
        for variable, value in given.items()
    }


def in_the_image() -> dict[str, str]:
    """Return the environment that the image sets."""
    return dict(pair.split("=", 1) for line in given("ENV") for pair in shlex.split(line))


def test_every_variable_is_a_setting_or_says_which_service_runs_where() -> None:
    known = {name.upper() for name in Settings.model_fields} | {"SERVICE", "PORT"}
    for name in SERVICES:
        assert set(environment_of(name)) <= known
    assert set(in_the_image()) <= known | {"PYTHONUNBUFFERED"}


def test_compose_runs_the_three_services_on_a_redis_that_keeps_its_data() -> None:
    services = compose()["services"]
    assert set(services) == {"redis", *SERVICES}
    command = services["redis"]["command"]
    assert "--appendonly yes" in command
    assert "--maxmemory-policy noeviction" in command
    assert services["redis"]["volumes"] == ["redis:/data"]
    assert "ports" not in services["redis"]  # only the services reach it
    for name in SERVICES:
        port = environment_of(name)["PORT"]
        assert services[name]["ports"] == [f"127.0.0.1:{port}:{port}"]
        assert services[name]["depends_on"] == {"redis": {"condition": "service_healthy"}}
        assert environment_of(name)["USE_REDIS"] == "required"
        assert environment_of(name)[f"{name.upper()}_SERVICE_URL"] == f"http://{name}:{port}"


def test_without_a_secret_compose_does_not_start() -> None:
    for name in SERVICES:
        assert compose()["services"][name]["environment"]["JWT_SECRET"].startswith("${JWT_SECRET:?")


def test_the_image_is_run_by_somebody_who_is_not_root() -> None:
    names = [name for name, _ in dockerfile()]
    assert given("USER") == ["shop"]
    assert any("useradd" in line and line.endswith("shop") for line in given("RUN"))
    assert "RUN" not in names[names.index("USER") :]


def test_what_the_image_copies_is_not_kept_from_it() -> None:
    rules = (ROOT / ".dockerignore").read_text(encoding="utf-8").split()
    for path in copied():
        name = path.relative_to(ROOT).as_posix()
        last = [rule for rule in rules if fnmatch(name, rule.removeprefix("!"))][-1]
        assert last.startswith("!"), name
    assert not any(fnmatch(".env", rule.removeprefix("!")) for rule in rules if rule != "*")


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the image: what it copies, and nothing else."""
    folder = tmp_path_factory.mktemp("image") / "shop"
    folder.mkdir()
    for path in copied():
        if path.is_dir():
            leave = shutil.ignore_patterns("__pycache__")
            shutil.copytree(path, folder / path.name, ignore=leave)
        else:
            shutil.copy(path, folder)
    return folder


class Container:
    """A service as compose would run it, but reached from this machine only."""

    def __init__(self, name: str, image: Path, environment: dict[str, str]) -> None:
        self.name, self.image, self.environment = name, image, environment
        self.url = f"http://127.0.0.1:{environment['PORT']}"
        command = json.loads(given("CMD")[0])
        self.command = [word.replace("0.0.0.0", "127.0.0.1") for word in command]
        self.process: Started

    def is_healthy(self) -> bool:
        """Run the health check of the image."""
        [check] = given("HEALTHCHECK")
        command = check.partition(" CMD ")[2].strip()
        environment = {**os.environ, **self.environment}
        return not subprocess.run(
            ["sh", "-c", command], env=environment, capture_output=True, timeout=30
        ).returncode


@pytest.fixture(scope="module")
def redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    """A Redis of our own, which can be stopped."""
    server = RedisServer(tmp_path_factory.mktemp("redis"), "--appendonly", "yes")
    yield server
    server.client.close()
    if server.process.poll() is None:
        server.stop()


@pytest.fixture(scope="module")
def containers(
    image: Path, redis: RedisServer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[str, Container]]:
    """All three, in reverse order: who needs another does not wait for it."""
    ports = {name: str(free_port()) for name in SERVICES}
    hosts = {"redis:6379": f"127.0.0.1:{redis.port}"}
    for name in SERVICES:
        hosts[f"{name}:{environment_of(name)['PORT']}"] = f"127.0.0.1:{ports[name]}"
    logs = tmp_path_factory.mktemp("logs")
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    running: dict[str, Container] = {}
    for name in reversed(SERVICES):
        environment = in_the_image() | environment_of(name, JWT_SECRET=SECRET)
        for host, here in hosts.items():
            environment = {key: text.replace(host, here) for key, text in environment.items()}
        environment |= {"PORT": ports[name], "PATH": path}
        running[name] = Container(name, image, environment)
    with (
        started(running["order"].command, image, logs / "order", **running["order"].environment),
        started(running["user"].command, image, logs / "user", **running["user"].environment),
        started(
            running["product"].command, image, logs / "product", **running["product"].environment
        ) as last,
    ):
        for container in running.values():
            last.wait_for_answer(f"{container.url}/ready")
        yield running


@on_posix
def test_the_image_holds_all_that_each_service_needs(containers: dict[str, Container]) -> None:
    lamp = {"name": "Lamp", "price": 5, "quantity": 1}
    product = requests.post(f"{containers['product'].url}/products", json=lamp, timeout=10).json()
    order = {"product_id": product["pk"], "quantity": 1}
    placed = requests.post(f"{containers['order'].url}/order", json=order, timeout=10)
    assert placed.status_code == 201
    account = {"email": "user@example.com", "password": "securepass123"}
    registered = requests.post(f"{containers['user'].url}/register", json=account, timeout=10)
    assert registered.status_code == 201
    assert all(container.is_healthy() for container in containers.values())


@on_posix
def test_the_image_can_check_the_whole_shop(containers: dict[str, Container], image: Path) -> None:
    environment = {**os.environ, **containers["order"].environment}
    command = ["python", "test_connection.py"]
    result = subprocess.run(command, cwd=image, env=environment, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr


@on_posix
def test_a_service_that_is_not_ready_is_not_healthy_until_it_is(
    containers: dict[str, Container], redis: RedisServer
) -> None:
    order = containers["order"]
    redis.stop()
    try:
        assert requests.get(order.url, timeout=10).ok  # it runs all the same
        assert not order.is_healthy()
    finally:
        redis.start()
    wait_until(order.is_healthy)
