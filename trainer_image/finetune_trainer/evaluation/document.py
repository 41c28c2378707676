"""The part of report.json that an evaluation adds; scores and margins are fractions, not per cent."""

from typing import Literal

from pydantic import Field, FiniteFloat, NonNegativeInt

from finetune_trainer.contracts.document import Document

# How a row went by the primary grader: worse than the base, better, as wrong or as right as before,
# or neither of two answers is the better one.
Outcome = Literal["loss", "ungraded", "wrong", "tie", "win", "right"]


class Score(Document):
    """A mean with its 95 % interval."""

    score: FiniteFloat
    low: FiniteFloat
    high: FiniteFloat


class GraderScores(Document):
    """The means by one grader; null where it could grade no row."""

    name: str
    primary: bool
    base: FiniteFloat | None
    tuned: FiniteFloat | None


class Margin(Document):
    """A mean difference, tuned - base, that must not lie below -`margin`; `low` is its lower bound.

    `name` is a secondary grader's or a regression suite's, which has `rows`.
    """

    name: str
    rows: NonNegativeInt | None = None
    base: FiniteFloat | None = None
    tuned: FiniteFloat | None = None
    delta: FiniteFloat
    low: FiniteFloat
    margin: FiniteFloat
    holds: bool


class Answers(Document):
    """The answers of one model: latencies in seconds, `tokens` is a mean, `cut` counts those at maxTokens."""

    seconds: FiniteFloat | None
    slow_seconds: FiniteFloat | None
    tokens: FiniteFloat
    cut: NonNegativeInt


class Cut(Document):
    """A text of the page; `left_out` characters are missing from its middle."""

    head: str
    tail: str = ""
    left_out: NonNegativeInt = 0


class GradedAnswer(Document):
    """What a model answered and what the primary grader said; without an output `reason` says why."""

    output: Cut | None
    score: FiniteFloat | None
    reason: str


class RelatedRow(Document):
    """A training row whose input resembles that of a hold-out row, by estimated Jaccard similarity."""

    row: int
    similarity: FiniteFloat


class RowFinding(Document):
    """A finding of prepare that names a hold-out row, or training rows that are related to it."""

    rule: str
    number: int
    dataset: str
    rows: tuple[int, ...]


class ShownRow(Document):
    """A row of the page; `row` is its number in the hold-out where prepare recorded it."""

    id: str
    row: int | None
    group: str | None
    outcome: Outcome
    prompt: Cut
    reference: Cut
    base: GradedAnswer
    tuned: GradedAnswer
    related: tuple[RelatedRow, ...] = ()
    findings: tuple[RowFinding, ...] = ()


class Curves(Document):
    """Loss and learning rate of every optimizer step, or of every `stride` steps (the loss as their mean)."""

    stride: int = 1
    loss: tuple[FiniteFloat, ...]
    learning_rate: tuple[FiniteFloat, ...]


class Spent(Document):
    """What the last attempt of the training took; the cost is null without a price."""

    seconds: FiniteFloat
    gpus: NonNegativeInt
    cost: FiniteFloat | None
    currency: str | None


class Judge(Document):
    """What the judge was asked and took; `flip_rate` is the share of pairs judged otherwise when swapped."""

    requests: NonNegativeInt
    cost: FiniteFloat | None = None
    currency: str | None = None
    flip_rate: FiniteFloat | None = None


class Evaluation(Document):
    """How base and tuned model did on the hold-out. `promoted` and `accepted` are null before publishing.

    `rivals` are the base's scores there with other prompts, by their names; `prompt_alone` says so where one
    of them may do without training. `outcomes` counts all rows, `shown` are some of them, the worst first.
    """

    metric: str
    verdict: str
    rows: NonNegativeInt
    min_delta: FiniteFloat
    base: Score
    tuned: Score
    delta: Score
    rivals: dict[str, Score] = Field(default_factory=dict)
    prompt_alone: str | None = None
    graders: tuple[GraderScores, ...]
    graded_share: FiniteFloat | None = None
    ungraded_reason: str | None = None
    secondary: tuple[Margin, ...] = ()
    regression: tuple[Margin, ...] = ()
    answers: dict[str, Answers]
    outcomes: dict[Outcome, NonNegativeInt]
    shown: tuple[ShownRow, ...]
    curves: Curves | None = None
    training: Spent | None = None
    judge: Judge | None = None
    warnings: tuple[str, ...] = ()
    promoted: bool | None = None
    accepted: tuple[str, ...] = ()
