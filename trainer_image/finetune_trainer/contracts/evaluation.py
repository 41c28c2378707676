"""The evaluation of job.json: the hold-out, the graders and the gate."""

from decimal import Decimal
from typing import Annotated, Literal

from pydantic import Field, model_validator

from finetune_trainer.contracts.document import Document
from finetune_trainer.contracts.sources import DatasetSpec


class GraderSpec(Document):
    """One way to score an output against its reference."""

    name: str = Field(min_length=1)
    type: Literal["ExactMatch", "FieldMatch", "JsonSchema"]
    fields: tuple[str, ...] | None = None
    schema_text: str | None = Field(None, alias="schema", description="a JSON Schema as text")

    @model_validator(mode="after")
    def _has_what_its_type_needs(self) -> "GraderSpec":
        if self.type == "FieldMatch" and not self.fields:
            raise ValueError(f"grader {self.name!r} of type FieldMatch needs `fields`; list the JSON fields")
        if self.type == "JsonSchema" and not self.schema_text:
            raise ValueError(f"grader {self.name!r} of type JsonSchema needs `schema`; give a JSON Schema")
        return self


class GateSpec(Document):
    """When a tuned model is promoted; `minDelta` is a fraction (0.05 = five points)."""

    min_delta: Annotated[Decimal, Field(ge=0, le=1)] | None = None


class EvaluationSpec(Document):
    """The hold-out and how it is scored."""

    dataset: DatasetSpec
    graders: tuple[GraderSpec, ...] = Field(min_length=1, max_length=8)
    primary: str | None = None
    gate: GateSpec | None = None
    max_tokens: int | None = Field(None, ge=1, le=8192)

    @model_validator(mode="after")
    def _primary_is_a_grader(self) -> "EvaluationSpec":
        names = [grader.name for grader in self.graders]
        if self.primary is None and len(names) > 1:
            raise ValueError(f"`primary` must name one of the graders {', '.join(names)}")
        if self.primary is not None and self.primary not in names:
            raise ValueError(f"`primary` is {self.primary!r}; it must be one of {', '.join(names)}")
        return self

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
