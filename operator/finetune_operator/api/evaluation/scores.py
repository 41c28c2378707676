"""Scores in the status of a FineTuneJob."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from finetune_operator.api.parts import Number
from finetune_operator.api.schema import ApiModel


class Interval(ApiModel):
    """A score between 0 and 1 and its 95 % interval."""

    score: Number | None = Field(None, description="The score.")
    low: Number | None = Field(None, description="Lower end of its interval.")
    high: Number | None = Field(None, description="Upper end of its interval.")


class GraderScore(ApiModel):
    """What one grader gave to both models, on the hold-out or on a suite."""

    base: Number | None = Field(None, description="Score of the base model.")
    tuned: Number | None = Field(None, description="Score of the tuned model.")
    low: Number | None = Field(
        None,
        description="One-sided 95 % lower bound of tuned minus base, of graders that do not decide and of "
        "suites.",
    )
    margin: Number | None = Field(None, description="How much may be lost.")
    holds: bool | None = Field(None, description="Whether the lower bound lies above minus the margin.")


class CutAnswers(ApiModel):
    """How many answers ended at evaluation.maxTokens."""

    base: int | None = Field(None, description="Of the base model.", ge=0)
    tuned: int | None = Field(None, description="Of the tuned model.", ge=0)


class Scores(ApiModel):
    """Base and tuned model on the same hold-out."""

    metric: str | None = Field(None, description="The grader that decides.", max_length=64)
    rows: int | None = Field(None, description="Rows that were scored.", ge=0)
    groups: int | None = Field(
        None, description="Groups that the rows are in, where rows have one: each counts as one.", ge=0
    )
    base: Interval | None = Field(None, description="Score of the base model.")
    tuned: Interval | None = Field(None, description="Score of the tuned model.")
    delta: Interval | None = Field(None, description="Paired difference, tuned minus base.")
    graders: dict[str, GraderScore] = Field(
        default_factory=dict, description="Scores by grader.", max_length=8
    )
    rivals: dict[str, Interval] = Field(
        default_factory=dict,
        description="Scores of the base model with the prompts of spec.evaluation.rivals.",
        max_length=4,
    )
    prompt_alone: str | None = Field(
        None,
        description="Says so where a prompt of spec.evaluation.rivals may do without training: the tuned "
        "model is not clearly better than the base with it.",
        max_length=512,
    )
    regression: dict[str, GraderScore] = Field(
        default_factory=dict,
        description="Scores on the suites of spec.evaluation.regression; `all suites` are two or more with "
        "500 rows, compared as one.",
        max_length=9,
    )
    cut: CutAnswers | None = Field(
        None,
        description="How many answers were cut at spec.evaluation.maxTokens: right ones fail then.",
    )
    baseline_verdict: str | None = Field(
        None, description="What the base model's score says about tuning it.", max_length=64
    )
    verdict: str | None = Field(None, description="What the comparison says.", max_length=64)
    ungraded: int | None = Field(
        None, description="Rows that a grader could not grade; above 2 % the verdict is Ungraded.", ge=0
    )
    ungraded_reason: str | None = Field(
        None, description="The grader that graded fewest rows, and why it failed first.", max_length=512
    )
    detectable: str | None = Field(
        None,
        description="The smallest improvement that the hold-out shows in four of five runs, in points; none "
        "when it shows no improvement at all.",
        max_length=32,
    )
    holdout_uses: int | None = Field(
        None,
        description="How many tuned models this hold-out has judged beside this destination, this run "
        "included once it was evaluated; after 10 a fresh hold-out should be chosen.",
        ge=0,
    )
    flip_rate: Number | None = Field(
        None,
        description="JudgePairwise: share of the pairs of which the judge chose otherwise when the answers "
        "changed places. They count as ties.",
    )
    warnings: tuple[Annotated[str, Field(max_length=1024)], ...] = Field(
        (), description="What to know about how it was scored.", max_length=32
    )
