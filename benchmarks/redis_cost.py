"""What Redis pays: memory of a product and of an order, and the round trips of placing one.

Run `python -m benchmarks.redis_cost [products and orders]`, with 100,000 of each where it says
nothing; what a million would take is arithmetic.
"""

import asyncio
import sys
import tempfile
from pathlib import Path

import requests

from benchmarks.big_shop import fill_redis
from benchmarks.rows import add_product, our_pair
from benchmarks.servers import Stage, cpu_seconds, stage

PREFIX = "shop"
PLACED = 200


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
        for key in redis.scan_iter(f"{PREFIX}:{{product-names}}*", count=1000)
    )
    product = redis.memory_usage(f"{PREFIX}:product:{{{product_pks[0]}}}") or 0
    each = (with_products - before) / count
    print(f"a product takes {each:,.0f} bytes: record {product}, suffix index {index / count:,.0f}")
    print(f"  a million would take {each / 1000:,.2f} GB (arithmetic)")
    asyncio.run(fill_redis(url, PREFIX, 0, count, product_pks))
    each = (used_memory(servers) - with_products) / count
    order_pk = redis.zrange(f"{PREFIX}:orders", 0, 0)[0]
    order = redis.memory_usage(f"{PREFIX}:order:{{{order_pk}}}") or 0
    print(f"an order takes {each:,.0f} bytes with its reservation: record {order}")
    print(f"  a million would take {each / 1000:,.2f} GB (arithmetic)")


def show_order(servers: Stage) -> None:
    """Place orders one after the other, and print what each costs in each process."""
    products, orders = our_pair(servers)
    pk = add_product(products)
    http = requests.Session()

    def place() -> None:
        body = {"product_id": pk, "quantity": 1}
        http.post(f"{orders.url}/order", json=body, timeout=10).raise_for_status()

    place()  # scripts are loaded, connections opened
    redis = servers.redis()
    pids = {
        "order service": orders.process.pid,
        "product service": products.process.pid,
        "Redis": redis.process.pid,
    }
    redis.client.config_resetstat()
    before = {name: cpu_seconds(pid) for name, pid in pids.items()}
    for _ in range(PLACED):
        place()
    for name, pid in pids.items():
        print(f"{name}: {(cpu_seconds(pid) - before[name]) / PLACED * 1000:.2f} ms of CPU an order")
    for command, figures in sorted(redis.client.info("commandstats").items()):
        print(f"  {command.removeprefix('cmdstat_')}: {figures['calls'] / PLACED:.2f} an order")


def main(count: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        with stage(Path(folder) / "order") as servers:
            show_order(servers)
        with stage(Path(folder) / "memory") as servers:
            show_memory(servers, count)


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 100_000)
