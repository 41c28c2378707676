"""What a ModelServer reports: its pods, its adapters, and what the operator has to remember of it."""

from __future__ import annotations

from typing import Literal, TypeAlias

from pydantic import Field

from finetune_operator.api.objects import Status
from finetune_operator.api.rollout import RolloutRecord
from finetune_operator.api.schema import ApiModel

AdapterPhase: TypeAlias = Literal["Pending", "Loading", "Serving", "Failed"]
TEMPLATE_LIMIT = 131_072


class AdapterState(ApiModel):
    """Where one alias stands on this server."""

    alias: str = Field(description="The model name that applications use.", max_length=63)
    deployment: str = Field(description="The AdapterDeployment that asks for it.", max_length=253)
    version: str | None = Field(None, description="The version that should answer.", max_length=128)
    state: AdapterPhase = Field(description="How far the wanted version is.")
    serving_version: str | None = Field(None, description="The version that answers now.", max_length=128)
    reason: str | None = Field(None, description="One word that says why, for programs.", max_length=128)
    message: str | None = Field(None, description="A sentence that says why, for people.", max_length=1024)
    replicas_ready: int = Field(0, description="Replicas that hold and verified the wanted version.", ge=0)


class CandidateState(ApiModel):
    """Where the adapter of a run that scores on this server stands."""

    fine_tune_job: str = Field(description="The FineTuneJob.", max_length=253)
    version: str = Field(description="The version that it asks for.", max_length=128)
    state: Literal["Pending", "Loading", "Ready", "Failed"] = Field(description="How far the version is.")
    reason: str = Field(description="One word that says why, for programs.", max_length=128)
    message: str = Field("", description="A sentence that says why, for people.", max_length=1024)


class SlotsStatus(ApiModel):
    """The adapter slots of the server."""

    total: int = Field(description="How many adapters the server serves at most.", ge=0)
    used: int = Field(description="How many aliases take one.", ge=0)
    surge: Literal["Free", "InUse", "Missing"] = Field(
        description="The slot beside them that a new version is loaded into. Missing: the pods were started "
        "without one."
    )


class TemplateRecord(ApiModel):
    """The pod template that the server keeps until its spec or spec.upgrade asks for a new one."""

    controller_revision: str = Field(description="The ControllerRevision that holds it.", max_length=253)
    spec_digest: str = Field(description="sha256:... of the spec that it was rendered from.", max_length=71)
    revision: str | None = Field(None, description="spec.upgrade.revision at that time.", max_length=63)
    cause: Literal["Spec", "Revision", "Automatic"] = Field(description="What made the server take it.")
    proven: bool | None = Field(
        None,
        description="False until a rollout of it has completed with a ready pod: until then it follows the "
        "operator's image and settings, so that their correction reaches pods that never started.",
    )


class InlineTemplate(ApiModel):
    """The pod template as operators kept it before it had a ControllerRevision."""

    spec_digest: str = Field(description="As in template.", max_length=71)
    revision: str | None = Field(None, description="As in template.", max_length=63)
    cause: Literal["Spec", "Revision", "Automatic"] = Field(description="As in template.")
    template: str = Field(description="The template as JSON.", max_length=TEMPLATE_LIMIT)
    proven: bool | None = Field(None, description="As in template.")


class ModelServerStatus(Status):
    """What the server is and what it serves."""

    replicas: int | None = Field(None, description="Pods that run or are about to.", ge=0)
    ready_replicas: int | None = Field(None, description="Pods that answer.", ge=0)
    selector: str | None = Field(
        None, description="Labels of the pods, for the scale subresource.", max_length=512
    )
    endpoint: str | None = Field(
        None, description="Base URL for OpenAI clients inside the cluster.", max_length=512
    )
    image: str | None = Field(
        None,
        description="The image of the server; it stays when the operator is upgraded.",
        max_length=512,
    )
    base_fingerprint: str | None = Field(
        None,
        description="Fingerprint of the base model, as the pods computed it. While they differ, the earlier "
        "one.",
        max_length=71,
    )
    manifest_generation: int | None = Field(
        None, description="Generation of the list of adapters that the pods follow.", ge=0
    )
    slots: SlotsStatus | None = Field(None, description="The adapter slots of the server.")
    adapters_serving: str | None = Field(
        None,
        description="Adapters that answer in their wanted version, of all, for display.",
        max_length=16,
    )
    adapters: tuple[AdapterState, ...] = Field(
        (),
        description="One entry for each AdapterDeployment on this server, as many as there is room for.",
        max_length=1024,
        json_schema_extra={"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["deployment"]},
    )
    candidates: tuple[CandidateState, ...] = Field(
        (),
        description="The runs that score here now, the one whose candidate is held first; it takes a slot.",
        max_length=64,
        json_schema_extra={"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["fineTuneJob"]},
    )
    adapters_left_out: int | None = Field(
        None, description="How many AdapterDeployments have no entry for want of room.", ge=0
    )
    rollouts: tuple[RolloutRecord, ...] = Field(
        (),
        description="The last rollout by steps of each AdapterDeployment that has spec.rollout.",
        max_length=1024,
        json_schema_extra={"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["deployment"]},
    )
    template: TemplateRecord | None = Field(
        None, description="The pod template in force; written and read by the operator only."
    )
    pod_template: InlineTemplate | None = Field(
        None, description="What an earlier operator wrote instead of template. It is taken over and goes."
    )
