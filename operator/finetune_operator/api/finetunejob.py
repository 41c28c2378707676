"""FineTuneJob: one run, from data to a published, judged adapter."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal, TypeAlias

from pydantic import Field

from finetune_operator.api.bases import BaseModelSource
from finetune_operator.api.datasets import DatasetSource, TrainingDataset
from finetune_operator.api.economics import Budget, Savings
from finetune_operator.api.evaluation.services import ScoringEngine
from finetune_operator.api.evaluation.spec import Acceptance, Evaluation
from finetune_operator.api.finetunejobstatus import FineTuneJobStatus
from finetune_operator.api.objects import ApiObject
from finetune_operator.api.parts import (
    GPU_TYPE,
    OBJECT_NAME,
    PVC_FOLDER,
    SHARED_MEMORY,
    TOLERATIONS,
    NodeSelector,
    ObjectName,
    PodTemplate,
    Quantity,
    Scheduling,
    Tolerations,
)
from finetune_operator.api.schema import ApiModel, Cel
from finetune_operator.api.training import FallbackMethod, Lora, Method, Training

Goal: TypeAlias = Literal["Format", "Style", "Jargon", "PromptRemoval", "Refusals", "Knowledge"]
Pace: TypeAlias = Literal["Yearly", "Quarterly", "Monthly", "Weekly", "Daily"]


class Resources(ApiModel):
    """What training gets: `nodes` pods with `gpusPerNode` GPUs each, one process per GPU."""

    rules = (
        Cel(
            "!has(self.processesPerNode) || (has(self.gpusPerNode) && self.gpusPerNode == 0)",
            "with GPUs there is one process per GPU; remove processesPerNode, or set gpusPerNode: 0",
            ".processesPerNode",
        ),
        Cel(
            "!has(self.gpuType) || !has(self.gpusPerNode) || self.gpusPerNode > 0",
            "gpuType does nothing with gpusPerNode: 0; remove gpuType or ask for GPUs",
            ".gpuType",
        ),
        Cel(
            "!has(self.spot) || !has(self.gpusPerNode) || self.gpusPerNode > 0",
            "spot selects the price of GPUs, of which gpusPerNode: 0 asks for none; remove spot",
            ".spot",
        ),
    )

    nodes: int = Field(
        1,
        description="Pods that train together, each on its own node (on the CPU as far as there are nodes).",
        ge=1,
        le=64,
    )
    gpus_per_node: int = Field(1, description="GPUs of each pod; 0 trains on the CPU.", ge=0, le=16)
    processes_per_node: int | None = Field(
        None,
        description="Processes of each pod when training on the CPU. Default: one per whole core, as far "
        "as the pod's memory (half of its node's where `memory` is unset) holds a base for each and a step "
        "has a row for each; with several nodes 1, since pods must agree.",
        ge=1,
        le=16,
    )
    gpu_type: ObjectName | None = Field(None, description=GPU_TYPE)
    spot: bool | None = Field(
        None,
        description="Count the GPUs at the administrator's spot price. It only selects the price: where the "
        "pods run is said by nodeSelector and tolerations.",
    )
    cpu: Quantity | None = Field(
        None,
        description="CPU of each training pod, for example 8; an engine that scores has the share of its "
        "GPUs. Default: what the administrator gives for each GPU.",
    )
    memory: Quantity | None = Field(
        None,
        description="Memory of each training pod, for example 64Gi; an engine that scores has the share of "
        "its GPUs. Default: what the administrator gives for each GPU.",
    )
    shared_memory: Quantity | None = Field(None, description=SHARED_MEMORY)


class Workspace(ApiModel):
    """The volume that holds base model, rows, checkpoints and results while the run lasts."""

    rules = (
        Cel(
            "!has(self.claimName) || !(has(self.size) || has(self.storageClassName))",
            "claimName names an existing volume; remove it, or remove size and storageClassName",
            ".claimName",
        ),
    )

    storage_class_name: ObjectName | None = Field(
        None, description="Storage class of the volume. Default: the cluster's default class."
    )
    size: Quantity | None = Field(None, description="Size of the volume, for example 50Gi.")
    claim_name: ObjectName | None = Field(
        None, description="An existing PersistentVolumeClaim to use instead of a new one."
    )


class RunScheduling(Scheduling):
    """Who admits the pods that hold GPUs, and which come first."""

    queue_name: Annotated[str, Field(min_length=1, max_length=63), OBJECT_NAME] | None = Field(
        None,
        description="LocalQueue of Kueue in this namespace that admits the stages that hold GPUs. Default: "
        "they start as soon as nodes have room.",
    )


class Output(ApiModel):
    """Where the result goes."""

    destination: Annotated[str, PVC_FOLDER] = Field(
        description="Folder for the adapter (or model) and its manifest, pvc://CLAIM/PATH.",
        min_length=1,
        max_length=512,
    )


_IMMUTABLE = (
    "spec cannot be changed, a FineTuneJob is one run; only suspend and ttlSecondsAfterFinished may change, "
    "evaluation.accept may grow and budget.limit may be raised. Create a FineTuneJob with a new name instead"
)
_PROCESSES = (
    "self.?resources.?nodes.orValue(1) * (self.?resources.?gpusPerNode.orValue(1) > 0 ? "
    "self.?resources.?gpusPerNode.orValue(1) : self.?resources.?processesPerNode.orValue(1))"
)
# has() and not `.?accept.orValue([])`: the API server cannot bound the cost of the latter and refuses it.
_ACCEPTS = "has(self.evaluation) && has(self.evaluation.accept)"
_ACCEPT_GROWS = (
    "(!has(oldSelf.evaluation) || !has(oldSelf.evaluation.accept) || "
    f"oldSelf.evaluation.accept.all(a, {_ACCEPTS} && a in self.evaluation.accept))"
)

_BUDGET_GROWS = (
    "(has(self.budget) ? has(oldSelf.budget) && self.budget.currency == oldSelf.budget.currency && "
    "double(self.budget.limit) >= double(oldSelf.budget.limit) : !has(oldSelf.budget))"
)


def _unchanged(model: type[ApiModel], but: set[str], prefix: str = "") -> str:
    """The comparison of every field of a model with its old value, without the named ones.

    has() and not `self.?x == oldSelf.?x`: the API server cannot bound the cost of the latter.
    """
    return " && ".join(
        _same(f"{prefix}.{field.alias or name}", required=field.is_required())
        for name, field in model.model_fields.items()
        if (field.alias or name) not in but
    )


def _same(path: str, *, required: bool) -> str:
    new, old = f"self{path}", f"oldSelf{path}"
    return f"{new} == {old}" if required else f"(has({new}) ? has({old}) && {new} == {old} : !has({old}))"


class FineTuneJobSpec(ApiModel):
    """One run. What is left out is chosen by the system and shown in status.resolved."""

    rules: ClassVar[tuple[Cel, ...]] = (
        Cel(
            "!has(self.lora) || !has(self.method) || self.method != 'Full'",
            "spec.lora belongs to methods LoRA and QLoRA; remove it, or set spec.method: LoRA",
            ".lora",
        ),
        Cel(
            "!has(self.fallbackMethod) || !has(self.method) || self.method == 'LoRA'",
            "spec.fallbackMethod says what to do where LoRA cannot fit; remove it, or set spec.method: LoRA",
            ".fallbackMethod",
        ),
        Cel(
            "self.?evaluation.?dataset.hasValue() || "
            f"({_ACCEPTS} && 'EvalMissing' in self.evaluation.accept)",
            "a run needs an evaluation: set spec.evaluation.dataset and graders, or accept to ship without "
            "knowing whether the model is better with spec.evaluation.accept: [EvalMissing]",
            ".evaluation",
        ),
        Cel(
            f"self.?training.?effectiveBatchSize.orValue(0) % ({_PROCESSES}) == 0",
            "spec.training.effectiveBatchSize must be divisible by the number of processes: resources.nodes "
            "times resources.gpusPerNode (on the CPU times processesPerNode where it is set)",
            ".training",
        ),
        Cel(
            "!has(self.training) || !has(self.training.zeroStage) || self.training.zeroStage in [0, 3] || "
            "(has(self.method) && self.method == 'Full')",
            "with methods LoRA and QLoRA spec.training.zeroStage is 0 (every GPU holds the base model) or 3 "
            "(the GPUs share it); set one of them, or set spec.method: Full",
            ".training",
        ),
        Cel(
            "!has(self.training) || !has(self.training.offload) || "
            "(has(self.method) && self.method == 'Full')",
            "spec.training.offload belongs to method Full; remove it, or set spec.method: Full",
            ".training",
        ),
        Cel(
            "!has(self.evaluation) || !has(self.evaluation.engine) || !has(self.method) || "
            "self.method != 'Full'",
            "spec.evaluation.engine: a ModelServer loads adapters, and method Full makes a whole model; "
            "remove engine, and the run scores it with an engine of its own",
            ".evaluation.engine",
        ),
        Cel(
            "!has(self.budget) || self.?resources.?gpusPerNode.orValue(1) > 0 || "
            "self.?evaluation.?judge.?pricePerMillionInputTokens.hasValue()",
            "spec.budget limits what GPUs and a judge with prices cost, and with resources.gpusPerNode: 0 "
            "this run has neither; remove budget, or give the prices of spec.evaluation.judge",
            ".budget",
        ),
    )

    goal: Goal | None = Field(
        None,
        description="What the tuning is for. It changes nothing about the run; Knowledge is advised against, "
        "since facts are better looked up (retrieval) than trained, see the condition Advised.",
    )
    knowledge_changes: Pace | None = Field(
        None,
        description="How often the facts that the model must know change. It changes nothing about the run; "
        "facts that change every month or faster call for retrieval, see the condition Advised.",
    )
    base_model: BaseModelSource = Field(description="The model to tune.")
    method: Method = Field(
        "LoRA",
        description="LoRA trains a small adapter; QLoRA trains one against a base in 4 bits (NF4), which "
        "needs a quarter of the memory and costs some quality and speed; Full trains every weight and "
        "publishes a model. An adapter is scored and served on the base as it was published.",
    )
    fallback_method: FallbackMethod | None = Field(
        None,
        description="QLoRA: use it where the memory plan shows that LoRA cannot fit; status.resolved.method "
        "says which is in force.",
    )
    lora: Lora | None = Field(None, description="Size and place of the adapter, for methods LoRA and QLoRA.")
    dataset: TrainingDataset = Field(description="The training data.")
    training: Training | None = Field(
        None, description="How long and how fast to train, and how memory is used."
    )
    evaluation: Evaluation | None = Field(
        None,
        description="How base and tuned model are compared. Required, unless accept: [EvalMissing] says that "
        "the run may go without.",
    )
    resources: Resources = Field(Resources(), description="What training gets. Default: one GPU.")
    node_selector: NodeSelector = Field(
        default_factory=dict,
        description="Labels that a node must have to run the pods that hold GPUs (without GPUs all pods), as "
        "in a pod's nodeSelector. Of a run with GPUs prepare and publish obey zone and region alone and run "
        "where the administrator says.",
    )
    tolerations: Tolerations = Field((), description=TOLERATIONS)
    pod_template: PodTemplate = Field(PodTemplate(), description="What the pods of all stages carry.")
    scheduling: RunScheduling = Field(
        RunScheduling(), description="Who admits the pods that hold GPUs, and which come first."
    )
    workspace: Workspace = Field(Workspace(), description="The volume that the run works on.")
    output: Output = Field(description="Where the result is published.")
    budget: Budget | None = Field(
        None, description="What the GPUs and the judge of the run may cost. Default: no limit."
    )
    savings: Savings | None = Field(
        None, description="What the tuned model saves in use, for the break-even in status.cost."
    )
    suspend: bool = Field(
        False, description="Stop the pods and keep the checkpoints; false goes on from the newest one."
    )
    ttl_seconds_after_finished: int | None = Field(
        None,
        description="Delete pods and workspace this long after the end. The FineTuneJob itself stays.",
        ge=0,
        le=2**31 - 1,
    )

    @property
    def datasets(self) -> dict[str, DatasetSource]:
        """Every data set of the run by the field of the spec that holds it."""
        judged_on = self.evaluation.datasets if self.evaluation is not None else {}
        return {"spec.dataset": self.dataset, **judged_on}

    @property
    def accepted(self) -> tuple[Acceptance, ...]:
        """The verdicts that the user accepted."""
        return self.evaluation.accept if self.evaluation is not None else ()

    @property
    def scoring_engine(self) -> ScoringEngine | None:
        """The ModelServer that scores, None for a run with an engine of its own."""
        return self.evaluation.engine if self.evaluation is not None else None


def immutability() -> Cel:
    """The one rule that lists what may change; every other field, also a new one, may not.

    It begins with what holds for every write of a status: field by field the API server takes twice as long.
    """
    fixed = _unchanged(FineTuneJobSpec, {"suspend", "ttlSecondsAfterFinished", "evaluation", "budget"})
    judged = _unchanged(Evaluation, {"accept"}, ".evaluation")
    evaluation = f"(has(self.evaluation) && has(oldSelf.evaluation) ? {judged} : !has(oldSelf.evaluation))"
    changed = f"{fixed} && {evaluation} && {_ACCEPT_GROWS} && {_BUDGET_GROWS}"
    return Cel(f"self == oldSelf || ({changed})", _IMMUTABLE)


FineTuneJobSpec.rules = (immutability(), *FineTuneJobSpec.rules)


class FineTuneJob(ApiObject):
    """One fine-tuning run: prepare, score the base, train, score the result, publish it with its verdict."""

    kind_name: ClassVar[str] = "FineTuneJob"
    plural: ClassVar[str] = "finetunejobs"

    spec: FineTuneJobSpec
    status: FineTuneJobStatus = FineTuneJobStatus()
