"""The model of the ordering protocol is exact, and goes wrong without each of its rules.

Here in small: its docstring says how to run it whole.
"""

import subprocess
import sys

import pytest

from tests.servers import ROOT


def run_model(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / "docs" / "protocol_model.py"), *arguments]
    return subprocess.run(command, capture_output=True, text=True)


@pytest.mark.parametrize("stock", ["0", "1"])
def test_every_interleaving_in_small_is_exact(stock: str) -> None:
    run = run_model("", stock, "alone", "delete")
    assert run.returncode == 0, run.stdout
    assert "all exact" in run.stdout


@pytest.mark.parametrize(
    ("variant", "words"),
    [
        ("no-cas", "1 alone"),
        ("no-tombstone", "1 alone"),
        ("one-mark", "1 alone"),
        ("refusal-forgotten", "0 alone"),
        ("ship-no-cas", "1 alone ship still"),
        ("ship-one-mark", "1 alone ship still"),
        ("any-missing", "1 alone delete"),
    ],
)
def test_it_goes_wrong_without_one_of_its_rules(variant: str, words: str) -> None:
    run = run_model(variant, *words.split())
    assert run.returncode == 1, run.stdout
    assert run.stdout.startswith("WRONG"), run.stderr
