"""What the pages print: blocks between fences, and what stands in code type between the lines.

Each of it is run or checked by a test, in a page that is new as well; what is not, is named here.
"""

import os
import re
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tests.launching import PORTS
from tests.servers import ROOT, RedisServer, Trio, redis_executable

PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")])
LANGUAGES = {"bash", "json", "jsonl", "text"}
"""What a block can be in, that it is run, compared with the answer, or looked at word by word."""

ONLY_SHOWN = {"shell", "sh", "yaml", "mermaid", "redis"}
"""What is not run: it needs other machines or programs, or is a drawing."""

PROGRAMS = ("python", "uvicorn", "curl", "redis-cli")
"""With what a command between the lines begins."""

PRODUCT_PK = "01M8706QWZPAFXJVYTP6GM7GVS"
"""The product of the examples."""

A_TOKEN = "TOKEN=$("
"""With what a block begins whose commands belong together."""

BY_CHANCE = {
    *("pk", "product_id", "order_id", "created_at", "access_token", "refresh_token"),
    *("timestamp", "duration_ms"),
}
"""What differs from run to run, in an answer or in a line of the log."""

EXCEPTED = {
    "python start_all_services.py": "test_launcher starts it",
    ".\\start_all_services.ps1": "test_powershell reads it",
    "python product_service.py": "a test of test_docs starts it",
    "python review_service.py": "a test of test_docs starts it",
    "python run_tests.py": "it is what runs this",
    "python -m venv .venv": "makes what the next two need",
    "source .venv/bin/activate": "belongs to the line before",
    "pip install -r requirements.txt": "downloads packages",
}
"""The commands that are not run as they are printed, and why."""


@dataclass
class Step:
    """A command as a page shows it, and the answers shown below it, by their language."""

    command: str
    answers: dict[str, str] = field(default_factory=dict)


def read(page: Path) -> str:
    return page.read_text(encoding="utf-8")


def blocks(page: Path) -> list[tuple[str, str]]:
    """Return the language and the text of each block of a page, in its order."""
    return re.findall(r"(?ms)^ *```([^\n]*)\n(.*?)^ *```$", read(page))


def steps(page: Path) -> list[Step]:
    """Return the commands in the blocks of a page; what a block answers, its first command does."""
    found: list[Step] = []
    asked = Step("")
    for language, text in blocks(page):
        if language == "bash":
            lines = re.sub(r"(?m)(^|\s+)#.*$", "", text).replace("\\\n", "\0").splitlines()
            commands = [line.replace("\0", "\\\n") for line in lines if line]
            asked, *others = map(Step, [text] if text.startswith(A_TOKEN) else commands)
            found += [asked, *others]
        elif language in LANGUAGES and not (is_drawing(text) or is_settings(text)):
            assert asked.command, f"{page.name} shows an answer before there is a command"
            assert language not in asked.answers, f"two answers to {asked.command}"
            asked.answers[language] = text
    return found


def is_drawing(text: str) -> bool:
    return re.search(r"-->|<--|\+--|├─", text) is not None


def is_settings(text: str) -> bool:
    return all(re.match(r"[A-Z_]+=|# ", line) for line in text.splitlines())


def spans(page: Path) -> list[str]:
    """Return what stands in code type between the lines of a page, each once."""
    prose = re.sub(r"(?ms)^ *```.*?^ *```$", "", read(page))
    return list(dict.fromkeys(" ".join(span.split()) for span in re.findall(r"`([^`]+)`", prose)))


def is_command(span: str) -> bool:
    first, _, rest = span.partition(" ")
    return first in PROGRAMS and bool(rest)


def in_the_text() -> list[str]:
    """Return the commands between the lines of all pages, each once."""
    return sorted({span for page in PAGES for span in spans(page) if is_command(span)})


def commands() -> list[str]:
    """Return the commands of all pages, each once."""
    return sorted({*in_the_text(), *(step.command for page in PAGES for step in steps(page))})


def is_excepted(printed: str) -> bool:
    return printed in EXCEPTED


def run(command: str, environment: dict[str, str]) -> str:
    """Run a command as pasted, and return what it printed; fail when it says that it failed."""
    folders = [Path(sys.executable).parent, Path(redis_executable()).parent]
    path = os.pathsep.join([*map(str, folders), os.environ["PATH"]])
    return subprocess.run(
        ["sh", "-c", command],
        cwd=ROOT,
        env={**os.environ, **environment, "no_proxy": "*", "PATH": path},
        stdout=subprocess.PIPE,
        check=True,
        text=True,
        timeout=60,
    ).stdout


def moved(text: str, trio: Trio, redis: RedisServer, pks: Sequence[str]) -> str:
    """Return a text of a page as it is for this shop and these products, of which pages name the
    first and the last."""
    for service in trio.services:
        text = text.replace(f":{PORTS[service.name]}", f":{service.port}")
    text = text.replace("localhost:6379", f"localhost:{redis.port}")
    return text.replace("abc123", pks[0]).replace("xyz789", pks[-1])


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
