"""What the port `Records` promises, on each storage; then what only Redis can get wrong."""

import asyncio
import signal
import tracemalloc
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from functools import partial
from typing import TypeVar

import pytest
from redis.crc import key_slot

from in_memory_db import MemoryRecords
from redis_db import RedisRecords
from shopsphere.domain import errors
from shopsphere.domain.pks import new_pk
from shopsphere.domain.records import (
    DAY,
    TEN_MINUTES,
    Address,
    Applied,
    Hold,
    HoldState,
    KeyRecord,
    OrderRecord,
    ProductRecord,
    ProductState,
    Record,
    User,
)  # fmt: skip
from shopsphere.domain.values import OrderStatus, Role
from shopsphere.records import EVERYTHING, Listing, Records, Span
from shopsphere.redis_clients.connecting import connect
from shopsphere.settings import Settings
from tests.lossy_wire import LossyWire, connected, wired
from tests.moved_clock import MovedClock
from tests.servers import RedisServer, free_port, wait_until

pytestmark = pytest.mark.anyio

STEPS = 64
"""Changes that come together in the tests: as many as share one write on Redis."""

NONE, HELD = HoldState.NONE, HoldState.HELD
REFUSED, RELEASED = HoldState.REFUSED, HoldState.RELEASED
ODD_TEXT = "  'Müsli' {a}:b \\ \"%d\" \N{GRINNING FACE} \u2028 \0 日本  "
FULL_RECORDS: list[Record] = [
    ProductRecord(
        pk=new_pk(), state=ProductState.DELETED, name=ODD_TEXT, revision="-_a", price_cents=1,
        received=10**15, available=-1, reserved=2, shipped=3, deleted_by="None",
    ),
    Hold(pk=f"{new_pk()}:{new_pk()}", state=HELD, quantity=1, product_name="0"),
    Applied(pk=f"{new_pk()}:a key: with }} in it", change=-3, command="1"),
    Applied(pk=f"{new_pk()}:x", old_name=ODD_TEXT, old_revision="true"),
    OrderRecord(pk=new_pk(), status=OrderStatus.PLACED, items_json="[]", user_pk="u", placed_ms=1),
    KeyRecord(pk="key", request="null", bound_pk=new_pk(), lease_until=1_732_459_431.1234567),
    User(pk=new_pk(), email="a@b", password_hash="$bcrypt$=,/", role=Role.ADMIN),
    Address(pk="o'neill+{shop}:*@例子.广告", user_pk=new_pk()),
]  # fmt: skip

ALL, PLACED = Listing("slot"), Listing("slot", "placed")

R = TypeVar("R", bound=Record)
Wired = tuple[RedisRecords, LossyWire]
Two = tuple[RedisRecords, RedisRecords]


@pytest.fixture
async def wire(clock: MovedClock, redis_server: RedisServer) -> AsyncIterator[Wired]:
    """Records on Redis, and the wire that they use."""
    async with wired(redis_server) as (client, wire):
        records = RedisRecords(client, "shop")
        await counted(records, new_pk())  # Redis knows the script from now on
        yield records, wire


@pytest.fixture
async def two(clock: MovedClock, redis_server: RedisServer) -> AsyncIterator[Two]:
    """The records of two processes on one Redis."""
    async with connected(redis_server) as one, connected(redis_server) as other:
        yield RedisRecords(one, "shop"), RedisRecords(other, "shop")


def count(_: float, product: ProductRecord, made: Applied) -> int:
    """Receive one unit, once for each change; return how many there are."""
    if not made.command:
        product.received += 1
        made.command = "made"
    return product.received


async def counted(records: Records, pk: str) -> int:
    """Count one more unit of a product."""
    return await records.change(count, ProductRecord(pk=pk), Applied(pk=f"{pk}:{new_pk()}"))


async def received(records: Records, pk: str) -> int:
    return (await read(records, ProductRecord(pk=pk))).received


def set_price(_: float, product: ProductRecord, cents: int) -> None:
    product.price_cents = cents


async def read(records: Records, wanted: R) -> R:
    """Read the record with this pk."""
    [record] = await records.read(type(wanted)(pk=wanted.pk))
    return record


async def keep(records: Records, record: Record) -> None:
    """Have a record kept as it is given."""

    def overwrite(_: float, kept: Record) -> None:
        for name, value in record.model_dump(exclude={"pk"}).items():
            setattr(kept, name, value)

    await records.change(overwrite, type(record)(pk=record.pk))


def now_of(server: RedisServer) -> float:
    seconds, microseconds = server.client.time()
    return float(seconds + microseconds / 1_000_000)


# Records


@pytest.mark.parametrize("record", FULL_RECORDS, ids=lambda record: record.kind)
async def test_a_record_is_read_as_it_was_written_and_one_without_an_end_stays(
    records: Records, clock: MovedClock, record: Record
) -> None:
    missing = type(record)(pk=record.pk)
    before = await read(records, record)
    await keep(records, record)
    kept = await read(records, record)
    clock.move(400 * DAY)
    later = await read(records, record)

    assert before.model_dump() == missing.model_dump()
    assert kept.model_dump() == record.model_dump()
    assert isinstance(kept, type(record))
    assert later.model_dump() == (missing if record.kept_seconds else record).model_dump()


async def test_all_times_are_the_storage_s(
    records: Records, clock: MovedClock, redis_server: RedisServer
) -> None:
    given = await records.change(lambda now, _: now, KeyRecord(pk="key"))
    noted = await records.add_note("a")
    await records.enter("a", [ALL])
    [entry] = await records.entries(ALL, EVERYTHING, 10)
    [note] = await records.notes(0, 10)

    now = clock() if isinstance(records, MemoryRecords) else now_of(redis_server)
    for each in (given, noted, entry.position / 1_000_000, note.noted_at / 1_000_000):
        assert now - 1 < each <= now + 0.01


async def test_a_record_at_its_defaults_is_not_there(
    records: Records, redis_server: RedisServer
) -> None:
    pk = new_pk()
    for values in ({"received": 5, "name": "Laptop"}, {"name": "Laptop"}, {}, {"received": 5}):
        wanted = ProductRecord.model_validate({"pk": pk, **values})
        await keep(records, wanted)
        assert (await read(records, wanted)).model_dump() == wanted.model_dump()
        assert values or not redis_server.client.keys("*:product:*")


async def test_what_a_rule_did_is_kept_if_it_refuses_and_undone_if_it_breaks_off(
    records: Records,
) -> None:
    def refuse(_: float, product: ProductRecord) -> errors.ShopError:
        product.price_cents = 7
        return errors.InsufficientQuantity(3)

    def break_off(_: float, product: ProductRecord) -> None:
        product.received += 100
        raise ZeroDivisionError

    product = ProductRecord(pk=new_pk())
    outcomes = await asyncio.gather(
        counted(records, product.pk),
        records.change(refuse, product),
        records.change(break_off, product),
        counted(records, product.pk),
        return_exceptions=True,
    )

    told = [int, errors.InsufficientQuantity, ZeroDivisionError, int]
    assert [type(outcome) for outcome in outcomes] == told
    kept = await read(records, product)
    assert (kept.received, kept.price_cents) == (2, 7)


async def test_what_comes_too_late_is_not_applied(records: Records) -> None:
    product, now = ProductRecord(pk=new_pk()), asyncio.get_running_loop().time()
    await records.change(partial(set_price, cents=1), product, within=now + 60)
    with pytest.raises(errors.RequestTimedOut):
        await records.change(partial(set_price, cents=2), product, within=now - 0.001)

    assert (await read(records, product)).price_cents == 1


@pytest.mark.parametrize(
    ("history", "expected"),
    [
        ([(REFUSED, 540), (RELEASED, 540)], RELEASED),
        ([(REFUSED, 540), (REFUSED, 60)], NONE),
        ([(REFUSED, 300), (NONE, 0), (REFUSED, 540)], REFUSED),
        ([(REFUSED, 0), (HELD, TEN_MINUTES)], HELD),
        ([(HELD, 0), (REFUSED, TEN_MINUTES)], NONE),
    ],
)
async def test_a_record_expires_after_its_time_from_its_last_change_if_it_is_one_that_does(
    records: Records, clock: MovedClock, history: list[tuple[HoldState, int]], expected: HoldState
) -> None:
    hold = Hold(pk="product:order")
    for state, seconds in history:
        await keep(records, Hold(pk=hold.pk, state=state))
        clock.move(seconds)

    assert (await read(records, hold)).state is expected


@pytest.mark.parametrize("is_expired", [False, True])
async def test_what_was_rewritten_or_has_expired_leaves_nothing_behind_in_memory(
    is_expired: bool,
) -> None:
    now = 1_000_000.0
    records = MemoryRecords(lambda: now)

    async def memory_after_rewriting() -> int:
        nonlocal now
        for number in range(300):
            pk = f"{new_pk() if is_expired else 'product'}:order"
            await keep(records, Hold(pk=pk, state=HELD))
            await keep(records, Hold(pk=pk, state=REFUSED, available=number))
            await keep(records, KeyRecord(pk="key", request="same", bound_pk=pk, lease_until=now))
            now += 0.001
        now += TEN_MINUTES if is_expired else 0
        await read(records, Hold(pk="product:another"))
        return tracemalloc.get_traced_memory()[0]

    tracemalloc.start()
    try:
        first, *_, last = [await memory_after_rewriting() for _ in range(6)]
    finally:
        tracemalloc.stop()
    assert last - first < 10_000, "seven bytes for each"


# Lists


async def members(records: Records, listing: Listing) -> str:
    entries = await records.entries(listing, EVERYTHING, 100)
    positions = [position for _, position in entries]
    assert positions == sorted(set(positions))
    for entry in entries:
        assert await records.position(listing, entry.member) == entry.position
    return " ".join(entry.member for entry in entries)


async def test_positions_grow_when_the_clock_goes_back_and_when_the_last_entry_leaves(
    records: Records, clock: MovedClock
) -> None:
    for listing, member in ((ALL, "a"), (PLACED, "b")):
        await records.enter(member, [listing])
    clock.move(-3600)
    for member in "cde":
        await records.enter(member, [ALL, PLACED])
    assert await members(records, ALL) == "a c d e"
    assert await members(records, PLACED) == "b c d e"
    last = await records.position(ALL, "e")
    for _ in range(2):
        await records.leave(ALL, "e")
    await records.leave(Listing("other"), "c")
    await records.enter("e", [ALL])

    assert await members(records, ALL) == "a c d e"
    assert (await records.entries(ALL, Span((last or 0) + 1), 9))[0].member == "e"


# Notes


async def test_notes_come_oldest_first_with_their_ages_and_in_pages(
    records: Records, clock: MovedClock
) -> None:
    for text in "abcde":
        await records.add_note(text)
        clock.move(10)
    await records.add_note("b")  # starts anew
    clock.move(-3600)
    await records.add_note("f")

    notes = await records.notes(0, 100)
    assert [note.text for note in notes] == list("facdeb"), "those from the future come last"
    ages = [0, *(age - 3600 for age in (50, 30, 20, 10, 0))]
    assert [note.age for note in notes] == [pytest.approx(age, abs=0.9) for age in ages]
    await records.remove_note("a")  # so that no page depends on how many there were before
    pages = [notes[:2], await records.notes(notes[1].noted_at + 1, 2)]
    pages.append(await records.notes(pages[1][-1].noted_at, 3))
    pages.append(await records.notes(pages[2][-1].noted_at + 1, 1))
    texts = ["".join(note.text for note in page) for page in pages]
    assert texts == ["fa", "cd", "deb", ""]


@pytest.mark.parametrize("records", ["memory", "redis"], indirect=True)
async def test_removing_a_note_tells_whether_it_was_there(records: Records) -> None:
    """Not over a lossy wire: there a command that was repeated finds it gone."""
    for text in "ab":
        await records.add_note(text)

    assert [await records.remove_note("a") for _ in range(2)] == [True, False]
    assert [note.text for note in await records.notes(0, 100)] == ["b"]


# Names


async def test_no_name_is_missed_and_all_are_packed_while_two_processes_write_thousands(
    two: Two, redis_server: RedisServer
) -> None:
    there, *others = [[f"{n:064}" for n in range(start, 3000, 60)] for start in range(60)]
    await two[0].add_names(there)

    async def walks_beside(changes: Iterable[Awaitable[None]]) -> int:
        changing = asyncio.gather(*changes)
        walks = 0
        while not changing.done():
            found = await two[0].names("", "", 10_000)
            assert found == sorted(set(found))
            assert set(there) <= set(found)
            walks += 1
        await changing
        return walks

    adding = (two[turn % 2].add_names(names) for turn, names in enumerate(others))
    assert await walks_beside(adding) > 1
    everything = sorted(name for names in (there, *others) for name in names)
    assert await two[0].names("", "", 10_000) == everything
    memory, redis = MemoryRecords(), redis_server.client
    await memory.add_names(everything)
    buckets = [key for key in redis.keys("*:names:*") if not key.endswith("}")]
    assert {str(redis.object("encoding", bucket)) for bucket in buckets} <= {"ziplist", "listpack"}
    assert max(redis.zcard(bucket) for bucket in buckets) < 128
    for start, prefix, limit in ((f"{700:064}", "0", 999), (f"{1234:064}", f"{12:062}", 999)):
        wanted = [name for name in everything if name >= start and name.startswith(prefix)]
        for records in (memory, two[0]):
            assert await records.names(start, prefix, limit) == wanted[:limit]
    redis.config_resetstat()
    assert await two[0].names("", "", 3) == everything[:3]
    assert await two[0].names(everything[0], everything[0], 3) == everything[:1]
    assert redis.info("commandstats")["cmdstat_zrangebylex"]["calls"] < 5, "no more than it needs"

    await walks_beside(two[turn % 2].remove_names(names) for turn, names in enumerate(others))
    assert await two[1].names("", "", 10_000) == there
    await two[1].remove_names(there)
    assert redis.keys("*:names:*") == []


# On Redis, changes of one slot that come together share a read and a write


async def test_changes_of_one_slot_in_one_turn_take_few_writes(
    wire: Wired, redis_server: RedisServer
) -> None:
    records, _ = wire
    pk = new_pk()
    for steps, most in ((STEPS, 2), (4 * STEPS, 8)):
        redis_server.client.config_resetstat()
        await asyncio.gather(*(counted(records, pk) for _ in range(steps)))
        scripts = redis_server.client.info("commandstats")["cmdstat_evalsha"]["calls"]
        assert scripts <= most, "one on what was seen last, and one on what is"
    assert await received(records, pk) == 5 * STEPS


async def test_batches_get_through_beside_another_s_and_beside_one_who_never_waits(
    wire: Wired, two: Two
) -> None:
    pk, is_over = new_pk(), False

    async def never_wait() -> int:
        made = 0
        while not is_over:
            await counted(two[0], pk)
            made += 1
        return made

    async def busy(records: RedisRecords) -> None:
        for _ in range(3):
            await asyncio.gather(*(counted(records, pk) for _ in range(STEPS)))

    restless = asyncio.create_task(never_wait())
    async with asyncio.timeout(30):
        await asyncio.gather(busy(two[1]), busy(wire[0]))
    is_over = True
    made = await restless
    assert await received(two[1], pk) == 6 * STEPS + made


async def test_a_turn_from_a_clock_that_went_back_holds_nobody_up(
    two: Two, redis_server: RedisServer
) -> None:
    pk = new_pk()
    ends = int((now_of(redis_server) + 3600) * 1_000_000)
    redis_server.client.set(f"shop:turn:{{{pk}}}", f"another {ends}")

    async with asyncio.timeout(10):
        assert await counted(two[0], pk) == 1


async def test_those_who_are_cancelled_take_nobody_along_and_close_waits_for_the_others(
    wire: Wired, redis_server: RedisServer
) -> None:
    records, line = wire
    pk = new_pk()
    await counted(records, pk)
    line.hold()
    calls = [asyncio.create_task(counted(records, pk)) for _ in range(5)]
    await line.holds_a_request()
    calls += [asyncio.create_task(counted(records, pk)) for _ in range(5)]
    await asyncio.sleep(0)
    for cancelled in (0, 1, 6, 8):
        calls[cancelled].cancel()
    closing = asyncio.create_task(records.close())
    await asyncio.sleep(0)
    assert not closing.done()
    line.let_through()
    done = await asyncio.gather(*calls, return_exceptions=True)
    await closing

    told = [outcome for outcome in done if not isinstance(outcome, asyncio.CancelledError)]
    assert told == [4, 5, 6, 7, 8, 9], "2 to 6 were on their way, two of the next were not"
    assert redis_server.client.hget(f"shop:product:{{{pk}}}", "received") == "9"
    await asyncio.to_thread(
        wait_until, lambda: len(redis_server.client.client_list()) == 1, why="only ours is open"
    )


# On Redis, a write lands within a second of its read, or not at all


async def test_what_was_held_up_is_applied_again_at_a_later_time_unless_its_own_is_over(
    wire: Wired, redis_server: RedisServer
) -> None:
    records, line = wire
    product, times = ProductRecord(pk=new_pk()), list[float]()

    def note_time(now: float, product: ProductRecord) -> None:
        times.append(now)
        product.received = int(now)

    soon = asyncio.get_running_loop().time() + 0.4
    line.hold()
    too_late = asyncio.create_task(
        records.change(partial(set_price, cents=1), product, within=soon)
    )
    call = asyncio.create_task(records.change(note_time, product))
    await line.holds_a_request()
    later = now_of(redis_server) + 1.5
    await asyncio.to_thread(wait_until, lambda: now_of(redis_server) > later)
    line.let_through()
    with pytest.raises(errors.RequestTimedOut):
        await too_late
    await call

    assert times[-1] - times[0] > 1.4
    assert now_of(redis_server) - times[-1] < 1
    kept = await read(records, product)
    assert (kept.price_cents, kept.received) == (0, int(times[-1]))


async def test_a_copy_that_comes_again_changes_nothing_though_values_are_what_they_were(
    wire: Wired,
) -> None:
    records, line = wire
    product, listing = ProductRecord(pk=new_pk()), Listing("products")
    await records.change(partial(set_price, cents=1), product)
    line.requests.clear()
    await counted(records, product.pk)
    await records.change(partial(set_price, cents=2), product)
    await records.enter(product.pk, [listing])
    late, before = list(line.requests), await records.entries(listing, EVERYTHING, 10)
    await records.change(partial(set_price, cents=1), product)
    line.requests = late
    await line.bring_again()

    kept = await read(records, product)
    assert (kept.price_cents, kept.received) == (1, 1)
    assert await records.entries(listing, EVERYTHING, 10) == before


# Every method

Use = Callable[[Records], Awaitable[object]]
READS: list[Use] = [
    lambda records: records.read(ProductRecord(pk="a")),
    lambda records: records.read(*(ProductRecord(pk=pk) for pk in "ab")),
    lambda records: records.live(Hold, "a", "", 1),
    lambda records: records.entries(Listing("slot"), EVERYTHING, 1),
    lambda records: records.position(Listing("slot"), "a"),
    lambda records: records.names("a", "a", 1),
    lambda records: records.notes(0, 1),
]
REMOVALS: list[Use] = [
    lambda records: records.leave(Listing("slot"), "a"),
    lambda records: records.remove_names(["a"]),
    lambda records: records.remove_note("a"),
]
WRITES: list[Use] = [
    lambda records: counted(records, "a"),
    lambda records: records.enter("a", [Listing("slot")]),
    lambda records: records.add_names(["a"]),
    lambda records: records.add_note("a"),
    lambda records: records.ping(),
]
USES = [*READS, *REMOVALS, *WRITES]


async def test_while_redis_cannot_serve_it_is_unavailable_and_then_all_works_again(
    own_redis: RedisServer,
) -> None:
    url = f"redis://127.0.0.1:{own_redis.port}?socket_timeout=0.3"
    records = RedisRecords(await connect(Settings.model_validate({"redis_url": url})), "shop")
    redis = own_redis.client

    async def works(uses: list[Use]) -> None:
        for use in uses:
            await use(records)

    async def is_unavailable(uses: list[Use]) -> None:
        outcomes = await asyncio.gather(*(use(records) for use in uses), return_exceptions=True)
        assert {type(outcome) for outcome in outcomes} == {errors.StoreUnavailable}

    await works(USES)
    redis.replicaof("127.0.0.1", str(free_port()))
    await works(READS)
    await is_unavailable(WRITES + REMOVALS)
    redis.config_set("replica-serve-stale-data", "no")
    await is_unavailable(USES)
    redis.replicaof("NO", "ONE")
    for setting in ("maxmemory", "min-replicas-to-write"):
        redis.config_set(setting, 1)
        await works(READS)
        await is_unavailable(WRITES)
        redis.config_set(setting, 0)
    redis.client_pause(60_000)
    await is_unavailable(USES)
    own_redis.stop(signal.SIGKILL)
    await is_unavailable(USES)
    own_redis.start()
    await works(USES)
    await records.close()


async def test_scripts_that_redis_forgot_are_sent_again(
    two: Two, redis_server: RedisServer
) -> None:
    for use in USES:
        redis_server.client.script_flush()
        await use(two[0])


async def test_keys_of_a_slot_are_in_one_slot_of_a_cluster_and_of_a_prefix_apart_from_others(
    two: Two, redis_server: RedisServer
) -> None:
    await keep(two[0], Hold(pk="a:a } key {:", state=HELD))
    await two[0].enter("b", [Listing("a")], leaving=[Listing("a", "b")])
    for use in USES:
        await use(two[0])

    keys = set(redis_server.client.scan_iter())
    of_slot = [key for key in keys if "{a}" in key]
    assert len(of_slot) >= 5
    assert {key_slot(key.encode()) for key in of_slot} == {key_slot(b"a")}
    probe = "shopsphere:probe"  # of the connection, gone after a second
    assert {key for key in keys if not key.startswith("shop:")} <= {probe}
