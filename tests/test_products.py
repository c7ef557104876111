"""What `Products` promises beyond its rules, on each storage: lists, search, crashes, crowds."""

import asyncio
from collections.abc import Awaitable, Callable
from itertools import chain
from typing import Any, TypeVar

import pytest

from in_memory_db import MemoryRecords
from shopsphere.catalogue.products import PRODUCTS, Products
from shopsphere.domain.errors import (
    InvalidRequest,
    ProductNotFound,
    ReservationRefused,
    ShopError,
    StoreUnavailable,
)
from shopsphere.domain.pks import new_pk
from shopsphere.domain.values import Page, Product, Stock
from shopsphere.lists import cursor_of
from shopsphere.records import Listing, Records
from tests.moved_clock import MovedClock
from tests.small_shop import SmallShop

pytestmark = pytest.mark.anyio

T = TypeVar("T")


@pytest.fixture
def products(records: Records) -> Products:
    return Products(records)


async def added(products: Products, name: str = "Laptop", quantity: int = 10) -> str:
    """Add a product; return its pk."""
    return (await products.create(name, 99999, quantity)).pk


async def together(*calls: Awaitable[T]) -> tuple[list[T], list[ShopError]]:
    """Run all at once; return what was returned, and what was refused."""
    outcomes = await asyncio.gather(*calls, return_exceptions=True)
    errors = [outcome for outcome in outcomes if isinstance(outcome, ShopError)]
    return [outcome for outcome in outcomes if not isinstance(outcome, BaseException)], errors


async def walk(read: Callable[[str | None, int], Awaitable[Page[T]]], limit: int) -> list[list[T]]:
    """Return the pages of a list, to its end."""
    pages = [await read(None, limit)]
    while (cursor := pages[-1].next_after) is not None:
        pages.append(await read(cursor, limit))
    return [page.items for page in pages]


def chunks(items: list[T], size: int) -> list[list[T]]:
    """Return the items in pages: an exactly full last page is the last."""
    return [items[start : start + size] for start in range(0, len(items), size)]


def search(products: Products, text: str) -> Callable[[str | None, int], Awaitable[Page[Product]]]:
    return lambda after, limit: products.search_page(text, after, limit)


async def found(products: Products, text: str) -> list[str]:
    """Return the names that a search finds, in its order."""
    return [product.name for product in (await products.search_page(text, None, 1000)).items]


async def live_orders(products: Products, pk: str) -> list[str]:
    """Return the orders that hold units of a product."""
    return [held.order_pk for held in (await products.reservations_page(pk, None, 1000)).items]


@pytest.mark.parametrize("is_deleted", [False, True])
async def test_a_product_that_is_not_on_sale_is_not_found(
    products: Products, is_deleted: bool
) -> None:
    pk, other = new_pk(), await added(products, "Lamp one")
    if is_deleted:
        pk = await added(products, "Lamp two")
        await products.delete(pk)

    for call in (products.get(pk), products.update(pk, "Lamp three", 1), products.delete(pk)):
        with pytest.raises(ProductNotFound):
            await call
    assert [product.pk for product in (await products.page(None, 9)).items] == [other]
    assert await found(products, "lamp") == ["Lamp one"]
    _, errors = await together(products.stock(pk), products.reservations_page(pk, None, 10))
    assert [type(error) for error in errors] == [ProductNotFound] * (0 if is_deleted else 2)


@pytest.mark.parametrize("limit", [1, 2, 6, 7])
async def test_pages_make_up_the_whole_list(products: Products, limit: int) -> None:
    pks = [await added(products) for _ in range(6)]

    pages = await walk(products.page, limit)

    assert [[product.pk for product in page] for page in pages] == chunks(pks, limit)


async def test_a_walk_goes_on_when_the_product_at_its_cursor_is_gone(products: Products) -> None:
    pks = [await added(products) for _ in range(5)]
    cursor = (await products.page(None, 2)).next_after
    search_cursor = (await products.search_page("lap", None, 2)).next_after

    await products.delete(pks[1])
    await products.delete(pks[3])

    for page in (
        await products.page(cursor, 2),
        await products.search_page("lap", search_cursor, 2),
    ):
        assert [product.pk for product in page.items] == [pks[2], pks[4]]
        assert page.next_after is None


async def test_what_is_no_cursor_of_this_list_is_refused(products: Products) -> None:
    pk, gone = await added(products), await added(products)
    await products.delete(gone)

    for wrong in (
        *("", "0", "1-", "-", "1-0000000", "x" * 26, "1-00000000"),
        *(new_pk(), gone, pk.lower(), cursor_of(Listing("orders"), 1)),
        *(cursor_of(PRODUCTS, 10**16), f"{cursor_of(PRODUCTS, 1)}\n"),
    ):
        with pytest.raises(InvalidRequest):
            await products.page(wrong, 10)


@pytest.mark.parametrize("limit", [1, 2, 3])
async def test_what_a_crash_left_in_list_and_index_is_not_seen(
    products: Products, records: Records, limit: int
) -> None:
    there = []
    for _ in range(2):
        there.append(await products.create("Laptop", 1, 1))
        gone = [await added(products, "Lap"), new_pk()]
        await products.delete(gone[0])
        for pk in gone:
            await records.enter(pk, [PRODUCTS])  # as if a delete had ended before it left
        left = [there[-1].pk, *gone, *(new_pk() for _ in range(3))]
        await records.add_names(
            {f"{suffix}\0{pk}\0old" for pk in left for suffix in ("lapland", "laptop")}
        )

    assert list(chain(*await walk(products.page, limit))) == there
    assert await walk(search(products, "lap"), limit) == chunks(there, limit)
    entries = await records.entries(PRODUCTS, 0, 100)
    assert [entry.member for entry in entries] == [product.pk for product in there]


@pytest.mark.parametrize("limit", [1, 4, 7, 8])
async def test_hits_are_in_the_order_of_what_stands_from_the_match_on_then_of_pks(
    products: Products, limit: int
) -> None:
    names = ["a Lamp", "a lamp B", "Lamp", "lamp b", "the lamp: red", "LAMP", "lamp lamp"]
    for name in [*names, "no such thing"]:
        await added(products, name)

    pages = await walk(search(products, "lamp"), limit)

    in_order = ["a Lamp", "Lamp", "LAMP", "a lamp B", "lamp b", "lamp lamp", "the lamp: red"]
    assert [[hit.name for hit in page] for page in pages] == chunks(in_order, limit)


async def test_a_renamed_product_is_found_once_and_under_its_new_name_alone(
    products: Products,
) -> None:
    pk = await added(products, "Laptop one")
    for name in ("Laptop one", "LAPTOP one", "Notebook one"):
        await products.update(pk, name, None)
        assert await found(products, "one") == [name]

    assert await found(products, "laptop") == []
    assert await found(products, "note") == ["Notebook one"]


async def test_renames_and_deletes_leave_no_names_behind(
    products: Products, records: Records
) -> None:
    pk, other = await added(products, "Laptop"), await added(products, "Lamp")
    await together(*(products.update(pk, f"Notebook {number}", None) for number in range(9)))
    assert len(await found(products, "note")) == 1
    await products.update(pk, "Pen", None)
    await products.delete(other)
    with pytest.raises(ProductNotFound):
        await products.update(other, "Lantern", None)

    names = [name.split("\0")[:2] for name in await records.names("", "", 100)]
    assert names == [["en", pk], ["n", pk], ["pen", pk]]


async def test_of_many_who_want_the_last_units_as_many_get_them_as_there_are(
    products: Products,
) -> None:
    pk = await added(products, quantity=20)

    answers, errors = await together(*(products.reserve(pk, new_pk(), 3) for _ in range(60)))
    assert len(answers) == 6
    assert {type(error) for error in errors} == {ReservationRefused}
    changes, refusals = await together(*(products.change_stock(pk, -1) for _ in range(25)))

    assert (len(changes), len(refusals)) == (2, 23)
    assert await products.stock(pk) == Stock(18, 0, 18, 0)


async def test_a_key_counts_once_for_each_product_however_often_it_is_sent(
    products: Products,
) -> None:
    for pk in (await added(products, quantity=5), await added(products, quantity=5)):
        answers, _ = await together(*(products.change_stock(pk, -5, "key") for _ in range(20)))

        assert sorted(had_counted for _, had_counted in answers) == [False, *[True] * 19]
        assert await products.stock(pk) == Stock(0, 0, 0, 0)


async def test_what_is_sent_many_times_at_once_happens_once(products: Products) -> None:
    pk = await added(products)
    shipped, released = new_pk(), new_pk()

    for order_pk in (shipped, released):
        answers, _ = await together(*(products.reserve(pk, order_pk, 4) for _ in range(20)))
        assert len(answers) == 20
        assert len({reservation for reservation, _ in answers}) == 1
        assert sum(is_new for _, is_new in answers) <= 1
    assert await products.stock(pk) == Stock(10, 2, 8, 0)
    _, errors = await together(
        *(products.ship(pk, shipped) for _ in range(20)),
        *(products.release(pk, released) for _ in range(20)),
    )

    assert errors == []
    assert await products.stock(pk) == Stock(10, 6, 0, 4)
    assert await live_orders(products, pk) == []


@pytest.mark.parametrize("limit", [1, 2, 4, 5])
async def test_live_reservations_are_paged_in_the_order_of_their_orders(
    products: Products, limit: int
) -> None:
    pk, other = await added(products), await added(products)
    orders = [new_pk() for _ in range(6)]
    for order_pk in reversed(orders):
        await products.reserve(pk, order_pk, 1)
        await products.reserve(other, order_pk, 1)
    await products.release(pk, orders[1])
    await products.ship(pk, orders[3])
    live = [orders[0], orders[2], orders[4], orders[5]]

    pages = await walk(lambda after, size: products.reservations_page(pk, after, size), limit)

    assert [[held.order_pk for held in page] for page in pages] == chunks(live, limit)
    assert await live_orders(products, other) == orders


async def test_the_orders_of_a_deleted_product_live_on(products: Products) -> None:
    pk = await added(products)
    cancelled, shipped, kept = new_pk(), new_pk(), new_pk()
    for order_pk in (cancelled, shipped, kept):
        await products.reserve(pk, order_pk, 2)
    await products.delete(pk)

    assert await live_orders(products, pk) == [cancelled, shipped, kept]
    await products.release(pk, cancelled)
    await products.ship(pk, shipped)

    assert await live_orders(products, pk) == [kept]
    assert await products.stock(pk) == Stock(10, 6, 2, 2)


@pytest.mark.parametrize("storage", ["memory", "redis"])
async def test_who_reserves_or_deletes_first_is_told_so(shop: SmallShop) -> None:
    """Not over a lossy wire: the repeated command finds the reservation of its first run."""
    pk, order_pk = await shop.add(10), new_pk()

    told, _ = await together(*(shop.products.reserve(pk, order_pk, 2) for _ in range(10)))

    assert sorted(is_new for _, is_new in told) == [*[False] * 9, True]


async def test_of_many_deletes_at_once_one_deletes(products: Products) -> None:
    pk = await added(products)

    answers, errors = await together(*(products.delete(pk) for _ in range(10)))

    assert (len(answers), len(errors)) == (1, 9)


@pytest.mark.parametrize("lost", ["leave", "remove_names"])
async def test_a_repeated_delete_finishes_the_first_and_finds_no_product(lost: str) -> None:
    records = MemoryRecords()
    products = Products(records)
    pk, other = await added(products, "Lamp one"), await added(products, "Lamp two")

    class CutOff:
        def __getattr__(self, name: str) -> object:
            if name == lost:
                raise StoreUnavailable
            return getattr(records, name)

    cut_off: Any = CutOff()
    with pytest.raises(StoreUnavailable):
        await Products(cut_off).delete(pk)
    assert [name for name in await records.names("", "", 1000) if pk in name]
    for _ in range(2):
        with pytest.raises(ProductNotFound):
            await products.delete(pk)

    assert not [name for name in await records.names("", "", 1000) if pk in name]
    assert [entry.member for entry in await records.entries(PRODUCTS, 0, 9)] == [other]


async def test_a_product_is_found_before_it_is_listed_and_read_before_either(
    clock: MovedClock,
) -> None:
    seen: list[str] = []

    class Watched(MemoryRecords):
        async def enter(self, member: str, *args: object, **options: object) -> None:
            products = Products(self)
            seen.append((await products.get(member)).name)
            seen.extend(await found(products, "lamp"))

    await Products(Watched(clock)).create("Lamp", 1, 1)

    assert seen == ["Lamp", "Lamp"]
