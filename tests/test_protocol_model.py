"""The protocol model holds in its smaller scenes, and fails when any one rule is broken.

The whole walk is the command `python -m tests.protocol_model`, which takes minutes.
"""

import pytest

from tests import protocol_model
from tests.protocol_model import BROKEN, SCENES, Scene, Walk

SMALL_SCENES = (
    Scene("AB", enough=True),
    SCENES["nothing fails"],
    Scene("ACS"),
    Scene("BR", (3, 3), claimed=True),
)


@pytest.mark.parametrize("scene", SMALL_SCENES, ids=lambda scene: scene.processes)
def test_every_interleaving_of_a_small_scene_is_consistent(scene: Scene) -> None:
    result = Walk(scene).run()
    assert not result.failure, "\n".join([result.failure, *result.trace])


@pytest.mark.parametrize("rule", BROKEN)
def test_breaking_a_rule_is_found(rule: str) -> None:
    assert Walk(SCENES[BROKEN[rule][0]], rule).run().failure


def test_a_broken_rule_is_shown_with_a_shortest_trace(capsys: pytest.CaptureFixture[str]) -> None:
    assert protocol_model.main(["place-unnoted"]) == 1
    lines = capsys.readouterr().out.splitlines()[1:]
    assert [line.split("(")[0].strip() for line in lines] == ["A bind", "A note", "A send"]
