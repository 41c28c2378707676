"""AdapterDeployment: which adapter a public model name serves on which ModelServer."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal, TypeAlias

from pydantic import Field

from finetune_operator.api.evaluation.scores import Interval
from finetune_operator.api.objects import ApiObject, Status
from finetune_operator.api.parts import PVC_FOLDER, Digest, ObjectName
from finetune_operator.api.rollout import Rollout, RolloutProgress
from finetune_operator.api.schema import ApiModel, Cel

EvaluationOutcome: TypeAlias = Literal["Passed", "Accepted", "NotEvaluated", "NotPromoted", "Unknown"]

ALIAS = Cel(
    "self.matches('^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$')",
    "must be 1 to 63 letters, digits, '.', '_' or '-', starting with a letter or digit",
)

CANDIDATES = "candidate."
"""What the names begin with under which runs ask a ModelServer for their candidates."""
NO_CANDIDATE = Cel(
    f"!self.startsWith('{CANDIDATES}')",
    f"must not start with '{CANDIDATES}': runs that are scored on the server are asked under such names",
)


class ServerRef(ApiModel):
    """The ModelServer that serves the adapter."""

    name: ObjectName = Field(description="Name of the ModelServer in this namespace.")


class FineTuneJobRef(ApiModel):
    """The run whose published adapter is served."""

    name: ObjectName = Field(description="Name of the FineTuneJob in this namespace.")


class AdapterSource(ApiModel):
    """What is served: the adapter of a FineTuneJob, or one at an address, pinned by its digest."""

    rules = (
        Cel(
            "has(self.fineTuneJobRef) ? !has(self.source) && !has(self.digest) : "
            "has(self.source) && has(self.digest)",
            "spec.adapter takes exactly one form: fineTuneJobRef alone, or source together with digest",
        ),
    )

    fine_tune_job_ref: FineTuneJobRef | None = Field(
        None,
        description="The FineTuneJob whose adapter is served. If it is not finished, the AdapterDeployment "
        "waits for it. The digest is kept in status, so the FineTuneJob may be deleted later.",
    )
    source: Annotated[str, Field(min_length=1, max_length=512), PVC_FOLDER] | None = Field(
        None, description="Folder of a published adapter, pvc://CLAIM/PATH. Needs digest."
    )
    digest: Digest | None = Field(
        None,
        description="sha256:... of the adapter's manifest.json. Needs source.",
    )


class AdapterDeploymentSpec(ApiModel):
    """The adapter that a public model name stands for. Changing `adapter` rolls the new one in."""

    rules = (
        Cel(
            "self.serverRef == oldSelf.serverRef",
            "spec.serverRef cannot be changed; create a new AdapterDeployment for the other server",
            ".serverRef",
        ),
        Cel(
            "self.alias == oldSelf.alias",
            "spec.alias cannot be changed, applications call it; create an AdapterDeployment with a new name",
            ".alias",
        ),
    )

    server_ref: ServerRef = Field(description="The ModelServer to serve on. Cannot be changed.")
    alias: Annotated[str, ALIAS, NO_CANDIDATE] = Field(
        description="The model name that applications send in their requests. Cannot be changed. If two "
        "objects claim one alias on one server, the older one has it, and the other does not get it when the "
        "older one is deleted; see takeOverAlias.",
        min_length=1,
        max_length=63,
    )
    adapter: AdapterSource = Field(
        description="The adapter behind the alias. A change rolls it to every replica without failed "
        "requests; reverting the change rolls back."
    )
    allow_unpromoted: bool = Field(
        False, description="Serve the adapter even if its evaluation gate did not promote it."
    )
    rollout: Rollout | None = Field(
        None,
        description="How a new adapter comes to an alias that another one answers. Left out, it gets all "
        "requests once every replica has verified it.",
    )
    take_over_alias: bool = Field(
        False,
        description="Serve the alias once the AdapterDeployment that had it before this one asked for it is "
        "deleted. Otherwise this one stays refused (AliasConflict).",
    )


class EvaluationRecord(ApiModel):
    """What is known of how good the adapter is, from the FineTuneJob that published it."""

    outcome: EvaluationOutcome = Field(
        description="Passed: the evaluation gate promoted it. Accepted: the gate did not, and "
        "spec.evaluation.accept of the FineTuneJob lists its verdict. NotEvaluated: nobody knows whether it "
        "beats its base. NotPromoted: served by allowUnpromoted alone. Unknown: no FineTuneJob of this "
        "namespace published it."
    )
    fine_tune_job: str | None = Field(None, description="The FineTuneJob that published it.", max_length=253)
    verdict: str | None = Field(None, description="What the comparison said.", max_length=64)
    delta: Interval | None = Field(
        None, description="Paired difference on the hold-out, tuned model minus base."
    )
    holdout_digest: str | None = Field(
        None, description="Digest of the hold-out that both were scored on.", max_length=71
    )
    message: str = Field("", description="The same in words.", max_length=1024)


class ResolvedAdapter(ApiModel):
    """The one artifact that should be served."""

    source: str = Field(description="Where the adapter is.", max_length=512)
    digest: str = Field(description="sha256:... of its manifest.json.", max_length=71)
    version: str = Field(description="The name of this version in the server.", max_length=128)
    allow_unpromoted: bool = Field(
        False, description="Whether it is served even if its gate did not promote it."
    )
    fine_tune_job: str | None = Field(None, description="The FineTuneJob that made it.", max_length=253)
    base_fingerprint: str | None = Field(
        None,
        description="Fingerprint of the base model that it was trained on, where the FineTuneJob tells it.",
        max_length=71,
    )
    evaluation: EvaluationRecord | None = Field(
        None, description="The evaluation that it is served by. It stays when the FineTuneJob is deleted."
    )


class ServingAdapter(ApiModel):
    """The version that answers now."""

    version: str = Field(description="The name of the version.", max_length=128)
    digest: str | None = Field(None, description="sha256:... of its manifest.json.", max_length=71)
    source: str | None = Field(None, description="Where the adapter is.", max_length=512)
    allow_unpromoted: bool | None = Field(
        None, description="Whether it was taken into service although its gate may not have promoted it."
    )
    since: str | None = Field(
        None, description="Since when it answers.", json_schema_extra={"format": "date-time"}
    )


class AdapterDeploymentStatus(Status):
    """What is asked of the server, and what it serves."""

    resolved: ResolvedAdapter | None = Field(
        None, description="The artifact that spec.adapter stands for: what should be served."
    )
    serving: ServingAdapter | None = Field(None, description="The version that answers requests now.")
    last_served: ServingAdapter | None = Field(
        None,
        description="The version that answered last, while none does. The operator rebuilds a lost server "
        "manifest from it.",
    )
    rollout: RolloutProgress | None = Field(
        None, description="How far the change to what is resolved is, where spec.rollout asks for steps."
    )
    alias_conflict: bool | None = Field(
        None,
        description="Whether another AdapterDeployment had the alias when this one asked for it. It stays so "
        "until spec.takeOverAlias is set and the alias is free.",
    )
    retrain: str | None = Field(
        None,
        description="Where the adapter was trained on another base than the server's: the command that "
        "creates the FineTuneJob which trains it on this one, see the condition FitsBase.",
        max_length=4096,
    )
    endpoint: str | None = Field(
        None, description="Base URL for OpenAI clients inside the cluster.", max_length=512
    )


class AdapterDeployment(ApiObject):
    """Serves one adapter under a public model name on a shared ModelServer."""

    kind_name: ClassVar[str] = "AdapterDeployment"
    plural: ClassVar[str] = "adapterdeployments"

    spec: AdapterDeploymentSpec
    status: AdapterDeploymentStatus = AdapterDeploymentStatus()
