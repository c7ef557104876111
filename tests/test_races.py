"""Races between real processes: many requests at once, on each way to run the services."""

import random
import re
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from threading import Event
from urllib.parse import urljoin

import pytest

from tests.load import Answer, at_once, close_connections, send
from tests.servers import RedisServer
from tests.shop import Shop

ADDED = 240
LIMIT = 7


@pytest.fixture(scope="module", params=["memory", "redis, two workers each"])
def running_shop(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Shop]:
    """A shop of each shape in turn."""
    environment, workers = {"USE_REDIS": "false", "LOG_LEVEL": "WARNING"}, 1
    if request.param != "memory":
        server: RedisServer = request.getfixturevalue("redis_server")
        server.client.flushall()
        environment |= {"USE_REDIS": "required", "REDIS_PORT": str(server.port)}
        workers = 2
    with Shop(tmp_path_factory.mktemp("shop"), environment, workers=workers) as shop:
        yield shop.start()


@pytest.fixture
def shop(running_shop: Shop) -> Iterator[Shop]:
    """A shop whose products the test makes; after it the books are exact."""
    yield running_shop
    assert running_shop.findings() == []


def statuses(answers: list[Answer]) -> Counter[int]:
    return Counter(answer.status for answer in answers)


def test_five_hundred_orders_on_a_hundred_units_sell_exactly_a_hundred(shop: Shop) -> None:
    product = shop.new_product(100)
    answers = at_once(64, lambda _: shop.place(product), range(500))
    assert statuses(answers) == {201: 100, 400: 400}
    assert {answer.code for answer in answers if answer.status == 400} == {"insufficient_quantity"}
    assert shop.stock(product) == (100, 0, 100, 0)
    placed = sorted(answer.body["pk"] for answer in answers if answer.status == 201)
    assert sorted(shop.orders_of(product)) == placed


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


def after_the_last_pk(url: str, page: Answer) -> str:
    """Return the URL of the page that comes after this one; it may be as empty yet."""
    if not page.body:
        return url
    return f"{url.partition('?')[0]}?limit={LIMIT}&after={page.body[-1]['pk']}"


def by_links(url: str, page: Answer) -> str:
    """The same; the last page, which has no link, is read again, as it may become longer."""
    links = re.findall('<(.+)>; rel="next"', page.headers.get("link", ""))
    return urljoin(url, links[0]) if links else url


def by_cursor(url: str, page: Answer) -> str:
    """The same, from the cursor of the last entry that was seen."""
    cursor = page.headers.get("x-cursor")
    return f"{url.partition('?')[0]}?limit={LIMIT}&after={cursor}" if cursor else url


def test_who_follows_a_list_misses_nothing_that_is_added(shop: Shop) -> None:
    is_over = Event()

    def followed(url: str, go_on: Callable[[str, Answer], str]) -> list[str]:
        """Return the pks of a list, in their order, read page by page until there are no more."""
        seen: dict[str, None] = {}
        following, is_last = f"{url}?limit={LIMIT}", False
        while not is_last:
            was_over, page = is_over.is_set(), send("GET", following)
            assert page.status == 200, page
            seen |= dict.fromkeys(each["pk"] for each in page.body)
            before, following = following, go_on(following, page)
            is_last = was_over and following == before
        close_connections()
        return list(seen)

    product = shop.new_product(ADDED)
    for url, add in (
        (f"{shop.order.url}/orders", lambda _: shop.placed(product)),
        (f"{shop.product.url}/products", lambda _: shop.new_product(1)),
    ):
        before = [each["pk"] for each in send("GET", url).body]
        is_over.clear()
        with ThreadPoolExecutor() as threads:
            ways = (after_the_last_pk, by_links, by_cursor)
            following = [threads.submit(followed, url, go_on) for go_on in ways]
            try:
                added = at_once(8, add, range(ADDED))
            finally:
                is_over.set()
        listed = [each["pk"] for each in send("GET", url).body]
        assert listed[: len(before)] == before
        assert sorted(listed[len(before) :]) == sorted(added)
        assert [each.result() for each in following] == [listed, listed, listed]


def test_a_walk_over_one_status_returns_what_kept_it_once_while_others_move(shop: Shop) -> None:
    product = shop.new_product(2000)
    kept = [shop.placed(product) for _ in range(30)]
    is_over = Event()

    def move(seed: int) -> None:
        choose = random.Random(seed)
        while not is_over.is_set():
            order = shop.placed(product)
            if choose.random() < 0.8:
                assert choose.choice((shop.cancel, shop.ship))(order).status == 200
        close_connections()

    def walked(order: str) -> list[str]:
        """Return the pks of all PLACED orders, read in pages that follow each other."""
        found: list[str] = []
        url = f"{shop.order.url}/orders?status=PLACED&limit={LIMIT}{order}"
        while url:
            page = send("GET", url)
            assert {each["status"] for each in page.body} <= {"PLACED"}
            found += [each["pk"] for each in page.body]
            following = by_links(url, page)
            url = following if following != url else ""
        return found

    with ThreadPoolExecutor() as threads:
        moving = [threads.submit(move, seed) for seed in range(4)]
        try:
            walks = [walked(order) for order in 2 * ("", "&order=newest")]
        finally:
            is_over.set()
        for each in moving:
            each.result()
    for number, walk in enumerate(walks):
        assert len(walk) == len(set(walk))
        assert [pk for pk in walk if pk in kept] == (kept[::-1] if number % 2 else kept)
    for status in ("PLACED", "CANCELLED", "SHIPPED"):
        page = send("GET", f"{shop.order.url}/orders?status={status}&limit=1000")
        assert page.headers["x-total-count"] == str(len(page.body))
