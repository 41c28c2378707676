"""The evaluation of job.json: the hold-out, the graders and the gate."""

from decimal import Decimal
from typing import Annotated, Literal

from pydantic import Field, StringConstraints, model_validator

from finetune_trainer.contracts.document import Document
from finetune_trainer.contracts.sources import DatasetSpec

# Part of the names of files.
Name = Annotated[str, StringConstraints(pattern=r"^[a-z0-9]([a-z0-9-]*[a-z0-9])?$", max_length=40)]
GraderType = Literal[
    "ExactMatch",
    "OneOf",
    "Contains",
    "Regex",
    "FieldMatch",
    "JsonSchema",
    "ToolCall",
    "Similarity",
    "Perplexity",
    "Python",
    "JudgeCriteria",
    "JudgePairwise",
    "CodeAssert",
    "Container",
]
SimilarityMetric = Literal["RougeL", "ChrF"]
IN_OWN_POD: frozenset[GraderType] = frozenset({"CodeAssert", "Container"})
"""The types that run code of a model or of a user, in a pod without network."""
_PROGRAM_SECONDS = 60
JUDGED: frozenset[GraderType] = frozenset({"JudgeCriteria", "JudgePairwise"})
"""The types that another model grades: they need `judge`."""

# What each type of grader needs beside its name, and what it may have.
SETTINGS: dict[GraderType, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "ExactMatch": ((), ()),
    "OneOf": ((), ("values",)),
    "Contains": ((), ("values",)),
    "Regex": (("pattern",), ()),
    "FieldMatch": (("fields",), ("pattern", "tolerance")),
    "JsonSchema": (("schema_text",), ()),
    "ToolCall": ((), ()),
    "JudgeCriteria": (("criteria",), ()),
    "JudgePairwise": (("criteria",), ()),
    "Similarity": (("metric",), ()),
    "Perplexity": ((), ()),
    "Python": (("grader",), ()),
    "CodeAssert": ((), ("tests", "timeout_seconds")),
    "Container": (("image",), ("command", "timeout_seconds")),
}
# Types whose score says too little about whether an answer is right to decide anything.
SECONDARY: frozenset[GraderType] = frozenset({"Similarity", "Perplexity"})
_ALL_SETTINGS = sorted({name for needed, optional in SETTINGS.values() for name in needed + optional})


class GraderSpec(Document):
    """One way to score an output against its reference."""

    name: str = Field(min_length=1)
    type: GraderType
    fields: tuple[str, ...] | None = Field(None, min_length=1)
    schema_text: str | None = Field(None, alias="schema", description="a JSON Schema as text")
    margin: Annotated[Decimal, Field(ge=0, le=1)] | None = Field(
        None, description="how much worse the tuned model may score by a grader that does not decide"
    )
    criteria: tuple[Annotated[str, Field(min_length=1, max_length=512)], ...] | None = Field(
        None, min_length=1, max_length=16, description="sentences that a judge decides about"
    )
    values: tuple[str, ...] | None = Field(None, min_length=1)
    pattern: str | None = Field(None, description="a regular expression of Python's `regex` package")
    tolerance: Annotated[Decimal, Field(ge=0, le=1)] | None = Field(
        None, description="how far a number may be off, as a fraction of the expected one"
    )
    metric: SimilarityMetric | None = None
    grader: str | None = Field(
        None, pattern=r"^[A-Za-z_][\w.]*:[A-Za-z_]\w*$", description="the class, as package.module:Class"
    )

    tests: str | None = Field(None, min_length=1, description="Python code that every answer has to pass")
    timeout_seconds: int | None = Field(
        None,
        ge=1,
        le=3600,
        description="how long one answer may run (CodeAssert: at most 60) or a container",
    )
    image: str | None = Field(None, pattern=r"@sha256:[0-9a-f]{64}$", description="with its digest")
    command: tuple[str, ...] | None = Field(
        None, min_length=1, description="what runs instead of the image's entry point"
    )

    @model_validator(mode="after")
    def _has_what_its_type_needs(self) -> "GraderSpec":
        needed, optional = SETTINGS[self.type]
        for name in _ALL_SETTINGS:
            given = getattr(self, name) is not None
            if name in needed and not given:
                raise ValueError(f"grader {self.name!r} of type {self.type} needs `{_public(name)}`")
            if given and name not in needed + optional:
                raise ValueError(f"grader {self.name!r} of type {self.type} takes no `{_public(name)}`")
        if self.type == "CodeAssert" and (self.timeout_seconds or 0) > _PROGRAM_SECONDS:
            raise ValueError(f"grader {self.name!r}: a program may run for {_PROGRAM_SECONDS} s at most")
        return self

    @property
    def allowed_loss(self) -> float:
        """The margin of a grader that does not decide (a fraction, default 0.05)."""
        return 0.05 if self.margin is None else float(self.margin)


def _public(name: str) -> str:
    return GraderSpec.model_fields[name].alias or name


class GateSpec(Document):
    """When a tuned model is promoted; `minDelta` is a fraction (0.05 = five points)."""

    min_delta: Annotated[Decimal, Field(ge=0, le=1)] | None = None


# A spec is no place for secrets: no user names, no query.
Url = Annotated[str, StringConstraints(pattern=r"^https?://[^\s?#@]+$")]


class SuiteSpec(Document):
    """Questions outside of the task; the grader's margin is how much of the score may be lost on them."""

    name: Name
    dataset: DatasetSpec
    grader: GraderSpec

    @model_validator(mode="after")
    def _decides_without_a_judge(self) -> "SuiteSpec":
        if self.grader.type in JUDGED | SECONDARY:
            text = f"suite {self.name!r} needs a grader that decides without a judge"
            raise ValueError(f"{text}; {self.grader.type} does not")
        return self


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


class JudgeSpec(Document):
    """The model behind an OpenAI-compatible API that judges answers; prices are per million tokens.

    Its API key is mounted (sources/credentials.py), never written here.
    """

    url: Url
    model: str = Field(min_length=1)
    price_per_million_input_tokens: Annotated[Decimal, Field(ge=0)] | None = None
    price_per_million_output_tokens: Annotated[Decimal, Field(ge=0)] | None = None
    timeout_seconds: int | None = Field(None, ge=1, le=600)
    max_concurrency: int | None = Field(None, ge=1, le=64)

    @model_validator(mode="after")
    def _both_prices_or_none(self) -> "JudgeSpec":
        if (self.price_per_million_input_tokens is None) != (self.price_per_million_output_tokens is None):
            raise ValueError("give both prices of the judge, of input and of output tokens, or neither")
        return self

    @property
    def request_seconds(self) -> int:
        """How long one request may take (default 60 s)."""
        return self.timeout_seconds or 60

    @property
    def concurrency(self) -> int:
        """How many requests may be under way at once (default 8)."""
        return self.max_concurrency or 8

    def cost(self, input_tokens: int, output_tokens: int) -> Decimal | None:
        """What so many tokens cost; None without prices."""
        given, written = self.price_per_million_input_tokens, self.price_per_million_output_tokens
        if given is None or written is None:
            return None
        return (given * input_tokens + written * output_tokens) / 1_000_000


class MlflowSpec(Document):
    """The MLflow tracking server that gets a run; its token is mounted."""

    tracking_uri: Url
    experiment: str = Field(min_length=1)


class OpenTelemetrySpec(Document):
    """The collector that gets a span for each answer, by OTLP over HTTP; its token is mounted."""

    endpoint: Url


class ExportSpec(Document):
    """Where publish sends the evaluation."""

    mlflow: MlflowSpec | None = None
    open_telemetry: OpenTelemetrySpec | None = None


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
    judge: JudgeSpec | None = None
    export: ExportSpec | None = None

    @model_validator(mode="after")
    def _primary_is_a_grader(self) -> "EvaluationSpec":
        names = [grader.name for grader in self.graders]
        if self.primary is None and len(names) > 1:
            raise ValueError(f"`primary` must name one of the graders {', '.join(names)}")
        if self.primary is not None and self.primary not in names:
            raise ValueError(f"`primary` is {self.primary!r}; it must be one of {', '.join(names)}")
        if self.primary_grader.margin is not None:
            text = f"grader {self.primary_grader.name!r} decides, so it takes no `margin`"
            raise ValueError(f"{text}: it is judged by gate.minDelta")
        if (chosen := self.primary_grader).type in SECONDARY:
            raise ValueError(
                f"grader {chosen.name!r} of type {chosen.type} cannot be `primary`; name another"
            )
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
        nothing = dict.fromkeys(("primary", "regression", "rivals", "judge"))
        return self.model_copy(update=own | nothing)

    @model_validator(mode="after")
    def _judged_by_somebody(self) -> "EvaluationSpec":
        judged = [grader.name for grader in self.graders if grader.type in JUDGED]
        if judged and self.judge is None:
            raise ValueError(f"grader {judged[0]!r} needs a judge; set `judge` to its url and model")
        if self.judge is not None and not judged:
            raise ValueError("no grader asks `judge`; remove it, or add a JudgeCriteria or JudgePairwise")
        if self.graders_of("JudgePairwise") and not self.deciding_alone:
            text = "JudgePairwise compares two models; add a grader that scores the base alone"
            raise ValueError(f"{text}, before training")
        return self

    def graders_of(self, kind: GraderType) -> list[GraderSpec]:
        """The graders of one type."""
        return [grader for grader in self.graders if grader.type == kind]

    @property
    def runs_code(self) -> bool:
        """Whether grading runs code of a model or of a user, which takes a pod of its own."""
        graders = [*self.graders, *(suite.grader for suite in self.suites)]
        return any(grader.type in IN_OWN_POD for grader in graders)

    @property
    def baseline_grader(self) -> GraderSpec:
        """What scores the base alone: the primary grader, or the first other where that one compares."""
        return self.primary_grader if self.primary_grader in self.deciding_alone else self.deciding_alone[0]

    @property
    def baseline_graders(self) -> list[GraderSpec]:
        """The graders that score one model alone, before there is another."""
        return [grader for grader in self.graders if grader.type != "JudgePairwise"]

    @property
    def deciding_alone(self) -> list[GraderSpec]:
        """The graders that can decide about one model."""
        return [grader for grader in self.graders if grader.type not in ("JudgePairwise", *SECONDARY)]

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
