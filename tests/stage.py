"""A stage on which services act one call at a time, in an order that a test chooses."""

import asyncio
import functools
import re
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass, field
from typing import Self

from shopsphere.domain.errors import ShopError, Unavailable
from shopsphere.domain.values import Order
from tests.small_shop import Call, OrderService, SmallShop

PK = re.compile(r"[0-7][0-9A-HJKMNP-TV-Z]{25}")
VARYING = re.compile(
    r"-?\d+\.\d+(e-\d+)?|datetime\.datetime\([^)]*\)|(placed_ms|noted_at)=\d+|[0-9a-f]{64}"
)
"""Times, and digests of requests: other ones in each play."""
TIME_TO_ARRIVE = 5
"""Rounds of the event loop in which every actor comes to its next call."""
MOST_STATES = 10_000
"""More than any play has, as long as two plays that do the same come to the same states."""


class Fallen(BaseException):
    """The curtain has fallen: nobody acts any more."""


@dataclass
class Turn:
    """An actor that waits to make its next call."""

    actor: str
    call: str
    comes: asyncio.Event = field(default_factory=asyncio.Event)
    is_over: asyncio.Event = field(default_factory=asyncio.Event)


class Stage:
    """Holds each call of each actor until it is that actor's turn.

    Actors do nothing by themselves between two calls, so the order of the calls is all there is.
    """

    def __init__(self, shop: SmallShop) -> None:
        self.shop = shop
        self.calls: list[str] = []
        """What was called by whom, in order."""
        self.answered: list[Order] = []
        self.refused: list[ShopError] = []
        self._actors: dict[str, asyncio.Task[None]] = {}
        self._waiting: list[Turn] = []
        self._names: dict[str, str] = {}
        self._heard: dict[str, list[str]] = {}
        self._has_fallen = False

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        self._has_fallen = True
        for turn in self._waiting:
            turn.comes.set()
        await asyncio.gather(*self._actors.values(), return_exceptions=True)

    def service(self, actor: str) -> OrderService:
        """Return the order service of an actor. Leases are over and notes are old at once."""
        hold = functools.partial(self._hold, actor)
        return self.shop.service(hold, lease_seconds=0, settle_after=0)

    async def enter(self, actor: str, act: Coroutine[object, object, Order | None]) -> None:
        """Have an actor begin; it waits before its first call."""

        async def run() -> None:
            try:
                if order := await act:
                    self.answered.append(order)
            except ShopError as error:
                self.refused.append(error)

        for known, pks in (("product", self.shop.received), ("order", self.shop.ordered)):
            self._name(known, *sorted(pks))
        self._heard[actor] = []
        self._actors[actor] = asyncio.create_task(run())
        await self._arrives(actor, 0)

    async def happens(self, name: str, make: Callable[[], Awaitable[object]]) -> None:
        """Have something happen that is one step, when its turn comes."""

        async def happen() -> None:
            await self._hold(name, Call(name, (), Unavailable, make))

        await self.enter(name, happen())

    def turns(self) -> list[str]:
        """Return who waits for a turn, in a fixed order; somebody may wait with several calls."""
        return [turn.actor for turn in self._waiting]

    def is_done(self, actor: str) -> bool:
        return self._actors[actor].done()

    async def let(self, number: int) -> None:
        """Let this one of those who wait make its call."""
        turn = self._waiting.pop(number)
        self.calls.append(f"{turn.actor}: {turn.call}")
        others = self.turns().count(turn.actor)
        turn.comes.set()
        await turn.is_over.wait()
        await self._arrives(turn.actor, others)
        self._waiting.sort(key=lambda turn: turn.actor)

    async def go_on(self, actor: str, calls: int = 1) -> None:
        """Let an actor make so many calls, or as many as it has left."""
        for _ in range(calls):
            if self.is_done(actor):
                return
            await self.let(self.turns().index(actor))

    async def finish(self, *actors: str) -> None:
        """Let actors go on to their ends, one after the other."""
        for actor in actors:
            while not self.is_done(actor):
                await self.go_on(actor)

    async def state(self) -> str:
        """Return all on which the rest of the play depends: what is kept, and what was heard.

        A pk is named after the actor that made it, as it is another one each time.
        """
        heard = [each for each in self._heard.items() if not self.is_done(each[0])]
        waiting = [f"{turn.actor} waits with {turn.call}" for turn in self._waiting]
        told = map(str, [*self.answered, *self.refused])
        kept = map(str, await self.shop.content())
        return self._said(
            [heard, waiting, *(sorted(map(self._said, each)) for each in (told, kept))]
        )

    async def _hold(self, actor: str, call: Call) -> object:
        self._name(f"pk of {actor}", *PK.findall(str(call.args)))
        turn = Turn(actor, f"{call.name}{self._said(call.args)}")
        self._waiting.append(turn)
        if not self._has_fallen:
            await turn.comes.wait()
        if self._has_fallen:
            raise Fallen
        answer: object = None
        try:
            answer = await call.make()
        except ShopError as error:
            answer = error.code
            raise
        finally:
            turn.is_over.set()
            self._heard[actor].append(f"{call.name}: {answer}")
        return answer

    def _name(self, kind: str, *pks: str) -> None:
        for pk in pks:
            number = sum(name.startswith(f"{kind} ") for name in self._names.values())
            self._names.setdefault(pk, f"{kind} {number}")

    async def _arrives(self, actor: str, others: int) -> None:
        """Wait until an actor is at its next call, or at its end.

        Where it does several things at once, `others` of its calls wait already.
        """
        for _ in range(TIME_TO_ARRIVE):
            await asyncio.sleep(0)
            if self.is_done(actor) or self.turns().count(actor) > others:
                break
        await asyncio.sleep(0)

    def _said(self, thing: object) -> str:
        """Say it with names for pks and without what varies."""
        text = PK.sub(lambda pk: self._names.get(pk[0], "?"), str(thing))
        return VARYING.sub("...", text)


async def every_order(
    shop: SmallShop,
    begin: Callable[[Stage], Awaitable[None]],
    end: Callable[[Stage], Awaitable[None]],
) -> None:
    """Play every order in which the actors that `begin` brings on can act; `end` judges each.

    Where a play comes to a state that another one was in, it is left: the rest was played from
    there.
    """
    ahead: list[tuple[int, ...]] = [()]
    known: set[str] = set()
    ends = 0
    while ahead:
        path = ahead.pop()
        shop.clear()
        async with Stage(shop) as stage:
            try:
                await begin(stage)
                for number in path:
                    await stage.let(number)
                while stage.turns() and (state := await stage.state()) not in known:
                    known.add(state)
                    assert len(known) < MOST_STATES, f"is something here random? {state}"
                    ahead += [(*path, number) for number in range(1, len(stage.turns()))]
                    path = (*path, 0)
                    await stage.let(0)
                if not stage.turns():
                    ends += 1
                    await end(stage)
            except BaseException as error:
                error.add_note("\n".join(stage.calls))
                raise
    assert ends > 1
