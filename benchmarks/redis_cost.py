"""What Redis pays: the commands of an order, its busiest keys, and memory of what is kept.

Run `python -m benchmarks.redis_cost [products, orders and refusals]`, with 100,000 of each where it
says nothing; what a million would take is arithmetic.
"""

import shopsphere.packages  # noqa: F401  # those of .venv, if need be

# isort: split

import asyncio
import sys
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import requests
from pydantic import SecretStr

from benchmarks.big_shop import AT_ONCE, bar, fill_orders, fill_products
from benchmarks.rows import add_product, our_pair, place_orders
from benchmarks.servers import CONNECTIONS, Server, Stage, cpu_seconds, stage
from shopsphere.catalogue.products import Products
from shopsphere.domain.errors import ReservationRefused
from shopsphere.domain.pks import new_pk
from shopsphere.domain.records import TEN_MINUTES
from shopsphere.domain.values import Order, OrderStatus
from shopsphere.ordering.notes import Command, PendingCommand
from shopsphere.ordering.orders import Orders
from shopsphere.records import Records
from shopsphere.settings import Settings
from storage import open_storage

PREFIX = "shop"
PLACED = 200
REPEATS = 20_000
"""How often each thing is done that is measured alone."""

REFUSALS_A_SECOND = 1000


@asynccontextmanager
async def shop(servers: Stage) -> AsyncIterator[Records]:
    """Yield the records of the shop on this Redis, without its services."""
    settings = Settings(
        redis_url=SecretStr(servers.on_redis()["REDIS_URL"]),
        redis_prefix=PREFIX,
        use_redis="required",
    )
    records = (await open_storage(settings)).records
    try:
        yield records
    finally:
        await records.close()


async def repeat(count: int, what: str, do: Callable[[], Awaitable[object]]) -> None:
    """Do something so often, AT_ONCE at a time."""
    for part in bar(count, what):
        await asyncio.gather(*(do() for _ in part))


def used_memory(servers: Stage) -> int:
    return int(servers.redis().client.info("memory")["used_memory"])


async def show_memory(servers: Stage, count: int) -> None:
    """Fill a shop, and print what each product, order and refusal takes."""
    redis = servers.redis().client
    async with shop(servers) as records:
        before = used_memory(servers)
        pks = await fill_products(records, count)
        each = (used_memory(servers) - before) / count
        index = sum(
            redis.memory_usage(key, samples=0) or 0
            for key in redis.scan_iter(f"{PREFIX}:names:*", count=1000)
        )
        record = redis.memory_usage(f"{PREFIX}:product:{{{pks[0]}}}") or 0
        print(f"a product takes {each:,.0f} bytes: record {record}, names {index / count:,.0f}")
        print(f"  a million would take {each / 1000:,.2f} GB (arithmetic)")

        before = used_memory(servers)
        await fill_orders(records, records, pks, count)
        each = (used_memory(servers) - before) / count
        [order] = (await Orders(records).page(None, None, 1)).items
        record = redis.memory_usage(f"{PREFIX}:order:{{{order.pk}}}") or 0
        print(f"an order takes {each:,.0f} bytes with its reservation and lists: record {record}")
        print(f"  a million would take {each / 1000:,.2f} GB (arithmetic)")

        sold_out, _ = await Products(records).create("Laptop", 99_999, 0)
        before = used_memory(servers)
        await repeat(count, f"{count:,} refusals", lambda: refuse(records, sold_out.pk))
        each = (used_memory(servers) - before) / count
        kept = REFUSALS_A_SECOND * TEN_MINUTES
        print(f"a refusal takes {each:,.0f} bytes for {TEN_MINUTES / 60:.0f} minutes")
        print(f"  {REFUSALS_A_SECOND:,} a second take {each * kept / 1e6:,.0f} MB (arithmetic)")


async def refuse(records: Records, product_pk: str) -> None:
    """Ask for a unit of a product that is sold out, for an order that is not there."""
    with suppress(ReservationRefused):
        await Products(records).reserve(product_pk, new_pk(), 1)


def show_order(servers: Stage) -> None:
    """Print what an order costs in each process, alone and with others, and its commands."""
    products, orders = our_pair(servers)
    pk = add_product(products)
    redis = servers.redis()
    pids = {
        "order service": orders.process.pid,
        "product service": products.process.pid,
        "Redis": redis.process.pid,
    }

    def show(how: str, place: Callable[[], int]) -> int:
        before = {name: cpu_seconds(pid) for name, pid in pids.items()}
        placed = place()
        for name, pid in pids.items():
            each = (cpu_seconds(pid) - before[name]) / placed * 1000
            print(f"{name}: {each:.2f} ms of CPU per order, {how}")
        return placed

    place_one_by_one(orders, pk)  # scripts are loaded, connections opened
    redis.client.config_resetstat()
    placed = show("one at a time", lambda: place_one_by_one(orders, pk))
    for command, figures in sorted(redis.client.info("commandstats").items()):
        print(f"  {command.removeprefix('cmdstat_')}: {figures['calls'] / placed:.2f} per order")
    show(f"{CONNECTIONS} at a time", lambda: place_orders(orders, pk, 5).requests)


def place_one_by_one(orders: Server, product_pk: str) -> int:
    """Place orders one after the other; return how many."""
    body = {"product_id": product_pk, "quantity": 1}
    with requests.Session() as http:
        for _ in range(PLACED):
            http.post(f"{orders.url}/order", json=body, timeout=10).raise_for_status()
    return PLACED


async def show_hot_keys(servers: Stage) -> None:
    """Print what Redis spends on what orders do with single keys."""
    async with shop(servers) as records:
        products, orders = Products(records), Orders(records)
        hot, _ = await products.create("Laptop", 99_999, 1_000_000_000)

        async def note() -> None:
            pending = PendingCommand.of(Command.PLACE, new_pk(), [hot.pk])
            await records.add_note(pending.text)
            await records.remove_note(pending.text)

        async def enter() -> None:
            await orders.enter(Order(new_pk(), (), OrderStatus.PLACED, None, ""))

        async def reserve() -> None:
            await products.reserve(hot.pk, new_pk(), 1)

        steps = {
            "add and remove a note": note,
            "enter an order in the lists of all": enter,
            "reserve one product": reserve,
        }
        pid = servers.redis().process.pid
        for name, step in steps.items():
            await repeat(AT_ONCE, name, step)  # scripts are loaded
            before = cpu_seconds(pid)
            await repeat(REPEATS, name, step)
            each = (cpu_seconds(pid) - before) / REPEATS
            print(f"{name}: {each * 1e6:.1f} µs of Redis, so {1 / each:,.0f} a second (arithmetic)")


def main(count: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        with stage(Path(folder) / "order") as servers:
            show_order(servers)
        with stage(Path(folder) / "hot") as servers:
            asyncio.run(show_hot_keys(servers))
        with stage(Path(folder) / "memory") as servers:
            asyncio.run(show_memory(servers, count))


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 100_000)
