"""The rules of the shop, without any storage: each is a pure function over records."""

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shopsphere.domain import idempotency, orders, people, stock
from shopsphere.domain.errors import (
    EmailTaken,
    IdempotencyKeyReused,
    InsufficientQuantity,
    OrderGivenUp,
    OrderRefused,
    ProductNotFound,
    RequestInProgress,
    ReservationConflict,
    ReservationRefused,
    ReservationReleased,
    ReservationShipped,
    ShopError,
    StockLimit,
)
from shopsphere.domain.idempotency import Binding, digest_of
from shopsphere.domain.records import (
    DAY,
    TEN_MINUTES,
    Address,
    Hold,
    HoldState,
    KeyRecord,
    OrderRecord,
    ProductRecord,
    ProductState,
    ProductUpdate,
    Record,
    StockChange,
    UserRecord,
)
from shopsphere.domain.stock import Naming
from shopsphere.domain.values import (
    EVER_PLACED,
    MAX_ON_HAND,
    Item,
    Order,
    OrderItem,
    OrderStatus,
    Product,
    Reservation,
    Role,
    Stock,
    by_product,
)

NOW = 1_732_459_431.304
LEASE = 12.0
PLACED, FAILED = OrderStatus.PLACED, OrderStatus.FAILED
CANCELLED, SHIPPED = OrderStatus.CANCELLED, OrderStatus.SHIPPED
HELD = (Reservation("p1", "o", 2, 999, "Tea ☕"), Reservation("p2", "o", 1, 5, "Milk"))


def laptop(quantity: int = 10) -> ProductRecord:
    product = ProductRecord(pk="p")
    stock.create(NOW, product, "Laptop", "first", 99999, quantity)
    return product


def no_hold(order: str = "o") -> Hold:
    return Hold(pk=f"p:{order}")


def hold_of(state: str) -> tuple[ProductRecord, Hold]:
    """Return a product of ten units, and what an order that wanted four has of it."""
    product, hold = laptop(), no_hold()
    if state == "refused":
        stock.reserve(NOW, product, hold, 11)
    elif state != "unknown":
        stock.reserve(NOW, product, hold, 4)
    if state == "released":
        stock.release(NOW, product, hold)
    elif state == "shipped":
        stock.ship(NOW, product, hold)
    return product, hold


def placed(status: OrderStatus = PLACED, user_pk: str | None = "u") -> OrderRecord:
    record = OrderRecord(pk="o")
    if status is FAILED:
        orders.fail(NOW, record)
    elif status is not OrderStatus.NONE:
        orders.place(NOW, record, HELD, user_pk, began=NOW)
        if status is not PLACED:
            orders.end(NOW, record, status)
    return record


def bound(order_pk: str = "first", at: float = NOW) -> KeyRecord:
    key = KeyRecord(pk="key")
    idempotency.bind(at, key, "request", order_pk, LEASE)
    return key


def outcome_of(value: object) -> object:
    """Return what can be compared of an outcome: two errors alike are not equal."""
    return (type(value), vars(value)) if isinstance(value, ShopError) else value


# Products and their stock


def test_a_new_product_is_on_sale_with_its_units_received() -> None:
    product = ProductRecord(pk="p")
    told = stock.create(NOW, product, "Laptop", "first", 99999, 7)

    assert told == Product("p", "Laptop", 99999, 7)
    assert product.state is ProductState.ON_SALE
    assert product.stock() == Stock(7, 7, 0, 0)


def test_only_what_is_given_of_name_and_price_changes() -> None:
    product = laptop()
    for command, name, cents, expected, old in (
        ("1", "Notebook", None, ("Notebook", 99999), Naming("Laptop", "first")),
        ("2", None, 0, ("Notebook", 0), Naming("Notebook", "1")),
        ("3", "Tablet", 5, ("Tablet", 5), Naming("Notebook", "1")),
    ):
        told = stock.update(NOW, product, ProductUpdate(pk=f"p:{command}"), name, cents)
        assert told == (Product("p", *expected, 10), old)
    assert product.revision == "3"


def test_an_update_that_comes_late_again_does_not_undo_a_later_one() -> None:
    product, first = laptop(), ProductUpdate(pk="p:1")
    stock.update(NOW, product, first, "Notebook", 5)
    stock.update(NOW, product, ProductUpdate(pk="p:2"), "Tablet", 7)

    told = stock.update(NOW, product, first, "Notebook", 5)

    assert told == (Product("p", "Tablet", 7, 10), Naming("Laptop", "first"))


def test_units_are_added_and_removed_but_not_below_zero() -> None:
    product = laptop(5)
    stock.reserve(NOW, product, no_hold(), 2)

    refusal = stock.change_stock(NOW, product, StockChange(pk="p:1"), -4, "1", False)
    assert outcome_of(refusal) == outcome_of(InsufficientQuantity(3))
    stock.change_stock(NOW, product, StockChange(pk="p:2"), -3, "2", False)
    stock.change_stock(NOW, product, StockChange(pk="p:3"), 7, "3", False)
    assert product.stock() == Stock(9, 7, 2, 0)


def test_the_limit_counts_what_is_on_hand() -> None:
    product, hold = laptop(MAX_ON_HAND), no_hold()
    stock.reserve(NOW, product, hold, 10)
    add = StockChange(pk="p:1")

    assert isinstance(stock.change_stock(NOW, product, add, 1, "1", False), StockLimit)
    stock.ship(NOW, product, hold)
    assert isinstance(stock.change_stock(NOW, product, add, 11, "1", False), StockLimit)
    stock.change_stock(NOW, product, add, 10, "1", False)
    assert product.stock() == Stock(MAX_ON_HAND + 10, MAX_ON_HAND, 0, 10)


def test_a_key_counts_once_and_another_command_with_it_is_told_so() -> None:
    product, made = laptop(5), StockChange(pk="p:key")
    first = stock.change_stock(NOW, product, made, 3, "1", True)
    again = stock.change_stock(NOW, product, made, 3, "1", True)
    replay = stock.change_stock(NOW, product, made, 3, "2", True)
    other = stock.change_stock(NOW, product, made, -3, "3", True)

    product_then = Product("p", "Laptop", 99999, 8)
    assert first == again == (product_then, False)
    assert replay == (product_then, True)
    assert isinstance(other, IdempotencyKeyReused)
    assert product.stock() == Stock(8, 8, 0, 0)
    assert made.kept_seconds == DAY


def test_a_change_that_is_refused_leaves_its_key_free() -> None:
    product, made = laptop(MAX_ON_HAND), StockChange(pk="p:key")
    for refused in (1, -MAX_ON_HAND - 1):
        stock.change_stock(NOW, product, made, refused, "1", True)

    assert made == StockChange(pk="p:key")


def test_a_deleted_product_keeps_its_stock_and_its_holds() -> None:
    product, hold = hold_of("held")
    before = product.stock()

    assert stock.delete(NOW, product, "1") == (Naming("Laptop", "first"), True)
    assert stock.delete(NOW, product, "1") == (Naming("Laptop", "first"), True)
    assert stock.delete(NOW, product, "2") == (Naming("Laptop", "first"), False)
    assert product.stock() == before
    assert stock.reserve(NOW, product, hold, 4) == (hold.reservation(), False)


@pytest.mark.parametrize("is_deleted", [False, True])
def test_of_a_product_that_is_not_on_sale_nothing_can_be_had(is_deleted: bool) -> None:
    product = laptop() if is_deleted else ProductRecord(pk="p")
    if is_deleted:
        stock.delete(NOW, product, "1")
    before = copy.deepcopy(product)
    hold, made, updated = no_hold(), StockChange(pk="p:key"), ProductUpdate(pk="p:1")

    for told in (
        stock.update(NOW, product, updated, "Notebook", 1),
        stock.change_stock(NOW, product, made, 1, "1", True),
        stock.reserve(NOW, product, hold, 1),
    ):
        assert isinstance(told, ProductNotFound)
    assert product == before
    assert (hold, made, updated) == (no_hold(), StockChange(pk="p:key"), ProductUpdate(pk="p:1"))


def test_what_never_was_a_product_cannot_be_deleted() -> None:
    product = ProductRecord(pk="p")

    assert isinstance(stock.delete(NOW, product, "1"), ProductNotFound)
    assert product == ProductRecord(pk="p")


# What orders hold


def test_units_are_held_at_the_price_and_name_of_that_moment() -> None:
    product, hold = laptop(), no_hold()
    taken = Reservation("p", "o", 4, 99999, "Laptop")

    assert stock.reserve(NOW, product, hold, 4) == (taken, True)
    stock.update(NOW, product, ProductUpdate(pk="p:1"), "Notebook", 1)
    assert stock.reserve(NOW, product, hold, 4) == (taken, False)
    assert product.stock() == Stock(10, 6, 4, 0)
    assert hold.is_listed
    assert hold.kept_seconds is None


def test_a_refusal_says_what_is_available_and_is_final() -> None:
    product, hold = laptop(3), no_hold()
    first = stock.reserve(NOW, product, hold, 4)
    stock.change_stock(NOW, product, StockChange(pk="p:1"), 9, "1", False)

    for told in (first, *(stock.reserve(NOW, product, hold, quantity) for quantity in (4, 1))):
        assert outcome_of(told) == outcome_of(ReservationRefused(3))
    assert product.stock() == Stock(12, 12, 0, 0)
    assert isinstance(stock.reserve(NOW, product, no_hold("another"), 12), tuple)


@pytest.mark.parametrize("state", ["held", "shipped"])
@pytest.mark.parametrize("other", [3, 5, 40])
def test_another_quantity_is_a_conflict(state: str, other: int) -> None:
    product, hold = hold_of(state)
    before = product.stock()

    assert isinstance(stock.reserve(NOW, product, hold, other), ReservationConflict)
    assert product.stock() == before


@pytest.mark.parametrize("state", ["unknown", "held", "refused", "released"])
def test_a_release_is_remembered_whatever_was_held(state: str) -> None:
    product, hold = hold_of(state)

    assert stock.release(NOW, product, hold) is None
    assert product.stock() == Stock(10, 10, 0, 0)
    for quantity in (4, 11):
        assert isinstance(stock.reserve(NOW, product, hold, quantity), ReservationReleased)
    assert hold == Hold(pk=hold.pk, state=HoldState.RELEASED)
    assert (hold.is_listed, hold.kept_seconds) == (False, TEN_MINUTES)


def test_a_release_is_remembered_where_the_product_never_existed() -> None:
    product, hold = ProductRecord(pk="p"), no_hold()

    assert stock.release(NOW, product, hold) is None
    assert product == ProductRecord(pk="p")
    assert hold.state is HoldState.RELEASED


@pytest.mark.parametrize(
    ("state", "error", "after"),
    [
        ("unknown", None, Stock(10, 10, 0, 0)),
        ("held", None, Stock(10, 6, 0, 4)),
        ("shipped", None, Stock(10, 6, 0, 4)),
        ("refused", ReservationReleased, Stock(10, 10, 0, 0)),
        ("released", ReservationReleased, Stock(10, 10, 0, 0)),
    ],
)
def test_only_what_is_held_is_shipped(
    state: str, error: type[ShopError] | None, after: Stock
) -> None:
    product, hold = hold_of(state)
    before = copy.deepcopy(hold)
    told = stock.ship(NOW, product, hold)

    assert type(told) is (error or type(None))
    assert product.stock() == after
    assert (hold == before) is (state != "held")


def test_what_was_shipped_cannot_be_released_and_is_not_reserved_again() -> None:
    product, hold = hold_of("shipped")

    assert isinstance(stock.release(NOW, product, hold), ReservationShipped)
    assert stock.reserve(NOW, product, hold, 4) == (hold.reservation(), False)
    assert product.stock() == Stock(10, 6, 0, 4)
    assert (hold.is_listed, hold.kept_seconds) == (False, TEN_MINUTES)


moves = st.one_of(
    st.tuples(st.sampled_from(["reserve"]), st.integers(0, 4), st.integers(1, 6)),
    st.tuples(st.sampled_from(["release", "ship", "forget"]), st.integers(0, 4), st.just(0)),
    st.tuples(st.sampled_from(["change"]), st.integers(0, 4), st.integers(-8, 8)),
    st.tuples(st.sampled_from(["delete", "update"]), st.integers(0, 4), st.integers(0, 9)),
)


@given(st.lists(moves, max_size=60))
def test_what_was_received_is_available_reserved_or_shipped_whatever_happens(
    history: list[tuple[str, int, int]],
) -> None:
    product = laptop(8)
    holds = [no_hold(str(number)) for number in range(5)]
    changes = [StockChange(pk=f"p:{number}") for number in range(5)]
    for move, at, number in history:
        match move:
            case "reserve":
                stock.reserve(NOW, product, holds[at], number)
            case "release":
                stock.release(NOW, product, holds[at])
            case "ship":
                stock.ship(NOW, product, holds[at])
            case "forget" if holds[at].kept_seconds:
                holds[at] = no_hold(str(at))
            case "change":
                stock.change_stock(NOW, product, changes[at], number, str(at), True)
            case "update":
                stock.update(NOW, product, ProductUpdate(pk=f"p:{at}"), None, number)
            case "delete" if number == 0:
                stock.delete(NOW, product, str(at))
        now = product.stock()
        assert now.received == now.available + now.reserved + now.shipped
        assert min(vars_of(now)) >= 0
        assert now.reserved == sum(hold.quantity for hold in holds if hold.is_listed)


def vars_of(figures: Stock) -> tuple[int, ...]:
    return figures.received, figures.available, figures.reserved, figures.shipped


# Orders


def test_an_order_has_the_names_and_prices_of_what_is_held_for_it() -> None:
    record = OrderRecord(pk="o")
    order = orders.place(NOW, record, HELD, "u", began=NOW)

    assert isinstance(order, Order)
    items = (OrderItem("p1", 2, 999, "Tea ☕"), OrderItem("p2", 1, 5, "Milk"))
    assert (order.pk, order.items, order.status, order.user_pk) == ("o", items, PLACED, "u")
    assert order.total == 20.03
    assert order.created_at.timestamp() == NOW
    assert record.kept_seconds is None
    assert placed(user_pk=None).order().user_pk is None


@pytest.mark.parametrize("status", [PLACED, CANCELLED, SHIPPED])
def test_an_order_that_was_placed_keeps_its_items_and_never_fails(status: OrderStatus) -> None:
    record = placed(status)
    before = record.order()

    assert orders.place(NOW + 9, record, HELD[:1], "another", began=NOW) == before
    assert orders.fail(NOW + 9, record) == before
    assert record.order() == before
    assert before.status is status


@pytest.mark.parametrize("status", [OrderStatus.NONE, FAILED])
def test_an_order_that_is_not_placed_fails_for_good(status: OrderStatus) -> None:
    record = placed(status)

    assert orders.fail(NOW, record) is None
    assert isinstance(orders.place(NOW, record, HELD, "u", began=NOW), OrderGivenUp)
    assert record == OrderRecord(pk="o", status=FAILED)
    assert record.kept_seconds == TEN_MINUTES


@pytest.mark.parametrize("ending", [CANCELLED, SHIPPED])
@pytest.mark.parametrize("other", [CANCELLED, SHIPPED])
def test_an_order_ends_once_and_its_end_is_final(ending: OrderStatus, other: OrderStatus) -> None:
    record = placed()
    ended = replace(record.order(), status=ending)

    assert orders.end(NOW, record, ending) == ended
    assert orders.end(NOW, record, other) == ended
    assert orders.place(NOW, record, HELD, "u", began=NOW) == ended


@pytest.mark.parametrize("status", [OrderStatus.NONE, FAILED])
def test_what_was_never_placed_cannot_end(status: OrderStatus) -> None:
    record = placed(status)

    assert orders.end(NOW, record, CANCELLED) is None
    assert record.status is status


def test_only_orders_that_were_placed_can_be_seen() -> None:
    assert {PLACED, CANCELLED, SHIPPED} == EVER_PLACED


# Idempotency keys


def test_a_new_key_is_bound_to_the_order_that_comes_with_it() -> None:
    key = KeyRecord(pk="key")

    assert idempotency.bind(NOW, key, "request", "first", LEASE) == Binding("first", NOW)
    assert (key.request, key.order_pk, key.lease_until) == ("request", "first", NOW + LEASE)
    assert key.kept_seconds == DAY


@pytest.mark.parametrize(
    ("later", "left"),
    [(0, LEASE), (4, LEASE - 4), (LEASE, 0), (LEASE + 1, 0), (DAY, 0)],
)
def test_a_bound_key_keeps_its_order_and_tells_how_long_its_lease_runs(
    later: float, left: float
) -> None:
    key = bound()
    before = copy.deepcopy(key)
    binding = idempotency.bind(NOW + later, key, "request", "second", LEASE)

    assert isinstance(binding, Binding)
    assert binding.order_pk == "first"
    assert binding.lease_seconds_left == pytest.approx(left, abs=1e-5)
    assert key == before


@pytest.mark.parametrize("back", [0.01, 3600, 10**9])
def test_a_lease_that_would_last_longer_than_a_whole_one_is_over(back: float) -> None:
    key = bound()

    assert idempotency.bind(NOW - back, key, "request", "second", LEASE) == Binding(
        "first", NOW - back
    )


@pytest.mark.parametrize("later", [0, DAY])
def test_a_key_with_another_request_is_refused_before_anything_else(later: float) -> None:
    key = bound()
    before = copy.deepcopy(key)

    told = idempotency.bind(NOW + later, key, "another", "first", LEASE)

    assert isinstance(told, IdempotencyKeyReused)
    assert key == before


@pytest.mark.parametrize("is_forgotten", [False, True])
def test_a_key_is_rebound_from_the_settled_order_or_from_none(is_forgotten: bool) -> None:
    key = bound()
    if is_forgotten:
        idempotency.forget(NOW, key, "first")

    later = NOW + 100
    assert idempotency.rebind(later, key, "request", "first", "second", LEASE) is None
    assert (key.request, key.order_pk, key.lease_until) == ("request", "second", later + LEASE)


def test_a_key_that_a_rival_has_rebound_is_left_to_the_rival() -> None:
    key = bound("rival")
    before = copy.deepcopy(key)

    told = idempotency.rebind(NOW, key, "request", "first", "second", LEASE)

    assert isinstance(told, RequestInProgress)
    assert key == before


@pytest.mark.parametrize("rule", [idempotency.forget, idempotency.end_lease])
def test_only_the_order_that_a_key_is_bound_to_frees_it_or_ends_its_lease(
    rule: Callable[[float, KeyRecord, str], None],
) -> None:
    key = bound("rival")
    before = copy.deepcopy(key)

    rule(NOW, key, "first")
    assert key == before
    rule(NOW, key, "rival")
    assert key != before


def test_a_forgotten_key_is_not_there_and_one_whose_lease_ended_still_is() -> None:
    forgotten, ended = bound(), bound()
    idempotency.forget(NOW, forgotten, "first")
    idempotency.end_lease(NOW, ended, "first")

    assert forgotten == KeyRecord(pk="key")
    assert idempotency.bind(NOW, ended, "request", "second", LEASE) == Binding("first", NOW)


def test_requests_are_the_same_when_they_want_the_same_items_in_any_order() -> None:
    items = [Item("b", 1), Item("a", 2), Item("c", 1)]

    assert digest_of(items) == digest_of(reversed(items))
    assert by_product(items) == [items[1], items[0], items[2]]
    others: list[list[Item]] = [
        [*items[:2], Item("c", 2)],
        items[:2],
        [Item("a", 1), Item("b", 2), items[2]],
        [],
    ]
    assert len({digest_of(other) for other in (items, *others)}) == 5


# People


def test_an_address_is_claimed_once() -> None:
    address = Address(pk="anna@example.com")

    assert people.claim(NOW, address, "anna", gone_pk="") is None
    assert people.claim(NOW, address, "anna", gone_pk="") is None
    assert isinstance(people.claim(NOW, address, "bert", gone_pk=""), EmailTaken)
    assert isinstance(people.claim(NOW, address, "bert", gone_pk="carl"), EmailTaken)
    assert address.user_pk == "anna"


def test_the_address_of_a_user_who_is_gone_is_free() -> None:
    address = Address(pk="anna@example.com", user_pk="anna")

    assert people.claim(NOW, address, "bert", gone_pk="anna") is None
    assert address.user_pk == "bert"


@pytest.mark.parametrize("jump", [-TEN_MINUTES, TEN_MINUTES])
def test_nothing_is_placed_when_it_may_be_forgotten_that_it_was_given_up(jump: int) -> None:
    record = OrderRecord(pk="o")

    outcome = orders.place(NOW + jump, record, HELD, "u", began=NOW)

    assert isinstance(outcome, OrderGivenUp)
    assert record == OrderRecord(pk="o")


def test_a_user_whose_address_was_another_s_is_not_there_any_more() -> None:
    user = UserRecord(pk="u")
    people.register(NOW, user, "anna@example.com", "hash", Role.ADMIN)
    assert (user.user().email, user.user().role) == ("anna@example.com", Role.ADMIN)

    people.forget(NOW, user)
    assert user == UserRecord(pk="u")


def test_a_password_is_set_if_it_is_still_the_known_one() -> None:
    user = UserRecord(pk="u", email="anna@example.com", password_hash="known")

    assert people.set_password(NOW, user, "known", "new", Role.ADMIN)
    assert not people.set_password(NOW, user, "known", "newer", Role.USER)
    assert (user.password_hash, user.role) == ("new", Role.ADMIN)


# Every rule


@dataclass(frozen=True)
class Application:
    """A rule with all it is given but the time, and the records it is applied to."""

    rule: Callable[..., Any]
    records: tuple[Record, ...]
    args: tuple[object, ...] = ()


def applications() -> dict[str, Application]:
    found: dict[str, Application] = {}

    def add(name: str, rule: Callable[..., Any], *given: Any) -> None:
        records = tuple(each for each in given if isinstance(each, Record))
        args = tuple(each for each in given if not isinstance(each, Record))
        found[f"{rule.__name__} {name}"] = Application(rule, records, args)

    deleted = laptop()
    stock.delete(NOW, deleted, "1")
    for name, product in (("", laptop()), ("none", ProductRecord(pk="p")), ("deleted", deleted)):
        add(name, stock.create, product, "Notebook", "r", 1, 1)
        add(name, stock.update, product, ProductUpdate(pk="p:c"), "Notebook", 5)
        add(name, stock.delete, product, "c")
        for change in (3, -3, -30, MAX_ON_HAND):
            add(f"{name} {change}", stock.change_stock, product, StockChange(pk="p:c"), change,
                "c", False)  # fmt: skip
    for state in ("unknown", "held", "refused", "released", "shipped"):
        add(state, stock.release, *hold_of(state))
        add(state, stock.ship, *hold_of(state))
        for quantity in (4, 5, 11):
            add(f"{state} {quantity}", stock.reserve, *hold_of(state), quantity)
    for status in OrderStatus:
        add(status, orders.place, placed(status), HELD, "u", NOW)
        add(status, orders.fail, placed(status))
        for ending in (CANCELLED, SHIPPED):
            add(f"{status} {ending}", orders.end, placed(status), ending)
    for name, key in (("new", KeyRecord(pk="key")), ("bound", bound()), ("mine", bound("mine"))):
        add(name, idempotency.bind, key, "request", "mine", LEASE)
        add(name, idempotency.rebind, key, "request", "first", "mine", LEASE)
        add(name, idempotency.forget, key, "first")
        add(name, idempotency.end_lease, key, "first")
    for user_pk in ("", "u", "another"):
        add(user_pk, people.claim, Address(pk="a", user_pk=user_pk), "u")
    for known in ("", "known", "new", "other"):
        user = UserRecord(pk="u", email="a", password_hash=known)
        add(known, people.set_password, user, "known", "new", Role.ADMIN)
        add(known, people.register, user, "a", "hash", Role.USER)
        add(known, people.forget, user)
    return found


@pytest.mark.parametrize("name", applications())
def test_a_rule_that_is_applied_again_after_a_lost_response_recognises_its_own_effect(
    name: str,
) -> None:
    applied = applications()[name]
    first = applied.rule(NOW, *applied.records, *applied.args)
    after = copy.deepcopy(applied.records)
    again = applied.rule(NOW + 2, *applied.records, *applied.args)

    assert applied.records == after, "nothing changes twice"
    if applied.rule is stock.reserve and isinstance(first, tuple):
        first, again = first[0], again[0]  # whether it was taken just now is not known any more
    if isinstance(first, Binding):
        first, again = first.order_pk, again.order_pk  # the lease runs on
    assert outcome_of(again) == outcome_of(first)


@pytest.mark.parametrize("name", applications())
def test_a_rule_returns_values_and_never_a_record(name: str) -> None:
    applied = applications()[name]
    told = applied.rule(NOW, *applied.records, *applied.args)

    parts = told if isinstance(told, tuple) else (told,)
    assert not [part for part in parts if isinstance(part, Record)]


def test_every_rule_is_in_the_tests_of_every_rule() -> None:
    tested = {application.rule for application in applications().values()}
    rules = {
        function
        for module in (stock, orders, idempotency, people)
        for function in vars(module).values()
        if callable(function) and getattr(function, "__module__", "") == module.__name__
        if not isinstance(function, type) and function is not digest_of
    }
    assert rules == tested


def test_refusals_that_are_final_for_an_order_share_one_base() -> None:
    for error in (ProductNotFound(), InsufficientQuantity(1), ReservationRefused(1)):
        assert isinstance(error, OrderRefused)
    assert not ProductNotFound.is_remembered
    assert ReservationRefused.is_remembered


def test_a_lease_of_a_key_that_is_not_bound_does_not_run() -> None:
    assert KeyRecord(pk="key").lease_until == 0
    assert math.isclose(bound().lease_until, NOW + LEASE)
