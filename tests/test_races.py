"""Races between real processes: many requests at once, on each way to run the services."""

import random
from collections import Counter
from collections.abc import Iterator

import pytest

from tests.load import Answer, at_once
from tests.servers import RedisServer
from tests.shop import Shop

WORKERS = {"memory": 1, "redis": 1, "redis, two workers each": 2}
"""How many workers each service has, in each shape of the shop."""


@pytest.fixture(scope="module", params=WORKERS)
def running_shop(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Shop]:
    """A shop of each shape in turn."""
    environment = {"USE_REDIS": "false", "LOG_LEVEL": "WARNING"}
    if request.param != "memory":
        server: RedisServer = request.getfixturevalue("redis_server")
        server.client.flushall()
        environment |= {"USE_REDIS": "required", "REDIS_PORT": str(server.port)}
    folder, workers = tmp_path_factory.mktemp("shop"), WORKERS[request.param]
    shop = Shop(folder, environment, workers=workers)
    try:
        yield shop.start()
    finally:
        shop.stop()


@pytest.fixture
def shop(running_shop: Shop) -> Iterator[Shop]:
    """A shop whose products the test makes; after it the books are exact."""
    yield running_shop
    assert running_shop.findings() == []


def statuses(answers: list[Answer]) -> Counter[int]:
    return Counter(answer.status for answer in answers)


def test_a_thousand_orders_on_a_hundred_units_sell_exactly_a_hundred(shop: Shop) -> None:
    product = shop.new_product(100)
    answers = at_once(64, lambda _: shop.place(product), range(1000))
    assert statuses(answers) == {201: 100, 400: 900}
    assert {answer.code for answer in answers if answer.status == 400} == {"insufficient_quantity"}
    assert shop.stock(product) == (100, 0, 100, 0)
    placed = sorted(answer.body["pk"] for answer in answers if answer.status == 201)
    assert sorted(shop.orders_of(product)) == placed


@pytest.mark.parametrize("ends", [["cancel"], ["cancel", "ship"]])
def test_of_cancels_and_shipments_at_once_one_kind_wins_and_counts_once(
    shop: Shop, ends: list[str]
) -> None:
    product = shop.new_product(10)
    order = shop.placed(product, 3)
    calls = [getattr(shop, end) for end in ends] * 20
    answers = at_once(len(calls), lambda number: calls[number](order), range(len(calls)))
    won = ends[0] if answers[0].status == 200 else ends[-1]
    loser = "order_is_cancelled" if won == "cancel" else "order_is_shipped"
    for end, answer in zip(ends * 20, answers, strict=True):
        assert (answer.status, answer.code) == ((200, "") if end == won else (409, loser))
    assert shop.stock(product) == ((10, 10, 0, 0) if won == "cancel" else (10, 7, 0, 3))


def test_fifty_requests_at_once_with_one_key_make_one_order_and_fifty_more_replay_it(
    shop: Shop,
) -> None:
    product = shop.new_product(100)

    def fifty() -> list[Answer]:
        return at_once(50, lambda _: shop.place(product, 2, "one key"), range(50))

    answers = fifty()
    assert set(statuses(answers)) <= {201, 409}
    for refused in (answer for answer in answers if answer.status == 409):
        assert refused.code == "request_in_progress"
        assert int(refused.headers["retry-after"]) >= 1
    placed = [answer.body for answer in answers if answer.status == 201]
    assert [placed[0]["pk"]] == shop.orders_of(product)
    replays = fifty()
    assert statuses(replays) == {201: 50}
    assert all(answer.headers.get("idempotent-replayed") == "true" for answer in replays)
    assert [answer.body for answer in replays] + placed == [placed[0]] * (50 + len(placed))
    assert shop.stock(product) == (100, 98, 2, 0)


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
        for _ in range(25):
            product = choose.choice(products)
            order = choose.choice(orders or [product])
            match choose.randrange(10):
                case 0 | 1:
                    answer = shop.cancel(order)
                case 2:
                    answer = shop.ship(order)
                case 3:
                    answer = shop.change_stock(product, choose.randint(-9, 9))
                case 4 if product in products[:2]:
                    answer = shop.delete(product)
                case _:
                    answer = shop.place(product, choose.randint(1, 3))
                    if answer.status == 201:
                        orders.append(answer.body["pk"])
            seen.add(answer.status)
        return seen

    seen = set().union(*at_once(8, work, range(8)))
    assert seen <= {200, 201, 204, 400, 404, 409}
    assert {201, 204, 404} <= seen  # there were orders, and orders of what was deleted
