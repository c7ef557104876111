"""Finding text in names: folding, entries, cursors, and in the end both storages."""

import unicodedata
from collections.abc import AsyncIterator

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from in_memory_db import MemoryRecords
from redis_db import RedisRecords
from shopsphere.catalogue import search_index
from shopsphere.catalogue.products import Products
from shopsphere.catalogue.search_index import fold, prefix
from shopsphere.domain.errors import InvalidRequest
from tests.lossy_wire import connected
from tests.moved_clock import MovedClock
from tests.servers import RedisServer
from tests.test_products import search, walk

PK = "01J8Z3N5T9QWERTY0123456789"
PACKED_BYTES = 64
"""What Redis allows a member of a sorted set that it keeps packed (zset-max-listpack-value)."""

DOTLESS_I = "\N{LATIN SMALL LETTER DOTLESS I}"
CONFUSABLE = f"aAsSßẞéÉe\u0301İi{DOTLESS_I}IςΣ\N{GREEK SMALL LETTER SIGMA}ﬁ"
"""Few letters, so that texts and names have something in common, and those that fold oddly."""


def text_of(confusable: int, shortest: int, longest: int, any_size: int) -> st.SearchStrategy[str]:
    return st.one_of(
        st.text(st.sampled_from(CONFUSABLE), min_size=1, max_size=confusable),
        st.text(st.sampled_from("ab"), min_size=shortest, max_size=longest),
        st.text(st.characters(exclude_categories=("Cc", "Cs")), min_size=1, max_size=any_size),
    )


names, texts = text_of(12, 35, 90, 20), text_of(3, 1, 50, 4)


def test_what_differs_just_in_case_or_composition_folds_to_the_same() -> None:
    angstrom_sign = "\u212b"
    for same in (
        ("LAPTOP", "laptop"), ("STRAẞE", "Straße", "strasse"), ("ﬁn", "FIN"), ("Å", angstrom_sign),
        ("Σίσυφος", "ΣΊΣΥΦΟΣ"), ("e", "é", "E\u0301"), ("ǰ", "J\u030c"), ("ΤΑΪΣΤΡΑ", "ταΐστρα"),
        ("İstanbul", "istanbul", f"{DOTLESS_I}stanbul"), ("ŁÓDŹ", "lodz"), ("Smør", "SMOR"),
        ("Œuvre", "OEUVRE"), ("Æ", "ae"), ("ĦĐŦ", "hdt"), ("\u2018\u2019\u02bc", "'''"),
        ("\u2010\u2011\u2012\u2013\u2014\u2015\u2212", "-------"),
    ):  # fmt: skip
        assert len({fold(text) for text in same}) == 1, same
    for one, other in (("a b", "ab"), ("a-b", "ab"), ("が", "か"), ("й", "и")):
        assert (fold(one) == fold(other)) is (one == "й"), one


@given(names, st.data())
def test_a_part_of_a_name_folds_to_a_part_of_the_folded_name(
    name: str, data: st.DataObject
) -> None:
    composed = unicodedata.normalize("NFC", name)
    start = data.draw(st.integers(0, len(composed) - 1))
    end = data.draw(st.integers(start + 1, len(composed)))

    assert fold(composed[start:end]) in fold(name)


@given(names)
def test_no_entry_of_a_name_is_too_long_for_redis_to_keep_packed(name: str) -> None:
    entries = search_index.entries(name, PK, search_index.new_revision()) | {""}
    assert max(len(entry.encode()) for entry in entries) <= PACKED_BYTES


@pytest.mark.parametrize(
    "cursor",
    [*("", "x", "****", "é", "a\udcff", "_w"),
     *(search_index.to_cursor(f"{suffix}\0{PK}\0r") for suffix in ("", "lam", "a lamp")),
     *(search_index.to_cursor(f"lamp\0{pk}\0r") for pk in ("", "x", PK.lower(), f"{PK}\0"))],
)  # fmt: skip
def test_what_is_no_cursor_of_this_search_is_an_invalid_request(cursor: str) -> None:
    assert search_index.from_cursor(search_index.to_cursor(f"lamps\0{PK}\0r"), "lamp")
    with pytest.raises(InvalidRequest):
        search_index.from_cursor(cursor, "lamp")


@pytest.fixture
async def shops(clock: MovedClock, redis_server: RedisServer) -> AsyncIterator[list[Products]]:
    async with connected(redis_server) as client:
        yield [Products(MemoryRecords(clock)), Products(RedisRecords(client, "shop"))]


@pytest.mark.anyio
@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.lists(names, min_size=1, max_size=5), st.lists(texts, min_size=1, max_size=4))
async def test_both_storages_find_what_contains_the_text_in_the_order_of_what_follows(
    shops: list[Products], catalogue: list[str], searches: list[str]
) -> None:
    for shop in shops:
        folded = {(await shop.create(name, 1, 1))[0].pk: fold(name) for name in catalogue}
        for text in filter(None, map(fold, searches)):
            hits = [pk for pk, name in folded.items() if text in name]
            hits.sort(key=lambda pk: (prefix(folded[pk][folded[pk].index(text) :]), pk))
            pages = await walk(search(shop, text), 2)
            assert [product.pk for page in pages for product in page] == hits
        for pk in folded:
            await shop.delete(pk)
