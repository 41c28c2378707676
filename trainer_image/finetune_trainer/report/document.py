"""report.json: what is known about a job before any GPU is touched, and how it ended (trainer -> users)."""

from itertools import pairwise
from typing import Any, Literal, Self

from pydantic import ConfigDict, Field, FiniteFloat, NonNegativeInt, model_validator
from pydantic.alias_generators import to_camel

from finetune_trainer.contracts.document import Digest, Document
from finetune_trainer.data.findings import Finding, Override
from finetune_trainer.evaluation.document import Evaluation

_SMALLEST_SHOWN = 0.05  # GiB


def _with_gib(name: str) -> str:
    """camelCase that writes the unit as units are written: `peak_gib` is `peakGiB`."""
    return to_camel(name).replace("Gib", "GiB")


class JobName(Document):
    """The FineTuneJob that the report is about."""

    namespace: str
    name: str


class DataFile(Document):
    """One file of a data set and its rows."""

    name: str
    rows: NonNegativeInt


class DataSummary(Document):
    """What was read; tokens are null where there is no tokenizer or the data was refused before it."""

    source: str
    format: str | None = None
    files: tuple[DataFile, ...] = ()
    rows: NonNegativeInt
    digest: Digest | None = None
    tokens: NonNegativeInt | None = None
    trained_tokens: NonNegativeInt | None = None


class Histogram(Document):
    """`counts[i]` values lie in [`edges[i]`, `edges[i + 1]`): one edge more than counts."""

    edges: tuple[FiniteFloat, ...]
    counts: tuple[NonNegativeInt, ...]

    @model_validator(mode="after")
    def _edges_surround_counts(self) -> Self:
        rising = all(left < right for left, right in pairwise(self.edges))
        if len(self.edges) != len(self.counts) + 1 or not rising:
            raise ValueError("a histogram has rising edges, one more than counts")
        return self


class Lengths(Document):
    """Tokens per row (rule 27); `answers` counts the trained tokens alone, `limit` is maxLength."""

    min: NonNegativeInt
    p5: NonNegativeInt
    p50: NonNegativeInt
    p95: NonNegativeInt
    max: NonNegativeInt
    total: NonNegativeInt
    trained: NonNegativeInt
    limit: NonNegativeInt | None = None
    histogram: Histogram
    answers: Histogram


class DuplicateGroup(Document):
    """Rows that say the same; `similarity` is their Jaccard similarity, 1 for exact copies."""

    rows: tuple[int, ...]
    similarity: float = Field(ge=0, le=1)


class Duplicates(Document):
    """Rows that repeat another one (rules 31 and 32), with up to ten groups as examples."""

    exact_rows: NonNegativeInt
    exact_groups: NonNegativeInt
    near_rows: NonNegativeInt
    near_groups: NonNegativeInt
    examples: tuple[DuplicateGroup, ...] = Field(default=(), max_length=10)


class Token(Document):
    """One token of the example: whether the model learns to write it, whether it is a special token."""

    text: str
    id: int
    trained: bool
    special: bool = False


class Example(Document):
    """One row exactly as it is trained."""

    row: int
    tokens: tuple[Token, ...]


class Settings(Document):
    """The part of the plan that decides how much memory is needed; micro-batches are per GPU."""

    zero_stage: int = Field(ge=0, le=3)
    micro_batch_tokens: NonNegativeInt
    gradient_checkpointing: str
    offload: str


class MemoryPlan(Document):
    """Memory of one GPU: the `breakdown` adds up to `peak_gib`, which fits up to `limit_gib`."""

    model_config = ConfigDict(alias_generator=_with_gib)

    fits: bool
    tight: bool = False
    method: str | None = None
    gpu: str | None = None
    gpus: int = Field(ge=1)
    peak_gib: FiniteFloat = Field(ge=0)
    limit_gib: FiniteFloat = Field(ge=0)
    gpu_memory_gib: FiniteFloat = Field(ge=0)
    breakdown: dict[str, FiniteFloat]
    host_gib: FiniteFloat = Field(default=0, ge=0)
    chosen: Settings
    suggestion: str | None = None
    measured_peak_gib: FiniteFloat | None = Field(default=None, ge=0)

    @property
    def shown(self) -> dict[str, float]:
        """The parts that do not read 0.0 GiB."""
        return {name: size for name, size in self.breakdown.items() if size >= _SMALLEST_SHOWN}


class Scoring(Document):
    """On how many GPUs the engine scores base and tuned model, and what it needs of each of them."""

    model_config = ConfigDict(alias_generator=_with_gib)

    gpus: int = Field(ge=1)
    gpu: str
    need_gib: FiniteFloat = Field(ge=0)
    limit_gib: FiniteFloat = Field(ge=0)


class Savings(Document):
    """What a shorter prompt saves; `break_even_days` is null when it never pays back."""

    per_month: FiniteFloat
    break_even_days: FiniteFloat | None = None


class Estimate(Document):
    """Time and price of the training; `calibrated` says whether `mfu` was measured in earlier runs.

    Costs are null where the administrator's table has no price.
    """

    tokens: NonNegativeInt
    hours: FiniteFloat = Field(ge=0)
    hours_low: FiniteFloat = Field(ge=0)
    hours_high: FiniteFloat = Field(ge=0)
    cost: FiniteFloat | None = Field(default=None, ge=0)
    cost_low: FiniteFloat | None = Field(default=None, ge=0)
    cost_high: FiniteFloat | None = Field(default=None, ge=0)
    currency: str | None = None
    mfu: FiniteFloat
    calibrated: bool
    budget: FiniteFloat | None = Field(default=None, ge=0)
    savings: Savings | None = None


class Advice(Document):
    """Something to think about before training; it changes nothing."""

    reason: str
    message: str


class Datasets(Document):
    """The two data sets of a job."""

    train: DataSummary
    holdout: DataSummary | None = None


class Report(Document):
    """The whole report; a part that was not looked at is null. `training` and `lora` are as in prepare."""

    schema_version: Literal[1] = 1
    kind: Literal["Report"] = "Report"
    job: JobName | None = None
    datasets: Datasets
    findings: tuple[Finding, ...] = ()
    lengths: Lengths | None = None
    duplicates: Duplicates | None = None
    example: Example | None = None
    memory: MemoryPlan | None = None
    scoring: Scoring | None = None
    estimate: Estimate | None = None
    training: dict[str, Any] | None = None
    lora: dict[str, Any] | None = None
    advice: tuple[Advice, ...] = ()
    overrides: dict[str, Override] = Field(default_factory=dict)
    evaluation: Evaluation | None = None
