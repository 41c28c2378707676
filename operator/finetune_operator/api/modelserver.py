"""ModelServer: a vLLM server that many adapters of one base model share."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal, TypeAlias

from pydantic import Field

from finetune_operator.api.bases import ServedBase
from finetune_operator.api.modelserverstatus import ModelServerStatus
from finetune_operator.api.objects import ApiObject
from finetune_operator.api.parts import (
    GPU_TYPE,
    NODE_SELECTOR,
    OBJECT,
    SHARED_MEMORY,
    TOLERATIONS,
    NodeSelector,
    ObjectName,
    PodTemplate,
    Quantity,
    Scheduling,
    SecretRef,
    Tolerations,
)
from finetune_operator.api.schema import ApiModel, Cel
from finetune_operator.core.sources import parse_source

ModelName: TypeAlias = Annotated[str, Field(min_length=1, max_length=253)]
LoraRank: TypeAlias = Literal[8, 16, 32, 64, 128, 256]

STORE = Cel(
    f"self.matches('^pvc://{OBJECT}/?$')", "must be pvc://CLAIM, a PersistentVolumeClaim of this namespace"
)


class BaseCache(ApiModel):
    """A volume that outlives pods."""

    claim_name: ObjectName = Field(
        description="PersistentVolumeClaim that the pods write to; ReadWriteMany where they may run on "
        "several nodes."
    )


class ServerResources(ApiModel):
    """What one replica gets."""

    rules = (
        Cel(
            "!has(self.gpuType) || !has(self.gpus) || self.gpus > 0",
            "gpuType does nothing with gpus: 0; remove gpuType or ask for GPUs",
            ".gpuType",
        ),
    )

    gpus: int = Field(
        1, description="GPUs of one replica, which share the model; 0 serves on the CPU.", ge=0, le=16
    )
    gpu_type: ObjectName | None = Field(None, description=GPU_TYPE)
    cpu: Quantity | None = Field(
        None,
        description="CPU of the engine, for example 8. Default: what the administrator gives for each GPU.",
    )
    memory: Quantity | None = Field(
        None,
        description="Memory of the engine, for example 64Gi. Default: what the administrator gives for each "
        "GPU.",
    )
    shared_memory: Quantity | None = Field(None, description=SHARED_MEMORY)
    ephemeral_storage: Quantity | None = Field(
        None,
        description="Disk of the node that a replica may fill, with adapters and a base that is fetched, "
        "for example 200Gi. Default: no limit.",
    )


class AllowedAliases(ApiModel):
    """What the holder of one key may call."""

    name: str = Field(description="Entry of the Secret that holds the key.", min_length=1, max_length=253)
    aliases: Annotated[tuple[ModelName, ...], Field(max_length=256)] = Field(
        description="Model names that this key may call: aliases, or the name of the base model."
    )


class ApiKeys(ApiModel):
    """Who may call the server."""

    secret_ref: SecretRef = Field(
        description="Secret of which every value is an accepted key; name the entries after the callers."
    )
    allowed_aliases: Annotated[tuple[AllowedAliases, ...], Field(max_length=256)] = Field(
        (),
        description="Keys that may call some models only; one that is not listed may call all.",
        json_schema_extra={"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["name"]},
    )


class Limits(ApiModel):
    """What one replica takes; more is answered with 413 or 429."""

    max_body_bytes: int | None = Field(
        None, description="Largest request body in bytes. Default: 32 MiB.", ge=1024, le=2**30
    )
    max_in_flight: int | None = Field(
        None, description="Requests in flight on one replica. Default: 1000.", ge=1, le=1_000_000
    )
    max_in_flight_per_alias: int | None = Field(
        None,
        description="Requests in flight for one model name on one replica. Default: no limit.",
        ge=1,
        le=1_000_000,
    )
    max_in_flight_per_key: int | None = Field(
        None,
        description="Requests in flight with one key on one replica. Default: no limit.",
        ge=1,
        le=1_000_000,
    )
    tokens_per_minute_per_key: int | None = Field(
        None,
        description="Tokens per minute, read and written, with one key on one replica. Default: no limit.",
        ge=1,
        le=2**53,
    )
    max_n: int | None = Field(
        None,
        description="Answers that one request may ask for (n). Default: 128.",
        ge=1,
        le=16_384,
    )
    max_prompts: int | None = Field(
        None, description="Prompts that one completion request may hold. Default: 128.", ge=1, le=16_384
    )


class Upgrade(ApiModel):
    """How the server comes by a new image or new settings of the operator, and how its pods are replaced."""

    policy: Literal["Manual", "Automatic"] = Field(
        "Manual",
        description="When the server takes the operator's current image and settings: Manual when revision "
        "changes, Automatic by itself, one server of the cluster after the other. A change of the spec "
        "always does.",
    )
    revision: str | None = Field(
        None,
        description="Any text, for example a date. A new value takes the operator's image and settings now.",
        min_length=1,
        max_length=63,
    )
    strategy: Literal["Surge", "Recreate"] = Field(
        "Surge",
        description="Surge starts a new pod before an old one goes, which needs room for one more. Recreate "
        "takes one pod away first: with one replica nobody answers until the new one is up.",
    )


class ModelServerSpec(ApiModel):
    """A shared server: one base model, and slots for adapters."""

    rules = (
        Cel(
            "self.baseModel == oldSelf.baseModel",
            "spec.baseModel cannot be changed, the adapters on the server are tied to it; create a "
            "ModelServer with a new name and move the AdapterDeployments",
            ".baseModel",
        ),
        Cel(
            "!has(self.maxCpuLoras) || !has(self.maxLoras) || self.maxLoras > 0",
            "with spec.maxLoras: 0 no adapter is served; remove maxCpuLoras",
            ".maxCpuLoras",
        ),
        Cel(
            "!has(self.maxCpuLoras) || self.maxCpuLoras >= (has(self.maxLoras) ? self.maxLoras : 4)",
            "spec.maxCpuLoras must be at least spec.maxLoras (default 4); raise it or leave it out",
            ".maxCpuLoras",
        ),
    )

    base_model: ServedBase = Field(description="The base model of all adapters. Cannot be changed.")
    cache: BaseCache | None = Field(
        None,
        description="Where a base that is fetched and what vLLM compiles for it are kept for later pods. "
        "Default: each pod fetches and compiles for itself.",
    )
    engine_profile: ObjectName | None = Field(
        None,
        description="How the engine runs the model (parsers for tools and reasoning, quantisation, memory): "
        "a name from the profiles that the administrator configured.",
    )
    replicas: int = Field(
        1,
        description="How many copies of the server run.",
        ge=0,
        le=64,
        json_schema_extra={"x-stored-default": True},
    )
    resources: ServerResources = Field(ServerResources(), description="What one replica gets.")
    max_loras: int = Field(
        4,
        description="How many different adapters one batch may mix (memory on the GPU). 0 serves the base "
        "model alone, also one that vLLM has no LoRA for, or one that a FineTuneJob with method Full tuned.",
        ge=0,
        le=64,
    )
    max_cpu_loras: int | None = Field(
        None,
        description="How many adapters the server serves, its slots; at least maxLoras. A replica keeps room "
        "for one more, so that a full server can still roll one of them. Default: twice maxLoras.",
        ge=1,
        le=1024,
    )
    max_lora_rank: LoraRank = Field(
        64, description="The largest rank of an adapter that the server takes. A larger value costs memory."
    )
    max_model_length: int | None = Field(
        None,
        description="Longest request in tokens, prompt and answer. Default: what the model supports.",
        ge=16,
        le=10_485_760,
    )
    artifact_store: Annotated[str, STORE] = Field(
        description="The volume that adapters are fetched from, pvc://CLAIM.", min_length=1, max_length=260
    )
    api_keys: ApiKeys | None = Field(
        None,
        description="Keys that callers must send. Left out, whoever reaches the server may call it.",
    )
    limits: Limits = Field(Limits(), description="What one replica takes. A change rolls no pods.")
    drain_seconds: int = Field(
        600,
        description="How long requests may go on with a version that is replaced, or in a pod that is "
        "deleted, before they are cut off.",
        ge=1,
        le=86_400,
    )
    propagation_seconds: int = Field(
        5,
        description="How long a pod that is being deleted goes on taking new requests, until no load "
        "balancer sends any.",
        ge=1,
        le=600,
    )
    upgrade: Upgrade = Field(
        Upgrade(), description="When new images and settings of the operator reach the server."
    )
    node_selector: NodeSelector = Field(default_factory=dict, description=NODE_SELECTOR)
    tolerations: Tolerations = Field((), description=TOLERATIONS)
    pod_template: PodTemplate = Field(PodTemplate(), description="What the pods carry.")
    scheduling: Scheduling = Field(Scheduling(), description="Which pods come first.")

    @property
    def base_name(self) -> str:
        """The name under which clients reach the untuned base: the last part of its source."""
        return self.base_model.source.rstrip("/").rsplit("/", 1)[-1]

    @property
    def store_claim(self) -> str:
        """The claim that holds the adapters."""
        return parse_source(self.artifact_store).claim or ""


class ModelServer(ApiObject):
    """A vLLM server with an OpenAI-compatible API, shared by many adapters of one base model."""

    kind_name: ClassVar[str] = "ModelServer"
    plural: ClassVar[str] = "modelservers"

    spec: ModelServerSpec
    status: ModelServerStatus = ModelServerStatus()
