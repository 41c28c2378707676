"""Which rows of an evaluation a person should read, the worst first, and how they are shown."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any, get_args

from finetune_trainer.data.corpus.related import Related
from finetune_trainer.data.findings import Finding
from finetune_trainer.evaluation.document import (
    Answers,
    Cut,
    GradedAnswer,
    Outcome,
    RelatedRow,
    RowFinding,
    ShownRow,
)
from finetune_trainer.evaluation.pairs import Pair
from finetune_trainer.scoring.rows import GradedRow

OUTCOMES: tuple[Outcome, ...] = get_args(Outcome)
SHOWN = 100  # rows of each outcome; the traces have all
_CHARACTERS = 1500  # of a text, half of them from its end


@dataclass(frozen=True)
class Timed:
    """How long one answer took and how it ended."""

    seconds: float | None
    tokens: int
    finish: str | None


@dataclass(frozen=True)
class Judged:
    """What is kept of every row while all are looked at: little, since a row may be large."""

    place: int
    outcome: Outcome
    delta: float
    base: Timed
    tuned: Timed


def judge(pairs: Iterable[Pair], primary: str) -> list[Judged]:
    """One pass over all rows."""
    return [_judged(place, pair, primary) for place, pair in enumerate(pairs)]


def outcome_of(base: float | None, tuned: float | None, passed: bool | None) -> Outcome:
    """How a row went by its scores; `passed` is the tuned model's."""
    if base is None or tuned is None:
        return "ungraded"
    if tuned != base:
        return "win" if tuned > base else "loss"
    if passed is None:
        return "tie"
    return "right" if passed else "wrong"


def counts(rows: Sequence[Judged]) -> dict[Outcome, int]:
    """How many rows went how."""
    counted = Counter(row.outcome for row in rows)
    return {outcome: counted[outcome] for outcome in OUTCOMES}


def answers(rows: Sequence[Timed]) -> Answers:
    """The figures about the answers of one model."""
    given = [row for row in rows if row.finish is not None]
    seconds = sorted(row.seconds for row in given if row.seconds is not None)
    return Answers(
        seconds=seconds[len(seconds) // 2] if seconds else None,
        slow_seconds=seconds[(len(seconds) - 1) * 95 // 100] if seconds else None,
        tokens=sum(row.tokens for row in given) / max(len(given), 1),
        cut=sum(row.finish == "length" for row in given),
    )


def worst(rows: Sequence[Judged]) -> list[Judged]:
    """The rows to show: of each outcome the first, what lost most before what lost least."""
    ordered = sorted(rows, key=lambda row: (OUTCOMES.index(row.outcome), row.delta, row.place))
    return [row for _, alike in groupby(ordered, lambda row: row.outcome) for row in list(alike)[:SHOWN]]


def shown(
    pairs: Iterable[Pair],
    chosen: Sequence[Judged],
    primary: str,
    related: Mapping[str, Related],
    findings: Sequence[Finding],
) -> tuple[ShownRow, ...]:
    """The chosen rows in their order, read in a second pass with their texts cut."""
    wanted = {row.place: row.outcome for row in chosen}
    found = {
        place: _shown(pair, wanted[place], primary, related.get(pair.question.id), findings)
        for place, pair in enumerate(pairs)
        if place in wanted
    }
    return tuple(found[row.place] for row in chosen)


def cut(text: str) -> Cut:
    """A text without the middle of what is too long for a page."""
    left_out = len(text) - _CHARACTERS
    if left_out <= 0:
        return Cut(head=text)
    half = _CHARACTERS // 2
    return Cut(head=text[:half], tail=text[-half:], left_out=left_out)


def _judged(place: int, pair: Pair, primary: str) -> Judged:
    base, tuned = pair.base.score(primary), pair.tuned.score(primary)
    outcome = outcome_of(base, tuned, pair.tuned.grades[primary].passed)
    delta = 0.0 if base is None or tuned is None else tuned - base
    return Judged(place, outcome, delta, _timed(pair.base), _timed(pair.tuned))


def _timed(row: GradedRow) -> Timed:
    return Timed(row.seconds, row.tokens, row.finish)


def _shown(
    pair: Pair, outcome: Outcome, primary: str, related: Related | None, findings: Sequence[Finding]
) -> ShownRow:
    return ShownRow(
        id=pair.question.id,
        row=related.row if related else None,
        group=pair.question.group,
        outcome=outcome,
        prompt=cut("\n\n".join(map(_message, pair.question.prompt.messages))),
        reference=cut(pair.question.reference),
        base=_answer(pair.base, primary),
        tuned=_answer(pair.tuned, primary),
        related=_nearest(related) if related else (),
        findings=_about(related, findings) if related else (),
    )


def _nearest(related: Related) -> tuple[RelatedRow, ...]:
    return tuple(RelatedRow(row=row, similarity=alike) for row, alike in related.train)


def _message(message: Mapping[str, Any]) -> str:
    said = message.get("content") or message.get("tool_calls") or ""
    return f"{message['role']}: {said}"


def _answer(row: GradedRow, primary: str) -> GradedAnswer:
    grade = row.grades[primary]
    return GradedAnswer(
        output=None if row.output is None else cut(row.output), score=grade.score, reason=grade.reason
    )


def _about(related: Related, findings: Sequence[Finding]) -> tuple[RowFinding, ...]:
    """The findings that name the row itself or a training row like it."""
    named = {"holdout": {related.row}, "train": {row for row, _ in related.train}}
    links = (
        RowFinding(
            rule=item.rule,
            number=item.number,
            dataset=item.dataset,
            rows=tuple(row for row in item.rows if row in named.get(item.dataset, ())),
        )
        for item in findings
    )
    return tuple(link for link in links if link.rows)
