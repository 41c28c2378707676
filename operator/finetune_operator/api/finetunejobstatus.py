"""The status of a FineTuneJob; numbers that are not counts are strings (API conventions)."""

from __future__ import annotations

from typing import Annotated, Literal, TypeAlias

from pydantic import Field, JsonValue

from finetune_operator.api.evaluation.scores import Scores
from finetune_operator.api.objects import Status
from finetune_operator.api.parts import Number
from finetune_operator.api.schema import ApiModel

StageName: TypeAlias = Literal[
    "prepare", "baseline", "grade-base", "train", "evaluate", "grade-tuned", "publish"
]
AttemptState: TypeAlias = Literal["Recorded", "Running", "Succeeded", "Failed"]
DATE_TIME: dict[str, JsonValue] = {"format": "date-time"}
STAGES: tuple[StageName, ...] = (
    "prepare", "baseline", "grade-base", "train", "evaluate", "grade-tuned", "publish",
)  # fmt: skip
GPU_STAGES: frozenset[str] = frozenset({"baseline", "train", "evaluate"})
"""The stages whose pods hold GPUs, where the run has any; re-emitting their results takes none."""
CODE_STAGES: frozenset[str] = frozenset({"grade-base", "grade-tuned"})
"""The stages that run what a model wrote or a user's image holds, cut off from the network; only of runs
with graders that do (IN_OWN_POD).
"""


class Progress(ApiModel):
    """How far the running stage is; refreshed while it runs."""

    percent: int | None = Field(None, description="Share of the stage that is done.", ge=0, le=100)
    step: int | None = Field(None, description="Steps done.", ge=0)
    total_steps: int | None = Field(None, description="Steps of the stage.", ge=0)
    loss: Number | None = Field(None, description="Training loss of the last steps.")
    tokens_per_second: Number | None = Field(None, description="Training speed over all processes.")
    eta_seconds: int | None = Field(None, description="Expected time to the end of the stage.", ge=0)
    eta: str | None = Field(None, description="etaSeconds for people, for example 3m.", max_length=32)
    message: str | None = Field(None, description="What the stage is doing.", max_length=1024)
    step_seconds: Number | None = Field(None, description="Median time of the last steps.")
    stepped_at: str | None = Field(
        None, description="When the step last changed.", json_schema_extra=DATE_TIME
    )
    silent_since: str | None = Field(
        None,
        description="Since when the stage does not answer the operator: all numbers are as old as this.",
        json_schema_extra=DATE_TIME,
    )


class Waiting(ApiModel):
    """What keeps the current attempt from working, and for how long it may."""

    reason: str = Field(description="One word, as in the condition Admitted.", max_length=128)
    message: str = Field(description="What is wrong, and what to do.", max_length=1024)
    node: str | None = Field(None, description="The node it happened on.", max_length=253)
    since: str = Field(description="Since when.", json_schema_extra=DATE_TIME)
    until: str | None = Field(
        None,
        description="When the attempt is given up and its GPUs are let go, by the administrator's deadlines. "
        "Left out: it may wait for as long as it takes.",
        json_schema_extra=DATE_TIME,
    )


class Attempt(ApiModel):
    """One try at a stage. It is recorded before its Job is created, and its outcome is final."""

    stage: StageName = Field(description="The stage.")
    number: int = Field(description="1 for the first try.", ge=1)
    job: str = Field(description="Name of its Job.", max_length=63)
    state: AttemptState = Field(description="How far it is.")
    reason: str | None = Field(None, description="Why it ended, one word.", max_length=128)
    message: str | None = Field(None, description="Why it ended, a sentence.", max_length=1024)
    start_time: str | None = Field(None, description="When its Job was created.", json_schema_extra=DATE_TIME)
    finish_time: str | None = Field(None, description="When it ended.", json_schema_extra=DATE_TIME)
    gpus: int | None = Field(None, description="GPUs of its pods, if they have any.", ge=0)
    price_per_hour: Number | None = Field(
        None, description="Price of one GPU for an hour when the attempt was recorded."
    )
    held_seconds: int | None = Field(
        None,
        description="How long its pods had their nodes, without the time since heldSince: from the first "
        "pod's placing to the last one's end, as far as the operator saw them.",
        ge=0,
    )
    held_since: str | None = Field(
        None, description="Since when its pods have their nodes now.", json_schema_extra=DATE_TIME
    )
    reemits: bool | None = Field(
        None, description="Whether it only reads, without GPUs, what an attempt whose result was lost stored."
    )
    checkpoint_step: int | None = Field(
        None, description="Step of its newest complete checkpoint, from which the next attempt resumes.", ge=0
    )
    node: str | None = Field(
        None, description="The node it failed on, which the next attempts avoid if they can.", max_length=253
    )
    judge_cost: Number | None = Field(
        None, description="What its judge cost so far, by the prices of spec.evaluation.judge."
    )
    server_template: str | None = Field(
        None,
        description="The ControllerRevision that the pods of its ModelServer ran by when it began to score.",
        max_length=253,
    )
    failed_grader: str | None = Field(
        None,
        description="The container of the grader that ended it. The next attempts do without that grader, "
        "which leaves its rows ungraded.",
        max_length=63,
    )
    disruption: str | None = Field(
        None,
        description="What takes its pods away, while something does: they may be gone before their result is "
        "read.",
        max_length=1024,
    )
    sums_up: int | None = Field(
        None,
        description="How many disrupted attempts with the same GPUs and price this entry stands for, where a "
        "run has too many to list.",
        ge=2,
    )


class ResolvedTraining(ApiModel):
    """The training settings in force."""

    epochs: int | None = Field(None, description="Passes over the data.", ge=0)
    learning_rate: Number | None = Field(None, description="Peak learning rate.")
    effective_batch_size: int | None = Field(None, description="Rows of one optimizer step.", ge=0)
    max_length: int | None = Field(None, description="Longest row in tokens.", ge=0)
    seed: int | None = Field(None, description="Seed of everything random.", ge=0)
    steps: int | None = Field(None, description="Optimizer steps of the run.", ge=0)


class ResolvedLora(ApiModel):
    """The adapter settings in force."""

    rank: int | None = Field(None, description="Rank of the adapter.", ge=0)
    alpha: int | None = Field(None, description="Scale of the adapter.", ge=0)
    rank_stabilized: bool | None = Field(
        None, description="Whether the scale is alpha / sqrt(rank) instead of alpha / rank."
    )
    target_modules: tuple[Annotated[str, Field(max_length=64)], ...] = Field(
        (), description="Names of the layers that the adapter sits on.", max_length=32
    )


class Resolved(ApiModel):
    """What the run really uses: pins, counts, and what the system chose."""

    spec_digest: str | None = Field(
        None, description="Digest of the part of the spec that decides the result.", max_length=71
    )
    base_name: str | None = Field(None, description="Name of the base model.", max_length=512)
    base_revision: str | None = Field(None, description="Commit of the base model.", max_length=64)
    base_fingerprint: str | None = Field(None, description="Fingerprint of the base model.", max_length=71)
    rows: int | None = Field(None, description="Training rows.", ge=0)
    holdout_rows: int | None = Field(None, description="Rows of the hold-out.", ge=0)
    tokens: int | None = Field(None, description="Tokens of the training data.", ge=0)
    dataset_digest: str | None = Field(None, description="Digest of the training data.", max_length=71)
    holdout_digest: str | None = Field(None, description="Digest of the hold-out.", max_length=71)
    training: ResolvedTraining | None = Field(None, description="The training settings in force.")
    method: str | None = Field(
        None, description="The method in force: spec.method, or spec.fallbackMethod.", max_length=16
    )
    lora: ResolvedLora | None = Field(None, description="The adapter settings in force.")
    severities: Annotated[dict[str, Annotated[str, Field(max_length=16)]], Field(max_length=64)] | None = (
        Field(None, alias="rules", description="Data rules whose severity spec.dataset.rules overrode.")
    )
    warnings: tuple[Annotated[str, Field(max_length=1024)], ...] = Field(
        (), description="What to know about the data or settings.", max_length=32
    )


class MemoryPlan(ApiModel):
    """How training uses the memory of each GPU: computed before any GPU is asked for, measured afterwards.

    So is what a checkpoint takes.
    """

    fits: bool | None = Field(None, description="Whether the plan fits.")
    tight: bool | None = Field(
        None,
        description="Whether the expected peak is within 5 % of the limit, see the condition Advised.",
    )
    peak_gib: Number | None = Field(
        None, alias="peakGiB", description="Highest use that is expected, in GiB."
    )
    measured_gib: Number | None = Field(
        None, alias="measuredGiB", description="Highest use that training measured, in GiB."
    )
    limit_gib: Number | None = Field(
        None, alias="limitGiB", description="What may be used: 90 % of the memory, in GiB."
    )
    gpu_memory_gib: Number | None = Field(
        None, alias="gpuMemoryGiB", description="Memory of one GPU, in GiB, from the administrator's table."
    )
    host_gib: Number | None = Field(
        None,
        alias="hostGiB",
        description="Memory that each pod needs on its node, in GiB: start-up, and what is offloaded.",
    )
    breakdown: Annotated[dict[str, Number], Field(max_length=16)] | None = Field(
        None, description="What the expected peak consists of, in GiB."
    )
    zero_stage: int | None = Field(None, description="ZeRO stage in force.", ge=0)
    micro_batch_tokens: int | None = Field(None, description="Tokens that one GPU processes at once.", ge=0)
    gradient_checkpointing: str | None = Field(
        None,
        description="Whether activations are computed a second time: Enabled, Selective or Disabled.",
        max_length=16,
    )
    offload: str | None = Field(
        None, description="What waits in the memory of the node: None, Optimizer or All.", max_length=16
    )
    scoring_gpus: int | None = Field(
        None, description="GPUs that the base needs to be scored; the engine shares it over them.", ge=0
    )
    checkpoint_bytes: int | None = Field(
        None, description="Expected size of a checkpoint; the workspace holds two.", ge=0
    )
    checkpoint_seconds: Number | None = Field(
        None,
        description="How long training took for its last checkpoint, for the next attempt's grace period.",
    )


class Cost(ApiModel):
    """What the run is expected to take and cost, and what it has cost. Money is in `currency`."""

    estimate: Number | None = Field(None, description="Expected cost of the run.")
    low: Number | None = Field(None, description="Lower bound of the estimate.")
    high: Number | None = Field(None, description="Upper bound of the estimate.")
    spent: Number | None = Field(
        None,
        description="Cost so far: for every attempt, lost ones and evaluation included, the time that its "
        "pods had their nodes (status.attempts) x GPUs x price, and what the judge cost. The current attempt "
        "counts in whole minutes. "
        "What a cloud bills for nodes without pods is not in it.",
    )
    currency: str | None = Field(None, description="Currency of all amounts.", max_length=3)
    hours: Number | None = Field(None, description="Expected hours on the GPUs.")
    hours_low: Number | None = Field(None, description="Lower bound of the hours.")
    hours_high: Number | None = Field(None, description="Upper bound of the hours.")
    expected_mfu: Number | None = Field(
        None,
        description="Share of the GPU's peak arithmetic (model FLOPs utilisation) that the estimate assumes.",
    )
    calibrated: bool | None = Field(
        None,
        description="Whether the estimate rests on finished runs of this namespace with the same gpuType and "
        "method.",
    )
    mfu: Number | None = Field(None, description="The share of peak arithmetic that training measured.")
    per_month_saved: Number | None = Field(
        None, description="What the tuned model saves in a month of use, by spec.savings."
    )
    break_even_days: Number | None = Field(
        None, description="Days of use after which the run has paid for itself, by spec.savings."
    )


class Artifact(ApiModel):
    """What was published."""

    destination: str = Field(description="Where it is.", max_length=512)
    digest: str = Field(description="sha256:... of its manifest.json.", max_length=71)
    promoted: bool = Field(False, description="Whether it passed the gate, or was accepted.")
    verdict: str | None = Field(None, description="The verdict in its manifest.", max_length=64)


class PinnedProfile(ApiModel):
    """The engine profile of spec.evaluation as it was when the run started."""

    args: tuple[Annotated[str, Field(max_length=1024)], ...] = Field(
        (), description="Its arguments, which follow those of all engines.", max_length=64
    )
    env: Annotated[dict[str, Annotated[str, Field(max_length=32768)]], Field(max_length=256)] = Field(
        default_factory=dict, description="Its environment variables."
    )


class Pinned(ApiModel):
    """The images and engine arguments that the run started with: base and tuned model are scored alike."""

    trainer_image: str = Field(description="Image of the stages.", max_length=512)
    serving_image: str = Field(description="Image of the engine that scores.", max_length=512)
    engine_args: tuple[Annotated[str, Field(max_length=1024)], ...] = Field(
        (), description="The administrator's arguments for the engine.", max_length=64
    )
    engine_profile: PinnedProfile | None = Field(
        None,
        description="What the profile that spec.evaluation.engineProfile names adds to them; empty without "
        "one, absent in runs that an operator without engine profiles started.",
    )


class Candidate(ApiModel):
    """What the run asks of a ModelServer while it scores there: to hold its adapter, without any alias."""

    server: str = Field(description="The ModelServer.", max_length=253)
    version: str = Field(description="The name of the version in the server.", max_length=128)
    source: str = Field(description="Where the adapter is.", max_length=512)
    digest: str = Field(description="sha256:... of its manifest.json.", max_length=71)
    key: str | None = Field(
        None, description="The entry of the server's API keys that may call it.", max_length=253
    )


class FineTuneJobStatus(Status):
    """How the run stands."""

    stage: str | None = Field(None, description="What the run is doing, for display.", max_length=64)
    progress: Progress | None = Field(None, description="How far the running stage is.")
    waiting: Waiting | None = Field(
        None, description="What keeps the current attempt from working; left out while it works."
    )
    attempts: tuple[Attempt, ...] = Field((), description="Every try at a stage, in order.", max_length=256)
    pinned: Pinned | None = Field(
        None,
        description="Images and engine arguments of the run, from its first attempt on; an upgrade of the "
        "operator does not change them.",
    )
    resolved: Resolved | None = Field(None, description="What the run really uses.")
    plan: MemoryPlan | None = Field(None, description="How training uses the memory of each GPU.")
    cost: Cost | None = Field(None, description="What the run is expected to cost, and what it has cost.")
    scores: Scores | None = Field(None, description="Base and tuned model compared.")
    candidate: Candidate | None = Field(
        None, description="The adapter that a ModelServer holds for this run while evaluate scores it there."
    )
    artifact: Artifact | None = Field(None, description="What was published.")
    start_time: str | None = Field(None, description="When the run began.", json_schema_extra=DATE_TIME)
    completion_time: str | None = Field(None, description="When the run ended.", json_schema_extra=DATE_TIME)
