"""Faults: processes that die or stand still, a Redis that cannot serve, replies that get lost.

Whatever happens: no answer is late, no 500, every 201 is an order, and the books are exact once
there was time to settle.
"""

import asyncio
import re
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from threading import Event

import pytest

from redis_db import RedisRecords
from shopsphere.domain.records import OrderRecord
from shopsphere.redis_clients.connecting import connect
from shopsphere.settings import Settings
from tests.customers import Customers
from tests.load import Answer, at_once
from tests.proxy import Connection, Proxy, well
from tests.servers import MovableRedis, RedisServer, wait_until
from tests.shop import Shop

ORDER_TIMEOUT = 2.0
SETTLED = 2.5 + 2 * 0.5 + 5
"""Seconds in which everything is settled once all is up again."""
SETTINGS = {
    "LOG_LEVEL": "INFO",
    "PRODUCT_SERVICE_TIMEOUT": "0.4",
    "ORDER_TIMEOUT": str(ORDER_TIMEOUT),
    "SETTLE_AFTER": "2.5",
    "SETTLE_INTERVAL": "0.5",
}


class FaultyShop(Shop):
    """A shop with a Redis of its own and a proxy before its product service."""

    def __init__(self, folder: Path, server: type[RedisServer]) -> None:
        self.redis = server(folder, "--appendonly", "yes", "--appendfsync", "always")
        self.proxy = Proxy()
        environment = {"USE_REDIS": "required", "REDIS_PORT": str(self.redis.port), **SETTINGS}
        super().__init__(folder, environment, products_seen_at=self.proxy.url)
        self.proxy.start(self.product.url)

    def order_log(self) -> str:
        return self.order.log.read_text()

    def is_settled(self) -> bool:
        return not self.redis.client.exists("shopsphere:notes:{notes}")

    def wait_until_settled(self) -> None:
        wait_until(self.is_settled, SETTLED, "all is settled")

    def stop(self) -> None:
        super().stop()
        self.proxy.stop()
        self.redis.client.close()
        self.redis.stop()


@pytest.fixture(scope="module", params=[RedisServer])
def faulty_shop(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[FaultyShop]:
    with FaultyShop(tmp_path_factory.mktemp("shop"), request.param) as shop:
        shop.start()
        yield shop


@pytest.fixture
def shop(faulty_shop: FaultyShop) -> FaultyShop:
    """The shop with all its services up, exact, and nothing in its way."""
    faulty_shop.proxy.behave = well
    faulty_shop.heal()
    faulty_shop.wait_until_settled()
    faulty_shop.wait_until_exact(1)
    return faulty_shop


@pytest.mark.parametrize("victim", ["order", "product", "redis"])
def test_after_a_kill_every_201_is_an_order(shop: FaultyShop, victim: str) -> None:
    server = getattr(shop, victim)
    products = [shop.new_product(10_000) for _ in range(3)]
    with Customers(shop, *products) as customers:
        customers.wait_for(1)
        server.stop(signal.SIGKILL)
        server.start()
        customers.wait_for(20)
    shop.wait_until_exact(SETTLED)
    customers.assert_served()


@pytest.mark.parametrize("faulty_shop", [MovableRedis], indirect=True)
def test_after_a_crash_and_a_clock_that_goes_back_nothing_waits_for_the_hour(
    shop: FaultyShop,
) -> None:
    doomed, slow, other = (shop.new_product(units) for units in (10, 10_000, 10_000))
    is_over = Event()

    def dies(connection: Connection, _: int) -> None:
        connection.forward()
        shop.order.stop(signal.SIGKILL)

    def outlasts_a_round(connection: Connection, attempt: int) -> None:
        if slow in connection.path and attempt == 1:
            is_over.wait(10)
        well(connection, attempt)

    shop.proxy.behave = dies
    assert shop.place(doomed, 3, doomed).status == 0
    assert shop.stock(doomed) == (10, 7, 3, 0)
    shop.proxy.behave = outlasts_a_round
    assert isinstance(shop.redis, MovableRedis)
    shop.redis.move_clock(-3600)
    shop.order.start()
    with Customers(shop, other) as customers:
        wait_until(lambda: shop.stock(doomed) == (10, 10, 0, 0), SETTLED, "it is given back")
        assert shop.place(doomed, 3, doomed).status == 201
        customers.wait_for(20)
        wait_until(lambda: shop.place(slow).status == 201, SETTLED, "it is not disturbed")
    is_over.set()
    shop.wait_until_exact(SETTLED)
    customers.assert_served()
    assert "order_given_up" not in {answer.code for answer in customers.answers}


def test_while_the_product_service_stands_still_every_answer_comes_in_time(
    shop: FaultyShop,
) -> None:
    product = shop.new_product(100)
    cancelled, shipped = shop.placed(product, 3), shop.placed(product, 4)

    calls: list[Callable[[], Answer]] = [
        lambda: shop.cancel(cancelled),
        lambda: shop.ship(shipped),
        *[lambda: shop.place(product)] * 40,
    ]
    before = len(shop.order_log())
    shop.product.process.send_signal(signal.SIGSTOP)
    answers = at_once(len(calls), lambda call: call(), calls)
    shop.product.process.send_signal(signal.SIGCONT)
    assert [answer.status for answer in answers[:2]] == [200, 200]
    assert {answer.status for answer in answers[2:]} == {503}

    def took() -> list[str]:
        return re.findall(r"POST /order\S* \d+ in ([\d.]+) ms", shop.order_log()[before:])

    # A line comes just after its answer. Those from before may be among them.
    wait_until(lambda: len(took()) >= len(calls), why="each order has its line")
    assert max(map(float, took())) <= (ORDER_TIMEOUT + 0.5) * 1000
    shop.wait_until_exact(SETTLED)
    assert shop.stock(product) == (100, 96, 0, 4)


LONG = 6
"""Attempts until a customer gives up: two requests, each tried three times."""


def misbehaves(connection: Connection, attempt: int) -> None:
    """Each order meets one kind of trouble, and some meet none."""
    kind, is_long = connection.order % 7, attempt <= LONG
    is_late = connection.command == "PUT" and {1: attempt == 1, 2: is_long}.get(kind, False)
    if is_late:  # it lands when its retry was answered, or when the order was given up
        connection.keep_for_later()
        connection.drop()
    elif kind == 3 and attempt <= 2:
        connection.answer((502, 503, 504)[(attempt + connection.order) % 3])
    else:
        status, content = connection.forward()
        if (kind == 4 and attempt == 1) or (kind == 5 and is_long):
            connection.drop()
        elif kind == 6 and is_long:
            connection.answer((502, 503, 504, 500)[attempt % 4])  # although it was done
        else:
            connection.answer(status, content)


def test_whatever_the_network_does_to_messages_the_books_are_exact(shop: FaultyShop) -> None:
    product, *others = products = [shop.new_product(8) for _ in range(3)]
    shop.proxy.behave = misbehaves
    customers = Customers(shop, product, *others)
    at_once(8, lambda turn: customers.order(f"{product} {turn}", turn), range(28))
    shop.wait_until_settled()
    for each in products:  # now there would be enough for all
        assert shop.change_stock(each, 100).status == 200
    shop.proxy.bring_what_is_late()
    shop.wait_until_exact(1)
    customers.assert_served()
    assert {answer.status for answer in customers.answers} >= {201, 400, 503}


@pytest.mark.anyio
async def test_what_is_cancelled_while_it_asks_redis_ends_at_once(
    redis_server: RedisServer,
) -> None:
    """Settling at its end, a request at its deadline: a cancellation must not get lost."""
    records = RedisRecords(await connect(Settings(redis_port=redis_server.port)), "cancelled")

    async def ask_for_ever() -> None:
        while True:
            await records.read(OrderRecord(pk="1"), OrderRecord(pk="2"))  # a pipeline
            await records.notes(0, 1)  # a script

    try:
        for moment in range(120):
            asking = asyncio.create_task(ask_for_ever())
            for _ in range(moment):
                await asyncio.sleep(0)
            asking.cancel()
            _, still_asking = await asyncio.wait([asking], timeout=1)
            asking.cancel()
            assert not still_asking, moment
    finally:
        await records.close()
