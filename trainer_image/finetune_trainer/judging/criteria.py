"""JudgeCriteria: does an answer meet each of some sentences? One request per answer.

The reason comes before each yes or no, as in openai-evals' `cot_classify`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

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

_DUTY = (
    "You judge an answer to a task by criteria. Judge each criterion by itself, strictly by its words and by "
    "what the answer says. An answer need not be worded as the reference, which is one good answer."
)
_SHOWN = 300  # characters of a judge's reason
_ENTRY = object_schema({"reason": {"type": "string"}, "met": {"type": "boolean"}})


@dataclass(frozen=True)
class Decision:
    """Whether one criterion is met, and the judge's reason."""

    met: bool
    reason: str


def criteria_question(
    criteria: Sequence[str], task: str, reference: str, answer: str
) -> JudgeQuestion[tuple[Decision, ...]]:
    """The question about one answer, read as a decision for each criterion in their order; TooLong."""
    names = _names(criteria)
    listed = "\n".join(f"{name}: {sentence}" for name, sentence in zip(names, criteria, strict=True))
    asked = (
        f"The criteria for the answer:\n{listed}\n\nReply with one JSON object and nothing else. It has the "
        f"keys {', '.join(names)}, each once, and each of them has first `reason`, one sentence, and then "
        '`met`, true or false: {"c1": {"reason": "...", "met": true}, ...}'
    )
    texts = row_texts(task, reference, answer=answer)
    schema = object_schema(dict.fromkeys(names, _ENTRY))
    return JudgeQuestion(judge_messages(_DUTY, texts, asked), schema, lambda text: _read(text, names))


def criteria_grade(decisions: Sequence[Decision], criteria: Sequence[str]) -> Grade:
    """The share of criteria that are met; the reason names those that are not."""
    score = sum(decision.met for decision in decisions) / len(decisions)
    missed = [
        f"not met: {sentence} ({decision.reason[:_SHOWN]})"
        for decision, sentence in zip(decisions, criteria, strict=True)
        if not decision.met
    ]
    return scored(score, "; ".join(missed))


def _read(text: str, names: Sequence[str]) -> tuple[Decision, ...]:
    found = read_object(text)
    if found.keys() != set(names):
        raise Unusable(f"its reply does not name each of {', '.join(names)} once")
    return tuple(_decision(found[name], name) for name in names)


def _decision(entry: Any, name: str) -> Decision:
    if isinstance(entry, dict) and entry.keys() == {"reason", "met"}:
        reason, met = entry["reason"], entry["met"]
        if isinstance(reason, str) and isinstance(met, bool):
            return Decision(met, printable(reason))
    raise Unusable(f"its reply has no reason and no true or false for {name}")


def _names(criteria: Sequence[str]) -> list[str]:
    return [f"c{number}" for number in range(1, len(criteria) + 1)]
