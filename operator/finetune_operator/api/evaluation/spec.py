"""What a run is judged on: hold-out, graders, the gate, and what the user accepts in advance."""

from __future__ import annotations

from typing import Annotated, Literal, TypeAlias, get_args

from pydantic import Field

from finetune_operator.api.datasets import DatasetSource
from finetune_operator.api.evaluation.graders import IN_OWN_POD, IS_FRACTION, JUDGED, Grader
from finetune_operator.api.evaluation.services import Export, Judge, ScoringEngine
from finetune_operator.api.evaluation.suites import Regression, Rival
from finetune_operator.api.parts import ObjectName
from finetune_operator.api.schema import ApiModel, Cel

Acceptance: TypeAlias = Literal[
    "EvalMissing", "PromptingLikelyEnough", "CheckTaskOrData", "NoClearImprovement", "Regressed"
]
ACCEPTABLE: tuple[str, ...] = get_args(Acceptance)
_HAS_CODE_GRADER = f"has(self.graders) && self.graders.exists(g, g.type in {list(IN_OWN_POD)})"
_HAS_CODE_SUITE = (
    f"has(self.regression) && self.regression.suites.exists(s, s.grader.type in {list(IN_OWN_POD)})"
)
_ASKS_A_JUDGE = f"has(self.graders) && self.graders.exists(g, g.type in {list(JUDGED)})"


class Gate(ApiModel):
    """When the tuned model is promoted."""

    min_delta: Annotated[str, IS_FRACTION] = Field(
        "0.05",
        description="How much better than its base the tuned model must score, a fraction as a string.",
        min_length=1,
        max_length=20,
    )


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
        Cel(
            f"!has(self.engine) || !(({_HAS_CODE_GRADER}) || ({_HAS_CODE_SUITE}))",
            "graders of type CodeAssert and Container grade the base's answers once, and a ModelServer may "
            "roll before the tuned model is asked; remove engine, so that the run has an engine of its own",
            ".engine",
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
        description="Score on a shared ModelServer, without GPUs for scoring; not with CodeAssert or "
        "Container. Default: an engine of the run's own.",
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
        """Whether grading runs code of a model or of a user, which takes a pod of its own."""
        return any(grader.type in IN_OWN_POD for grader in self.named_graders.values())

    @property
    def named_graders(self) -> dict[str, Grader]:
        """Every grader by a name that no other has: `grader-NAME`, and `suite-NAME` for that of a suite."""
        suites = self.regression.suites if self.regression is not None else ()
        own = {f"grader-{grader.name}": grader for grader in self.graders}
        return own | {f"suite-{suite.name}": suite.grader for suite in suites}

    @property
    def datasets(self) -> dict[str, DatasetSource]:
        """The data sets of the evaluation by the field of the spec that holds each."""
        held_out = {} if self.dataset is None else {"spec.evaluation.dataset": self.dataset}
        suites = self.regression.suites if self.regression is not None else ()
        named = {f"spec.evaluation.regression.suites[{s.name}].dataset": s.dataset for s in suites}
        return held_out | named
