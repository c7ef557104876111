"""The protocol model holds in its smaller scenes, and fails when any one rule is broken.

The whole walk is the command `python -m tests.protocol_model`, which takes minutes.
"""

import pytest

from tests import protocol_model
from tests.protocol_model import SCENE_OF, walk

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


def test_a_name_that_is_not_a_rule_is_an_error() -> None:
    with pytest.raises(SystemExit) as exit_:
        protocol_model.main(["no-such-rule"])
    assert exit_.value.code == 2


def test_a_broken_rule_is_shown_with_a_shortest_trace(capsys: pytest.CaptureFixture[str]) -> None:
    assert protocol_model.main(["place-unnoted"]) == 1
    lines = capsys.readouterr().out.splitlines()[2:]
    assert [line.split("(")[0].strip() for line in lines] == ["A claim", "A note", "A send"]
