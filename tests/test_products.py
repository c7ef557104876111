"""What `Products` promises, on each storage."""

import asyncio
import itertools
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import pytest

from in_memory_db import MemoryRecords
from shopsphere.catalogue.products import PRODUCTS, Products
from shopsphere.domain.errors import (
    IdempotencyKeyReused,
    InsufficientQuantity,
    InvalidRequest,
    ProductNotFound,
    ReservationConflict,
    ReservationRefused,
    ReservationReleased,
    ReservationShipped,
    ShopError,
    StockLimit,
    StoreUnavailable,
)
from shopsphere.domain.pks import new_pk
from shopsphere.domain.records import DAY, TEN_MINUTES
from shopsphere.domain.values import MAX_ON_HAND, Page, Product, Reservation, Stock
from shopsphere.lists import cursor_of
from shopsphere.records import Listing, Records
from tests.moved_clock import MovedClock
from tests.small_shop import SmallShop

pytestmark = pytest.mark.anyio

T = TypeVar("T")


@pytest.fixture
def products(records: Records) -> Products:
    return Products(records)


async def added(
    products: Products, name: str = "Laptop", quantity: int = 10, price_cents: int = 99999
) -> str:
    """Add a product; return its pk."""
    return (await products.create(name, price_cents, quantity)).pk


async def together(*calls: Awaitable[T]) -> tuple[list[T], list[ShopError]]:
    """Run all at once; return what was returned, and what was refused."""
    outcomes = await asyncio.gather(*calls, return_exceptions=True)
    errors = [outcome for outcome in outcomes if isinstance(outcome, ShopError)]
    return [outcome for outcome in outcomes if not isinstance(outcome, BaseException)], errors


async def walk(
    read: Callable[[str | None, int], Awaitable[Page[T]]], limit: int = 100
) -> list[list[T]]:
    """Return the pages of a list, to its end."""
    pages = [await read(None, limit)]
    while (cursor := pages[-1].next_after) is not None:
        pages.append(await read(cursor, limit))
    return [page.items for page in pages]


async def found(products: Products, text: str) -> list[str]:
    """Return the names that a search finds, in its order."""
    return [product.name for product in (await products.search_page(text, None, 1000)).items]


async def listed(products: Products) -> list[str]:
    """Return the pks of all that is listed."""
    return [product.pk for product in (await products.page(None, 1000)).items]


async def live_orders(products: Products, pk: str) -> list[str]:
    """Return the orders that hold units of a product."""
    return [held.order_pk for held in (await products.reservations_page(pk, None, 1000)).items]


class TestAddAndGet:
    async def test_a_new_product_has_its_units_received_and_available(
        self, products: Products
    ) -> None:
        pk = await added(products, "Laptop", quantity=7, price_cents=123)

        assert await products.get(pk) == Product(pk, "Laptop", 123, 7)
        assert await products.stock(pk) == Stock(received=7, available=7, reserved=0, shipped=0)

    async def test_a_product_that_is_not_there_is_not_found(self, products: Products) -> None:
        pk = new_pk()

        for call in (
            products.get(pk),
            products.update(pk, "Laptop", 1),
            products.update(pk, None, 1),
            products.change_stock(pk, 1),
            products.change_stock(pk, 1, "key"),
            products.delete(pk),
            products.stock(pk),
            products.reservations_page(pk, None, 10),
            products.reserve(pk, new_pk(), 1),
        ):
            with pytest.raises(ProductNotFound):
                await call
        assert await listed(products) == []
        assert await found(products, "laptop") == []

    async def test_a_name_and_the_greatest_figures_come_back_as_they_were(
        self, products: Products
    ) -> None:
        name = "  'Müsli' {a}:b \\ \"%d\" \N{GRINNING FACE} \u2028 日本  "
        pk = await added(products, name, quantity=MAX_ON_HAND, price_cents=100_000_000)

        assert await products.get(pk) == Product(pk, name, 100_000_000, MAX_ON_HAND)


class TestLists:
    @pytest.mark.parametrize("limit", [1, 2, 3, 6, 7])
    async def test_pages_make_up_the_whole_list_and_the_last_has_no_cursor(
        self, products: Products, limit: int
    ) -> None:
        pks = [await added(products) for _ in range(6)]

        pages = await walk(products.page, limit)

        assert [product.pk for page in pages for product in page] == pks
        assert len(pages) == -(-6 // limit), "an exactly full last page is the last"

    async def test_a_walk_goes_on_when_the_product_at_its_cursor_is_gone(
        self, products: Products
    ) -> None:
        pks = [await added(products) for _ in range(5)]
        cursor = (await products.page(None, 2)).next_after

        await products.delete(pks[1])
        await products.delete(pks[3])
        page = await products.page(cursor, 2)

        assert [product.pk for product in page.items] == [pks[2], pks[4]]
        assert page.next_after is None

    async def test_the_pk_of_a_listed_product_is_a_cursor_too(self, products: Products) -> None:
        pks = [await added(products) for _ in range(4)]

        page = await products.page(pks[1], 1)

        assert [product.pk for product in page.items] == [pks[2]]
        assert page.next_after == (await products.page(None, 3)).next_after
        assert await products.page(pks[3], 9) == Page([], None)

    @pytest.mark.parametrize("after", ["", "0", "1-", "-", "1-0000000", "x" * 26, "1-00000000"])
    async def test_what_is_no_cursor_of_this_list_is_refused(
        self, products: Products, after: str
    ) -> None:
        pk, gone = await added(products), await added(products)
        await products.delete(gone)

        wrong = [after, new_pk(), gone, pk.lower(), cursor_of(Listing("orders"), 1)]
        for each in [*wrong, cursor_of(PRODUCTS, 10**16), f"{cursor_of(PRODUCTS, 1)}\n"]:
            with pytest.raises(InvalidRequest):
                await products.page(each, 10)

    async def test_a_follower_misses_no_product_of_many_that_are_added_at_once(
        self, products: Products
    ) -> None:
        async def add(times: int) -> list[str]:
            return [await added(products, "x") for _ in range(times)]

        adding = asyncio.gather(*(add(5) for _ in range(8)))
        seen: list[str] = []
        while True:
            is_last = adding.done()
            new = await products.page(seen[-1] if seen else None, 100)
            seen += [product.pk for product in new.items]
            if is_last:
                break
            await asyncio.sleep(0)
        made = [pk for pks in await adding for pk in pks]

        assert sorted(seen) == sorted(made)
        assert await listed(products) == seen

    @pytest.mark.parametrize("limit", [1, 2, 3])
    async def test_what_a_crash_left_in_list_and_index_is_not_seen(
        self, products: Products, records: Records, limit: int
    ) -> None:
        there = []
        for _ in range(2):
            there.append(await products.create("Laptop", 1, 1))
            left = [there[-1].pk, *(new_pk() for _ in range(4))]
            names = {f"{suffix}\0{pk}\0old" for pk in left for suffix in ("lapland", "laptop")}
            await records.add_names(names)

        assert await walk(products.page, limit) == chunks(there, limit)
        search = await walk(lambda after, size: products.search_page("lap", after, size), limit)
        assert search == chunks(there, limit)

    @pytest.mark.parametrize("limit", [1, 3, 100])
    async def test_a_page_removes_the_entries_of_deleted_products_that_it_meets(
        self, products: Products, records: Records, limit: int
    ) -> None:
        pks = [await added(products) for _ in range(6)]
        for pk in (*pks[:3], pks[5]):
            await products.delete(pk)
            await records.enter(pk, [PRODUCTS])  # as if the delete had ended before it left

        pages = await walk(products.page, limit)

        assert [product.pk for page in pages for product in page] == pks[3:5]
        entries = await records.entries(PRODUCTS, 0, 100)
        assert [entry.member for entry in entries] == pks[3:5]


def chunks(items: list[T], size: int) -> list[list[T]]:
    """Return the items in pages."""
    return [items[start : start + size] for start in range(0, len(items), size)]


class TestSearch:
    @pytest.mark.parametrize(
        ("name", "text"),
        [
            ("Laptop", "Laptop"),
            ("Laptop", "lAP"),
            ("Laptop", "top"),
            ("Laptop", "p"),
            ("Große Straße", "GROSSE STRASSE"),
            ("STRASSE", "straße"),
            ("Café", "Cafe\u0301"),
            ("Cafe\u0301", "CAFÉ"),
            ("ΟΔΥΣΣΕΥΣ", "οδυσσευς"),
            ("a b", " "),
            ("100% [a-z]* \\d {x|y} @tag", "% [A-Z]* \\D {X|Y} @"),
            ("\N{GRINNING FACE} and more", "\N{GRINNING FACE}"),
            ("x" * 150 + "needle" + "y" * 44, "NEEDLE" + "y" * 44),
            ("ß" * 200, "s" * 400),
        ],
    )
    async def test_a_part_of_a_name_is_found_whatever_its_case(
        self, products: Products, name: str, text: str
    ) -> None:
        await added(products, name)

        assert await found(products, text) == [name]

    @pytest.mark.parametrize(
        ("name", "text"),
        [
            ("Laptop", "laptops"),
            ("Laptop", "ltp"),
            ("Laptop", "lap\0"),
            ("Laptop", "%"),
            ("Laptop", "*"),
            ("Laptop", "laptop "),
            ("Café", "Cafe"),
            ("x" * 45, "x" * 44 + "y"),
            ("x" * 40, "x" * 41),
        ],
    )
    async def test_what_is_not_in_a_name_finds_nothing(
        self, products: Products, name: str, text: str
    ) -> None:
        await added(products, name)

        assert await found(products, text) == []

    async def test_a_name_with_several_hits_counts_once(self, products: Products) -> None:
        await added(products, "banana banana " * 5)
        await added(products, "aaaaaaaaaa" * 9)

        assert len(await found(products, "a")) == 2
        assert len(await found(products, "ana")) == 1
        assert len(await found(products, "a" * 41)) == 1

    async def test_hits_are_in_the_order_of_what_stands_from_the_match_on_then_of_pks(
        self, products: Products
    ) -> None:
        names = ["a Lamp", "a lamp B", "Lamp", "lamp b", "the lamp: red", "LAMP"]
        pks = {name: await added(products, name) for name in names}

        page = await products.search_page("lamp", None, 10)

        assert [product.name for product in page.items] == [
            "a Lamp", "Lamp", "LAMP", "a lamp B", "lamp b", "the lamp: red",
        ]  # fmt: skip
        assert pks["a Lamp"] < pks["Lamp"] < pks["LAMP"]

    @pytest.mark.parametrize("limit", [1, 2, 3, 4, 8, 9])
    async def test_pages_make_up_the_whole_search_and_the_last_has_no_cursor(
        self, products: Products, limit: int
    ) -> None:
        for name in ("Straße", "Hauptstraße", "straße straße", "STRASSE", "Strasse 1"):
            await added(products, name)
        for number in range(3):
            await added(products, f"{'q' * number} no such thing {'straße' * 20}")
        everything = await products.search_page("STRASSE", None, 100)
        assert len(everything.items) == 8
        assert everything.next_after is None

        pages = await walk(lambda after, size: products.search_page("STRASSE", after, size), limit)

        assert pages == chunks(everything.items, limit), "an exactly full last page is the last"

    async def test_a_walk_goes_on_when_the_product_at_its_cursor_is_gone(
        self, products: Products
    ) -> None:
        pks = [await added(products, "Lamp") for _ in range(4)]
        cursor = (await products.search_page("lamp", None, 2)).next_after

        await products.delete(pks[1])
        await products.delete(pks[2])

        assert [p.pk for p in (await products.search_page("lamp", cursor, 2)).items] == [pks[3]]

    async def test_a_cursor_of_another_search_is_refused(self, products: Products) -> None:
        for _ in range(2):
            await added(products, "Lamp")
        cursor = (await products.search_page("lamp", None, 1)).next_after
        assert cursor is not None

        for text, wrong in (
            ("amp", cursor),
            ("lamp", new_pk()),
            ("lamp", "?"),
            ("lamp", "a\udcff"),
        ):
            with pytest.raises(InvalidRequest):
                await products.search_page(text, wrong, 1)


class TestUpdate:
    async def test_only_what_is_given_changes(self, products: Products) -> None:
        pk = await added(products, "Laptop", quantity=3, price_cents=100)

        assert await products.update(pk, "Notebook", None) == Product(pk, "Notebook", 100, 3)
        assert await products.update(pk, None, 0) == Product(pk, "Notebook", 0, 3)
        assert await products.update(pk, "Tablet", 7) == Product(pk, "Tablet", 7, 3)
        assert await products.get(pk) == Product(pk, "Tablet", 7, 3)

    async def test_a_renamed_product_is_found_under_its_new_name_alone(
        self, products: Products
    ) -> None:
        pk = await added(products, "Laptop one")
        await products.update(pk, "Notebook one", None)

        assert await found(products, "laptop") == []
        assert await found(products, "note") == ["Notebook one"]
        assert await found(products, "one") == ["Notebook one"]

    async def test_a_product_renamed_to_the_name_it_has_is_found_once(
        self, products: Products
    ) -> None:
        pk = await added(products, "Laptop")
        await products.update(pk, "Laptop", None)
        await products.update(pk, "LAPTOP", None)

        assert await found(products, "laptop") == ["LAPTOP"]

    async def test_of_several_renames_at_once_one_name_stays_and_is_the_only_one_found(
        self, products: Products
    ) -> None:
        pk = await added(products, "Laptop")
        names = [f"Notebook number {number}." for number in range(12)]

        await together(*(products.update(pk, name, None) for name in names))
        final = (await products.get(pk)).name

        assert final in names
        assert await found(products, "note") == [final]
        for name in ("Laptop", *names):
            assert await found(products, name) == ([final] if name == final else [])

    async def test_a_deleted_product_cannot_be_brought_back_by_a_rename(
        self, products: Products
    ) -> None:
        pk = await added(products, "Laptop")
        await products.delete(pk)

        with pytest.raises(ProductNotFound):
            await products.update(pk, "Notebook", 5)
        assert await found(products, "note") == []

    async def test_changes_of_price_and_stock_at_once_lose_nothing(
        self, products: Products
    ) -> None:
        pk = await added(products, quantity=30)

        await together(
            *(products.update(pk, None, 77) for _ in range(5)),
            *(products.update(pk, "Notebook", None) for _ in range(5)),
            *(products.change_stock(pk, 2) for _ in range(10)),
            *(products.reserve(pk, new_pk(), 1) for _ in range(20)),
        )

        assert await products.get(pk) == Product(pk, "Notebook", 77, 30)
        assert await products.stock(pk) == Stock(50, 30, 20, 0)


class TestChangeStock:
    async def test_units_are_booked_in_and_out(self, products: Products) -> None:
        pk = await added(products, quantity=5)

        assert await products.change_stock(pk, 7) == (await products.get(pk), False)
        assert await products.stock(pk) == Stock(12, 12, 0, 0)
        product, _ = await products.change_stock(pk, -12)
        assert product.quantity == 0
        assert await products.stock(pk) == Stock(0, 0, 0, 0)

    async def test_no_more_units_leave_than_are_available(self, products: Products) -> None:
        pk = await added(products, quantity=5)
        await products.reserve(pk, new_pk(), 2)

        with pytest.raises(InsufficientQuantity) as refusal:
            await products.change_stock(pk, -4)

        assert refusal.value.available == 3
        assert await products.stock(pk) == Stock(5, 3, 2, 0)

    async def test_the_limit_counts_what_is_on_hand(self, products: Products) -> None:
        pk = await added(products, quantity=MAX_ON_HAND)
        order_pk = new_pk()
        await products.reserve(pk, order_pk, 10)

        with pytest.raises(StockLimit):
            await products.change_stock(pk, 1)
        await products.ship(pk, order_pk)
        await products.change_stock(pk, 10)
        for too_much in (1, MAX_ON_HAND + 1):
            with pytest.raises(StockLimit):
                await products.change_stock(pk, too_much)

        assert await products.stock(pk) == Stock(MAX_ON_HAND + 10, MAX_ON_HAND, 0, 10)

    async def test_of_many_changes_at_once_none_is_lost_and_none_goes_below_zero(
        self, products: Products
    ) -> None:
        pk = await added(products, quantity=10)

        answers, errors = await together(*(products.change_stock(pk, -1) for _ in range(25)))

        assert (len(answers), len(errors)) == (10, 15)
        assert min(product.quantity for product, _ in answers) == 0
        assert await products.stock(pk) == Stock(0, 0, 0, 0)

    async def test_a_key_counts_once(self, products: Products) -> None:
        pk = await added(products, quantity=5)

        assert await products.change_stock(pk, 3, "delivery 1") == (await products.get(pk), False)
        await products.change_stock(pk, 1)
        product, had_counted = await products.change_stock(pk, 3, "delivery 1")

        assert (product.quantity, had_counted) == (9, True)
        assert await products.stock(pk) == Stock(9, 9, 0, 0)

    async def test_a_key_sent_many_times_at_once_counts_once(self, products: Products) -> None:
        pk = await added(products, quantity=5)

        answers, _ = await together(*(products.change_stock(pk, -5, "key") for _ in range(20)))

        assert sorted(had_counted for _, had_counted in answers) == [False, *[True] * 19]
        assert await products.stock(pk) == Stock(0, 0, 0, 0)

    async def test_a_key_is_of_one_product(self, products: Products) -> None:
        for pk in (await added(products, quantity=1), await added(products, quantity=1)):
            assert await products.change_stock(pk, 1, "key") == (await products.get(pk), False)

    async def test_a_key_with_another_change_is_refused(self, products: Products) -> None:
        pk = await added(products, quantity=5)
        await products.change_stock(pk, 3, "key")

        for other in (4, -3, 30):
            with pytest.raises(IdempotencyKeyReused):
                await products.change_stock(pk, other, "key")
        assert await products.stock(pk) == Stock(8, 8, 0, 0)

    async def test_a_refused_change_leaves_its_key_free(self, products: Products) -> None:
        pk = await added(products, quantity=MAX_ON_HAND - 1)

        with pytest.raises(StockLimit):
            await products.change_stock(pk, 2, "key")
        with pytest.raises(InsufficientQuantity):
            await products.change_stock(pk, -MAX_ON_HAND, "key")
        await products.change_stock(pk, 1, "key")

        assert await products.stock(pk) == Stock(MAX_ON_HAND, MAX_ON_HAND, 0, 0)

    async def test_a_key_is_kept_for_a_day(self, products: Products, clock: MovedClock) -> None:
        pk = await added(products, quantity=5)
        await products.change_stock(pk, 3, "key")

        clock.move(DAY - 60)
        assert (await products.change_stock(pk, 3, "key"))[1]
        clock.move(60)
        assert not (await products.change_stock(pk, 3, "key"))[1]
        assert await products.stock(pk) == Stock(11, 11, 0, 0)


class TestDelete:
    async def test_a_deleted_product_is_gone_from_every_read(self, products: Products) -> None:
        pk, other = await added(products, "Lamp one"), await added(products, "Lamp two")
        await products.delete(pk)

        for call in (
            products.get(pk),
            products.update(pk, None, 1),
            products.change_stock(pk, 1),
            products.reserve(pk, new_pk(), 1),
            products.delete(pk),
        ):
            with pytest.raises(ProductNotFound):
                await call
        assert await listed(products) == [other]
        assert await found(products, "lamp") == ["Lamp two"]

    async def test_of_many_deletes_at_once_one_deletes(self, products: Products) -> None:
        pk = await added(products)

        answers, errors = await together(*(products.delete(pk) for _ in range(10)))

        assert (len(answers), len(errors)) == (1, 9)

    async def test_the_orders_of_a_deleted_product_live_on(self, products: Products) -> None:
        pk = await added(products, quantity=10)
        cancelled, shipped, kept = new_pk(), new_pk(), new_pk()
        for order_pk in (cancelled, shipped, kept):
            await products.reserve(pk, order_pk, 2)
        await products.delete(pk)

        assert await live_orders(products, pk) == [cancelled, shipped, kept]
        await products.release(pk, cancelled)
        await products.ship(pk, shipped)

        assert await live_orders(products, pk) == [kept]
        assert await products.stock(pk) == Stock(10, 6, 2, 2)
        again, is_new = await products.reserve(pk, kept, 2)
        assert (again.quantity, is_new) == (2, False)
        for other in (cancelled, new_pk()):
            with pytest.raises((ReservationReleased, ProductNotFound)):
                await products.reserve(pk, other, 2)
        assert await products.stock(pk) == Stock(10, 6, 2, 2)


class TestReserve:
    async def test_units_are_held_at_the_price_and_name_of_that_moment(
        self, products: Products
    ) -> None:
        pk, order_pk = await added(products, "Laptop", price_cents=500), new_pk()
        taken, _ = await products.reserve(pk, order_pk, 4)
        await products.update(pk, "Notebook", 900)

        assert taken == Reservation(pk, order_pk, 4, 500, "Laptop")
        assert await products.reserve(pk, order_pk, 4) == (taken, False)
        assert (await products.reservations_page(pk, None, 10)).items == [taken]
        assert await products.stock(pk) == Stock(10, 6, 4, 0)

    async def test_of_many_orders_at_once_just_as_many_get_units_as_there_are(
        self, products: Products
    ) -> None:
        pk = await added(products, quantity=20)

        answers, errors = await together(*(products.reserve(pk, new_pk(), 3) for _ in range(60)))

        assert len(answers) == 6
        assert {type(error) for error in errors} == {ReservationRefused}
        assert await products.stock(pk) == Stock(20, 2, 18, 0)

    async def test_one_order_sent_many_times_at_once_takes_once(self, products: Products) -> None:
        pk, order_pk = await added(products), new_pk()

        answers, _ = await together(*(products.reserve(pk, order_pk, 6) for _ in range(20)))

        assert len({reservation for reservation, _ in answers}) == 1
        assert len(answers) == 20
        assert sum(is_new for _, is_new in answers) <= 1
        assert await products.stock(pk) == Stock(10, 4, 6, 0)

    async def test_the_last_units_can_be_held(self, products: Products) -> None:
        pk = await added(products, quantity=3)
        await products.reserve(pk, new_pk(), 3)

        assert (await products.get(pk)).quantity == 0

    async def test_a_refusal_says_what_is_available_and_takes_nothing(
        self, products: Products
    ) -> None:
        pk = await added(products, quantity=3)

        with pytest.raises(ReservationRefused) as refusal:
            await products.reserve(pk, new_pk(), 4)

        assert refusal.value.available == 3
        assert await products.stock(pk) == Stock(3, 3, 0, 0)
        assert await live_orders(products, pk) == []

    async def test_a_refusal_is_final_for_its_order_until_it_is_forgotten(
        self, products: Products, clock: MovedClock
    ) -> None:
        pk, order_pk = await added(products, quantity=1), new_pk()
        with pytest.raises(ReservationRefused):
            await products.reserve(pk, order_pk, 2)
        await products.change_stock(pk, 9)

        clock.move(TEN_MINUTES - 60)
        for quantity in (2, 1):
            with pytest.raises(ReservationRefused) as refusal:
                await products.reserve(pk, order_pk, quantity)
            assert refusal.value.available == 1
        await products.reserve(pk, new_pk(), 2)
        clock.move(60)
        await products.reserve(pk, order_pk, 2)

        assert await products.stock(pk) == Stock(10, 6, 4, 0)

    async def test_a_reservation_does_not_go_away_by_itself(
        self, products: Products, clock: MovedClock
    ) -> None:
        pk, order_pk = await added(products), new_pk()
        with pytest.raises(ReservationRefused):
            await products.reserve(pk, order_pk, 11)
        clock.move(TEN_MINUTES)
        await products.reserve(pk, order_pk, 4)

        clock.move(400 * DAY)

        assert await live_orders(products, pk) == [order_pk]
        await products.release(pk, order_pk)
        assert await products.stock(pk) == Stock(10, 10, 0, 0)

    async def test_another_quantity_is_a_conflict(self, products: Products) -> None:
        pk, order_pk = await added(products), new_pk()
        await products.reserve(pk, order_pk, 4)

        for other in (3, 5, 40):
            with pytest.raises(ReservationConflict):
                await products.reserve(pk, order_pk, other)
        assert await products.stock(pk) == Stock(10, 6, 4, 0)

    async def test_one_order_at_two_products_holds_units_of_both(self, products: Products) -> None:
        one, two, order_pk = await added(products), await added(products), new_pk()
        await products.reserve(one, order_pk, 1)
        await products.reserve(two, order_pk, 2)
        await products.release(one, order_pk)

        assert await products.stock(one) == Stock(10, 10, 0, 0)
        assert await products.stock(two) == Stock(10, 8, 2, 0)

    @pytest.mark.parametrize("limit", [1, 2, 4, 5])
    async def test_live_reservations_are_paged_in_the_order_of_their_orders(
        self, products: Products, limit: int
    ) -> None:
        pk = await added(products)
        orders = [new_pk() for _ in range(6)]
        for order_pk in reversed(orders):
            await products.reserve(pk, order_pk, 1)
        await products.release(pk, orders[1])
        await products.ship(pk, orders[3])
        live = [orders[0], orders[2], orders[4], orders[5]]

        pages = await walk(lambda after, size: products.reservations_page(pk, after, size), limit)

        assert [[held.order_pk for held in page] for page in pages] == chunks(live, limit)


class TestRelease:
    async def test_units_come_back_once(self, products: Products) -> None:
        pk, order_pk = await added(products), new_pk()
        await products.reserve(pk, order_pk, 4)

        for _ in range(3):
            await products.release(pk, order_pk)

        assert await products.stock(pk) == Stock(10, 10, 0, 0)
        assert await live_orders(products, pk) == []

    async def test_sent_many_times_at_once_units_come_back_once(self, products: Products) -> None:
        pk, order_pk = await added(products), new_pk()
        await products.reserve(pk, order_pk, 4)

        _, errors = await together(*(products.release(pk, order_pk) for _ in range(20)))

        assert errors == []
        assert await products.stock(pk) == Stock(10, 10, 0, 0)

    @pytest.mark.parametrize("was", ["held", "unknown", "refused"])
    async def test_for_ten_minutes_the_order_cannot_reserve_again(
        self, products: Products, clock: MovedClock, was: str
    ) -> None:
        pk, order_pk = await added(products), new_pk()
        if was != "unknown":
            await together(products.reserve(pk, order_pk, 4 if was == "held" else 11))
        await products.release(pk, order_pk)

        clock.move(TEN_MINUTES - 60)
        await products.release(pk, order_pk)
        for quantity in (4, 11):
            with pytest.raises(ReservationReleased):
                await products.reserve(pk, order_pk, quantity)
        assert await products.stock(pk) == Stock(10, 10, 0, 0)

        clock.move(60)
        await products.reserve(pk, order_pk, 4)
        assert await products.stock(pk) == Stock(10, 6, 4, 0)

    async def test_of_a_product_nobody_knows_it_is_no_error(self, products: Products) -> None:
        pk = new_pk()
        await products.release(pk, new_pk())
        await products.ship(pk, new_pk())

        with pytest.raises(ProductNotFound):
            await products.stock(pk)

    async def test_a_late_reservation_beside_its_release_leaves_nothing_held(
        self, products: Products
    ) -> None:
        pk = await added(products, quantity=5)
        orders = [new_pk() for _ in range(10)]

        await together(
            *itertools.chain.from_iterable(
                (products.reserve(pk, order_pk, 1), products.release(pk, order_pk))
                for order_pk in orders
            )
        )

        assert await products.stock(pk) == Stock(5, 5, 0, 0)
        assert await live_orders(products, pk) == []


class TestShip:
    async def test_units_leave_once(self, products: Products) -> None:
        pk, order_pk = await added(products), new_pk()
        await products.reserve(pk, order_pk, 4)

        for _ in range(3):
            await products.ship(pk, order_pk)

        assert await products.stock(pk) == Stock(10, 6, 0, 4)
        assert await live_orders(products, pk) == []

    async def test_sent_many_times_at_once_units_leave_once(self, products: Products) -> None:
        pk, order_pk = await added(products), new_pk()
        await products.reserve(pk, order_pk, 4)

        _, errors = await together(*(products.ship(pk, order_pk) for _ in range(20)))

        assert errors == []
        assert await products.stock(pk) == Stock(10, 6, 0, 4)

    async def test_where_nothing_is_known_nothing_happens(self, products: Products) -> None:
        pk, order_pk = await added(products), new_pk()

        await products.ship(pk, order_pk)

        assert await products.stock(pk) == Stock(10, 10, 0, 0)
        await products.reserve(pk, order_pk, 1)

    @pytest.mark.parametrize("was", ["released", "refused"])
    async def test_what_is_not_held_any_more_cannot_be_shipped(
        self, products: Products, was: str
    ) -> None:
        pk, order_pk = await added(products), new_pk()
        if was == "released":
            await products.reserve(pk, order_pk, 4)
            await products.release(pk, order_pk)
        else:
            await together(products.reserve(pk, order_pk, 11))

        with pytest.raises(ReservationReleased):
            await products.ship(pk, order_pk)
        assert await products.stock(pk) == Stock(10, 10, 0, 0)

    async def test_what_was_shipped_cannot_be_released(
        self, products: Products, clock: MovedClock
    ) -> None:
        pk, order_pk = await added(products), new_pk()
        await products.reserve(pk, order_pk, 4)
        await products.ship(pk, order_pk)

        clock.move(TEN_MINUTES - 60)
        with pytest.raises(ReservationShipped):
            await products.release(pk, order_pk)
        clock.move(60)
        await products.release(pk, order_pk)

        assert await products.stock(pk) == Stock(10, 6, 0, 4)

    async def test_the_same_reservation_again_after_shipping_takes_nothing(
        self, products: Products
    ) -> None:
        pk, order_pk = await added(products), new_pk()
        taken, _ = await products.reserve(pk, order_pk, 4)
        await products.ship(pk, order_pk)

        assert await products.reserve(pk, order_pk, 4) == (taken, False)
        with pytest.raises(ReservationConflict):
            await products.reserve(pk, order_pk, 5)
        assert await products.stock(pk) == Stock(10, 6, 0, 4)

    async def test_shipped_and_released_at_once_it_is_one_of_the_two(
        self, products: Products
    ) -> None:
        pk = await added(products)
        orders = [new_pk() for _ in range(10)]
        for order_pk in orders:
            await products.reserve(pk, order_pk, 1)

        _, errors = await together(
            *itertools.chain.from_iterable(
                (products.ship(pk, order_pk), products.release(pk, order_pk)) for order_pk in orders
            )
        )

        assert len(errors) == 10
        stock = await products.stock(pk)
        assert stock == Stock(10, 10 - stock.shipped, 0, stock.shipped)


@pytest.mark.parametrize("storage", ["memory", "redis"])
async def test_who_reserves_or_deletes_first_is_told_so(shop: SmallShop) -> None:
    """Not over a lossy wire: the repeated command finds the reservation of its first run."""
    pk, order_pk = await shop.add(10), new_pk()

    told, _ = await together(*(shop.products.reserve(pk, order_pk, 2) for _ in range(10)))

    assert sorted(is_new for _, is_new in told) == [*[False] * 9, True]


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
    left = await records.names("", "", 1000)
    for _ in range(2):
        with pytest.raises(ProductNotFound):
            await products.delete(pk)

    assert [name for name in left if pk in name]
    assert not [name for name in await records.names("", "", 1000) if pk in name]
    assert [entry.member for entry in await records.entries(PRODUCTS, 0, 9)] == [other]


async def test_renames_and_deletes_leave_no_names_behind(
    products: Products, records: Records
) -> None:
    pk, other = await added(products, "Laptop"), await added(products, "Lamp")
    await together(*(products.update(pk, f"Notebook {number}", None) for number in range(5)))
    await products.update(pk, "Pen", None)
    await products.delete(other)
    with pytest.raises(ProductNotFound):
        await products.update(other, "Lantern", None)

    names = [name.split("\0")[:2] for name in await records.names("", "", 100)]
    assert names == [["en", pk], ["n", pk], ["pen", pk]]
    assert await listed(products) == [pk]


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
