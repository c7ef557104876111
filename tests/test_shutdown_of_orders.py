"""The order service ends when it is told to, whatever settling is doing at that moment."""

import asyncio

from order_service import build
from shopsphere.settings import Settings
from tests.servers import RedisServer

LIVES = 30


def test_the_order_service_ends_in_the_middle_of_any_settling(redis_server: RedisServer) -> None:
    settings = Settings(
        use_redis="required", redis_port=redis_server.port, settle_interval=0.0001, bcrypt_rounds=4
    )

    async def live_and_end(number: int) -> None:
        app = build(settings)
        async with app.router.lifespan_context(app):
            for _ in range(number):  # so many steps of the loop: another point of settling each
                await asyncio.sleep(0)

    async def live_often() -> None:
        for number in range(LIVES):
            await asyncio.wait_for(live_and_end(number), 10)

    asyncio.run(live_often())
