"""What a run is judged on: hold-out, graders, the gate, and what the user accepts in advance."""

from __future__ import annotations

from typing import Annotated, Literal, TypeAlias, get_args

from pydantic import Field

from finetune_operator.api.datasets import DatasetSource
from finetune_operator.api.parts import FRACTION, HOST, PATH, ObjectName, Price, SecretRef
from finetune_operator.api.schema import ApiModel, Cel

GraderType: TypeAlias = Literal[
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
]
SimilarityMetric: TypeAlias = Literal["RougeL", "ChrF"]
Acceptance: TypeAlias = Literal[
    "EvalMissing", "PromptingLikelyEnough", "CheckTaskOrData", "NoClearImprovement", "Regressed"
]


ACCEPTABLE: tuple[str, ...] = get_args(Acceptance)
_FRACTION = Cel(
    f"self.matches('{FRACTION}') && double(self) <= 1.0",
    'must be a fraction from 0 to 1 as a string, for example "0.05" for five points',
)
_JUDGED: tuple[GraderType, ...] = ("JudgeCriteria", "JudgePairwise")
_ASKS_A_JUDGE = f"has(self.graders) && self.graders.exists(g, g.type in {list(_JUDGED)})"


def _needs(setting: str, types: tuple[GraderType, ...], what: str) -> Cel:
    """These types need the setting, and no other type has it."""
    named = " and ".join(types)
    return Cel(
        f"(self.type in {list(types)}) == has(self.{setting})",
        f"{setting} belongs to type {named}, which needs it: {what}",
        f".{setting}",
    )


_NAME = Cel(
    "self.matches('^[a-z0-9]([a-z0-9-]*[a-z0-9])?$')",
    "must be lower-case letters, digits and hyphens",
)


def _takes(setting: str, types: tuple[GraderType, ...]) -> Cel:
    """These types may have the setting, and no other type has it."""
    named = " and ".join(types)
    return Cel(
        f"!has(self.{setting}) || self.type in {list(types)}",
        f"{setting} belongs to type {named}; remove it",
        f".{setting}",
    )


class Grader(ApiModel):
    """One way to score an answer against its reference, between 0 and 1."""

    rules = (
        _needs("fields", ("FieldMatch",), "list the JSON fields to compare"),
        _needs("schema", ("JsonSchema",), "give a JSON Schema as text"),
        _needs("criteria", _JUDGED, "give the sentences that the judge decides about"),
        _needs("metric", ("Similarity",), "RougeL or ChrF"),
        _needs("grader", ("Python",), "name the class as package.module:Class"),
        _takes("values", ("OneOf", "Contains")),
        _takes("pattern", ("Regex", "FieldMatch")),
        Cel("self.type != 'Regex' || has(self.pattern)", "type Regex needs a regular expression", ".pattern"),
        _takes("tolerance", ("FieldMatch",)),
        _takes("tests", ("CodeAssert",)),
        _takes("timeoutSeconds", ("CodeAssert",)),
    )

    name: Annotated[str, _NAME] = Field(
        description="Name of the grader in reports and metrics.", min_length=1, max_length=40
    )
    type: GraderType = Field(
        description="ExactMatch compares the whole answer with the reference, OneOf with each of `values` or "
        "of the reference, a JSON list; Contains looks for `values` or the reference in it; Regex searches "
        "it for `pattern`; FieldMatch compares the named fields of a JSON answer, or groups of `pattern`; "
        "JsonSchema checks that it is JSON of the given shape; ToolCall compares the functions that it calls "
        "and their arguments; Similarity measures common wording and Perplexity how likely the "
        "model finds the reference, and both never decide; Python asks a class of your own in the trainer "
        "image; JudgeCriteria asks another model (evaluation.judge) whether the "
        "answer meets each of `criteria`; JudgePairwise asks it which of both models' answers is better by "
        "them, in both orders; CodeAssert runs the answer's Python code and then `tests`, or the column "
        "`tests` of the row, in a pod of its own without network; the expected answer has to pass them too."
    )
    fields: Annotated[
        tuple[Annotated[str, Field(min_length=1, max_length=128)], ...] | None,
        Field(json_schema_extra={"x-kubernetes-list-type": "set"}),
    ] = Field(
        None,
        description="FieldMatch: the fields to compare: keys of a JSON object, JSONPaths "
        "(`$.items[*].name`), or groups of `pattern`. The score is their mean; lists count by the F1 of "
        "their elements.",
        min_length=1,
        max_length=32,
    )
    schema_text: str | None = Field(
        None, alias="schema", description="JsonSchema: the schema, as text.", min_length=2, max_length=16384
    )
    margin: Annotated[str, _FRACTION] | None = Field(
        None,
        description="How much worse than its base the tuned model may score by a grader that is not "
        "spec.evaluation.primary, a fraction as a string (default 0.05). Unless the lower end of the "
        "difference (one-sided 95 %) lies above minus this, the verdict is Regressed; 1 lets any score pass.",
        min_length=1,
        max_length=20,
    )
    criteria: tuple[Annotated[str, Field(min_length=1, max_length=512)], ...] | None = Field(
        None,
        description="JudgeCriteria: sentences that each hold for a good answer or not; the score is the "
        "share that holds. JudgePairwise: what makes an answer better.",
        min_length=1,
        max_length=16,
    )
    values: tuple[Annotated[str, Field(min_length=1, max_length=1024)], ...] | None = Field(
        None,
        description="OneOf: the accepted answers. Contains: texts that must all occur. Left out: what the "
        "reference of each row says.",
        min_length=1,
        max_length=64,
    )
    pattern: str | None = Field(
        None,
        description="Regex: a regular expression to be found in the answer. FieldMatch: one whose named "
        "groups (`(?P<name>...)`) are the fields of an answer that is no JSON.",
        min_length=1,
        max_length=4096,
    )
    tolerance: (
        Annotated[
            str,
            Cel(
                f"self.matches('{FRACTION}') && double(self) <= 1.0",
                'must be a fraction from 0 to 1 as a string, for example "0.01" for one per cent',
            ),
        ]
        | None
    ) = Field(
        None,
        description="FieldMatch: how far numbers may be off, a fraction of the expected number as a string.",
        min_length=1,
        max_length=20,
    )
    metric: SimilarityMetric | None = Field(
        None,
        description="Similarity: RougeL for the longest common sequence of words, ChrF for common pieces of "
        "words.",
    )
    grader: (
        Annotated[
            str,
            Cel(
                "self.matches('^[A-Za-z_][A-Za-z0-9_.]*:[A-Za-z_][A-Za-z0-9_]*$')",
                "must name a class as package.module:Class",
            ),
        ]
        | None
    ) = Field(None, description="Python: the class, as package.module:Class.", min_length=3, max_length=253)
    tests: str | None = Field(
        None,
        description="CodeAssert: Python code with assertions that every answer has to pass. Left out: the "
        "column `tests` of each row.",
        min_length=1,
        max_length=16384,
    )
    timeout_seconds: int | None = Field(
        None, description="CodeAssert: how long one answer may run (default 10).", ge=1, le=60
    )


class Gate(ApiModel):
    """When the tuned model is promoted."""

    min_delta: Annotated[str, _FRACTION] = Field(
        "0.05",
        description="How much better than its base the tuned model must score, a fraction as a string.",
        min_length=1,
        max_length=20,
    )


class Suite(ApiModel):
    """Questions outside of the task, which the tuned model must still answer as well as its base."""

    rules = (
        Cel(
            "!(self.grader.type in ['JudgeCriteria', 'JudgePairwise', 'Similarity', 'Perplexity'])",
            "a suite needs a grader that decides without a judge; take another type",
            ".grader",
        ),
    )

    name: Annotated[str, _NAME] = Field(
        description="Name of the suite in reports and status.", min_length=1, max_length=40
    )
    dataset: DatasetSource = Field(description="Its rows, in any form that the hold-out may have.")
    grader: Grader = Field(
        description="How answers to it are scored; its `margin` is how much of the score may be lost (fewer "
        "than 59 rows can miss a drop of 0.05)."
    )


class Regression(ApiModel):
    """What the tuned model must not lose: base and tuned model are compared on suites outside of the task."""

    suites: tuple[Suite, ...] = Field(
        description="The suites. A drop on one of them ends as the verdict Regressed; two or more with 500 "
        "rows together are also compared as one, with a margin of 3 points.",
        min_length=1,
        max_length=8,
        json_schema_extra={"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["name"]},
    )


class Rival(ApiModel):
    """A better prompt for the untuned base, scored beside it: perhaps a prompt alone does the job."""

    rules = (
        Cel(
            "has(self.system) || has(self.fewShot)",
            "a rival needs a prompt of its own: set system, fewShot or both",
        ),
    )

    name: Annotated[str, _NAME] = Field(
        description="Name of the prompt in reports and status.", min_length=1, max_length=40
    )
    system: str | None = Field(
        None,
        description="System message that takes the place of the hold-out rows' own.",
        min_length=1,
        max_length=16384,
    )
    few_shot: int | None = Field(
        None,
        description="How many rows of the training data are shown before the question as examples. They are "
        "chosen by their content, the same ones every time, and never from the hold-out.",
        ge=1,
        le=32,
    )


class ScoringServer(ApiModel):
    """The ModelServer that scores."""

    name: ObjectName = Field(description="Name of the ModelServer in this namespace.")


class ApiKeyRef(ApiModel):
    """An entry of the Secret that holds the server's API keys."""

    name: ObjectName = Field(
        description="Name of the Secret in this namespace: that of the ModelServer's spec.apiKeys."
    )
    key: Annotated[
        str, Cel("self.matches('^[-._a-zA-Z0-9]+$')", "must be letters, digits, '-', '_' and '.'")
    ] = Field(description="The entry whose value is the key.", min_length=1, max_length=253)


class ScoringEngine(ApiModel):
    """A ModelServer that scores base and tuned model in place of an engine of the run's own."""

    server_ref: ScoringServer = Field(
        description="The ModelServer, of the same base and with the claim of spec.output as its artifact "
        "store. The candidate takes one of its slots while it is scored; no alias leads to it."
    )
    api_key: ApiKeyRef | None = Field(
        None,
        description="The key that the run asks with, where the ModelServer has spec.apiKeys; it alone may "
        "call the candidate. An entry of its own keeps the run apart from users.",
    )


class Judge(ApiModel):
    """The model that judges answers, behind any OpenAI-compatible API. It is sent the hold-out's rows."""

    rules = (
        Cel(
            "has(self.pricePerMillionInputTokens) == has(self.pricePerMillionOutputTokens)",
            "pricePerMillionInputTokens and pricePerMillionOutputTokens belong together; give both, also "
            "where they are equal",
        ),
    )

    url: Annotated[
        str,
        Cel(
            f"self.matches('^https?://{HOST}{PATH}*/?$')",
            "must be the root of the API, as https://HOST/v1 (without ? and user names: a spec is no place "
            "for secrets)",
        ),
    ] = Field(
        description="Root of the API, as https://HOST/v1; chat/completions is asked below it.",
        min_length=1,
        max_length=512,
    )
    model: str = Field(description="Name of the model there.", min_length=1, max_length=253)
    credentials_secret_ref: SecretRef | None = Field(
        None, description="Secret whose key `token` holds the API key. Only the scorer's container gets it."
    )
    price_per_million_input_tokens: Price | None = Field(
        None,
        description="Price of a million tokens that the judge reads, in the currency of the gpuType, a "
        "decimal number as a string. With prices, what judging costs counts in status.cost.spent and against "
        "spec.budget.",
    )
    price_per_million_output_tokens: Price | None = Field(
        None, description="Price of a million tokens that the judge writes, likewise."
    )
    timeout_seconds: int = Field(60, description="How long one request may take.", ge=1, le=600)
    max_concurrency: int = Field(8, description="Requests that may be under way at once.", ge=1, le=64)


_URL = Cel(
    f"self.matches('^https?://{HOST}{PATH}*/?$')",
    "must be an http or https address without ? and user names: a spec is no place for secrets",
)


class MlflowExport(ApiModel):
    """An MLflow tracking server, which gets a run with settings, scores and curves."""

    tracking_uri: Annotated[str, _URL] = Field(
        description="Address of the tracking server, as https://HOST.", min_length=1, max_length=512
    )
    experiment: str = Field(
        description="Name of the experiment; it is made if there is none.", min_length=1, max_length=250
    )
    credentials_secret_ref: SecretRef | None = Field(
        None, description="Secret whose key `token` is sent as a bearer token."
    )


class OpenTelemetryExport(ApiModel):
    """A collector, which gets a span for each answer of both models, with prompt, output and grade."""

    endpoint: Annotated[str, _URL] = Field(
        description="Address of the collector for OTLP over HTTP, as https://HOST:4318.",
        min_length=1,
        max_length=512,
    )
    credentials_secret_ref: SecretRef | None = Field(
        None, description="Secret whose key `token` is sent as a bearer token."
    )


class Export(ApiModel):
    """Where publish sends the evaluation beside the published folder. A failure is told and ends nothing."""

    mlflow: MlflowExport | None = Field(None, description="An MLflow tracking server.")
    open_telemetry: OpenTelemetryExport | None = Field(None, description="An OpenTelemetry collector.")


class Evaluation(ApiModel):
    """The hold-out that base and tuned model are scored on. It must not be part of the training data."""

    rules = (
        Cel(
            "has(self.dataset) == has(self.graders)",
            "spec.evaluation.dataset and spec.evaluation.graders belong together; give both",
        ),
        Cel(
            "!has(self.primary) || (has(self.graders) && self.graders.exists(g, g.name == self.primary))",
            "must be the name of one of spec.evaluation.graders",
            ".primary",
        ),
        Cel(
            "!has(self.graders) || size(self.graders) < 2 || has(self.primary)",
            "with several graders one must decide: set spec.evaluation.primary to its name",
            ".primary",
        ),
        Cel(
            "has(self.dataset) || !(has(self.regression) || has(self.rivals))",
            "rivals and regression are compared with the hold-out's scores; set spec.evaluation.dataset and "
            "graders",
        ),
        Cel(
            "!has(self.graders) || "
            "self.graders.all(g, !has(g.margin) || (has(self.primary) && g.name != self.primary))",
            "the grader that decides takes no margin: it is judged by spec.evaluation.gate.minDelta",
            ".graders",
        ),
        Cel(
            f"has(self.judge) == ({_ASKS_A_JUDGE})",
            "spec.evaluation.judge and graders of type JudgeCriteria or JudgePairwise belong together; give "
            "both",
            ".judge",
        ),
        Cel(
            "!has(self.graders) || !self.graders.exists(g, g.type == 'JudgePairwise') || "
            "self.graders.exists(g, !(g.type in ['JudgePairwise', 'Similarity', 'Perplexity']))",
            "JudgePairwise compares two models; list a grader beside it that scores the base alone, before "
            "training",
            ".graders",
        ),
        Cel(
            "!has(self.graders) || !self.graders.exists(g, g.type in ['Similarity', 'Perplexity'] && "
            "(has(self.primary) ? g.name == self.primary : size(self.graders) == 1))",
            "types Similarity and Perplexity cannot decide; add another grader and set "
            "spec.evaluation.primary to its name",
            ".primary",
        ),
        Cel(
            "!has(self.engine) || !has(self.engineProfile)",
            "engineProfile is for an engine of the run's own, and the server that engine names has a profile "
            "of its own; remove one of them",
            ".engineProfile",
        ),
    )

    dataset: DatasetSource | None = Field(
        None, description="The hold-out: 100 to 200 rows with known answers that are never trained on."
    )
    graders: tuple[Grader, ...] = Field(
        (),
        description="How answers are scored.",
        min_length=1,
        max_length=8,
        json_schema_extra={"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["name"]},
    )
    primary: str | None = Field(
        None,
        description="The grader that decides about promotion. May be left out when there is only one.",
        min_length=1,
        max_length=40,
    )
    gate: Gate = Field(Gate(), description="When the tuned model is promoted.")
    max_tokens: int = Field(256, description="Longest answer in tokens.", ge=1, le=8192)
    regression: Regression | None = Field(
        None, description="What the tuned model must not lose. Default: only the hold-out is looked at."
    )
    rivals: tuple[Rival, ...] = Field(
        (),
        description="Better prompts that the untuned base is scored with too. Verdicts before training go by "
        "the best of them.",
        max_length=4,
        json_schema_extra={"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["name"]},
    )
    engine_profile: ObjectName | None = Field(
        None,
        description="How the engine that scores runs the model, base and tuned alike: a name from the "
        "profiles that the administrator configured. Name that of the ModelServer that will serve the "
        "adapter.",
    )
    engine: ScoringEngine | None = Field(
        None,
        description="Score on a shared ModelServer, without GPUs for scoring. Default: an engine of the "
        "run's own.",
    )
    judge: Judge | None = Field(None, description="The model that JudgeCriteria and JudgePairwise ask.")
    export: Export | None = Field(None, description="Where the evaluation is sent to as well.")
    accept: tuple[Acceptance, ...] = Field(
        (),
        description="Verdicts that are accepted although they would stop the run or the promotion: an "
        "explicit and visible decision. Regressed accepts that other graders or a regression suite may have "
        "got worse, also where the improvement is not clear. WorseThanBase and Ungraded (fewer than 98 % of "
        "the rows could be graded) cannot be accepted. Entries can be added later, not removed.",
        max_length=5,
        json_schema_extra={"x-kubernetes-list-type": "set"},
    )

    @property
    def runs_code(self) -> bool:
        """Whether answers are programs that have to run to be graded."""
        suites = self.regression.suites if self.regression is not None else ()
        return any(g.type == "CodeAssert" for g in (*self.graders, *(suite.grader for suite in suites)))

    @property
    def datasets(self) -> dict[str, DatasetSource]:
        """The data sets of the evaluation by the field of the spec that holds each."""
        held_out = {} if self.dataset is None else {"spec.evaluation.dataset": self.dataset}
        suites = self.regression.suites if self.regression is not None else ()
        named = {f"spec.evaluation.regression.suites[{s.name}].dataset": s.dataset for s in suites}
        return held_out | named
