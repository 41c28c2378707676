"""The JSON documents that pass between operator, trainer and server (docs/contracts.md).

The operator writes job.json and the server manifest: these models are strict and export their schemas. What
it reads (results, progress, /state) may come from another version or be cut, and is read key by key.
"""

from __future__ import annotations

import json
from typing import Annotated, Any, Literal, Self, TypeAlias

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    StringConstraints,
    model_serializer,
    model_validator,
)
from pydantic.alias_generators import to_camel

from finetune_operator.api.datasets import DatasetSource, Severity
from finetune_operator.api.evaluation import Evaluation, GraderType
from finetune_operator.api.finetunejob import FineTuneJobSpec, Goal, Pace
from finetune_operator.api.finetunejobstatus import StageName
from finetune_operator.api.parts import BaseModelSource
from finetune_operator.api.training import FallbackMethod, GradientCheckpointing, Method, Offload

Digest: TypeAlias = Annotated[str, StringConstraints(pattern="^sha256:[0-9a-f]{64}$")]


class Written(BaseModel):
    """A part of a document that the operator writes; what the user left out is null."""

    model_config = ConfigDict(alias_generator=to_camel, populate_by_name=True, extra="forbid", frozen=True)

    def to_json_value(self) -> dict[str, Any]:
        """Plain JSON values under their public names, nulls included."""
        return self.model_dump(mode="json", by_alias=True)

    def to_json(self) -> str:
        """The document as text; the same content is always the same text."""
        return json.dumps(self.to_json_value(), indent=1, sort_keys=True) + "\n"


class JobModel(Written):
    """The base model of job.json."""

    source: str
    revision: str | None = None
    fingerprint: str | None = None


class JobDataset(Written):
    """A dataset of job.json."""

    source: str
    revision: str | None = None


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


class PublishSpec(Written):
    """What the operator decided about a run, for the publish stage."""

    promoted: bool
    verdict: str | None = None
    accepted: tuple[str, ...] = ()


class JobDocument(Written):
    """job.json: the input of one attempt at a stage.

    Accelerator, budget and calibration are beside the spec: they change what is known in advance, never what
    a stage does, and so no digest.
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
    publish: PublishSpec | None = None


class ManifestBase(Written):
    """The base model that a server's adapters must fit."""

    name: str
    fingerprint: str | None = None


class ManifestVersion(Written):
    """One version that the engines hold."""

    name: str
    source: str
    digest: Digest
    allow_unpromoted: bool = False


class ManifestTarget(Written):
    """A share of an alias's traffic, in percent."""

    version: str
    weight: int = Field(ge=0, le=100)


class ManifestShadow(Written):
    """A share of an alias's requests, in percent, that a version answers too, for nobody."""

    version: str
    percent: int = Field(ge=1, le=100)


class ManifestRoute(Written):
    """Which versions answer an alias: the stable one first, then, during a rollout by steps, the new one."""

    alias: str
    targets: tuple[ManifestTarget, ...] = Field(min_length=1)
    sticky_header: str | None = None
    shadow: ManifestShadow | None = None

    @model_validator(mode="after")
    def _whole(self) -> Self:
        if sum(target.weight for target in self.targets) != 100:
            raise ValueError("the weights of a route add up to 100")
        return self

    @property
    def stable(self) -> str:
        """The version that has every request, or had them before the rollout."""
        return self.targets[0].version

    @property
    def versions(self) -> tuple[str, ...]:
        """Every version that answers."""
        return tuple(target.version for target in self.targets)


class ManifestLimits(Written):
    """What one replica takes; what is left out is the gateway's default."""

    max_body_bytes: int | None = None
    max_in_flight: int | None = None
    max_in_flight_per_alias: int | None = None
    max_in_flight_per_key: int | None = None
    tokens_per_minute_per_key: int | None = None
    max_n: int | None = None
    max_prompts: int | None = None

    @model_serializer(mode="wrap")
    def _given(self, handler: SerializerFunctionWrapHandler) -> dict[str, int]:
        return {name: value for name, value in handler(self).items() if value is not None}


class ManifestKey(Written):
    """An entry of the keys' Secret that may call these model names only."""

    name: str
    aliases: tuple[str, ...]


class ServerManifest(Written):
    """The server manifest that the agent in each pod converges to."""

    schema_version: Literal[1] = 1
    generation: int = Field(ge=0)
    base: ManifestBase
    versions: tuple[ManifestVersion, ...] = ()
    routes: tuple[ManifestRoute, ...] = ()
    drain_seconds: int = Field(600, ge=1)
    limits: ManifestLimits = ManifestLimits()
    keys: tuple[ManifestKey, ...] = ()


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
        evaluation=_evaluation(spec.evaluation),
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


def _dataset(source: DatasetSource) -> JobDataset:
    return JobDataset(source=source.source, revision=source.revision)


def _evaluation(given: Evaluation | None) -> JobEvaluation | None:
    """None without a hold-out, which only EvalMissing in `accept` allows (R4)."""
    if given is None or given.dataset is None or not given.graders:
        return None
    graders = tuple(
        JobGrader(name=g.name, type=g.type, fields=g.fields, schema_text=g.schema_text) for g in given.graders
    )
    return JobEvaluation(
        dataset=_dataset(given.dataset),
        graders=graders,
        primary=given.primary,
        gate=JobGate(min_delta=given.gate.min_delta),
        max_tokens=given.max_tokens,
    )
