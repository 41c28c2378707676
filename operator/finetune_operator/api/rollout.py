"""A change of version by steps: what a user asks for, and how far it is."""

from __future__ import annotations

from typing import Annotated, Literal, TypeAlias

from pydantic import Field

from finetune_operator.api.parts import FRACTION, Digest
from finetune_operator.api.schema import ApiModel, Cel

RolloutPhase: TypeAlias = Literal[
    "Preflight", "Load", "Verify", "Shift", "Promote", "Drain", "Unload", "Complete", "RolledBack"
]
Verdict: TypeAlias = Literal["Waiting", "Pass", "Inconclusive", "Fail"]

MOST_PROCESSES = 256
_SHARE = Cel(
    f"self.matches('{FRACTION}') && double(self) < 1.0",
    'must be a share from 0 to 1 as a string, for example "0.02"',
)
_RATIO = Cel(
    f"self.matches('{FRACTION}') && double(self) >= 1.0",
    'must be a number of at least 1 as a string, for example "1.5"',
)
Share: TypeAlias = Annotated[str, Field(min_length=1, max_length=20), _SHARE]
Ratio: TypeAlias = Annotated[str, Field(min_length=1, max_length=20), _RATIO]


class RolloutStep(ApiModel):
    """A share of the requests that the new version gets for a while."""

    weight: Annotated[
        int, Cel("self >= 1 && self <= 99", "must be 1 to 99; after the last step the new version gets all")
    ] = Field(description="How many of 100 requests the new version gets.")
    hold_seconds: int = Field(
        description="How long the step lasts at least. With analysis it lasts longer while there are too few "
        "requests to judge.",
        ge=0,
        le=2_592_000,
    )


class RolloutAnalysis(ApiModel):
    """What the new version may not exceed in a step; see docs/rollouts.md for how it is judged."""

    rules = (
        Cel(
            "has(self.maxErrorRate) || has(self.maxErrorRateIncrease) || has(self.maxEmptyIncrease) || "
            "has(self.maxCutIncrease) || has(self.maxLatencyRatio) || has(self.maxFirstByteRatio)",
            "set at least one limit, for example maxErrorRate, or remove analysis",
        ),
    )

    min_requests: int = Field(
        100,
        description="How many requests of a step the new version must have answered, and, where a limit "
        "compares, the version before too. Until then the step goes on.",
        ge=1,
        le=10_000_000,
    )
    max_error_rate: Share | None = Field(
        None, description="Largest share of requests that may fail (5xx, broken streams)."
    )
    max_error_rate_increase: Share | None = Field(
        None, description="How much larger that share may be than that of the version before."
    )
    max_empty_increase: Share | None = Field(
        None, description="How much larger the share of answers without content may be than before."
    )
    max_cut_increase: Share | None = Field(
        None, description="How much larger the share of answers cut at the token limit may be than before."
    )
    max_latency_ratio: Ratio | None = Field(
        None, description="How many times as long the mean answer may take as that of the version before."
    )
    max_first_byte_ratio: Ratio | None = Field(
        None, description="The same for the mean time to the first byte of an answer."
    )


class RolloutShadow(ApiModel):
    """Copies of requests that the new version answers too, for nobody."""

    percent: int = Field(
        description="How many of 100 requests are copied to the new version while it is rolled out.",
        ge=1,
        le=100,
    )


class Rollout(ApiModel):
    """How the next version comes. After the last step it gets every request."""

    rules = (
        Cel(
            "self.steps.map(step, step.weight).isSorted() && "
            "self.steps.all(step, self.steps.exists_one(other, other.weight == step.weight))",
            "the weights of steps must increase from step to step, for example 5, 25, 50",
            ".steps",
        ),
        Cel(
            "!has(self.promote) || !has(self.abort) || self.promote != self.abort",
            "promote and abort name the same version; remove one of them",
            ".abort",
        ),
    )

    steps: tuple[RolloutStep, ...] = Field(
        description="The steps, with weights that increase.", min_length=1, max_length=16
    )
    analysis: RolloutAnalysis | None = Field(
        None,
        description="What ends the rollout of a version that answers worse. Left out, a step passes when its "
        "time is over.",
    )
    auto_rollback: bool = Field(
        True,
        description="Whether all requests go back to the version before when a limit is exceeded or no "
        "replica can have the new version. Otherwise the rollout stops where it is.",
    )
    paused: bool = Field(
        False,
        description="Take no further step. A version that has none yet is loaded and answers only requests "
        "that name it in the header x-finetune-version. Automatic rollback goes on.",
    )
    promote: Digest | None = Field(
        None,
        description="Digest of an adapter that gets every request as soon as it is verified, without the "
        "remaining steps. It says nothing of any other adapter, so it may stay.",
    )
    abort: Digest | None = Field(
        None,
        description="Digest of an adapter that is not rolled out: all requests go back to the version "
        "before. It says nothing of any other adapter, nor of one that already has every request.",
    )
    sticky_header: (
        Annotated[
            str,
            Cel(
                "self.matches('^[a-z0-9][a-z0-9-]*$')",
                "must be the name of a header in lower case, for example x-user-id",
            ),
        ]
        | None
    ) = Field(
        None,
        description="Header whose value decides which version answers, so that a caller stays with one. "
        "Default: the field user of the request, else chance.",
        min_length=1,
        max_length=64,
    )
    shadow: RolloutShadow | None = Field(
        None, description="Copies of requests for the new version while it is rolled out."
    )


class VersionCounts(ApiModel):
    """What one version answered in a step, over all replicas."""

    requests: int = Field(0, description="Requests that are finished.", ge=0)
    failures: int = Field(0, description="Requests that failed.", ge=0)
    empty: int = Field(0, description="Answers without content.", ge=0)
    cut: int = Field(0, description="Answers that were cut at the token limit.", ge=0)
    milliseconds: int = Field(0, description="Time that the answers took together.", ge=0)
    first_byte_milliseconds: int = Field(0, description="Time to their first bytes together.", ge=0)
    batches: int = Field(0, description="How many looks at a replica brought new requests.", ge=0)
    squares: float = Field(0.0, description="Sum over them of milliseconds squared for each request.")
    first_byte_squares: float = Field(0.0, description="The same for the first bytes.")


Counters: TypeAlias = Annotated[tuple[int, ...], Field(min_length=6, max_length=6)]


class ProcessCounters(ApiModel):
    """What a gateway process told last: requests, failures, empty, cut, milliseconds, to the first byte."""

    process: str = Field(description="The process.", max_length=64)
    stable: Counters = Field(description="Its counters of the version before.")
    canary: Counters = Field(description="Its counters of the new version.")


class StepCounts(ApiModel):
    """What was counted in the step so far, and from where counting goes on."""

    stable: VersionCounts = Field(VersionCounts(), description="The version before.")
    canary: VersionCounts = Field(VersionCounts(), description="The new version.")
    processes: tuple[ProcessCounters, ...] = Field(
        (), description="The counters up to which requests are counted.", max_length=MOST_PROCESSES
    )


class RolloutProgress(ApiModel):
    """How far a change of version is."""

    from_version: str = Field(alias="from", description="The version before.", max_length=128)
    to_version: str = Field(alias="to", description="The new version.", max_length=128)
    phase: RolloutPhase = Field(
        description="What is being done: Preflight, Load and Verify on every replica, Shift by steps, "
        "Promote to all requests, Drain and Unload the version before; or RolledBack."
    )
    step: int = Field(0, description="Which step it is, 0 before the first.", ge=0)
    weight: int = Field(0, description="How many of 100 requests the new version gets.", ge=0, le=100)
    since: str = Field(
        description="Since when it gets so many.", json_schema_extra={"format": "date-time"}, max_length=32
    )
    verdict: Verdict | None = Field(
        None, description="What the analysis says of this step; absent without analysis."
    )
    reason: str = Field("", description="One word that says what it waits for.", max_length=128)
    message: str = Field("", description="The same in a sentence.", max_length=1024)


class RolloutRecord(RolloutProgress):
    """The rollout of one AdapterDeployment: what the server remembers of it."""

    deployment: str = Field(description="The AdapterDeployment.", max_length=253)
    generation: int = Field(
        description="Its generation as last looked at. A version that was rolled back is tried again when it "
        "is another.",
        ge=0,
    )
    returning: bool = Field(
        False, description="Whether the new version is the one before the last: it needs no steps."
    )
    counts: StepCounts | None = Field(
        None, description="What was counted in the step; written and read by the operator only."
    )
