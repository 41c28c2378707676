"""What a stage renders, picked out of its Job."""

from __future__ import annotations

import json
from typing import Any

from finetune_operator.contracts.settings import Settings, parse_settings
from tests.unit.stages.kubernetes_simulation import SETTINGS, KubernetesSimulation

STAGES = ("prepare", "baseline", "train", "evaluate", "publish")
Object = dict[str, Any]


def with_settings(**changes: Any) -> Settings:
    """The settings of the tests with these changes."""
    given = SETTINGS.model_dump(mode="json", by_alias=True)
    return parse_settings(json.dumps({**given, **changes}))


def job_of(stage: str, settings: Settings = SETTINGS, /, **changes: Any) -> Object:
    """The Job of the first attempt at a stage of a run with these changes."""
    world = KubernetesSimulation(settings, **changes)
    world.claims["shared"] = {"metadata": {"uid": "shared"}, "spec": {"accessModes": ["ReadWriteMany"]}}
    world.to(stage)
    found: Object = world.jobs[world.running()]
    return found


def template_of(stage: str, settings: Settings = SETTINGS, /, **changes: Any) -> Object:
    """Its pod template."""
    template: Object = job_of(stage, settings, **changes)["spec"]["template"]
    return template


def pod_of(stage: str, settings: Settings = SETTINGS, /, **changes: Any) -> Object:
    """The spec of its pods."""
    spec: Object = template_of(stage, settings, **changes)["spec"]
    return spec


def main_of(stage: str, settings: Settings = SETTINGS, /, **changes: Any) -> Object:
    """The trainer's container."""
    container: Object = pod_of(stage, settings, **changes)["containers"][0]
    return container


def engine_of(stage: str, settings: Settings = SETTINGS, /, **changes: Any) -> Object:
    """The engine beside a scorer."""
    container: Object = pod_of(stage, settings, **changes)["initContainers"][0]
    return container


def env_of(container: Object) -> dict[str, str]:
    """The environment of a container."""
    return {entry["name"]: entry["value"] for entry in container["env"]}


def mounts_of(container: Object) -> dict[str, bool]:
    """Whether a container may only read, by path."""
    return {m["mountPath"]: m.get("readOnly", False) for m in container["volumeMounts"]}
