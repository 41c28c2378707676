"""JudgePairwise: which of two answers is better? Asked in both orders, since judges prefer a position.

Only who wins in both orders wins; all else is a tie. Judges change their mind with the order in a fifth of
the pairs (arXiv 2406.07791), so the share that did is told.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from finetune_trainer.grading import Grade, scored
from finetune_trainer.judging.prompts import (
    JudgeQuestion,
    judge_messages,
    object_schema,
    read_object,
    row_texts,
)
from finetune_trainer.scoring.endpoint import Unusable
from finetune_trainer.words import printable

Winner = Literal["A", "B", "tie"]
_DUTY = (
    "You compare two answers to the same task, A and B, by criteria. Their order says nothing about them. "
    "Neither length nor confidence makes an answer better unless a criterion says so. If no answer is better "
    "by the criteria, it is a tie."
)
_WINNERS: tuple[Winner, ...] = ("A", "B", "tie")
_SCHEMA = object_schema({"reason": {"type": "string"}, "winner": {"type": "string", "enum": list(_WINNERS)}})
_SCORE_OF_B: dict[Winner, float] = {"A": 0.0, "B": 1.0, "tie": 0.5}  # the score of answer B
_SHOWN = 300  # characters of a judge's reason


@dataclass(frozen=True)
class Preference:
    """What the judge decided in one order, and its reason."""

    winner: Winner
    reason: str


@dataclass(frozen=True)
class PairGrade:
    """The grades of both models for one row; `flipped` when the order of the answers decided."""

    base: Grade
    tuned: Grade
    flipped: bool = False


def pairwise_question(
    criteria: Sequence[str], task: str, reference: str, first: str, second: str
) -> JudgeQuestion[Preference]:
    """The question which of two answers is better, in this order; TooLong."""
    listed = "\n".join(f"- {sentence}" for sentence in criteria)
    asked = (
        f"An answer is better by these criteria:\n{listed}\n\nReply with one JSON object and nothing else, "
        'first the reason, one sentence, then the winner, A, B or tie: {"reason": "...", "winner": "A"}'
    )
    texts = row_texts(task, reference, answer_A=first, answer_B=second)
    return JudgeQuestion(judge_messages(_DUTY, texts, asked), _SCHEMA, _read)


def pair_grade(base_first: Preference, tuned_first: Preference) -> PairGrade:
    """Both decisions as grades: 1 and 0 for who wins in both orders, else 0.5 for both."""
    tuned, again = _SCORE_OF_B[base_first.winner], 1 - _SCORE_OF_B[tuned_first.winner]
    if tuned != again:
        return _tie("the judge's choice changed with the order", flipped=True)
    reason = base_first.reason[:_SHOWN]
    return _tie(reason) if tuned == 0.5 else PairGrade(scored(1 - tuned, reason), scored(tuned, reason))


def equal_answers() -> PairGrade:
    """Two answers that do not differ are a tie that no judge has to be asked about."""
    return _tie("both models give the same answer")


def _tie(reason: str, *, flipped: bool = False) -> PairGrade:
    even = Grade(0.5, None, reason)  # neither passed nor failed
    return PairGrade(even, even, flipped)


def _read(text: str) -> Preference:
    found = read_object(text)
    winner, reason = _winner(found.get("winner")), found.get("reason")
    if found.keys() != {"reason", "winner"} or winner is None or not isinstance(reason, str):
        raise Unusable("its reply does not say a reason and A, B or tie")
    return Preference(winner, printable(reason))


def _winner(value: Any) -> Winner | None:
    return next((winner for winner in _WINNERS if winner == value), None)
