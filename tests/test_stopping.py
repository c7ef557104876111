"""When it is stopped, a service finishes what is running, and only then closes its storage."""

import os
import re
import signal
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import requests

from tests.proxy import Connection, Proxy
from tests.servers import RedisServer, wait_until
from tests.shop import Shop


@pytest.mark.skipif(os.name == "nt", reason="sends a signal as POSIX does")
def test_an_order_under_way_is_still_placed(redis_server: RedisServer, tmp_path: Path) -> None:
    was_asked, may_answer = threading.Event(), threading.Event()

    def answer_later(connection: Connection, _: int) -> None:
        answer = connection.forward()
        was_asked.set()
        assert may_answer.wait(30)
        connection.answer(*answer)

    redis_server.client.flushall()
    environment = {"USE_REDIS": "required", "REDIS_PORT": str(redis_server.port)}
    products = Proxy()
    products.behave = answer_later
    shop = Shop(tmp_path, environment, products_seen_at=products.url)
    products.start(shop.product.url)
    try:
        shop.start()
        product = shop.new_product(5)
        with ThreadPoolExecutor(1) as customer:
            placing = customer.submit(shop.place, product, 2)
            assert was_asked.wait(30)
            shop.order.process.send_signal(signal.SIGTERM)
            wait_until(lambda: "Shutting down" in shop.order.log.read_text())
            with pytest.raises(requests.ConnectionError):  # nobody new is let in
                requests.get(f"{shop.order.url}/ready", timeout=5)
            may_answer.set()
            answer = placing.result()
        assert (answer.status, answer.body["status"]) == (201, "PLACED")
        assert shop.order.process.wait(20) in (0, -signal.SIGTERM)
        in_order = r"(?s)Shutting down.*POST /order 201.*application shutdown.*Finished"
        log = shop.order.log.read_text()
        assert re.search(in_order, log)
        assert "Traceback" not in log
        shop.order.start()
        assert shop.order_status(answer.body["pk"]) == "PLACED"
        assert shop.stock(product) == (5, 3, 2, 0)
    finally:
        may_answer.set()
        products.stop()
        shop.stop()
