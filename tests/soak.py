"""Minutes of random faults under a mixed load, then the reckoning.

`python -m tests.soak --minutes 10`; not a test that pytest collects. Two order services, a product
service and a Redis (appendonly always) are killed, stopped and restarted at random, Redis forgets
its scripts and its clock goes back, while customers order, cancel and ship and the shop changes its
stock, all with keys, each sent again until its outcome is known. At the end every 201 has to be an
order, no key may have made two, no change of stock may count twice, and the audit has to find
nothing. The exit status is 0 only then.
"""

import argparse
import random
import signal
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import redis

from tests.load import Answer, close_connections
from tests.servers import MovableRedis, Service
from tests.shop import Shop

SETTINGS = {
    "LOG_LEVEL": "WARNING",
    "PRODUCT_SERVICE_TIMEOUT": "0.4",
    "ORDER_TIMEOUT": "2",
    "SETTLE_AFTER": "2.5",
    "SETTLE_INTERVAL": "0.5",
}
SETTLED_SECONDS = 2.5 + 2 * 0.5 + 5
KNOWN = frozenset({0, 200, 201, 400, 409, 503})
BUYERS = 4
PRODUCTS = 5
UNITS = 15


class Load:
    """What is asked of the shop, and what it has answered."""

    def __init__(self, shop: Shop, seed: int) -> None:
        self._shop = shop
        self._seed = seed
        self._products = [shop.new_product(UNITS) for _ in range(PRODUCTS)]
        self._lock = threading.Lock()
        self.is_over = threading.Event()
        self.answers: Counter[str] = Counter()
        self.placed: dict[str, str] = {}
        self.ended: dict[str, str] = {}
        self.received = dict.fromkeys(self._products, UNITS)
        self.complaints: list[str] = []

    def run(self, number: int) -> None:
        """Buy, cancel, ship and restock until it is over; end with nothing unknown."""
        choose = random.Random(self._seed + number)
        turn = 0
        while not self.is_over.is_set():
            turn += 1
            key = f"{number} {turn}"
            product = choose.choice(self._products)
            if choose.random() < 0.2:
                self._restock(product, choose.randint(-4, 6), key)
            else:
                self._buy(product, choose, key)
            self.is_over.wait(choose.random() / 20)
        close_connections()

    def _buy(self, product: str, choose: random.Random, key: str) -> None:
        quantity = choose.randint(1, 3)
        answer = self._until_known(
            "order", lambda: self._shop.place(product, quantity, key, choose.randrange(2))
        )
        if answer.status == 201:
            pk = str(answer.body["pk"])
            again = self._until_known("again", lambda: self._shop.place(product, quantity, key))
            with self._lock:
                self.placed[key] = pk
                if again.status != 201 or again.body["pk"] != pk:
                    self.complaints.append(f"key {key} made order {pk}, then {again}")
            end = choose.choice([None, self._shop.cancel, self._shop.ship, self._shop.cancel])
            if end:
                ended = self._until_known("end", lambda: end(pk, choose.randrange(2)))
                if ended.status == 200:
                    with self._lock:
                        self.ended[pk] = str(ended.body["status"])

    def _restock(self, product: str, change: int, key: str) -> None:
        answer = self._until_known("stock", lambda: self._shop.change_stock(product, change, key))
        if answer.status == 200:
            with self._lock:
                self.received[product] += change

    def _until_known(self, what: str, call: Callable[[], Answer]) -> Answer:
        """Send it until the answer is neither missing nor 'not now'."""
        while True:
            answer = call()
            with self._lock:
                self.answers[f"{what} {answer.status or 'no answer'}"] += 1
                if answer.status not in KNOWN or isinstance(answer.body, str):
                    self.complaints.append(f"{what} was answered {answer}")
            if answer.status not in (0, 503) and answer.code != "request_in_progress":
                return answer
            time.sleep(0.1)

    def reckon(self) -> list[str]:
        """Return what is wrong at the end."""
        wrong = list(self.complaints)
        orders = {pk for product in self._products for pk in self._shop.orders_of(product)}
        known = set(self.placed.values())
        wrong += [f"order {pk} was answered 201 and is lost" for pk in known - orders]
        wrong += [f"order {pk} is of no key: it was made twice" for pk in orders - known]
        wrong += [
            f"order {pk} was {status} and is {now}"
            for pk, status in self.ended.items()
            if (now := self._shop.order_status(pk)) != status
        ]
        wrong += [
            f"product {product} received {got}, not {units}"
            for product, units in self.received.items()
            if (got := self._shop.stock(product)[0]) != units
        ]
        return wrong


class Faults:
    """One fault after the other, at random; when it is done, all is up again."""

    def __init__(self, shop: Shop, server: MovableRedis, seed: int) -> None:
        self._servers: dict[str, Service | MovableRedis] = {
            "product": shop.product,
            "order 1": shop.orders[0],
            "order 2": shop.orders[1],
            "redis": server,
        }
        self._redis = server
        self._choose = random.Random(seed)
        self.counts: Counter[str] = Counter()

    def one(self) -> None:
        """Do one, and leave everything running."""
        name = self._choose.choice(list(self._servers))
        server = self._servers[name]
        seconds = self._choose.random() * 3
        match self._choose.randrange(6):
            case 0:
                self.counts[f"kill -9 {name}"] += 1
                server.stop(signal.SIGKILL)
                time.sleep(seconds / 3)
                server.start()
            case 1:
                self.counts[f"stop and continue {name}"] += 1
                server.process.send_signal(signal.SIGSTOP)
                time.sleep(seconds)
                server.process.send_signal(signal.SIGCONT)
            case 2:
                self.counts[f"restart {name}"] += 1
                server.stop()
                server.start()
            case 3:
                self.counts["the clock of redis goes back"] += 1
                self._redis.move_clock(-round(20 * seconds))
            case 4:
                self.counts["SCRIPT FLUSH"] += 1
                self._redis.client.script_flush()
            case _:
                self.counts["CLIENT PAUSE"] += 1
                with suppress(redis.RedisError):
                    self._redis.client.client_pause(int(seconds * 1000))
                time.sleep(seconds)


def main() -> int:
    """Run it, print a summary, and return 0 if the shop lost and made up nothing."""
    parser = argparse.ArgumentParser(description="Random faults under load, then an audit.")
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--seed", type=int, default=int(time.time()))
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        server = MovableRedis(Path(folder), "--appendonly", "yes", "--appendfsync", "always")
        environment = {"USE_REDIS": "required", "REDIS_PORT": str(server.port), **SETTINGS}
        shop = Shop(Path(folder), environment, order_services=2)
        try:
            shop.start()
            wrong = soak(shop, server, options.minutes * 60, options.seed)
        finally:
            shop.stop()
            server.client.close()
            server.stop()
    for sentence in wrong:
        print(f"WRONG: {sentence}")
    print("FAILED" if wrong else "exact: nothing lost, nothing made twice")
    return 1 if wrong else 0


def soak(shop: Shop, server: MovableRedis, seconds: float, seed: int) -> list[str]:
    """Run load and faults for so long; return what is wrong once there was time to settle."""
    load, faults = Load(shop, seed), Faults(shop, server, seed)
    buyers = [threading.Thread(target=load.run, args=(number,)) for number in range(BUYERS)]
    for buyer in buyers:
        buyer.start()
    started = time.monotonic()
    try:
        while time.monotonic() - started < seconds:
            faults.one()
            time.sleep(1)
    finally:
        load.is_over.set()
        for buyer in buyers:
            buyer.join()
    ended = time.monotonic()
    wrong: list[str] = []
    try:
        shop.wait_until_exact(SETTLED_SECONDS)
    except AssertionError as error:
        wrong.append(str(error))
    settled = time.monotonic() - ended
    wrong += load.reckon()
    print(f"seed {seed}: {ended - started:.0f} s of faults, exact {settled:.1f} s later")
    print(f"faults: {sum(faults.counts.values())}, {dict(sorted(faults.counts.items()))}")
    print(f"answers: {dict(sorted(load.answers.items()))}")
    print(f"orders placed: {len(load.placed)}, ended: {len(load.ended)}")
    return wrong


if __name__ == "__main__":
    sys.exit(main())
