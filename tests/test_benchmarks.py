"""The benchmarks start and say what they found. How fast anything is, is not tested."""

import json
import subprocess
import sys
from html import escape
from xml.etree import ElementTree

import pytest

from benchmarks.__main__ import main
from benchmarks.report import as_svg, as_table
from benchmarks.rows import ROWS, Result, Sample
from tests.servers import ROOT


def test_the_command_tells_how_it_is_used() -> None:
    command = [sys.executable, "-m", "benchmarks", "--help"]
    answer = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert "wrk" in answer.stdout
    assert all(row.name in answer.stdout for row in ROWS)


def test_a_row_that_is_not_there_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["raed"])
    assert "no row is called raed" in capsys.readouterr().err


def test_the_table_holds_every_figure_against_its_target() -> None:
    met = Result(ROWS[0], [Sample(0.8, ""), Sample(0.9, "", 0.88), Sample(1.0, "")])
    missed = Result(ROWS[0], [Sample(0.8, "")])
    unknown = Result(ROWS[0], trouble="no wrk")
    lines = as_table([met, missed, unknown]).splitlines()[2:]
    assert "| ≥ 0.88 | 0.80 | 0.90 | 1.00 | 0.88 | met |" in lines[0]
    assert "**missed**" in lines[1]
    assert "not measured" in lines[2]


def test_the_plot_is_svg_and_leaves_out_what_was_not_measured() -> None:
    results = [Result(row, [Sample(row.target, "")]) for row in ROWS[1:]]
    plot = ElementTree.fromstring(as_svg([Result(ROWS[0], trouble="no wrk"), *results]))
    titles = [title.text for title in plot.iter("{http://www.w3.org/2000/svg}title")]
    assert titles == [row.work for row in ROWS[1:]]


def test_the_readme_shows_the_table_and_the_plot_of_one_run() -> None:
    measured = json.loads((ROOT / "docs/benchmarks.json").read_text(encoding="utf-8"))
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert "\n".join(measured["table"]) in readme
    assert "docs/benchmarks.svg" in readme
    assert [row["work"] for row in measured["rows"]] == [row.work for row in ROWS]
    plot = (ROOT / "docs/benchmarks.svg").read_text(encoding="utf-8")
    assert all(f"<title>{escape(row.work)}</title>" in plot for row in ROWS)
