"""Checks Redis, the services, their storage and settings, and with `--audit` the stock.

A tool, not a test: `python test_connection.py` prints a table and exits with 0 only if everything
is running as it should, and with `--audit`, the stock adds up. `--json` prints one JSON object.
"""

import shopsphere.packages  # noqa: F401  # those of .venv, if need be

# isort: split

import argparse
import asyncio
import json
import re
import signal
import sys
import time
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from itertools import repeat
from typing import NamedTuple

import redis
import requests
from pydantic import BaseModel

from shopsphere.domain.errors import StoreUnavailable
from shopsphere.domain.values import Role
from shopsphere.http_sessions import NO_RETRY, reason_of, session
from shopsphere.records import StorageName
from shopsphere.redis_clients.connecting import connect
from shopsphere.redis_clients.errors import NothingResponds
from shopsphere.settings import MIN_SECRET_BYTES, CannotStart, Settings
from shopsphere.tokens import Tokens
from shopsphere.tools.audit import Finding, Shop, ShopUnavailable, compare, count
from shopsphere.tools.processes import say

ASKS_FOR_A_TOKEN = {"product": "/products/0/stock", "user": "/me", "order": "/orders/0"}
"""Paths that respond with 401 to an invalid token, and otherwise to a valid one with few rights."""
TIMEOUT_SECONDS = 5
AUDITED = ("product service", "order service", "storage")
PARTS_OF_REDIS = ("persistence", "eviction", "replication")
NO_REPAIR = "no automatic repair: cancel the PLACED orders above and correct other numbers in Redis"


class Line(NamedTuple):
    """One line of the table. Its state is `ok`, `warning` or the kind of failure."""

    name: str
    state: str
    text: str

    @property
    def is_good(self) -> bool:
        return self.state in ("ok", "warning")

    def __str__(self) -> str:
        name = f"  {self.name}" if self.name in PARTS_OF_REDIS else self.name
        return f"{name:<16} {self.state if self.is_good else 'FAILED':<8} {self.text}"


def redis_lines(settings: Settings, used: Collection[StorageName] = ()) -> Iterator[Line]:
    """Yield the lines about Redis: address, version, round trip, and what data it could lose.

    `used` are the storages of the running services.
    """
    if settings.use_redis == "false":
        yield Line("Redis", "ok", "not used (USE_REDIS=false)")
        return
    address = settings.redis_address
    try:
        milliseconds, servers = asyncio.run(_ask_redis(settings))
    except (NothingResponds, TimeoutError):
        is_needed = settings.use_redis == "required" or "redis" in used
        text = f"nothing responds at {address}. Start Redis, or set REDIS_URL or REDIS_HOST"
        yield Line("Redis", "failed" if is_needed else "warning", text)
    except (CannotStart, StoreUnavailable, redis.RedisError) as error:
        yield Line("Redis", "failed", str(error))
    else:
        versions = " and ".join(sorted({str(server["redis_version"]) for server in servers}))
        text = f"{address}, version {versions or 'unknown'}, round trip {milliseconds:.1f} ms"
        yield Line("Redis", "ok", text)
        if servers and {*used} != {"memory"}:
            yield from _durability_lines(servers)


async def _ask_redis(settings: Settings) -> tuple[float, list[dict[str, object]]]:
    """Return the milliseconds of a round trip and, as far as our Redis user may ask, the INFO of
    each Redis that holds data, with its setting `save`."""
    async with asyncio.timeout(2 * TIMEOUT_SECONDS):
        client = await connect(settings)
        try:
            started = time.perf_counter()
            await client.ping()
            milliseconds = (time.perf_counter() - started) * 1000
            servers: list[dict[str, object]] = []
            with suppress(redis.ResponseError):
                servers = await client.ask_each("INFO")
                saves = await client.ask_each("CONFIG GET", "save")
                servers = [info | save for info, save in zip(servers, saves, strict=True)]
            return milliseconds, servers
        finally:
            await client.close_all()


def _durability_lines(servers: Sequence[Mapping[str, object]]) -> Iterator[Line]:
    """Yield how Redis keeps its data, and how it could lose orders."""

    def line(name: str, is_safe: bool, safe: str, danger: str) -> Line:
        return Line(name, *(("ok", safe) if is_safe else ("warning", danger)))

    keeps_all = all(server.get("aof_enabled") for server in servers)
    danger = "appendonly is off: changes not yet in a snapshot are lost if Redis crashes"
    if any(server.get("save") == "" for server in servers):
        danger = "appendonly and snapshots are off: all data is lost when Redis stops"
    yield line("persistence", keeps_all, "appendonly is on", danger)
    limited = [server for server in servers if server.get("maxmemory")]
    never_evicts = all(server.get("maxmemory_policy") == "noeviction" for server in limited)
    danger = "a full Redis discards data: set maxmemory-policy noeviction"
    yield line("eviction", never_evicts, "nothing is discarded", danger)
    # Redis reports its good replicas only if min-replicas-to-write is set.
    if replicated := [server for server in servers if server.get("connected_slaves")]:
        waits = all("min_slaves_good_slaves" in server for server in replicated)
        danger = "min-replicas-to-write is 0: a failover can lose orders; see docs/redis.md"
        yield line("replication", waits, "min-replicas-to-write is set", danger)


class Health(BaseModel):
    """The health that a service reports."""

    service: str
    storage: StorageName
    fallback: bool = False


class Looked(NamedTuple):
    """The result of checking a service: its line and, if known, its storage and whether it accepts
    tokens signed with our JWT_SECRET."""

    line: Line
    storage: StorageName | None = None
    has_our_secret: bool | None = None


def look_at(name: str, settings: Settings) -> Looked:
    """Check whether a service is running and ready."""
    url: str = getattr(settings, f"{name}_service_url")
    state, text, storage = "failed", f"no valid response from the {name} service at {url}", None
    token = Tokens(settings.jwt_secrets, 1).issue("test_connection", Role.SERVICE)
    has_our_secret = None
    with session(NO_RETRY, settings.ca_file) as http:
        try:
            response = http.get(f"{url}/", timeout=TIMEOUT_SECONDS)
            health = Health.model_validate_json(response.content)
            if health.service == name:
                storage = health.storage
                ready = http.get(f"{url}/ready", timeout=settings.order_timeout + TIMEOUT_SECONDS)
                if ready.ok:
                    headers = {"Authorization": f"Bearer {token}"}
                    path = ASKS_FOR_A_TOKEN[name]
                    asked = http.get(url + path, headers=headers, timeout=TIMEOUT_SECONDS)
                    has_our_secret = asked.status_code != requests.codes.unauthorized
                    state, text = "ok", f"{url}, storage: {storage}"
                    if health.fallback:
                        state, text = "warning", f"{text} (Redis was unreachable when it started)"
                else:
                    state, text = "not ready", f"{url} is running, but its storage is unreachable"
        except requests.exceptions.SSLError as error:
            text = f"{url}: {reason_of(error)}"
        except requests.ConnectionError:
            how = f"python start_all_services.py, or correct {name.upper()}_SERVICE_URL"
            text = f"not running at {url}. Start it with: {how}"
            state = "not running"
        except (requests.RequestException, ValueError):
            pass  # it responds with something else, or not at all
    return Looked(Line(f"{name} service", state, text), storage, has_our_secret)


def check(settings: Settings) -> Iterator[Line]:
    """Yield the lines of the table."""
    with ThreadPoolExecutor() as threads:
        looking = threads.map(look_at, ASKS_FOR_A_TOKEN, repeat(settings))
        found = dict(zip(ASKS_FOR_A_TOKEN, looking, strict=True))
    storages = {looked.storage for looked in found.values() if looked.storage}
    yield from redis_lines(settings, storages)
    yield from (looked.line for looked in found.values())
    if len(storages) > 1:
        text = "some services use Redis and others memory: restart them with the same settings"
        yield Line("storage", "failed", text)
    others = [name for name, looked in found.items() if looked.has_our_secret is False]
    if others and any(looked.has_our_secret for looked in found.values()):
        text = f"differs between the {' and '.join(others)} service and the others, so they reject "
        yield Line("JWT_SECRET", "failed", text + "each other's tokens. Restart all with the same.")
    elif others:
        text = "differs from the one that the services use"
        yield Line("JWT_SECRET", "warning", text)
    elif len(settings.jwt_secret.get_secret_value().encode()) < MIN_SECRET_BYTES:
        text = "the default or too short: anyone who guesses it can forge tokens"
        yield Line("JWT_SECRET", "warning", text)
    if not settings.auth_required:
        yield Line("AUTH_REQUIRED", "warning", "false: anyone can do anything; development only")
    has_password = re.search("//[^@]*:[^@]+@", settings.redis_full_url)
    is_local = re.search(r"^unix:|localhost|127\.|::1", settings.redis_address)
    if not (has_password or is_local or settings.use_redis == "false"):
        text = "empty: anyone who can reach Redis can change all data"
        yield Line("REDIS_PASSWORD", "warning", text)


def audit(settings: Settings, wants_repair: bool, is_sure: bool) -> Iterator[Line]:
    """Yield inconsistencies of the stock, and repair them if wanted; the last line tells whether
    any are left.

    The wait between the two looks is long enough for the services to settle pending commands.
    """

    def wait() -> None:
        seconds = settings.settle_after + 2 * settings.settle_interval
        print(f"Found differences. Checking again in {seconds:g} s.", file=sys.stderr)
        time.sleep(seconds)

    try:
        with closing(Shop(settings)) as shop:
            findings, summary = compare(shop, wait)
            yield from _lines(findings, summary)
            strays = [each for each in findings if each.order_pk]
            if wants_repair and strays and (is_sure or _agrees(strays)):
                for stray in strays:
                    url = f"{settings.order_service_url}/orders/{stray.order_pk}/settle"
                    shop.ask("POST", url, json={"product_id": stray.product_pk})
                findings, summary = compare(shop, wait)
                yield from _lines(findings, summary)
            if wants_repair and not all(each.order_pk for each in findings):
                yield Line("repair", "failed", NO_REPAIR)
    except ShopUnavailable as error:
        yield Line("audit", "failed", str(error))


def _lines(findings: Sequence[Finding], summary: str) -> Iterator[Line]:
    for finding in findings:
        yield Line("audit", "failed", f"product {finding.product_pk}: {finding.text}")
    if not findings:
        yield Line("audit", "ok", f"{summary}: the stock adds up")


def _agrees(strays: Sequence[Finding]) -> bool:
    units = count(sum(stray.units for stray in strays), "unit")
    states = " or ".join(sorted({stray.state for stray in strays}))
    orders = count(len({stray.order_pk for stray in strays}), f"{states} order")
    note = " Units of SHIPPED orders count as shipped instead." if "SHIPPED" in states else ""
    print(f"Release {units} held for {orders}?{note} [y/N] ", end="", flush=True)
    return sys.stdin.readline().strip().lower() == "y"


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the table, and the audit if wanted; return 0 if all is well, 2 for wrong settings,
    otherwise 1."""
    wait = (
        "If an audit finds differences, it checks again after 40 s (SETTLE_AFTER + 2 * "
        "SETTLE_INTERVAL), as orders may have been in progress."
    )
    parser = argparse.ArgumentParser(description="Check that everything is running.", epilog=wait)
    parser.add_argument("--audit", action="store_true", help="also check that stock matches orders")
    repair = "audit, and release units held for orders that do not exist"
    parser.add_argument("--repair", action="store_true", help=repair)
    parser.add_argument("--yes", action="store_true", help="repair without asking")
    parser.add_argument("--json", action="store_true", help="print one JSON object, not a table")
    options = parser.parse_args(arguments)
    if options.json and options.repair and not options.yes:
        parser.error("--repair asks for confirmation: with --json, add --yes")
    try:
        settings = Settings.load()
    except CannotStart as error:
        print(error, file=sys.stderr)
        return 2

    def shown(lines: Iterable[Line]) -> Iterator[Line]:
        """Yield the lines; unless JSON is wanted, print each as soon as it is known."""
        for line in lines:
            if not options.json:
                say(str(line))
            yield line

    table = {"lines": list(shown(check(settings)))}
    is_good = all(line.is_good for line in table["lines"])
    if options.audit or options.repair:
        audited = audit(settings, options.repair, options.yes)
        if any(line.name in AUDITED and line.state == "failed" for line in table["lines"]):
            audited = iter([Line("audit", "failed", "not done: first fix each line that FAILED")])
        table["audit"] = list(shown(audited))
        is_good = is_good and table["audit"][-1].is_good
    if options.json:
        rows = {place: [line._asdict() for line in lines] for place, lines in table.items()}
        say(json.dumps({"ok": is_good, **rows}, indent=2))
    return 0 if is_good else 1


if __name__ == "__main__":
    for number in (signal.SIGINT, signal.SIGTERM):  # the latter also as nobody reads our output
        signal.signal(number, lambda *_: sys.exit(1))
    sys.exit(main())
