"""Running it all: makes `.venv`, installs into it, starts the services and ends them.

Standard library only, as it runs before there is anything else. It imports nothing of ours.
"""

import argparse
import contextlib
import hashlib
import importlib.util
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv"
SERVICES = (("product", 8000), ("user", 8001), ("order", 8002))
DEFAULT_HOST = "127.0.0.1"
SECONDS_TO_END = 8
COLOURS = {"product": "36", "user": "32", "order": "35"}
IS_WINDOWS = os.name == "nt"
WITHOUT_PROXY = urllib.request.build_opener(urllib.request.ProxyHandler({}))

Health = dict[str, Any]


class Trouble(Exception):
    """What keeps ShopSphere from running, in a sentence that says what to do."""


def say(text: str) -> None:
    """Print a line at once, also into a pipe."""
    print(text, flush=True)


def venv_python(venv: Path = VENV, is_windows: bool = IS_WINDOWS) -> Path:
    """Return where the Python of a virtual environment is."""
    return venv / "Scripts" / "python.exe" if is_windows else venv / "bin" / "python"


def set_up(requirements: str) -> Path:
    """Make `.venv` and install what this file lists, if it changed; return the Python to use."""
    python = venv_python()
    if not (python.exists() and _is_of_this_python()):
        _make_venv()
    stamps = {file: VENV / f"{file.stem}.installed" for file in _included(ROOT / requirements)}
    if any(_read(stamp) != _digest(file) for file, stamp in stamps.items()):
        _install(python, requirements)
        for file, stamp in stamps.items():
            stamp.write_text(_digest(file))
    return python


def _is_of_this_python() -> bool:
    match = re.search(r"version\w* *= *(\d+)\.(\d+)", _read(VENV / "pyvenv.cfg"))
    return match is not None and tuple(map(int, match.groups())) == sys.version_info[:2]


def _make_venv() -> None:
    if not (importlib.util.find_spec("venv") and importlib.util.find_spec("ensurepip")):
        package = f"python{sys.version_info[0]}.{sys.version_info[1]}-venv"
        raise Trouble(
            f"this Python has no venv module. On Debian and Ubuntu: sudo apt install {package}"
        )
    say("making .venv")
    shutil.rmtree(VENV, ignore_errors=True)
    status = None
    try:
        status, lines = _run_to_end([sys.executable, "-m", "venv", str(VENV)])
    finally:
        if status != 0:  # half of one would look like a whole one at the next start
            shutil.rmtree(VENV, ignore_errors=True)
    if status:
        raise Trouble("making .venv failed:\n" + "\n".join(lines[-5:]))


def _included(file: Path) -> list[Path]:
    """Return a requirements file and those that it includes."""
    inner = re.findall(r"(?m)^-r +(\S+)", _read(file))
    return [file, *(found for name in inner for found in _included(file.parent / name))]


def _read(file: Path) -> str:
    return file.read_text(encoding="utf-8") if file.exists() else ""


def _digest(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


def _install(python: Path, requirements: str) -> None:
    """Run pip, and show what it is at; raise Trouble, with its last lines, when it fails."""
    say(f"installing the packages of {requirements}")
    command = [str(python), "-m", "pip", "install", "--disable-pip-version-check", "-r"]
    status, lines = _run_to_end([*command, str(ROOT / requirements)], _show_step)
    _progress("")
    if status:
        text = "\n".join(lines)
        if "No module named pip" in text:
            raise Trouble(".venv is not complete. Delete that folder, then start again.")
        if re.search("NewConnectionError|name resolution|ConnectTimeout|getaddrinfo", text):
            raise Trouble("pip cannot reach the package index. Is there a network? Then try again.")
        errors = [line for line in lines if "ERROR" in line] or lines
        raise Trouble("pip failed:\n" + "\n".join(errors[-5:]))


def _run_to_end(
    command: list[str], show: Callable[[str], None] = lambda line: None
) -> tuple[int, list[str]]:
    """Run a command; return its status and last lines. If we are stopped, so is it."""
    lines: deque[str] = deque(maxlen=200)
    with subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        **own_group(IS_WINDOWS),
    ) as process:
        try:
            for line in process.stdout or ():
                lines.append(line.rstrip())
                show(line)
        except BaseException:
            end_group(process, force=True)
            raise
    return process.returncode, list(lines)


def _show_step(line: str) -> None:
    found = re.match(r" *(Collecting|Using cached|Downloading|Building|Installing) \S+", line)
    if found:
        _progress(f"  {found[0].strip()[:70]}")


def _progress(text: str) -> None:
    """Show what is being done: in one line on a terminal, as a line of its own elsewhere."""
    if sys.stdout.isatty():
        print(f"\r\033[K{text}", end="", flush=True)
    elif text:
        say(text)


def require_free_port(host: str, port: int, name: str) -> None:
    """Raise Trouble when something listens there already."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        if not IS_WINDOWS:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise Trouble(
                f"port {port} is in use or cannot be had on {host} ({error.strerror}), and the "
                f"{name} service needs it. End what listens there, then start again."
            ) from None


def url_of(host: str, port: int) -> str:
    """Return where a service that listens on this address is reached from this machine."""
    local = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104
    return f"http://[{local}]:{port}" if ":" in local else f"http://{local}:{port}"


def service_urls(host: str) -> dict[str, str]:
    """Return the settings with which the services find each other where `--host` puts them."""
    if host == DEFAULT_HOST:
        return {}
    return {f"{name.upper()}_SERVICE_URL": url_of(host, port) for name, port in SERVICES}


class Service:
    """One service in a process group of its own; its lines are shown behind its name."""

    def __init__(self, python: Path, name: str, host: str, port: int, reload: bool) -> None:
        self.name = name
        self.url = url_of(host, port)
        self.last_lines: deque[str] = deque(maxlen=12)
        command = [str(python), "-m", "uvicorn", f"{name}_service:app"]
        options = ["--host", host, "--port", str(port), *(["--reload"] if reload else [])]
        self.process = subprocess.Popen(
            [*command, *options],
            cwd=ROOT,
            env=service_urls(host) | dict(os.environ),
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
        if sys.stdout.isatty() and not os.environ.get("NO_COLOR"):
            prefix = f"\033[{COLOURS[self.name]}m{prefix}\033[0m"
        for line in self.process.stdout or ():
            self.last_lines.append(line.rstrip())
            # The terminal may be gone: go on reading, or the service would block.
            with contextlib.suppress(OSError):
                say(prefix + self.last_lines[-1])

    def health(self) -> Health | None:
        """Return what the service says of itself, or None while it does not answer."""
        try:
            with WITHOUT_PROXY.open(f"{self.url}/", timeout=2) as answer:
                health: Health = json.load(answer)
                return health
        except (OSError, ValueError):
            return None

    def require_alive(self) -> None:
        """Raise Trouble, with its last lines, when the service has ended."""
        status = self.process.poll()
        if status is not None:
            self._reader.join(1)
            raise Trouble(
                f"the {self.name} service ended (exit status {status}). Its last lines:\n  "
                + "\n  ".join(self.last_lines)
            )

    def ask_to_end(self) -> None:
        """Let it finish what it is answering, and end."""
        end_group(self.process, force=False)

    def make_sure_it_ended(self, deadline: float) -> None:
        """Wait for the end until the deadline, then force it, with all its children."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(max(0, deadline - time.monotonic()))
        end_group(self.process, force=True)
        self.process.wait()
        self._reader.join(1)


def own_group(is_windows: bool) -> dict[str, Any]:
    """Return the arguments of Popen that give a process a group of its own."""
    if is_windows:
        return {"creationflags": 0x200}  # CREATE_NEW_PROCESS_GROUP
    return {"start_new_session": True}


def end_group(process: "subprocess.Popen[str]", force: bool, is_windows: bool = IS_WINDOWS) -> None:
    """Ask a process and its children to end, or force them; fine when they have ended."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        if not is_windows:
            os.killpg(process.pid, signal.SIGKILL if force else signal.SIGTERM)
        elif not force:
            process.send_signal(getattr(signal, "CTRL_BREAK_EVENT", signal.SIGTERM))
        elif process.poll() is None:
            subprocess.run(["taskkill", "/F", "/T", "/PID", str(process.pid)], check=False)


def wait_until_healthy(services: list[Service], stop: threading.Event) -> dict[Service, Health]:
    """Return what each service says of itself, as soon as all answer."""
    answers: dict[Service, Health] = {}
    while len(answers) < len(services) and not stop.is_set():
        for service in services:
            service.require_alive()
            if service not in answers and (health := service.health()):
                answers[service] = health
        stop.wait(0.03)
    return answers


def show_table(answers: dict[Service, Health]) -> None:
    """Print where each service is, and which storage it uses."""
    say("\nShopSphere runs. Ctrl-C ends it.\n")
    for service, health in answers.items():
        storage = health.get("storage", "?")
        if health.get("fallback"):
            storage += " (no Redis answered at the start: nothing is kept when this ends)"
        say(f"  {service.name:<8} {service.url}   docs {service.url}/docs   storage: {storage}")
    say("")


def when_told_to_stop(react: Callable[[int], object]) -> None:
    """Call this, with the signal's number, for Ctrl-C and whatever else asks us to end."""
    for name in ("SIGINT", "SIGTERM", "SIGHUP", "SIGBREAK"):
        number = getattr(signal, name, None)
        if number is None or (name == "SIGHUP" and signal.getsignal(number) is signal.SIG_IGN):
            continue  # another system, or nohup wants us to live on
        signal.signal(number, lambda number, _: react(number))


def run(python: Path, options: argparse.Namespace) -> None:
    """Start all three, and serve until told to stop; whatever happens, all three are ended."""
    stop = threading.Event()
    when_told_to_stop(lambda _: stop.set())
    services: list[Service] = []
    try:
        for name, port in SERVICES:
            services.append(Service(python, name, options.host, port, options.reload))
        answers = wait_until_healthy(services, stop)
        if not stop.is_set():
            show_table({service: answers[service] for service in services})
        while not stop.wait(0.2):
            for service in services:
                service.require_alive()
    finally:
        for service in services:
            service.ask_to_end()
        deadline = time.monotonic() + SECONDS_TO_END
        for service in services:
            service.make_sure_it_ended(deadline)


def main(arguments: list[str] | None = None) -> int:
    """Start ShopSphere; return the exit status."""
    parser = argparse.ArgumentParser(
        prog="start_all_services.py", description="Start the three services of ShopSphere."
    )
    parser.add_argument("--host", default=DEFAULT_HOST, help="address to listen on")
    parser.add_argument("--reload", action="store_true", help="start anew when a file changes")
    options = parser.parse_args(arguments)
    when_told_to_stop(lambda number: sys.exit(128 + number))
    try:
        for name, port in SERVICES:
            require_free_port(options.host, port, name)
        run(set_up("requirements.txt"), options)
    except Trouble as trouble:
        print(f"ShopSphere cannot run: {trouble}", file=sys.stderr, flush=True)
        return 1
    return 0
