"""What Redis pays: the commands of an order, its busiest keys, and memory of products and orders.

Run `python -m benchmarks.redis_cost [products and orders]`, with 100,000 of each where it says
nothing; what a million would take is arithmetic.
"""

import asyncio
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import requests

from benchmarks.big_shop import fill_redis
from benchmarks.rows import add_product, our_pair, place_orders
from benchmarks.servers import CONNECTIONS, Server, Stage, cpu_seconds, stage
from redis_db import SCRIPTS

PREFIX = "shop"
PLACED = 200
ANY = "__rand_int__"
"""redis-benchmark puts another number in its place each time."""


def used_memory(servers: Stage) -> int:
    return int(servers.redis().client.info("memory")["used_memory"])


def show_memory(servers: Stage, count: int) -> None:
    """Fill a shop, and print what each product and each order takes, key by key."""
    redis = servers.redis().client
    before = used_memory(servers)
    url = servers.on_redis()["REDIS_URL"]
    product_pks = asyncio.run(fill_redis(url, PREFIX, count))
    with_products = used_memory(servers)
    index = sum(
        redis.memory_usage(key, samples=0) or 0
        for key in redis.scan_iter(f"{PREFIX}:names:*", count=1000)
    )
    product = redis.memory_usage(f"{PREFIX}:product:{{{product_pks[0]}}}") or 0
    each = (with_products - before) / count
    print(f"a product takes {each:,.0f} bytes: record {product}, suffix index {index / count:,.0f}")
    print(f"  a million would take {each / 1000:,.2f} GB (arithmetic)")
    asyncio.run(fill_redis(url, PREFIX, 0, count, product_pks))
    each = (used_memory(servers) - with_products) / count
    order_pk = redis.zrange(f"{PREFIX}:list:{{orders}}:all", 0, 0)[0]
    order = redis.memory_usage(f"{PREFIX}:order:{{{order_pk}}}") or 0
    print(f"an order takes {each:,.0f} bytes with its reservation: record {order}")
    print(f"  a million would take {each / 1000:,.2f} GB (arithmetic)")


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
            print(f"{name}: {each:.2f} ms of CPU an order, {how}")
        return placed

    place_one_by_one(orders, pk)  # scripts are loaded, connections opened
    redis.client.config_resetstat()
    placed = show("one at a time", lambda: place_one_by_one(orders, pk))
    for command, figures in sorted(redis.client.info("commandstats").items()):
        print(f"  {command.removeprefix('cmdstat_')}: {figures['calls'] / placed:.2f} an order")
    show(f"{CONNECTIONS} at a time", lambda: place_orders(orders, pk, 5).requests)


def place_one_by_one(orders: Server, product_pk: str) -> int:
    """Place orders one after the other; return how many."""
    body = {"product_id": product_pk, "quantity": 1}
    with requests.Session() as http:
        for _ in range(PLACED):
            http.post(f"{orders.url}/order", json=body, timeout=10).raise_for_status()
    return PLACED


def show_hot_keys(servers: Stage) -> None:
    """Print how often a second one Redis can do what orders do with a single key."""
    redis = servers.redis()
    [pk] = asyncio.run(fill_redis(servers.on_redis()["REDIS_URL"], PREFIX, 1))
    product = f"{PREFIX}:product:{{{pk}}}"
    reservation = f"{PREFIX}:reservation:{{{pk}}}:{ANY}"
    live = f"{PREFIX}:reservations:{{{pk}}}"
    reserve, mark = (
        str(redis.client.script_load((SCRIPTS / f"{name}.lua").read_text()))
        for name in ("reserve", "mark_order")
    )
    commands = {
        "reserve one product": [
            "EVALSHA",
            reserve,
            "3",
            product,
            reservation,
            live,
            ANY,
            "1",
            "60",
        ],
        "mark": ["EVALSHA", mark, "1", f"{PREFIX}:orders-placing", f"{ANY} {pk}"],
        "unmark": ["ZREM", f"{PREFIX}:orders-placing", f"{ANY} {pk}"],
        "list": ["ZADD", f"{PREFIX}:orders", "0", ANY],
    }
    for name, command in commands.items():
        print(f"{name}: {times_a_second(redis.port, command):,.0f} a second")


def times_a_second(port: int, command: list[str]) -> float:
    """Return how often Redis does this command for 50 clients of redis-benchmark."""
    options = ["-p", str(port), "-n", "200000", "-c", "50", "-r", "1000000000", "--csv"]
    answer = subprocess.run(
        ["redis-benchmark", *options, *command], capture_output=True, text=True, check=True
    )
    return float(answer.stdout.splitlines()[-1].split('","')[1].rstrip('"'))


def main(count: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        with stage(Path(folder) / "order") as servers:
            show_order(servers)
        if shutil.which("redis-benchmark"):
            with stage(Path(folder) / "hot") as servers:
                show_hot_keys(servers)
        else:
            print("The busiest keys need redis-benchmark, of Debian's redis-tools: left out.")
        with stage(Path(folder) / "memory") as servers:
            show_memory(servers, count)


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 100_000)
