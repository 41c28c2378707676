"""When a better prompt does what training does."""

import pytest

from finetune_trainer.gate.rivals import best_rival, prompt_alone
from finetune_trainer.gate.statistics import Interval


def around(score: float) -> Interval:
    """An interval of ten points."""
    return Interval(score, score - 0.05, score + 0.05)


BASE, TUNED = around(0.3), around(0.7)


@pytest.mark.parametrize(
    ("rivals", "best"),
    [
        pytest.param({}, None, id="none was asked for"),
        pytest.param({"shots": 0.3, "words": 0.2}, None, id="none is better than the plain prompt"),
        pytest.param({"shots": 0.4, "words": 0.5}, "words", id="the one with the highest score"),
    ],
)
def test_the_best_prompt_is_one_that_beats_the_plain_one(rivals: dict[str, float], best: str | None) -> None:
    assert best_rival(BASE, {name: around(score) for name, score in rivals.items()}) == best


@pytest.mark.parametrize(
    ("rival", "said"),
    [
        pytest.param(0.64, False, id="below the tuned model's interval"),
        pytest.param(0.66, True, id="within it"),
        pytest.param(0.9, True, id="above it"),
    ],
)
def test_a_prompt_may_be_enough_where_it_reaches_the_tuned_models_interval(rival: float, said: bool) -> None:
    assert (prompt_alone(BASE, TUNED, {"shots": around(rival), "weak": around(0.2)}) is not None) is said


def test_the_sentence_has_the_prompt_and_its_score_with_the_interval() -> None:
    assert prompt_alone(BASE, TUNED, {"shots": around(0.7)}) == (
        "With the prompt shots the base alone scores 70.0 % [65.0, 75.0], not clearly less than the tuned model: "
        "the prompt may be enough."
    )


def test_a_prompt_no_better_than_the_plain_one_is_not_enough_where_training_did_nothing() -> None:
    assert prompt_alone(BASE, BASE, {"shots": around(0.29)}) is None


def test_nothing_is_said_of_a_tuned_model_that_could_not_be_graded() -> None:
    assert prompt_alone(BASE, None, {"shots": around(0.7)}) is None
