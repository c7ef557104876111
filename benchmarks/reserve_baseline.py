"""The product service with version 0.1.0's reservation: one Lua script for each."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from fastapi import FastAPI

import product_service
from shopsphere.catalogue.products import Products
from shopsphere.domain.values import Reservation
from shopsphere.redis_clients.connecting import connect
from shopsphere.settings import Settings

SCRIPT = Path(__file__).with_name("reserve.lua").read_text(encoding="utf-8")
REFUSED_SECONDS = 15 * 60


class ScriptedProducts(Products):
    """Reserves by the script, on keys of which the hashes have today's fields."""

    @classmethod
    async def connect(cls, settings: Settings, products: Products) -> "ScriptedProducts":
        made = cls(products._records)
        made.script = (await connect(settings)).register_script(SCRIPT)
        made.prefix = settings.redis_prefix
        return made

    script: Any
    prefix: str

    async def reserve(
        self, pk: str, order_pk: str, quantity: int, unit_price_cents: int | None = None
    ) -> tuple[Reservation, bool]:
        keys = [
            f"{self.prefix}:product:{{{pk}}}",
            f"{self.prefix}:reservation:{{{pk}}}:{order_pk}",
            f"{self.prefix}:live:{{{pk}}}",
        ]
        answer = await self.script(keys=keys, args=[order_pk, quantity, REFUSED_SECONDS])
        outcome, price_cents, name = answer
        return Reservation(pk, order_pk, quantity, int(price_cents), name), outcome == "taken"


def build() -> FastAPI:
    """Return the product service with the script instead of today's steps."""
    app = product_service.build()
    start = app.router.lifespan_context

    @asynccontextmanager
    async def start_scripted(app: FastAPI) -> AsyncIterator[Any]:
        async with start(app) as state:
            app.state.service.own = await ScriptedProducts.connect(
                app.state.service.settings, app.state.service.own
            )
            yield state

    app.router.lifespan_context = start_scripted
    return app


app = build()
