"""A stage on which services act one call at a time, in an order that a test chooses."""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass, field
from functools import partial

from shopsphere.domain.errors import ShopError, Unavailable
from shopsphere.domain.values import Order
from tests.small_shop import Call, OrderService, SmallShop

TIME_TO_ARRIVE = 6
"""Rounds of the event loop in which every actor comes to its next call."""
INTERRUPTIONS = 2
"""How often an actor is interrupted that could go on. Few more faults would be found by more
(Musuvathi and Qadeer, "Iterative context bounding", PLDI 2007); the protocol model has no bound."""


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
        self._actors: list[asyncio.Task[None]] = []
        self._waiting: list[Turn] = []
        self._has_fallen = False

    def service(self, actor: str) -> OrderService:
        """Return the order service of an actor. Leases are over and notes are old at once."""
        return self.shop.service(partial(self.hold, actor), lease_seconds=0, settle_after=0)

    async def enter(self, act: Coroutine[object, object, object]) -> None:
        """Have an actor begin; it waits before its first call."""

        async def run() -> None:
            try:
                if isinstance(order := await act, Order):
                    self.answered.append(order)
            except ShopError as error:
                self.refused.append(error)

        self._actors.append(asyncio.create_task(run()))
        await self._arrive()

    async def happens(self, name: str, what: Awaitable[object]) -> None:
        """Have something happen that is one step, when its turn comes."""
        await self.enter(self.hold(name, Call(name, (), Unavailable, lambda: what)))

    def actors(self) -> list[str]:
        """Return who waits for a turn: first who acted last, if it goes on."""
        last = self.calls[-1].partition(":")[0] if self.calls else ""
        waiting = {turn.actor for turn in self._waiting}
        return sorted(waiting, key=lambda actor: (actor != last, actor))

    async def go_on(self, actor: str) -> None:
        """Let an actor make its next call."""
        turn = next(turn for turn in self._waiting if turn.actor == actor)
        self._waiting.remove(turn)
        self.calls.append(f"{actor}: {turn.call}")
        turn.comes.set()
        await turn.is_over.wait()
        await self._arrive()

    async def hold(self, actor: str, call: Call) -> object:
        """Make this call when its turn comes."""
        turn = Turn(actor, call.name)
        self._waiting.append(turn)
        if not self._has_fallen:
            await turn.comes.wait()
        if self._has_fallen:
            raise Fallen
        try:
            return await call.make()
        finally:
            turn.is_over.set()

    async def fall(self) -> None:
        """End the play."""
        self._has_fallen = True
        for turn in self._waiting:
            turn.comes.set()
        await asyncio.gather(*self._actors, return_exceptions=True)

    async def _arrive(self) -> None:
        for _ in range(TIME_TO_ARRIVE):
            await asyncio.sleep(0)


async def every_order(
    shop: SmallShop,
    begin: Callable[[Stage], Awaitable[None]],
    end: Callable[[Stage], Awaitable[None]],
) -> None:
    """Play every order in which the actors that `begin` brings on can act, with no more than so
    many interruptions; `end` judges each."""
    ahead: list[tuple[int, ...]] = [()]
    while ahead:
        path = ahead.pop()
        shop.clear()
        stage = Stage(shop)
        try:
            await begin(stage)
            interruptions, step = 0, 0
            while actors := stage.actors():
                goes_on = stage.calls[-1:] and stage.calls[-1].startswith(f"{actors[0]}:")
                if step == len(path):
                    if not goes_on or interruptions < INTERRUPTIONS:
                        ahead += [(*path, other) for other in range(1, len(actors))]
                    path = (*path, 0)
                interruptions += bool(goes_on and path[step])
                await stage.go_on(actors[path[step]])
                step += 1
            await end(stage)
        except BaseException as error:
            error.add_note("\n".join(stage.calls))
            raise
        finally:
            await stage.fall()
