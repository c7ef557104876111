"""Reading on in a list while many add to it: whoever goes on from what was seen misses nothing."""

import re
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Event

from tests.load import Answer, at_once, close_connections, send
from tests.shop import Shop

CUSTOMERS = 8
ADDED = 240
LIMIT = 7

GoOn = Callable[[str, Answer], str]
"""Takes the URL and the answer of a page, and returns the URL of the next one."""


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
            was_over = is_over.is_set()
            page = send("GET", url)
            assert page.status == 200, page
            seen |= dict.fromkeys(each["pk"] for each in page.body)
            following = go_on(url, page)
            is_last, url = was_over and following == url, following
    finally:
        close_connections()
    return list(seen)


def test_who_follows_a_list_misses_nothing_that_is_added(
    storage: str, storage_environment: dict[str, str], tmp_path: Path
) -> None:
    """On Redis with two workers for each service."""
    shop = Shop(tmp_path, storage_environment, workers=2 if storage == "redis" else 1)
    try:
        shop.start()
        product = shop.new_product(ADDED)
        for url, add in (
            (f"{shop.order.url}/orders", lambda _: shop.placed(product)),
            (f"{shop.product.url}/products", lambda _: shop.new_product(1)),
        ):
            misses_nothing(url, add)
    finally:
        shop.stop()


def misses_nothing(url: str, add: Callable[[int], str]) -> None:
    before, is_over = [each["pk"] for each in send("GET", url).body], Event()
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
