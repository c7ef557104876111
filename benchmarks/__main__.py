"""The command: measures rows and shows the table; of all rows it also writes what the docs show."""

import shopsphere.packages  # noqa: F401  # those of .venv, if need be

# isort: split

import argparse
import sys
import tempfile
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path

from benchmarks.report import as_svg, as_table, write_json
from benchmarks.rows import ROWS, Effort, Result, Row
from benchmarks.servers import ROOT, CannotMeasure, Stage, require_wrk, stage


def run_all(rows: list[Row], effort: Effort) -> Iterator[Result]:
    """Measure the rows, each on its stage."""
    with tempfile.TemporaryDirectory() as folder:
        for name, some in groupby(rows, key=lambda row: row.stage):
            with stage(Path(folder) / name) as servers:
                yield from [run(row, servers, effort) for row in some]


def run(row: Row, servers: Stage, effort: Effort) -> Result:
    """Measure a row and show each round; what cannot be measured says why."""
    result = Result(row)
    print(f"\n{row.work}", flush=True)
    try:
        for sample in row.measure(servers, effort):
            result.samples.append(sample)
            print(f"  {sample.value:8.2f}{row.unit}  {sample.made_of}", flush=True)
    except CannotMeasure as trouble:
        result.trouble = str(trouble)
        print(f"  not measured: {trouble}", flush=True)
    return result


def main(arguments: list[str] | None = None) -> int:
    """Measure what was asked for; return 0 when every target is met."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description="Measure ShopSphere beside bare FastAPI apps, in turn, driven by wrk.",
        epilog="rows:\n" + "\n".join(f"  {row.name:<14} {row.work}" for row in ROWS),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("rows", nargs="*", help="rows to measure: names or prefixes")
    parser.add_argument("--rounds", type=int, default=7, help="runs of each side (default: 7)")
    parser.add_argument("--seconds", type=int, default=2, help="length of a run (default: 2)")
    parser.add_argument("--products", type=int, default=100_000, help="default: 100000")
    parser.add_argument("--orders", type=int, default=100_000, help="default: 100000")
    parser.add_argument(
        "--write", type=Path, help="folder for the results (default: docs, if all rows run)"
    )
    options = parser.parse_args(arguments)
    effort = Effort(options.rounds, options.seconds, options.products, options.orders)
    for name in options.rows:
        if not any(row.name.startswith(name) for row in ROWS):
            parser.error(f"no row is named {name}")
    rows = [row for row in ROWS if not options.rows or row.name.startswith(tuple(options.rows))]
    try:
        require_wrk()
    except CannotMeasure as trouble:
        print(trouble, file=sys.stderr)
        return 1
    results = list(run_all(rows, effort))
    print("\n" + as_table(results))
    folder = options.write or (None if options.rows else ROOT / "docs")
    if folder:
        (folder / "benchmarks.svg").write_text(as_svg(results), encoding="utf-8")
        write_json(folder / "benchmarks.json", results, effort)
    return 0 if all(one.samples and one.row.is_met_by(one.median) for one in results) else 1


if __name__ == "__main__":
    sys.exit(main())
