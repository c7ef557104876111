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
        ("Σίσυφος", "ΣΊΣΥΦΟΣ"), ("é", "E\u0301"), ("ǰ", "J\u030c"),
    ):  # fmt: skip
        assert len({fold(text) for text in same}) == 1
    for one, other in (("e", "é"), ("a b", "ab"), (DOTLESS_I, "i")):
        assert fold(one) != fold(other)


@given(names, st.data())
def test_a_part_of_a_name_folds_to_a_part_of_the_folded_name(
    name: str, data: st.DataObject
) -> None:
    composed = unicodedata.normalize("NFC", name)
    start = data.draw(st.integers(0, len(composed) - 1))
    end = data.draw(st.integers(start + 1, len(composed)))

    assert fold(composed[start:end]) in fold(name)


@given(names, texts)
def test_a_name_has_an_entry_for_each_suffix_and_one_is_the_first_match_of_a_text(
    name: str, text: str
) -> None:
    folded, revision = fold(name), search_index.new_revision()
    entries = search_index.entries(name, PK, revision)
    parts = [search_index.split(entry) for entry in entries]

    assert {suffix for suffix, *_ in parts} == {prefix(folded[i:]) for i in range(len(folded))}
    assert {tuple(rest) for _, *rest in parts} == {(PK, revision)}
    assert max(len(entry.encode()) for entry in entries) <= PACKED_BYTES
    matches = [
        suffix
        for suffix, *_ in parts
        if suffix.startswith(prefix(fold(text)))
        and search_index.is_first_match(folded, fold(text), suffix)
    ]
    assert len(matches) == (fold(text) in folded)


@settings(max_examples=50)
@given(st.text(max_size=60) | st.binary(max_size=60).map(lambda raw: raw.decode("latin1")))
def test_what_is_no_cursor_is_an_invalid_request_and_nothing_else(cursor: str) -> None:
    with pytest.raises(InvalidRequest):
        search_index.from_cursor(cursor, "lamp")


def test_a_cursor_of_another_search_or_with_an_impossible_pk_is_refused() -> None:
    for pk, text in (
        *((PK, "amp"), (PK, "lampe"), (PK, "x")),
        *(("", "lamp"), ("x", "lamp"), (PK.lower(), "lamp"), (f"{PK}\0", "lamp")),
    ):
        with pytest.raises(InvalidRequest):
            search_index.from_cursor(search_index.to_cursor("lamp", pk), text)
    with pytest.raises(InvalidRequest):
        search_index.from_cursor("a\udcff", "lamp")


@pytest.fixture
async def shops(clock: MovedClock, redis_server: RedisServer) -> AsyncIterator[list[Products]]:
    async with connected(redis_server) as client:
        yield [Products(MemoryRecords(clock)), Products(RedisRecords(client, "shop"))]


@pytest.mark.anyio
@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.lists(names, min_size=1, max_size=5), st.lists(texts, min_size=1, max_size=4))
async def test_both_storages_find_what_contains_the_text_in_the_same_order(
    shops: list[Products], catalogue: list[str], searches: list[str]
) -> None:
    pks = [[(await shop.create(name, 1, 1)).pk for name in catalogue] for shop in shops]

    for text in searches:
        memory, redis = [
            [own.index(pk) for pk in await walk(shop, text)]
            for shop, own in zip(shops, pks, strict=True)
        ]
        assert memory == redis
        wanted = [at for at, name in enumerate(catalogue) if fold(text) in fold(name)]
        assert sorted(memory) == wanted

    for shop, own in zip(shops, pks, strict=True):
        for pk in own:
            await shop.delete(pk)


async def walk(shop: Products, text: str) -> list[str]:
    """Return the pks of all that a search finds, read in pages of two."""
    page = await shop.search_page(text, None, 2)
    found = page.items
    while page.next_after is not None:
        page = await shop.search_page(text, page.next_after, 2)
        found += page.items
    return [product.pk for product in found]
