"""An executable model of sessions: the real rules, in every order of what people do.

An owner has one or two tabs, which share one storage of tokens or have each their own, and a thief
copies a token. Responses are lost, time passes or goes back, and a failover loses all rotations.
Tabs and the thief log out; an attempt with a password verifies the hash first and applies its rule
later, perhaps twice. Each rule is applied twice at once too: that must be as good as once.

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


PASSWORD, RENEWED = "the first", "the first, renewed"
FIRST, ANOTHERS = Token("first", 1), Token("another user's", 1)
START = Sessions(pk="user")
START.put(*FIRST, given=0)

ATTEMPTS = {
    "change": ("the second", "changed"),
    "settings": ("of the settings", "settings"),
    "login": ("", "login"),
    "deletion": ("", ""),
}
"""What an attempt sets: the password, unless that stays, and the session that it starts, if any.
All but a login end the others."""


class Attempt(NamedTuple):
    known_hash: str = ""
    stage: str = "new"


class Scene(NamedTuple):
    """How many events there are, who takes part, and what can happen."""

    events: int
    tabs: int = 2
    is_shared: bool = False
    has_thief: bool = False
    logs_out: bool = False
    fails_over: bool = False
    times: tuple[int, ...] = (61,)
    attempts: tuple[str, ...] = ()


SCENES = {
    "one storage": Scene(8, is_shared=True, logs_out=True, times=(30, 61)),
    "two storages": Scene(8, logs_out=True, times=(30, 61)),
    "a thief": Scene(8, tabs=1, has_thief=True, logs_out=True, times=(30, 61)),
    "a clock": Scene(7, tabs=1, has_thief=True, times=(-1, -3600, 61, 15 * DAY)),
    "a failover": Scene(9, tabs=1, has_thief=True, fails_over=True),
    "a change": Scene(8, attempts=("change", "login")),
    "new settings": Scene(8, attempts=("settings", "change")),
    "a deletion": Scene(8, attempts=("deletion", "login")),
    "several": Scene(8, logs_out=True, times=(), attempts=("deletion", "change", "login")),
}


class State(NamedTuple):
    """What is stored, what clients have, and what was promised so far."""

    tabs: tuple[Token, ...]
    attempts: tuple[Attempt, ...]
    stored: Token = FIRST
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
    is_new = token not in dict(state.given)
    return state._replace(given=state.given | {(token, state.now)}) if is_new else state


def replaced(items: tuple[T, ...], at: int, item: T) -> tuple[T, ...]:
    changed = list(items)
    changed[at] = item
    return tuple(changed)


class Walk:
    """Goes through a scene, with these rules."""

    def __init__(self, scene: Scene, rules: Rules) -> None:
        self.scene, self.rules = scene, rules

    def run(self) -> str:
        """Return the shortest way to a broken promise; empty if there is none."""
        start = State((FIRST,) * self.scene.tabs, (Attempt(),) * len(self.scene.attempts))
        seen, level = {start}, {start: ""}
        for _ in range(self.scene.events):
            following = {}
            for state, trace in level.items():
                for name, happen in self.events(state):
                    try:
                        after = happen()
                        stored = after.password_hash.replace(RENEWED, PASSWORD)
                        assert stored == after.password, f"the password is {stored!r}"
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
            yield f"tab {tab} refreshes", partial(self.refresh_tab, state, tab)
            yield f"tab {tab} hears nothing", partial(self.refresh_tab, state, tab, False)
            if scene.logs_out:
                yield f"tab {tab} logs out", partial(self.log_out, state, token)
            if scene.is_shared:
                found = replaced(state.tabs, tab, state.stored)
                yield f"tab {tab} looks", partial(state._replace, tabs=found)
        if scene.has_thief:
            yield "thief refreshes", partial(self.refresh_stolen, state)
            yield "thief logs out", partial(self.log_out, state, state.stolen)
            yield "thief copies", partial(state._replace, stolen=state.tabs[0])
        if scene.fails_over and not state.over:
            lost = START.sessions_json
            yield "failover", partial(state._replace, sessions_json=lost, failed_over=True)
        for at, (name, attempt) in enumerate(zip(scene.attempts, state.attempts, strict=True)):
            knows = name in ("login", "settings") or state.password == PASSWORD
            if attempt.stage == "new" and state.password and knows:
                verified = Attempt(state.password_hash, "verified")
                attempts = replaced(state.attempts, at, verified)
                yield f"{name} is verified", partial(state._replace, attempts=attempts)
            if attempt.stage == "verified":
                yield f"{name} is lost", partial(self.attempt, state, at, "lost")
            if attempt.stage in ("verified", "lost"):
                yield f"{name} is done", partial(self.attempt, state, at, "done")

    def refresh(self, state: State, token: Token) -> tuple[State, Token]:
        asked = {"session_id": token.session, "number": token.number, "seconds": SECONDS}
        after, outcome = self.apply(state, self.rules.refresh, **asked)
        number = outcome.number if isinstance(outcome, sessions.Refreshed) else 0
        allowed = promised(state, token)
        assert number in allowed, f"number {token.number} gave {number}, not {allowed}"
        if not number:
            return after._replace(over=state.over | {token.session}), token
        return give(after, new := Token(token.session, number)), new

    def refresh_tab(self, state: State, tab: int, is_heard: bool = True) -> State:
        after, token = self.refresh(state, state.tabs[tab])
        heard = after._replace(tabs=replaced(state.tabs, tab, token), stored=token)
        return heard if is_heard else after

    def refresh_stolen(self, state: State) -> State:
        after, token = self.refresh(state, state.stolen)
        return after._replace(stolen=token)

    def log_out(self, state: State, token: Token) -> State:
        after, _ = self.apply(state, self.rules.end, session_id=token.session)
        return after._replace(over=state.over | {token.session})

    def attempt(self, state: State, at: int, stage: str) -> State:
        """Apply the rule of an attempt; if its response was lost, for the second time."""
        name, (known_hash, before) = self.scene.attempts[at], state.attempts[at]
        password, session = ATTEMPTS[name]
        new_hash = password
        if name == "deletion":
            after, is_done = self.apply(state, self.rules.delete, known_hash=known_hash)
        else:
            new_hash = password or known_hash.replace(PASSWORD, RENEWED)
            after, is_done = self.apply(
                state, self.rules.start, known_hash=known_hash, new_hash=new_hash,
                role=Role.USER, session_id=session, ends_others=name != "login",
            )  # fmt: skip
        expected_hash = known_hash if before == "verified" else new_hash
        assert is_done == (state.password_hash == expected_hash), f"it returned {is_done}"
        if not is_done:
            stage = "new" if before == "verified" else "done"
        elif before == "verified" and name != "login":
            over = state.over | {token.session for token, _ in state.given}
            after = after._replace(password=password, over=over)
        attempts = replaced(state.attempts, at, Attempt(known_hash, stage))
        after = after._replace(attempts=attempts)
        if not is_done or not session:
            return after
        after = give(after, token := Token(session, 1))
        tab = -1 if name == "login" else 0
        return after._replace(tabs=replaced(after.tabs, tab, token)) if stage == "done" else after

    def apply(self, state: State, rule: Rule, **arguments: object) -> tuple[State, Any]:
        """Apply a rule twice; return what is stored then, and the outcome."""
        user = User(pk="user", email="e", password_hash=state.password_hash)
        kept = Sessions(pk="user", sessions_json=state.sessions_json)
        records = (kept,) if rule is self.rules.end else (user, kept)
        outcome = rule(state.now, *records, **arguments)
        after = state._replace(password_hash=user.password_hash, sessions_json=kept.sessions_json)
        again = rule(state.now, *records, **arguments)
        both = (user.password_hash, kept.sessions_json)
        assert both == (after.password_hash, after.sessions_json), "twice is not once"
        assert str(again) == str(outcome), "twice returns something else"
        return after, outcome
