"""What only an administrator decides, read from the settings.json that the chart writes."""

from __future__ import annotations

from ipaddress import ip_network
from typing import Annotated, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    StringConstraints,
    ValidationError,
    model_validator,
)
from pydantic.alias_generators import to_camel

from finetune_operator.api.finetunejob import FineTuneJob
from finetune_operator.api.finetunejobstatus import Pinned, PinnedProfile
from finetune_operator.api.parts import PodTemplate, Scheduling, Toleration
from finetune_operator.contracts.engine import Arguments, EngineProfile, Environment

_OBJECT = "[a-z0-9]([a-z0-9.-]*[a-z0-9])?"
_WORD = "[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?"

Text = Annotated[str, StringConstraints(min_length=1)]
Name = Annotated[str, StringConstraints(pattern=f"^{_OBJECT}$", max_length=253)]
QualifiedName = Annotated[str, StringConstraints(pattern=f"^({_OBJECT}/)?{_WORD}$", max_length=317)]
LabelValue = Annotated[str, StringConstraints(pattern=f"^({_WORD})?$", max_length=63)]
Quantity = Annotated[
    str, StringConstraints(pattern="^[0-9]+([.][0-9]+)?(m|k|[MGTP]|[KMGTP]i)?$", max_length=32)
]
Address = Annotated[str, StringConstraints(pattern="^https?://")]
Price = Annotated[str, StringConstraints(pattern=r"^[0-9]{1,9}([.][0-9]{1,9})?$")]
Currency = Annotated[str, StringConstraints(pattern="^[A-Z]{3}$")]
Image = Annotated[str, StringConstraints(min_length=1, max_length=512)]
Labels = dict[QualifiedName, LabelValue]


def _network(text: str) -> str:
    """One that the API server refuses would keep every server from its NetworkPolicy and its pods."""
    ip_network(text, strict=False)
    return text


Cidr = Annotated[str, StringConstraints(pattern="^[0-9a-fA-F.:]+/[0-9]{1,3}$"), AfterValidator(_network)]


class SettingsError(ValueError):
    """settings.json cannot be used; the message names every wrong field."""


class _Part(BaseModel):
    """Unknown keys are refused: a misspelt setting would silently keep its default."""

    model_config = ConfigDict(alias_generator=to_camel, populate_by_name=True, extra="forbid", frozen=True)


class Images(_Part):
    """The images that stage pods and serving pods run."""

    trainer: Image
    serving: Image


class NodeToleration(Toleration):
    """A taint of the administrator's nodes."""

    model_config = ConfigDict(extra="forbid")


class Placement(_Part):
    """On which nodes pods run."""

    node_selector: Labels = Field(default_factory=dict)
    tolerations: tuple[NodeToleration, ...] = Field((), max_length=32)


class CpuStages(Placement):
    """What the pods of the stages without GPUs get: prepare, publish, and re-emission of a lost result.

    All three are requested; memory is also the limit.
    """

    cpu: Quantity = "1"
    memory: Quantity = "4Gi"
    ephemeral_storage: Quantity = "2Gi"


class GpuType(Placement):
    """What a `gpuType` of a spec means on this cluster: where it is, what it can do, what an hour costs.

    `peak_tflops` is for dense bf16 arithmetic; prices are decimal strings for one GPU. Everything from
    `labels` to `priority_class_name` is for each pod that holds GPUs of the type. A pod gets the three
    amounts `..._per_gpu` for each of its GPUs unless its spec says how much. `extra_resources` (network
    devices) and `ipc_lock` are for pods that train together on several nodes; of these, as many as fit run
    where the label `topology_key` of the nodes has one value (a rack, a block).
    """

    resource_name: QualifiedName = "nvidia.com/gpu"
    memory_gib: float | None = Field(None, alias="memoryGiB", gt=0)
    peak_tflops: float | None = Field(None, gt=0)
    price_per_hour: Price | None = None
    spot_price_per_hour: Price | None = None
    currency: Currency | None = None
    labels: Labels = Field(default_factory=dict)
    annotations: dict[QualifiedName, str] = Field(default_factory=dict)
    env: Environment = Field(default_factory=dict)
    runtime_class_name: Name | None = None
    scheduler_name: Name | None = None
    priority_class_name: Name | None = None
    cpu_per_gpu: Quantity | None = None
    memory_per_gpu: Quantity | None = None
    shared_memory_per_gpu: Quantity = "2Gi"
    extra_resources: dict[QualifiedName, Quantity] = Field(default_factory=dict)
    ipc_lock: bool = False
    topology_key: QualifiedName | None = None

    @model_validator(mode="after")
    def _prices_have_a_currency(self) -> Self:
        if self.currency is None and (self.price_per_hour or self.spot_price_per_hour):
            raise ValueError("a price needs a currency; set currency, for example USD")
        return self


class S3(_Part):
    """The S3 service of s3:// datasets and bases; what is left out is that of AWS."""

    endpoint: Address | None = None
    region: Text | None = None


class EgressRule(_Part):
    """Where serving pods may connect to: a range of addresses or the pods of a namespace, on these ports.

    Without ports it is all of them.
    """

    cidr: Cidr | None = None
    namespace: Name | None = None
    ports: tuple[Annotated[int, Field(ge=1, le=65535)], ...] = Field((), max_length=32)

    @model_validator(mode="after")
    def _names_one_place(self) -> Self:
        if (self.cidr is None) == (self.namespace is None):
            raise ValueError("set cidr or namespace, and not both")
        return self


class ServingNetwork(_Part):
    """What the NetworkPolicy of servers allows beside callers and the operator.

    Pods of `prometheus_namespaces` may scrape the agent's port.
    """

    prometheus_namespaces: tuple[Name, ...] = Field(("monitoring",), max_length=32)
    egress: tuple[EgressRule, ...] = Field((), max_length=32)


class Settings(_Part):
    """All settings; durations in seconds. `env` and `engine_args` reach every pod and every engine.

    `engine_profiles` are what a ModelServer may name in engineProfile. `operator_namespace` is where the
    operator runs, whose pods may read the agent's port of servers; without it every pod may.

    `stuck_deadline_seconds` is how long a pod may hold its node without running (volumes, containers, node,
    rest of its gang), `hang_deadline_seconds` how long at least a running stage may stand still;
    then its GPUs are let go and another attempt follows. `engine_start_seconds` is how long an engine may
    take to load its model. `ttl_seconds_after_finished` is for runs whose spec says nothing.
    With `run_as_user` null the cluster chooses the user and group of the pods (OpenShift).
    """

    images: Images
    image_pull_policy: Literal["Always", "IfNotPresent", "Never"] = "IfNotPresent"
    run_as_user: int | None = Field(10001, ge=1, le=2**31 - 1)
    gpu_types: dict[Name, GpuType] = Field(default_factory=dict)
    cpu_stages: CpuStages = CpuStages()
    allowed_service_accounts: tuple[Name, ...] = ()
    allowed_priority_classes: tuple[Name, ...] = ()
    hub_endpoint: Address | None = None
    s3: S3 = S3()
    env: Environment = Field(default_factory=dict)
    engine_args: Arguments = ()
    engine_profiles: dict[Name, EngineProfile] = Field(default_factory=dict)
    operator_namespace: Name | None = None
    serving_network: ServingNetwork = ServingNetwork()
    engine_start_seconds: int = Field(1800, ge=60)
    image_pull_deadline_seconds: int = Field(600, ge=1)
    unschedulable_deadline_seconds: int = Field(86400, ge=1)
    stuck_deadline_seconds: int = Field(1800, ge=60)
    hang_deadline_seconds: int = Field(1800, ge=60)
    ttl_seconds_after_finished: int | None = Field(None, ge=0)
    progress_seconds: float = Field(10, ge=1)

    def gpu_type(self, name: str | None) -> GpuType | None:
        """What a gpuType means: NVIDIA's resource when a spec names none, None when nobody configured it."""
        return GpuType() if name is None else self.gpu_types.get(name)

    def gpu_type_problem(self, name: str | None) -> str | None:
        """Why a spec's gpuType cannot be had, in a sentence."""
        if self.gpu_type(name) is not None:
            return None
        known = ", ".join(sorted(self.gpu_types)) or "none"
        return (
            f"spec.resources.gpuType is {name}, which the administrator has not configured; known: {known}."
        )

    def engine_profile_problem(self, field: str, name: str | None) -> str | None:
        """Why the engine profile that a field of a spec names cannot be had, in a sentence."""
        if name is None or name in self.engine_profiles:
            return None
        known = ", ".join(sorted(self.engine_profiles)) or "none"
        return (
            f"{field} is {name}, which the administrator has not configured (engineProfiles of the chart); "
            f"known: {known}."
        )

    def permission_problem(self, template: PodTemplate, scheduling: Scheduling) -> str | None:
        """What of a spec the administrator does not allow, in a sentence."""
        accounts, classes = self.allowed_service_accounts, self.allowed_priority_classes
        asked = (
            ("podTemplate.serviceAccountName", template.service_account_name, "ServiceAccounts", accounts),
            ("scheduling.priorityClassName", scheduling.priority_class_name, "PriorityClasses", classes),
        )
        for field, name, kinds, allowed in asked:
            if name is not None and name not in allowed:
                known = ", ".join(sorted(allowed)) or "none"
                return (
                    f"spec.{field} is {name}, which the administrator does not allow (allowed{kinds} of the "
                    f"chart); allowed: {known}."
                )
        return None


def pins(job: FineTuneJob, settings: Settings) -> Pinned:
    """What a run records of the settings at its first attempt."""
    images = settings.images
    profile = settings.engine_profiles.get(_profile_name(job) or "", EngineProfile())
    return Pinned(
        trainer_image=images.trainer,
        serving_image=images.serving,
        engine_args=settings.engine_args,
        engine_profile=PinnedProfile(args=profile.args, env=profile.env),
    )


def scoring_profile(job: FineTuneJob, settings: Settings) -> EngineProfile:
    """What the engine beside a scorer gets beyond the arguments of all engines: what the run recorded."""
    pinned_profile = (job.status.pinned or pins(job, settings)).engine_profile
    if pinned_profile is None:
        return EngineProfile()
    return EngineProfile.model_validate(pinned_profile.to_dict())


def scoring_profile_problem(job: FineTuneJob, settings: Settings) -> str | None:
    """Why the engine profile of a run cannot be had, in a sentence; one that has begun has its own copy."""
    if job.status.pinned is not None:
        return None
    return settings.engine_profile_problem("spec.evaluation.engineProfile", _profile_name(job))


def pinned(job: FineTuneJob, settings: Settings) -> Settings:
    """The settings with the images and engine arguments that the run recorded, if it did."""
    recorded = job.status.pinned
    if recorded is None:
        return settings
    images = Images(trainer=recorded.trainer_image, serving=recorded.serving_image)
    return settings.model_copy(update={"images": images, "engine_args": recorded.engine_args})


def _profile_name(job: FineTuneJob) -> str | None:
    return job.spec.evaluation.engine_profile if job.spec.evaluation is not None else None


def parse_settings(text: str | bytes) -> Settings:
    """Read the JSON text of settings.json; SettingsError names each wrong field."""
    try:
        return Settings.model_validate_json(text, strict=True)
    except ValidationError as error:
        found = [
            f"{'.'.join(map(str, item['loc'])) or 'document'}: {item['msg']}"
            for item in error.errors(include_url=False, include_input=False)
        ]
        raise SettingsError(f"The operator's settings are not valid: {'; '.join(found)}.") from error
