"""Shops of any size, filled through the stores' own methods, with a bar to watch.

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
from pydantic import SecretStr
from redis_stores.orders import RedisOrderStore
from redis_stores.products import RedisProductStore
from shopsphere.stores import OrderStore, ProductStore

import order_service
import product_service
from in_memory_db import MemoryProductStore
from redis_clients import connect
from shopsphere.domain.pks import new_pk
from shopsphere.domain.values import Order, OrderStatus, Product
from shopsphere.models import Command, Mark
from shopsphere.settings import Settings

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


def product(number: int, count: int) -> Product:
    """Return one of `count` products; its name has 21 characters."""
    is_hit = number % max(1, count // HITS) == 0
    name = f"Oak {NEEDLE if is_hit else 'walnut'} box {number:06d}"
    return Product(new_pk(), name, 99_999, 1_000_000_000)


async def fill_products(store: ProductStore, count: int) -> list[str]:
    """Add so many products; return their pks, in the order of the list."""
    products = [product(number, count) for number in range(count)]
    for part in bar(count, f"{count:,} products"):
        await asyncio.gather(*(store.add(products[number]) for number in part))
    return [product.pk for product in products]


async def fill_orders(
    orders: OrderStore, products: ProductStore, product_pks: list[str], count: int
) -> None:
    """Place so many orders, each with its reservation, by the steps of a checkout."""

    async def place(product_pk: str) -> None:
        pk = new_pk()
        mark = Mark(Command.PLACING, pk, product_pk)
        await orders.mark(mark)
        await orders.create(Order(pk, product_pk, "", 1, 0, OrderStatus.PENDING, None), 60)
        reservation, _ = await products.reserve(product_pk, pk, 1)
        placed = await orders.place(pk, reservation)
        assert placed
        await orders.list_order(placed)
        await orders.unmark(mark)

    for part in bar(count, f"{count:,} orders"):
        await asyncio.gather(*(place(product_pks[number % len(product_pks)]) for number in part))


async def fill_redis(
    url: str, prefix: str, products: int, orders: int = 0, pks: Sequence[str] = ()
) -> list[str]:
    """Add products to a shop on Redis, and orders of these and of `pks`; return all their pks."""
    settings = Settings(redis_url=SecretStr(url))
    product_store = RedisProductStore(await connect(settings), prefix)
    order_store = RedisOrderStore(await connect(settings), prefix)
    try:
        pks = [*pks, *await fill_products(product_store, products)]
        await fill_orders(order_store, product_store, pks, orders)
        return pks
    finally:
        await product_store.close()
        await order_store.close()


def _filled(app: FastAPI, fill: Callable[[Any], Awaitable[None]]) -> FastAPI:
    """Return the app; its store is filled before it serves."""
    start = app.router.lifespan_context

    @asynccontextmanager
    async def start_and_fill(app: FastAPI) -> AsyncIterator[Any]:
        async with start(app) as state:
            await fill(app.state.opened.store)
            yield state

    app.router.lifespan_context = start_and_fill
    return app


async def _fill_products(store: ProductStore) -> None:
    await fill_products(store, int(os.environ["PRODUCTS"]))


async def _fill_orders(store: OrderStore) -> None:
    products = MemoryProductStore()  # the orders' own are in another process
    pks = await fill_products(products, 1)
    await fill_orders(store, products, pks, int(os.environ["ORDERS"]))


app = _filled(product_service.build(), _fill_products)
order_app = _filled(order_service.build(), _fill_orders)
