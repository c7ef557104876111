"""The benchmarks say what they found. How fast anything is, is not tested."""

import json
from html import escape
from xml.etree import ElementTree

from benchmarks.report import as_svg, as_table
from benchmarks.rows import ROWS, Result, Sample
from tests.servers import ROOT


def test_table_and_plot_hold_what_was_measured_against_its_target() -> None:
    met = Result(ROWS[0], [Sample(0.8, ""), Sample(0.9, "", 0.88), Sample(1.0, "")])
    missed = Result(ROWS[1], [Sample(0.1, "")])
    lines = as_table([met, missed, Result(ROWS[2], trouble="no wrk")]).splitlines()[2:]
    assert "| ≥ 0.88 | 0.80 | 0.90 | 1.00 | 0.88 | met |" in lines[0]
    assert "**missed**" in lines[1]
    assert "not measured" in lines[2]
    plot = ElementTree.fromstring(as_svg([met, missed, Result(ROWS[2], trouble="no wrk")]))
    titles = [title.text for title in plot.iter("{http://www.w3.org/2000/svg}title")]
    assert titles == [row.work for row in ROWS[:2]]


def test_the_page_on_speed_shows_the_table_and_the_plot_of_one_run() -> None:
    measured = json.loads((ROOT / "docs/benchmarks.json").read_text(encoding="utf-8"))
    page = (ROOT / "docs/performance.md").read_text(encoding="utf-8")
    assert "\n".join(measured["table"]) in page
    assert "(benchmarks.svg)" in page
    assert [row["work"] for row in measured["rows"]] == [row.work for row in ROWS]
    plot = (ROOT / "docs/benchmarks.svg").read_text(encoding="utf-8")
    assert all(f"<title>{escape(row.work)}</title>" in plot for row in ROWS)
