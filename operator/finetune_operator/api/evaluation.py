"""What a run is judged on: hold-out, graders, the gate, and what the user accepts in advance."""

from __future__ import annotations

from typing import Annotated, Literal, TypeAlias

from pydantic import Field

from finetune_operator.api.datasets import DatasetSource
from finetune_operator.api.parts import FRACTION, ObjectName
from finetune_operator.api.schema import ApiModel, Cel

GraderType: TypeAlias = Literal["ExactMatch", "FieldMatch", "JsonSchema"]
Acceptance: TypeAlias = Literal[
    "EvalMissing", "PromptingLikelyEnough", "CheckTaskOrData", "NoClearImprovement"
]


def _needs(setting: str, types: tuple[GraderType, ...], what: str) -> Cel:
    """These types need the setting, and no other type has it."""
    named = " and ".join(types)
    return Cel(
        f"(self.type in {list(types)}) == has(self.{setting})",
        f"{setting} belongs to type {named}, which needs it: {what}",
        f".{setting}",
    )


_NAME = Cel(
    "self.matches('^[a-z0-9]([a-z0-9-]*[a-z0-9])?$')",
    "must be lower-case letters, digits and hyphens",
)


class Grader(ApiModel):
    """One way to score an answer against its reference, between 0 and 1."""

    rules = (
        _needs("fields", ("FieldMatch",), "list the JSON fields to compare"),
        _needs("schema", ("JsonSchema",), "give a JSON Schema as text"),
    )

    name: Annotated[str, _NAME] = Field(
        description="Name of the grader in reports and metrics.", min_length=1, max_length=40
    )
    type: GraderType = Field(
        description="ExactMatch compares the whole answer, FieldMatch the named fields of a JSON answer, "
        "JsonSchema checks that the answer is JSON of the given shape."
    )
    fields: Annotated[
        tuple[Annotated[str, Field(min_length=1, max_length=128)], ...] | None,
        Field(json_schema_extra={"x-kubernetes-list-type": "set"}),
    ] = Field(None, description="FieldMatch: the fields to compare.", min_length=1, max_length=32)
    schema_text: str | None = Field(
        None, alias="schema", description="JsonSchema: the schema, as text.", min_length=2, max_length=16384
    )


class Gate(ApiModel):
    """When the tuned model is promoted."""

    min_delta: Annotated[
        str,
        Cel(
            f"self.matches('{FRACTION}') && double(self) <= 1.0",
            'must be a fraction from 0 to 1 as a string, for example "0.05" for five points',
        ),
    ] = Field(
        "0.05",
        description="How much better than its base the tuned model must score, a fraction as a string.",
        min_length=1,
        max_length=20,
    )


class Suite(ApiModel):
    """Questions outside of the task, which the tuned model must still answer as well as its base."""

    name: Annotated[str, _NAME] = Field(
        description="Name of the suite in reports and status.", min_length=1, max_length=40
    )
    dataset: DatasetSource = Field(description="Its rows, in any form that the hold-out may have.")
    grader: Grader = Field(description="How answers to it are scored.")
    margin: Annotated[
        str,
        Cel(
            f"self.matches('{FRACTION}') && double(self) > 0.0 && double(self) <= 1.0",
            'must be a fraction above 0 and up to 1 as a string, for example "0.05" for five points',
        ),
    ] = Field(
        "0.05",
        description="How much worse than its base the tuned model may be on the suite, a fraction as a "
        "string: the one-sided 95 % bound of its drop must stay below. Fewer than 59 rows can miss a drop of "
        "0.05.",
        min_length=1,
        max_length=20,
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

    name: Annotated[str, _NAME] = Field(
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


class Evaluation(ApiModel):
    """The hold-out that base and tuned model are scored on. It must not be part of the training data."""

    rules = (
        Cel(
            "has(self.dataset) == has(self.graders)",
            "spec.evaluation.dataset and spec.evaluation.graders belong together; give both",
        ),
        Cel(
            "!has(self.primary) || (has(self.graders) && self.graders.exists(g, g.name == self.primary))",
            "must be the name of one of spec.evaluation.graders",
            ".primary",
        ),
        Cel(
            "!has(self.graders) || size(self.graders) < 2 || has(self.primary)",
            "with several graders one must decide: set spec.evaluation.primary to its name",
            ".primary",
        ),
        Cel(
            "has(self.dataset) || !(has(self.regression) || has(self.rivals))",
            "rivals and regression are compared with the hold-out's scores; set spec.evaluation.dataset and "
            "graders",
        ),
    )

    dataset: DatasetSource | None = Field(
        None, description="The hold-out: 100 to 200 rows with known answers that are never trained on."
    )
    graders: tuple[Grader, ...] = Field(
        (),
        description="How answers are scored.",
        min_length=1,
        max_length=8,
        json_schema_extra={"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["name"]},
    )
    primary: str | None = Field(
        None,
        description="The grader that decides about promotion. May be left out when there is only one.",
        min_length=1,
        max_length=40,
    )
    gate: Gate = Field(Gate(), description="When the tuned model is promoted.")
    max_tokens: int = Field(256, description="Longest answer in tokens.", ge=1, le=8192)
    regression: Regression | None = Field(
        None, description="What the tuned model must not lose. Default: only the hold-out is looked at."
    )
    rivals: tuple[Rival, ...] = Field(
        (),
        description="Better prompts that the untuned base is scored with too. Verdicts before training go by "
        "the best of them.",
        max_length=4,
        json_schema_extra={"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["name"]},
    )
    engine_profile: ObjectName | None = Field(
        None,
        description="How the engine that scores runs the model, base and tuned alike: a name from the "
        "profiles that the administrator configured. Name that of the ModelServer that will serve the "
        "adapter.",
    )
    accept: tuple[Acceptance, ...] = Field(
        (),
        description="Verdicts that are accepted although they would stop the run or the promotion: an "
        "explicit and visible decision. Entries can be added later, not removed.",
        max_length=4,
        json_schema_extra={"x-kubernetes-list-type": "set"},
    )

    @property
    def datasets(self) -> dict[str, DatasetSource]:
        """The data sets of the evaluation by the field of the spec that holds each."""
        held_out = {} if self.dataset is None else {"spec.evaluation.dataset": self.dataset}
        suites = self.regression.suites if self.regression is not None else ()
        named = {f"spec.evaluation.regression.suites[{s.name}].dataset": s.dataset for s in suites}
        return held_out | named
