"""`start_all_services.ps1`: read by a parser everywhere, run where there is a PowerShell."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest
import tree_sitter_powershell
from tree_sitter import Language, Parser

from tests.servers import ROOT

SCRIPT = ROOT / "start_all_services.ps1"
SOURCE = SCRIPT.read_bytes()
POWERSHELL = shutil.which("pwsh") or shutil.which("powershell") or ""


def test_windows_powershell_5_1_can_read_the_script() -> None:
    parser = Parser(Language(tree_sitter_powershell.language()))
    assert not parser.parse(SOURCE).root_node.has_error
    assert parser.parse(SOURCE + b"}").root_node.has_error
    # Without a byte order mark, 5.1 takes a file for the code page of the machine.
    assert SOURCE.isascii()
    code = re.sub(rb"(?m)^#.*$", b"", SOURCE)
    assert not re.search(rb"&&|\|\||\?\?|\?\.|-Parallel|\bternary\b", code)


def test_the_script_has_help_and_hands_over_to_the_launcher_from_any_folder_and_back() -> None:
    lines = [line.strip() for line in SOURCE.decode().splitlines()]
    assert "$script = Join-Path $PSScriptRoot 'start_all_services.py'" in lines
    assert lines[lines.index("& $command @options $script @args") + 1] == "exit $LASTEXITCODE"
    assert lines[-1] == "exit 1"
    assert lines[:2] == ["<#", ".SYNOPSIS"]  # what Get-Help shows
    assert {".DESCRIPTION", ".EXAMPLE"} <= set(lines[: lines.index("#>")])


def test_it_looks_for_each_python_that_the_launcher_accepts() -> None:
    right = "(3, 11) <= sys.version_info < (3, 15)"
    assert right in (ROOT / "start_all_services.py").read_text(encoding="utf-8")
    assert f"$isRight = 'import sys; sys.exit(not {right})'" in SOURCE.decode()
    assert 'requires-python = ">=3.11,<3.15"' in (ROOT / "pyproject.toml").read_text()
    for minor in range(11, 15):  # `py -3` is the newest, which may be too new
        assert f"@('py', '-3.{minor}')" in SOURCE.decode()


if POWERSHELL:  # elsewhere these are not tests that were skipped: there is nothing to run

    @pytest.mark.parametrize(("argument", "status"), [("--help", 0), ("--no-such-thing", 2)])
    def test_the_script_hands_over_for_real(argument: str, status: int, tmp_path: Path) -> None:
        command = [POWERSHELL, "-NoProfile", "-ExecutionPolicy", "Bypass", "-File", str(SCRIPT)]
        result = subprocess.run([*command, argument], cwd=tmp_path, capture_output=True)
        assert result.returncode == status
        assert b"usage: start_all_services.py" in result.stdout + result.stderr
