"""The pod of a ModelServer: the engine as a native sidecar, the gateway with its agent beside it.

Native sidecars start before and stop after the gateway, so the engine outlives the last request that the
gateway drains (design.md 5). The engine listens only on a unix socket in a volume the two share.
"""

from __future__ import annotations

import json
from typing import Any

from finetune_operator.api.modelserver import ModelServer
from finetune_operator.contracts.settings import GpuType, Settings
from finetune_operator.core.sources import Source, parse_source
from finetune_operator.render.names import manifest_name
from finetune_operator.render.security import container_security, pod_security

SOCKET = "/run/engine/engine.sock"
HF_BASE = "/models/base"
GRACE_SECONDS = 120
PROPAGATION_SECONDS = 5  # time for every node to take a terminating pod out of the Service

Container = dict[str, Any]


def pod_spec(server: ModelServer, settings: Settings, image: str) -> dict[str, Any]:
    """The pod template's spec, admitted by Pod Security `restricted`."""
    spec: dict[str, Any] = {
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "terminationGracePeriodSeconds": GRACE_SECONDS,
        "securityContext": pod_security(),
        "initContainers": [*_fetch(server, settings, image), _engine(server, settings, image)],
        "containers": [_gateway(server, settings, image)],
        "volumes": _volumes(server),
        "nodeSelector": {**_gpu(server, settings).node_selector, **server.spec.node_selector},
        "tolerations": [t.to_dict() for t in server.spec.tolerations],
    }
    return spec


def base_path(source: Source) -> str:
    """Where the base model is inside the pod: fetched for hf, mounted in place for a claim."""
    return HF_BASE if source.scheme == "hf" else f"/sources/pvc/{source.claim}/{source.path}".rstrip("/")


def base_name(server: ModelServer) -> str:
    """The name under which clients reach the untuned base: the last part of its source."""
    return server.spec.base_model.source.rstrip("/").rsplit("/", 1)[-1]


def _container(name: str, image: str, settings: Settings, args: list[str]) -> Container:
    env = {"HOME": "/tmp", **settings.env}  # noqa: S108 - the only writable folder of the pod
    return {
        "name": name,
        "image": image,
        "imagePullPolicy": settings.image_pull_policy,
        "command": ["python", "-m", "finetune_serving"],
        "args": args,
        "env": [{"name": key, "value": value} for key, value in env.items()],
        "securityContext": container_security(),
        "terminationMessagePolicy": "FallbackToLogsOnError",
        "volumeMounts": [{"name": "tmp", "mountPath": "/tmp"}],  # noqa: S108
    }


def _engine(server: ModelServer, settings: Settings, image: str) -> Container:
    spec = server.spec
    args = [
        "engine",
        "--model",
        base_path(parse_source(spec.base_model.source)),
        "--served-name",
        base_name(server),
    ]
    args += ["--uds", SOCKET, "--max-loras", str(spec.max_loras), "--max-lora-rank", str(spec.max_lora_rank)]
    args += ["--max-cpu-loras", str(cpu_slots(server) + 1)]  # and the surge slot
    if spec.resources.gpus > 1:
        args += ["--tensor-parallel-size", str(spec.resources.gpus)]
    if spec.max_model_length:
        args += ["--max-model-len", str(spec.max_model_length)]
    container = _container("engine", image, settings, args)
    container["env"] += [
        {"name": "HF_HUB_OFFLINE", "value": "1"},
        {"name": "FT_ENGINE_ARGS", "value": json.dumps(settings.engine_args)},
    ]
    container["restartPolicy"] = "Always"
    container["resources"] = _resources(server, settings)
    asks = {"exec": {"command": ["python", "-m", "finetune_serving", "health", "--uds", SOCKET]}}
    container["startupProbe"] = {**asks, "periodSeconds": 5, "timeoutSeconds": 10, "failureThreshold": 360}
    # Patient: only an engine that hangs is killed, never one that is busy; a crashed one ends by itself.
    container["livenessProbe"] = {**asks, "periodSeconds": 30, "timeoutSeconds": 20, "failureThreshold": 10}
    container["volumeMounts"] += [
        {"name": "run", "mountPath": "/run/engine"},
        {"name": "shm", "mountPath": "/dev/shm"},  # noqa: S108
        {"name": "adapters", "mountPath": "/adapters", "readOnly": True},
        *_base_mounts(server, read_only=True),
    ]
    return container


def _gateway(server: ModelServer, settings: Settings, image: str) -> Container:
    base = parse_source(server.spec.base_model.source)
    args = ["gateway", "--manifest", "/etc/finetune/server/manifest.json", "--uds", SOCKET]
    args += ["--model", base_path(base), "--max-lora-rank", str(server.spec.max_lora_rank)]
    if server.spec.api_keys is not None:
        args += ["--keys", "/etc/finetune/keys"]
    container = _container("gateway", image, settings, args)
    container["ports"] = [{"name": "http", "containerPort": 8000}, {"name": "agent", "containerPort": 8001}]
    container["readinessProbe"] = {"httpGet": {"path": "/readyz", "port": "agent"}, "periodSeconds": 2}
    container["livenessProbe"] = {
        "httpGet": {"path": "/healthz", "port": "agent"},
        "periodSeconds": 10,
        "timeoutSeconds": 5,
        "failureThreshold": 6,
    }
    container["lifecycle"] = {"preStop": {"sleep": {"seconds": PROPAGATION_SECONDS}}}
    container["resources"] = {"requests": {"cpu": "100m", "memory": "256Mi"}, "limits": {"memory": "1Gi"}}
    container["volumeMounts"] += [
        {"name": "run", "mountPath": "/run/engine"},
        {"name": "adapters", "mountPath": "/adapters"},
        {"name": "manifest", "mountPath": "/etc/finetune/server", "readOnly": True},
        *_base_mounts(server, read_only=True),
        *_store_mounts(server),
    ]
    if server.spec.api_keys is not None:
        container["volumeMounts"].append(
            {"name": "keys", "mountPath": "/etc/finetune/keys", "readOnly": True}
        )
    return container


def _fetch(server: ModelServer, settings: Settings, image: str) -> list[Container]:
    """An hf base is downloaded once per pod, by the only container that has network and the token."""
    base = server.spec.base_model
    if parse_source(base.source).scheme != "hf":
        return []
    args = ["fetch-base", "--source", base.source, "--revision", base.revision or "", "--to", HF_BASE]
    container = _container("fetch-base", image, settings, args)
    if settings.hub_endpoint:
        container["env"].append({"name": "HF_ENDPOINT", "value": settings.hub_endpoint})
    container["volumeMounts"] += _base_mounts(server, read_only=False)
    if base.credentials_secret_ref is not None:
        mount = {"name": "token", "mountPath": "/etc/finetune/credentials/base-model", "readOnly": True}
        container["volumeMounts"].append(mount)
    return [container]


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


def _base_mounts(server: ModelServer, *, read_only: bool) -> list[dict[str, Any]]:
    source = parse_source(server.spec.base_model.source)
    if source.scheme == "hf":
        return [{"name": "base", "mountPath": "/models", "readOnly": read_only}]
    return [
        {"name": _claim_volume(source.claim), "mountPath": f"/sources/pvc/{source.claim}", "readOnly": True}
    ]


def _store_mounts(server: ModelServer) -> list[dict[str, Any]]:
    claim = store_claim(server)
    if claim == parse_source(server.spec.base_model.source).claim:
        return []  # already mounted for the base
    return [{"name": _claim_volume(claim), "mountPath": f"/sources/pvc/{claim}", "readOnly": True}]


def _claim_volume(claim: str | None) -> str:
    return f"claim-{claim}"[:63].rstrip("-.")


def _volumes(server: ModelServer) -> list[dict[str, Any]]:
    spec = server.spec
    shm: dict[str, Any] = {"medium": "Memory", "sizeLimit": spec.resources.shared_memory or "1Gi"}
    volumes: list[dict[str, Any]] = [
        {"name": "tmp", "emptyDir": {}},
        {"name": "run", "emptyDir": {}},
        {"name": "adapters", "emptyDir": {}},
        {"name": "shm", "emptyDir": shm},
        {"name": "manifest", "configMap": {"name": manifest_name(server)}},
    ]
    volumes += [
        {"name": _claim_volume(claim), "persistentVolumeClaim": {"claimName": claim, "readOnly": True}}
        for claim in mounted_claims(server)
    ]
    if parse_source(spec.base_model.source).scheme == "hf":
        volumes.append({"name": "base", "emptyDir": {}})
    if spec.base_model.credentials_secret_ref is not None:
        volumes.append(
            {"name": "token", "secret": {"secretName": spec.base_model.credentials_secret_ref.name}}
        )
    if spec.api_keys is not None:
        volumes.append({"name": "keys", "secret": {"secretName": spec.api_keys.secret_ref.name}})
    return volumes


def _resources(server: ModelServer, settings: Settings) -> dict[str, Any]:
    asked = server.spec.resources
    limits: dict[str, Any] = {"cpu": asked.cpu, "memory": asked.memory}
    if asked.gpus:
        limits[_gpu(server, settings).resource_name] = str(asked.gpus)
    amounts = {key: value for key, value in limits.items() if value is not None}
    return {"requests": amounts, "limits": dict(amounts)}


def _gpu(server: ModelServer, settings: Settings) -> GpuType:
    """The administrator's entry for the server's gpuType; a server whose type is unknown gets no pods."""
    return settings.gpu_type(server.spec.resources.gpu_type) or GpuType()
