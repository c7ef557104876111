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
  is never scheduled again. Hence every state without notes, late messages and running settlers
  counts as an end, and must be consistent whatever the processes were about to do.

Not modelled: data lost in a failover, releases that arrive late, and the 24 hours of a key.

What must hold in every state is in `Walk.failure_in`. `Walk.failure_after` asks what can still
happen: if everything stops and the network recovers, at most two more requests under the key get
a final answer, and settling leaves consistent books.

    python -m tests.protocol_model            walk every scene, then with each rule broken
    python -m tests.protocol_model RULE...    break these rules, and print the shortest trace
    python -m tests.protocol_model --help     the names of the rules

The first takes about four minutes and 1 GB of memory.
"""

import argparse
import inspect
import sys
import time
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import NamedTuple, TypeVar

# Orders are named after the request that made their pk; c and d are clients that come at the end.
A, B, R, C, D = ORDERS = range(5)
ORDER_NAMES = "abrcd"
X, Y = ITEMS = range(2)

# A hold of the product service, and the record of an order
NONE, HELD, RELEASED, SHIPPED, REFUSED = range(5)
PLACED, CANCELLED, FAILED = 1, 2, 4
VISIBLE = (PLACED, CANCELLED, SHIPPED)
HOLDS = ("none", "held", "released", "shipped", "refused")
STATUSES = ("none", "PLACED", "CANCELLED", "SHIPPED", "FAILED")

# Other answers of a step; the last is added to an order
GONE, UNKNOWN, DONE, CONFLICT, FORGOTTEN, LEASE_RUNS = 5, 6, 7, 8, 9, 16

# Sets, as bits: pending commands, and what can happen once to the products
PLACING, CANCELLING, SHIPPING = COMMANDS = (1, 2, 4)
X_DELETED, Y_DELETED, Y_PRICE_CHANGED, Y_RESTOCKED = 1, 2, 4, 8
RESTOCKED_UNITS = 3
UNBOUND = 9  # the key, where it is bound to no order

# A state is a string of bytes: first what the services keep, at these offsets ...
HOLD, RECORD, NOTES, LISTED, AVAILABLE, LATE = 0, 10, 15, 20, 25, 27  # late: a set of orders
EVENTS, KEY, LEASE, TIME_OVER = 29, 30, 31, 32
# ... then what callers were told, as sets of orders ...
TOLD_PLACED, TOLD_REFUSED, TOLD_NEVER, TOLD_UNLISTED = 33, 34, 35, 36
# ... then which processes may still repeat a step, and where each process stands.
REPEATS, PROCESS, SIZE = 37, 38, 45
PROCESSES = "ABRCHST"
ENDED, IDLE, FIRST_POINT = 0, 1, 2


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
    enough: bool = False  # only the units of an earlier attempt could be missing


SCENES = {
    "a retry, one unit": Scene("ABS", enough=True),
    "a retry, units for two": Scene("ABS", (3, 3)),
    "a retry, Y is restocked": Scene("ABS", (3, 0), (Y_RESTOCKED,)),
    "a retry, Y is deleted": Scene("ABS", (3, 3), (Y_DELETED,)),
    "a retry, X is deleted": Scene("ABS", (3, 3), (X_DELETED,)),
    "a retry, Y changes its price": Scene("ABS", (3, 3), (Y_PRICE_CHANGED,)),
    "a rival for X and Y": Scene("ARS"),
    "a rival for Y": Scene("ARS", rival_items=(Y,)),
    "a rival, nothing fails": Scene("AR", reliable=True),
    "cancelled and shipped": Scene("ACHS"),
    "cancelled, two settlers": Scene("ACST"),
    "a retry, cancelled": Scene("ABCS"),
    "a retry, timed": Scene("ABS", (3, 3), timed=True, asked_for=True),
    "two retries after a crash": Scene("BRS", (3, 3), claimed=True),
    "a retry, forgotten": Scene("ABS", (3, 0), (Y_RESTOCKED,), timed=True, forgets=True),
}

# Each variant breaks one rule: what happens instead, by the scene that shows it soonest.
VARIANTS = {
    "a retry, one unit": {
        "retry-trusts-note": "a retry releases nothing for an order without a note",
    },
    "a retry, units for two": {
        "place-overwrites": "PLACED replaces FAILED",
        "place-unnoted": "no note before reserving",
        "reserve-repeats": "a repeated reservation takes the units again",
        "release-unmarked": "a release is not remembered",
        "release-repeats": "a repeated release gives the units back again",
        "unknown-refused": "no response counts as a refusal",
        "undelivered-dropped": "the note goes though a release was not delivered",
        "fail-overwrites": "FAILED replaces PLACED",
        "settle-unfailed": "settling releases without making the order FAILED",
        "settle-skips-placed": "settling leaves the note of an order that was placed",
        "replay-unlisted": "a replay does not finish the lists first",
        "retry-waits": "a retry waits for settling",
        "retry-continues": "a retry places the order of an earlier request",
        "retry-unfailed": "a retry binds the key before the earlier order is FAILED",
    },
    "a retry, Y is restocked": {
        "refusal-unmarked": "a refusal is not remembered",
        "refusal-keeps": "a refusal releases nothing",
        "forget-uncompared": "a key is forgotten whatever it is bound to by then",
    },
    "a rival for Y": {"refusal-unnoted": "a refusal removes the note before releasing"},
    "a rival, nothing fails": {"unordered": "items are reserved in any order"},
    "cancelled and shipped": {
        "list-after-note": "the note of a placed order goes before it is listed",
        "one-note": "one note for all commands of an order",
        "end-unnoted": "no note before cancelling or shipping",
        "end-overwrites": "cancelling and shipping replace each other",
        "settle-drops-end": "settling drops the note of a cancellation not yet done",
        "lists-move-back": "the last writer of a list wins",
    },
    "cancelled, two settlers": {
        "lists-reread": "the last writer wins, but reads the record again and repeats",
    },
    "two retries after a crash": {
        "bind-uncompared": "a key is bound again whatever it is bound to by then",
    },
    "a retry, timed": {
        "place-late": "an order is placed after its request's time",
        "place-checked-early": "the time is checked when reading, not when writing",
    },
    "a retry, forgotten": {
        "reserve-late": "a reservation is sent after the time",
        "arrive-late": "a reservation is accepted after the time",
        "forget-early": "a release is forgotten within the time",
    },
}
SCENE_OF = {rule: scene for scene, rules in VARIANTS.items() for rule in rules}


class Action(NamedTuple):
    """One atomic step of a program: a change to what is kept, and its arguments."""

    change: Callable[..., int]
    arguments: tuple[int, ...]

    def __str__(self) -> str:
        names = {"item": "XY", "order": ORDER_NAMES, "settled": ORDER_NAMES, "status": STATUSES}
        parameters = list(inspect.signature(self.change).parameters)[1:]
        pairs = zip(parameters, self.arguments, strict=True)
        words = (names[name][value] if name in names else str(value) for name, value in pairs)
        return f"{self.change.__name__}({', '.join(words)})"


class Response(NamedTuple):
    """What a caller is told about an order: PLACED, REFUSED, or nothing final."""

    outcome: int
    order: int


# A program yields actions, of which one happens; the first is the one where nothing fails.
T = TypeVar("T")
Steps = Generator[tuple[Action, ...], int, T]
Program = Steps[Response | None]


def do(change: Callable[..., int], *arguments: int) -> tuple[Action, ...]:
    """Return one possible action; `do(...) + do(...)` is one of the two."""
    return (Action(change, arguments),)


@dataclass(frozen=True, eq=False)
class Protocol:
    """The atomic steps of the services, and the programs made of them."""

    scene: Scene
    broken: frozenset[str]

    def items_of(self, order: int) -> tuple[int, ...]:
        """Return the products of an order, in the order of reserving."""
        if order == R:
            return self.scene.rival_items
        return (Y, X) if order == A and "unordered" in self.broken else (X, Y)

    def is_over(self, shop: bytes | bytearray, order: int) -> bool:
        """Tell whether the time of the request that made this order is over."""
        return self.scene.timed and bool(shop[TIME_OVER] >> order & 1)

    # Steps of the product service

    def reserve(self, shop: bytearray, item: int, order: int) -> int:
        at = HOLD + item * len(ORDERS) + order
        if shop[at] in (RELEASED, SHIPPED):
            return RELEASED
        if shop[at] == REFUSED or (shop[at] == HELD and "reserve-repeats" not in self.broken):
            return shop[at]
        if shop[EVENTS] & (X_DELETED, Y_DELETED)[item]:
            return GONE
        if shop[AVAILABLE + item] == 0 or shop[EVENTS] & (0, Y_PRICE_CHANGED)[item]:
            shop[at] = NONE if "refusal-unmarked" in self.broken else REFUSED
            return REFUSED
        shop[AVAILABLE + item] -= 1
        shop[at] = HELD
        return HELD

    def release(self, shop: bytearray, item: int, order: int) -> int:
        at = HOLD + item * len(ORDERS) + order
        if shop[at] == HELD or (shop[at] == RELEASED and "release-repeats" in self.broken):
            shop[AVAILABLE + item] += 1
            shop[at] = NONE
        if shop[at] != SHIPPED and "release-unmarked" not in self.broken:
            shop[at] = RELEASED
        return DONE

    def ship(self, shop: bytearray, item: int, order: int) -> int:
        at = HOLD + item * len(ORDERS) + order
        if shop[at] == HELD:
            shop[at] = SHIPPED
        return DONE

    # Messages to it: one arrives, or is held up on the way, or its response is lost

    def send(self, shop: bytearray, item: int, order: int) -> int:
        if self.is_over(shop, order) and "reserve-late" not in self.broken:
            return UNKNOWN
        return self.reserve(shop, item, order)

    def send_slowly(self, shop: bytearray, item: int, order: int) -> int:
        if not self.is_over(shop, order) or "reserve-late" in self.broken:
            shop[LATE + item] |= 1 << order
        return UNKNOWN

    def send_unheard(self, shop: bytearray, item: int, order: int) -> int:
        self.send(shop, item, order)
        return UNKNOWN

    def send_in_vain(self, _: bytearray) -> int:
        return UNKNOWN

    # Steps of the order service's store

    def note(self, shop: bytearray, order: int, command: int) -> int:
        if ("place-unnoted" if command == PLACING else "end-unnoted") not in self.broken:
            shop[NOTES + order] |= command
        return DONE

    def remove_note(self, shop: bytearray, order: int, command: int) -> int:
        shop[NOTES + order] &= 0 if "one-note" in self.broken else ~command
        return DONE

    def read(self, shop: bytearray, what: int, order: int) -> int:
        return shop[what + order]

    def check_time(self, shop: bytearray, order: int) -> int:
        return UNKNOWN if self.is_over(shop, order) else DONE

    def make_in_time(self, shop: bytearray, order: int, status: int) -> int:
        """The same, if time is left."""
        if self.is_over(shop, order) and "place-late" not in self.broken:
            return shop[RECORD + order]
        return self.make(shop, order, status)

    def make(self, shop: bytearray, order: int, status: int) -> int:
        """Make a record PLACED or FAILED if there is none, CANCELLED or SHIPPED if it is PLACED;
        return what is there."""
        rule = {PLACED: "place-overwrites", FAILED: "fail-overwrites"}.get(status, "end-overwrites")
        expected = NONE if status in (PLACED, FAILED) else PLACED
        if shop[RECORD + order] == expected or rule in self.broken:
            shop[RECORD + order] = status
        return shop[RECORD + order]

    def enter_list(self, shop: bytearray, order: int, status: int) -> int:
        """Enter an order in the list of its status, but never move it back to PLACED."""
        moves_back = self.broken & {"lists-move-back", "lists-reread"}
        if shop[LISTED + order] in (NONE, PLACED) or moves_back:
            shop[LISTED + order] = status
        return DONE

    # Steps of the idempotency key

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
        """Bind the key, if it is still bound to the order that was settled, or to none."""
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

    # Programs: placing an order

    def place_under_key(self, order: int) -> Program:
        """`POST /order` with an idempotency key; `order` is the pk that this request made."""
        return (yield from self.take_key(order)) or (yield from self.place(order))

    def take_key(self, order: int) -> Program:
        """Bind the key to this order, or return the response of a retry that need not place it."""
        bound = yield do(self.claim, order, True) + do(self.claim, order, False)
        if bound == order:
            return None
        if bound >= LEASE_RUNS:
            bound -= LEASE_RUNS
            status = yield do(self.read, RECORD, bound)
            if status not in VISIBLE:
                return Response(CONFLICT, bound)
            return (yield from self.replay(bound, status))
        if "retry-continues" in self.broken:
            return (yield from self.place(bound))
        if "retry-unfailed" not in self.broken:
            status = yield do(self.make, bound, FAILED)
            if status in VISIBLE:
                return (yield from self.replay(bound, status))
            if "retry-waits" in self.broken or not (yield from self.undo(bound)):
                return Response(UNKNOWN, bound)
        # A retry that has too little time left to place the order forgets the key instead.
        answer = yield do(self.rebind, bound, order) + do(self.forget_key, bound)
        return None if answer == order else Response(answer, order)

    def replay(self, order: int, status: int) -> Program:
        """Respond with the order of an earlier request."""
        if "replay-unlisted" not in self.broken:
            yield from self.list_order(order, status)
        return Response(PLACED, order)

    def undo(self, order: int) -> Steps[bool]:
        """Release what an earlier request may have reserved, note or not, and remove its note."""
        if "retry-trusts-note" in self.broken and not (yield do(self.read, NOTES, order)):
            return True
        if not (yield from self.tell(self.release, order, self.items_of(order))):
            return False
        yield do(self.remove_note, order, PLACING)
        return True

    def place(self, order: int) -> Program:
        """Place an order of all its items, or of none."""
        yield do(self.note, order, PLACING)
        asked: tuple[int, ...] = ()
        for item in self.items_of(order):
            answer = yield (
                do(self.send, item, order)
                + do(self.send_slowly, item, order)
                + do(self.send_unheard, item, order)
            )
            if answer == GONE:
                return (yield from self.refuse(order, (*asked, item)))
            if answer == REFUSED or (answer == UNKNOWN and "unknown-refused" in self.broken):
                return (yield from self.refuse(order, asked))
            if answer != HELD:
                return (yield from self.give_up(order))
            asked = (*asked, item)
        change = self.make_in_time
        if "place-checked-early" in self.broken:
            if (yield do(self.check_time, order)) != DONE:
                return (yield from self.give_up(order))
            change = self.make
        status = yield do(change, order, PLACED)
        if status not in VISIBLE:
            return (yield from self.give_up(order))
        if "list-after-note" in self.broken:
            yield do(self.remove_note, order, PLACING)
        yield from self.list_order(order, status)
        yield do(self.remove_note, order, PLACING)
        return Response(PLACED, order)

    def refuse(self, order: int, asked: tuple[int, ...]) -> Program:
        """Release what was asked for, and respond; the note stays if that was not delivered."""
        if "refusal-unnoted" in self.broken:
            yield do(self.remove_note, order, PLACING)
        if "refusal-keeps" in self.broken or (yield from self.tell(self.release, order, asked)):
            yield do(self.remove_note, order, PLACING)
        yield do(self.forget_key, order)
        return Response(REFUSED, order)

    def give_up(self, order: int) -> Program:
        """Respond that the outcome is unknown: the note stays, but a retry need not wait."""
        yield do(self.end_lease, order)
        return Response(UNKNOWN, order)

    def tell(self, change: Callable[..., int], order: int, items: Sequence[int]) -> Steps[bool]:
        """Tell the product service about each item; return whether everything was delivered."""
        delivered = True
        for item in items:
            answer = yield do(change, item, order) + do(self.send_in_vain)
            delivered = delivered and answer != UNKNOWN
        return delivered or "undelivered-dropped" in self.broken

    def list_order(self, order: int, status: int) -> Steps[None]:
        yield do(self.enter_list, order, status)
        if "lists-reread" in self.broken:
            while (now := (yield do(self.read, RECORD, order))) != status:
                status = now
                yield do(self.enter_list, order, status)

    # Programs: cancelling, shipping and settling

    def end(self, order: int, command: int) -> Program:
        """Cancel an order, or ship it."""
        yield do(self.note, order, command)
        return (yield from self.finish(order, command))

    def finish(self, order: int, command: int) -> Program:
        """Do what the note of a cancellation or shipment says."""
        status = CANCELLED if command == CANCELLING else SHIPPED
        if (yield do(self.make, order, status)) == status:
            yield from self.list_order(order, status)
            change = self.release if command == CANCELLING else self.ship
            if not (yield from self.tell(change, order, self.items_of(order))):
                return None
        yield do(self.remove_note, order, command)
        return None

    def settle(self, order: int, command: int) -> Program:
        """Finish what a note says is pending, or undo it."""
        if command != PLACING:
            drops = "settle-drops-end" in self.broken
            if drops and (yield do(self.read, RECORD, order)) == PLACED:
                yield do(self.remove_note, order, command)
                return None
            return (yield from self.finish(order, command))
        if "settle-unfailed" in self.broken:
            status = yield do(self.read, RECORD, order)
        else:
            status = yield do(self.make, order, FAILED)
        if status in VISIBLE:
            if "settle-skips-placed" in self.broken:
                return None
            yield from self.list_order(order, status)
        elif not (yield from self.tell(self.release, order, self.items_of(order))):
            return None
        yield do(self.remove_note, order, PLACING)
        return None


Step = tuple[object, ...]
Start = tuple[Callable[..., Program], tuple[int, ...]]
"""A program and its arguments."""


class Points:
    """The points at which programs wait for an answer, numbered, so that a byte can hold one.

    A generator cannot be copied, but it can be run again with the same answers: a point is a
    program and the answers that led to it.
    """

    def __init__(self) -> None:
        self.actions: list[tuple[Action, ...]] = [()] * FIRST_POINT
        self._histories: list[tuple[Start, tuple[int, ...]]] = []
        self.start = cache(self._start)
        self.follow = cache(self._follow)

    def _start(self, start: Start) -> int:
        """Return the first point of a program."""
        return self._reach(start, ())[0]

    def _follow(self, point: int, answer: int) -> tuple[int, Response | None]:
        """Return the point that an answer leads to, or the end and its response."""
        start, answers = self._histories[point - FIRST_POINT]
        return self._reach(start, (*answers, answer))

    def _reach(self, start: Start, answers: tuple[int, ...]) -> tuple[int, Response | None]:
        program = start[0](*start[1])
        try:
            actions = next(program)
            for answer in answers:
                actions = program.send(answer)
        except StopIteration as end:
            return ENDED, end.value
        self.actions.append(actions)
        self._histories.append((start, answers))
        return len(self.actions) - 1, None


@dataclass
class Finding:
    """What a walk found: how many states, and the first failure with its trace."""

    states: int
    failure: str = ""
    trace: list[str] = field(default_factory=list)


class Walk:
    """Every state of one scene."""

    def __init__(self, scene: Scene, broken: frozenset[str]) -> None:
        self.scene, self.broken = scene, broken
        self.protocol = Protocol(scene, broken)
        self.points = {name: Points() for name in scene.processes}
        self.recovered: set[bytes] = set()

    def run(self) -> Finding:
        """Visit every state, breadth first, up to the first failure."""
        first = self.first_state()
        came_from: dict[bytes, bytes | None] = {first: None}
        queue = deque([first])
        while queue:
            state = queue.popleft()
            if failure := self.failure_in(state) or self.failure_after(state):
                return Finding(len(came_from), failure, self.trace(state, came_from))
            for _, following in self.successors(state):
                if following not in came_from:
                    came_from[following] = state
                    queue.append(following)
        return Finding(len(came_from))

    def first_state(self) -> bytes:
        state = bytearray(SIZE)
        state[AVAILABLE : AVAILABLE + 2] = bytes(self.scene.stock)
        state[KEY], state[LEASE] = (A, 1) if self.scene.claimed else (UNBOUND, 0)
        for name, points in self.points.items():
            process = PROCESSES.index(name)
            state[PROCESS + process] = IDLE
            if name in "ABR":
                keyed = name != "R" or self.scene.claimed
                program = self.protocol.place_under_key if keyed else self.protocol.place
                state[PROCESS + process] = points.start((program, ("ABR".index(name),)))
            if name not in "ST" and not self.scene.reliable:
                state[REPEATS] |= 1 << process
        return bytes(state)

    # What can happen next

    def successors(self, state: bytes) -> Iterator[tuple[Step, bytes]]:
        """Yield every step that can be taken, and the state that it leads to."""
        for name, points in self.points.items():
            at = PROCESS + PROCESSES.index(name)
            if state[at] == IDLE:
                for start in self.work_for(name, state):
                    yield (name, "starts"), changed(state, at, points.start(start))
            elif state[at] != ENDED:
                actions = points.actions[state[at]]
                for action in actions[:1] if self.scene.reliable else actions:
                    for following in self.outcomes(state, name, action):
                        yield (name, action), following
                if name in "ST":
                    yield (name, "crashes, and starts again"), changed(state, at, IDLE)
        if state[LATE] or state[LATE + 1]:
            yield from self.late_reservations(state)
        for event in self.scene.events:
            if not state[EVENTS] & event:
                happened = bytearray(state)
                happened[EVENTS] |= event
                happened[AVAILABLE + Y] += RESTOCKED_UNITS if event == Y_RESTOCKED else 0
                yield ("event", event), bytes(happened)
        for order in (A, B) if self.scene.timed else ():
            for following in self.passing_time(state, order):
                yield ("time passes for", ORDER_NAMES[order]), following

    def work_for(self, name: str, state: bytes) -> Iterator[Start]:
        """Yield what an idle process can begin with."""
        for order in ORDERS:
            if name in "CH" and state[RECORD + order] in VISIBLE:
                yield self.protocol.end, (order, CANCELLING if name == "C" else SHIPPING)
            for command in COMMANDS if name in "ST" else ():
                young = self.scene.timed and not self.protocol.is_over(state, order)
                if state[NOTES + order] & command and not (young and command == PLACING):
                    yield self.protocol.settle, (order, command)

    def outcomes(self, state: bytes, name: str, action: Action) -> Iterator[bytes]:
        """Yield what becomes of an action: it is done, or done and to be repeated."""
        process = PROCESSES.index(name)
        following = bytearray(state)
        answer = action.change(following, *action.arguments)
        if state[REPEATS] >> process & 1 and following != state:
            yield changed(following, REPEATS, state[REPEATS] & ~(1 << process))
        at = PROCESS + process
        following[at], response = self.points[name].follow(state[at], answer)
        if following[at] == ENDED and name in "ST":
            following[at] = IDLE
        if response:
            keep_response(following, response)
        yield bytes(following)

    def late_reservations(self, state: bytes) -> Iterator[tuple[Step, bytes]]:
        for item in ITEMS:
            for order in ORDERS:
                if state[LATE + item] >> order & 1:
                    following = bytearray(state)
                    following[LATE + item] &= ~(1 << order)
                    self.protocol.reserve(following, item, order)
                    yield ("late", Action(self.protocol.reserve, (item, order))), bytes(following)

    def passing_time(self, state: bytes, order: int) -> Iterator[bytes]:
        """Yield how the time of a request ends, and what comes long after that."""
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
                if over and "arrive-late" not in self.broken:
                    following[LATE + item] &= ~(1 << order)
                at = HOLD + item * len(ORDERS) + order
                if state[at] in (RELEASED, REFUSED):
                    following[at] = NONE
            yield bytes(following)

    # What has to be true

    def failure_in(self, state: bytes | bytearray) -> str:
        """Return what is wrong in a state, or nothing."""
        if state[TOLD_UNLISTED]:
            return "an order got a 201 before it was listed"
        for item in ITEMS:
            holds = state[HOLD + item * len(ORDERS) : HOLD + (item + 1) * len(ORDERS)]
            restocked = item == Y and state[EVENTS] & Y_RESTOCKED
            received = self.scene.stock[item] + (RESTOCKED_UNITS if restocked else 0)
            if received != state[AVAILABLE + item] + holds.count(HELD) + holds.count(SHIPPED):
                return "received is not available + reserved + shipped"
        visible = 0
        for order in ORDERS:
            if state[RECORD + order] in VISIBLE:
                visible |= 1 << order
        under_key = visible if self.scene.claimed else visible & ~(1 << R)
        if under_key & (under_key - 1):
            return "two orders under one key"
        if visible & state[TOLD_REFUSED]:
            return "an order was refused, and is placed"
        if visible & state[TOLD_NEVER]:
            return "an order was placed after its time"
        if state[TOLD_PLACED] & ~visible:
            return "an order got a 201, and is not there"
        settling = any(state[PROCESS + PROCESSES.index(name)] > IDLE for name in "ST")
        if settling or any(state[NOTES : NOTES + len(ORDERS)]) or state[LATE] or state[LATE + 1]:
            return ""
        return self.inconsistency_in(state)

    def inconsistency_in(self, state: bytes | bytearray) -> str:
        """Return what is wrong where nothing is pending any more, or nothing."""
        for order in ORDERS:
            status, name = state[RECORD + order], ORDER_NAMES[order]
            for item in ITEMS:
                hold = state[HOLD + item * len(ORDERS) + order]
                wanted = status if item in self.protocol.items_of(order) else NONE
                if (hold == HELD, hold == SHIPPED) != (wanted == PLACED, wanted == SHIPPED):
                    return f"order {name} is {STATUSES[status]}, {'XY'[item]} is {HOLDS[hold]}"
            if state[LISTED + order] != (status if status in VISIBLE else NONE):
                listed = STATUSES[state[LISTED + order]]
                return f"order {name} is {STATUSES[status]}, its list is {listed}"
        if self.scene.enough and state[TOLD_REFUSED]:
            return "a retry was refused the units of an earlier attempt"
        if self.scene.reliable and state[TOLD_REFUSED] == 1 << A | 1 << R:
            return "two orders refused each other"
        return ""

    def failure_after(self, state: bytes) -> str:
        """Return what ends badly if everything stops here and the network recovers."""
        shop = bytearray(state)
        shop[TOLD_PLACED:SIZE] = bytes(SIZE - TOLD_PLACED)
        shop[TIME_OVER] = 1 << A | 1 << B
        stopped = bytes(shop)
        if stopped in self.recovered:
            return ""
        self.recovered.add(stopped)
        for order in (C, D):  # without settling in between, as a note may be too young for that
            response = run_alone(self.protocol.place_under_key(order), shop)
            if response and response.outcome in (PLACED, REFUSED):
                keep_response(shop, response)
                break
        else:
            return "requests under the key never get a final answer"
        for order in ORDERS:
            for command in COMMANDS:
                if shop[NOTES + order] & command:
                    run_alone(self.protocol.settle(order, command), shop)
        if any(shop[NOTES : NOTES + len(ORDERS)]):
            return "settling never removes a note"
        shop[LATE : LATE + 2] = bytes(2)
        failure = self.failure_in(shop)
        return f"{failure}, after everything has stopped and been settled" if failure else ""

    def trace(self, last: bytes, came_from: dict[bytes, bytes | None]) -> list[str]:
        """Name each step of a shortest way to a state."""
        lines: list[str] = []
        after, before = last, came_from[last]
        while before is not None:
            step = next(step for step, following in self.successors(before) if following == after)
            lines.append(" ".join(map(str, step)))
            after, before = before, came_from[before]
        return lines[::-1]


def changed(state: bytes | bytearray, at: int, value: int) -> bytes:
    """Return a copy of a state with one byte changed."""
    following = bytearray(state)
    following[at] = value
    return bytes(following)


def keep_response(state: bytearray, response: Response) -> None:
    """Keep what a caller was told."""
    if response.outcome == PLACED:
        state[TOLD_PLACED] |= 1 << response.order
        state[TOLD_UNLISTED] |= state[LISTED + response.order] == NONE
    elif response.outcome == REFUSED:
        state[TOLD_REFUSED] |= 1 << response.order


def run_alone(program: Program, shop: bytearray) -> Response | None:
    """Run a program to its end while nothing fails; return its response."""
    actions = next(program)
    while True:
        answer = actions[0].change(shop, *actions[0].arguments)
        try:
            actions = program.send(answer)
        except StopIteration as end:
            response: Response | None = end.value
            return response


def report(scene: str, *broken: str, is_traced: bool) -> Finding:
    """Walk a scene, and print what was found."""
    began = time.process_time()
    finding = Walk(SCENES[scene], frozenset(broken)).run()
    seconds = time.process_time() - began
    title, verdict = ": ".join((*broken, scene)), finding.failure or "consistent"
    lines = [f"{title}: {verdict} ({finding.states:,} states, {seconds:.1f} s)"]
    sys.stdout.write("\n    ".join(lines + finding.trace * is_traced) + "\n")
    sys.stdout.flush()
    return finding


def walk_all() -> int:
    """Walk every scene, then every variant; return 0 if every variant fails, and no scene."""
    findings = [report(scene, is_traced=True) for scene in SCENES]
    broken = [report(scene, rule, is_traced=False) for rule, scene in SCENE_OF.items()]
    states, failed = sum(one.states for one in findings), sum(bool(one.failure) for one in findings)
    missed = sum(not one.failure for one in broken)
    sys.stdout.write(f"{states:,} states, {failed} scenes fail\n")
    sys.stdout.write(f"{len(broken)} broken rules, {missed} not found\n")
    return 1 if failed or missed else 0


def main(arguments: Sequence[str]) -> int:
    """Walk everything, or what shows that these rules are broken; return 0 if all is well."""
    rules = {rule: text for of in VARIANTS.values() for rule, text in of.items()}
    parser = argparse.ArgumentParser(
        prog="python -m tests.protocol_model",
        epilog="\n".join(f"{rule:20} {text}" for rule, text in rules.items()),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("rules", nargs="*", choices=[[], *rules], metavar="RULE", help="to break")
    broken = parser.parse_args(arguments).rules
    scenes = dict.fromkeys([*(SCENE_OF[rule] for rule in broken), *SCENES])
    if not broken:
        return walk_all()
    return int(any(report(scene, *broken, is_traced=True).failure for scene in scenes))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
