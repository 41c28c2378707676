"""The evaluation of job.json: the hold-out, the graders and the gate."""

from decimal import Decimal
from typing import Annotated, Literal

from pydantic import Field, StringConstraints, model_validator

from finetune_trainer.contracts.document import Document
from finetune_trainer.contracts.sources import DatasetSpec

# Part of the names of files.
Name = Annotated[str, StringConstraints(pattern=r"^[a-z0-9]([a-z0-9-]*[a-z0-9])?$", max_length=40)]
GraderType = Literal["ExactMatch", "FieldMatch", "JsonSchema"]

# What each type of grader needs beside its name, and what it may have.
SETTINGS: dict[GraderType, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "ExactMatch": ((), ()),
    "FieldMatch": (("fields",), ()),
    "JsonSchema": (("schema_text",), ()),
}
_ALL_SETTINGS = sorted({name for needed, optional in SETTINGS.values() for name in needed + optional})


class GraderSpec(Document):
    """One way to score an output against its reference."""

    name: str = Field(min_length=1)
    type: GraderType
    fields: tuple[str, ...] | None = None
    schema_text: str | None = Field(None, alias="schema", description="a JSON Schema as text")

    @model_validator(mode="after")
    def _has_what_its_type_needs(self) -> "GraderSpec":
        needed, optional = SETTINGS[self.type]
        for name in _ALL_SETTINGS:
            given = getattr(self, name) is not None
            if name in needed and not given:
                raise ValueError(f"grader {self.name!r} of type {self.type} needs `{_public(name)}`")
            if given and name not in needed + optional:
                raise ValueError(f"grader {self.name!r} of type {self.type} takes no `{_public(name)}`")
        return self


def _public(name: str) -> str:
    return GraderSpec.model_fields[name].alias or name


class GateSpec(Document):
    """When a tuned model is promoted; `minDelta` is a fraction (0.05 = five points)."""

    min_delta: Annotated[Decimal, Field(ge=0, le=1)] | None = None


class SuiteSpec(Document):
    """Questions outside of the task; `margin` is how much of the score may be lost on them (a fraction)."""

    name: Name
    dataset: DatasetSpec
    grader: GraderSpec
    margin: Annotated[Decimal, Field(gt=0, le=1)] = Decimal("0.05")


class RegressionSpec(Document):
    """What the tuned model must not lose."""

    suites: tuple[SuiteSpec, ...] = Field(min_length=1, max_length=8)


class RivalSpec(Document):
    """A better prompt for the untuned base: a system message, examples from the training data, or both."""

    name: Name
    system: str | None = Field(None, min_length=1)
    few_shot: int | None = Field(None, ge=1, le=32)

    @model_validator(mode="after")
    def _has_a_prompt_of_its_own(self) -> "RivalSpec":
        if self.system is None and self.few_shot is None:
            raise ValueError(f"rival {self.name!r} needs `system`, `fewShot` or both")
        return self


class EvaluationSpec(Document):
    """The hold-out and how it is scored."""

    dataset: DatasetSpec
    graders: tuple[GraderSpec, ...] = Field(min_length=1, max_length=8)
    primary: str | None = None
    gate: GateSpec | None = None
    max_tokens: int | None = Field(None, ge=1, le=8192)
    regression: RegressionSpec | None = None
    rivals: tuple[RivalSpec, ...] | None = Field(None, max_length=4)
    engine_profile: str | None = None

    @model_validator(mode="after")
    def _primary_is_a_grader(self) -> "EvaluationSpec":
        names = [grader.name for grader in self.graders]
        if self.primary is None and len(names) > 1:
            raise ValueError(f"`primary` must name one of the graders {', '.join(names)}")
        if self.primary is not None and self.primary not in names:
            raise ValueError(f"`primary` is {self.primary!r}; it must be one of {', '.join(names)}")
        return self

    @model_validator(mode="after")
    def _names_are_distinct(self) -> "EvaluationSpec":
        for what, entries in (("rivals", self.rivals or ()), ("regression.suites", self.suites)):
            names = [entry.name for entry in entries]
            if len(set(names)) < len(names):
                raise ValueError(f"two of `{what}` have the same name; rename one")
        return self

    @property
    def suites(self) -> tuple[SuiteSpec, ...]:
        """The suites of questions outside of the task."""
        return self.regression.suites if self.regression else ()

    def of_suite(self, suite: SuiteSpec) -> "EvaluationSpec":
        """How a suite is scored: as a hold-out of its own, with its one grader."""
        own = {"dataset": suite.dataset, "graders": (suite.grader,)}
        return self.model_copy(update={**own, "primary": None, "regression": None, "rivals": None})

    @property
    def primary_grader(self) -> GraderSpec:
        """The grader whose score decides the verdicts."""
        return next(grader for grader in self.graders if self.primary in (None, grader.name))

    @property
    def min_delta(self) -> float:
        """The improvement that promotion asks for (a fraction, default 0.05)."""
        given = self.gate.min_delta if self.gate else None
        return 0.05 if given is None else float(given)

    @property
    def output_tokens(self) -> int:
        """How many tokens an answer may have (default 256)."""
        return self.max_tokens or 256
