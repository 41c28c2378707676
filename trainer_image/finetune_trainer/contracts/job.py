"""job.json, the input of every stage (operator -> trainer)."""

from decimal import Decimal
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, StringConstraints, ValidationError, model_validator

from finetune_trainer.contracts.document import Digest, Document
from finetune_trainer.contracts.evaluation import EvaluationSpec
from finetune_trainer.contracts.sources import BaseModelSpec, TrainingDatasetSpec
from finetune_trainer.errors import UserError

Method = Literal["LoRA", "QLoRA", "Full"]
GradientCheckpointing = Literal["Enabled", "Selective", "Disabled"]
Offload = Literal["None", "Optimizer", "All"]
StageName = Literal[
    "prepare", "baseline", "grade-base", "train", "evaluate", "grade-tuned", "publish"
]  # fmt: skip


class LoraSpec(Document):
    """Settings of the adapter, methods LoRA and QLoRA; null means: choose for me.

    `target_modules` are the last parts of the names of the layers that it sits on (base/targets.py).
    """

    rank: int | None = Field(None, ge=1, le=256)
    alpha: int | None = Field(None, ge=1, le=1024)
    rank_stabilized: bool | None = None
    target_modules: tuple[str, ...] | None = Field(None, min_length=1, max_length=32)


class TrainingSpec(Document):
    """Training settings; null means: choose for me (planning/defaults.py)."""

    epochs: int | None = Field(None, ge=1, le=25)
    learning_rate: Annotated[Decimal, Field(gt=Decimal("1e-7"), le=Decimal("1e-2"))] | None = None
    effective_batch_size: int | None = Field(None, ge=1, le=1024)
    max_length: int | None = Field(None, ge=16, le=131072)
    seed: int | None = Field(None, ge=0, lt=2**31)
    micro_batch_tokens: int | None = Field(None, ge=64, le=131072)
    gradient_checkpointing: GradientCheckpointing | None = None
    zero_stage: int | None = Field(None, ge=0, le=3)
    offload: Offload | None = None


class OutputSpec(Document):
    """Where the result is published."""

    destination: Annotated[str, StringConstraints(pattern=r"^pvc://[^/]+/.+")]


class ResourcesSpec(Document):
    """How many processes train together."""

    nodes: int = Field(1, ge=1, le=64)
    gpus_per_node: int = Field(0, ge=0, le=16)
    processes_per_node: int | None = Field(None, ge=1, le=16)

    @property
    def processes(self) -> int:
        """The processes that the job asks for: one per GPU, or `processesPerNode` of each node on the CPU.

        Where that is left out it counts as 1: launch/processes.py then chooses, for any number of rows.
        """
        return self.nodes * (self.gpus_per_node or self.processes_per_node or 1)


class SavingsSpec(Document):
    """What the tuned model saves in use; the price is in the currency of the accelerator."""

    calls_per_month: int = Field(ge=1)
    removed_prompt_tokens: int = Field(ge=1)
    price_per_million_tokens: Annotated[Decimal, Field(gt=0)]


class Spec(Document):
    """The part of the FineTuneJob's spec that the trainer acts on."""

    goal: Literal["Format", "Style", "Jargon", "PromptRemoval", "Refusals", "Knowledge"] | None = None
    knowledge_changes: Literal["Yearly", "Quarterly", "Monthly", "Weekly", "Daily"] | None = None
    base_model: BaseModelSpec
    method: Method = "LoRA"
    fallback_method: Literal["QLoRA"] | None = None
    lora: LoraSpec | None = None
    dataset: TrainingDatasetSpec
    training: TrainingSpec | None = None
    evaluation: EvaluationSpec | None = None
    output: OutputSpec
    resources: ResourcesSpec = ResourcesSpec()
    savings: SavingsSpec | None = None

    @model_validator(mode="after")
    def _settings_belong_to_the_method(self) -> "Spec":
        training = self.training or TrainingSpec()
        if self.method == "Full" and self.lora:
            raise ValueError("`lora` belongs to methods LoRA and QLoRA; remove it, or set method: LoRA")
        if self.method != "LoRA" and self.fallback_method:
            raise ValueError("`fallbackMethod` goes with method LoRA; remove it, or set method: LoRA")
        if self.trains_adapter and training.zero_stage in (1, 2):
            raise ValueError("with methods LoRA and QLoRA training.zeroStage is 0 or 3; set one of them")
        if self.trains_adapter and training.offload:
            raise ValueError("training.offload belongs to method Full; remove it")
        return self

    @property
    def trains_adapter(self) -> bool:
        """Whether the result is an adapter; method Full trains the model itself."""
        return self.method != "Full"


class AcceleratorSpec(Document):
    """The GPU as the administrator describes it: GiB, dense bf16 TFLOP/s, price of one for an hour."""

    name: str
    memory_gib: float | None = Field(None, alias="memoryGiB", gt=0)
    peak_tflops: float | None = Field(None, gt=0)
    price_per_hour: Annotated[Decimal, Field(ge=0)] | None = None
    currency: str | None = None
    spot: bool = False


class GpuSpec(Document):
    """Another GPU type that the job could have asked for."""

    name: str
    memory_gib: float = Field(alias="memoryGiB", gt=0)


class BudgetSpec(Document):
    """What the run may cost."""

    limit: Annotated[Decimal, Field(gt=0)]
    currency: str


class CalibrationSpec(Document):
    """The median model FLOPs utilisation (a fraction) of finished `runs` with this GPU type and method."""

    mfu: float = Field(gt=0, le=1)
    runs: int = Field(ge=1)


class ServerSpec(Document):
    """The ModelServer that scores in place of an engine beside the scorer.

    `endpoint` is its OpenAI base URL, `model` the name of its base; `template` stands for what its pods run
    by, `key` is the name of the file that holds the API key. The adapter is put at `source` (pvc://CLAIM/PATH)
    and asked for as `candidate`--<first 12 hex digits of its digest>.
    """

    endpoint: str
    model: str
    template: Digest
    candidate: str
    source: str
    key: str | None = None


class EngineSpec(Document):
    """How the engine that scores runs: image, arguments and variables of one beside the scorer, or a server.

    `image` is null in runs that are scored on a ModelServer.
    """

    image: str | None = None
    args: tuple[str, ...] = ()
    env: dict[str, str] = Field(default_factory=dict)
    server: ServerSpec | None = None


class PublishSpec(Document):
    """What the operator decided about the run, written into the manifest."""

    promoted: bool
    verdict: str | None = None
    accepted: tuple[str, ...] = ()


class Job(Document):
    """The whole of job.json."""

    schema_version: Literal[1] = 1
    namespace: str
    name: str
    uid: str
    stage: StageName
    attempt: int = Field(ge=1)
    spec_digest: Digest
    input_digest: Digest
    spec: Spec
    accelerator: AcceleratorSpec | None = None
    other_gpus: tuple[GpuSpec, ...] = ()
    budget: BudgetSpec | None = None
    calibration: CalibrationSpec | None = None
    engine: EngineSpec | None = None
    publish: PublishSpec | None = None

    @property
    def scores_on_own_engine(self) -> bool:
        """Whether the run is scored by an engine of its own: a ModelServer takes none of its GPUs."""
        return self.spec.evaluation is not None and (self.engine is None or self.engine.server is None)

    @model_validator(mode="after")
    def _publish_only_when_publishing(self) -> "Job":
        if (self.stage == "publish") != (self.publish is not None):
            raise ValueError("`publish` must be given in the publish stage and only there")
        return self

    @model_validator(mode="after")
    def _is_graded_once_from_an_own_engine(self) -> "Job":
        runs_code = self.spec.evaluation is not None and self.spec.evaluation.runs_code
        if runs_code and self.engine is not None and self.engine.server is not None:
            raise ValueError(
                "graders of type CodeAssert and Container grade the base's answers once, and a ModelServer "
                "may roll before the tuned model is asked; remove `engine.server`"
            )
        return self


def read_job(path: Path) -> Job:
    """Read and check job.json; raise UserError that names every wrong field."""
    try:
        return Job.model_validate_json(path.read_bytes())
    except OSError as error:
        raise UserError(
            f"The job file {path} cannot be read ({error.strerror}); give its path with --job."
        ) from error
    except ValidationError as error:
        raise UserError(f"The job file {path} is not valid: {sentences(error)}") from error


# pydantic's own words name Python's types, or not what to do.
_WORDS = {
    "extra_forbidden": "there is no such field; correct its name or remove it",
    "tuple_type": "must be a list",
}


def sentences(error: ValidationError) -> str:
    """What is wrong with a document, every field of it."""
    found = [
        f"{'.'.join(map(str, item['loc'])) or error.title.lower()}: "
        f"{_WORDS.get(item['type']) or item['msg'].removeprefix('Value error, ')}"
        for item in error.errors(include_url=False, include_input=False)
    ]
    return "; ".join(found) + "."
