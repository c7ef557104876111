"""Setting up: makes `.venv` and installs into it, showing what it is at.

Standard library only, as it runs before there is anything else. It imports nothing of ours.
"""

import contextlib
import hashlib
import importlib.util
import os
import re
import shutil
import signal
import subprocess
import sys
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv"
IS_WINDOWS = os.name == "nt"
STEPS = r" *((Collecting|Using cached|Downloading|Building) \S+|Installing collected packages)"
"""What of pip's lines is shown, to say what it is at."""


class Trouble(Exception):
    """What keeps ShopSphere from running, in a sentence that says what to do."""


def say(text: str) -> None:
    """Print a line at once, also into a pipe; raise BrokenPipeError once nobody reads that."""
    try:
        print(text, flush=True)
    except BrokenPipeError:
        # Python would try to write what is left once more at its end, and complain.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise


def takes_escapes() -> bool:
    """Tell whether our lines go to a terminal that has colours and can erase a line."""
    return sys.stdout.isatty() and os.environ.get("TERM") != "dumb"


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
    return file.read_text(encoding="utf-8", errors="replace") if file.exists() else ""


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
    if "WARNING: Retrying" in line:
        _progress("  the package index does not answer; pip tries again")
    elif found := re.match(STEPS, line):
        _progress(f"  {found[1]}")


def _progress(text: str) -> None:
    """Show what is being done: in one line on a terminal, as a line of its own elsewhere."""
    if takes_escapes():
        print(f"\r\033[K{text[: shutil.get_terminal_size().columns - 1]}", end="", flush=True)
    elif text:
        say(text)


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
