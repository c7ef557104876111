"""Customers who want what they were told to be true, whatever happens to the shop meanwhile."""

import itertools
import time
from concurrent.futures import ThreadPoolExecutor
from threading import Event
from typing import Self

from tests.load import Answer, close_connections
from tests.servers import wait_until
from tests.shop import Shop


class Customers:
    """Some customers who order baskets of some products with keys, and sometimes cancel or ship.

    They send an order twice where nobody says what became of it; patient ones until they are told.
    """

    def __init__(self, shop: Shop, *products: str, are_patient: bool = False) -> None:
        """The first product is in every basket."""
        self._shop = shop
        self._products = products
        self._are_patient = are_patient
        self._has_closed = Event()
        self.answers: list[Answer] = []
        self.placed: dict[str, str] = {}
        self._ended: dict[str, str] = {}

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
            self.order(f"{self._products[0]} {number} {turn}", turn)
        close_connections()

    def order(self, key: str, turn: int) -> None:
        """Order, again if it is not known what became of it, and cancel or ship some."""
        wanted = self._products[: 1 + turn % len(self._products)]
        basket = {product: 1 + (turn + number) % 3 for number, product in enumerate(wanted)}
        for attempt in itertools.count(1) if self._are_patient else (1, 2):
            answer = self._shop.place_basket(basket, key, turn + attempt)
            self.answers.append(answer)
            if answer.status not in (0, 503) and answer.code != "request_in_progress":
                break
            time.sleep(0.05)
        if answer.status == 201:
            pk = self.placed[key] = str(answer.body["pk"])
            if end := {1: self._shop.cancel, 2: self._shop.ship}.get(turn % 4):
                ended = end(pk, turn)
                self.answers.append(ended)
                if ended.status == 200:
                    self._ended[pk] = ended.body["status"]

    def assert_served(self) -> None:
        """No 500 was seen, each 201 is an order, of which no key has two, and what was cancelled or
        shipped is so."""
        assert {answer.status for answer in self.answers} <= {0, 200, 201, 400, 409, 503}
        assert not [answer for answer in self.answers if isinstance(answer.body, str)]
        for answer in self.answers:
            assert answer.status != 503 or "retry-after" in answer.headers
        placed = set(self.placed.values())
        assert len(placed) == len(self.placed)
        assert placed <= set(self._shop.orders_of(self._products[0]))
        assert {pk: self._shop.order_status(pk) for pk in self._ended} == self._ended
