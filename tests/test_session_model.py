"""The rules of sessions keep what is promised, in every order; each broken rule is found."""

from collections.abc import Callable
from math import inf
from types import SimpleNamespace
from typing import Any

import pytest

from shopsphere.domain import sessions
from tests.session_model import SCENES, Rule, Rules, Walk

refresh, start, end, delete = Rules()
Choice = Callable[[Any], Any]
"""Goes by the arguments of a rule, the user, and the newest number of the session."""


def arguments(now: float, records: Any, named: dict[str, Any]) -> Any:
    newest, given = records[-1].all().get(named.get("session_id"), (0, 0.0))
    return SimpleNamespace(now=now, user=records[0], newest=newest, given=given, **named)


def going_by(rule: Rule, **choices: Choice) -> Rule:
    """Return the rule with other arguments."""

    def broken(now: float, *records: Any, **named: Any) -> object:
        it = arguments(now, records, named)
        chosen = {"now": now, **named} | {name: choose(it) for name, choose in choices.items()}
        return rule(chosen.pop("now"), *records, **chosen)

    return broken


def leaving(rule: Rule, choose: Callable[[str, str, object], str]) -> Rule:
    """Return the rule, but the sessions are these after it; it chooses by what they were before
    and after it, and by the outcome."""

    def broken(now: float, *records: Any, **named: Any) -> object:
        before = records[-1].sessions_json
        outcome = rule(now, *records, **named)
        records[-1].sessions_json = choose(before, records[-1].sessions_json, outcome)
        return outcome

    return broken


def giving(choose: Choice) -> Rules:
    """Return a refresh that gives this number, unless it is 0."""

    def broken(now: float, *records: Any, **named: Any) -> object:
        it = arguments(now, records, named)
        if not (number := choose(it)):
            return refresh(now, *records, **named)
        records[-1].put(it.session_id, number, it.given if number == it.newest else now)
        return sessions.Refreshed(number, it.user.role)

    return Rules(refresh=broken)


def with_grace(seconds: float) -> Rules:
    def broken(*records: Any, **named: Any) -> object:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(sessions, "GRACE_SECONDS", seconds)
            return refresh(*records, **named)

    return Rules(refresh=broken)


def refreshing(**choices: Choice) -> Rules:
    return Rules(refresh=going_by(refresh, **choices))


def starting(**choices: Choice) -> Rules:
    return Rules(start=going_by(start, **choices))


BROKEN = {
    "one storage": {
        "grace lasts a moment longer": with_grace(61),
        "a login counts as a rotation": giving(lambda it: int(it.number == it.newest == 1)),
        "a session begins again": giving(lambda it: 0 if it.newest else it.number + 1),
        "old tokens work": refreshing(number=lambda it: max(it.number, it.newest - 1)),
        "a logout ends nothing": Rules(end=leaving(end, lambda before, *_: before)),
    },
    "two storages": {
        "no grace": with_grace(0),
        "a used token is replaced again": giving(
            lambda it: it.newest + 1 if 0 < it.number == it.newest - 1 else 0
        ),
        "the newest token is replaced at once": giving(
            lambda it: it.newest + 1 if it.number == it.newest > 0 else 0
        ),
    },
    "a thief": {
        "grace for ever": with_grace(inf),
        "reuse ends nothing": Rules(
            leaving(
                refresh, lambda before, after, it: before if isinstance(it, Exception) else after
            )
        ),
    },
    "a clock": {
        "the future is recent": refreshing(now=lambda it: max(it.now, it.given)),
        "the near future is over": refreshing(
            now=lambda it: it.given - 3 if it.now == it.given - 1 else it.now
        ),
        "no limit of days": refreshing(seconds=lambda _: inf),
    },
    "a failover": {
        "a lost number is refused": refreshing(
            number=lambda it: it.number if it.number <= it.newest else -1
        ),
        "a lost number is given": refreshing(number=lambda it: min(it.number, it.newest)),
    },
    "a change": {
        "a login ends all others": starting(ends_others=lambda _: True),
        "a change keeps the others": starting(ends_others=lambda _: False),
        "a change ends all sessions": Rules(start=leaving(start, lambda *_: "")),
        "a login brings the old password back": starting(
            known_hash=lambda it: it.user.password_hash
        ),
        "a change does not know itself": starting(
            new_hash=lambda it: it.new_hash if it.user.password_hash == it.known_hash else ""
        ),
    },
    "new settings": {
        "new settings keep sessions": starting(ends_others=lambda it: it.session_id != "settings"),
    },
    "a deletion": {
        "a deletion keeps sessions": Rules(delete=leaving(delete, lambda before, *_: before)),
        "a login brings the user back": starting(known_hash=lambda it: it.user.password_hash),
    },
    "several": {
        "a logout ends all sessions": Rules(end=leaving(end, lambda *_: "")),
        "a deletion goes by an old password": Rules(
            delete=going_by(delete, known_hash=lambda it: it.user.password_hash)
        ),
    },
}


@pytest.mark.parametrize("scene", SCENES)
def test_the_rules_keep_what_is_promised_in_every_order(scene: str) -> None:
    assert not Walk(SCENES[scene], Rules()).run()


@pytest.mark.parametrize(
    ("scene", "rules"),
    [
        pytest.param(scene, rules[name], id=name)
        for scene, rules in BROKEN.items()
        for name in rules
    ],
)
def test_breaking_a_rule_is_found(scene: str, rules: Rules) -> None:
    assert Walk(SCENES[scene], rules).run()
