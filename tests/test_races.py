"""Races between real processes: many requests at once, on each way to run the services."""

import random
from collections import Counter
from collections.abc import Iterator

import pytest

from tests.load import Answer, at_once
from tests.servers import RedisServer
from tests.shop import Shop

SHAPES = {
    "memory": (1, 1),
    "redis": (1, 1),
    "redis, two workers each": (1, 2),
    "redis, two order services": (2, 1),
}
"""How many order services there are, and how many workers each service has."""


@pytest.fixture(scope="module", params=SHAPES)
def shop(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Shop]:
    """A shop of each shape in turn; its products are made by the tests."""
    environment = {"USE_REDIS": "false", "LOG_LEVEL": "WARNING"}
    if request.param != "memory":
        server: RedisServer = request.getfixturevalue("redis_server")
        server.client.flushall()
        environment |= {"USE_REDIS": "required", "REDIS_PORT": str(server.port)}
    order_services, workers = SHAPES[request.param]
    shop = Shop(
        tmp_path_factory.mktemp("shop"),
        environment,
        order_services=order_services,
        workers=workers,
    )
    try:
        yield shop.start()
    finally:
        shop.stop()


def statuses(answers: list[Answer]) -> Counter[int]:
    return Counter(answer.status for answer in answers)


def test_a_thousand_orders_on_a_hundred_units_sell_exactly_a_hundred(shop: Shop) -> None:
    product = shop.new_product(100)
    answers = at_once(64, lambda number: shop.place(product, at=number), range(1000))
    assert statuses(answers) == {201: 100, 400: 900}
    assert {answer.code for answer in answers if answer.status == 400} == {"insufficient_quantity"}
    assert shop.stock(product) == (100, 0, 100, 0)
    placed = sorted(answer.body["pk"] for answer in answers if answer.status == 201)
    assert sorted(shop.orders_of(product)) == placed
    assert shop.findings() == []


def test_fifty_cancels_at_once_restock_once(shop: Shop) -> None:
    product = shop.new_product(10)
    order = shop.placed(product, 3)
    answers = at_once(50, lambda number: shop.cancel(order, at=number), range(50))
    assert statuses(answers) == {200: 50}
    assert shop.stock(product) == (10, 10, 0, 0)
    assert shop.findings() == []


def test_of_cancels_and_shipments_at_once_one_kind_wins(shop: Shop) -> None:
    product = shop.new_product(10)
    order = shop.placed(product, 3)
    ends = [shop.cancel, shop.ship] * 20
    answers = at_once(40, lambda number: ends[number](order, at=number // 2), range(40))
    won = answers[0].status == 200
    assert [answer.status == 200 for answer in answers] == [won, not won] * 20
    loser = "order_is_cancelled" if won else "order_is_shipped"
    assert {answer.code for answer in answers if answer.status != 200} == {loser}
    assert shop.stock(product) == ((10, 10, 0, 0) if won else (10, 7, 0, 3))
    assert shop.findings() == []


def test_fifty_requests_at_once_with_one_key_make_one_order(shop: Shop) -> None:
    product = shop.new_product(100)
    answers = at_once(50, lambda number: shop.place(product, 2, "one key", number), range(50))
    assert set(statuses(answers)) <= {201, 409}
    for refused in (answer for answer in answers if answer.status == 409):
        assert refused.code == "request_in_progress"
        assert int(refused.headers["retry-after"]) >= 1
    assert {answer.body["pk"] for answer in answers if answer.status == 201} == set(
        shop.orders_of(product)
    )
    assert shop.stock(product) == (100, 98, 2, 0)
    assert shop.findings() == []


def test_fifty_retries_at_once_of_a_placed_order_are_fifty_replays(shop: Shop) -> None:
    product = shop.new_product(100)
    first = shop.place(product, 2, "one key, retried")
    answers = at_once(
        50, lambda number: shop.place(product, 2, "one key, retried", number), range(50)
    )
    assert statuses(answers) == {201: 50}
    assert all(answer.headers.get("idempotent-replayed") == "true" for answer in answers)
    assert [answer.body for answer in answers] == [first.body] * 50
    assert shop.stock(product) == (100, 98, 2, 0)
    assert shop.findings() == []


def test_fifty_stock_changes_at_once_with_one_key_count_once(shop: Shop) -> None:
    product = shop.new_product(10)
    answers = at_once(50, lambda _: shop.change_stock(product, 5, "one key"), range(50))
    assert statuses(answers) == {200: 50}
    replayed = [answer for answer in answers if "idempotent-replayed" in answer.headers]
    assert len(replayed) == 49
    assert shop.stock(product) == (15, 15, 0, 0)


def test_a_mix_of_everything_at_once_ends_exact(shop: Shop) -> None:
    products = [shop.new_product(20) for _ in range(6)]
    orders: list[str] = []

    def work(seed: int) -> set[int]:
        choose = random.Random(seed)
        seen = set()
        for step in range(25):
            product = choose.choice(products)
            order = choose.choice(orders or [product])
            match choose.randrange(10):
                case 0 | 1:
                    answer = shop.cancel(order, at=step)
                case 2:
                    answer = shop.ship(order, at=step)
                case 3:
                    answer = shop.change_stock(product, choose.randint(-9, 9))
                case 4 if product in products[:2]:
                    answer = shop.delete(product)
                case _:
                    answer = shop.place(product, choose.randint(1, 3), at=step)
                    if answer.status == 201:
                        orders.append(answer.body["pk"])
            seen.add(answer.status)
        return seen

    seen = set().union(*at_once(8, work, range(8)))
    assert seen <= {200, 201, 204, 400, 404, 409}
    assert {201, 204, 404} <= seen  # there were orders, and orders of what was deleted
    assert shop.findings() == []
