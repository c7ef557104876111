"""The rules of the shop, without any storage: each is a pure function over records."""

import copy
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from shopsphere.domain import errors, idempotency, orders, people, stock
from shopsphere.domain.idempotency import Binding, digest_of
from shopsphere.domain.pks import timestamp
from shopsphere.domain.records import (
    DAY,
    TEN_MINUTES,
    Address,
    Applied,
    FailedLogins,
    Hold,
    HoldState,
    KeyRecord,
    OrderRecord,
    ProductRecord,
    ProductState,
    Record,
    User,
)
from shopsphere.domain.values import (
    EVER_PLACED,
    MAX_ON_HAND,
    Item,
    Order,
    OrderStatus,
    Product,
    Reservation,
    Stock,
    by_product,
)

NOW = 1_732_459_431.304
LEASE = 12
NONE, PLACED, FAILED = OrderStatus.NONE, OrderStatus.PLACED, OrderStatus.FAILED
CANCELLED, SHIPPED = OrderStatus.CANCELLED, OrderStatus.SHIPPED
RESERVED = (Reservation("p1", "o", 2, 999, "Tea ☕"), Reservation("p2", "o", 1, 5, "Milk"))


def applied(rule: Callable[..., Any], *given: Any, now: float = NOW) -> Any:
    """Apply a rule to the records among what is given, and to the rest; return its outcome.

    It is applied again, as after a lost response: nothing changes twice, and the outcome is the
    same. It is never a record.
    """
    records = [each for each in given if isinstance(each, Record)]
    first = rule(now, *given)
    after = copy.deepcopy(records)
    again = rule(now + 2, *given)
    assert records == after
    if isinstance(first, Binding):
        assert again.pk == first.pk  # the lease runs on
    elif rule is stock.reserve and isinstance(first, tuple):
        assert again[0] == first[0]  # whether it was taken just now is not known any more
    else:
        assert outcome_of(again) == outcome_of(first)
    parts = first if isinstance(first, tuple) else (first,)
    assert not [part for part in parts if isinstance(part, Record)]
    return first


def outcome_of(value: object) -> object:
    """Return what can be compared of an outcome: two errors alike are not equal."""
    return (type(value), vars(value)) if isinstance(value, errors.ShopError) else value


def laptop(quantity: int = 10) -> ProductRecord:
    product = ProductRecord(pk="p")
    applied(stock.create, product, "Laptop", 99999, quantity)
    return product


def changed(product: ProductRecord, change: int, command: str = "1") -> Any:
    made = Applied(pk=f"p:{command}")
    return applied(stock.change_stock, product, made, change, command)


def hold_of(state: HoldState) -> tuple[ProductRecord, Hold]:
    """Return a product of ten units, and what an order that wanted all has of it."""
    product, hold = laptop(), Hold(pk="p:o")
    if state is not HoldState.NONE:
        stock.reserve(NOW, product, hold, 11 if state is HoldState.REFUSED else 10)
    if state is HoldState.RELEASED:
        stock.release(NOW, product, hold)
    elif state is HoldState.SHIPPED:
        stock.ship(NOW, product, hold)
    return product, hold


def order_of(status: OrderStatus) -> OrderRecord:
    record = OrderRecord(pk="o")
    if status in EVER_PLACED:
        orders.place(NOW, record, RESERVED, "u", began=NOW)
    return record.model_copy(update={"status": status})


def bound(order_pk: str = "first") -> KeyRecord:
    key = KeyRecord(pk="key")
    applied(idempotency.bind, key, "request", order_pk, LEASE)
    return key


FOR_GOOD: list[Record] = [
    ProductRecord(pk="p", state=ProductState.DELETED), Hold(pk="p:o", state=HoldState.HELD),
    *(OrderRecord(pk="o", status=status) for status in EVER_PLACED), User(pk="u"),
    Address(pk="@a"),
]  # fmt: skip
FOR_TEN_MINUTES: list[Record] = [
    *(Hold(pk="p:o", state=state) for state in HoldState if state is not HoldState.HELD),
    Applied(pk="p:1"), OrderRecord(pk="o", status=FAILED),
]  # fmt: skip
FOR_A_DAY: list[Record] = [Applied(pk="p:key", command="1"), KeyRecord(pk="key")]


def test_records_are_kept_as_long_as_messages_or_customers_can_ask() -> None:
    for seconds, records in ((None, FOR_GOOD), (TEN_MINUTES, FOR_TEN_MINUTES), (DAY, FOR_A_DAY)):
        for record in records:
            assert record.kept_seconds == seconds
            assert record.is_listed == (isinstance(record, Hold) and seconds is None)


# Products and their stock


def test_only_what_is_given_of_name_and_price_changes_and_a_late_copy_changes_nothing() -> None:
    product, late = laptop(), Applied(pk="p:0")
    assert applied(stock.update, product, late, None, None)[1] == ("Laptop", "")
    for command, name, cents, expected, old in (
        ("1", "Notebook", None, ("Notebook", 99999), ("Laptop", "")),
        ("2", None, 0, ("Notebook", 0), ("Notebook", "1")),
        ("3", "Tablet", 5, ("Tablet", 5), ("Notebook", "1")),
    ):
        told = applied(stock.update, product, Applied(pk=f"p:{command}"), name, cents)
        assert told == (Product("p", *expected, 10), old)
    told = applied(stock.update, product, late, "Laptop", 7)
    assert told == (Product("p", "Tablet", 5, 10), ("Laptop", ""))
    assert product.revision == "3"


def test_the_limit_counts_what_is_on_hand() -> None:
    product, hold = laptop(MAX_ON_HAND), Hold(pk="p:o")
    stock.reserve(NOW, product, hold, 10)

    assert isinstance(changed(product, 1), errors.StockLimit)
    stock.ship(NOW, product, hold)
    assert isinstance(changed(product, 11), errors.StockLimit)
    changed(product, 10)
    assert product.stock() == Stock(MAX_ON_HAND + 10, MAX_ON_HAND, 0, 10)


def test_a_key_counts_once_and_is_left_free_by_what_is_refused() -> None:
    product, made = laptop(MAX_ON_HAND - 3), Applied(pk="p:key")
    too_few = errors.StockTooLow(available=MAX_ON_HAND - 3)
    for change, refusal in ((4, errors.StockLimit()), (2 - MAX_ON_HAND, too_few)):
        told = applied(stock.change_stock, product, made, change, "0")
        assert outcome_of(told) == outcome_of(refusal)
    first = applied(stock.change_stock, product, made, 3, "1")
    replay = applied(stock.change_stock, product, made, 3, "2")

    product_then = Product("p", "Laptop", 99999, MAX_ON_HAND)
    assert (first, replay) == ((product_then, False), (product_then, True))
    for other in (2, 4, -3):
        told = applied(stock.change_stock, product, made, other, "3")
        assert isinstance(told, errors.IdempotencyKeyReused)
    assert product.stock() == Stock(MAX_ON_HAND, MAX_ON_HAND, 0, 0)


@pytest.mark.parametrize("state", [ProductState.NONE, ProductState.DELETED])
def test_of_a_product_that_is_not_on_sale_nothing_can_be_had(state: ProductState) -> None:
    product = ProductRecord(pk="p", state=state)
    for rule, record, args in (
        (stock.update, Applied(pk="p:1"), ("Notebook", 1)),
        (stock.change_stock, Applied(pk="p:1"), (1, "1")),
        (stock.reserve, Hold(pk="p:1"), (1,)),
    ):
        assert isinstance(applied(rule, product, record, *args), errors.ProductNotFound)
        assert record == type(record)(pk="p:1")
    assert product == ProductRecord(pk="p", state=state)


def test_a_product_is_deleted_by_one_command_and_keeps_its_stock_and_its_holds() -> None:
    product, hold = hold_of(HoldState.HELD)
    before = product.stock()

    assert applied(stock.delete, product, "1") == (("Laptop", ""), True)
    assert applied(stock.delete, product, "2") == (("Laptop", ""), False)
    assert product.stock() == before
    assert applied(stock.reserve, product, hold, 10) == (hold.reservation(), False)
    told = applied(stock.delete, ProductRecord(pk="none"), "3")
    assert isinstance(told, errors.ProductNotFound)


# What orders hold

HELD, REFUSED = HoldState.HELD, HoldState.REFUSED
RELEASED, GONE, UNKNOWN = HoldState.RELEASED, HoldState.SHIPPED, HoldState.NONE
COMMANDS: dict[str, tuple[Callable[..., Any], *tuple[int, ...]]] = {
    "reserve 10": (stock.reserve, 10),
    "reserve 9": (stock.reserve, 9),
    "reserve 11": (stock.reserve, 11),
    "release": (stock.release,),
    "ship": (stock.ship,),
}
CONFLICT, TOO_FEW = errors.ReservationConflict, errors.ReservationRefused
OVER, TOO_LATE = errors.ReservationReleased, errors.ReservationShipped
HOLDS: dict[HoldState, list[tuple[object, HoldState]]] = {
    UNKNOWN: [(True, HELD), (True, HELD), (TOO_FEW, REFUSED), (None, RELEASED), (None, UNKNOWN)],
    HELD: [(False, HELD), (CONFLICT, HELD), (CONFLICT, HELD), (None, RELEASED), (None, GONE)],
    REFUSED: [*[(TOO_FEW, REFUSED)] * 3, (None, RELEASED), (OVER, REFUSED)],
    RELEASED: [*[(OVER, RELEASED)] * 3, (None, RELEASED), (OVER, RELEASED)],
    GONE: [(False, GONE), (CONFLICT, GONE), (CONFLICT, GONE), (TOO_LATE, GONE), (None, GONE)],
}
"""For what an order has of a product: what comes of each command, and what the order has then."""


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("before", HOLDS)
def test_what_comes_of_each_command_for_what_an_order_has(before: HoldState, command: str) -> None:
    outcome, after = HOLDS[before][[*COMMANDS].index(command)]
    product, hold = hold_of(before)
    rule, *quantity = COMMANDS[command]
    told = applied(rule, product, hold, *quantity)

    if isinstance(told, tuple):
        assert told == (hold.reservation(), outcome)
    else:
        assert told is outcome is None or type(told) is outcome
    assert hold.state is after
    units = hold.quantity if after in (HELD, GONE) else 0
    reserved, shipped = (units, 0) if after is HELD else (0, units)
    assert product.stock() == Stock(10, 10 - units, reserved, shipped)
    if after is RELEASED:
        assert hold == Hold(pk="p:o", state=RELEASED)


def test_another_price_is_refused_before_too_few_and_for_good() -> None:
    product, hold = laptop(), Hold(pk="p:o")
    for seen in (99998, 99999, None):
        told = applied(stock.reserve, product, hold, 11, seen)
        assert (type(told), told.extra) == (errors.PriceChanged, {"unit_price": 999.99})
        stock.update(NOW, product, Applied(pk=f"p:{seen}"), None, 5)  # and it changes again
    assert isinstance(applied(stock.ship, product, hold), errors.ReservationReleased)
    assert applied(stock.release, product, hold) is None
    assert product.stock() == Stock(10, 10, 0, 0)


def test_a_refusal_says_what_was_available_and_is_final() -> None:
    product, hold = laptop(3), Hold(pk="p:o")
    first = applied(stock.reserve, product, hold, 4)
    changed(product, 9)
    again = applied(stock.reserve, product, hold, 1)

    assert outcome_of(first) == outcome_of(again) == outcome_of(errors.ReservationRefused(3))


# Orders


LIVES = {
    NONE: (PLACED, FAILED, NONE, NONE),
    PLACED: (PLACED, PLACED, CANCELLED, SHIPPED),
    FAILED: (FAILED, FAILED, FAILED, FAILED),
    CANCELLED: (CANCELLED, CANCELLED, CANCELLED, CANCELLED),
    SHIPPED: (SHIPPED, SHIPPED, SHIPPED, SHIPPED),
}
"""For what an order is: what becomes of it when it is placed, fails, is cancelled or shipped."""


@pytest.mark.parametrize(("before", "after_each"), LIVES.items())
def test_an_order_is_placed_or_fails_and_ends_once_for_good(
    before: OrderStatus, after_each: tuple[OrderStatus, ...]
) -> None:
    held, user_pk = (RESERVED, "u") if before is NONE else (RESERVED[:1], "another")
    commands: list[tuple[Callable[..., Any], *tuple[Any, ...]]] = [
        (orders.place, held, user_pk, NOW),
        (orders.end, FAILED),
        (orders.end, CANCELLED),
        (orders.end, SHIPPED),
    ]
    placed = order_of(PLACED).order()
    assert placed == Order("o", RESERVED, PLACED, "u", timestamp(int(NOW * 1000)))
    assert placed.total_cents == 2003
    for (rule, *args), after in zip(commands, after_each, strict=True):
        record = order_of(before)
        told = applied(rule, record, *args)

        assert record.status is after
        if after in EVER_PLACED:
            assert told == record.order() == replace(placed, status=after)
        else:
            assert isinstance(told, errors.OrderGivenUp) if rule is orders.place else told is None
            assert record == OrderRecord(pk="o", status=after)


@pytest.mark.parametrize("jump", [-TEN_MINUTES, TEN_MINUTES])
def test_nothing_is_placed_when_it_may_be_forgotten_that_it_was_given_up(jump: int) -> None:
    record, placed = OrderRecord(pk="o"), order_of(PLACED)
    before = placed.order()

    told = applied(orders.place, record, RESERVED, "u", NOW, now=NOW + jump)
    assert isinstance(told, errors.OrderGivenUp)
    assert record == OrderRecord(pk="o")
    assert applied(orders.place, placed, (), None, NOW, now=NOW + jump) == before


# Idempotency keys


LEASES = {0: 12, 4: 8, 12: 0, DAY: 0, -0.5: 12.5, -1.1: 0, -3600: 0, -(10**9): 0}
"""For how much later a key is bound once more: how long its lease still runs."""


@pytest.mark.parametrize(("later", "left"), LEASES.items())
def test_a_bound_key_keeps_its_order_and_tells_how_long_its_lease_runs(
    later: float, left: float
) -> None:
    key = bound()
    assert (key.request, key.bound_pk, key.lease_until) == ("request", "first", NOW + LEASE)
    before = copy.deepcopy(key)
    told = applied(idempotency.bind, key, "request", "second", LEASE, now=NOW + later)

    assert (told.pk, told.bound_at) == ("first", NOW + later)
    assert told.lease_seconds_left == pytest.approx(left, abs=1e-5)
    assert applied(idempotency.bind, key, "request", "first", LEASE) == Binding("first", NOW)
    another = applied(idempotency.bind, key, "another", "first", LEASE, now=NOW + later)
    assert isinstance(another, errors.IdempotencyKeyReused), "before anything else"
    assert key == before


@pytest.mark.parametrize("is_forgotten", [False, True])
def test_a_key_is_rebound_from_the_settled_order_or_from_none(is_forgotten: bool) -> None:
    key = bound()
    if is_forgotten:
        applied(idempotency.forget, key, "first")
        assert key == KeyRecord(pk="key")

    applied(idempotency.bind, key, "request", "second", LEASE, "first", now=NOW + 100)
    assert (key.request, key.bound_pk, key.lease_until) == ("request", "second", NOW + 100 + LEASE)


def test_a_key_that_a_rival_has_rebound_is_left_to_the_rival() -> None:
    key = bound("rival")
    before = copy.deepcopy(key)
    told = applied(idempotency.bind, key, "request", "second", LEASE, "first")
    applied(idempotency.forget, key, "first")
    applied(idempotency.end_lease, key, "first")

    assert told == Binding("rival", NOW, LEASE)
    assert key == before


def test_a_key_whose_lease_ended_is_still_bound() -> None:
    key = bound()
    applied(idempotency.end_lease, key, "first")

    assert applied(idempotency.bind, key, "request", "second", LEASE) == Binding("first", NOW)


def test_requests_are_the_same_when_they_want_the_same_items_in_any_order() -> None:
    items = [Item("b", 1), Item("a", 2), Item("c", 1)]

    assert by_product(items) == by_product(reversed(items)) == [items[1], items[0], items[2]]
    others = [
        [*items[:2], Item("c", 2)], items[:2], [Item("a", 1), Item("b", 2), items[2]],
        [*items[:2], Item("c", 1, 0)], [*items[:2], Item("c", 1, 1)],
    ]  # fmt: skip
    assert len({digest_of(*by_product(each)) for each in (items, *others)}) == 6


# People


def test_an_address_is_claimed_once_while_its_user_is_not_known_to_be_gone() -> None:
    address = Address(pk="anna@example.com")

    for user_pk, gone_pk, error in (
        ("anna", "", type(None)),
        ("bert", "", errors.EmailTaken),
        ("bert", "carl", errors.EmailTaken),
        ("bert", "anna", type(None)),
    ):
        assert isinstance(applied(people.claim, address, user_pk, gone_pk), error)
    applied(people.give_up, address, "anna")
    assert address.user_pk == "bert"


def test_so_many_failures_refuse_until_their_window_ends() -> None:
    failures = FailedLogins(pk="f")
    for _ in range(3):
        assert people.require_few(NOW, failures, 3) is None
        people.count_failure(NOW, failures, 60)

    told = people.require_few(NOW + 59, failures, 3)
    assert outcome_of(told) == outcome_of(errors.TooManyLogins(1))
    assert failures.kept_seconds == 60
    for other in (NOW + 60, NOW - 1.1):  # it has ended; the clock went back
        assert people.require_few(other, failures, 3) is None
    people.count_failure(NOW + 60, failures, 60)
    assert (failures.count, failures.ends) == (1, NOW + 120)
    applied(people.clear_failures, failures)
    assert failures == FailedLogins(pk="f")
