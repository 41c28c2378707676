"""What a model is compared by beside the hold-out: better prompts, and tasks that must not suffer."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from finetune_operator.api.datasets import DatasetSource
from finetune_operator.api.evaluation.graders import IS_NAME, Grader
from finetune_operator.api.schema import ApiModel, Cel


class Suite(ApiModel):
    """Questions outside of the task, which the tuned model must still answer as well as its base."""

    rules = (
        Cel(
            "!(self.grader.type in ['JudgeCriteria', 'JudgePairwise', 'Similarity', 'Perplexity'])",
            "a suite needs a grader that decides without a judge; take another type",
            ".grader",
        ),
    )

    name: Annotated[str, IS_NAME] = Field(
        description="Name of the suite in reports and status.", min_length=1, max_length=40
    )
    dataset: DatasetSource = Field(description="Its rows, in any form that the hold-out may have.")
    grader: Grader = Field(
        description="How answers to it are scored; its `margin` is how much of the score may be lost (fewer "
        "than 59 rows can miss a drop of 0.05)."
    )


class Regression(ApiModel):
    """What the tuned model must not lose: base and tuned model are compared on suites outside of the task."""

    suites: tuple[Suite, ...] = Field(
        description="The suites. A drop on one of them ends as the verdict Regressed; two or more with 500 "
        "rows together are also compared as one, with a margin of 3 points.",
        min_length=1,
        max_length=8,
        json_schema_extra={"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["name"]},
    )


class Rival(ApiModel):
    """A better prompt for the untuned base, scored beside it: perhaps a prompt alone does the job."""

    rules = (
        Cel(
            "has(self.system) || has(self.fewShot)",
            "a rival needs a prompt of its own: set system, fewShot or both",
        ),
    )

    name: Annotated[str, IS_NAME] = Field(
        description="Name of the prompt in reports and status.", min_length=1, max_length=40
    )
    system: str | None = Field(
        None,
        description="System message that takes the place of the hold-out rows' own.",
        min_length=1,
        max_length=16384,
    )
    few_shot: int | None = Field(
        None,
        description="How many rows of the training data are shown before the question as examples. They are "
        "chosen by their content, the same ones every time, and never from the hold-out.",
        ge=1,
        le=32,
    )
