"""job.json, the input of every stage (operator -> trainer)."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from finetune_operator.api.bases import BaseModelSource
from finetune_operator.api.datasets import Severity
from finetune_operator.api.finetunejob import FineTuneJobSpec, Goal, Pace
from finetune_operator.api.finetunejobstatus import StageName
from finetune_operator.api.training import FallbackMethod, GradientCheckpointing, Method, Offload
from finetune_operator.contracts.document import Digest, Written
from finetune_operator.contracts.evaluation import JobDataset, JobEvaluation, job_evaluation


class JobModel(Written):
    """The base model of job.json."""

    source: str
    revision: str | None = None
    fingerprint: str | None = None


class JobTrainingDataset(JobDataset):
    """The training data of job.json, with the severities of data rules that are not their own."""

    severities: dict[str, Severity] | None = Field(None, alias="rules")


class JobLora(Written):
    """Adapter settings of job.json."""

    rank: int | None = None
    alpha: int | None = None
    rank_stabilized: bool | None = None
    target_modules: tuple[str, ...] | None = None


class JobTraining(Written):
    """Training settings of job.json; the learning rate stays the string that the user wrote."""

    epochs: int | None = None
    learning_rate: str | None = None
    effective_batch_size: int | None = None
    max_length: int | None = None
    seed: int | None = None
    micro_batch_tokens: int | None = None
    gradient_checkpointing: GradientCheckpointing | None = None
    zero_stage: int | None = None
    offload: Offload | None = None


class JobOutput(Written):
    """The destination of job.json."""

    destination: str


class JobResources(Written):
    """How many processes train together."""

    nodes: int
    gpus_per_node: int
    processes_per_node: int | None = None


class JobSavings(Written):
    """What the tuned model saves in use; the price stays the string that the user wrote."""

    calls_per_month: int
    removed_prompt_tokens: int
    price_per_million_tokens: str


class JobSpec(Written):
    """The part of a FineTuneJob's spec that the trainer acts on."""

    goal: Goal | None = None
    knowledge_changes: Pace | None = None
    base_model: JobModel
    method: Method
    fallback_method: FallbackMethod | None = None
    lora: JobLora | None = None
    dataset: JobTrainingDataset
    training: JobTraining | None = None
    evaluation: JobEvaluation | None = None
    output: JobOutput
    resources: JobResources
    savings: JobSavings | None = None


class JobAccelerator(Written):
    """The GPU of the run as the administrator describes it; null is what he left out."""

    name: str
    memory_gib: float | None = Field(None, alias="memoryGiB")
    peak_tflops: float | None = None
    price_per_hour: str | None = None
    currency: str | None = None
    spot: bool = False


class JobGpu(Written):
    """Another GPU type of the administrator's table, for suggestions."""

    name: str
    memory_gib: float = Field(alias="memoryGiB")


class JobBudget(Written):
    """What the run may cost."""

    limit: str
    currency: str


class JobCalibration(Written):
    """What finished runs of the namespace reached with this GPU and method: the median of `runs` of them."""

    mfu: float = Field(gt=0, le=1)
    runs: int = Field(ge=1)


class JobServer(Written):
    """The ModelServer that scores in place of an engine beside the scorer.

    `endpoint` is its OpenAI base URL, `model` the name of its base; `template` the digest of what its pods
    run by, `key` the name of the file that holds the API key. The candidate is published at `source` and
    asked for as `candidate`--<first 12 hex of its digest>.
    """

    endpoint: str
    model: str
    template: Digest
    candidate: str
    source: str
    key: str | None = None


class JobEngine(Written):
    """How the engine that scores runs: image, the administrator's arguments and the profile's variables of
    one beside the scorer, or the ModelServer.
    """

    image: str | None = None
    args: tuple[str, ...] = ()
    env: dict[str, str] = Field(default_factory=dict)
    server: JobServer | None = None


class PublishSpec(Written):
    """What the operator decided about a run, for the publish stage."""

    promoted: bool
    verdict: str | None = None
    accepted: tuple[str, ...] = ()


class JobDocument(Written):
    """job.json: the input of one attempt at a stage.

    Accelerator, budget and calibration are beside the spec: they change what is known in advance, never what
    a stage does, and so no digest. Nor does `engine`, which a run keeps from its first attempt on.

    It says nothing of what is not set: a run keeps its trainer image through upgrades of the operator, and
    that trainer refuses the fields that came after it, null or not.
    """

    schema_version: Literal[1] = 1
    namespace: str
    name: str
    uid: str
    stage: StageName
    attempt: int = Field(ge=1)
    spec_digest: Digest
    input_digest: Digest
    spec: JobSpec
    accelerator: JobAccelerator | None = None
    other_gpus: tuple[JobGpu, ...] = ()
    budget: JobBudget | None = None
    calibration: JobCalibration | None = None
    engine: JobEngine | None = None
    publish: PublishSpec | None = None

    def to_json_value(self) -> dict[str, Any]:
        """Plain JSON values under their public names, without what is null."""
        return self.model_dump(mode="json", by_alias=True, exclude_none=True)


def job_spec(spec: FineTuneJobSpec) -> JobSpec:
    """The part of a spec that goes into job.json; credentials, placement and leave stay behind."""
    return JobSpec(
        goal=spec.goal,
        knowledge_changes=spec.knowledge_changes,
        base_model=_model(spec.base_model),
        method=spec.method,
        fallback_method=spec.fallback_method,
        lora=None if spec.lora is None else JobLora.model_validate(spec.lora.to_dict()),
        dataset=JobTrainingDataset(
            source=spec.dataset.source, revision=spec.dataset.revision, severities=spec.dataset.severities
        ),
        training=None if spec.training is None else JobTraining.model_validate(spec.training.to_dict()),
        evaluation=job_evaluation(spec.evaluation),
        output=JobOutput(destination=spec.output.destination),
        resources=JobResources(
            nodes=spec.resources.nodes,
            gpus_per_node=spec.resources.gpus_per_node,
            processes_per_node=spec.resources.processes_per_node,
        ),
        savings=None if spec.savings is None else JobSavings.model_validate(spec.savings.to_dict()),
    )


def _model(source: BaseModelSource) -> JobModel:
    return JobModel(source=source.source, revision=source.revision, fingerprint=source.fingerprint)
