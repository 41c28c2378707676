"""How an answer is scored: the types of graders, and what each needs."""

from __future__ import annotations

from typing import Annotated, Literal, TypeAlias

from pydantic import Field

from finetune_operator.api.parts import FRACTION
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
    "Container",
]
SimilarityMetric: TypeAlias = Literal["RougeL", "ChrF"]
IS_FRACTION = Cel(
    f"self.matches('{FRACTION}') && double(self) <= 1.0",
    'must be a fraction from 0 to 1 as a string, for example "0.05" for five points',
)
JUDGED: tuple[GraderType, ...] = ("JudgeCriteria", "JudgePairwise")
IN_OWN_POD: tuple[GraderType, ...] = ("CodeAssert", "Container")
"""The types that run code of a model or of a user, in a pod without network."""
CONTAINER_SECONDS = 600
IS_NAME = Cel(
    "self.matches('^[a-z0-9]([a-z0-9-]*[a-z0-9])?$')",
    "must be lower-case letters, digits and hyphens",
)


def _needs(setting: str, types: tuple[GraderType, ...], what: str) -> Cel:
    """These types need the setting, and no other type has it."""
    named = " and ".join(types)
    return Cel(
        f"(self.type in {list(types)}) == has(self.{setting})",
        f"{setting} belongs to type {named}, which needs it: {what}",
        f".{setting}",
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
        _needs("criteria", JUDGED, "give the sentences that the judge decides about"),
        _needs("metric", ("Similarity",), "RougeL or ChrF"),
        _needs("grader", ("Python",), "name the class as package.module:Class"),
        _takes("values", ("OneOf", "Contains")),
        _takes("pattern", ("Regex", "FieldMatch")),
        Cel("self.type != 'Regex' || has(self.pattern)", "type Regex needs a regular expression", ".pattern"),
        _takes("tolerance", ("FieldMatch",)),
        _takes("tests", ("CodeAssert",)),
        _takes("timeoutSeconds", IN_OWN_POD),
        Cel(
            "self.type != 'CodeAssert' || !has(self.timeoutSeconds) || self.timeoutSeconds <= 60",
            "one answer of type CodeAssert may run for at most 60 seconds",
            ".timeoutSeconds",
        ),
        _needs("image", ("Container",), "name it with its digest, as registry/name@sha256:..."),
        _takes("command", ("Container",)),
    )

    name: Annotated[str, IS_NAME] = Field(
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
        "`tests` of the row, in a pod of its own without network; the expected answer has to pass them too; "
        "Container asks an image of your own, in that pod."
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
    margin: Annotated[str, IS_FRACTION] | None = Field(
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
        None,
        description="CodeAssert: how long one answer may run (default 10, at most 60). Container: how long "
        f"all answers of a model may take (default {CONTAINER_SECONDS}).",
        ge=1,
        le=3600,
    )
    image: (
        Annotated[
            str,
            Cel(
                "self.matches('^[a-z0-9][A-Za-z0-9._:/-]*@sha256:[0-9a-f]{64}$')",
                "must name the image with its digest, as registry/name@sha256: and 64 hex digits: a tag may "
                "be another image for the tuned model than for its base",
            ),
        ]
        | None
    ) = Field(
        None,
        description="Container: the image, with its digest. It is pulled with spec.podTemplate's "
        "imagePullSecrets, and gets the paths of two files as arguments: the questions to read and the "
        "results to write.",
        min_length=1,
        max_length=512,
    )
    command: tuple[Annotated[str, Field(min_length=1, max_length=1024)], ...] | None = Field(
        None,
        description="Container: what runs instead of the image's entry point, with the same arguments.",
        min_length=1,
        max_length=32,
    )
