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
import sys
import time
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import product
from typing import NamedTuple, TypeVar

# Orders are named after the request that made their pk; c and d are clients that come at the end.
A, B, R, C, D = ORDERS = range(5)
ORDER_NAMES = "abrcd"
X, Y = ITEMS = range(2)

# A hold of the product service, and the record of an order
NONE, HELD, RELEASED, SHIPPED, REFUSED = range(5)
PLACED, CANCELLED, FAILED = 1, 2, 4
VISIBLE = (PLACED, CANCELLED, SHIPPED)

# Other answers of a step; the last is added to an order
GONE, UNKNOWN, DONE, LEASE_RUNS = 5, 6, 7, 16
HEARD, SLOW, UNHEARD = range(3)  # what becomes of a request to reserve

# Sets, as bits: pending commands, with what they end as, and what can happen once to the products
PLACING, CANCELLING, SHIPPING = 1, 2, 4
ENDS_AS = {PLACING: FAILED, CANCELLING: CANCELLED, SHIPPING: SHIPPED}
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
    "one unit": Scene("ABS", enough=True),
    "units for two": Scene("ABS", (3, 3)),
    "Y is restocked": Scene("ABS", (3, 0), (Y_RESTOCKED,)),
    "Y is deleted": Scene("ABS", (3, 3), (Y_DELETED,)),
    "X is deleted": Scene("ABS", (3, 3), (X_DELETED,)),
    "Y changes its price": Scene("ABS", (3, 3), (Y_PRICE_CHANGED,)),
    "a rival for X and Y": Scene("ARS"),
    "a rival for Y": Scene("ARS", rival_items=(Y,)),
    "nothing fails": Scene("AR", reliable=True),
    "it also ships": Scene("ACHS"),
    "two settlers": Scene("ACST"),
    "a retry, cancelled": Scene("ABCS"),
    "timed": Scene("ABS", (3, 3), timed=True, asked_for=True),
    "after a crash": Scene("BRS", (3, 3), claimed=True),
    "forgotten": Scene("ABS", (3, 0), (Y_RESTOCKED,), timed=True, forgets=True),
}

# What happens instead where one rule is broken, and the scene that shows it soonest
BROKEN = {
    "retry-trusts-note": ("one unit", "a retry releases nothing for an order without a note"),
    "place-overwrites": ("units for two", "PLACED replaces FAILED"),
    "place-unnoted": ("units for two", "no note before reserving"),
    "reserve-repeats": ("units for two", "a repeated reservation takes the units again"),
    "release-unmarked": ("units for two", "a release is not remembered"),
    "release-repeats": ("units for two", "a repeated release gives the units back again"),
    "unknown-refused": ("units for two", "no response counts as a refusal"),
    "undelivered-dropped": ("units for two", "the note goes though a release was not delivered"),
    "fail-overwrites": ("units for two", "FAILED replaces PLACED"),
    "settle-unfailed": ("units for two", "settling releases without making the order FAILED"),
    "settle-skips-placed": ("units for two", "settling leaves the note of a placed order"),
    "replay-unlisted": ("units for two", "a replay does not finish the lists first"),
    "retry-waits": ("units for two", "a retry waits for settling"),
    "retry-continues": ("units for two", "a retry places the order of an earlier request"),
    "retry-unfailed": ("units for two", "a retry binds the key before the earlier order is FAILED"),
    "refusal-unmarked": ("Y is restocked", "a refusal is not remembered"),
    "refusal-keeps": ("Y is restocked", "a refusal releases nothing"),
    "forget-uncompared": ("Y is restocked", "a key is forgotten whatever it is bound to by then"),
    "refusal-unnoted": ("a rival for Y", "a refusal removes the note before releasing"),
    "unordered": ("nothing fails", "items are reserved in any order"),
    "list-after-note": ("it also ships", "the note of a placed order goes before it is listed"),
    "one-note": ("it also ships", "one note for all commands of an order"),
    "end-unnoted": ("it also ships", "no note before cancelling or shipping"),
    "end-overwrites": ("it also ships", "cancelling and shipping replace each other"),
    "settle-drops-end": ("it also ships", "settling drops the note of a cancellation not yet done"),
    "lists-move-back": ("it also ships", "the last writer of a list wins"),
    "lists-reread": ("two settlers", "the last writer wins, but looks again and repeats"),
    "bind-uncompared": ("after a crash", "a key is bound again whatever it is bound to by then"),
    "place-late": ("timed", "an order is placed after its request's time"),
    "place-checked-early": ("timed", "the time is checked when reading, not when writing"),
    "reserve-late": ("forgotten", "a reservation is sent after the time"),
    "arrive-late": ("forgotten", "a reservation is accepted after the time"),
    "forget-early": ("forgotten", "a release is forgotten within the time"),
}


class Action(NamedTuple):
    """One atomic step of a program: a change to what is kept, and its arguments."""

    change: Callable[..., int]
    arguments: tuple[int, ...]

    def __str__(self) -> str:
        return f"{self.change.__name__}{self.arguments}"


class Response(NamedTuple):
    """What a caller is told about an order: PLACED, REFUSED, or nothing final."""

    outcome: int
    order: int


# A program yields actions, of which one happens; the first is the one where nothing fails.
T = TypeVar("T")
Steps = Generator[tuple[Action, ...], int, T]
Program = Steps[Response | None]
Step = tuple[object, ...]
Start = tuple[Callable[..., Program], tuple[int, ...]]
"""A program and its arguments."""


def do(change: Callable[..., int], *arguments: int) -> tuple[Action, ...]:
    """Return one possible action; `do(...) + do(...)` is one of the two."""
    return (Action(change, arguments),)


def hold_of(item: int, order: int) -> int:
    """Return where the hold of an order is kept."""
    return HOLD + item * len(ORDERS) + order


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

    # Steps of the product service

    def reserve(self, shop: bytearray, item: int, order: int) -> int:
        at = hold_of(item, order)
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
        at = hold_of(item, order)
        if shop[at] == HELD or (shop[at] == RELEASED and "release-repeats" in self.broken):
            shop[AVAILABLE + item] += 1
            shop[at] = NONE
        if shop[at] != SHIPPED and "release-unmarked" not in self.broken:
            shop[at] = RELEASED
        return DONE

    def ship(self, shop: bytearray, item: int, order: int) -> int:
        if shop[hold_of(item, order)] == HELD:
            shop[hold_of(item, order)] = SHIPPED
        return DONE

    def send(self, shop: bytearray, item: int, order: int, fate: int) -> int:
        """Ask for a reservation within the time; it arrives late, or its response gets lost."""
        if shop[TIME_OVER] >> order & 1 and "reserve-late" not in self.broken:
            return UNKNOWN
        if fate == SLOW:
            shop[LATE + item] |= 1 << order
            return UNKNOWN
        answer = self.reserve(shop, item, order)
        return answer if fate == HEARD else UNKNOWN

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

    def read(self, shop: bytearray, what: int, order: int = 0) -> int:
        return shop[what + order]

    def make(self, shop: bytearray, order: int, status: int, in_time: int = False) -> int:
        """Make a record PLACED or FAILED if there is none, CANCELLED or SHIPPED if it is PLACED;
        return what is there."""
        rule = {PLACED: "place-overwrites", FAILED: "fail-overwrites"}.get(status, "end-overwrites")
        expected = NONE if status in (PLACED, FAILED) else PLACED
        is_late = in_time and shop[TIME_OVER] >> order & 1 and "place-late" not in self.broken
        if not is_late and (shop[RECORD + order] == expected or rule in self.broken):
            shop[RECORD + order] = status
        return shop[RECORD + order]

    def enter_list(self, shop: bytearray, order: int, status: int) -> int:
        """Enter an order in the list of its status, but never move it back to PLACED."""
        moves_back = self.broken & {"lists-move-back", "lists-reread"}
        if shop[LISTED + order] in (NONE, PLACED) or moves_back:
            shop[LISTED + order] = status
        return DONE

    def bind(self, shop: bytearray, order: int, settled: int, clock_jumped: int) -> int:
        """Bind the key if it is free, or still bound to the order that was settled; return the
        order it is bound to, and whether that one's lease runs."""
        is_again = settled != UNBOUND and "bind-uncompared" in self.broken
        if shop[KEY] in (UNBOUND, settled, order) or is_again:
            shop[KEY], shop[LEASE] = order, 1
            return order
        ended = shop[TIME_OVER] >> shop[KEY] & 1 if self.scene.timed else clock_jumped
        return shop[KEY] + (LEASE_RUNS if shop[LEASE] and not ended else 0)

    def forget_key(self, shop: bytearray, order: int) -> int:
        if shop[KEY] == order or "forget-uncompared" in self.broken:
            shop[KEY], shop[LEASE] = UNBOUND, 0
        return DONE

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
        bound = yield do(self.bind, order, UNBOUND, True) + do(self.bind, order, UNBOUND, False)
        if bound == order:
            return None
        bound, lease_runs = bound % LEASE_RUNS, bound >= LEASE_RUNS
        if lease_runs or "retry-waits" in self.broken:
            status = yield do(self.read, RECORD, bound)
            if status not in VISIBLE:
                return Response(UNKNOWN, bound)
            if "replay-unlisted" not in self.broken:
                yield from self.list_order(bound, status)
        elif "retry-continues" in self.broken:
            return (yield from self.place(bound))
        elif "retry-unfailed" in self.broken:
            status = FAILED
        elif "retry-trusts-note" in self.broken and not (yield do(self.read, NOTES, bound)):
            status = yield do(self.make, bound, FAILED)
        else:
            status = yield from self.finish(bound, PLACING, is_settling=True)
        if status in VISIBLE:
            return Response(PLACED, bound)
        if status != FAILED:
            return Response(UNKNOWN, bound)
        # A retry that has too little time left to place the order forgets the key instead.
        answer = yield do(self.bind, order, bound, False) + do(self.forget_key, bound)
        return None if answer == order else Response(UNKNOWN, order)

    def place(self, order: int) -> Program:
        """Place an order of all its items, or of none."""
        yield do(self.note, order, PLACING)
        items = self.items_of(order)
        for number, item in enumerate(items):
            fates = [Action(self.send, (item, order, fate)) for fate in (HEARD, SLOW, UNHEARD)]
            answer = yield tuple(fates)
            if answer == UNKNOWN and "unknown-refused" in self.broken:
                answer = REFUSED
            if answer in (GONE, REFUSED):
                return (yield from self.refuse(order, items[: number + (answer == GONE)]))
            if answer != HELD:
                return (yield from self.give_up(order))
        is_early = "place-checked-early" in self.broken
        if is_early and (yield do(self.read, TIME_OVER)) >> order & 1:
            return (yield from self.give_up(order))
        status = yield do(self.make, order, PLACED, not is_early)
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
        yield from self.finish(order, command, is_settling=False)
        return None

    def settle(self, order: int, command: int) -> Program:
        """Finish what a note says is pending, or undo it."""
        drops = command != PLACING and "settle-drops-end" in self.broken
        if drops and (yield do(self.read, RECORD, order)) == PLACED:
            yield do(self.remove_note, order, command)
        else:
            yield from self.finish(order, command, is_settling=True)
        return None

    def finish(self, order: int, command: int, *, is_settling: bool) -> Steps[int]:
        """End an order as a command does; return its status, or UNKNOWN if not all was told."""
        status = ENDS_AS[command]
        if command == PLACING and "settle-unfailed" in self.broken:
            now = yield do(self.read, RECORD, order)
        else:
            now = yield do(self.make, order, status)
        if command == PLACING and now in VISIBLE and "settle-skips-placed" in self.broken:
            return now
        if now in VISIBLE and (is_settling or now == status):
            yield from self.list_order(order, now)
        change = self.ship if command == SHIPPING else self.release
        tells = now in (NONE, status)
        if tells and not (yield from self.tell(change, order, self.items_of(order))):
            return UNKNOWN
        yield do(self.remove_note, order, command)
        return now


class Points:
    """The points at which programs wait for an answer, numbered, so that a byte can hold one.

    A generator cannot be copied, but it can be run again with the same answers: a point is a
    program and the answers that led to it.
    """

    def __init__(self) -> None:
        self.actions: list[tuple[Action, ...]] = [()] * FIRST_POINT
        self._histories: list[tuple[Start, tuple[int, ...]]] = []
        self.start = cache(lambda start: self._reach(start, ())[0])
        self.follow = cache(self._follow)

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


class Finding(NamedTuple):
    """What a walk found: how many states, and the first failure with its trace."""

    states: int
    failure: str = ""
    trace: Sequence[str] = ()


class Walk:
    """Every state of one scene."""

    def __init__(self, scene: Scene, *broken: str) -> None:
        self.scene, self.broken = scene, broken
        self.protocol = Protocol(scene, frozenset(broken))
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
                state[PROCESS + process] = points.start((program, (process,)))
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
        for item, order in product(ITEMS, ORDERS) if state[LATE] or state[LATE + 1] else ():
            if state[LATE + item] >> order & 1:
                arrived = bytearray(changed(state, LATE + item, state[LATE + item] & ~(1 << order)))
                self.protocol.reserve(arrived, item, order)
                yield ("late", Action(self.protocol.reserve, (item, order))), bytes(arrived)
        for event in self.scene.events:
            if not state[EVENTS] & event:
                happened = bytearray(changed(state, EVENTS, state[EVENTS] | event))
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
            for command in ENDS_AS if name in "ST" else ():
                is_young = self.scene.timed and not state[TIME_OVER] >> order & 1
                if state[NOTES + order] & command and not (is_young and command == PLACING):
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
                if state[hold_of(item, order)] in (RELEASED, REFUSED):
                    following[hold_of(item, order)] = NONE
            yield bytes(following)

    # What has to be true

    def failure_in(self, state: bytes | bytearray) -> str:
        """Return what is wrong in a state, or nothing."""
        for item in ITEMS:
            holds = state[hold_of(item, A) : hold_of(item + 1, A)]
            restocked = item == Y and state[EVENTS] & Y_RESTOCKED
            received = self.scene.stock[item] + (RESTOCKED_UNITS if restocked else 0)
            if received != state[AVAILABLE + item] + holds.count(HELD) + holds.count(SHIPPED):
                return "received is not available + reserved + shipped"
        visible = sum(1 << order for order in ORDERS if state[RECORD + order] in VISIBLE)
        under_key = visible if self.scene.claimed else visible & ~(1 << R)
        for is_wrong, failure in (
            (state[TOLD_UNLISTED], "an order got a 201 before it was listed"),
            (under_key & (under_key - 1), "two orders under one key"),
            (visible & state[TOLD_REFUSED], "an order was refused, and is placed"),
            (visible & state[TOLD_NEVER], "an order was placed after its time"),
            (state[TOLD_PLACED] & ~visible, "an order got a 201, and is not there"),
        ):
            if is_wrong:
                return failure
        settling = any(state[PROCESS + PROCESSES.index(name)] > IDLE for name in "ST")
        if settling or any(state[NOTES : NOTES + len(ORDERS)]) or state[LATE] or state[LATE + 1]:
            return ""
        return self.inconsistency_in(state)

    def inconsistency_in(self, state: bytes | bytearray) -> str:
        """Return what is wrong where nothing is pending any more, or nothing."""
        for order in ORDERS:
            status = state[RECORD + order]
            for item in ITEMS:
                hold = state[hold_of(item, order)]
                wanted = status if item in self.protocol.items_of(order) else NONE
                if (hold == HELD, hold == SHIPPED) != (wanted == PLACED, wanted == SHIPPED):
                    return f"what is held of {'XY'[item]} is wrong for order {ORDER_NAMES[order]}"
            if state[LISTED + order] != (status if status in VISIBLE else NONE):
                return f"the list is wrong for order {ORDER_NAMES[order]}"
        if self.scene.enough and state[TOLD_REFUSED]:
            return "a retry was refused the units of an earlier attempt"
        if self.scene.reliable and state[TOLD_REFUSED] == 1 << A | 1 << R:
            return "two orders refused each other"
        return ""

    def failure_after(self, state: bytes) -> str:
        """Return what ends badly if everything stops here and the network recovers."""
        shop = bytearray(state)
        shop[TOLD_PLACED:SIZE] = bytes(SIZE - TOLD_PLACED)
        shop[TIME_OVER] = 1 << A | 1 << B if self.scene.timed else 0
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
        for order, command in product(ORDERS, ENDS_AS):
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


def say(*lines: str) -> None:
    sys.stdout.write("\n    ".join(lines) + "\n")
    sys.stdout.flush()


def walk(scene: str, *broken: str, is_traced: bool = True) -> Finding:
    """Walk a scene, and print what was found."""
    began = time.process_time()
    finding = Walk(SCENES[scene], *broken).run()
    seconds = time.process_time() - began
    title, verdict = ": ".join((*broken, scene)), finding.failure or "consistent"
    steps = finding.trace if is_traced else ()
    say(f"{title}: {verdict} ({finding.states:,} states, {seconds:.1f} s)", *steps)
    return finding


def main(arguments: Sequence[str]) -> int:
    """Walk everything, or what shows that these rules are broken; return 0 if all is well."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.protocol_model",
        epilog="\n".join(f"{rule:20} {text}" for rule, (_, text) in BROKEN.items()),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("rules", nargs="*", choices=[[], *BROKEN], metavar="RULE", help="to break")
    broken = parser.parse_args(arguments).rules
    if broken:
        scenes = dict.fromkeys([*(BROKEN[rule][0] for rule in broken), *SCENES])
        return int(any(walk(scene, *broken).failure for scene in scenes))
    findings = [walk(scene) for scene in SCENES]
    failed = sum(bool(finding.failure) for finding in findings)
    found = [walk(scene, rule, is_traced=False).failure for rule, (scene, _) in BROKEN.items()]
    say(f"{sum(finding.states for finding in findings):,} states, {failed} scenes fail")
    say(f"{len(found)} broken rules, {found.count('')} not found")
    return int(failed > 0 or "" in found)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
