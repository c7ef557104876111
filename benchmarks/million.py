"""A shop with a million orders beside a small one, in memory and on Redis: what each thing costs.

Run `python -m benchmarks.million`. Loading takes some minutes, and 3 GB of memory.
"""

import shopsphere.packages  # noqa: F401  # those of .venv, if need be

# isort: split

import argparse
import asyncio
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import requests

from benchmarks.__main__ import run
from benchmarks.big_shop import fill_redis
from benchmarks.report import as_table
from benchmarks.rows import (
    PAGE,
    SMALL_SHOP,
    Effort,
    Row,
    Sample,
    add_product,
    full_list,
    in_turn,
    place_orders,
    seconds_until_healthy,
)
from benchmarks.servers import CannotMeasure, Server, Stage, require_wrk, stage


@dataclass(frozen=True, slots=True)
class Size:
    products: int
    orders: int


class Shop:
    """The services of a shop that is filled when it is made."""

    def __init__(self, stage: Stage, name: str, size: Size, *, on_redis: bool) -> None:
        self._stage = stage
        self._environment = {"USE_REDIS": "false", "ORDERS": str(size.orders)}
        self._orders_app = "benchmarks.big_shop:order_app"
        self.size = size
        if on_redis:
            self._environment = stage.on_redis(name)
            self._orders_app = "order_service:app"
            url = self._environment["REDIS_URL"]
            asyncio.run(fill_redis(url, name, size.products, size.orders))
        self.products, self.orders = self.start()
        self.products.wait()
        self.orders.wait(shows_log=not on_redis)

    def start(self) -> tuple[Server, Server]:
        """Start both services; they need not serve yet."""
        products = self._stage.server("product_service:app", self._environment)
        environment = {**self._environment, "PRODUCT_SERVICE_URL": products.url}
        return products, self._stage.server(self._orders_app, environment)

    def middle(self) -> str:
        """Return the pk of an order from the middle of the list."""
        before = self.size.orders // 2
        with requests.get(f"{self.orders.url}/orders", stream=True, timeout=60) as answer:
            for part in answer.iter_content(64 * 1024):
                before -= part.count(b'"pk":"')
                if before < 0:
                    return bytes(part).partition(b'"pk":"')[2][:26].decode()
        raise CannotMeasure("the list is shorter than it should be")


class BigAndSmall:
    """The rows of one storage."""

    def __init__(self, size: Size, *, on_redis: bool) -> None:
        self._size = size
        self._on_redis = on_redis
        self._shops: tuple[Shop, Shop] | None = None

    def rows(self) -> list[Row]:
        name = "Redis" if self._on_redis else "memory"

        def row(
            what: str, target: float, unit: str, measure: Callable[..., Iterator[Sample]]
        ) -> Row:
            return Row(f"orders-{name}", f"{what}, {name}", "≤", target, unit, name, measure)

        cost = "cost in a big shop by that in a small one"
        rows = [
            row("All orders: growth of the process", 50, " MB", self.full_list),
            row(f"A page of {PAGE} orders: {cost}", 1.2, "", self.asking(_page)),
            row(f"GET /orders/{{pk}}: {cost}", 1.2, "", self.asking(_one)),
            row(f"POST /order: {cost}", 1.2, "", self.placing),
        ]
        if self._on_redis:
            rows.append(
                row("Two services start: time by that of a small shop", 1.2, "", self.start)
            )
        return rows

    def shops(self, stage: Stage) -> tuple[Shop, Shop]:
        """Return the big shop and the small one, made when they are first asked for."""
        small = Size(SMALL_SHOP, SMALL_SHOP)
        self._shops = self._shops or (
            Shop(stage, "big", self._size, on_redis=self._on_redis),
            Shop(stage, "small", small, on_redis=self._on_redis),
        )
        return self._shops

    def full_list(self, stage: Stage, _: Effort) -> Iterator[Sample]:
        return full_list(self.shops(stage)[0].orders, "/orders")

    def asking(self, path: Callable[[str], str]) -> Callable[[Stage, Effort], Iterator[Sample]]:
        def measure(stage: Stage, effort: Effort) -> Iterator[Sample]:
            paths = {shop.orders: path(shop.middle()) for shop in self.shops(stage)}
            big, small = paths
            yield from in_turn(
                lambda: small.drive(paths[small], effort.seconds),
                lambda: big.drive(paths[big], effort.seconds),
                effort.rounds,
            )

        return measure

    def placing(self, stage: Stage, effort: Effort) -> Iterator[Sample]:
        big, small = self.shops(stage)
        pks = {shop: add_product(shop.products) for shop in (big, small)}
        return in_turn(
            lambda: place_orders(small.orders, pks[small], effort.seconds),
            lambda: place_orders(big.orders, pks[big], effort.seconds),
            effort.rounds,
        )

    def start(self, stage: Stage, effort: Effort) -> Iterator[Sample]:
        big, small = self.shops(stage)
        for _ in range(effort.rounds):
            seconds = [_seconds_to_start(shop) for shop in (big, small)]
            yield Sample(seconds[0] / seconds[1], "{:.2f} s against {:.2f} s".format(*seconds))


def _page(middle: str) -> str:
    return f"/orders?limit={PAGE}&after={middle}"


def _one(middle: str) -> str:
    return f"/orders/{middle}"


def _seconds_to_start(shop: Shop) -> float:
    began = time.monotonic()
    servers = shop.start()
    try:
        return seconds_until_healthy([server.port for server in servers], began)
    finally:
        for server in servers:
            server.stop()


def main(arguments: list[str] | None = None) -> int:
    """Measure both storages, and print the table and what Redis holds."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.million", description=__doc__)
    parser.add_argument("--products", type=int, default=100_000, help="default: 100000")
    parser.add_argument("--orders", type=int, default=1_000_000, help="default: 1000000")
    parser.add_argument("--rounds", type=int, default=5, help="runs of each side (default: 5)")
    parser.add_argument("--seconds", type=int, default=2, help="length of a run (default: 2)")
    options = parser.parse_args(arguments)
    try:
        require_wrk()
    except CannotMeasure as trouble:
        print(trouble, file=sys.stderr)
        return 1
    size = Size(options.products, options.orders)
    effort = Effort(options.rounds, options.seconds, options.products, options.orders)
    results = []
    with tempfile.TemporaryDirectory() as folder:
        for storage in ("memory", "redis"):
            with stage(Path(folder) / storage) as servers:
                rows = BigAndSmall(size, on_redis=storage == "redis").rows()
                results += [run(row, servers, effort) for row in rows]
                if storage == "redis":
                    used = servers.redis().client.info("memory")["used_memory"] / 1e9
                    print(f"\nRedis holds {used:.2f} GB for both shops")
    print("\n" + as_table(results))
    return 0


if __name__ == "__main__":
    sys.exit(main())
