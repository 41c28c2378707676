"""The pod of a ModelServer: the engine as a native sidecar, the gateway with its agent beside it.

The gateway starts with the engine and fetches adapters while it loads; a native sidecar stops after it, so
the engine outlives the last request that the gateway drains. The engine takes requests only on a unix socket
in a volume the two share.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from finetune_operator.api.modelserver import ModelServer
from finetune_operator.contracts.engine import EngineProfile
from finetune_operator.contracts.settings import GpuType, Settings
from finetune_operator.core.actions import Manifest
from finetune_operator.core.sources import parse_source
from finetune_operator.render.containers import Container, container
from finetune_operator.render.credentials import CREDENTIALS
from finetune_operator.render.engine import (
    SOCKET,
    Engine,
    add_socket,
    command_line,
    engine_container,
    health,
)
from finetune_operator.render.mounts import Mounts
from finetune_operator.render.names import manifest_name, pod_selector, server_name
from finetune_operator.render.placement import spread, with_gpus
from finetune_operator.render.resources import replica_resources, shared_memory
from finetune_operator.serving.network import AGENT_PORT, GATEWAY_PORT

MANIFEST_FOLDER = "/etc/finetune/server"
KEYS_FOLDER = "/etc/finetune/keys"
MODELS = "/models"
FETCHED_BASE = f"{MODELS}/base"
CACHE = "/cache"
ADAPTERS = "/adapters"
_ENDING_SECONDS = 30  # the gateway closes its connections, then the engine ends, for which it has 20 s
_GATEWAY = {"requests": {"cpu": "250m", "memory": "256Mi"}, "limits": {"memory": "1Gi"}}
_FETCH = {"requests": {"cpu": "250m", "memory": "1Gi"}, "limits": {}}
_COMPILED = {
    "VLLM_CACHE_ROOT": f"{CACHE}/compiled/vllm",
    "TORCHINDUCTOR_CACHE_DIR": f"{CACHE}/compiled/inductor",
    "TRITON_CACHE_DIR": f"{CACHE}/compiled/triton",
}


def pod_template(server: ModelServer, settings: Settings, image: str, labels: Mapping[str, str]) -> Manifest:
    """The pod template with these labels, admitted by Pod Security `restricted`."""
    pod = Mounts(only_reads=True)
    spec = server.spec
    special = {
        "terminationGracePeriodSeconds": spec.propagation_seconds + spec.drain_seconds + _ENDING_SECONDS,
        "initContainers": [
            *_cache_folders(server, settings, image, pod),
            *_fetch(server, settings, image, pod),
            _engine(server, settings, image, pod),
        ],
        "containers": [_gateway(server, settings, image, pod)],
        "topologySpreadConstraints": spread(pod_selector(server)),
    }
    return with_gpus(server.spec, _gpu(server, settings)).pod_template(settings, labels, pod, special)


def base_path(server: ModelServer) -> str:
    """Where the base model is inside the pod: mounted in place for a claim, else fetched.

    In the cache a model of a bucket is called by its content: names of buckets and prefixes may be too long.
    """
    base = server.spec.base_model
    source = parse_source(base.source)
    if source.scheme == "pvc":
        return f"/sources/pvc/{source.claim}/{source.path}".rstrip("/")
    if server.spec.cache is None:
        return FETCHED_BASE
    if source.scheme == "hf":
        return f"{CACHE}/models/{base.source.removeprefix('hf://').replace('/', '--')}/{base.revision}"
    return f"{CACHE}/models/{(base.fingerprint or '').replace(':', '-')}"


def cpu_slots(server: ModelServer) -> int:
    """How many adapters the server serves: twice the GPU slots unless its spec says otherwise.

    The engine holds one more, the surge slot: with it a server whose slots are all taken can roll.
    """
    return (server.spec.max_cpu_loras or 2 * server.spec.max_loras) if server.spec.max_loras else 0


def mounted_claims(server: ModelServer) -> list[str]:
    """Every claim the pod mounts, each once."""
    base, cache = parse_source(server.spec.base_model.source).claim, server.spec.cache
    names = (base, server.spec.store_claim, cache.claim_name if cache is not None else None)
    return sorted({name for name in names if name})


def mounted_secrets(server: ModelServer) -> list[str]:
    """Every Secret the pod mounts."""
    spec = server.spec
    refs = (spec.base_model.credentials_secret_ref, spec.api_keys.secret_ref if spec.api_keys else None)
    return [ref.name for ref in refs if ref is not None]


def _cache_folders(server: ModelServer, settings: Settings, image: str, pod: Mounts) -> list[Container]:
    """What creates the folders of the cache before they are mounted one by one: the kubelet would as root."""
    if server.spec.cache is None:
        return []
    mounts = pod.of_another_container()
    mounts.claim(server.spec.cache.claim_name, CACHE, read_only=False)
    made = _container("cache-folders", image, settings, [], mounts, {})
    return [{**made, "command": ["mkdir", "-p", f"{CACHE}/models", f"{CACHE}/compiled"], "resources": _FETCH}]


def _fetch(server: ModelServer, settings: Settings, image: str, pod: Mounts) -> list[Container]:
    """A base of the Hub or a bucket is copied before the engine starts; no other container has the keys."""
    base = server.spec.base_model
    if parse_source(base.source).scheme == "pvc":
        return []
    mounts = pod.of_another_container()
    mounts.tmp("fetch-tmp")
    _add_base(mounts, server, read_only=False)
    if base.credentials_secret_ref is not None:
        mounts.secret("token", base.credentials_secret_ref.name, f"{CREDENTIALS}/base-model")
    addresses = {
        "HF_ENDPOINT": settings.hub_endpoint,
        "FT_S3_ENDPOINT": settings.s3.endpoint,
        "FT_S3_REGION": settings.s3.region,
    }
    env = {name: value for name, value in addresses.items() if value is not None}
    hub = base.source.startswith("hf://")
    pin = ["--revision", base.revision or ""] if hub else ["--fingerprint", base.fingerprint or ""]
    args = ["fetch-base", "--source", base.source, *pin, "--to", base_path(server)]
    return [{**_container("fetch-base", image, settings, args, mounts, env), "resources": _FETCH}]


def _engine(server: ModelServer, settings: Settings, image: str, pod: Mounts) -> Container:
    spec, gpu = server.spec, _gpu(server, settings)
    mounts = pod.of_another_container()
    mounts.empty_dir("adapters", ADAPTERS, spec.resources.ephemeral_storage, read_only=True)
    mounts.shared_memory(shared_memory(spec.resources.shared_memory, gpu, spec.resources.gpus))
    _add_base(mounts, server, read_only=True)
    profile = settings.engine_profiles.get(spec.engine_profile or "", EngineProfile())
    if spec.cache is not None:
        mounts.claim(spec.cache.claim_name, f"{CACHE}/compiled", read_only=False, folder="compiled")
        profile = profile.model_copy(update={"env": {**_COMPILED, **profile.env}})
    serves = Engine(
        model=base_path(server),
        served_name=server.spec.base_name,
        max_loras=spec.max_loras,
        max_cpu_loras=cpu_slots(server) + 1,
        max_lora_rank=spec.max_lora_rank,
        gpus=spec.resources.gpus,
        max_model_length=spec.max_model_length,
        profile=profile,
    )
    sidecar = engine_container(serves, image, settings, gpu, replica_resources(server, gpu), mounts)
    # Without a startup probe the gateway starts at once and fetches adapters while the engine loads. The
    # liveness probe is patient: only an engine that hangs is killed, never one that loads or is busy.
    return {
        **sidecar,
        "livenessProbe": {
            **health(settings.engine_start_seconds),
            "periodSeconds": 30,
            "timeoutSeconds": 20,
            "failureThreshold": 10,
        },
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
        # One "no" is enough: the agent says it when requests would fail.
        "readinessProbe": {
            "httpGet": {"path": "/readyz", "port": "agent"},
            "periodSeconds": 2,
            "timeoutSeconds": 5,
            "failureThreshold": 1,
        },
        "livenessProbe": {
            "httpGet": {"path": "/healthz", "port": "agent"},
            "periodSeconds": 10,
            "timeoutSeconds": 5,
            "failureThreshold": 6,
        },
        "lifecycle": {"preStop": {"sleep": {"seconds": server.spec.propagation_seconds}}},
        "resources": _GATEWAY,
    }


def _gateway_arguments(server: ModelServer) -> list[str]:
    spec = server.spec
    options = {
        "--manifest": f"{MANIFEST_FOLDER}/manifest.json",
        "--uds": SOCKET,
        "--model": base_path(server),
        "--derived-from": spec.base_model.derived_from,
        "--max-lora-rank": spec.max_lora_rank,
        "--drain-seconds": spec.drain_seconds,
        "--peers": f"http://{server_name(server)}:{GATEWAY_PORT}",
        "--keys": KEYS_FOLDER if spec.api_keys is not None else None,
    }
    return ["gateway", *command_line(options)]


def _gateway_mounts(server: ModelServer, pod: Mounts) -> Mounts:
    mounts = pod.of_another_container()
    mounts.tmp()
    add_socket(mounts)
    mounts.empty_dir("adapters", ADAPTERS, server.spec.resources.ephemeral_storage)
    mounts.config_map(manifest_name(server), MANIFEST_FOLDER)
    _add_base(mounts, server, read_only=True)
    store = server.spec.store_claim
    mounts.claim(store, f"/sources/pvc/{store}", read_only=True)
    if server.spec.api_keys is not None:
        mounts.secret("keys", server.spec.api_keys.secret_ref.name, KEYS_FOLDER)
    return mounts


def _add_base(mounts: Mounts, server: ModelServer, *, read_only: bool) -> None:
    source, cache = parse_source(server.spec.base_model.source), server.spec.cache
    if source.scheme == "pvc":
        mounts.claim(source.claim or "", f"/sources/pvc/{source.claim}", read_only=True)
    elif cache is not None:
        mounts.claim(cache.claim_name, f"{CACHE}/models", read_only=read_only, folder="models")
    else:
        mounts.empty_dir("base", MODELS, server.spec.resources.ephemeral_storage, read_only=read_only)


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
