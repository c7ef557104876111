"""Checks Redis, the services, their storage and secret, and with `--audit` the stock.

A tool, not a test: `python test_connection.py` prints a table and exits with 0 only if everything
is running as it should, and with `--audit`, the stock adds up. `--json` prints one JSON object.
"""

import shopsphere.packages  # noqa: F401  # those of .venv, if need be

# isort: split

import argparse
import asyncio
import json
import signal
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from typing import NamedTuple

import redis
import requests

from shopsphere.domain.errors import StoreUnavailable
from shopsphere.domain.values import Role
from shopsphere.http_sessions import NO_RETRY, reason_of, session
from shopsphere.redis_clients.connecting import connect
from shopsphere.redis_clients.errors import NothingResponds
from shopsphere.settings import CannotStart, Settings
from shopsphere.tokens import Tokens
from shopsphere.tools.audit import Finding, Health, Report, Shop, ShopUnavailable, compare
from shopsphere.tools.processes import say
from shopsphere.tools.security_hints import security_hints

TIMEOUT_SECONDS = 5
PARTS_OF_REDIS = ("persistence", "eviction", "replication")
AUDITED = ("product service", "order service", "storage")
ASKS_FOR_A_TOKEN = {"product": "/products/0/stock", "user": "/me", "order": "/orders/0"}
"""Paths that respond with 401 to an invalid token, and otherwise to a valid one with few rights."""
SETTLED = {
    "failed": "was never placed, and holds nothing",
    "released": "holds nothing of this product",
    "under_way": "is still under way, and was left alone",
}


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


def redis_lines(settings: Settings) -> Iterator[Line]:
    """Yield the lines about Redis: address, version, round trip, and what data it could lose."""
    if settings.use_redis == "false":
        yield Line("Redis", "ok", "not used (USE_REDIS=false)")
        return
    address = settings.redis_address
    try:
        milliseconds, servers = asyncio.run(_ask_redis(settings))
    except CannotStart as error:
        yield Line("Redis", "failed", str(error))
    except (NothingResponds, TimeoutError) as error:
        text = f"nothing responds at {address}. Start Redis, or set REDIS_URL or REDIS_HOST"
        if isinstance(error, TimeoutError) or isinstance(error.__cause__, redis.TimeoutError):
            text = f"what listens at {address} does not respond: it is frozen, or overloaded"
        yield Line("Redis", "failed" if settings.use_redis == "required" else "warning", text)
    except (StoreUnavailable, redis.RedisError):
        yield Line("Redis", "warning", f"{address} does not say how it keeps its data")
    else:
        versions = " and ".join(sorted({str(server["redis_version"]) for server in servers}))
        text = f"{address}, version {versions}, round trip {milliseconds:.1f} ms"
        yield Line("Redis", "ok", text)
        yield from _durability_lines(servers)


async def _ask_redis(settings: Settings) -> tuple[float, list[dict[str, object]]]:
    """Return the milliseconds of a round trip, and the INFO of each Redis that holds data."""
    async with asyncio.timeout(2 * TIMEOUT_SECONDS):
        client = await connect(settings)
        try:
            started = time.perf_counter()
            await client.ping()
            return (time.perf_counter() - started) * 1000, await client.info_of_all()
        finally:
            await client.close_all()


def _durability_lines(servers: Sequence[Mapping[str, object]]) -> Iterator[Line]:
    """Yield how Redis keeps its data, and how it could lose orders."""

    def line(name: str, is_safe: bool, safe: str, danger: str) -> Line:
        return Line(name, *(("ok", safe) if is_safe else ("warning", danger)))

    keeps_all = all(server.get("aof_enabled") for server in servers)
    danger = "appendonly is off: what came after the last snapshot is lost when Redis ends"
    yield line("persistence", keeps_all, "appendonly is on", danger)
    policies = {str(server.get("maxmemory_policy", "unknown")) for server in servers}
    never_evicts = policies == {"noeviction"} or not any(each.get("maxmemory") for each in servers)
    danger = "a full Redis throws records away; set maxmemory-policy noeviction"
    danger = f"{', '.join(sorted(policies))}: {danger}"
    yield line("eviction", never_evicts, "nothing is thrown away", danger)
    # Redis reports its good replicas only if min-replicas-to-write is set.
    if replicated := [server for server in servers if server.get("connected_slaves")]:
        waits = all("min_slaves_good_slaves" in server for server in replicated)
        danger = "min-replicas-to-write is 0: a failover can lose orders; see docs/redis.md"
        yield line("replication", waits, "min-replicas-to-write is set", danger)


class Looked(NamedTuple):
    """The result of checking a service: its line, storage, and whether it has our JWT_SECRET."""

    line: Line
    storage: str | None = None
    has_our_secret: bool | None = None


def look_at(name: str, settings: Settings) -> Looked:
    """Check whether a service is running, ready, and accepts a token signed with our JWT_SECRET."""
    line_name = f"{name} service"
    url: str = getattr(settings, f"{name}_service_url")
    tokens = Tokens(settings.jwt_secrets, 1)
    token = tokens.issue("test_connection", Role.SERVICE)
    with session(NO_RETRY, settings.ca_file) as http:
        try:
            response = http.get(f"{url}/", timeout=TIMEOUT_SECONDS)
            health = Health.model_validate_json(response.content)
            if health.service != name:
                raise ValueError
            ready = http.get(f"{url}/ready", timeout=settings.order_timeout + TIMEOUT_SECONDS)
            if not ready.ok:
                text = f"{url} is running, but its storage is unreachable"
                return Looked(Line(line_name, "not ready", text), health.storage)
            headers = {"Authorization": f"Bearer {token}"}
            asked = http.get(url + ASKS_FOR_A_TOKEN[name], headers=headers, timeout=TIMEOUT_SECONDS)
        except requests.exceptions.SSLError as error:
            return Looked(Line(line_name, "failed", f"{url}: {reason_of(error)}"))
        except requests.ConnectionError:
            text = f"not running at {url}. Start it with: python start_all_services.py"
            return Looked(Line(line_name, "not running", text))
        except (requests.RequestException, ValueError):
            text = f"what listens at {url} does not respond as the {line_name} does"
            return Looked(Line(line_name, "failed", text))
    has_our_secret = asked.status_code != requests.codes.unauthorized
    line = Line(line_name, "ok", f"{url} on {health.storage}")
    if health.fallback:
        line = Line(line_name, "warning", f"{line.text} (Redis was unreachable when it started)")
    return Looked(line, health.storage, has_our_secret)


def check(settings: Settings) -> Iterator[Line]:
    """Yield the lines of the table as they become known."""
    with ThreadPoolExecutor() as threads:
        looking = {name: threads.submit(look_at, name, settings) for name in ASKS_FOR_A_TOKEN}
        yield from redis_lines(settings)
        found = {name: look.result() for name, look in looking.items()}
    yield from (looked.line for looked in found.values())
    storages = {name: looked.storage for name, looked in found.items() if looked.storage}
    if len(set(storages.values())) > 1:
        where = ", ".join(f"{name} on {storage}" for name, storage in storages.items())
        text = f"the services are on different storages: {where}. Restart them with the same "
        yield Line("storage", "failed", text + "USE_REDIS and address of Redis.")
    others = [name for name, looked in found.items() if looked.has_our_secret is False]
    if others and any(looked.has_our_secret for looked in found.values()):
        text = f"differs between the {' and the '.join(others)} service and the rest, so they "
        yield Line("JWT_SECRET", "failed", text + "reject each other's tokens. Restart with one.")
    elif others:
        text = "the services use a different one than the one set here, so it was not checked"
        yield Line("JWT_SECRET", "warning", text)
    for variable, text in security_hints(settings):
        if not (others and variable == "JWT_SECRET"):
            yield Line(variable, "warning", text)


def audit(settings: Settings, wants_repair: bool, is_sure: bool) -> Iterator[Line]:
    """Yield inconsistencies of the stock, and repair them if wanted; the last line tells whether
    any are left.

    The wait between the two looks is long enough for the services to settle pending commands.
    """

    def wait() -> None:
        seconds = settings.settle_after + 2 * settings.settle_interval
        print(f"Something is off, or under way: looking again in {seconds:g} s.", file=sys.stderr)
        time.sleep(seconds)

    try:
        with closing(Shop(settings)) as shop:
            report = compare(shop, wait)
            yield from _lines(report)
            strays = [each for each in report.findings if each.order_pk]
            if wants_repair and strays and (is_sure or _agrees(strays)):
                for stray in strays:
                    url = f"{settings.order_service_url}/orders/{stray.order_pk}/settle"
                    settled, _ = shop.ask("POST", url, json={"product_id": stray.product_pk})
                    became = SETTLED.get(settled["outcome"], f"is {settled['outcome']}")
                    yield Line("settled", "ok", f"order {stray.order_pk} {became}")
                yield from _lines(compare(shop, wait))
    except ShopUnavailable as error:
        yield Line("audit", "failed", str(error))


def _lines(report: Report) -> Iterator[Line]:
    for finding in report.findings:
        yield Line("audit", "failed", f"product {finding.product_pk}: {finding.text}")
    if not report.findings:
        counts = f"{_count(report.products, 'product')} and {_count(report.orders, 'order')}"
        yield Line("audit", "ok", f"{counts}: the stock adds up")


def _count(count: int, what: str) -> str:
    return f"{count} {what}" if count == 1 else f"{count} {what}s"


def _agrees(strays: Sequence[Finding]) -> bool:
    units = _count(sum(stray.units for stray in strays), "unit")
    reservations = _count(len(strays), "reservation")
    question = f"Release {units} held by {reservations} without a PLACED order? [y/N] "
    print(question, end="", flush=True)
    return sys.stdin.readline().strip().lower() == "y"


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the table, and the audit if wanted; return 0 if all is well, 2 for wrong settings,
    otherwise 1."""
    parser = argparse.ArgumentParser(description="Check that everything is running.")
    parser.add_argument("--audit", action="store_true", help="check that the stock adds up")
    parser.add_argument("--repair", action="store_true", help="and release stock held for no order")
    parser.add_argument("--yes", action="store_true", help="do not ask before a repair")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead")
    options = parser.parse_args(arguments)
    if options.json and options.repair and not options.yes:
        parser.error("--repair asks before it does anything: with --json, add --yes")
    try:
        settings = Settings.load()
    except CannotStart as error:
        print(error, file=sys.stderr)
        return 2

    def told(lines: Iterable[Line]) -> Iterator[Line]:
        """Yield the lines; unless JSON is wanted, print each as soon as it is known."""
        for line in lines:
            if not options.json:
                say(str(line))
            yield line

    table = {"lines": list(told(check(settings)))}
    is_good = all(line.is_good for line in table["lines"])
    if options.audit or options.repair:
        audited = audit(settings, options.repair, options.yes)
        if any(line.name in AUDITED and line.state == "failed" for line in table["lines"]):
            audited = iter([Line("audit", "failed", "not done: first fix what FAILED above")])
        table["audit"] = list(told(audited))
        is_good = is_good and table["audit"][-1].is_good
    if options.json:
        rows = {place: [line._asdict() for line in lines] for place, lines in table.items()}
        say(json.dumps({"ok": is_good, **rows}, indent=2))
    return 0 if is_good else 1


if __name__ == "__main__":
    for number in (signal.SIGINT, signal.SIGTERM):  # the latter also as nobody reads our output
        signal.signal(number, lambda *_: sys.exit(1))
    sys.exit(main())
