"""Telling an adapter that does something from one that does nothing."""

import pytest

from finetune_serving.agent.effect import Step, difference, differs, is_same

BASE = [Step("a", {"a": -0.5, "b": -1.0}), Step("c", {"c": -0.2, "d": -2.0})]
NOISY = [Step("a", {"a": -0.51, "b": -1.01}), Step("c", {"c": -0.21, "d": -2.01})]
TUNED = [Step("a", {"a": -0.9, "b": -0.6}), Step("c", {"c": -0.2, "d": -2.0})]


@pytest.mark.parametrize(
    ("again", "tuned", "effect", "same"),
    [
        pytest.param(BASE, BASE, False, True, id="the very same output"),
        pytest.param(BASE, TUNED, True, False, id="other probabilities, same tokens"),
        pytest.param(NOISY, NOISY, False, False, id="no more than the base's own noise: nobody can tell"),
        pytest.param(NOISY, TUNED, True, False, id="more than the base's own noise"),
        pytest.param(BASE, [Step("z", {"z": -0.1})], True, False, id="nothing in common"),
        pytest.param(
            BASE, [Step("a", {"a": -0.50001, "b": -1.0}), BASE[1]], False, True, id="a rounding error"
        ),
    ],
)
def test_an_effect(again: list[Step], tuned: list[Step], effect: bool, same: bool) -> None:
    assert (differs(BASE, again, tuned), is_same(BASE, tuned)) == (effect, same)


def test_after_the_tokens_part_nothing_is_compared() -> None:
    parted = [Step("b", BASE[0].likeliest), Step("c", {"c": -9.0})]
    assert difference(BASE, parted) == 0.0
