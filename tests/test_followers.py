"""Reading on in a list while many add to it: whoever goes on from what was seen misses nothing."""

import re
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from threading import Event

import pytest

from tests.load import Answer, at_once, close_connections, send
from tests.servers import RedisServer
from tests.shop import Shop

CUSTOMERS = 8
ADDED = 480
LIMIT = 7

GoOn = Callable[[str, Answer], str]
"""Takes the URL and the answer of a page, and returns the URL of the next one."""


@pytest.fixture(scope="module", params=["memory", "redis"])
def shop(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Shop]:
    """A shop on each storage; on Redis with two workers for each service."""
    environment, workers = {"LOG_LEVEL": "WARNING", "USE_REDIS": "false"}, 1
    if request.param == "redis":
        server: RedisServer = request.getfixturevalue("redis_server")
        server.client.flushall()
        environment |= {"USE_REDIS": "required", "REDIS_PORT": str(server.port)}
        workers = 2
    shop = Shop(tmp_path_factory.mktemp("shop"), environment, workers=workers)
    try:
        yield shop.start()
    finally:
        shop.stop()


def after_the_last_pk(url: str, page: Answer) -> str:
    if not page.body:
        return url
    return f"{url.partition('?')[0]}?limit={LIMIT}&after={page.body[-1]['pk']}"


def by_links(url: str, page: Answer) -> str:
    """At the end of the list there is none: that page is read again, as more may come."""
    return "".join(re.findall('<(.+)>; rel="next"', page.headers.get("link", ""))) or url


def followed(url: str, go_on: GoOn, is_over: Event) -> list[str]:
    """Return the pks of a list, in their order, read page by page until there are no more."""
    seen: dict[str, None] = {}
    is_last = False
    try:
        while not is_last:
            was_over, before = is_over.is_set(), len(seen)
            page = send("GET", url)
            assert page.status == 200, page
            seen |= dict.fromkeys(each["pk"] for each in page.body)
            url = go_on(url, page)
            is_last = was_over and len(seen) == before
    finally:
        close_connections()
    return list(seen)


@pytest.mark.parametrize("kind", ["orders", "products"])
def test_who_follows_a_list_misses_nothing_that_is_added(shop: Shop, kind: str) -> None:
    url = f"{shop.order.url if kind == 'orders' else shop.product.url}/{kind}"
    product, is_over = shop.new_product(ADDED), Event()
    before = [each["pk"] for each in send("GET", url).body]

    def add(_: int) -> str:
        return shop.placed(product) if kind == "orders" else shop.new_product(1)

    with ThreadPoolExecutor() as threads:
        following = [
            threads.submit(followed, f"{url}?limit={LIMIT}", go_on, is_over)
            for go_on in (after_the_last_pk, by_links)
        ]
        try:
            added = at_once(CUSTOMERS, add, range(ADDED))
        finally:
            is_over.set()
    listed = [each["pk"] for each in send("GET", url).body]
    assert listed[: len(before)] == before
    assert sorted(listed[len(before) :]) == sorted(added)
    assert [each.result() for each in following] == [listed, listed]
