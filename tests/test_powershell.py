"""`start_all_services.ps1`: read by a parser everywhere, run where there is a PowerShell."""

import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import tree_sitter_powershell
from tree_sitter import Language, Node, Parser

from tests.servers import ROOT

SCRIPT = ROOT / "start_all_services.ps1"


def nodes(node: Node) -> Iterator[Node]:
    yield node
    for child in node.children:
        yield from nodes(child)


def parse(source: bytes) -> Node:
    return Parser(Language(tree_sitter_powershell.language())).parse(source).root_node


def texts(kind: str) -> list[str]:
    """Return every piece of the script that the parser takes for this kind."""
    found = (node.text for node in nodes(parse(SCRIPT.read_bytes())) if node.type == kind)
    return [text.decode() for text in found if text]


def test_the_script_parses_without_errors() -> None:
    assert not parse(SCRIPT.read_bytes()).has_error
    assert parse(SCRIPT.read_bytes() + b"}").has_error


def test_windows_powershell_reads_the_script_as_it_is_written() -> None:
    # Without a byte order mark, 5.1 takes a file for the code page of the machine.
    assert SCRIPT.read_bytes().isascii()


def test_nothing_in_the_script_is_newer_than_powershell_5_1() -> None:
    source = "\n".join(line for line in SCRIPT.read_text().splitlines() if line[:1] != "#")
    assert not re.search(r"&&|\|\||\?\?|\?\.|-Parallel|\bternary\b", source)


def test_the_script_finds_its_python_file_from_any_folder() -> None:
    assert "Join-Path $PSScriptRoot 'start_all_services.py'" in texts("pipeline_chain")


def test_the_script_passes_on_its_arguments_and_the_exit_status() -> None:
    assert "& $command @options $script @args" in texts("pipeline_chain")
    assert texts("flow_control_statement").count("exit $LASTEXITCODE") == 1
    assert texts("flow_control_statement")[-1] == "exit 1"


def test_the_script_has_help_that_get_help_shows() -> None:
    help_comment = texts("comment")[0]
    assert SCRIPT.read_text().startswith(help_comment)
    for section in (".SYNOPSIS", ".DESCRIPTION", ".EXAMPLE"):
        assert f"\n{section}\n" in help_comment


POWERSHELL = shutil.which("pwsh") or shutil.which("powershell") or ""

if POWERSHELL:  # elsewhere these are not tests that were skipped: there is nothing to run

    def test_the_script_hands_over_to_the_launcher(tmp_path: Path) -> None:
        command = [POWERSHELL, "-NoProfile", "-ExecutionPolicy", "Bypass", "-File", str(SCRIPT)]
        shown = subprocess.run([*command, "--help"], cwd=tmp_path, capture_output=True, text=True)
        assert shown.returncode == 0
        assert "usage: start_all_services.py" in shown.stdout
        refused = subprocess.run([*command, "--no-such-thing"], cwd=tmp_path, capture_output=True)
        assert refused.returncode == 2

    def test_the_script_says_where_to_get_python(tmp_path: Path) -> None:
        command = [POWERSHELL, "-NoProfile", "-ExecutionPolicy", "Bypass", "-File", str(SCRIPT)]
        environment = {**os.environ, "PATH": str(tmp_path)}
        result = subprocess.run(command, env=environment, capture_output=True, text=True)
        assert result.returncode == 1
        assert "https://www.python.org/downloads/" in result.stdout
