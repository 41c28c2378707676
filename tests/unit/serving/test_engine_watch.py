"""When an engine counts as up, and what a silent one gets as the benefit of the doubt."""

import pytest

from finetune_serving.agent.engine_client import Identity
from finetune_serving.agent.engine_watch import (
    SILENCES,
    Verdict,
    after_answer,
    after_hang,
    after_loss,
    after_silence,
)

UP = Verdict("one", up=True)


def silences(start: Verdict, count: int, *, heard: bool = False) -> Verdict:
    for _ in range(count):
        start = after_silence(start, "late", heard=heard)
    return start


@pytest.mark.parametrize(
    ("verdict", "up"),
    [
        pytest.param(after_answer(Verdict(), Identity("one", 3)), True, id="one that answers is up"),
        pytest.param(after_loss(UP, "refused"), False, id="one whose socket refuses is down at once"),
        pytest.param(after_silence(UP, "late", heard=False), True, id="one late answer is no loss"),
        pytest.param(silences(UP, SILENCES), False, id="three questions without a byte are"),
        pytest.param(silences(UP, 99, heard=True), True, id="one that sends bytes to clients is only busy"),
        pytest.param(
            after_answer(silences(UP, 99), Identity("one", 3)), True, id="one that answers again is up again"
        ),
        pytest.param(silences(after_loss(UP, "gone"), 1), False, id="silence brings nobody back"),
        pytest.param(silences(Verdict(), 1), False, id="one that never answered is not up"),
        pytest.param(
            after_answer(after_hang(UP, 600), Identity("one", 3)), False, id="one that hangs stays down"
        ),
        pytest.param(
            after_answer(after_hang(UP, 600), Identity("two", 3)), True, id="until another process answers"
        ),
    ],
)
def test_verdict(verdict: Verdict, up: bool) -> None:
    assert verdict.up is up


def test_a_sign_of_life_starts_the_count_again() -> None:
    seen = silences(silences(silences(UP, SILENCES - 1), 1, heard=True), SILENCES - 1)
    assert seen.up
