"""Customers who want what they were told to be true, whatever happens to the shop meanwhile."""

from concurrent.futures import ThreadPoolExecutor
from threading import Event
from typing import Self

from tests.load import Answer, close_connections
from tests.servers import wait_until
from tests.shop import Shop


class Customers:
    """Some customers who order with keys, and sometimes cancel or ship, until they are told."""

    def __init__(self, shop: Shop, product: str) -> None:
        self._shop = shop
        self._product = product
        self._has_closed = Event()
        self.answers: list[Answer] = []
        self.placed: dict[str, str] = {}

    def __enter__(self) -> Self:
        self._pool = ThreadPoolExecutor(4)
        self._shopping = [self._pool.submit(self._shop_around, number) for number in range(4)]
        return self

    def __exit__(self, *_: object) -> None:
        self._has_closed.set()
        for shopping in self._shopping:
            shopping.result()
        self._pool.shutdown()

    def wait_for(self, more: int) -> None:
        """Return when so many more orders were placed."""
        enough = len(self.placed) + more
        wait_until(lambda: len(self.placed) >= enough, 30, f"{more} more orders are placed")

    def _shop_around(self, number: int) -> None:
        turn = 0
        while not self._has_closed.is_set():
            turn += 1
            self.order(f"{self._product} {number} {turn}", turn)
        close_connections()

    def order(self, key: str, turn: int) -> None:
        """Order, once more if it is not known what became of it, and cancel or ship some."""
        for _ in range(2):
            answer = self._shop.place(self._product, 1 + turn % 3, key)
            self.answers.append(answer)
            if answer.status == 201:
                pk = str(answer.body["pk"])
                assert self.placed.setdefault(key, pk) == pk, "one key made two orders"
                if end := {1: self._shop.cancel, 2: self._shop.ship}.get(turn % 4):
                    self.answers.append(end(pk))
            if answer.status not in (0, 503):
                break

    def assert_served(self) -> None:
        """No 500 was seen, and each 201 is an order, of which no key has two."""
        assert {answer.status for answer in self.answers} <= {0, 200, 201, 400, 409, 503}
        assert not [answer for answer in self.answers if isinstance(answer.body, str)]
        for answer in self.answers:
            assert answer.status != 503 or "retry-after" in answer.headers
        orders = self._shop.orders_of(self._product)
        assert set(self.placed.values()) <= set(orders)
        assert len(set(self.placed.values())) == len(self.placed)
