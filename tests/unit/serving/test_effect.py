"""Telling an adapter that does something from one that does nothing."""

import pytest

from finetune_serving.agent.effect import Step, difference, is_silent_no_op

BASE = [Step("a", {"a": -0.5, "b": -1.0}), Step("c", {"c": -0.2, "d": -2.0})]
NOISY = [Step("a", {"a": -0.51, "b": -1.01}), Step("c", {"c": -0.21, "d": -2.01})]
TUNED = [Step("a", {"a": -0.9, "b": -0.6}), Step("c", {"c": -0.2, "d": -2.0})]


@pytest.mark.parametrize(
    ("again", "tuned", "no_op"),
    [
        pytest.param(BASE, BASE, True, id="the very same output"),
        pytest.param(BASE, TUNED, False, id="other probabilities, same tokens"),
        pytest.param(NOISY, NOISY, True, id="no more than the base's own noise"),
        pytest.param(NOISY, TUNED, False, id="more than the base's own noise"),
        pytest.param(BASE, [Step("z", {"z": -0.1})], False, id="nothing in common"),
        pytest.param(BASE, [Step("a", {"a": -0.50001, "b": -1.0}), BASE[1]], True, id="a rounding error"),
    ],
)
def test_is_silent_no_op(again: list[Step], tuned: list[Step], no_op: bool) -> None:
    assert is_silent_no_op(BASE, again, tuned) is no_op


def test_after_the_tokens_part_nothing_is_compared() -> None:
    parted = [Step("b", BASE[0].likeliest), Step("c", {"c": -9.0})]
    assert difference(BASE, parted) == 0.0
