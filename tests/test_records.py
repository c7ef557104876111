"""What the port `Records` promises, on each storage; then what only Redis can get wrong."""

import asyncio
import threading
import time
import tracemalloc
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from redis.crc import key_slot

from in_memory_db import MemoryRecords
from redis_db import FULL_BUCKET, RedisRecords
from shopsphere.domain.errors import (
    InsufficientQuantity,
    RequestTimedOut,
    ShopError,
    StoreUnavailable,
)
from shopsphere.domain.pks import new_pk
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
from shopsphere.domain.values import OrderStatus, Role
from shopsphere.records import Entry, Listing, Note, Records
from tests.lossy_wire import LossyWire, connected, wired
from tests.moved_clock import MovedClock
from tests.servers import RedisServer, wait_until

pytestmark = pytest.mark.anyio

STEPS = 64
"""Changes that come together in the tests: as many as share one write on Redis."""

ODD_TEXT = "  'Müsli' {a}:b \\ \"%d\" \N{GRINNING FACE} \u2028 \0 日本  "
FULL_RECORDS: list[Record] = [
    ProductRecord(
        pk=new_pk(), state=ProductState.DELETED, name=ODD_TEXT, revision="-_a", price_cents=1,
        received=10**15, available=-1, reserved=2, shipped=3, deleted_by="None",
    ),
    Hold(pk=f"{new_pk()}:{new_pk()}", state=HoldState.HELD, quantity=1, product_name="0"),
    StockChange(pk=f"{new_pk()}:a key: with }} in it", change=-3, command="1", has_key=True),
    ProductUpdate(pk=f"{new_pk()}:x", old_name=ODD_TEXT, old_revision="true"),
    OrderRecord(pk=new_pk(), status=OrderStatus.PLACED, items_json="[]", user_pk="u", placed_ms=1),
    KeyRecord(pk="key", request="null", order_pk=new_pk(), lease_until=1_732_459_431.1234567),
    UserRecord(pk=new_pk(), email="a@b", password_hash="$bcrypt$=,/", role=Role.ADMIN),
    Address(pk="o'neill+{shop}:*@例子.广告", user_pk=new_pk()),
]  # fmt: skip


@pytest.fixture
async def wire(
    clock: MovedClock, redis_server: RedisServer
) -> AsyncIterator[tuple[RedisRecords, LossyWire]]:
    """Records on Redis, and the wire that they use."""
    async with wired(redis_server) as (client, wire):
        records = RedisRecords(client, "shop")
        await counted(records, new_pk())  # Redis knows the script from now on
        yield records, wire


@pytest.fixture
async def two(
    clock: MovedClock, redis_server: RedisServer
) -> AsyncIterator[tuple[RedisRecords, RedisRecords]]:
    """The records of two processes on one Redis."""
    async with connected(redis_server) as one, connected(redis_server) as other:
        yield RedisRecords(one, "shop"), RedisRecords(other, "shop")


def count(_: float, product: ProductRecord, made: StockChange) -> int:
    """Receive one unit, once for each change; return how many there are."""
    if not made.command:
        product.received += 1
        made.command = "made"
    return product.received


async def counted(records: Records, pk: str) -> int:
    """Count one more unit of a product."""
    return await records.change(count, ProductRecord(pk=pk), StockChange(pk=f"{pk}:{new_pk()}"))


async def received(records: Records, pk: str) -> int:
    [product] = await records.read(ProductRecord(pk=pk))
    return product.received


def set_price(_: float, product: ProductRecord, cents: int) -> None:
    product.price_cents = cents


def bind(now: float, key: KeyRecord, order_pk: str) -> None:
    if key.order_pk != order_pk:
        key.order_pk, key.lease_until = order_pk, now


async def key_record(records: Records) -> KeyRecord:
    [record] = await records.read(KeyRecord(pk="key"))
    return record


def overwrite(_: float, record: Record, fields: dict[str, Any]) -> None:
    for name, value in fields.items():
        setattr(record, name, value)


async def keep(records: Records, record: Record) -> None:
    """Have a record kept as it is given."""
    fields = record.model_dump(exclude={"pk"})
    await records.change(partial(overwrite, fields=fields), type(record)(pk=record.pk))


async def reset(records: Records, record: Record) -> None:
    """Set a record to its defaults."""
    await keep(records, type(record)(pk=record.pk))


async def passed_on(server: RedisServer, seconds: float) -> None:
    """Return when so much time has gone by for Redis."""
    start = now_of(server)
    await asyncio.to_thread(wait_until, lambda: now_of(server) > start + seconds)


def now_of(server: RedisServer) -> float:
    seconds, microseconds = server.client.time()
    return float(seconds + microseconds / 1_000_000)


def writes_of(server: RedisServer) -> int:
    """Return how many scripts Redis ran since its statistics were reset."""
    calls: int = server.client.info("commandstats").get("cmdstat_evalsha", {"calls": 0})["calls"]
    return calls


class TestRead:
    @pytest.mark.parametrize("record", FULL_RECORDS, ids=lambda record: record.kind)
    async def test_a_record_is_read_as_it_was_written_and_a_missing_one_has_its_defaults(
        self, records: Records, record: Record
    ) -> None:
        missing = type(record)(pk=record.pk)
        [before] = await records.read(missing)
        await keep(records, record)
        [kept] = await records.read(missing)

        assert before.model_dump() == missing.model_dump()
        assert kept.model_dump() == record.model_dump()
        assert isinstance(kept, type(record))

    async def test_records_come_in_the_order_in_which_they_are_wanted(
        self, records: Records
    ) -> None:
        pks = [new_pk() for _ in range(3)]
        for number, pk in enumerate(pks):
            await keep(records, ProductRecord(pk=pk, received=number))

        wanted = [*reversed(pks), new_pk(), pks[0]]
        found = await records.read(*(ProductRecord(pk=pk) for pk in wanted))

        assert [record.pk for record in found] == wanted
        assert [record.received for record in found] == [2, 1, 0, 0, 0]
        assert await records.read() == []

    async def test_kinds_are_apart_under_the_same_pk(self, records: Records) -> None:
        pk = new_pk()
        await keep(records, ProductRecord(pk=pk, name="Laptop"))

        [order] = await records.read(OrderRecord(pk=pk))
        assert order.status is OrderStatus.NONE


class TestChange:
    async def test_it_returns_the_value_of_the_rule(self, records: Records) -> None:
        pk = new_pk()

        assert [await counted(records, pk) for _ in range(3)] == [1, 2, 3]
        assert await received(records, pk) == 3

    async def test_it_raises_the_error_of_the_rule_and_keeps_what_the_rule_changed(
        self, records: Records
    ) -> None:
        def refuse(_: float, hold: Hold) -> ShopError:
            hold.state = HoldState.REFUSED
            return InsufficientQuantity(3)

        hold = Hold(pk=f"{new_pk()}:{new_pk()}")
        with pytest.raises(InsufficientQuantity) as refusal:
            await records.change(refuse, hold)

        assert refusal.value.available == 3
        assert (await records.read(hold))[0].state is HoldState.REFUSED

    async def test_the_wanted_record_and_what_was_read_stay_as_they_are(
        self, records: Records
    ) -> None:
        wanted = ProductRecord(pk=new_pk())
        await records.change(partial(set_price, cents=1), wanted)
        [seen] = await records.read(wanted)
        await records.change(partial(set_price, cents=2), wanted)

        assert (wanted.price_cents, seen.price_cents) == (0, 1)

    async def test_the_rule_gets_the_time_of_the_storage(
        self, records: Records, clock: MovedClock, redis_server: RedisServer
    ) -> None:
        now = await records.change(lambda now, _: now, KeyRecord(pk="key"))

        right = clock() if isinstance(records, MemoryRecords) else now_of(redis_server)
        assert right - 1 < now <= right + 0.01

    async def test_a_record_at_its_defaults_is_not_there(
        self, records: Records, redis_server: RedisServer
    ) -> None:
        record = ProductRecord(pk=new_pk(), received=5, name="Laptop")
        await keep(records, record)
        await keep(records, ProductRecord(pk=record.pk, name="Laptop"))
        assert await received(records, record.pk) == 0
        await reset(records, record)

        assert (await records.read(ProductRecord(pk=record.pk)))[0].name == ""
        assert redis_server.client.keys("*:product:*") == []
        await keep(records, record)
        assert await received(records, record.pk) == 5

    async def test_a_rule_that_raises_is_undone_and_the_others_go_on(
        self, records: Records
    ) -> None:
        def break_off(_: float, product: ProductRecord) -> None:
            product.received += 100
            raise ZeroDivisionError

        pk = new_pk()
        outcomes = await asyncio.gather(
            counted(records, pk),
            records.change(break_off, ProductRecord(pk=pk)),
            counted(records, pk),
            return_exceptions=True,
        )

        assert [type(outcome) for outcome in outcomes] == [int, ZeroDivisionError, int]
        assert await received(records, pk) == 2

    async def test_of_many_changes_at_once_each_counts_once(self, records: Records) -> None:
        pk, other = new_pk(), new_pk()
        told = await asyncio.gather(*(counted(records, pk) for _ in range(3 * STEPS)))
        await asyncio.gather(*(counted(records, each) for _ in range(5) for each in (pk, other)))

        assert max(told) == 3 * STEPS
        assert await received(records, pk) == 3 * STEPS + 5
        assert await received(records, other) == 5

    async def test_what_comes_too_late_is_not_applied(self, records: Records) -> None:
        pk, now = new_pk(), asyncio.get_running_loop().time()
        change = partial(records.change, partial(set_price, cents=1), ProductRecord(pk=pk))

        with pytest.raises(RequestTimedOut):
            await change(within=now - 0.001)
        assert (await records.read(ProductRecord(pk=pk)))[0].price_cents == 0
        await change(within=now + 60)
        assert (await records.read(ProductRecord(pk=pk)))[0].price_cents == 1

    async def test_a_cancelled_caller_hurts_nobody(self, records: Records) -> None:
        pk = new_pk()
        calls = [asyncio.create_task(counted(records, pk)) for _ in range(5)]
        await asyncio.sleep(0)
        if not calls[1].done():  # memory has finished
            calls[1].cancel()
        done = await asyncio.gather(*calls, return_exceptions=True)

        others = [outcome for outcome in done if not isinstance(outcome, asyncio.CancelledError)]
        assert [outcome for outcome in others if isinstance(outcome, BaseException)] == []
        assert len(others) >= 4
        assert await received(records, pk) in (len(others), 5)


class TestExpiry:
    @pytest.mark.parametrize(
        ("record", "seconds"),
        [
            (Hold(pk="product:order", state=HoldState.REFUSED), TEN_MINUTES),
            (Hold(pk="product:order", state=HoldState.RELEASED), TEN_MINUTES),
            (Hold(pk="product:order", state=HoldState.SHIPPED), TEN_MINUTES),
            (StockChange(pk="product:command", command="x"), TEN_MINUTES),
            (StockChange(pk="product:key", command="x", has_key=True), DAY),
            (ProductUpdate(pk="product:command", old_name="x"), TEN_MINUTES),
            (OrderRecord(pk="order", status=OrderStatus.FAILED), TEN_MINUTES),
            (KeyRecord(pk="key", request="x"), DAY),
        ],
        ids=repr,
    )
    async def test_it_comes_after_its_time_from_the_last_change_and_not_before(
        self, records: Records, clock: MovedClock, record: Record, seconds: int
    ) -> None:
        missing = type(record)(pk=record.pk)
        await keep(records, record)
        clock.move(seconds - 60)
        await reset(records, record)
        await keep(records, record)
        clock.move(seconds - 60)
        [still_there] = await records.read(missing)
        clock.move(60)
        [gone] = await records.read(missing)

        assert still_there.model_dump() == record.model_dump()
        assert gone.model_dump() == missing.model_dump()

    async def test_a_change_begins_its_time_anew_and_reading_does_not(
        self, records: Records, clock: MovedClock
    ) -> None:
        key = KeyRecord(pk="key")
        await records.change(partial(bind, order_pk="first"), key)
        clock.move(DAY - 60)
        await records.change(partial(bind, order_pk="second"), key)
        clock.move(DAY - 60)
        assert (await key_record(records)).order_pk == "second"
        await records.change(lambda _, key: None, key)
        clock.move(60)

        assert (await key_record(records)).order_pk == ""
        await records.change(partial(bind, order_pk="third"), key)
        assert (await key_record(records)).order_pk == "third"

    @pytest.mark.parametrize("first", [HoldState.HELD, HoldState.REFUSED])
    async def test_it_follows_what_the_record_is_now(
        self, records: Records, clock: MovedClock, first: HoldState
    ) -> None:
        second = HoldState.REFUSED if first is HoldState.HELD else HoldState.HELD
        hold = Hold(pk=f"{new_pk()}:{new_pk()}")
        for state in (first, second):
            await keep(records, Hold(pk=hold.pk, state=state))
        clock.move(TEN_MINUTES)

        [kept] = await records.read(hold)
        assert kept.state is (HoldState.HELD if second is HoldState.HELD else HoldState.NONE)

    @pytest.mark.parametrize(
        "record",
        [record for record in FULL_RECORDS if record.kept_seconds is None],
        ids=lambda record: record.kind,
    )
    async def test_what_is_kept_for_good_does_not_go_away(
        self, records: Records, clock: MovedClock, record: Record
    ) -> None:
        await keep(records, record)
        clock.move(400 * DAY)

        [kept] = await records.read(type(record)(pk=record.pk))
        assert kept.model_dump() == record.model_dump()

    async def test_what_was_rewritten_often_leaves_nothing_behind_in_memory(self) -> None:
        clock = iter(range(10**9)).__next__
        records = MemoryRecords(lambda: 1_000_000 + clock() / 1000)

        async def rewrite(times: int) -> int:
            for number in range(times):
                await records.change(partial(bind, order_pk=str(number)), KeyRecord(pk="key"))
            return tracemalloc.get_traced_memory()[0]

        tracemalloc.start()
        try:
            before = await rewrite(1000)
            after = await rewrite(40_000)
        finally:
            tracemalloc.stop()
        assert after - before < 40_000, "less than a byte for each"

    async def test_what_has_expired_leaves_nothing_behind_in_memory(self) -> None:
        now = 1_000_000.0
        records = MemoryRecords(lambda: now)

        async def refuse(orders: int) -> int:
            nonlocal now
            for _ in range(orders):
                pk = f"{new_pk()}:order"
                await keep(records, Hold(pk=pk, state=HoldState.HELD))
                await keep(records, Hold(pk=pk, state=HoldState.REFUSED))
            now += TEN_MINUTES
            await records.read(Hold(pk="product:another"))
            return tracemalloc.get_traced_memory()[0]

        tracemalloc.start()
        try:
            before = await refuse(1000)  # dicts keep their size when they are empty again
            after = [await refuse(1000) for _ in range(5)][-1]
        finally:
            tracemalloc.stop()
        assert after - before < 20_000, "two bytes for each"


class TestLive:
    async def held(self, records: Records, slot: str, after: str = "", limit: int = 100) -> str:
        holds = await records.live(Hold, slot, after, limit)
        assert all(isinstance(hold, Hold) and hold.state is HoldState.HELD for hold in holds)
        return " ".join(hold.pk.removeprefix(f"{slot}:") for hold in holds)

    async def test_it_tells_the_listed_records_of_a_slot_in_the_order_of_their_pks(
        self, records: Records
    ) -> None:
        for slot, members in (("p1", "dbcae"), ("p2", "z")):
            for member in members:
                await keep(records, Hold(pk=f"{slot}:{member}", state=HoldState.HELD))
        await keep(records, Hold(pk="p1:f", state=HoldState.REFUSED))

        assert await self.held(records, "p1") == "a b c d e"
        assert await self.held(records, "p1", "b", 2) == "c d"
        assert await self.held(records, "p1", "bb") == "c d e"
        assert await self.held(records, "p1", "e") == ""
        assert await self.held(records, "p2") == "z"
        assert await self.held(records, "p3") == ""

    @pytest.mark.parametrize("state", [HoldState.RELEASED, HoldState.SHIPPED, HoldState.NONE])
    async def test_what_is_not_listed_any_more_leaves_and_can_come_back(
        self, records: Records, clock: MovedClock, state: HoldState
    ) -> None:
        for member in "ab":
            await keep(records, Hold(pk=f"p:{member}", state=HoldState.HELD, quantity=1))
        await keep(records, Hold(pk="p:a", state=state))
        assert await self.held(records, "p") == "b"
        clock.move(TEN_MINUTES)

        await keep(records, Hold(pk="p:a", state=HoldState.HELD))
        assert await self.held(records, "p") == "a b"
        for member in "ab":
            await keep(records, Hold(pk=f"p:{member}", state=state))
        assert await self.held(records, "p") == ""


class TestLists:
    ALL, PLACED, ENDED = (Listing("slot", name) for name in ("all", "placed", "ended"))

    async def members(self, records: Records, listing: Listing) -> list[str]:
        entries = await records.entries(listing, 0, 100)
        positions = [position for _, position in entries]
        assert positions == sorted(set(positions))
        for entry in entries:
            assert await records.position(listing, entry.member) == entry.position
        return [entry.member for entry in entries]

    async def test_members_are_in_the_order_in_which_they_entered(self, records: Records) -> None:
        for member in "dbac":
            await records.enter(member, [self.ALL])

        assert await self.members(records, self.ALL) == list("dbac")
        assert await records.position(self.ALL, "x") is None
        assert await records.entries(Listing("other"), 0, 100) == []
        assert await records.position(Listing("other"), "a") is None

    async def test_a_page_begins_after_a_position(self, records: Records) -> None:
        for member in "abcde":
            await records.enter(member, [self.ALL])
        entries = await records.entries(self.ALL, 0, 100)

        assert await records.entries(self.ALL, entries[1].position, 2) == entries[2:4]
        assert await records.entries(self.ALL, entries[1].position - 1, 1) == entries[1:2]
        assert await records.entries(self.ALL, entries[4].position, 2) == []
        assert isinstance(entries[0], Entry)

    async def test_a_position_is_the_time_of_the_storage_in_microseconds(
        self, records: Records, clock: MovedClock, redis_server: RedisServer
    ) -> None:
        await records.enter("a", [self.ALL])

        right = clock() if isinstance(records, MemoryRecords) else now_of(redis_server)
        position = await records.position(self.ALL, "a")
        assert position is not None
        assert right - 5 < position / 1_000_000 <= right

    async def test_entering_again_moves_nothing(self, records: Records, clock: MovedClock) -> None:
        for member in "ab":
            await records.enter(member, [self.ALL])
        before = await records.entries(self.ALL, 0, 100)
        await records.enter("a", [self.ALL])

        assert await records.entries(self.ALL, 0, 100) == before

    async def test_positions_grow_when_the_clock_goes_back(
        self, records: Records, clock: MovedClock
    ) -> None:
        for listing, member in ((self.ALL, "a"), (self.PLACED, "b")):
            await records.enter(member, [listing])
        clock.move(-3600)
        for member in "cde":
            await records.enter(member, [self.ALL, self.PLACED])

        assert await self.members(records, self.ALL) == list("acde")
        assert await self.members(records, self.PLACED) == list("bcde")

    async def test_positions_grow_when_the_last_entry_leaves(
        self, records: Records, clock: MovedClock
    ) -> None:
        await records.enter("a", [self.ALL])
        clock.move(-3600)
        last = await records.position(self.ALL, "a")
        await records.leave(self.ALL, "a")
        await records.enter("b", [self.ALL])
        [entry] = await records.entries(self.ALL, 0, 100)

        assert last is not None
        assert entry.position > last

    async def test_one_step_enters_some_lists_and_leaves_others(self, records: Records) -> None:
        await records.enter("a", [self.ALL, self.PLACED])
        await records.enter("b", [self.ALL, self.PLACED])
        await records.enter("a", [self.ALL, self.ENDED], leaving=[self.PLACED])
        await records.enter("c", [self.ALL, self.ENDED], leaving=[self.PLACED])

        assert await self.members(records, self.ALL) == list("abc")
        assert await self.members(records, self.PLACED) == ["b"]
        assert await self.members(records, self.ENDED) == ["a", "c"]

    async def test_nothing_happens_to_a_member_of_a_forbidden_list(self, records: Records) -> None:
        await records.enter("a", [self.ENDED])
        await records.enter("a", [self.ALL, self.PLACED], unless_in=[self.PLACED, self.ENDED])
        await records.enter("a", [self.ALL], leaving=[self.ENDED], unless_in=[self.ENDED])
        await records.enter("b", [self.ALL, self.PLACED], unless_in=[self.ENDED])

        assert await self.members(records, self.ALL) == ["b"]
        assert await self.members(records, self.PLACED) == ["b"]
        assert await self.members(records, self.ENDED) == ["a"]

    async def test_who_leaves_is_gone_and_can_enter_again_at_the_end(
        self, records: Records
    ) -> None:
        for member in "abc":
            await records.enter(member, [self.ALL])
        for _ in range(2):
            await records.leave(self.ALL, "a")
        await records.leave(Listing("other"), "b")
        assert await self.members(records, self.ALL) == list("bc")
        await records.enter("a", [self.ALL])

        assert await self.members(records, self.ALL) == list("bca")

    async def test_of_many_who_enter_at_once_nobody_shares_a_position(
        self, records: Records
    ) -> None:
        wanted = {f"{number}" for number in range(STEPS)}
        await asyncio.gather(*(records.enter(member, [self.ALL]) for member in wanted))

        assert set(await self.members(records, self.ALL)) == wanted


class TestNotes:
    async def test_they_come_oldest_first_with_their_ages(
        self, records: Records, clock: MovedClock
    ) -> None:
        for text in "bac":
            await records.add_note(text)
            clock.move(10)

        notes = await records.notes(0, 100)
        assert [note.text for note in notes] == list("bac")
        assert [note.age for note in notes] == [pytest.approx(age, abs=0.9) for age in (30, 20, 10)]
        assert isinstance(notes[0], Note)
        assert await records.count_notes() == 3

    async def test_they_come_in_pages(self, records: Records, clock: MovedClock) -> None:
        for text in "abcde":
            await records.add_note(text)
            clock.move(1)

        first = await records.notes(0, 2)
        await records.remove_note("a")  # so that no page depends on how many there were before
        second = await records.notes(first[-1].noted_at + 1, 2)
        third = await records.notes(second[-1].noted_at, 3)
        last = await records.notes(third[-1].noted_at + 1, 1)
        pages = [first, second, third, last]
        assert ["".join(note.text for note in page) for page in pages] == ["ab", "cd", "de", ""]

    async def test_those_from_the_future_come_last_and_have_a_negative_age(
        self, records: Records, clock: MovedClock
    ) -> None:
        await records.add_note("future")
        clock.move(-3600)
        await records.add_note("now")

        now, future = await records.notes(0, 100)
        assert (now.text, future.text) == ("now", "future")
        assert now.age == pytest.approx(0, abs=0.9)
        assert future.age == pytest.approx(-3600, abs=0.9)

    async def test_the_same_note_again_starts_anew(
        self, records: Records, clock: MovedClock
    ) -> None:
        await records.add_note("a")
        clock.move(30)
        await records.add_note("b")
        clock.move(30)
        await records.add_note("a")

        notes = await records.notes(0, 100)
        assert [note.text for note in notes] == ["b", "a"]
        assert notes[1].age == pytest.approx(0, abs=0.9)

    @pytest.mark.parametrize("name", ["memory", "redis"])
    async def test_removing_tells_whether_it_was_there(
        self, name: str, two: tuple[RedisRecords, RedisRecords]
    ) -> None:
        """Not over a lossy wire: there a command that was repeated finds it gone."""
        records: Records = MemoryRecords() if name == "memory" else two[0]
        await records.add_note("a")
        await records.add_note("b")

        assert [await records.remove_note("a") for _ in range(2)] == [True, False]
        assert [note.text for note in await records.notes(0, 100)] == ["b"]
        assert await records.count_notes() == 1


texts = st.text(st.sampled_from("\0abé\N{GRINNING FACE}"), max_size=4)
histories = st.lists(
    st.tuples(st.sampled_from(["add", "add", "remove"]), st.lists(texts, max_size=200)), max_size=8
)


class TestNames:
    async def test_only_those_with_the_prefix_are_told_from_the_start_on(
        self, records: Records
    ) -> None:
        await records.add_names(["ab", "a", "b", "aé", "az", "ab\0"])
        await records.add_names(["a"])
        await records.remove_names(["az", "never there"])

        assert await records.names("a", "a", 100) == ["a", "ab", "ab\0", "aé"]
        assert await records.names("ab\0", "a", 100) == ["ab\0", "aé"]
        assert await records.names("a", "a", 2) == ["a", "ab"]
        assert await records.names("", "", 100) == ["a", "ab", "ab\0", "aé", "b"]
        assert await records.names("c", "c", 100) == []

    @settings(
        max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
    )
    @given(histories, st.lists(st.tuples(texts, texts, st.integers(1, 300)), min_size=1))
    async def test_both_storages_tell_what_a_sorted_list_does(
        self,
        two: tuple[RedisRecords, RedisRecords],
        redis_server: RedisServer,
        histories: list[tuple[str, list[str]]],
        questions: list[tuple[str, str, int]],
    ) -> None:
        redis_server.client.flushall()
        plain: set[str] = set()
        memory = MemoryRecords()
        for turn, (change, names) in enumerate(histories):
            for records in (memory, two[turn % 2]):
                if change == "add":
                    await records.add_names(names)
                else:
                    await records.remove_names(names)
            plain = plain | set(names) if change == "add" else plain - set(names)

        for prefix, rest, limit in [("", "", 10_000), *questions]:
            start = prefix + rest
            expected = sorted(name for name in plain if name >= start and name.startswith(prefix))
            for records in (memory, *two):
                assert await records.names(start, prefix, limit) == expected[:limit]

    async def test_thousands_added_and_removed_at_once_by_two_processes_are_all_told(
        self, two: tuple[RedisRecords, RedisRecords], redis_server: RedisServer
    ) -> None:
        groups = [[f"{number:05}" for number in range(start, 3000, 20)] for start in range(20)]
        adding = [two[turn % 2].add_names(group) for turn, group in enumerate(groups)]
        await asyncio.gather(*adding)
        everything = sorted(name for group in groups for name in group)
        assert await two[0].names("", "", 10_000) == everything

        buckets = [key for key in redis_server.client.keys("*:names:*") if not key.endswith("}")]
        encodings = {str(redis_server.client.object("encoding", bucket)) for bucket in buckets}
        assert encodings <= {"ziplist", "listpack"}, "each bucket is packed"
        assert len(buckets) >= len(everything) / 128

        removing = [two[turn % 2].remove_names(group) for turn, group in enumerate(groups[1:])]
        await asyncio.gather(*removing, two[0].add_names(groups[0]))
        assert await two[1].names("", "", 10_000) == groups[0]
        await two[1].remove_names(groups[0])
        assert redis_server.client.keys("*:names:*") == []

    async def test_buckets_stay_packed_with_the_longest_names(
        self, two: tuple[RedisRecords, RedisRecords], redis_server: RedisServer
    ) -> None:
        await two[0].add_names([f"{number:064}" for number in range(1000)])

        sizes = []
        for bucket in redis_server.client.keys("*:names:*"):
            if not bucket.endswith("}"):
                sizes.append(redis_server.client.zcard(bucket))
                encoding = str(redis_server.client.object("encoding", bucket))
                assert encoding in ("ziplist", "listpack")
        assert sum(sizes) == 1000
        assert max(sizes) <= FULL_BUCKET

    async def test_a_page_looks_into_no_more_buckets_than_it_needs(
        self, two: tuple[RedisRecords, RedisRecords], redis_server: RedisServer
    ) -> None:
        await two[0].add_names([f"{number:04}" for number in range(1000)])
        redis_server.client.config_resetstat()

        assert await two[0].names("", "", 3) == ["0000", "0001", "0002"]
        assert redis_server.client.info("commandstats")["cmdstat_zrangebylex"]["calls"] < 5

    async def test_a_walk_beside_splits_misses_no_name_that_was_there(
        self, two: tuple[RedisRecords, RedisRecords]
    ) -> None:
        there = [f"{number:04}" for number in range(0, 2000, 10)]
        await two[0].add_names(there)
        others = [f"{number:04}" for number in range(2000) if number % 10]

        async def crowd() -> None:
            for start in range(9):
                await two[1].add_names(others[start::9])
            for start in range(9):
                await two[1].remove_names(others[start::9])

        crowding = asyncio.create_task(crowd())
        walks = 0
        while not crowding.done():
            found = await two[0].names("", "", 10_000)
            assert found == sorted(set(found))
            assert set(there) <= set(found)
            walks += 1
        await crowding
        assert walks > 1
        assert await two[0].names("", "", 10_000) == there


class TestSharing:
    """On Redis, changes of one slot that come together share a read and a write."""

    async def test_changes_of_one_slot_in_one_turn_take_few_writes(
        self, wire: tuple[RedisRecords, LossyWire], redis_server: RedisServer
    ) -> None:
        records, _ = wire
        pk = new_pk()
        redis_server.client.config_resetstat()
        await asyncio.gather(*(counted(records, pk) for _ in range(STEPS)))
        assert writes_of(redis_server) <= 2, "a write on what was seen last, and one on what is"

        redis_server.client.config_resetstat()
        await asyncio.gather(*(counted(records, pk) for _ in range(4 * STEPS)))
        assert writes_of(redis_server) <= 8
        assert await received(records, pk) == 5 * STEPS

    async def test_a_record_that_cannot_be_read_is_an_error_to_its_own_changes(
        self, wire: tuple[RedisRecords, LossyWire], redis_server: RedisServer
    ) -> None:
        records, _ = wire
        pk = new_pk()
        for field in ("change", "version"):
            redis_server.client.hset(f"shop:stock-change:{{{pk}}}:torn", field, "many")
        torn = StockChange(pk=f"{pk}:torn")

        outcomes = await asyncio.gather(
            counted(records, pk),
            records.change(count, ProductRecord(pk=pk), torn),
            counted(records, pk),
            return_exceptions=True,
        )

        assert [outcomes[0], outcomes[2]] == [1, 2]
        assert isinstance(outcomes[1], ValidationError)
        with pytest.raises(ValidationError):
            await records.read(torn)

    @pytest.mark.parametrize("processes", [2, 3])
    async def test_batches_of_several_processes_get_through_and_each_change_counts_once(
        self, two: tuple[RedisRecords, RedisRecords], redis_server: RedisServer, processes: int
    ) -> None:
        pk, rounds = new_pk(), 5
        async with connected(redis_server) as client:
            all_records = [*two, RedisRecords(client, "shop")][:processes]

            async def busy(records: RedisRecords) -> None:
                for _ in range(rounds):
                    await asyncio.gather(*(counted(records, pk) for _ in range(STEPS)))

            async with asyncio.timeout(30):
                await asyncio.gather(*map(busy, all_records))
        assert await received(two[0], pk) == processes * rounds * STEPS

    async def test_a_batch_gets_through_beside_one_who_never_waits(
        self, two: tuple[RedisRecords, RedisRecords]
    ) -> None:
        pk, is_over = new_pk(), False

        async def never_wait() -> int:
            made = 0
            while not is_over:
                await counted(two[0], pk)
                made += 1
            return made

        restless = asyncio.create_task(never_wait())
        async with asyncio.timeout(30):
            for _ in range(3):
                await asyncio.gather(*(counted(two[1], pk) for _ in range(STEPS)))
        is_over = True
        assert await received(two[1], pk) in range(3 * STEPS, 3 * STEPS + await restless + 1)

    async def test_a_turn_from_a_clock_that_went_back_holds_nobody_up(
        self, two: tuple[RedisRecords, RedisRecords], redis_server: RedisServer
    ) -> None:
        pk = new_pk()
        ends = int((now_of(redis_server) + 3600) * 1_000_000)
        redis_server.client.set(f"shop:turn:{{{pk}}}", f"another {ends}")

        async with asyncio.timeout(10):
            assert await counted(two[0], pk) == 1

    async def test_those_who_are_cancelled_while_it_is_sent_take_nobody_along(
        self, wire: tuple[RedisRecords, LossyWire]
    ) -> None:
        records, line = wire
        pk = new_pk()
        await counted(records, pk)
        line.hold()
        calls = [asyncio.create_task(counted(records, pk)) for _ in range(5)]
        await line.holds_a_request()
        waiting = [asyncio.create_task(counted(records, pk)) for _ in range(5)]
        await asyncio.sleep(0)
        for cancelled in (calls[0], calls[1], waiting[1], waiting[3]):
            cancelled.cancel()
        line.let_through()
        done = await asyncio.gather(*calls, *waiting, return_exceptions=True)

        told = [outcome for outcome in done if not isinstance(outcome, asyncio.CancelledError)]
        assert told == [4, 5, 6, 7, 8, 9], "2 to 6 were on their way, two of the next were not"
        assert await received(records, pk) == 9

    async def test_close_waits_for_what_is_being_written(
        self, wire: tuple[RedisRecords, LossyWire], two: tuple[RedisRecords, RedisRecords]
    ) -> None:
        records, line = wire
        pk = new_pk()
        line.hold()
        abandoned = asyncio.create_task(counted(records, pk))
        await line.holds_a_request()
        call = asyncio.create_task(counted(records, pk))
        await asyncio.sleep(0)
        closing = asyncio.create_task(records.close())
        await asyncio.sleep(0)
        abandoned.cancel()
        assert not closing.done()
        line.let_through()
        await closing

        assert call.done()
        assert await received(two[0], pk) == await call


class TestLate:
    """On Redis, a write lands within a second of its read, or not at all."""

    async def test_what_was_held_up_is_applied_again_at_a_later_time(
        self, wire: tuple[RedisRecords, LossyWire], redis_server: RedisServer
    ) -> None:
        records, line = wire
        times: list[float] = []

        def note_time(now: float, key: KeyRecord) -> None:
            times.append(now)
            key.lease_until = now

        line.hold()
        call = asyncio.create_task(records.change(note_time, KeyRecord(pk="key")))
        await line.holds_a_request()
        await passed_on(redis_server, 1.5)
        line.let_through()
        await call

        assert times[-1] - times[0] > 1.4
        assert (await key_record(records)).lease_until == times[-1]
        assert now_of(redis_server) - times[-1] < 1

    async def test_what_was_held_up_beyond_its_deadline_is_not_applied(
        self, wire: tuple[RedisRecords, LossyWire], redis_server: RedisServer
    ) -> None:
        records, line = wire
        pk = new_pk()
        soon = asyncio.get_running_loop().time() + 0.4
        line.hold()
        call = asyncio.create_task(
            records.change(partial(set_price, cents=1), ProductRecord(pk=pk), within=soon)
        )
        other = asyncio.create_task(counted(records, pk))
        await line.holds_a_request()
        await passed_on(redis_server, 1.5)
        line.let_through()
        with pytest.raises(RequestTimedOut):
            await call

        assert await other == 1
        [product] = await records.read(ProductRecord(pk=pk))
        assert (product.price_cents, product.received) == (0, 1)

    async def test_a_copy_that_comes_again_at_once_changes_nothing(
        self, wire: tuple[RedisRecords, LossyWire]
    ) -> None:
        records, line = wire
        pk = new_pk()
        await counted(records, pk)
        line.requests.clear()
        await asyncio.gather(counted(records, pk), records.enter(pk, [Listing("products")]))
        before = await records.entries(Listing("products"), 0, 10)
        await line.bring_again()

        assert await received(records, pk) == 2
        assert await records.entries(Listing("products"), 0, 10) == before

    async def test_a_copy_changes_nothing_where_the_values_returned_to_what_they_were(
        self, wire: tuple[RedisRecords, LossyWire]
    ) -> None:
        records, line = wire
        product = ProductRecord(pk=new_pk())
        await records.change(partial(set_price, cents=1), product)
        line.requests.clear()
        await records.change(partial(set_price, cents=2), product)
        late = list(line.requests)
        await records.change(partial(set_price, cents=1), product)
        line.requests = late
        await line.bring_again()

        assert (await records.read(product))[0].price_cents == 1

    @pytest.mark.parametrize("later", ["missing again", "expired", "still there"])
    async def test_a_copy_changes_nothing_a_second_later_whatever_was_there(
        self,
        wire: tuple[RedisRecords, LossyWire],
        redis_server: RedisServer,
        clock: MovedClock,
        later: str,
    ) -> None:
        records, line = wire
        hold = Hold(pk=f"{new_pk()}:{new_pk()}", state=HoldState.REFUSED)
        line.requests.clear()
        await keep(records, hold)
        late = list(line.requests)
        if later == "missing again":
            await reset(records, hold)
        elif later == "expired":
            clock.move(TEN_MINUTES)
        else:
            await keep(records, Hold(pk=hold.pk, state=HoldState.HELD))
        await passed_on(redis_server, 1.1)
        line.requests = late
        await line.bring_again()

        [kept] = await records.read(hold)
        assert kept.state is (HoldState.HELD if later == "still there" else HoldState.NONE)
        live = await records.live(Hold, hold.pk.partition(":")[0], "", 10)
        assert len(live) == (later == "still there")

    async def test_what_another_process_wrote_meanwhile_is_seen(
        self, wire: tuple[RedisRecords, LossyWire], two: tuple[RedisRecords, RedisRecords]
    ) -> None:
        records, line = wire
        pk = new_pk()
        await counted(records, pk)
        line.hold()
        call = asyncio.create_task(counted(records, pk))
        await line.holds_a_request()
        await counted(two[0], pk)
        line.let_through()

        assert await call == 3
        await keep(two[0], ProductRecord(pk=pk))
        assert await counted(records, pk) == 1, "nothing is left of it"

    @pytest.mark.parametrize("hours", [-1, 1])
    async def test_nothing_depends_on_the_clock_of_the_service(
        self,
        wire: tuple[RedisRecords, LossyWire],
        redis_server: RedisServer,
        monkeypatch: pytest.MonkeyPatch,
        hours: int,
    ) -> None:
        records, _ = wire
        right = time.time
        await records.add_note("before")
        monkeypatch.setattr(time, "time", lambda: right() + hours * 3600)
        await records.change(partial(bind, order_pk="order"), KeyRecord(pk="key"))
        await records.add_note("after")
        await records.enter("a", [Listing("slot")])

        assert (await key_record(records)).lease_until == pytest.approx(now_of(redis_server), abs=1)
        assert [note.text for note in await records.notes(0, 10)] == ["before", "after"]
        position = await records.position(Listing("slot"), "a")
        assert position == pytest.approx(now_of(redis_server) * 1_000_000, abs=1_000_000)


Use = Callable[[Records], Awaitable[object]]
USES: dict[str, Use] = {
    "read": lambda records: records.read(ProductRecord(pk="a")),
    "read several": lambda records: records.read(*(ProductRecord(pk=pk) for pk in "ab")),
    "change": lambda records: counted(records, "a"),
    "live": lambda records: records.live(Hold, "a", "", 1),
    "enter": lambda records: records.enter("a", [Listing("slot")]),
    "leave": lambda records: records.leave(Listing("slot"), "a"),
    "entries": lambda records: records.entries(Listing("slot"), 0, 1),
    "position": lambda records: records.position(Listing("slot"), "a"),
    "add names": lambda records: records.add_names(["a"]),
    "remove names": lambda records: records.remove_names(["a"]),
    "names": lambda records: records.names("a", "a", 1),
    "add a note": lambda records: records.add_note("a"),
    "remove a note": lambda records: records.remove_note("a"),
    "notes": lambda records: records.notes(0, 1),
    "count notes": lambda records: records.count_notes(),
    "ping": lambda records: records.ping(),
    "count logins": lambda records: records.counters.incr("a", 60),
}


async def test_everything_works_on_a_storage_that_serves(records: Records) -> None:
    for use in USES.values():
        await use(records)


async def test_where_redis_is_gone_everything_is_unavailable_and_works_again_when_it_is_back(
    tmp_path: Path,
) -> None:
    server = RedisServer(tmp_path)
    try:
        async with connected(server) as client:
            records = RedisRecords(client, "shop")
            await asyncio.to_thread(server.stop)
            outcomes = await asyncio.gather(
                *(use(records) for use in USES.values()), return_exceptions=True
            )
            assert {type(outcome) for outcome in outcomes} == {StoreUnavailable}
            for use in USES.values():
                with pytest.raises(StoreUnavailable):
                    await use(records)

            await asyncio.to_thread(server.start)
            for use in USES.values():
                await use(records)
    finally:
        server.client.close()
        if server.process.poll() is None:
            server.stop()


async def test_scripts_that_redis_forgot_are_loaded_again(
    two: tuple[RedisRecords, RedisRecords], redis_server: RedisServer
) -> None:
    for use in USES.values():
        redis_server.client.script_flush()
        await use(two[0])


async def test_scripts_that_redis_forgets_again_and_again_are_at_worst_unavailable(
    two: tuple[RedisRecords, RedisRecords], redis_server: RedisServer
) -> None:
    is_over = threading.Event()

    def forget() -> None:
        while not is_over.is_set():
            redis_server.client.script_flush()

    forgetting = threading.Thread(target=forget)
    forgetting.start()
    try:
        for _ in range(30):
            outcomes = await asyncio.gather(
                *(use(records) for use in USES.values() for records in two), return_exceptions=True
            )
            errors = [each for each in outcomes if isinstance(each, BaseException)]
            assert [error for error in errors if not isinstance(error, StoreUnavailable)] == []
    finally:
        is_over.set()
        forgetting.join()
    assert await counted(two[0], new_pk()) == 1


async def test_all_keys_of_a_slot_are_in_one_slot_of_a_cluster(
    two: tuple[RedisRecords, RedisRecords], redis_server: RedisServer
) -> None:
    slot = new_pk()
    await asyncio.gather(*(counted(records, slot) for records in two for _ in range(5)))
    await keep(two[0], Hold(pk=f"{slot}:a }} key {{:", state=HoldState.HELD))
    await two[0].enter("a", [Listing(slot)], leaving=[Listing(slot, "b")])

    keys = [key for key in redis_server.client.scan_iter() if slot in key]
    assert len(keys) >= 5
    assert {key_slot(key.encode()) for key in keys} == {key_slot(slot.encode())}


async def test_prefixes_share_a_redis_and_nothing_else(
    two: tuple[RedisRecords, RedisRecords], redis_server: RedisServer
) -> None:
    async with connected(redis_server) as client:
        there = RedisRecords(client, "there")
        for use in USES.values():
            await use(two[0])
        assert await received(there, "a") == 0
        assert await there.entries(Listing("slot"), 0, 10) == []
        assert await there.count_notes() == 0
        await two[0].add_names(["a"])
        assert await there.names("a", "a", 1) == []
    probe = "shopsphere:probe"  # of the connection, gone after a second
    keys = [key for key in redis_server.client.scan_iter() if key != probe]
    assert [key for key in keys if not key.startswith("shop:")] == []


async def test_closed_records_have_let_go_of_their_connections(
    clock: MovedClock, redis_server: RedisServer
) -> None:
    async with connected(redis_server) as client:
        records = RedisRecords(client, "shop")
        await asyncio.gather(*(counted(records, new_pk()) for _ in range(5)))
        assert len(redis_server.client.client_list()) > 1

        await records.close()

        await asyncio.to_thread(
            wait_until, lambda: len(redis_server.client.client_list()) == 1, why="only ours is open"
        )
