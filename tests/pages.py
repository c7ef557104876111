"""What the pages print: blocks between fences, and what stands in code type between the lines.

Each of it is run or checked by a test, in a page that is new as well; what is not, is named here.
"""

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

from tests.launching import PORTS
from tests.servers import ROOT, RedisServer, Trio, redis_executable

PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")])
LANGUAGES = {"bash", "json", "jsonl", "text"}
"""What a block can be in, that it is run, compared with the answer, or looked at word by word."""

ONLY_SHOWN = {"shell", "sh", "yaml", "mermaid", "redis", "python"}
"""What its own tests run, or nothing does: it goes on, needs other programs, or is a drawing."""

PROGRAMS = ("python", "uvicorn", "curl", "redis-cli")
"""With what a command between the lines begins."""

BY_CHANCE = {
    *("pk", "product_id", "order_id", "created_at", "access_token", "refresh_token"),
    *("timestamp", "duration_ms"),
}
"""What differs from run to run, in an answer or in a line of the log."""

EXCEPTED = {
    "python start_all_services.py": "test_launcher starts it",
    "python product_service.py": "a test of test_docs starts it",
    "python run_tests.py": "it is what runs this",
}
"""The commands between the lines that are not run as they are printed, and why."""

BETWEEN = "\x1e"
"""What stands in the output between that of one block and the next."""


def read(page: Path) -> str:
    return page.read_text(encoding="utf-8")


def blocks(page: Path) -> list[tuple[str, str]]:
    """Return the language and the text of each block of a page, in its order."""
    return re.findall(r"(?ms)^ *```([^\n]*)\n(.*?)^ *```$", read(page))


def steps(page: Path) -> list[tuple[str, dict[str, str]]]:
    """Return the blocks of a page that are run, and the answers shown below, by their language."""
    found: list[tuple[str, dict[str, str]]] = []
    answers: dict[str, str] = {}
    for language, text in blocks(page):
        if language in ("bash", "shell", "sh"):
            answers = {}
            found += [(text, answers)] if language == "bash" else []
        elif language in LANGUAGES and not (is_drawing(text) or is_settings(text)):
            assert language not in answers, f"two answers to one block: {text}"
            answers[language] = text
    return found


def is_drawing(text: str) -> bool:
    return re.search(r"-->|<--|\+--|├─", text) is not None


def is_settings(text: str) -> bool:
    return all(re.match(r"[A-Z_]+=|# ", line) for line in text.splitlines())


def spans(page: Path) -> list[str]:
    """Return what stands in code type between the lines of a page."""
    prose = re.sub(r"(?ms)^ *```.*?^ *```$", "", read(page))
    return [" ".join(span.split()) for span in re.findall(r"`([^`]+)`", prose)]


def is_command(span: str) -> bool:
    first, _, rest = span.partition(" ")
    return first in PROGRAMS and bool(rest)


def in_the_text() -> set[str]:
    """Return the commands between the lines of all pages."""
    return {span for page in PAGES for span in spans(page) if is_command(span)}


def run_all(blocks: Iterable[str], environment: dict[str, str]) -> list[str]:
    """Run blocks in one shell, as pasted one after another, and return what each printed."""
    return run(f"printf '{BETWEEN}'\n".join(blocks), environment).split(BETWEEN)


def run(command: str, environment: dict[str, str]) -> str:
    """Run commands as pasted, and return what they printed; fail when one says that it failed."""
    folders = [Path(sys.executable).parent, Path(redis_executable()).parent]
    path = os.pathsep.join([*map(str, folders), os.environ["PATH"]])
    return subprocess.run(
        ["sh", "-ec", command],
        cwd=ROOT,
        env={**os.environ, **environment, "no_proxy": "*", "PATH": path},
        stdout=subprocess.PIPE,
        check=True,
        text=True,
        timeout=60,
    ).stdout


def moved(text: str, trio: Trio, redis: RedisServer, pk: str) -> str:
    """Return a text of a page as it is for this shop and this product."""
    for service in trio.services:
        text = text.replace(f":{PORTS[service.name]}", f":{service.port}")
    text = text.replace("localhost:6379", f"localhost:{redis.port}")
    return text.replace("abc123", pk)


def are_alike(answer: str, shown: str) -> bool:
    """Tell whether two answers in JSON differ in nothing but what differs from run to run."""
    return without_chance(json.loads(answer)) == without_chance(json.loads(shown))


def without_chance(answer: object) -> object:
    """Return an answer with the type in the place of each value that differs from run to run."""
    if isinstance(answer, list):
        return [without_chance(item) for item in answer]
    if isinstance(answer, dict):
        return {
            name: type(value) if name in BY_CHANCE else without_chance(value)
            for name, value in answer.items()
        }
    return without_numbers(answer) if isinstance(answer, str) else answer


def without_numbers(text: str) -> str:
    """Return a text in which pks, versions, times and counts do not matter."""
    text = re.sub(r"\b[0-9A-HJKMNP-TV-Z]{26}\b", "PK", text)
    return re.sub(r"\d+(\.\d+)+", "NUMBER", text)
