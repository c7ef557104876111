"""Is Redis there, are the services there, do they share one storage, does the stock add up?

A tool, not a test: `python test_connection.py` prints a table and exits with 0 only if all that
should be up is; with `--audit`, only if the stock adds up as well. `--json` prints one JSON object.
"""

import argparse
import asyncio
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path

TIMEOUT_SECONDS = 5
AUDITED = ("product service", "order service")
NO_PK = "0" * 26
ASKS_FOR_A_TOKEN = {
    "product": f"/products/{NO_PK}/stock",
    "user": "/me",
    "order": f"/orders/{NO_PK}",
}
"""What answers 401 to a bad token, and to ours, which is good for little, something else."""
SETTLED = {
    "failed": "was never placed, and holds nothing",
    "released": "holds nothing of this product",
    "under_way": "is still under way, and was left alone",
}


def _use_own_environment() -> None:
    """Go on with the Python of `.venv` where the packages are missing and the launcher made it."""
    folder = (Path(__file__).parent / ".venv").resolve()
    python = folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    if python.exists() and Path(sys.prefix).resolve() != folder:
        sys.exit(subprocess.run([str(python), *sys.argv]).returncode)
    sys.exit(
        "The packages of ShopSphere are not installed. Run: python start_all_services.py, or "
        "pip install -r requirements.txt"
    )


try:
    import redis
    import requests

    from redis_clients import NothingAnswers, connect
    from shopsphere.audit import Audit, AuditImpossible, Finding, Health, Shop
    from shopsphere.domain.errors import CannotStart, StoreUnavailable
    from shopsphere.domain.values import Role
    from shopsphere.security_hints import security_hints
    from shopsphere.sessions import NO_RETRY, session
    from shopsphere.settings import Settings
    from shopsphere.tokens import Tokens
except ImportError:
    if __name__ != "__main__":
        raise
    _use_own_environment()


@dataclass(frozen=True)
class Line:
    """One line of the table. A warning does not make it fail; `problem` says how it failed."""

    name: str
    is_good: bool
    text: str
    is_warning: bool = False
    problem: str = "failed"

    @property
    def state(self) -> str:
        if not self.is_good:
            return self.problem
        return "warning" if self.is_warning else "ok"

    def __str__(self) -> str:
        return f"{self.name:<16} {self.state if self.is_good else 'FAILED':<8} {self.text}"


Show = Callable[[Line], None]


def show(line: Line) -> None:
    """Print a line of the table."""
    print(line, flush=True)


def as_json(lines: Sequence[Line], is_good: bool, was_audited: bool) -> str:
    """Return the whole table as one JSON object, what the audit found apart."""
    told: dict[str, list[dict[str, str]]] = {"lines": [], **({"audit": []} if was_audited else {})}
    for line in lines:
        place = "audit" if line.name in ("audit", "settled") else "lines"
        told[place].append({"name": line.name.strip(), "state": line.state, "text": line.text})
    return json.dumps({"ok": is_good, **told}, indent=2)


def redis_lines(settings: "Settings") -> Iterator[Line]:
    """Yield what there is to say about Redis: where, version, round trip, what it would lose."""
    if settings.use_redis == "false":
        yield Line("Redis", True, "not used (USE_REDIS=false)")
        return
    address = settings.redis_address
    try:
        milliseconds, servers = asyncio.run(_ask_redis(settings))
    except CannotStart as error:
        yield Line("Redis", False, str(error))
        return
    except (NothingAnswers, TimeoutError) as error:
        is_needed = settings.use_redis == "required"
        text = f"nothing answers at {address}. Start Redis, or set REDIS_URL, or REDIS_HOST and "
        text += "REDIS_PORT."
        if isinstance(error, TimeoutError) or isinstance(error.__cause__, redis.TimeoutError):
            text = f"what listens at {address} gives no answer: it is frozen, or overloaded"
        yield Line("Redis", not is_needed, text, is_warning=not is_needed)
        return
    except StoreUnavailable:
        text = f"{address} answers, but does not say how it keeps its data"
        yield Line("Redis", True, text, is_warning=True)
        return
    versions = " and ".join(sorted({str(server["redis_version"]) for server in servers}))
    yield Line("Redis", True, f"{address}, version {versions}, round trip {milliseconds:.1f} ms")
    yield from _durability_lines(servers)


async def _ask_redis(settings: "Settings") -> tuple[float, list[dict[str, object]]]:
    """Return how long a round trip takes, and what each Redis that holds a part says of itself."""
    async with asyncio.timeout(2 * TIMEOUT_SECONDS):
        client = await connect(settings)
        try:
            await client.ping()
            round_trips = []
            for _ in range(5):
                started = time.perf_counter()
                await client.ping()
                round_trips.append(time.perf_counter() - started)
            return min(round_trips) * 1000, await client.info_of_all()
        finally:
            await client.close_all()


def _durability_lines(servers: Sequence[Mapping[str, object]]) -> Iterator[Line]:
    """Yield how Redis keeps its data, and where it would lose orders."""
    if all(server.get("aof_enabled") for server in servers):
        yield Line("  persistence", True, "appendonly is on")
    else:
        text = "appendonly is off: what came after the last snapshot is lost when Redis ends"
        yield Line("  persistence", True, text, is_warning=True)
    policies = {str(server.get("maxmemory_policy", "unknown")) for server in servers}
    policy = ", ".join(sorted(policies))
    if policies == {"noeviction"}:
        yield Line("  eviction", True, f"{policy}: nothing is thrown away")
    elif not any(server.get("maxmemory") for server in servers):
        text = f"{policy}, but no maxmemory is set: nothing is thrown away"
        yield Line("  eviction", True, text)
    else:
        text = f"{policy}: a full Redis throws records away; set maxmemory-policy noeviction"
        yield Line("  eviction", True, text, is_warning=True)
    # Redis names its good replicas only where it needs some to write.
    replicated = [server for server in servers if server.get("connected_slaves")]
    if not replicated:
        return
    if all("min_slaves_good_slaves" in server for server in replicated):
        yield Line("  replication", True, "min-replicas-to-write is set")
    else:
        text = "min-replicas-to-write is 0: a failover can lose acknowledged orders and sell a unit"
        yield Line("  replication", True, f"{text} twice; see docs/redis.md", is_warning=True)


@dataclass(frozen=True)
class Looked:
    """What a look at a service found: its line, its storage, whether its JWT_SECRET is ours."""

    line: Line
    storage: str | None = None
    has_our_secret: bool | None = None


def look_at(name: str, settings: "Settings") -> Looked:
    """Look whether a service is there, is ready, and takes a token made with our JWT_SECRET."""
    line_name = f"{name} service"
    url: str = getattr(settings, f"{name}_service_url")
    tokens = Tokens(settings.jwt_secret.get_secret_value(), 1)
    token = tokens.issue("test_connection", Role.SERVICE)
    with session(NO_RETRY) as http:
        try:
            answer = http.get(f"{url}/", timeout=TIMEOUT_SECONDS)
            health = Health.model_validate_json(answer.content)
            ready = http.get(f"{url}/ready", timeout=settings.order_timeout + TIMEOUT_SECONDS)
            headers = {"Authorization": f"Bearer {token}"}
            asked = http.get(url + ASKS_FOR_A_TOKEN[name], headers=headers, timeout=TIMEOUT_SECONDS)
        except requests.ConnectionError:
            text = f"not running at {url}. Start it: see the README."
            return Looked(Line(line_name, False, text, problem="not running"))
        except requests.Timeout:
            return Looked(Line(line_name, False, f"what listens at {url} gives no answer"))
        except (requests.RequestException, ValueError):
            health = None
    if health is None or health.service != name:
        return Looked(Line(line_name, False, f"what answers at {url} is not the {line_name}"))
    has_our_secret = asked.status_code != requests.codes.unauthorized
    if not ready.ok:
        text = f"{url} runs, but is not ready: its storage is away"
        line = Line(line_name, False, text, problem="not ready")
        return Looked(line, health.storage, has_our_secret)
    text = f"{url} on {health.storage}"
    text += " (no Redis was there when it started)" if health.fallback else ""
    line = Line(line_name, True, text, is_warning=health.fallback)
    return Looked(line, health.storage, has_our_secret)


def check(settings: "Settings") -> Iterator[Line]:
    """Yield the whole table, line by line, as it becomes known."""
    with ThreadPoolExecutor() as threads:
        looking = {name: threads.submit(look_at, name, settings) for name in ASKS_FOR_A_TOKEN}
        has_redis = False
        for line in redis_lines(settings):
            has_redis |= line.is_good and line.text.startswith(settings.redis_address)
            yield line
        found = {name: look.result() for name, look in looking.items()}
    storages = {looked.storage for looked in found.values() if looked.storage}
    right = "redis" if has_redis else "memory"
    for looked in found.values():
        line = looked.line
        if line.is_good and len(storages) > 1 and looked.storage != right:
            text = f"{line.text}: another storage than {right}. Restart it, with the USE_REDIS and "
            text += "the address of Redis that the others have."
            line = replace(line, is_good=False, text=text, problem="other storage")
        yield line
    if len(storages) > 1:
        text = "the services are on different storages"
        if found["product"].storage != found["order"].storage:
            text += ": orders will be refused"
        yield Line("storage", False, text)
    others = [name for name, looked in found.items() if looked.has_our_secret is False]
    have_ours = any(looked.has_our_secret for looked in found.values())
    if others and have_ours:
        text = f"another at the {' and the '.join(others)} service than at the rest: tokens of one "
        yield Line("JWT_SECRET", False, text + "are refused by the other. Restart with the same.")
    elif others:
        text = "the services have another than is set here, so theirs is not looked at"
        yield Line("JWT_SECRET", True, text, is_warning=True)
    for variable, text in security_hints(settings):
        if not (others and variable == "JWT_SECRET"):
            yield Line(variable, True, text, is_warning=True)


def audit(settings: "Settings", wants_repair: bool, is_sure: bool, show: Show = show) -> bool:
    """Show what is off with the stock, have it settled where wanted; return whether all is exact.

    What is under way gets as long between two looks as the services take to settle it.
    """

    def wait() -> None:
        seconds = settings.settle_after + 2 * settings.settle_interval
        text = f"Something is off, or under way: looking again in {seconds:g} s."
        print(text, file=sys.stderr, flush=True)
        time.sleep(seconds)

    try:
        with closing(Shop(settings)) as shop:
            found = _show_findings(Audit(shop, wait), show)
            strays = [each for each in found if each.order_pk]
            if wants_repair and strays and (is_sure or _agrees(len(strays))):
                for stray in strays:
                    outcome = shop.settle(str(stray.order_pk), stray.product_id)
                    became = SETTLED.get(outcome, f"is {outcome}")
                    show(Line("settled", True, f"order {stray.order_pk} {became}"))
                found = _show_findings(Audit(shop, wait), show)
            return not found
    except AuditImpossible as error:
        show(Line("audit", False, str(error)))
        return False


def _show_findings(audit: "Audit", show: Show) -> "list[Finding]":
    found = []
    for finding in audit.findings():
        found.append(finding)
        show(Line("audit", False, f"product {finding.product_id}: {finding.text}"))
    if not found:
        counts = f"{_count(audit.products, 'product')} and {_count(audit.orders, 'order')}"
        show(Line("audit", True, f"{counts}: the stock adds up"))
    return found


def _count(count: int, what: str) -> str:
    return f"{count} {what}" if count == 1 else f"{count} {what}s"


def _agrees(count: int) -> bool:
    try:
        question = f"Have the order service settle {_count(count, 'order')}? [y/N] "
        return input(question).lower() == "y"
    except EOFError:  # nobody is there to ask
        return False


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the table, and the audit where wanted; return 0 if all is as it should be."""
    parser = argparse.ArgumentParser(description="Is all of ShopSphere there?")
    parser.add_argument("--audit", action="store_true", help="see whether the stock adds up")
    parser.add_argument("--repair", action="store_true", help="audit, and have what is off settled")
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
    lines: list[Line] = []
    tell = lines.append if options.json else show
    is_good = can_audit = True
    for line in check(settings):
        tell(line)
        is_good = is_good and line.is_good
        can_audit = can_audit and not (line.name in AUDITED and line.state == "failed")
    wants_audit = options.audit or options.repair
    if wants_audit and can_audit:
        is_good = audit(settings, options.repair, options.yes, tell) and is_good
    elif wants_audit:
        tell(Line("audit", False, "not done: first mend the service that FAILED"))
    if options.json:
        print(as_json(lines, is_good, wants_audit))
    return 0 if is_good else 1


if __name__ == "__main__":
    try:
        sys.exit(main())
    except (BrokenPipeError, KeyboardInterrupt):  # `| head` has seen enough, or Ctrl-C
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
