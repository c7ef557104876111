"""An executable model of how an order is placed, checked in every possible interleaving.

An order of two products, X and Y, is placed by a request A under an idempotency key. Beside it run
a retry B under the same key, a rival R (another customer, or a third request under the key), a
request C that cancels and one, H, that ships whatever is placed, and two settlers, S and T. Each is
written below as a program: a generator that yields one atomic step at a time and is sent the
step's answer. The walk visits every state that any order of these steps can reach, breadth first,
so the first failure it finds comes with a shortest trace.

What can go wrong, at any moment:

- A request to reserve or release is lost, its response is lost, or a reservation arrives late.
- The response of the store is lost, so that the same step is applied again.
- Clocks jump: a lease has ended, or a note is old enough to settle, although its request is
  running. Scenes that are `timed` go by the store's clock instead, which ends each request's time.
- A product is deleted, its price changes, or units come in.
- What is remembered of a failed order is forgotten, long after its request's time.
- A process crashes. That needs no step: nobody can see it, so a crashed process is simply one that
  is never scheduled again. Hence every state without notes and without work in progress counts as
  an end, and must be consistent whatever the processes were about to do.

What must hold is in `Walk.failure_in` for every state, and in `Walk.stuck_after` for what can still
happen: if everything stops and the network recovers, at most two more requests under the key get a
final answer, and settling leaves consistent books.

    python -m tests.protocol_model            walk every scene, then every broken rule; minutes
    python -m tests.protocol_model RULE...    break these rules, and print the shortest trace
    python -m tests.protocol_model --help     the names of the rules
"""

import argparse
import sys
import time
from collections import deque
from collections.abc import Callable, Generator, Hashable, Iterator, Sequence
from dataclasses import dataclass, field
from inspect import signature
from types import GeneratorType
from typing import NamedTuple

# Orders are named after the request that made their pk; c and d are clients that come at the end.
A, B, R, C, D = ORDERS = range(5)
X, Y = ITEMS = range(2)

# A hold of the product service, and the record of an order. Units are taken where either is odd.
NONE, HELD, RELEASED, SHIPPED, REFUSED = range(5)
PLACED, CANCELLED, FAILED = 1, 2, 4
VISIBLE = (PLACED, CANCELLED, SHIPPED)

# Other answers of a step
GONE, UNKNOWN, DONE, CONFLICT, FORGOTTEN, LEASE_RUNS = 5, 6, 7, 8, 9, 16

# Sets, as bits: pending commands, and what can happen once to the products.
PLACING, CANCELLING, SHIPPING = COMMANDS = (1, 2, 4)
X_DELETED, Y_DELETED, Y_PRICE_CHANGED, Y_RESTOCKED = 1, 2, 4, 8
RESTOCKED_UNITS = 3
UNBOUND = 9  # the key, where it is bound to no order

# A state is a string of bytes: first what the services keep, by these offsets ...
HOLD, RECORD, NOTES, LISTED, AVAILABLE, LATE = 0, 10, 15, 20, 25, 27  # late: a set of orders
EVENTS, KEY, LEASE, TIME_OVER = 29, 30, 31, 32
# ... then what callers were told, as sets of orders ...
TOLD_PLACED, TOLD_REFUSED, TOLD_NEVER, TOLD_UNLISTED = 33, 34, 35, 36
# ... then which processes may still repeat a step, and where each process stands.
REPEATS, PROCESS, SIZE = 37, 38, 45
PROCESSES = "ABRCHST"
ENDED, IDLE, FIRST_POINT = 0, 1, 2

LABELS = (
    *(f"hold of {item} for {order}" for item in "XY" for order in "abrcd"),
    *(f"record of {order}" for order in "abrcd"),
    *(f"notes of {order}" for order in "abrcd"),
    *(f"list of {order}" for order in "abrcd"),
    *("available X", "available Y", "late X", "late Y", "events", "key", "lease", "time over"),
    *("told 201", "told refused", "told never", "told 201 but not listed"),
)
HOLDS = ("none", "held", "released", "shipped", "refused")
STATUSES = ("none", "PLACED", "CANCELLED", "SHIPPED", "FAILED")


@dataclass(frozen=True)
class Scene:
    """Who takes part, and what can happen."""

    processes: str
    stock: tuple[int, int] = (1, 1)
    events: tuple[int, ...] = ()
    rival_items: tuple[int, ...] = (X, Y)
    claimed: bool = False  # a crashed request holds the key, and the rival is under the key too
    reliable: bool = False  # no message is lost, and no lease ends
    timed: bool = False  # leases, notes and requests go by the store's clock
    asked_for: bool = False  # somebody asks for the order by its pk when its time is over
    forgets: bool = False  # releases, refusals and failed records are forgotten at last
    enough: bool = False  # a refusal could only come from the units of an earlier attempt


SCENES = {
    "a retry, one unit": Scene("ABS", enough=True),
    "a retry, units for two": Scene("ABS", stock=(3, 3)),
    "a retry, Y is restocked": Scene("ABS", stock=(3, 0), events=(Y_RESTOCKED,)),
    "a retry, Y is deleted": Scene("ABS", stock=(3, 3), events=(Y_DELETED,)),
    "a retry, X is deleted": Scene("ABS", stock=(3, 3), events=(X_DELETED,)),
    "a retry, Y changes its price": Scene("ABS", stock=(3, 3), events=(Y_PRICE_CHANGED,)),
    "a rival for X and Y": Scene("ARS"),
    "a rival for Y": Scene("ARS", rival_items=(Y,)),
    "a rival, nothing fails": Scene("AR", reliable=True),
    "cancelled and shipped": Scene("ACHS"),
    "cancelled, two settlers": Scene("ACST"),
    "a retry, cancelled": Scene("ABCS"),
    "a retry, timed": Scene("ABS", stock=(3, 3), timed=True, asked_for=True),
    "two retries after a crash": Scene("BRS", stock=(3, 3), claimed=True),
    "a retry, forgotten": Scene(
        "ABS", stock=(3, 0), events=(Y_RESTOCKED,), timed=True, forgets=True
    ),
}


class Variant(NamedTuple):
    """A rule that is broken: what happens instead, and the scene that shows it soonest."""

    meaning: str
    scene: str


VARIANTS = {
    "place-overwrites": Variant("PLACED replaces FAILED", "a retry, units for two"),
    "place-unnoted": Variant("no note before reserving", "a retry, units for two"),
    "list-after-note": Variant(
        "the note of a placed order goes before it is listed", "cancelled and shipped"
    ),
    "reserve-repeats": Variant(
        "a repeated reservation takes the units again", "a retry, units for two"
    ),
    "release-unmarked": Variant("a release is not remembered", "a retry, units for two"),
    "release-repeats": Variant(
        "a repeated release gives the units back again", "a retry, units for two"
    ),
    "refusal-unmarked": Variant("a refusal is not remembered", "a retry, Y is restocked"),
    "refusal-keeps": Variant("a refusal releases nothing", "a retry, Y is restocked"),
    "refusal-unnoted": Variant("a refusal removes the note before releasing", "a rival for Y"),
    "unknown-refused": Variant("no response counts as a refusal", "a retry, units for two"),
    "undelivered-dropped": Variant(
        "the note goes though a release was not delivered", "a retry, units for two"
    ),
    "one-note": Variant("one note for all commands of an order", "cancelled and shipped"),
    "end-unnoted": Variant("no note before cancelling or shipping", "cancelled and shipped"),
    "end-overwrites": Variant(
        "cancelling and shipping replace each other", "cancelled and shipped"
    ),
    "settle-drops-end": Variant(
        "settling drops the note of a cancellation not yet done", "cancelled and shipped"
    ),
    "settle-unfailed": Variant(
        "settling releases without making the order FAILED", "a retry, units for two"
    ),
    "fail-overwrites": Variant("FAILED replaces PLACED", "a retry, units for two"),
    "settle-skips-placed": Variant(
        "settling leaves the note of an order that was placed", "a retry, units for two"
    ),
    "lists-move-back": Variant("the last writer of a list wins", "cancelled and shipped"),
    "lists-reread": Variant(
        "the last writer wins, but reads the record again and repeats", "cancelled, two settlers"
    ),
    "replay-unlisted": Variant(
        "a replay does not finish the lists first", "a retry, units for two"
    ),
    "retry-waits": Variant("a retry waits for settling", "a retry, units for two"),
    "retry-continues": Variant(
        "a retry places the order of an earlier request", "a retry, units for two"
    ),
    "retry-unfailed": Variant(
        "a retry binds the key before the earlier order is FAILED", "a retry, units for two"
    ),
    "retry-trusts-note": Variant(
        "a retry releases nothing for an order without a note", "a retry, one unit"
    ),
    "bind-uncompared": Variant(
        "a key is bound again whatever it is bound to by then", "two retries after a crash"
    ),
    "forget-uncompared": Variant(
        "a key is forgotten whatever it is bound to by then", "a retry, Y is restocked"
    ),
    "unordered": Variant("items are reserved in any order", "a rival, nothing fails"),
    "place-late": Variant("an order is placed after its request's time", "a retry, timed"),
    "place-checked-early": Variant(
        "the time is checked when reading, not when writing", "a retry, timed"
    ),
    "reserve-late": Variant("a reservation is sent after the time", "a retry, forgotten"),
    "arrive-late": Variant("a reservation is accepted after the time", "a retry, forgotten"),
    "forget-early": Variant("a release is forgotten within the time", "a retry, forgotten"),
}


class Action(NamedTuple):
    """One atomic step of a program: a change to what is kept, and its arguments."""

    change: Callable[..., int]
    arguments: tuple[int, ...]


class Response(NamedTuple):
    """What a caller is told about an order: PLACED, REFUSED, or nothing final."""

    outcome: int
    order: int


# A program yields the actions of which one happens next; the first is the one where nothing fails.
Program = Generator[tuple[Action, ...], int, Response | None]
Deliveries = Generator[tuple[Action, ...], int, bool]
Listing = Generator[tuple[Action, ...], int, None]


@dataclass(frozen=True, eq=False)
class Steps:
    """The atomic steps. Each changes what the services keep, and returns an answer."""

    scene: Scene
    broken: frozenset[str]

    def items_of(self, order: int) -> tuple[int, ...]:
        """The products of an order, in the order of reserving."""
        if order == R:
            return self.scene.rival_items
        return (Y, X) if "unordered" in self.broken and order == A else (X, Y)

    def is_over(self, shop: bytes | bytearray, order: int) -> bool:
        """Tell whether the time of the request that made this order is over."""
        return self.scene.timed and bool(shop[TIME_OVER] >> order & 1)

    # The product service

    def reserve(self, shop: bytearray, item: int, order: int) -> int:
        at = HOLD + item * len(ORDERS) + order
        hold = shop[at]
        if hold == HELD and "reserve-repeats" not in self.broken:
            return HELD
        if hold in (RELEASED, SHIPPED):
            return RELEASED
        if hold == REFUSED:
            return REFUSED
        if shop[EVENTS] & (Y_DELETED if item == Y else X_DELETED):
            return GONE
        price_changed = item == Y and shop[EVENTS] & Y_PRICE_CHANGED
        if price_changed or not shop[AVAILABLE + item]:
            if "refusal-unmarked" not in self.broken:
                shop[at] = REFUSED
            return REFUSED
        shop[AVAILABLE + item] -= 1
        shop[at] = HELD
        return HELD

    def release(self, shop: bytearray, item: int, order: int) -> int:
        at = HOLD + item * len(ORDERS) + order
        if shop[at] == SHIPPED:
            return DONE
        if shop[at] == HELD or (shop[at] == RELEASED and "release-repeats" in self.broken):
            shop[AVAILABLE + item] += 1
            shop[at] = NONE
        if "release-unmarked" not in self.broken:
            shop[at] = RELEASED
        return DONE

    def ship(self, shop: bytearray, item: int, order: int) -> int:
        at = HOLD + item * len(ORDERS) + order
        if shop[at] == HELD:
            shop[at] = SHIPPED
        return DONE

    # Messages to the product service: they arrive, are held up, or their response is lost

    def send_reserve(self, shop: bytearray, item: int, order: int) -> int:
        if self.is_over(shop, order) and "reserve-late" not in self.broken:
            return UNKNOWN
        return self.reserve(shop, item, order)

    def send_reserve_slowly(self, shop: bytearray, item: int, order: int) -> int:
        if not self.is_over(shop, order) or "reserve-late" in self.broken:
            shop[LATE + item] |= 1 << order
        return UNKNOWN

    def send_reserve_unheard(self, shop: bytearray, item: int, order: int) -> int:
        self.send_reserve(shop, item, order)
        return UNKNOWN

    def send_nothing(self, _: bytearray) -> int:
        return UNKNOWN

    # The store of the order service

    def note(self, shop: bytearray, order: int, command: int) -> int:
        unnoted = "place-unnoted" if command == PLACING else "end-unnoted"
        if unnoted not in self.broken:
            shop[NOTES + order] |= command
        return DONE

    def remove_note(self, shop: bytearray, order: int, command: int) -> int:
        shop[NOTES + order] &= 0 if "one-note" in self.broken else ~command
        return DONE

    def read_status(self, shop: bytearray, order: int) -> int:
        return shop[RECORD + order]

    def read_notes(self, shop: bytearray, order: int) -> int:
        return shop[NOTES + order]

    def check_time(self, shop: bytearray, order: int) -> int:
        return UNKNOWN if self.is_over(shop, order) else DONE

    def place(self, shop: bytearray, order: int, time_counts: int) -> int:
        """Make the record PLACED if there is none and time is left; return what is there."""
        may_write = shop[RECORD + order] == NONE or "place-overwrites" in self.broken
        if may_write and not (time_counts and self.is_over(shop, order)):
            shop[RECORD + order] = PLACED
        return shop[RECORD + order]

    def fail(self, shop: bytearray, order: int) -> int:
        """Make the record FAILED if there is none; return what is there."""
        if shop[RECORD + order] == NONE or "fail-overwrites" in self.broken:
            shop[RECORD + order] = FAILED
        return shop[RECORD + order]

    def end(self, shop: bytearray, order: int, status: int) -> int:
        """Make a PLACED record CANCELLED or SHIPPED; return what is there."""
        if shop[RECORD + order] == PLACED or "end-overwrites" in self.broken:
            shop[RECORD + order] = status
        return shop[RECORD + order]

    def keep_status(self, shop: bytearray, order: int, _: int) -> int:
        return shop[RECORD + order]

    def enter_list(self, shop: bytearray, order: int, status: int) -> int:
        """Enter an order in the list of its status, but never move it back to PLACED."""
        moves_back = self.broken & {"lists-move-back", "lists-reread"}
        if shop[LISTED + order] in (NONE, PLACED) or moves_back:
            shop[LISTED + order] = status
        return DONE

    # Its idempotency key

    def claim(self, shop: bytearray, order: int, clock_jumped: int) -> int:
        """Bind a free key; return the order it is bound to, and whether that one's lease runs."""
        bound = shop[KEY]
        if bound in (UNBOUND, order):
            return self.bind(shop, order)
        ended = self.is_over(shop, bound) if self.scene.timed else clock_jumped
        return bound + (LEASE_RUNS if shop[LEASE] and not ended else 0)

    def bind(self, shop: bytearray, order: int) -> int:
        shop[KEY], shop[LEASE] = order, 1
        return order

    def rebind(self, shop: bytearray, settled: int, order: int) -> int:
        """Bind the key, if it is still bound to the order that was settled."""
        if shop[KEY] in (UNBOUND, settled, order) or "bind-uncompared" in self.broken:
            return self.bind(shop, order)
        return CONFLICT

    def forget_key(self, shop: bytearray, order: int) -> int:
        if shop[KEY] == order or "forget-uncompared" in self.broken:
            shop[KEY], shop[LEASE] = UNBOUND, 0
        return FORGOTTEN

    def end_lease(self, shop: bytearray, order: int) -> int:
        if shop[KEY] == order:
            shop[LEASE] = 0
        return DONE


@dataclass(frozen=True, eq=False)
class Programs:
    """The programs that the processes run, in the words of the protocol."""

    steps: Steps
    broken: frozenset[str]

    def place_under_key(self, order: int) -> Program:
        """`POST /order` with an idempotency key; `order` is the pk that this request made."""
        claim = self.steps.claim
        bound = yield Action(claim, (order, True)), Action(claim, (order, False))
        if bound >= LEASE_RUNS:
            bound -= LEASE_RUNS
            status = yield (Action(self.steps.read_status, (bound,)),)
            if status in VISIBLE:
                return (yield from self.replay(bound, status))
            return Response(CONFLICT, bound)
        if bound != order and "retry-continues" in self.broken:
            return (yield from self.place(bound))
        if bound != order and "retry-unfailed" not in self.broken:
            status = yield (Action(self.steps.fail, (bound,)),)
            if status in VISIBLE:
                return (yield from self.replay(bound, status))
            if "retry-waits" in self.broken:
                return Response(CONFLICT, bound)
            if not (yield from self.undo(bound)):
                return Response(UNKNOWN, bound)
            status = NONE
        if bound != order:
            bound = yield (
                Action(self.steps.rebind, (bound, order)),
                Action(self.steps.forget_key, (bound,)),  # too little time is left
            )
            if bound != order:
                return Response(bound, order)
        return (yield from self.place(order))

    def replay(self, order: int, status: int) -> Program:
        """Tell a caller of an order that an earlier request placed."""
        if "replay-unlisted" not in self.broken:
            yield from self.enter_lists(order, status)
        return Response(PLACED, order)

    def undo(self, order: int) -> Deliveries:
        """Release what an earlier request under the key may have reserved, note or not."""
        if "retry-trusts-note" in self.broken:
            notes = yield (Action(self.steps.read_notes, (order,)),)
            if not notes & PLACING:
                return True
        if not (yield from self.release_items(order, self.steps.items_of(order))):
            return False
        yield (Action(self.steps.remove_note, (order, PLACING)),)
        return True

    def place(self, order: int) -> Program:
        """Place an order of all its items, or of none."""
        yield (Action(self.steps.note, (order, PLACING)),)
        asked: tuple[int, ...] = ()
        for item in self.steps.items_of(order):
            answer = yield self.reservation(item, order)
            if answer == GONE:
                return (yield from self.refuse(order, (*asked, item)))
            if answer == REFUSED or (answer == UNKNOWN and "unknown-refused" in self.broken):
                return (yield from self.refuse(order, asked))
            if answer != HELD:
                return (yield from self.give_up(order))
            asked = (*asked, item)
        status = yield from self.make_placed(order)
        if status not in VISIBLE:
            return (yield from self.give_up(order))
        if "list-after-note" in self.broken:
            yield (Action(self.steps.remove_note, (order, PLACING)),)
        yield from self.enter_lists(order, status)
        yield (Action(self.steps.remove_note, (order, PLACING)),)
        return Response(PLACED, order)

    def reservation(self, item: int, order: int) -> tuple[Action, ...]:
        """`PUT` a reservation, with everything that can become of it."""
        steps = self.steps
        sent = (steps.send_reserve, steps.send_reserve_slowly, steps.send_reserve_unheard)
        return tuple(Action(change, (item, order)) for change in sent)

    def make_placed(self, order: int) -> Generator[tuple[Action, ...], int, int]:
        if "place-checked-early" in self.broken:
            in_time = yield (Action(self.steps.check_time, (order,)),)
            if in_time != DONE:
                return UNKNOWN
        time_counts = not self.broken & {"place-late", "place-checked-early"}
        return (yield (Action(self.steps.place, (order, time_counts)),))

    def refuse(self, order: int, asked: tuple[int, ...]) -> Program:
        """Release what was asked for, and tell the caller; if that fails, the note stays."""
        if "refusal-unnoted" in self.broken:
            yield (Action(self.steps.remove_note, (order, PLACING)),)
        if "refusal-keeps" in self.broken or (yield from self.release_items(order, asked)):
            yield (Action(self.steps.remove_note, (order, PLACING)),)
        yield (Action(self.steps.forget_key, (order,)),)
        return Response(REFUSED, order)

    def give_up(self, order: int) -> Program:
        """After an unknown outcome the note stays, and a retry need not wait."""
        yield (Action(self.steps.end_lease, (order,)),)
        return Response(UNKNOWN, order)

    def release_items(self, order: int, items: Sequence[int]) -> Deliveries:
        return self.deliver(self.steps.release, order, items)

    def deliver(
        self, change: Callable[[bytearray, int, int], int], order: int, items: Sequence[int]
    ) -> Deliveries:
        """Tell the product service about each item; return whether all of it was delivered."""
        delivered = True
        for item in items:
            answer = yield Action(change, (item, order)), Action(self.steps.send_nothing, ())
            if answer == UNKNOWN:
                delivered = False
        return delivered or "undelivered-dropped" in self.broken

    def enter_lists(self, order: int, status: int) -> Listing:
        yield (Action(self.steps.enter_list, (order, status)),)
        if "lists-reread" in self.broken:
            while (now := (yield (Action(self.steps.read_status, (order,)),))) != status:
                status = now
                yield (Action(self.steps.enter_list, (order, status)),)

    def end(self, order: int, command: int) -> Program:
        """Cancel an order, or ship it."""
        yield (Action(self.steps.note, (order, command)),)
        return (yield from self.finish_end(order, command, self.steps.end))

    def finish_end(self, order: int, command: int, change: Callable[..., int]) -> Program:
        steps = self.steps
        wanted, tell = (
            (CANCELLED, steps.release) if command == CANCELLING else (SHIPPED, steps.ship)
        )
        status = yield (Action(change, (order, wanted)),)
        if status == wanted:
            yield from self.enter_lists(order, status)
            if not (yield from self.deliver(tell, order, steps.items_of(order))):
                return None
        yield (Action(steps.remove_note, (order, command)),)
        return None

    def settle(self, order: int, command: int) -> Program:
        """Finish what a note says is pending, or undo it."""
        steps = self.steps
        if command != PLACING:
            end = steps.keep_status if "settle-drops-end" in self.broken else steps.end
            return (yield from self.finish_end(order, command, end))
        change = steps.read_status if "settle-unfailed" in self.broken else steps.fail
        status = yield (Action(change, (order,)),)
        if status in VISIBLE:
            if "settle-skips-placed" in self.broken:
                return None
            yield from self.enter_lists(order, status)
        elif not (yield from self.release_items(order, steps.items_of(order))):
            return None
        yield (Action(steps.remove_note, (order, PLACING)),)
        return None


class Point(NamedTuple):
    """Where a program can stand: what it may do next, and the answers that led it there."""

    start: tuple[str, int, int]
    answers: tuple[int, ...]
    actions: tuple[Action, ...]


class Points:
    """All the points of the programs of one process, numbered, so that a byte can hold one.

    A generator cannot be copied, but it can be run again with the same answers. Two points are the
    same if the same line waits with the same variables (no loop here repeats a value).
    """

    def __init__(self, programs: Programs) -> None:
        self._programs = programs
        self._points: list[Point] = []
        self._number_of: dict[Hashable, int] = {}
        self._started: dict[tuple[str, int, int], int] = {}
        self._followed: dict[tuple[int, int], tuple[int, Response | None]] = {}

    def __getitem__(self, number: int) -> Point:
        return self._points[number - FIRST_POINT]

    def start(self, start: tuple[str, int, int]) -> int:
        """Return the first point of a program."""
        if start not in self._started:
            self._started[start] = self._reach(start, ())[0]
        return self._started[start]

    def follow(self, number: int, answer: int) -> tuple[int, Response | None]:
        """Return the next point after an answer, or the end and its response."""
        step = number, answer
        if step not in self._followed:
            point = self[number]
            self._followed[step] = self._reach(point.start, (*point.answers, answer))
        return self._followed[step]

    def _reach(
        self, start: tuple[str, int, int], answers: tuple[int, ...]
    ) -> tuple[int, Response | None]:
        program = program_of(self._programs, start)
        try:
            actions = next(program)
            for answer in answers:
                actions = program.send(answer)
        except StopIteration as end:
            return ENDED, end.value
        number = self._number_of.setdefault(place_in(program), len(self._points) + FIRST_POINT)
        if number == len(self._points) + FIRST_POINT:
            self._points.append(Point(start, answers, actions))
        return number, None


def program_of(programs: Programs, start: tuple[str, int, int]) -> Program:
    """Return a new run of a program."""
    name, order, command = start
    match name:
        case "place under key":
            return programs.place_under_key(order)
        case "place":
            return programs.place(order)
        case "end":
            return programs.end(order, command)
        case _:
            return programs.settle(order, command)


def place_in(program: Program) -> Hashable:
    """Return the lines at which a program and its parts wait, and their variables."""
    lines = []
    part: object = program
    while isinstance(part, GeneratorType):
        frame = part.gi_frame
        assert frame, "a program that waits has a frame"
        lines.append((frame.f_code, frame.f_lasti, tuple(sorted(frame.f_locals.items()))))
        part = part.gi_yieldfrom
    return tuple(lines)


@dataclass
class Result:
    """What a walk found: how many states, and the first failure with its trace."""

    states: int
    failure: str = ""
    trace: list[str] = field(default_factory=list)


class Walk:
    """Every state of one scene."""

    def __init__(self, scene: Scene, broken: frozenset[str] = frozenset()) -> None:
        self.scene = scene
        self.steps = Steps(scene, broken)
        self.programs = Programs(self.steps, broken)
        self.broken = broken
        settlers = Points(self.programs)
        self.points = {
            name: settlers if name in "ST" else Points(self.programs) for name in scene.processes
        }
        self.settlers = [PROCESS + PROCESSES.index(name) for name in "ST"]
        self.recovered: set[bytes] = set()

    def run(self) -> Result:
        """Visit every state, breadth first, up to the first failure."""
        first = self.first_state()
        came_from: dict[bytes, bytes | None] = {first: None}
        queue = deque([first])
        while queue:
            state = queue.popleft()
            failure = self.failure_in(state) or self.stuck_after(state)
            if failure:
                return Result(len(came_from), failure, self.trace(state, came_from))
            for following in self.successors(state):
                if following not in came_from:
                    came_from[following] = state
                    queue.append(following)
        return Result(len(came_from))

    def first_state(self) -> bytes:
        state = bytearray(SIZE)
        state[AVAILABLE : AVAILABLE + 2] = bytes(self.scene.stock)
        state[KEY], state[LEASE] = (A, 1) if self.scene.claimed else (UNBOUND, 0)
        for name, points in self.points.items():
            at = PROCESS + PROCESSES.index(name)
            if name in "ABR":
                keyed = name != "R" or self.scene.claimed
                program = "place under key" if keyed else "place"
                state[at] = points.start((program, "ABR".index(name), PLACING))
            else:
                state[at] = IDLE
            if name not in "ST" and not self.scene.reliable:
                state[REPEATS] |= 1 << PROCESSES.index(name)
        return bytes(state)

    # What can happen next

    def successors(self, state: bytes) -> Iterator[bytes]:
        """Yield every state that one step leads to."""
        for name, points in self.points.items():
            process = PROCESSES.index(name)
            number = state[PROCESS + process]
            if number == IDLE:
                for start in self.work_for(name, state):
                    yield changed(state, PROCESS + process, points.start(start))
            elif number != ENDED:
                yield from self.step(state, process, points)
        yield from self.late_reservations(state)
        for event in self.scene.events:
            if not state[EVENTS] & event:
                following = bytearray(state)
                following[EVENTS] |= event
                if event == Y_RESTOCKED:
                    following[AVAILABLE + Y] += RESTOCKED_UNITS
                yield bytes(following)
        if self.scene.timed:
            for order in (A, B):
                yield from self.passing_time(state, order)

    def work_for(self, name: str, state: bytes) -> Iterator[tuple[str, int, int]]:
        """Yield what an idle process can begin with."""
        for order in ORDERS:
            if name in "CH" and state[RECORD + order] in VISIBLE:
                yield "end", order, CANCELLING if name == "C" else SHIPPING
            if name in "ST" and state[NOTES + order]:
                for command in COMMANDS:
                    waits = command == PLACING and self.scene.timed
                    if state[NOTES + order] & command and not (
                        waits and not self.steps.is_over(state, order)
                    ):
                        yield "settle", order, command

    def step(self, state: bytes, process: int, points: Points) -> Iterator[bytes]:
        """Yield what a process can do next, and what can become of it."""
        at = PROCESS + process
        if at in self.settlers:  # it crashes and starts again, or cannot reach a service
            yield changed(state, at, IDLE)
        actions = points[state[at]].actions
        for action in actions[:1] if self.scene.reliable else actions:
            yield from self.outcomes(state, process, points, action)

    def outcomes(
        self, state: bytes, process: int, points: Points, action: Action
    ) -> Iterator[bytes]:
        """Yield what becomes of one action: it is done, or done and to be repeated."""
        at = PROCESS + process
        following = bytearray(state)
        answer = action.change(following, *action.arguments)
        if state[REPEATS] >> process & 1 and following != state:
            yield changed(following, REPEATS, state[REPEATS] & ~(1 << process))
        following[at], response = points.follow(state[at], answer)
        if at in self.settlers and following[at] == ENDED:
            following[at] = IDLE
        if response:
            tell(following, response)
        yield bytes(following)

    def late_reservations(self, state: bytes) -> Iterator[bytes]:
        for item in ITEMS:
            for order in ORDERS:
                if state[LATE + item] >> order & 1:
                    following = bytearray(state)
                    following[LATE + item] &= ~(1 << order)
                    self.steps.reserve(following, item, order)
                    yield bytes(following)

    def passing_time(self, state: bytes, order: int) -> Iterator[bytes]:
        over = state[TIME_OVER] >> order & 1
        if not over:
            yield changed(state, TIME_OVER, state[TIME_OVER] | 1 << order)
        elif self.scene.asked_for and state[RECORD + order] not in VISIBLE:
            yield changed(state, TOLD_NEVER, state[TOLD_NEVER] | 1 << order)
        if self.scene.forgets and (over or "forget-early" in self.broken):
            following = bytearray(state)
            if state[RECORD + order] == FAILED:
                following[RECORD + order] = NONE
            for item in ITEMS:
                if "arrive-late" not in self.broken and over:
                    following[LATE + item] &= ~(1 << order)
                at = HOLD + item * len(ORDERS) + order
                if state[at] in (RELEASED, REFUSED):
                    following[at] = NONE
            yield bytes(following)

    # What has to be true

    def failure_in(self, state: bytes | bytearray) -> str:
        """Return what is wrong in a state, or nothing."""
        if state[TOLD_UNLISTED]:
            return "a 201 was sent before the order was listed"
        for item in ITEMS:
            holds = state[HOLD + item * len(ORDERS) : HOLD + (item + 1) * len(ORDERS)]
            restocked = item == Y and state[EVENTS] & Y_RESTOCKED
            received = self.scene.stock[item] + (RESTOCKED_UNITS if restocked else 0)
            if received != state[AVAILABLE + item] + holds.count(HELD) + holds.count(SHIPPED):
                return "received is not available + reserved + shipped"
        visible = [order for order in ORDERS if state[RECORD + order] in VISIBLE]
        if sum(order != R or self.scene.claimed for order in visible) > 1:
            return "two orders under one key"
        for order in ORDERS:
            if order in visible:
                if state[TOLD_REFUSED] >> order & 1:
                    return f"order {'abrcd'[order]} was refused, and is placed"
                if state[TOLD_NEVER] >> order & 1:
                    return f"order {'abrcd'[order]} was placed after its time"
            elif state[TOLD_PLACED] >> order & 1:
                return f"order {'abrcd'[order]} got a 201, and is not there"
        if any(state[NOTES : NOTES + len(ORDERS)]) or any(state[LATE : LATE + 2]):
            return ""
        if any(state[at] > IDLE for at in self.settlers):
            return ""
        return self.inconsistency_in(state)

    def inconsistency_in(self, state: bytes | bytearray) -> str:
        """Return what is wrong where nothing is pending any more, or nothing."""
        for order in ORDERS:
            status = state[RECORD + order]
            for item in ITEMS:
                hold = state[HOLD + item * len(ORDERS) + order]
                wanted = status if item in self.steps.items_of(order) else NONE
                if (hold == HELD, hold == SHIPPED) != (wanted == PLACED, wanted == SHIPPED):
                    return f"order {'abrcd'[order]}: {STATUSES[status]}, {'XY'[item]} {HOLDS[hold]}"
            if state[LISTED + order] != (status if status in VISIBLE else NONE):
                listed = STATUSES[state[LISTED + order]]
                return f"order {'abrcd'[order]}: {STATUSES[status]}, listed as {listed}"
        if self.scene.enough and state[TOLD_REFUSED]:
            return "a retry was refused the units of an earlier attempt"
        if self.scene.reliable and state[TOLD_REFUSED] == 1 << A | 1 << R:
            return "two orders refused each other"
        return ""

    def stuck_after(self, state: bytes) -> str:
        """Return what never ends well if everything stops here and the network recovers."""
        shop = bytearray(state)
        shop[TOLD_PLACED:SIZE] = bytes(SIZE - TOLD_PLACED)
        shop[TIME_OVER] = 1 << A | 1 << B
        key = bytes(shop)
        if key in self.recovered:
            return ""
        self.recovered.add(key)
        for order in (C, D):  # without settling in between: each may leave its note young
            response = run_alone(self.programs.place_under_key(order), shop)
            if response is None:
                return "a request never ends"
            tell(shop, response)
            if response.outcome in (PLACED, REFUSED):
                break
        else:
            return "requests under the key never get a final answer"
        for order in ORDERS:
            for command in COMMANDS:
                if shop[NOTES + order] & command:
                    run_alone(self.programs.settle(order, command), shop)
        if any(shop[NOTES : NOTES + len(ORDERS)]):
            return "settling never removes a note"
        shop[LATE : LATE + 2] = bytes(2)
        failure = self.failure_in(shop)
        return f"{failure}, once everything has stopped and recovered" if failure else ""

    # How it came to that

    def trace(self, last: bytes, came_from: dict[bytes, bytes | None]) -> list[str]:
        """Describe each step of a shortest way to a state."""
        lines: list[str] = []
        state, before = last, came_from[last]
        while before is not None:
            lines.append(self.describe(before, state))
            state, before = before, came_from[before]
        return lines[::-1]

    def describe(self, before: bytes, after: bytes) -> str:
        """Say which step led from one state to the next, and what it changed."""
        changes = [
            f"{label}: {name_of(label, after[at])}"
            for at, label in enumerate(LABELS)
            if before[at] != after[at]
        ]
        return f"{self.step_between(before, after):40} {'; '.join(changes)}".rstrip()

    def step_between(self, before: bytes, after: bytes) -> str:
        for name, points in self.points.items():
            process = PROCESSES.index(name)
            number = before[PROCESS + process]
            if number == IDLE and after[PROCESS + process] != IDLE:
                return f"{name} begins"
            for action in points[number].actions if number > IDLE else ():
                outcomes = list(self.outcomes(before, process, points, action))
                if after in outcomes:
                    repeated = ", to be repeated" if after != outcomes[-1] else ""
                    return f"{name} {described(action)}{repeated}"
            if number > IDLE and after[PROCESS + process] == IDLE:
                return f"{name} starts again"
        return "meanwhile"


def changed(state: bytes | bytearray, at: int, value: int) -> bytes:
    """Return a copy of a state with one byte changed."""
    following = bytearray(state)
    following[at] = value
    return bytes(following)


def tell(state: bytearray, response: Response) -> None:
    """Keep what a caller was told."""
    if response.outcome == PLACED:
        state[TOLD_PLACED] |= 1 << response.order
        state[TOLD_UNLISTED] |= state[LISTED + response.order] == NONE
    if response.outcome == REFUSED:
        state[TOLD_REFUSED] |= 1 << response.order


def run_alone(program: Program, shop: bytearray) -> Response | None:
    """Run a program to its end while nothing fails."""
    try:
        actions = next(program)
        for _ in range(100):
            actions = program.send(actions[0].change(shop, *actions[0].arguments))
    except StopIteration as end:
        return end.value if isinstance(end.value, Response) else None
    return None


def described(action: Action) -> str:
    """Return an action as a person would write it."""
    names = {"item": "XY", "order": "abrcd", "settled": "abrcd", "status": STATUSES}
    parameters = list(signature(action.change).parameters)[1:]
    arguments = (
        str(names[parameter][value]) if parameter in names else f"{parameter}={value}"
        for parameter, value in zip(parameters, action.arguments, strict=True)
    )
    return f"{action.change.__name__}({', '.join(arguments)})"


def name_of(label: str, value: int) -> str:
    """Return what a byte means."""
    if label.startswith("hold"):
        return HOLDS[value]
    return STATUSES[value] if label.startswith(("record", "list")) else str(value)


def walk(scene: str, *broken: str) -> Result:
    """Walk a scene with these rules broken; a name that is not a rule is an error."""
    unknown = sorted(set(broken) - set(VARIANTS))
    if unknown:
        raise ValueError(f"unknown rule: {', '.join(unknown)}")
    return Walk(SCENES[scene], frozenset(broken)).run()


def say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def report(title: str, scene: str, *broken: str) -> Result:
    began = time.process_time()
    result = walk(scene, *broken)
    seconds = time.process_time() - began
    finding = result.failure or "consistent"
    say(f"  {title}: {finding} ({result.states:,} states, {seconds:.1f} s)")
    return result


def walk_everything() -> int:
    """Walk every scene, then every variant; return 0 if only the variants fail."""
    say("The rules of the protocol:")
    states, failed = 0, 0
    for scene in SCENES:
        result = report(scene, scene)
        states += result.states
        failed += bool(result.failure)
        for line in result.trace:
            say(f"      {line}")
    say(f"  {states:,} states, {failed} of {len(SCENES)} scenes fail")
    say("Each with one rule broken:")
    missed = 0
    for rule, variant in VARIANTS.items():
        result = report(f"{rule}, {variant.scene}", variant.scene, rule)
        missed += not result.failure
    say(f"  {len(VARIANTS) - missed} of {len(VARIANTS)} found")
    return 1 if failed or missed else 0


def walk_broken(rules: Sequence[str]) -> int:
    """Walk scenes with these rules broken until one fails; return 0 if none does."""
    scenes = dict.fromkeys([*(VARIANTS[rule].scene for rule in rules), *SCENES])
    for scene in scenes:
        result = report(scene, scene, *rules)
        if result.failure:
            for line in result.trace:
                say(f"      {line}")
            return 1
    return 0


def main(arguments: Sequence[str]) -> int:
    """Run the command line."""
    names = "\n".join(f"  {rule:20} {variant.meaning}" for rule, variant in VARIANTS.items())
    parser = argparse.ArgumentParser(
        prog="python -m tests.protocol_model",
        description="Walk every interleaving of placing an order.",
        epilog=f"rules to break:\n{names}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("rules", nargs="*", metavar="RULE", help="a rule to break")
    rules = parser.parse_args(arguments).rules
    unknown = sorted(set(rules) - set(VARIANTS))
    if unknown:
        parser.error(f"unknown rule: {', '.join(unknown)}")
    return walk_broken(rules) if rules else walk_everything()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
