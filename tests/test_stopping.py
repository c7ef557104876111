"""Told to end, a service lets what is running finish, and only then closes its store."""

import os
import re
import signal
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import requests

from tests.proxy import Connection, Proxy
from tests.servers import RedisServer, wait_until
from tests.shop import Shop

pytestmark = pytest.mark.skipif(os.name == "nt", reason="sends a signal as POSIX does")


class SlowProducts(Proxy):
    """A product service that answers when the test says so."""

    def __init__(self) -> None:
        super().__init__()
        self.was_asked, self.may_answer = threading.Event(), threading.Event()
        self.behave = self._answer_later

    def _answer_later(self, connection: Connection, attempt: int) -> None:
        answer = connection.forward()
        self.was_asked.set()
        assert self.may_answer.wait(30)
        connection.answer(*answer)


@pytest.fixture
def slow_products() -> Iterator[SlowProducts]:
    proxy = SlowProducts()
    yield proxy
    proxy.may_answer.set()
    proxy.stop()


def test_an_order_that_is_under_way_is_placed_before_the_service_ends(
    slow_products: SlowProducts, redis_server: RedisServer, tmp_path: Path
) -> None:
    redis_server.client.flushall()
    environment = {"USE_REDIS": "required", "REDIS_PORT": str(redis_server.port)}
    shop = Shop(tmp_path, environment, products_seen_at=slow_products.url)
    slow_products.start(shop.product.url)
    try:
        shop.start()
        product = shop.new_product(5)
        with ThreadPoolExecutor(1) as customer:
            placing = customer.submit(shop.place, product, 2)
            assert slow_products.was_asked.wait(30)
            shop.order.process.send_signal(signal.SIGTERM)
            wait_until(lambda: "Shutting down" in shop.order.log.read_text())
            assert shop.order.process.poll() is None
            with pytest.raises(requests.ConnectionError):  # nobody new is let in
                requests.get(f"{shop.order.url}/ready", timeout=5)
            slow_products.may_answer.set()
            answer = placing.result()
        assert (answer.status, answer.body["status"]) == (201, "PLACED")
        assert shop.order.process.wait(20) in (0, -signal.SIGTERM)
        log = shop.order.log.read_text()
        assert re.search(
            r"Shutting down.*POST /order 201.*application shutdown.*Finished", log, re.DOTALL
        )
        assert "Traceback" not in log
        shop.order.start()
        assert shop.order_status(answer.body["pk"]) == "PLACED"
        assert shop.stock(product) == (5, 3, 2, 0)
    finally:
        shop.stop()
