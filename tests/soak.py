"""Minutes of random faults under a mixed load, then the reckoning.

`python -m tests.soak --minutes 10`; not a test that pytest collects. Two order services, a product
service and a Redis (appendonly always) are killed, stopped and restarted at random, Redis forgets
its scripts and its clock goes back, while customers order, cancel and ship and the shop changes its
stock, all with keys, each sent again until its outcome is known. At the end every 201 has to be an
order, no key may have made two, no change of stock may count twice, and the audit has to find
nothing. The exit status is 0 only then.
"""

import shopsphere.packages  # noqa: F401  # those of .venv, if need be

# isort: split

import argparse
import random
import signal
import tempfile
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from pathlib import Path
from threading import Event

from redis import RedisError

from tests.customers import Customers
from tests.load import close_connections
from tests.servers import MovableRedis, Service
from tests.shop import Shop
from tests.test_faults import SETTINGS, SETTLED

PRODUCTS = 3
UNITS = 15
FAULTS = ("SIGKILL", "SIGTERM", "SIGSTOP", "clock goes back", "SCRIPT FLUSH", "CLIENT PAUSE")


def restock(shop: Shop, product: str, is_over: Event) -> int:
    """Change the stock until it is over, each time until the outcome is known; return by how much
    it changed."""
    added = turn = 0
    while not is_over.wait(0.05):
        turn += 1
        change, key = (turn * 7) % 11 - 4, f"{product} {turn}"
        while (answer := shop.change_stock(product, change, key)).status in (0, 503):
            time.sleep(0.05)
        assert answer.status in (200, 400), answer
        added += change if answer.status == 200 else 0
    close_connections()
    return added


def a_fault(shop: Shop, redis: MovableRedis, choose: random.Random) -> str:
    """Have one fault at random, and leave everything running; return what it was."""
    servers: list[Service | MovableRedis] = [shop.product, *shop.orders, redis]
    server, fault, seconds = choose.choice(servers), choose.choice(FAULTS), choose.random() * 3
    match fault:
        case "SIGKILL" | "SIGTERM":
            server.stop(signal.Signals[fault])
            time.sleep(seconds / 3)
            server.start()
        case "SIGSTOP":
            server.process.send_signal(signal.SIGSTOP)
            time.sleep(seconds)
            server.process.send_signal(signal.SIGCONT)
        case "clock goes back":
            redis.move_clock(-round(20 * seconds))
        case "SCRIPT FLUSH":
            redis.client.script_flush()
        case "CLIENT PAUSE":
            with suppress(RedisError):
                redis.client.client_pause(int(seconds * 1000))
            time.sleep(seconds)
    return fault


def soak(shop: Shop, redis: MovableRedis, seconds: float, seed: int) -> None:
    """Have customers and faults for so long; then fail if the shop lost or made up anything."""
    choose, faults, is_over = random.Random(seed), Counter[str](), Event()
    products = [shop.new_product(UNITS) for _ in range(PRODUCTS)]
    turned = [products[number:] + products[:number] for number in range(PRODUCTS)]
    customers = [Customers(shop, *each, are_patient=True) for each in turned]
    ends_at = time.monotonic() + seconds
    with ExitStack() as open_, ThreadPoolExecutor(PRODUCTS) as pool:
        for each in customers:
            open_.enter_context(each)
        changes = [pool.submit(restock, shop, product, is_over) for product in products]
        try:
            while time.monotonic() < ends_at:
                faults[a_fault(shop, redis, choose)] += 1
                time.sleep(1)
        finally:
            is_over.set()
    answers = Counter(answer.status for each in customers for answer in each.answers)
    print(f"seed {seed}, {faults.total()} faults: {dict(sorted(faults.items()))}")
    print(f"answers: {dict(sorted(answers.items()))}")
    shop.wait_until_exact(SETTLED)
    for product, each, change in zip(products, customers, changes, strict=True):
        each.assert_served()
        assert shop.stock(product)[0] == UNITS + change.result(), "a change of stock counted twice"
    placed = {pk for each in customers for pk in each.placed.values()}
    assert placed == {order["pk"] for order in shop.all_orders()}, "a key has two orders"
    print(f"exact: nothing lost or made twice of {len(placed)} orders")


def main() -> None:
    """Run it; an error ends it with exit status 1."""
    parser = argparse.ArgumentParser(description="Random faults under load, then an audit.")
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--seed", type=int, default=int(time.time()))
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        always = ("--appendonly", "yes", "--appendfsync", "always")
        with MovableRedis(Path(folder), *always) as redis:
            environment = {"USE_REDIS": "required", "REDIS_PORT": str(redis.port), **SETTINGS}
            with Shop(Path(folder), environment, order_services=2) as shop:
                soak(shop.start(), redis, options.minutes * 60, options.seed)


if __name__ == "__main__":
    main()
