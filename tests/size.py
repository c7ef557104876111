"""Lines of code by folder: blank lines, comments and docstrings are not counted.

Run `python -m tests.size`.
"""

import ast
import io
import subprocess
import tokenize
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
HEART = {
    "user_service.py", "product_service.py", "order_service.py", "storage.py", "in_memory_db.py",
    "redis_db.py", "shopsphere/records.py", "shopsphere/lists.py", "shopsphere/domain",
    "shopsphere/catalogue", "shopsphere/ordering",
}  # fmt: skip
NOT_CODE = {
    tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT,
    tokenize.ENCODING, tokenize.ENDMARKER,
}  # fmt: skip


def lines_of_code(source: str) -> int:
    """Return how many lines of a module are code; the Lua of a script counts, its comments not."""
    not_code: set[int] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            not_code.update(range(node.lineno, (node.end_lineno or node.lineno) + 1))
    lines: set[int] = set()
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type not in NOT_CODE:
            lines.update(range(token.start[0], token.end[0] + 1))
    texts = [text.strip() for text in source.splitlines()]
    return sum(bool(texts[n - 1]) and not texts[n - 1].startswith("--") for n in lines - not_code)


def place_of(path: str) -> str:
    """Return the folder that a file is counted in; files at the top and in shopsphere/ alone."""
    parent = str(Path(path).parent)
    return path if parent in (".", "shopsphere") else parent


def main() -> None:
    listed = subprocess.check_output(["git", "ls-files", "*.py"], cwd=ROOT, text=True)
    counts: Counter[str] = Counter()
    for path in filter(Path.exists, map(ROOT.joinpath, listed.split())):
        place = place_of(str(path.relative_to(ROOT)))
        counts[place] += lines_of_code(path.read_text(encoding="utf-8"))
    for place in sorted(counts):
        print(f"{counts[place]:6,}  {place}")
    print(f"{sum(counts[place] for place in HEART):6,}  the heart")
    besides = ("tests", "benchmarks", "docs")
    product = sum(n for place, n in counts.items() if not place.startswith(besides))
    print(f"{product:6,}  everything but tests, benchmarks and docs")
    print(f"{counts['tests']:6,}  tests")


if __name__ == "__main__":
    main()
