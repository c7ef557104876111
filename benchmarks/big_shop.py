"""Shops of any size, filled without HTTP, with a bar to watch.

`app` is the product service, filled with PRODUCTS products while it starts, and `order_app` the
order service, filled with ORDERS orders: in memory, where nobody else can put them.
"""

import asyncio
import os
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI
from prometheus_client import CollectorRegistry
from pydantic import SecretStr

import order_service
import product_service
from in_memory_db import MemoryRecords
from shopsphere.catalogue.products import Products
from shopsphere.deadline import Deadline
from shopsphere.domain.values import Item, Reservation
from shopsphere.ordering.checkout import Checkout
from shopsphere.ordering.metrics import OrderMetrics
from shopsphere.ordering.product_client import ProductClient
from shopsphere.ordering.settling import Settling
from shopsphere.records import Records
from shopsphere.settings import Settings
from storage import open_storage

HITS = 20
NEEDLE = "zephyr"
"""What stands in the names of HITS products, however many there are."""

AT_ONCE = 64


def bar(total: int, what: str) -> Iterable[range]:
    """Yield the numbers below `total`, some at a time, and show how far that is.

    The bar is tqdm's where it is installed; otherwise a line now and then.
    """
    parts = [range(start, min(start + AT_ONCE, total)) for start in range(0, total, AT_ONCE)]
    try:
        from tqdm import tqdm
    except ImportError:
        return _plain_bar(parts, total, what)
    return tqdm(
        parts,
        desc=what,
        mininterval=1,
        disable=not parts,
        leave=False,
        bar_format="{l_bar}{bar:30} {remaining}",
    )


def _plain_bar(parts: list[range], total: int, what: str) -> Iterable[range]:
    for number, part in enumerate(parts):
        if number % (len(parts) // 10 + 1) == 0:
            print(f"{what}: {part.start / total:.0%}", file=sys.stderr, flush=True)
        yield part


def name_of(number: int, count: int) -> str:
    """Return the name, of 21 characters, of one of `count` products."""
    is_hit = number % max(1, count // HITS) == 0
    return f"Oak {NEEDLE if is_hit else 'walnut'} box {number:06d}"


async def fill_products(records: Records, count: int) -> list[str]:
    """Add so many products; return their pks, in the order of the list."""
    products = Products(records)
    pks: list[str] = []
    for part in bar(count, f"{count:,} products"):
        made = (products.create(name_of(number, count), 99_999, 1_000_000_000) for number in part)
        pks += [product.pk for product, _ in await asyncio.gather(*made)]
    return pks


class _ProductsAtHand(ProductClient):
    """The product service, without HTTP."""

    def __init__(self, records: Records) -> None:
        self._products = Products(records)

    async def reserve(self, order_pk: str, item: Item, within: float) -> Reservation:
        reservation, _ = await self._products.reserve(item.product_pk, order_pk, item.quantity)
        return reservation

    async def release(self, product_pk: str, order_pk: str) -> None: ...

    async def ship(self, product_pk: str, order_pk: str) -> None: ...


async def fill_orders(
    orders: Records, products: Records, product_pks: Sequence[str], count: int
) -> None:
    """Place so many orders, each with its reservation."""
    figures = OrderMetrics(CollectorRegistry())
    at_hand = _ProductsAtHand(products)
    settling = Settling(orders, at_hand, figures, 30)
    checkout = Checkout(orders, at_hand, settling, figures, 60)

    async def place(product_pk: str) -> None:
        deadline = Deadline(asyncio.get_running_loop().time() + 60, 60)
        await checkout.place(None, [Item(product_pk, 1)], None, deadline)

    for part in bar(count, f"{count:,} orders"):
        await asyncio.gather(*(place(product_pks[number % len(product_pks)]) for number in part))


async def fill_redis(
    url: str, prefix: str, products: int, orders: int = 0, pks: Sequence[str] = ()
) -> list[str]:
    """Add products to a shop on Redis, and orders of these and of `pks`; return all their pks."""
    settings = Settings(redis_url=SecretStr(url), redis_prefix=prefix, use_redis="required")
    records = (await open_storage(settings)).records
    try:
        pks = [*pks, *await fill_products(records, products)]
        await fill_orders(records, records, pks, orders)
        return pks
    finally:
        await records.close()


def _filled(app: FastAPI, fill: Callable[[Any], Awaitable[None]]) -> FastAPI:
    """Return the app; its store is filled before it serves."""
    start = app.router.lifespan_context

    @asynccontextmanager
    async def start_and_fill(app: FastAPI) -> AsyncIterator[Any]:
        async with start(app) as state:
            await fill(app.state.service.opened.records)
            yield state

    app.router.lifespan_context = start_and_fill
    return app


async def _fill_products(records: Records) -> None:
    await fill_products(records, int(os.environ["PRODUCTS"]))


async def _fill_orders(records: Records) -> None:
    products = MemoryRecords()  # the orders' own are in another process
    pks = await fill_products(products, 1)
    await fill_orders(records, products, pks, int(os.environ["ORDERS"]))


app = _filled(product_service.build(), _fill_products)
order_app = _filled(order_service.build(), _fill_orders)
