"""The pod of a ModelServer: the engine as a native sidecar, the gateway with its agent beside it.

Native sidecars start before and stop after the gateway, so the engine outlives the last request that the
gateway drains. The engine listens only on a unix socket in a volume the two share.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from finetune_operator.api.modelserver import ModelServer
from finetune_operator.contracts.settings import GpuType, Settings
from finetune_operator.core.actions import Manifest
from finetune_operator.core.sources import Source, parse_source
from finetune_operator.render.containers import Container, container
from finetune_operator.render.credentials import CREDENTIALS
from finetune_operator.render.engine import HEALTH, SOCKET, Engine, add_socket, engine_container
from finetune_operator.render.mounts import Mounts
from finetune_operator.render.names import manifest_name
from finetune_operator.render.placement import with_gpus
from finetune_operator.render.resources import replica_resources, shared_memory
from finetune_operator.serving.children import AGENT_PORT, GATEWAY_PORT

MANIFEST_FOLDER = "/etc/finetune/server"
KEYS_FOLDER = "/etc/finetune/keys"
MODELS = "/models"
HF_BASE = f"{MODELS}/base"
ADAPTERS = "/adapters"
GRACE_SECONDS = 120
PROPAGATION_SECONDS = 5  # time for every node to take a terminating pod out of the Service
_GATEWAY = {"requests": {"cpu": "100m", "memory": "256Mi"}, "limits": {"memory": "1Gi"}}
_FETCH = {"requests": {"cpu": "250m", "memory": "1Gi"}, "limits": {}}


def pod_template(server: ModelServer, settings: Settings, image: str, labels: Mapping[str, str]) -> Manifest:
    """The pod template with these labels, admitted by Pod Security `restricted`."""
    pod = Mounts(only_reads=True)
    special = {
        "terminationGracePeriodSeconds": GRACE_SECONDS,
        "initContainers": [*_fetch(server, settings, image, pod), _engine(server, settings, image, pod)],
        "containers": [_gateway(server, settings, image, pod)],
    }
    return with_gpus(server.spec, _gpu(server, settings)).pod_template(settings, labels, pod, special)


def base_path(source: Source) -> str:
    """Where the base model is inside the pod: fetched for hf, mounted in place for a claim."""
    return HF_BASE if source.scheme == "hf" else f"/sources/pvc/{source.claim}/{source.path}".rstrip("/")


def base_name(server: ModelServer) -> str:
    """The name under which clients reach the untuned base: the last part of its source."""
    return server.spec.base_model.source.rstrip("/").rsplit("/", 1)[-1]


def cpu_slots(server: ModelServer) -> int:
    """How many adapters the server serves: twice the GPU slots unless its spec says otherwise.

    The engine holds one more, the surge slot: with it a server whose slots are all taken can roll.
    """
    return server.spec.max_cpu_loras or 2 * server.spec.max_loras


def store_claim(server: ModelServer) -> str:
    """The claim that holds the adapters."""
    return parse_source(server.spec.artifact_store).claim or ""


def mounted_claims(server: ModelServer) -> list[str]:
    """Every claim the pod mounts, each once."""
    base = parse_source(server.spec.base_model.source).claim
    return sorted({name for name in (base, store_claim(server)) if name})


def mounted_secrets(server: ModelServer) -> list[str]:
    """Every Secret the pod mounts."""
    spec = server.spec
    refs = (spec.base_model.credentials_secret_ref, spec.api_keys.secret_ref if spec.api_keys else None)
    return [ref.name for ref in refs if ref is not None]


def _fetch(server: ModelServer, settings: Settings, image: str, pod: Mounts) -> list[Container]:
    """An hf base is downloaded once per pod, by the only container that has network and the token."""
    base = server.spec.base_model
    if parse_source(base.source).scheme != "hf":
        return []
    mounts = pod.of_another_container()
    mounts.tmp()
    _add_base(mounts, server, read_only=False)
    if base.credentials_secret_ref is not None:
        mounts.secret("token", base.credentials_secret_ref.name, f"{CREDENTIALS}/base-model")
    env = {"HF_ENDPOINT": settings.hub_endpoint} if settings.hub_endpoint else {}
    args = ["fetch-base", "--source", base.source, "--revision", base.revision or "", "--to", HF_BASE]
    return [{**_container("fetch-base", image, settings, args, mounts, env), "resources": _FETCH}]


def _engine(server: ModelServer, settings: Settings, image: str, pod: Mounts) -> Container:
    spec, gpu = server.spec, _gpu(server, settings)
    mounts = pod.of_another_container()
    mounts.empty_dir("adapters", ADAPTERS, spec.resources.ephemeral_storage, read_only=True)
    mounts.shared_memory(shared_memory(spec.resources.shared_memory, gpu, spec.resources.gpus))
    _add_base(mounts, server, read_only=True)
    serves = Engine(
        base_path(parse_source(spec.base_model.source)),
        base_name(server),
        spec.max_loras,
        cpu_slots(server) + 1,
        spec.max_lora_rank,
        spec.resources.gpus,
        spec.max_model_length,
    )
    sidecar = engine_container(serves, image, settings, gpu, replica_resources(server, gpu), mounts)
    # Patient: only an engine that hangs is killed, never one that is busy; a crashed one ends by itself.
    return {
        **sidecar,
        "livenessProbe": {**HEALTH, "periodSeconds": 30, "timeoutSeconds": 20, "failureThreshold": 10},
    }


def _gateway(server: ModelServer, settings: Settings, image: str, pod: Mounts) -> Container:
    return {
        **_container(
            "gateway", image, settings, _gateway_arguments(server), _gateway_mounts(server, pod), {}
        ),
        "ports": [
            {"name": "http", "containerPort": GATEWAY_PORT},
            {"name": "agent", "containerPort": AGENT_PORT},
        ],
        "readinessProbe": {"httpGet": {"path": "/readyz", "port": "agent"}, "periodSeconds": 2},
        "livenessProbe": {
            "httpGet": {"path": "/healthz", "port": "agent"},
            "periodSeconds": 10,
            "timeoutSeconds": 5,
            "failureThreshold": 6,
        },
        "lifecycle": {"preStop": {"sleep": {"seconds": PROPAGATION_SECONDS}}},
        "resources": _GATEWAY,
    }


def _gateway_arguments(server: ModelServer) -> list[str]:
    model = base_path(parse_source(server.spec.base_model.source))
    keys = ["--keys", KEYS_FOLDER] if server.spec.api_keys is not None else []
    return [
        "gateway", "--manifest", f"{MANIFEST_FOLDER}/manifest.json", "--uds", SOCKET,
        "--model", model, "--max-lora-rank", str(server.spec.max_lora_rank), *keys,
    ]  # fmt: skip


def _gateway_mounts(server: ModelServer, pod: Mounts) -> Mounts:
    mounts = pod.of_another_container()
    mounts.tmp()
    add_socket(mounts)
    mounts.empty_dir("adapters", ADAPTERS, server.spec.resources.ephemeral_storage)
    mounts.config_map(manifest_name(server), MANIFEST_FOLDER)
    _add_base(mounts, server, read_only=True)
    mounts.claim(store_claim(server), f"/sources/pvc/{store_claim(server)}", read_only=True)
    if server.spec.api_keys is not None:
        mounts.secret("keys", server.spec.api_keys.secret_ref.name, KEYS_FOLDER)
    return mounts


def _add_base(mounts: Mounts, server: ModelServer, *, read_only: bool) -> None:
    source = parse_source(server.spec.base_model.source)
    if source.scheme == "hf":
        mounts.empty_dir("base", MODELS, server.spec.resources.ephemeral_storage, read_only=read_only)
    else:
        mounts.claim(source.claim or "", f"/sources/pvc/{source.claim}", read_only=True)


def _container(
    name: str, image: str, settings: Settings, args: list[str], mounts: Mounts, env: Mapping[str, str]
) -> dict[str, Any]:
    return {
        **container(name, image, settings, env),
        "command": ["python", "-m", "finetune_serving"],
        "args": args,
        "terminationMessagePolicy": "FallbackToLogsOnError",
        "volumeMounts": mounts.mounts,
    }


def _gpu(server: ModelServer, settings: Settings) -> GpuType:
    """The administrator's entry for the server's gpuType; a server whose type is unknown gets no pods."""
    return settings.gpu_type(server.spec.resources.gpu_type) or GpuType()
