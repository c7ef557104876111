"""Sets up `.venv`: creates it and installs packages.

Standard library only, because it runs before anything is installed.
"""

import importlib.util
import re
import shutil
import sys
from pathlib import Path

from shopsphere import PYTHON, ROOT, VENV
from shopsphere.tools.processes import LauncherError, run_to_end, say

ON_DEBIAN = "On Debian and Ubuntu: sudo apt install python{}.{}-venv".format(*sys.version_info)


def set_up(requirements: str) -> Path:
    """Create `.venv` if needed, install the file's packages if it changed; return its Python."""
    this_python = r"version\w* *= *{}\.{}\b".format(*sys.version_info)
    if not (PYTHON.exists() and re.search(this_python, _read(VENV / "pyvenv.cfg"))):
        _make_venv()
    listed = {VENV / file.name: _read(file) for file in _included(ROOT / requirements)}
    if any(_read(installed) != lines for installed, lines in listed.items()):
        _install(requirements)
        for installed, lines in listed.items():
            installed.write_text(lines, encoding="utf-8")
    return PYTHON


def _make_venv() -> None:
    if not (importlib.util.find_spec("venv") and importlib.util.find_spec("ensurepip")):
        raise LauncherError(f"this Python has no venv module. {ON_DEBIAN}")
    say("making .venv")
    status, lines = run_to_end([sys.executable, "-m", "venv", "--clear", str(VENV)])
    if status:  # the next start would take an incomplete one for complete
        shutil.rmtree(VENV, ignore_errors=True)
        raise LauncherError("making .venv failed:\n" + "\n".join(lines[-5:]))


def _included(file: Path) -> list[Path]:
    """Return a requirements file and all files that it includes."""
    inner = re.findall(r"(?m)^-r +(\S+)", _read(file))
    return [file, *(found for name in inner for found in _included(file.parent / name))]


def _read(file: Path) -> str:
    return file.read_text(encoding="utf-8", errors="replace") if file.exists() else ""


def _install(requirements: str) -> None:
    """Run pip; raise LauncherError with the reason if it fails."""
    say(f"installing the packages of {requirements}")
    if not shutil.which("pip", path=str(PYTHON.parent)):  # uv makes a `.venv` without it
        run_to_end([str(PYTHON), "-m", "ensurepip", "--default-pip"])
    command = [str(PYTHON), "-m", "pip", "--disable-pip-version-check", "install"]
    command += ["--progress-bar", "off", "-r", str(ROOT / requirements)]
    status, lines = run_to_end(command)
    if status:
        text = "\n".join(lines)
        if "No module named pip" in text:
            advice = f"{ON_DEBIAN}. Elsewhere: delete .venv, then start again."
            raise LauncherError(f".venv has no pip, and it could not be added. {advice}")
        if re.search("NewConnectionError|name resolution|ConnectTimeout|getaddrinfo", text):
            raise LauncherError("pip cannot reach the package index. Is there a network?")
        raise LauncherError("pip failed:\n" + "\n".join(lines[-5:]))
