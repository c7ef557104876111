"""The rules of sessions keep what is promised, in every order; each broken rule is found."""

from collections.abc import Callable
from math import inf
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import pytest

from shopsphere.domain import sessions
from tests.session_model import SCENES, Rules, Walk

Choice = Callable[[Any], Any]
"""Goes by the arguments of a rule, the user, and the newest number of the session."""


def broken(
    scene: str, name: str, *, grace: float = 60, gives: Choice = lambda _: 0,
    leaves: Choice = lambda it: it.after, **arguments: Choice,
) -> tuple[str, Rules]:  # fmt: skip
    """Return a scene, and rules of which this one gets other arguments, leaves other sessions
    behind, or gives a number that is not its own."""
    rule = getattr(Rules(), name)

    def instead(now: float, *records: Any, **named: Any) -> object:
        kept = records[-1]
        newest, given = kept.all().get(named.get("session_id"), (0, 0.0))
        it = SimpleNamespace(now=now, user=records[0], newest=newest, given=given, **named)
        it.before = kept.sessions_json
        if number := gives(it):
            kept.put(it.session_id, number, given if number == newest else now)
            return sessions.Refreshed(number, it.user.role)
        named |= {"now": now} | {name: choose(it) for name, choose in arguments.items()}
        with patch.object(sessions, "GRACE_SECONDS", grace):
            it.outcome = rule(named.pop("now"), *records, **named)
        it.after = kept.sessions_json
        kept.sessions_json = leaves(it)
        return it.outcome

    return scene, Rules()._replace(**{name: instead})


def stored_hash(it: Any) -> str:
    return str(it.user.password_hash)


def unless_refused(it: Any) -> str:
    return str(it.before if isinstance(it.outcome, Exception) else it.after)


BROKEN = {
    "no grace": broken("two storages", "refresh", grace=0),
    "grace for ever": broken("a thief", "refresh", grace=inf),
    "a used token is replaced again": broken(
        "two storages", "refresh", gives=lambda it: 0 < it.number == it.newest - 1 and it.newest + 1
    ),
    "the newest token is replaced at once": broken(
        "two storages", "refresh", gives=lambda it: it.number == it.newest > 0 and it.newest + 1
    ),
    "a login counts as a rotation": broken(
        "one storage", "refresh", gives=lambda it: int(it.number == it.newest == 1)
    ),
    "a session begins again": broken(
        "one storage", "refresh", gives=lambda it: not it.newest and it.number + 1
    ),
    "reuse ends nothing": broken("a thief", "refresh", leaves=unless_refused),
    "the future is recent": broken("a clock", "refresh", now=lambda it: max(it.now, it.given)),
    "no limit of days": broken("a clock", "refresh", seconds=lambda _: inf),
    "a lost number is refused": broken(
        "a failover", "refresh", number=lambda it: it.number if it.number <= it.newest else -1
    ),
    "a lost number is given": broken(
        "a failover", "refresh", number=lambda it: min(it.number, it.newest)
    ),
    "a logout ends nothing": broken("one storage", "end", leaves=lambda it: it.before),
    "a logout ends all sessions": broken("several", "end", leaves=lambda _: ""),
    "a login ends the others": broken("a change", "start", ends_others=lambda _: True),
    "a change keeps the others": broken("a change", "start", ends_others=lambda _: False),
    "a change ends all sessions": broken("a change", "start", leaves=lambda _: ""),
    "a change does not know itself": broken(
        "a change",
        "start",
        session_id=lambda it: it.session_id + "'" * (it.session_id in it.before),
    ),
    "a login brings the old password back": broken("a change", "start", known_hash=stored_hash),
    "a login brings the user back": broken("a deletion", "start", known_hash=stored_hash),
    "a deletion keeps sessions": broken("a deletion", "delete", leaves=lambda it: it.before),
    "a deletion goes by an old password": broken("several", "delete", known_hash=stored_hash),
}


@pytest.mark.parametrize("scene", SCENES)
def test_the_rules_keep_what_is_promised_in_every_order(scene: str) -> None:
    assert not Walk(SCENES[scene], Rules()).run()


@pytest.mark.parametrize("rule", BROKEN)
def test_breaking_a_rule_is_found(rule: str) -> None:
    scene, rules = BROKEN[rule]
    assert Walk(SCENES[scene], rules).run()
