"""An executable model of sessions: the real rules, in every order of what people do.

An owner has one or two tabs, which share one storage of tokens or have each their own, and a thief
copies a token. Responses are lost, time passes or goes back, and a failover loses all rotations.
Tabs and the thief log out. An attempt with a password verifies the hash first and applies its rule
later, perhaps several times. Each rule is also applied twice at once: that must be as good as once.

The rules store a number and a time for each session. `promised` goes by tokens instead: by when
each was given first, whoever uses it. So an owner is logged out only by a logout, an attempt, an
unused session, or a token that was replaced more than a minute ago: a stolen one, or one of an
owner who was slow. And whoever uses such a token, thief or owner, nobody keeps the session.

`walk` visits, breadth first, every state that some number of events can reach, so it finds the
shortest way to a broken promise.
"""

from collections.abc import Callable, Iterator
from functools import partial
from math import inf
from typing import Any, NamedTuple, TypeVar

from shopsphere.domain import sessions
from shopsphere.domain.records import DAY, Sessions, User
from shopsphere.domain.values import Role

SECONDS = 30 * DAY
"""After which an unused session is over."""
Rule = Callable[..., Any]
T = TypeVar("T")


class Rules(NamedTuple):
    refresh: Rule = sessions.refresh
    start: Rule = sessions.start
    end: Rule = sessions.end
    delete: Rule = sessions.delete


class Token(NamedTuple):
    session: str
    number: int


PASSWORD, RENEWED, CHANGED = "the first", "the first, renewed", "the second"
FIRST, ANOTHERS = Token("first", 1), Token("another user's", 1)
START = Sessions(pk="user")
START.put(*FIRST, given=0)
ATTEMPTS = {"login": ("", "login"), "change": (CHANGED, "changed"), "deletion": ("", "")}
"""What each sets: a password, if another, and a session, if any. All but a login end the others."""


class Scene(NamedTuple):
    """How many events there are, who takes part, and what can happen."""

    events: int = 8
    tabs: int = 2
    is_shared: bool = False
    has_thief: bool = False
    logs_out: bool = False
    fails_over: bool = False
    times: tuple[int, ...] = (61,)
    attempts: tuple[str, ...] = ()


SCENES = {
    "one storage": Scene(is_shared=True, logs_out=True, times=(30, 61)),
    "two storages": Scene(logs_out=True, times=(30, 61)),
    "a thief": Scene(tabs=1, has_thief=True, logs_out=True, times=(30, 61)),
    "a clock": Scene(6, tabs=1, has_thief=True, times=(-1, -3600, 61, 15 * DAY)),
    "a failover": Scene(tabs=1, has_thief=True, fails_over=True),
    "a change": Scene(7, attempts=("change", "login")),
    "a deletion": Scene(7, attempts=("deletion", "login")),
    "several": Scene(logs_out=True, times=(), attempts=("deletion", "change", "login")),
}


class State(NamedTuple):
    """What is stored, what clients have, and what was promised so far."""

    tabs: tuple[Token, ...]
    attempts: tuple[str, ...]
    """The hash that each has verified; "" before that, and "heard" when it is over."""
    shared: Token = FIRST
    """What tabs find that share one storage."""
    stolen: Token = ANOTHERS
    password_hash: str = PASSWORD
    sessions_json: str = START.sessions_json
    now: int = 0
    went_back: bool = False
    failed_over: bool = False
    password: str = PASSWORD
    given: frozenset[tuple[Token, int]] = frozenset({(FIRST, 0)})
    """The tokens, each with the time when it was given first."""
    over: frozenset[str] = frozenset()
    """The sessions that have ended."""


def promised(state: State, token: Token) -> set[int]:
    """Return the numbers that a token may give; 0 means none, and that its session ends."""
    times, (session, number) = dict(state.given), token
    newest = max((each for each in times if each.session == session), default=token)
    if session in state.over or abs(state.now - times.get(newest, -inf)) >= SECONDS:
        return {0}
    replaced_at = times.get(Token(session, number + 1))
    if replaced_at is None:
        is_new = number > 1 and -2 <= state.now - times[token] < 60
        allowed = {number} if is_new else {number + 1}
        return allowed | ({number, number + 1} if state.failed_over else set())
    allowed = {number + 1} if -2 <= state.now - replaced_at < 60 else {0}
    if state.went_back and Token(session, number + 2) in times:
        allowed |= {0}
    return allowed | ({0, number, number + 1} if state.failed_over else set())


def give(state: State, token: Token) -> State:
    times = {token: state.now} | dict(state.given)
    return state._replace(given=frozenset(times.items()))


def replaced(items: tuple[T, ...], at: int, item: T) -> tuple[T, ...]:
    return tuple(item if each == at % len(items) else old for each, old in enumerate(items))


class Walk(NamedTuple):
    """Goes through a scene, with these rules."""

    scene: Scene
    rules: Rules

    def run(self) -> str:
        """Return the shortest way to a broken promise; empty if there is none."""
        start = State((FIRST,) * self.scene.tabs, ("",) * len(self.scene.attempts))
        seen, level = {start}, {start: ""}
        for _ in range(self.scene.events):
            following = {}
            for state, trace in level.items():
                for name, happen in self.events(state):
                    try:
                        after = happen()
                    except AssertionError as broken:
                        return f"{trace}{name}: {broken}"
                    if after not in seen:
                        seen.add(after)
                        following[after] = f"{trace}{name}; "
            level = following
        return ""

    def events(self, state: State) -> Iterator[tuple[str, Callable[[], State]]]:
        """Yield what can happen next."""
        scene = self.scene
        for seconds in scene.times:
            went_back = state.went_back or seconds < 0
            later = partial(state._replace, now=state.now + seconds, went_back=went_back)
            yield f"{seconds} s", later
        for tab, token in enumerate(state.tabs):
            yield f"tab {tab} refreshes", partial(self.refresh_tab, state, tab, is_heard=True)
            yield f"tab {tab} hears nothing", partial(self.refresh_tab, state, tab, is_heard=False)
            if scene.logs_out:
                yield f"tab {tab} logs out", partial(self.log_out, state, token)
            if scene.is_shared:
                found = replaced(state.tabs, tab, state.shared)
                yield f"tab {tab} looks", partial(state._replace, tabs=found)
        if scene.has_thief:
            yield "thief copies", partial(state._replace, stolen=state.tabs[0])
            yield "thief refreshes", partial(self.refresh_stolen, state)
            yield "thief logs out", partial(self.log_out, state, state.stolen)
        if scene.fails_over and not state.over:
            lost = START.sessions_json
            yield "failover", partial(state._replace, sessions_json=lost, failed_over=True)
        for at, (name, known_hash) in enumerate(zip(scene.attempts, state.attempts, strict=True)):
            if known_hash not in ("", "heard"):
                yield f"{name} is heard", partial(self.attempt, state, at, is_heard=True)
                yield f"{name} is not heard", partial(self.attempt, state, at, is_heard=False)
            elif not known_hash and state.password in (PASSWORD, name == "login" and CHANGED):
                verified = replaced(state.attempts, at, state.password_hash)
                yield f"{name} is verified", partial(state._replace, attempts=verified)

    def refresh(self, state: State, token: Token) -> tuple[State, Token]:
        asked = {"session_id": token.session, "number": token.number, "seconds": SECONDS}
        after, outcome = self.apply(state, self.rules.refresh, **asked)
        number = outcome.number if isinstance(outcome, sessions.Refreshed) else 0
        allowed = promised(state, token)
        assert number in allowed, f"number {token.number} gave {number}, not {allowed}"
        if not number:
            return after._replace(over=state.over | {token.session}), token
        return give(after, new := Token(token.session, number)), new

    def refresh_tab(self, state: State, tab: int, *, is_heard: bool) -> State:
        after, token = self.refresh(state, state.tabs[tab])
        heard = after._replace(tabs=replaced(state.tabs, tab, token), shared=token)
        return heard if is_heard else after

    def refresh_stolen(self, state: State) -> State:
        after, token = self.refresh(state, state.stolen)
        return after._replace(stolen=token)

    def log_out(self, state: State, token: Token) -> State:
        after, _ = self.apply(state, self.rules.end, session_id=token.session)
        return after._replace(over=state.over | {token.session})

    def attempt(self, state: State, at: int, *, is_heard: bool) -> State:
        name, known_hash = self.scene.attempts[at], state.attempts[at]
        (new_hash, session), ends_others = ATTEMPTS[name], name != "login"
        if name == "deletion":
            after, is_done = self.apply(state, self.rules.delete, known_hash=known_hash)
        else:
            new_hash = new_hash or known_hash.replace(PASSWORD, RENEWED)
            after, is_done = self.apply(
                state, self.rules.start, known_hash=known_hash, new_hash=new_hash,
                role=Role.USER, session_id=session, ends_others=ends_others,
            )  # fmt: skip
        is_known = state.password_hash in (known_hash, new_hash)
        stored = new_hash if is_known else state.password_hash
        assert (is_done, after.password_hash) == (is_known, stored), f"it returned {is_done}"
        if is_done and ends_others and state.password_hash == known_hash:
            over = state.over | {token.session for token, _ in state.given}
            after = after._replace(password=new_hash, over=over)
        if is_done and session:
            after = give(after, token := Token(session, 1))
            tabs = replaced(after.tabs, 0 if ends_others else -1, token)
            after = after._replace(tabs=tabs) if is_heard else after
        attempts = replaced(state.attempts, at, "heard" if is_heard else known_hash)
        return after._replace(attempts=attempts)

    def apply(self, state: State, rule: Rule, **arguments: object) -> tuple[State, Any]:
        """Apply a rule twice; return what is stored then, and the outcome."""
        user = User(pk="user", email="e", password_hash=state.password_hash)
        kept = Sessions(pk="user", sessions_json=state.sessions_json)
        records = (kept,) if rule is self.rules.end else (user, kept)
        outcome = rule(state.now, *records, **arguments)
        after = state._replace(password_hash=user.password_hash, sessions_json=kept.sessions_json)
        again = rule(state.now, *records, **arguments)
        both = (str(again), user.password_hash, kept.sessions_json)
        assert both == (str(outcome), after.password_hash, after.sessions_json), "twice is not once"
        return after, outcome
