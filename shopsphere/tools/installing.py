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
        package = "python{}.{}-venv".format(*sys.version_info)
        raise LauncherError(f"this Python has no venv module. On Debian: apt install {package}")
    say("Creating .venv")
    if run_to_end([sys.executable, "-m", "venv", "--clear", str(VENV)]):
        shutil.rmtree(VENV, ignore_errors=True)  # the next start would use an incomplete one
        raise LauncherError("creating .venv failed. The lines above say why.")


def _included(file: Path) -> list[Path]:
    """Return a requirements file and all files that it includes."""
    inner = re.findall(r"(?m)^-r +(\S+)", _read(file))
    return [file, *(found for name in inner for found in _included(file.parent / name))]


def _read(file: Path) -> str:
    return file.read_text(encoding="utf-8", errors="replace") if file.exists() else ""


def _install(requirements: str) -> None:
    say(f"Installing the packages of {requirements}")
    if not shutil.which("pip", path=str(PYTHON.parent)):  # uv makes a `.venv` without it
        run_to_end([str(PYTHON), "-m", "ensurepip", "--default-pip"])
    command = [str(PYTHON), "-m", "pip", "--disable-pip-version-check", "install"]
    if run_to_end([*command, "--progress-bar", "off", "-r", str(ROOT / requirements)]):
        advice = "Check the network. If pip itself is missing, delete .venv and start again."
        raise LauncherError(f"pip failed. The lines above say why. {advice}")
