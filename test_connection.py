"""Is Redis there, are the services there, do they share one storage, does the stock add up?

A tool, not a test: `python test_connection.py` prints a table and exits with 0 only if all that
should be up is; with `--audit`, only if the stock adds up as well. `--json` prints one JSON object.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path

TIMEOUT_SECONDS = 5
AUDITED = ("product service", "order service")


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

    from shopsphere.audit import Audit, AuditImpossible, Finding, Shop
    from shopsphere.errors import CannotStart
    from shopsphere.exposure import exposures
    from shopsphere.settings import Settings
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
        with redis.Redis.from_url(  # type: ignore[call-overload]  # types-redis: redis-py 4
            settings.redis_full_url,
            socket_timeout=TIMEOUT_SECONDS,
            socket_connect_timeout=1,
            protocol=2,  # RESP3, the default of redis-py 8, is unknown to servers before 6
        ) as client:
            client.ping()
            started = time.perf_counter()
            client.ping()
            milliseconds = (time.perf_counter() - started) * 1000
            facts = client.info()
    except ValueError:
        yield Line("Redis", False, "REDIS_URL, or REDIS_HOST, is no valid address")
        return
    except redis.AuthenticationError as error:
        reason = str(error).rstrip(".")
        yield Line("Redis", False, f"{address} refuses us: {reason}. Check REDIS_PASSWORD.")
        return
    except redis.RedisError as error:
        is_needed = settings.use_redis == "required"
        yield Line(
            "Redis",
            not is_needed,
            f"nothing that serves at {address} ({type(error).__name__}). Start Redis, or set "
            "REDIS_HOST and REDIS_PORT.",
            is_warning=not is_needed,
        )
        return
    version = facts["redis_version"]
    yield Line("Redis", True, f"{address}, version {version}, round trip {milliseconds:.1f} ms")
    yield from _durability_lines(facts)


def _durability_lines(facts: Mapping[str, object]) -> Iterator[Line]:
    """Yield how Redis keeps its data, and where it would lose orders."""
    if facts.get("aof_enabled"):
        yield Line("  persistence", True, "appendonly is on")
    else:
        text = "appendonly is off: what came after the last snapshot is lost when Redis ends"
        yield Line("  persistence", True, text, is_warning=True)
    policy = facts.get("maxmemory_policy", "unknown")
    if policy == "noeviction":
        yield Line("  eviction", True, f"{policy}: nothing is thrown away")
    elif not facts.get("maxmemory"):
        text = f"{policy}, but no maxmemory is set: nothing is thrown away"
        yield Line("  eviction", True, text)
    else:
        text = f"{policy}: a full Redis throws records away; set maxmemory-policy noeviction"
        yield Line("  eviction", True, text, is_warning=True)


def service_line(name: str, url: str) -> tuple[Line, str | None]:
    """Return the line of a service, and the storage it is on if it answers."""
    line_name = f"{name} service"
    with requests.Session() as session:
        session.trust_env = False  # no proxy of the environment stands between
        try:
            health = session.get(f"{url}/", timeout=TIMEOUT_SECONDS).json()
            ready = session.get(f"{url}/ready", timeout=TIMEOUT_SECONDS)
            is_the_one, storage = health["service"] == name, str(health["storage"])
        except requests.ConnectionError:
            text = f"not running at {url}. Start it: see the README."
            return Line(line_name, False, text, problem="not running"), None
        except requests.Timeout:
            text = f"what listens at {url} gave no answer in {TIMEOUT_SECONDS} s"
            return Line(line_name, False, text), None
        except (requests.RequestException, ValueError, KeyError, TypeError):
            is_the_one = False
    if not is_the_one:
        return Line(line_name, False, f"what answers at {url} is not the {line_name}"), None
    if not ready.ok:
        text = f"{url} runs, but is not ready: its storage is away"
        return Line(line_name, False, text, problem="not ready"), storage
    fallback = bool(health.get("fallback"))
    text = f"{url} on {storage}" + (" (no Redis was there when it started)" if fallback else "")
    return Line(line_name, True, text, is_warning=fallback), storage


def check(settings: "Settings") -> Iterator[Line]:
    """Yield the whole table, line by line, as it becomes known."""
    has_redis = False
    for line in redis_lines(settings):
        has_redis = has_redis or (line.is_good and line.text.startswith(settings.redis_address))
        yield line
    found = [
        service_line("product", settings.product_service_url),
        service_line("user", settings.user_service_url),
        service_line("order", settings.order_service_url),
    ]
    storages = {storage for _, storage in found if storage}
    right = "redis" if has_redis else "memory"
    for line, storage in found:
        if line.is_good and len(storages) > 1 and storage != right:
            text = f"{line.text}: another storage than {right}. Restart it."
            line = replace(line, is_good=False, text=text, problem="other storage")
        yield line
    if len(storages) > 1:
        text = "the services are on different storages: orders will be refused"
        yield Line("storage", False, text)
    for variable, text in exposures(settings):
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
            shop.sign_in()
            found = _show_findings(Audit(shop, wait), show)
            strays = [each for each in found if each.order_pk]
            if wants_repair and strays and (is_sure or _agrees(len(strays))):
                for stray in strays:
                    outcome = shop.settle(str(stray.order_pk), stray.product_id)
                    show(Line("settled", True, f"order {stray.order_pk}: {outcome}"))
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
        return input(f"Have the order service settle {_count(count, 'order')}? [y/N] ") in (
            "y",
            "Y",
        )
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
    sys.exit(main())
