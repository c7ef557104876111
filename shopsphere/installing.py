"""Sets up `.venv`: makes it, installs into it, and shows the progress.

Standard library only, as it runs before anything is installed. It imports nothing of ours.
"""

import contextlib
import importlib.util
import os
import re
import shutil
import signal
import subprocess
import sys
from collections import deque
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv"
IS_WINDOWS = os.name == "nt"
STEPS = r" *((Collecting|Using cached|Downloading|Building) \S+|Installing collected packages)"
"""The lines of pip that are shown as progress."""


class LauncherError(Exception):
    """Why ShopSphere cannot run, in a sentence that says what to do."""


def say(text: str) -> None:
    """Print a line and flush it; raise BrokenPipeError once nobody reads the pipe."""
    try:
        print(text, flush=True)
    except BrokenPipeError:
        # Python would try to write the rest again when it exits, and complain.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise


def venv_python(venv: Path = VENV, is_windows: bool = IS_WINDOWS) -> Path:
    """Return where the Python of a virtual environment is."""
    return venv / "Scripts" / "python.exe" if is_windows else venv / "bin" / "python"


def set_up(requirements: str) -> Path:
    """Make `.venv` and install what this file lists, if it changed; return the Python to use."""
    python = venv_python()
    version = re.search(r"version\w* *= *(\d+)\.(\d+)", _read(VENV / "pyvenv.cfg"))
    is_of_this_python = version and tuple(map(int, version.groups())) == sys.version_info[:2]
    if not (python.exists() and is_of_this_python):
        _make_venv()
    listed = {VENV / file.name: _read(file) for file in _included(ROOT / requirements)}
    if any(_read(installed) != lines for installed, lines in listed.items()):
        _install(python, requirements)
        for installed, lines in listed.items():
            installed.write_text(lines, encoding="utf-8")
    return python


def _make_venv() -> None:
    if not (importlib.util.find_spec("venv") and importlib.util.find_spec("ensurepip")):
        package = f"python{sys.version_info[0]}.{sys.version_info[1]}-venv"
        raise LauncherError(
            f"this Python has no venv module. On Debian and Ubuntu: sudo apt install {package}"
        )
    say("making .venv")
    shutil.rmtree(VENV, ignore_errors=True)
    status, lines = -1, [""]
    try:
        status, lines = run_to_end([sys.executable, "-m", "venv", str(VENV)])
    finally:
        if status:  # the next start would take half of one for a whole one
            shutil.rmtree(VENV, ignore_errors=True)
    if status:
        raise LauncherError("making .venv failed:\n" + "\n".join(lines[-5:]))


def _included(file: Path) -> list[Path]:
    """Return a requirements file and those that it includes."""
    inner = re.findall(r"(?m)^-r +(\S+)", _read(file))
    return [file, *(found for name in inner for found in _included(file.parent / name))]


def _read(file: Path) -> str:
    return file.read_text(encoding="utf-8", errors="replace") if file.exists() else ""


def _install(python: Path, requirements: str) -> None:
    """Run pip and show its progress; raise LauncherError, with its last lines, when it fails."""
    say(f"installing the packages of {requirements}")
    command = [str(python), "-m", "pip", "install", "--disable-pip-version-check", "-r"]
    status, lines = run_to_end([*command, str(ROOT / requirements)], _show_step)
    if status:
        text = "\n".join(lines)
        if "No module named pip" in text:
            raise LauncherError(".venv is not complete. Delete that folder, then start again.")
        if re.search("NewConnectionError|name resolution|ConnectTimeout|getaddrinfo", text):
            raise LauncherError(
                "pip cannot reach the package index. Is there a network? Then try again."
            )
        errors = [line for line in lines if "ERROR" in line] or lines
        raise LauncherError("pip failed:\n" + "\n".join(errors[-5:]))


def _show_step(line: str) -> None:
    if "WARNING: Retrying" in line:
        say("  the package index does not respond; pip tries again")
    elif found := re.match(STEPS, line):
        say(f"  {found[1]}")


def run_to_end(
    command: list[str], show: Callable[[str], None] = lambda line: None
) -> tuple[int, list[str]]:
    """Run a command; return its status and last lines. If we are stopped, so is it."""
    lines: deque[str] = deque(maxlen=200)
    with start(command) as process:
        try:
            for line in process.stdout or ():
                lines.append(line.rstrip())
                show(line)
        except BaseException:
            end_group(process, force=True)
            raise
    return process.returncode, list(lines)


def start(
    command: list[str], environment: Mapping[str, str] | None = None
) -> "subprocess.Popen[str]":
    """Start a command in its own process group, with all that it prints in one pipe."""
    return subprocess.Popen(
        command,
        cwd=ROOT,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        **own_group(),
    )


def own_group(is_windows: bool = IS_WINDOWS) -> dict[str, Any]:
    """Return the arguments with which Popen gives a process its own group."""
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
