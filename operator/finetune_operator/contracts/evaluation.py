"""The evaluation of job.json (operator -> trainer)."""

from __future__ import annotations

from pydantic import Field

from finetune_operator.api.datasets import DatasetSource
from finetune_operator.api.evaluation import Evaluation, GraderType
from finetune_operator.contracts.document import Written


class JobDataset(Written):
    """A dataset of job.json."""

    source: str
    revision: str | None = None


class JobGrader(Written):
    """A grader of job.json."""

    name: str
    type: GraderType
    fields: tuple[str, ...] | None = None
    schema_text: str | None = Field(None, alias="schema")


class JobGate(Written):
    """The gate of job.json."""

    min_delta: str


class JobEvaluation(Written):
    """The evaluation of job.json, without `accept`: what is accepted changes no score."""

    dataset: JobDataset
    graders: tuple[JobGrader, ...] = Field(min_length=1, max_length=8)
    primary: str | None = None
    gate: JobGate
    max_tokens: int


def job_dataset(source: DatasetSource) -> JobDataset:
    """Where rows come from, without the credentials to read them."""
    return JobDataset(source=source.source, revision=source.revision)


def job_evaluation(given: Evaluation | None) -> JobEvaluation | None:
    """The evaluation, or None without a hold-out, which only EvalMissing in `accept` allows (R4)."""
    if given is None or given.dataset is None or not given.graders:
        return None
    graders = tuple(
        JobGrader(name=g.name, type=g.type, fields=g.fields, schema_text=g.schema_text) for g in given.graders
    )
    return JobEvaluation(
        dataset=job_dataset(given.dataset),
        graders=graders,
        primary=given.primary,
        gate=JobGate(min_delta=given.gate.min_delta),
        max_tokens=given.max_tokens,
    )
