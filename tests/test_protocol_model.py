"""The protocol model holds in its smaller scenes, and fails when any one rule is broken.

The whole walk is the command `python -m tests.protocol_model`, which takes minutes.
"""

import pytest

from tests import protocol_model
from tests.protocol_model import (
    PLACED,
    RECORD,
    SCENE_OF,
    SCENES,
    TOLD_PLACED,
    TOLD_REFUSED,
    A,
    Walk,
    walk,
)

SMALL_SCENES = (
    "a retry, one unit",
    "a rival for Y",
    "a rival, nothing fails",
    "cancelled, two settlers",
    "two retries after a crash",
)


@pytest.mark.parametrize("scene", SMALL_SCENES)
def test_every_interleaving_of_a_small_scene_is_consistent(scene: str) -> None:
    result = walk(scene)
    assert not result.failure, "\n".join([result.failure, *result.trace])


@pytest.mark.parametrize("rule", SCENE_OF)
def test_breaking_a_rule_is_found(rule: str) -> None:
    assert walk(SCENE_OF[rule], rule).failure


def test_a_response_that_the_record_contradicts_is_a_failure() -> None:
    scene = Walk(SCENES["a retry, one unit"], frozenset())
    state = bytearray(scene.first_state())
    assert not scene.failure_in(state)
    state[TOLD_PLACED] = 1 << A
    assert scene.failure_in(state) == "an order got a 201, and is not there"
    state[RECORD + A] = PLACED
    state[TOLD_REFUSED] = 1 << A
    assert scene.failure_in(state) == "an order was refused, and is placed"


def test_a_name_that_is_not_a_rule_is_an_error(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ValueError, match="unknown rule: no-such-rule"):
        walk("a rival, nothing fails", "no-such-rule")
    with pytest.raises(SystemExit) as exit_:
        protocol_model.main(["no-such-rule"])
    assert exit_.value.code == 2
    assert "unknown rule: no-such-rule" in capsys.readouterr().err


def test_a_broken_rule_is_shown_with_a_shortest_trace(capsys: pytest.CaptureFixture[str]) -> None:
    assert protocol_model.main(["place-unnoted"]) == 1
    claim, note, reserve = capsys.readouterr().out.splitlines()[1:]
    assert "A claim" in claim
    assert "A note" in note
    assert "X of a: held" in reserve
