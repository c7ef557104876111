"""What the pages print in code type between the lines: all of it is there, and is accepted."""

import asyncio
import inspect
import re
import shlex
import signal
from collections.abc import Iterator
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import quote

import certifi
import click
import pydantic
import pytest
import redis
import uvicorn
from redis.asyncio.connection import AbstractConnection, SSLConnection

import redis_clients
from redis_db import MODELS
from shopsphere.domain.errors import CannotStart
from shopsphere.domain.records import OrderRecord
from shopsphere.settings import Settings
from tests import pages
from tests.apps import BUILD, resolve, settings_of
from tests.servers import ROOT, RedisServer, free_port

every_page = pytest.mark.parametrize("page", pages.PAGES, ids=lambda page: str(page.name))
SOURCES = (
    *("*.py", "*.ps1", "*.yaml", "shopsphere/**/*.py", "benchmarks/*.py", "benchmarks/*.lua"),
    "tests/redis_groups.py",
)
"""Where a name has to stand: in the product, its benchmarks, or what real Sentinels are told."""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    """A Redis whose settings may be changed."""
    server = RedisServer(tmp_path_factory.mktemp("redis"))
    yield server
    server.client.close()
    server.stop(signal.SIGKILL)  # it may have been told to keep what it has


@every_page
def test_all_that_is_in_code_type_is_there(page: Path, server: RedisServer) -> None:
    named = [*pages.spans(page), *words_of_drawings(page)]
    assert [span for span in named if not is_there(span, page, server)] == []


@every_page
def test_settings_in_a_block_are_accepted_together(page: Path) -> None:
    for text in (text for _, text in pages.blocks(page) if pages.is_settings(text)):
        settings = [line for line in text.splitlines() if not line.startswith("#")]
        lines = [re.split(r"[= ]+", line, maxsplit=2) for line in settings]
        given = {name: "dots" * 8 if value == "..." else value for name, value, *_ in lines}
        assert is_accepted(**given)


def test_how_characters_of_a_password_are_written() -> None:
    plain, written = ("/ @ : %", "%2F %40 %3A %25")
    assert {plain, written} <= set(pages.spans(ROOT / "docs" / "redis.md"))
    assert [quote(character, safe="") for character in plain.split()] == written.split()


def words_of_drawings(page: Path) -> list[str]:
    """Return the states, modules, ports and routes that stand in the drawings of a page."""
    text = "\n".join(text for _, text in pages.blocks(page) if pages.is_drawing(text))
    return re.findall(r"[A-Z]{3,} /\w+|\b[A-Z]{5,}\b|\w+_\w+|\b[89]\d{3}\b", text)


def is_there(span: str, page: Path, server: RedisServer) -> bool:
    """Tell whether a span is right; the first that it looks like decides."""
    if pages.is_command(span) or pages.is_excepted(span):
        return True  # test_docs runs the one, `pages` names the other
    if route := re.fullmatch(r"([A-Z]{3,}) (/[^\s?]*)(?:\?(\S*))?(?: \{(.*)\})?", span):
        return is_route(*route.groups(""))
    if setting := re.fullmatch(r"([A-Z][A-Z_]+)=(.*)", span):
        return is_accepted(**{setting[1]: setting[2]})
    if re.fullmatch(r"/[a-z.]+", span):
        return is_route("GET", span, "", "")
    if re.match(r"(redis|unix)\S*://.", span):
        return is_address(span)
    if re.fullmatch(r"[a-z_]+=\w+", span):
        return is_address(f"redis+cluster://host:6379?ssl=true&{span}")
    if span.startswith("--"):
        return is_option(*shlex.split(span))
    return is_accepted_by_redis(span, server) or is_name(span, page)


def is_route(method: str, path: str, query: str, fields: str) -> bool:
    """Tell whether a service has the route, with these names in its query and its body."""
    asked, given = (set(re.findall(r"\w+", text)) for text in (query, fields))
    for document in map(document_of, BUILD):
        routes = {shape(known): methods for known, methods in document["paths"].items()}
        if route := routes.get(shape(path), {}).get(method.lower()):
            takes = {parameter["name"] for parameter in route.get("parameters", [])}
            return asked <= takes and (not given or given == fields_of(route, document))
    return path in ("/docs", "/redoc", "/openapi.json")


def shape(path: str) -> str:
    return re.sub(r"\{\w+\}", "{}", path)


def fields_of(route: dict[str, Any], document: dict[str, Any]) -> set[str]:
    [content] = route["requestBody"]["content"].values()
    return set(resolve(content["schema"]["$ref"], document)["properties"])


@cache
def document_of(service: str) -> dict[str, Any]:
    return BUILD[service](settings_of({})).openapi()


def is_accepted(**environment: str) -> bool:
    """Tell whether these are settings, and a start accepts them."""
    with suppress(pydantic.ValidationError):
        settings_of(environment)
        return {name.lower() for name in environment} <= set(Settings.model_fields)
    return False


def is_address(url: str) -> bool:
    """Tell whether Redis would be looked for there; nothing listens where it is."""
    url = re.sub(r"\bhost\d?:(\d+|port)", f"127.0.0.1:{free_port()}", url)
    url = url.replace("/etc/shop/ca.pem", certifi.where())
    with suppress(CannotStart, pydantic.ValidationError):
        try:
            asyncio.run(redis_clients.connect(settings_of({"REDIS_URL": url})))
        except redis_clients.NothingAnswers:
            return True
    return False


def is_option(name: str, *value: str) -> bool:
    """Tell whether uvicorn, with this value, or one of our programs takes this."""
    if name not in {"--help", *(option for each in uvicorn.main.params for option in each.opts)}:
        return is_in_the_code(f'"{name}"')
    with suppress(click.UsageError):
        if value:
            uvicorn.main.make_context("uvicorn", ["product_service:app", name, *value])
        return all((ROOT / word).exists() for word in value if "/" in word)
    return False


def is_accepted_by_redis(span: str, server: RedisServer) -> bool:
    """Tell whether this is a line of `redis.conf`, a part of one, or a command."""
    name, *value = shlex.split(span)
    if not value and server.client.execute_command("COMMAND INFO", name)[0]:
        return True
    line = (name, " ".join(value)) if value else ("appendfsync", name)
    with suppress(redis.ResponseError):
        return bool(server.client.config_set(*line))
    return not value and bool(server.client.config_get(name))


def is_name(span: str, page: Path) -> bool:
    """Tell whether this stands in the code, or is a file, a signal, a metric or a setting."""
    metrics = re.findall(r"\b((?:http|orders)_\w+?)(?:_total|_bucket)?\b", span)
    options = [*inspect.signature(AbstractConnection).parameters]
    options += inspect.signature(SSLConnection).parameters
    return (
        any(place.exists() for place in (ROOT / span, page.parent / span))
        or is_key(span)
        or span.lower() in Settings.model_fields
        or hasattr(signal, span)
        or span in options
        or all(is_in_the_code(name) for name in metrics or [span])
    )


def is_key(span: str) -> bool:
    """Tell whether records of a kind are kept under such keys, or such a slot is in the code."""
    if slot := re.fullmatch(r"\{(\w+)\}", span):
        return is_in_the_code(f'"{slot[1]}"')
    key = re.sub("<kind>", OrderRecord.kind, span).removeprefix("<prefix>:")
    kind, _, pk = re.sub(r"<[\w ]+>", "x", key).partition(":")
    if kind not in MODELS:
        return False
    return bool(MODELS[kind].make_primary_key(re.sub("[{}]", "", pk)) == f"{kind}:{pk}")


@cache
def code() -> str:
    files = [file for pattern in SOURCES for file in sorted(ROOT.glob(pattern))]
    text = "\n".join(file.read_text(encoding="utf-8") for file in files)
    return text.replace("{{", "{").replace("}}", "}")  # as an f-string has them


def is_in_the_code(words: str) -> bool:
    literally = re.sub(r"<(\w|\\ )+>", r"\{[\\w.\[\]]+\}", re.escape(words))
    return re.search(rf"(?<!\w){literally}(?!\w)", code()) is not None
