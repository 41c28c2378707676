"""The evaluation of job.json (operator -> trainer)."""

from __future__ import annotations

from pydantic import Field

from finetune_operator.api.datasets import DatasetSource
from finetune_operator.api.evaluation.graders import Grader, GraderType, SimilarityMetric
from finetune_operator.api.evaluation.services import Export, Judge
from finetune_operator.api.evaluation.spec import Evaluation
from finetune_operator.api.evaluation.suites import Suite
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
    margin: str | None = None
    criteria: tuple[str, ...] | None = None
    values: tuple[str, ...] | None = None
    pattern: str | None = None
    tolerance: str | None = None
    metric: SimilarityMetric | None = None
    grader: str | None = None
    tests: str | None = None
    timeout_seconds: int | None = None
    image: str | None = None
    command: tuple[str, ...] | None = None


class JobGate(Written):
    """The gate of job.json."""

    min_delta: str


class JobSuite(Written):
    """Questions outside of the task."""

    name: str
    dataset: JobDataset
    grader: JobGrader


class JobRegression(Written):
    """What the tuned model must not lose."""

    suites: tuple[JobSuite, ...] = Field(min_length=1, max_length=8)


class JobRival(Written):
    """A better prompt for the untuned base."""

    name: str
    system: str | None = None
    few_shot: int | None = None


class JobJudge(Written):
    """The judge of job.json, without its credentials."""

    url: str
    model: str
    price_per_million_input_tokens: str | None = None
    price_per_million_output_tokens: str | None = None
    timeout_seconds: int
    max_concurrency: int


class JobMlflow(Written):
    """The MLflow server of job.json, without its credentials."""

    tracking_uri: str
    experiment: str


class JobOpenTelemetry(Written):
    """The OpenTelemetry collector of job.json, without its credentials."""

    endpoint: str


class JobExport(Written):
    """Where publish sends the evaluation."""

    mlflow: JobMlflow | None = None
    open_telemetry: JobOpenTelemetry | None = None


class JobEvaluation(Written):
    """The evaluation of job.json, without `accept`: what is accepted changes no score."""

    dataset: JobDataset
    graders: tuple[JobGrader, ...] = Field(min_length=1, max_length=8)
    primary: str | None = None
    gate: JobGate
    max_tokens: int
    regression: JobRegression | None = None
    rivals: tuple[JobRival, ...] | None = Field(None, min_length=1, max_length=4)
    engine_profile: str | None = None
    judge: JobJudge | None = None
    export: JobExport | None = None


def job_dataset(source: DatasetSource) -> JobDataset:
    """Where rows come from, without the credentials to read them."""
    return JobDataset(source=source.source, revision=source.revision)


def job_evaluation(given: Evaluation | None) -> JobEvaluation | None:
    """The evaluation, or None without a hold-out, which only EvalMissing in `accept` allows (R4)."""
    if given is None or given.dataset is None or not given.graders:
        return None
    suites = given.regression.suites if given.regression is not None else ()
    rivals = tuple(JobRival.model_validate(rival.to_dict()) for rival in given.rivals)
    return JobEvaluation(
        dataset=job_dataset(given.dataset),
        graders=tuple(map(_job_grader, given.graders)),
        primary=given.primary,
        gate=JobGate(min_delta=given.gate.min_delta),
        max_tokens=given.max_tokens,
        regression=JobRegression(suites=tuple(map(_suite, suites))) if suites else None,
        rivals=rivals or None,
        engine_profile=given.engine_profile,
        judge=None if given.judge is None else _judge(given.judge),
        export=None if given.export is None else _export(given.export),
    )


def _export(given: Export) -> JobExport:
    mlflow, collector = given.mlflow, given.open_telemetry
    return JobExport(
        mlflow=JobMlflow(tracking_uri=mlflow.tracking_uri, experiment=mlflow.experiment) if mlflow else None,
        open_telemetry=JobOpenTelemetry(endpoint=collector.endpoint) if collector else None,
    )


def _judge(given: Judge) -> JobJudge:
    return JobJudge(
        url=given.url,
        model=given.model,
        price_per_million_input_tokens=given.price_per_million_input_tokens,
        price_per_million_output_tokens=given.price_per_million_output_tokens,
        timeout_seconds=given.timeout_seconds,
        max_concurrency=given.max_concurrency,
    )


def _job_grader(given: Grader) -> JobGrader:
    return JobGrader.model_validate(given.to_dict())


def _suite(given: Suite) -> JobSuite:
    return JobSuite(
        name=given.name,
        dataset=job_dataset(given.dataset),
        grader=_job_grader(given.grader),
    )
