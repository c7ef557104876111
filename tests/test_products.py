"""What `ProductStore` promises, on every storage; then what only Redis can get wrong.

On the lossy wire every answer of Redis is lost once, so each command comes to Redis twice.
"""

import asyncio
import functools
import itertools
from collections.abc import AsyncIterator, Awaitable
from typing import TypeVar

import pytest
from redis.crc import key_slot
from redis_stores.products import RedisProductStore
from shopsphere.stores import DAY_SECONDS, REFUSED_SECONDS, ProductStore

from in_memory_db import MemoryProductStore
from redis_clients import ShopRedis
from redis_db import SCRIPTS
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
)
from shopsphere.domain.pks import new_pk
from shopsphere.domain.values import MAX_ON_HAND, Page, Product, Reservation, Stock
from tests.lossy_wire import connected
from tests.moved_clock import MovedClock
from tests.servers import RedisServer, wait_until

pytestmark = pytest.mark.anyio

T = TypeVar("T")


@pytest.fixture(params=["memory", "redis", "redis over a lossy wire"])
async def store(
    request: pytest.FixtureRequest, clock: MovedClock, redis_server: RedisServer
) -> AsyncIterator[ProductStore]:
    """An empty store of products, on each storage in turn."""
    if request.param == "memory":
        yield MemoryProductStore(clock)
        return
    async with connected(redis_server, is_lossy="lossy" in request.param) as client:
        yield RedisProductStore(client, "shop")


@pytest.fixture
async def client(clock: MovedClock, redis_server: RedisServer) -> AsyncIterator[ShopRedis]:
    async with connected(redis_server) as client:
        yield client


async def added(
    store: ProductStore, name: str = "Laptop", quantity: int = 10, price_cents: int = 99999
) -> str:
    """Add a product; return its pk."""
    product = Product(new_pk(), name, price_cents, quantity)
    await store.add(product)
    return product.pk


async def together(*calls: Awaitable[T]) -> tuple[list[T], list[ShopError]]:
    """Run all at once; return what was answered, and what was refused."""
    outcomes = await asyncio.gather(*calls, return_exceptions=True)
    errors = [outcome for outcome in outcomes if isinstance(outcome, ShopError)]
    return [outcome for outcome in outcomes if not isinstance(outcome, BaseException)], errors


async def found(store: ProductStore, text: str) -> list[str]:
    """Return the names that a search finds, in its order."""
    return [product.name for product in (await store.search_page(text, None, 1000)).items]


async def listed(store: ProductStore) -> list[str]:
    """Return the pks of all that is listed."""
    return [product.pk for product in (await store.list_page(None, 1000)).items]


async def live_orders(store: ProductStore, pk: str) -> list[str]:
    """Return the orders that hold units of a product."""
    return [held.order_id for held in (await store.reservations_page(pk, None, 1000)).items]


class TestAddAndGet:
    async def test_a_new_product_has_its_units_received_and_available(
        self, store: ProductStore
    ) -> None:
        pk = await added(store, "Laptop", quantity=7, price_cents=123)

        assert await store.get(pk) == Product(pk, "Laptop", 123, 7)
        assert await store.stock(pk) == Stock(received=7, available=7, reserved=0, shipped=0)

    async def test_a_product_that_is_not_there_is_not_found(self, store: ProductStore) -> None:
        pk = new_pk()

        for call in (
            store.get(pk),
            store.update(pk, "Laptop", 1),
            store.update(pk, None, 1),
            store.change_stock(pk, 1),
            store.change_stock(pk, 1, "key"),
            store.delete(pk),
            store.stock(pk),
            store.reservations_page(pk, None, 10),
            store.reserve(pk, new_pk(), 1),
        ):
            with pytest.raises(ProductNotFound):
                await call
        assert await listed(store) == []
        assert await found(store, "laptop") == []

    async def test_a_name_and_the_greatest_figures_come_back_as_they_were(
        self, store: ProductStore
    ) -> None:
        name = "  'Müsli' {a}:b \\ \"%d\" \N{GRINNING FACE} \u2028 日本  "
        pk = await added(store, name, quantity=MAX_ON_HAND, price_cents=100_000_000)

        assert await store.get(pk) == Product(pk, name, 100_000_000, MAX_ON_HAND)


class TestLists:
    async def test_products_are_listed_in_the_order_of_their_pks(self, store: ProductStore) -> None:
        pks = [new_pk() for _ in range(5)]
        for pk in reversed(pks):
            await store.add(Product(pk, "Laptop", 1, 1))

        assert await listed(store) == pks

    @pytest.mark.parametrize("limit", [1, 2, 3, 6, 7])
    async def test_pages_make_up_the_whole_list_and_the_last_has_no_cursor(
        self, store: ProductStore, limit: int
    ) -> None:
        pks = [await added(store) for _ in range(6)]

        pages = [await store.list_page(None, limit)]
        while (cursor := pages[-1].next_after) is not None:
            pages.append(await store.list_page(cursor, limit))

        assert [product.pk for page in pages for product in page.items] == pks
        assert [len(page.items) for page in pages[:-1]] == [limit] * (len(pages) - 1)
        assert len(pages) == -(-6 // limit), "an exactly full last page is the last"

    async def test_a_walk_goes_on_when_the_product_at_its_cursor_is_gone(
        self, store: ProductStore
    ) -> None:
        pks = [await added(store) for _ in range(5)]
        cursor = (await store.list_page(None, 2)).next_after
        assert cursor == pks[1]

        await store.delete(pks[1])
        await store.delete(pks[3])
        page = await store.list_page(cursor, 2)

        assert [product.pk for product in page.items] == [pks[2], pks[4]]
        assert page.next_after is None

    async def test_a_cursor_need_never_have_been_a_product(self, store: ProductStore) -> None:
        before, pk, after = new_pk(), await added(store), new_pk()

        assert [product.pk for product in (await store.list_page(before, 9)).items] == [pk]
        assert await store.list_page(after, 9) == Page([], None)


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
        self, store: ProductStore, name: str, text: str
    ) -> None:
        await added(store, name)

        assert await found(store, text) == [name]

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
        self, store: ProductStore, name: str, text: str
    ) -> None:
        await added(store, name)

        assert await found(store, text) == []

    async def test_a_name_with_several_hits_counts_once(self, store: ProductStore) -> None:
        await added(store, "banana banana " * 5)
        await added(store, "aaaaaaaaaa" * 9)

        assert len(await found(store, "a")) == 2
        assert len(await found(store, "ana")) == 1
        assert len(await found(store, "a" * 41)) == 1

    async def test_hits_are_in_the_order_of_what_stands_from_the_match_on_then_of_pks(
        self, store: ProductStore
    ) -> None:
        names = ["a Lamp", "a lamp B", "Lamp", "lamp b", "the lamp: red", "LAMP"]
        pks = {name: await added(store, name) for name in names}

        page = await store.search_page("lamp", None, 10)

        assert [product.name for product in page.items] == [
            "a Lamp", "Lamp", "LAMP", "a lamp B", "lamp b", "the lamp: red",
        ]  # fmt: skip
        assert pks["a Lamp"] < pks["Lamp"] < pks["LAMP"]

    @pytest.mark.parametrize("limit", [1, 2, 3, 4, 8, 9])
    async def test_pages_make_up_the_whole_search_and_the_last_has_no_cursor(
        self, store: ProductStore, limit: int
    ) -> None:
        for name in ("Straße", "Hauptstraße", "straße straße", "STRASSE", "Strasse 1"):
            await added(store, name)
        for number in range(3):
            await added(store, f"{'q' * number} no such thing {'straße' * 20}")
        everything = await store.search_page("STRASSE", None, 100)
        assert len(everything.items) == 8
        assert everything.next_after is None

        pages = [await store.search_page("STRASSE", None, limit)]
        while (cursor := pages[-1].next_after) is not None:
            pages.append(await store.search_page("STRASSE", cursor, limit))

        assert [product for page in pages for product in page.items] == everything.items
        assert len(pages) == -(-8 // limit), "an exactly full last page is the last"

    async def test_a_walk_goes_on_when_the_product_at_its_cursor_is_gone(
        self, store: ProductStore
    ) -> None:
        pks = [await added(store, "Lamp") for _ in range(4)]
        cursor = (await store.search_page("lamp", None, 2)).next_after

        await store.delete(pks[1])
        await store.delete(pks[2])

        assert [p.pk for p in (await store.search_page("lamp", cursor, 2)).items] == [pks[3]]

    async def test_a_cursor_of_another_search_is_refused(self, store: ProductStore) -> None:
        for _ in range(2):
            await added(store, "Lamp")
        cursor = (await store.search_page("lamp", None, 1)).next_after
        assert cursor is not None

        for text, wrong in (
            ("amp", cursor),
            ("lamp", new_pk()),
            ("lamp", "?"),
            ("lamp", "a\udcff"),
        ):
            with pytest.raises(InvalidRequest):
                await store.search_page(text, wrong, 1)


class TestUpdate:
    async def test_only_what_is_given_changes(self, store: ProductStore) -> None:
        pk = await added(store, "Laptop", quantity=3, price_cents=100)

        assert await store.update(pk, "Notebook", None) == Product(pk, "Notebook", 100, 3)
        assert await store.update(pk, None, 0) == Product(pk, "Notebook", 0, 3)
        assert await store.update(pk, "Tablet", 7) == Product(pk, "Tablet", 7, 3)
        assert await store.get(pk) == Product(pk, "Tablet", 7, 3)

    async def test_a_renamed_product_is_found_under_its_new_name_alone(
        self, store: ProductStore
    ) -> None:
        pk = await added(store, "Laptop one")
        await store.update(pk, "Notebook one", None)

        assert await found(store, "laptop") == []
        assert await found(store, "note") == ["Notebook one"]
        assert await found(store, "one") == ["Notebook one"]

    async def test_a_product_renamed_to_the_name_it_has_is_found_once(
        self, store: ProductStore
    ) -> None:
        pk = await added(store, "Laptop")
        await store.update(pk, "Laptop", None)
        await store.update(pk, "LAPTOP", None)

        assert await found(store, "laptop") == ["LAPTOP"]

    async def test_of_several_renames_at_once_one_name_stays_and_is_the_only_one_found(
        self, store: ProductStore
    ) -> None:
        pk = await added(store, "Laptop")
        names = [f"Notebook number {number}." for number in range(12)]

        await together(*(store.update(pk, name, None) for name in names))
        final = (await store.get(pk)).name

        assert final in names
        assert await found(store, "note") == [final]
        for name in ("Laptop", *names):
            assert await found(store, name) == ([final] if name == final else [])

    async def test_a_deleted_product_cannot_be_brought_back_by_a_rename(
        self, store: ProductStore
    ) -> None:
        pk = await added(store, "Laptop")
        await store.delete(pk)

        with pytest.raises(ProductNotFound):
            await store.update(pk, "Notebook", 5)
        assert await found(store, "note") == []

    async def test_changes_of_price_and_stock_at_once_lose_nothing(
        self, store: ProductStore
    ) -> None:
        pk = await added(store, quantity=30)

        await together(
            *(store.update(pk, None, 77) for _ in range(5)),
            *(store.update(pk, "Notebook", None) for _ in range(5)),
            *(store.change_stock(pk, 2) for _ in range(10)),
            *(store.reserve(pk, new_pk(), 1) for _ in range(20)),
        )

        assert await store.get(pk) == Product(pk, "Notebook", 77, 30)
        assert await store.stock(pk) == Stock(50, 30, 20, 0)


class TestChangeStock:
    async def test_units_are_booked_in_and_out(self, store: ProductStore) -> None:
        pk = await added(store, quantity=5)

        assert await store.change_stock(pk, 7) == (await store.get(pk), False)
        assert await store.stock(pk) == Stock(12, 12, 0, 0)
        product, _ = await store.change_stock(pk, -12)
        assert product.quantity == 0
        assert await store.stock(pk) == Stock(0, 0, 0, 0)

    async def test_no_more_units_leave_than_are_available(self, store: ProductStore) -> None:
        pk = await added(store, quantity=5)
        await store.reserve(pk, new_pk(), 2)

        with pytest.raises(InsufficientQuantity) as refusal:
            await store.change_stock(pk, -4)

        assert refusal.value.available == 3
        assert await store.stock(pk) == Stock(5, 3, 2, 0)

    async def test_the_limit_counts_what_is_on_hand(self, store: ProductStore) -> None:
        pk = await added(store, quantity=MAX_ON_HAND)
        order_pk = new_pk()
        await store.reserve(pk, order_pk, 10)

        with pytest.raises(StockLimit):
            await store.change_stock(pk, 1)
        await store.ship(pk, order_pk)
        await store.change_stock(pk, 10)
        for too_much in (1, MAX_ON_HAND + 1):
            with pytest.raises(StockLimit):
                await store.change_stock(pk, too_much)

        assert await store.stock(pk) == Stock(MAX_ON_HAND + 10, MAX_ON_HAND, 0, 10)

    async def test_of_many_changes_at_once_none_is_lost_and_none_goes_below_zero(
        self, store: ProductStore
    ) -> None:
        pk = await added(store, quantity=10)

        answers, errors = await together(*(store.change_stock(pk, -1) for _ in range(25)))

        assert (len(answers), len(errors)) == (10, 15)
        assert min(product.quantity for product, _ in answers) == 0
        assert await store.stock(pk) == Stock(0, 0, 0, 0)

    async def test_a_key_counts_once(self, store: ProductStore) -> None:
        pk = await added(store, quantity=5)

        assert await store.change_stock(pk, 3, "delivery 1") == (await store.get(pk), False)
        await store.change_stock(pk, 1)
        product, had_counted = await store.change_stock(pk, 3, "delivery 1")

        assert (product.quantity, had_counted) == (9, True)
        assert await store.stock(pk) == Stock(9, 9, 0, 0)

    async def test_a_key_sent_many_times_at_once_counts_once(self, store: ProductStore) -> None:
        pk = await added(store, quantity=5)

        answers, _ = await together(*(store.change_stock(pk, -5, "key") for _ in range(20)))

        assert sorted(had_counted for _, had_counted in answers) == [False, *[True] * 19]
        assert await store.stock(pk) == Stock(0, 0, 0, 0)

    async def test_a_key_is_of_one_product(self, store: ProductStore) -> None:
        for pk in (await added(store, quantity=1), await added(store, quantity=1)):
            assert await store.change_stock(pk, 1, "key") == (await store.get(pk), False)

    async def test_a_key_with_another_change_is_refused(self, store: ProductStore) -> None:
        pk = await added(store, quantity=5)
        await store.change_stock(pk, 3, "key")

        for other in (4, -3, 30):
            with pytest.raises(IdempotencyKeyReused):
                await store.change_stock(pk, other, "key")
        assert await store.stock(pk) == Stock(8, 8, 0, 0)

    async def test_a_refused_change_leaves_its_key_free(self, store: ProductStore) -> None:
        pk = await added(store, quantity=MAX_ON_HAND - 1)

        with pytest.raises(StockLimit):
            await store.change_stock(pk, 2, "key")
        with pytest.raises(InsufficientQuantity):
            await store.change_stock(pk, -MAX_ON_HAND, "key")
        await store.change_stock(pk, 1, "key")

        assert await store.stock(pk) == Stock(MAX_ON_HAND, MAX_ON_HAND, 0, 0)

    async def test_a_key_is_kept_for_a_day(self, store: ProductStore, clock: MovedClock) -> None:
        pk = await added(store, quantity=5)
        await store.change_stock(pk, 3, "key")

        clock.move(DAY_SECONDS - 60)
        assert (await store.change_stock(pk, 3, "key"))[1]
        clock.move(60)
        assert not (await store.change_stock(pk, 3, "key"))[1]
        assert await store.stock(pk) == Stock(11, 11, 0, 0)


class TestDelete:
    async def test_a_deleted_product_is_gone_from_every_read(self, store: ProductStore) -> None:
        pk, other = await added(store, "Lamp one"), await added(store, "Lamp two")
        await store.delete(pk)

        for call in (
            store.get(pk),
            store.update(pk, None, 1),
            store.change_stock(pk, 1),
            store.reserve(pk, new_pk(), 1),
            store.delete(pk),
        ):
            with pytest.raises(ProductNotFound):
                await call
        assert await listed(store) == [other]
        assert await found(store, "lamp") == ["Lamp two"]

    async def test_of_many_deletes_at_once_one_deletes(self, store: ProductStore) -> None:
        pk = await added(store)

        answers, errors = await together(*(store.delete(pk) for _ in range(10)))

        assert (len(answers), len(errors)) == (1, 9)

    async def test_the_orders_of_a_deleted_product_live_on(self, store: ProductStore) -> None:
        pk = await added(store, quantity=10)
        cancelled, shipped, kept = new_pk(), new_pk(), new_pk()
        for order_pk in (cancelled, shipped, kept):
            await store.reserve(pk, order_pk, 2)
        await store.delete(pk)

        assert await live_orders(store, pk) == [cancelled, shipped, kept]
        await store.release(pk, cancelled)
        await store.ship(pk, shipped)

        assert await live_orders(store, pk) == [kept]
        assert await store.stock(pk) == Stock(10, 6, 2, 2)
        with pytest.raises(ProductNotFound):
            await store.reserve(pk, kept, 2)


class TestReserve:
    async def test_units_are_held_at_the_price_and_name_of_that_moment(
        self, store: ProductStore
    ) -> None:
        pk, order_pk = await added(store, "Laptop", price_cents=500), new_pk()
        taken, _ = await store.reserve(pk, order_pk, 4)
        await store.update(pk, "Notebook", 900)

        assert taken == Reservation(pk, order_pk, 4, 500, "Laptop")
        assert await store.reserve(pk, order_pk, 4) == (taken, False)
        assert (await store.reservations_page(pk, None, 10)).items == [taken]
        assert await store.stock(pk) == Stock(10, 6, 4, 0)

    async def test_of_many_orders_at_once_just_as_many_get_units_as_there_are(
        self, store: ProductStore
    ) -> None:
        pk = await added(store, quantity=20)

        answers, errors = await together(*(store.reserve(pk, new_pk(), 3) for _ in range(60)))

        assert len(answers) == 6
        assert {type(error) for error in errors} == {ReservationRefused}
        assert await store.stock(pk) == Stock(20, 2, 18, 0)

    async def test_one_order_sent_many_times_at_once_takes_once(self, store: ProductStore) -> None:
        pk, order_pk = await added(store), new_pk()

        answers, _ = await together(*(store.reserve(pk, order_pk, 6) for _ in range(20)))

        assert len({reservation for reservation, _ in answers}) == 1
        assert len(answers) == 20
        assert sum(is_new for _, is_new in answers) <= 1
        assert await store.stock(pk) == Stock(10, 4, 6, 0)

    async def test_the_last_units_can_be_held(self, store: ProductStore) -> None:
        pk = await added(store, quantity=3)
        await store.reserve(pk, new_pk(), 3)

        assert (await store.get(pk)).quantity == 0

    async def test_a_refusal_says_what_is_available_and_takes_nothing(
        self, store: ProductStore
    ) -> None:
        pk = await added(store, quantity=3)

        with pytest.raises(ReservationRefused) as refusal:
            await store.reserve(pk, new_pk(), 4)

        assert refusal.value.available == 3
        assert await store.stock(pk) == Stock(3, 3, 0, 0)
        assert await live_orders(store, pk) == []

    async def test_a_refusal_is_final_for_its_order_until_it_is_forgotten(
        self, store: ProductStore, clock: MovedClock
    ) -> None:
        pk, order_pk = await added(store, quantity=1), new_pk()
        with pytest.raises(ReservationRefused):
            await store.reserve(pk, order_pk, 2)
        await store.change_stock(pk, 9)

        clock.move(REFUSED_SECONDS - 60)
        for quantity in (2, 1):
            with pytest.raises(ReservationRefused) as refusal:
                await store.reserve(pk, order_pk, quantity)
            assert refusal.value.available == 1
        await store.reserve(pk, new_pk(), 2)
        clock.move(60)
        await store.reserve(pk, order_pk, 2)

        assert await store.stock(pk) == Stock(10, 6, 4, 0)

    async def test_a_reservation_does_not_go_away_by_itself(
        self, store: ProductStore, clock: MovedClock
    ) -> None:
        pk, order_pk = await added(store), new_pk()
        with pytest.raises(ReservationRefused):
            await store.reserve(pk, order_pk, 11)
        clock.move(REFUSED_SECONDS)
        await store.reserve(pk, order_pk, 4)

        clock.move(400 * DAY_SECONDS)

        assert await live_orders(store, pk) == [order_pk]
        await store.release(pk, order_pk)
        assert await store.stock(pk) == Stock(10, 10, 0, 0)

    async def test_another_quantity_is_a_conflict(self, store: ProductStore) -> None:
        pk, order_pk = await added(store), new_pk()
        await store.reserve(pk, order_pk, 4)

        for other in (3, 5, 40):
            with pytest.raises(ReservationConflict):
                await store.reserve(pk, order_pk, other)
        assert await store.stock(pk) == Stock(10, 6, 4, 0)

    async def test_one_order_at_two_products_holds_units_of_both(self, store: ProductStore) -> None:
        one, two, order_pk = await added(store), await added(store), new_pk()
        await store.reserve(one, order_pk, 1)
        await store.reserve(two, order_pk, 2)
        await store.release(one, order_pk)

        assert await store.stock(one) == Stock(10, 10, 0, 0)
        assert await store.stock(two) == Stock(10, 8, 2, 0)

    @pytest.mark.parametrize("limit", [1, 2, 4, 5])
    async def test_live_reservations_are_paged_in_the_order_of_their_orders(
        self, store: ProductStore, limit: int
    ) -> None:
        pk = await added(store)
        orders = [new_pk() for _ in range(6)]
        for order_pk in reversed(orders):
            await store.reserve(pk, order_pk, 1)
        await store.release(pk, orders[1])
        await store.ship(pk, orders[3])
        live = [orders[0], orders[2], orders[4], orders[5]]

        pages = [await store.reservations_page(pk, None, limit)]
        while (cursor := pages[-1].next_after) is not None:
            pages.append(await store.reservations_page(pk, cursor, limit))

        assert [held.order_id for page in pages for held in page.items] == live
        assert len(pages) == -(-4 // limit), "an exactly full last page is the last"


class TestRelease:
    async def test_units_come_back_once(self, store: ProductStore) -> None:
        pk, order_pk = await added(store), new_pk()
        await store.reserve(pk, order_pk, 4)

        for _ in range(3):
            await store.release(pk, order_pk)

        assert await store.stock(pk) == Stock(10, 10, 0, 0)
        assert await live_orders(store, pk) == []

    async def test_sent_many_times_at_once_units_come_back_once(self, store: ProductStore) -> None:
        pk, order_pk = await added(store), new_pk()
        await store.reserve(pk, order_pk, 4)

        _, errors = await together(*(store.release(pk, order_pk) for _ in range(20)))

        assert errors == []
        assert await store.stock(pk) == Stock(10, 10, 0, 0)

    @pytest.mark.parametrize("was", ["held", "unknown", "refused"])
    async def test_for_a_day_the_order_cannot_reserve_again(
        self, store: ProductStore, clock: MovedClock, was: str
    ) -> None:
        pk, order_pk = await added(store), new_pk()
        if was != "unknown":
            await together(store.reserve(pk, order_pk, 4 if was == "held" else 11))
        await store.release(pk, order_pk)

        clock.move(DAY_SECONDS - 60)
        await store.release(pk, order_pk)
        for quantity in (4, 11):
            with pytest.raises(ReservationReleased):
                await store.reserve(pk, order_pk, quantity)
        assert await store.stock(pk) == Stock(10, 10, 0, 0)

        clock.move(60)
        await store.reserve(pk, order_pk, 4)
        assert await store.stock(pk) == Stock(10, 6, 4, 0)

    async def test_of_a_product_nobody_knows_it_is_no_error(self, store: ProductStore) -> None:
        pk = new_pk()
        await store.release(pk, new_pk())
        await store.ship(pk, new_pk())

        with pytest.raises(ProductNotFound):
            await store.stock(pk)

    async def test_a_late_reservation_beside_its_release_leaves_nothing_held(
        self, store: ProductStore
    ) -> None:
        pk = await added(store, quantity=5)
        orders = [new_pk() for _ in range(10)]

        await together(
            *itertools.chain.from_iterable(
                (store.reserve(pk, order_pk, 1), store.release(pk, order_pk)) for order_pk in orders
            )
        )

        assert await store.stock(pk) == Stock(5, 5, 0, 0)
        assert await live_orders(store, pk) == []


class TestShip:
    async def test_units_leave_once(self, store: ProductStore) -> None:
        pk, order_pk = await added(store), new_pk()
        await store.reserve(pk, order_pk, 4)

        for _ in range(3):
            await store.ship(pk, order_pk)

        assert await store.stock(pk) == Stock(10, 6, 0, 4)
        assert await live_orders(store, pk) == []

    async def test_sent_many_times_at_once_units_leave_once(self, store: ProductStore) -> None:
        pk, order_pk = await added(store), new_pk()
        await store.reserve(pk, order_pk, 4)

        _, errors = await together(*(store.ship(pk, order_pk) for _ in range(20)))

        assert errors == []
        assert await store.stock(pk) == Stock(10, 6, 0, 4)

    async def test_where_nothing_is_known_nothing_happens(self, store: ProductStore) -> None:
        pk, order_pk = await added(store), new_pk()

        await store.ship(pk, order_pk)

        assert await store.stock(pk) == Stock(10, 10, 0, 0)
        await store.reserve(pk, order_pk, 1)

    @pytest.mark.parametrize("was", ["released", "refused"])
    async def test_what_is_not_held_any_more_cannot_be_shipped(
        self, store: ProductStore, was: str
    ) -> None:
        pk, order_pk = await added(store), new_pk()
        if was == "released":
            await store.reserve(pk, order_pk, 4)
            await store.release(pk, order_pk)
        else:
            await together(store.reserve(pk, order_pk, 11))

        with pytest.raises(ReservationReleased):
            await store.ship(pk, order_pk)
        assert await store.stock(pk) == Stock(10, 10, 0, 0)

    async def test_what_was_shipped_cannot_be_released(
        self, store: ProductStore, clock: MovedClock
    ) -> None:
        pk, order_pk = await added(store), new_pk()
        await store.reserve(pk, order_pk, 4)
        await store.ship(pk, order_pk)

        clock.move(DAY_SECONDS - 60)
        with pytest.raises(ReservationShipped):
            await store.release(pk, order_pk)
        clock.move(60)
        await store.release(pk, order_pk)

        assert await store.stock(pk) == Stock(10, 6, 0, 4)

    async def test_the_same_reservation_again_after_shipping_takes_nothing(
        self, store: ProductStore
    ) -> None:
        pk, order_pk = await added(store), new_pk()
        taken, _ = await store.reserve(pk, order_pk, 4)
        await store.ship(pk, order_pk)

        assert await store.reserve(pk, order_pk, 4) == (taken, False)
        with pytest.raises(ReservationConflict):
            await store.reserve(pk, order_pk, 5)
        assert await store.stock(pk) == Stock(10, 6, 0, 4)

    async def test_shipped_and_released_at_once_it_is_one_of_the_two(
        self, store: ProductStore
    ) -> None:
        pk = await added(store)
        orders = [new_pk() for _ in range(10)]
        for order_pk in orders:
            await store.reserve(pk, order_pk, 1)

        _, errors = await together(
            *itertools.chain.from_iterable(
                (store.ship(pk, order_pk), store.release(pk, order_pk)) for order_pk in orders
            )
        )

        assert len(errors) == 10
        stock = await store.stock(pk)
        assert stock == Stock(10, 10 - stock.shipped, 0, stock.shipped)


@pytest.mark.parametrize("name", ["memory", "redis"])
async def test_who_reserves_first_is_told_so(
    name: str, client: ShopRedis, clock: MovedClock
) -> None:
    """Not over a lossy wire: the repeated command finds the reservation of its first run."""
    store: ProductStore = (
        MemoryProductStore(clock) if name == "memory" else RedisProductStore(client, "shop")
    )
    pk, order_pk = await added(store), new_pk()

    answers, _ = await together(*(store.reserve(pk, order_pk, 2) for _ in range(10)))

    assert sorted(is_new for _, is_new in answers) == [*[False] * 9, True]


async def test_two_processes_on_one_redis_sell_nothing_twice(
    client: ShopRedis, redis_server: RedisServer
) -> None:
    async with connected(redis_server) as other_client:
        stores = [RedisProductStore(each, "shop") for each in (client, other_client)]
        pk = await added(stores[0], quantity=15)

        answers, _ = await together(
            *(store.reserve(pk, new_pk(), 1) for _ in range(20) for store in stores)
        )

        assert len(answers) == 15
        assert await stores[1].stock(pk) == Stock(15, 0, 15, 0)


async def test_shops_with_different_prefixes_share_a_redis_and_nothing_else(
    client: ShopRedis, redis_server: RedisServer
) -> None:
    pk = await added(RedisProductStore(client, "here"), "Laptop")

    there = RedisProductStore(client, "there")
    with pytest.raises(ProductNotFound):
        await there.get(pk)
    assert await listed(there) == []
    assert await found(there, "lap") == []
    probe = "shopsphere:probe"  # of the connection, gone after a second
    assert all(key.startswith("here:") for key in redis_server.client.scan_iter() if key != probe)


async def test_all_keys_of_a_product_are_in_its_slot(
    client: ShopRedis, redis_server: RedisServer
) -> None:
    store = RedisProductStore(client, "shop")
    pk = await added(store)
    await store.reserve(pk, new_pk(), 1)
    await store.release(pk, new_pk())
    await store.change_stock(pk, 1, "a key with } in it")
    await store.update(pk, "Notebook", None)

    keys = [key for key in redis_server.client.scan_iter() if pk in key]
    assert len(keys) == 6
    assert {key_slot(key.encode()) for key in keys} == {key_slot(pk.encode())}


async def test_only_marks_of_what_is_over_go_away(
    client: ShopRedis, redis_server: RedisServer
) -> None:
    store = RedisProductStore(client, "shop")
    pk = await added(store, quantity=10)
    held, shipped, released, unknown, refused = orders = [new_pk() for _ in range(5)]
    for order_pk in (held, shipped, released):
        await store.reserve(pk, order_pk, 1)
    await store.ship(pk, shipped)
    await store.release(pk, released)
    await store.release(pk, unknown)
    await together(store.reserve(pk, refused, 100))

    ttls = [redis_server.client.ttl(f"shop:reservation:{{{pk}}}:{order}") for order in orders]

    assert ttls[0] == -1
    for ttl, whole in zip(ttls[1:], [*[DAY_SECONDS] * 3, REFUSED_SECONDS], strict=True):
        assert whole - 60 < ttl <= whole
    assert redis_server.client.zrange(f"shop:reservations:{{{pk}}}", 0, -1) == [held]
    assert redis_server.client.ttl(f"shop:product:{{{pk}}}") == -1
    assert redis_server.client.ttl("shop:products") == -1


@pytest.mark.parametrize("limit", [1, 2, 3])
async def test_what_a_crash_left_in_list_and_index_is_not_seen(
    client: ShopRedis, redis_server: RedisServer, limit: int
) -> None:
    store = RedisProductStore(client, "shop")
    products = []
    for _ in range(2):
        never_made = [new_pk() for _ in range(4)]
        pk, revision = await added(store, "Laptop"), new_pk()
        products.append(await store.get(pk))
        redis_server.client.zadd("shop:products", dict.fromkeys(never_made, 0))
        left = [f"laptop\0{each}\0{revision}" for each in never_made]
        left += [f"{suffix}\0{pk}\0{revision}" for suffix in ("lapland", "laptop")]  # of a rename
        add = (SCRIPTS / "add_entries.lua").read_text(encoding="utf-8")
        redis_server.client.eval(add, 1, "shop:{product-names}", "100", *left)

    for read in (store.list_page, functools.partial(store.search_page, "lap")):
        pages = [await read(None, limit)]
        while (cursor := pages[-1].next_after) is not None:
            pages.append(await read(cursor, limit))
        assert [product for page in pages for product in page.items] == products
        assert len(pages) == -(-2 // limit)


async def test_renames_and_deletes_leave_no_entries_behind(
    client: ShopRedis, redis_server: RedisServer
) -> None:
    store = RedisProductStore(client, "shop")
    pk, other = await added(store, "Laptop"), await added(store, "Lamp")
    await together(*(store.update(pk, f"Notebook {number}", None) for number in range(5)))
    await store.update(pk, "Pen", None)
    await store.delete(other)
    with pytest.raises(ProductNotFound):
        await store.update(other, "Lantern", None)

    entries = redis_server.client.zrange("shop:{product-names}:", 0, -1)
    assert [entry.split("\0")[:2] for entry in entries] == [["en", pk], ["n", pk], ["pen", pk]]
    assert redis_server.client.zrange("shop:products", 0, -1) == [pk]


async def test_scripts_that_redis_forgot_are_loaded_again(
    client: ShopRedis, redis_server: RedisServer
) -> None:
    store = RedisProductStore(client, "shop")
    pk = await added(store)
    await store.reserve(pk, new_pk(), 1)
    redis_server.client.script_flush()

    await store.reserve(pk, new_pk(), 1)

    assert await store.stock(pk) == Stock(10, 8, 2, 0)


async def test_a_closed_store_has_let_go_of_its_connections(
    clock: MovedClock, redis_server: RedisServer
) -> None:
    async with connected(redis_server) as client:
        store = RedisProductStore(client, "shop")
        await together(*(store.change_stock(new_pk(), 1) for _ in range(5)))
        assert len(redis_server.client.client_list()) > 1

        await store.close()

        await asyncio.to_thread(
            wait_until, lambda: len(redis_server.client.client_list()) == 1, why="only ours is open"
        )
