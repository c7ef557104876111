"""The files of `docs/deploying/`, run as they are but for ports, paths and the time limit."""

import os
import re
import shutil
import signal
import socket
import ssl
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from tests import pages
from tests.apps import bearer, openapi_of
from tests.launching import PORTS, Started, three_services
from tests.people import CLOSED
from tests.redis_groups import new_certificate
from tests.servers import ROOT, RedisServer, Trio, free_port, wait_until
from tests.test_containers import in_the_image
from tests.test_story import LAMP, whole_story

PAGE, FOLDER = ROOT / "docs" / "deploying.md", ROOT / "docs" / "deploying"
CHECKS = [text for _, text in pages.blocks(PAGE) if "https://shop.example/" in text]
BOSS = {"email": "boss@example.com", "password": "securepass123"}
CERTIFICATE = "REQUESTS_CA_BUNDLE"
"""Names the certificate that `requests` trusts."""
SECONDS = 2
"""The time limit for heads and bodies, instead of 10 s."""
SLOW_HEAD = "GET /products HTTP/1.1\r\nHost: "
SLOW_BODY = "POST /login HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 99\r\n\r\n{"


def moved(name: str, changes: dict[str, object]) -> str:
    """Return one of the files with these texts replaced, each of which has to be there."""
    text = (FOLDER / name).read_text(encoding="utf-8")
    for old, new in changes.items():
        assert old in text, f"{name}: {old}"
        text = text.replace(old, str(new))
    return text


def nginx(folder: Path, port: int, to: dict[str, object]) -> list[str]:
    """Put the site into a configuration like Debian's; return the command that serves it."""
    certificate, letsencrypt = os.environ[CERTIFICATE], "/etc/letsencrypt/live/shop.example"
    to = {
        "listen 443": f"listen {port}",
        "    listen [::]:443 ssl;\n": "",  # not every machine has IPv6
        f"{letsencrypt}/fullchain.pem": certificate,
        f"{letsencrypt}/privkey.pem": f"{certificate}.key",
        **to,
    }
    (folder / "site.conf").write_text(moved("nginx.conf", to))
    http = "access_log off; client_body_temp_path body; include site.conf;"
    (folder / "nginx.conf").write_text(
        f"daemon off; user root; pid pid; events {{}} http {{ {http} }}"
    )
    return ["nginx", "-p", ".", "-e", "stderr", "-c", "nginx.conf"]


def caddy(folder: Path, port: int, to: dict[str, object]) -> list[str]:
    """Write a Caddyfile that asks nobody for a certificate; return the command that serves it."""
    tls = "\ttls {0} {0}.key".format(os.environ[CERTIFICATE])
    to = {
        "\nshop.example {": f"\nhttps://127.0.0.1:{port} {{\n{tls}",
        "\tservers {": f"\tadmin off\n\thttp_port {free_port()}\n\tservers {{",
        **to,
    }
    (folder / "Caddyfile").write_text(moved("Caddyfile", to))
    return ["caddy", "run"]


@pytest.fixture(scope="module", params=[nginx, caddy])
def shop(
    request: pytest.FixtureRequest,
    redis_server: RedisServer,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Trio]:
    """A closed shop whose three services are addressed through one proxy, each proxy in turn."""
    name, folder, port = request.param.__name__, tmp_path_factory.mktemp("shop"), free_port()
    path = f"{os.environ['PATH']}:/usr/sbin"
    found = [shutil.which(program, path=path) for program in (name, "curl", "openssl")]
    if not all(found) or sys.platform != "linux":
        pytest.skip(f"{name.upper()} IS NOT TESTED: it needs {name}, curl and openssl")
    redis_server.client.flushall()
    settings = {"USE_REDIS": "required", "REDIS_PORT": str(redis_server.port), **CLOSED}
    settings |= {f"ADMIN_{field}".upper(): value for field, value in BOSS.items()}
    with three_services(folder, **settings) as shop, pytest.MonkeyPatch.context() as patch:
        patch.setenv(CERTIFICATE, str(new_certificate(folder, "shop")))
        to: dict[str, object] = {"10s": f"{SECONDS}s"}
        to |= {f"127.0.0.1:{PORTS[each.name]}": f"127.0.0.1:{each.port}" for each in shop.services}
        command = request.param(folder, port, to)
        with Started(command, folder, folder / "log", HOME=str(folder), PATH=path) as proxy:
            for service in shop.services:
                service.url = f"https://127.0.0.1:{port}"
            proxy.wait_for_answer(f"{shop.product.url}/products")
            yield shop


def test_the_story_goes_through_a_proxy(shop: Trio) -> None:
    boss = bearer(shop.user.post("/login", BOSS).json()["access_token"])
    for service in (shop.product, shop.order):
        service.http.headers.update(boss)
    whole_story(shop)
    lamps = [shop.product.post("/products", LAMP) for _ in range(2)]
    items = [{"product_id": lamp.json()["pk"], "quantity": 2} for lamp in lamps]
    placed = shop.order.post("/order", {"items": items}, headers={"X-Request-ID": "basket-4711"})
    assert (placed.status_code, placed.headers["X-Request-ID"]) == (201, "basket-4711")
    wait_until(lambda: "basket-4711" in shop.product.log.read_text())
    order = shop.order.get(placed.headers["Location"])
    assert order.json() == placed.json()
    cancelled = shop.order.post(f"{placed.headers['Location']}/cancel")
    assert (cancelled.status_code, cancelled.json()["status"]) == (200, "CANCELLED")


@pytest.mark.parametrize("check", CHECKS)
def test_a_check_of_the_page_prints_what_it_says_to_each_client(shop: Trio, check: str) -> None:
    expected = "".join(re.findall(r"(?m)^# (.*\n)", check))
    moved_check = check.replace("https://shop.example", shop.user.url)
    for address in ("127.0.0.2", "127.0.0.3"):
        command = moved_check.replace("curl", f"curl --interface {address}")
        assert pages.run(command, {"CURL_CA_BUNDLE": os.environ[CERTIFICATE]}) == expected


def test_what_is_not_listed_stays_inside(shop: Trio) -> None:
    inside = "/", "/ready", "/metrics", "/docs", "/openapi.json"
    for path in (*inside, "/productss", "/me/x", "/me%0a"):
        answer = shop.product.get(path)
        assert (answer.status_code, answer.json()["code"]) == (404, "not_found"), path
        assert "X-Request-ID" not in answer.headers, path  # no service was asked


def test_a_body_comes_to_the_service_whole_even_if_it_is_too_large(shop: Trio) -> None:
    large = shop.user.post("/refresh", {"refresh_token": "a" * 500_000})
    assert (large.status_code, large.json()["code"]) == (413, "body_too_large")
    offer = {"Connection": "Upgrade, HTTP2-Settings", "Upgrade": "h2c", "HTTP2-Settings": ""}
    offering = shop.user.post("/refresh", {"refresh_token": "none"}, headers=offer)
    assert offering.json()["code"] == "invalid_refresh_token"


def test_nginx_limits_requests_that_hash_a_password(shop: Trio) -> None:
    answers = [shop.user.post("/register", {}) for _ in range(40)]
    codes = {(answer.status_code, answer.json()["code"]) for answer in answers}
    is_nginx = "nginx" in answers[0].headers["Server"]
    limited = {(429, "too_many_requests")} if is_nginx else set()
    assert codes == {(400, "invalid_request"), *limited}


def test_proxies_close_idle_connections_before_the_services() -> None:
    kept = int(in_the_image()["UVICORN_TIMEOUT_KEEP_ALIVE"])
    for name in ("nginx.conf", "Caddyfile"):
        text = (FOLDER / name).read_text(encoding="utf-8")
        idle = re.findall(r"(?m)^ *(?:\t*keepalive|keepalive_timeout) (\d+)s", text)
        assert idle, name
        assert all(int(seconds) < kept for seconds in idle), name
        [response] = re.findall(r"(?:read|response_header)_timeout (\d+)s", text)
        assert int(response) > 120  # the most that ORDER_TIMEOUT can be


@pytest.mark.parametrize("begun", [SLOW_HEAD, SLOW_BODY], ids=["head", "body"])
def test_a_slow_client_is_given_up(shop: Trio, begun: str) -> None:
    port = int(shop.user.url.rpartition(":")[2])
    context = ssl.create_default_context(cafile=os.environ[CERTIFICATE])
    with (
        socket.create_connection(("127.0.0.1", port), 4 * SECONDS) as connection,
        context.wrap_socket(connection, server_hostname="127.0.0.1") as client,
    ):
        client.sendall(begun.encode())
        while client.recv(1024):
            pass


def test_probes_ask_for_what_there_is() -> None:
    [text] = [text for language, text in pages.blocks(PAGE) if language == "yaml"]
    [container] = yaml.safe_load(text)["containers"]
    for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
        asked = container[probe]["httpGet"]
        assert "get" in openapi_of(container["name"])["paths"][asked["path"]]
        assert str(asked["port"]) == in_the_image()["UVICORN_PORT"]


@pytest.mark.skipif(
    not shutil.which("systemd-analyze"), reason="THE UNIT IS NOT TESTED: no systemd"
)
@pytest.mark.parametrize("name", PORTS)
def test_the_unit_starts_each_service(name: str, tmp_path: Path) -> None:
    unit, port = tmp_path / f"shopsphere@{name}.service", free_port()
    programs, python = "/opt/shopsphere/.venv/bin", Path(sys.executable).parent
    to = {
        programs: python,
        "/opt/shopsphere": ROOT,
        f"PORT_{name}={PORTS[name]}": f"PORT_{name}={port}",
    }
    unit.write_text(moved("shopsphere@.service", to))
    verify = ["env", "SYSTEMD_LOG_LEVEL=debug", "systemd-analyze", "verify", str(unit)]
    verified = subprocess.run(verify, capture_output=True, check=True, text=True)
    assert f"{unit}:" not in verified.stderr  # it warns by file and line
    shown = verified.stdout
    environment = dict(re.findall(r"\tEnvironment: (\w+)=(.*)", shown))
    options = {each for each in environment.items() if each[0].startswith("UVICORN_")}
    assert options < {*in_the_image().items()}
    [command] = re.findall(r"\tCommand Line: (.*)", shown)
    line = ["sh", "-c", f"exec {command}".replace(r"\$", "$")]
    with Started(line, ROOT, tmp_path / "log", USE_REDIS="false", **environment) as service:
        answer = service.wait_for_answer(f"http://127.0.0.1:{port}/ready")
        assert answer.json()["service"] == name
        assert service.end() in (0, -signal.SIGTERM)
