"""What was measured, as a table to read, as JSON to keep and as a plot."""

import json
import math
import os
import platform
from datetime import UTC, datetime
from html import escape
from pathlib import Path

from benchmarks.rows import Effort, Result

WIDTH, LEFT, RIGHT, LINE = 900, 470, 60, 30
BEST, WORST = 32, 0.5
"""The plot's ends, as multiples of a target; what is beyond is drawn at the end."""


def as_table(results: list[Result]) -> str:
    """Return a Markdown table: minimum, median and maximum of each row beside its target."""
    lines = [
        "| work | target | minimum | median | maximum | median by CPU | |",
        "| --- | --- | ---: | ---: | ---: | ---: | --- |",
    ]
    return "\n".join(lines + [_table_row(result) for result in results])


def _table_row(result: Result) -> str:
    row = result.row
    target = f"{row.sign} {row.target:g}{row.unit}"
    if not result.samples:
        return f"| {row.work} | {target} | | | | | not measured |"
    figures = (min(result.values), result.median, max(result.values))
    shown = " | ".join(f"{figure:.2f}{row.unit}" for figure in figures)
    by_cpu = "" if result.median_by_cpu is None else f"{result.median_by_cpu:.2f}"
    verdict = "met" if row.is_met_by(result.median) else "**missed**"
    return f"| {row.work} | {target} | {shown} | {by_cpu} | {verdict} |"


def write_json(file: Path, results: list[Result], effort: Effort) -> None:
    """Write every sample, the table, and where and how it was measured."""
    content = {
        "measured_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": {"system": platform.platform(), "cores": os.cpu_count()},
        "python": platform.python_version(),
        "rounds": effort.rounds,
        "seconds": effort.seconds,
        "products_in_the_big_shop": effort.big_shop,
        "rows": [
            {
                "name": result.row.name,
                "work": result.row.work,
                "target": f"{result.row.sign} {result.row.target:g}{result.row.unit}",
                "trouble": result.trouble,
                "median_by_cpu": result.median_by_cpu,
                "values": [round(value, 3) for value in result.values],
                "made_of": [sample.made_of for sample in result.samples],
            }
            for result in results
        ],
        "table": as_table(results).splitlines(),
    }
    file.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def as_svg(results: list[Result]) -> str:
    """Return a plot of how far each row is from its target: to the right of the line is better."""
    measured = [result for result in results if result.samples]
    height = LINE * (len(measured) + 2)
    at_target = _x(1)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" '
        'font-family="system-ui, sans-serif" font-size="13">',
        f'<rect width="{WIDTH}" height="{height}" fill="#fff"/>',
        f'<line x1="{at_target}" x2="{at_target}" y1="{LINE}" y2="{height - LINE}" stroke="#888" '
        'stroke-dasharray="4"/>',
        f'<text x="{at_target}" y="20" text-anchor="middle" fill="#555">target</text>',
    ]
    for multiple in (0.5, 2, 4, 8, 16):
        parts.append(
            f'<text x="{_x(multiple)}" y="20" text-anchor="middle" fill="#aaa">'
            f"{multiple:g} x</text>"
        )
    for number, result in enumerate(measured, 1):
        parts += _svg_row(result, LINE * number + LINE // 2)
    caption = "minimum, median and maximum as multiples of the target; farther right is better"
    parts.append(
        f'<text x="{WIDTH - RIGHT}" y="{height - 8}" text-anchor="end" fill="#555">{caption}</text>'
    )
    return "\n".join([*parts, "</svg>\n"])


def _svg_row(result: Result, y: int) -> list[str]:
    row = result.row
    ends = sorted(_x(_multiple(result, value)) for value in result.values)
    middle = _x(_multiple(result, result.median))
    colour = "#1a7f37" if row.is_met_by(result.median) else "#cf222e"
    figure = f"{result.median:.2f}{row.unit} ({row.sign} {row.target:g})"
    return [
        f'<text x="{LEFT - 10}" y="{y + 4}" text-anchor="end">{escape(row.name)}'
        f"<title>{escape(row.work)}</title></text>",
        f'<line x1="{ends[0]}" x2="{ends[-1]}" y1="{y}" y2="{y}" stroke="{colour}" '
        'stroke-width="6" stroke-opacity="0.35" stroke-linecap="round"/>',
        f'<circle cx="{middle}" cy="{y}" r="5" fill="{colour}"/>',
        f'<text x="{middle}" y="{y - 8}" text-anchor="middle" font-size="10">{figure}</text>',
    ]


def _multiple(result: Result, value: float) -> float:
    """Return how many times better than its target a value is."""
    if result.row.sign == "≥":
        return value / result.row.target
    return result.row.target / value if value > 0 else BEST


def _x(multiple: float) -> float:
    """Return where a multiple of the target is drawn, on a logarithmic scale."""
    share = math.log(min(max(multiple, WORST), BEST) / WORST) / math.log(BEST / WORST)
    return round(LEFT + share * (WIDTH - LEFT - RIGHT), 1)
