"""The pod of a stage attempt, admitted by Pod Security `restricted`."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from finetune_operator.api.finetunejob import FineTuneJob
from finetune_operator.contracts.settings import Settings
from finetune_operator.render.resources import node_selector
from finetune_operator.render.security import container_security, pod_security
from finetune_operator.render.volumes import JOB_FILE, Mounts

PROGRESS_PORT = 8080
GRACE_SECONDS = 30

Container = dict[str, Any]


@dataclass(frozen=True)
class PodParts:
    """What distinguishes the pods of one stage: the rest is the same for all.

    `command` is the trainer's subcommand, `env` what the main container gets beyond the common variables;
    `sidecars` start before it and stop after it; `subdomain` gives the pods names in DNS; `avoided_nodes` are
    taken only where no other node has room.
    """

    command: str
    mounts: Mounts
    resources: dict[str, Any]
    env: dict[str, str] = field(default_factory=dict)
    sidecars: tuple[Container, ...] = ()
    nodes: int = 1
    grace_seconds: int = GRACE_SECONDS
    subdomain: str | None = None
    avoided_nodes: tuple[str, ...] = ()


def pod_spec(job: FineTuneJob, settings: Settings, stage: str, parts: PodParts) -> dict[str, Any]:
    """The pod template's spec."""
    spec: dict[str, Any] = {
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "restartPolicy": "Never",
        "terminationGracePeriodSeconds": parts.grace_seconds,
        "securityContext": pod_security(),
        "containers": [_main(settings, stage, parts)],
        "volumes": list(parts.mounts.volumes.values()),
        "nodeSelector": node_selector(job, settings),
        "tolerations": [toleration.to_dict() for toleration in job.spec.tolerations],
    }
    if parts.sidecars:
        spec["initContainers"] = list(parts.sidecars)
    if parts.subdomain is not None:
        spec["subdomain"] = parts.subdomain
    if parts.avoided_nodes:
        spec["affinity"] = {"nodeAffinity": _away_from(parts.avoided_nodes)}
    return spec


def _away_from(nodes: tuple[str, ...]) -> dict[str, Any]:
    """Other nodes, where there are any."""
    field = {"key": "metadata.name", "operator": "NotIn", "values": list(nodes)}
    return {
        "preferredDuringSchedulingIgnoredDuringExecution": [
            {"weight": 100, "preference": {"matchFields": [field]}}
        ]
    }


def container(name: str, image: str, settings: Settings, env: dict[str, str]) -> Container:
    """A container without privileges; `env` goes over the administrator's variables."""
    variables = {**settings.env, "HOME": "/tmp", **env}  # noqa: S108 - the only writable folder of the image
    return {
        "name": name,
        "image": image,
        "imagePullPolicy": settings.image_pull_policy,
        "env": [{"name": key, "value": value} for key, value in variables.items()],
        "securityContext": container_security(),
    }


def _main(settings: Settings, stage: str, parts: PodParts) -> Container:
    env = {"HF_HUB_OFFLINE": "1", **parts.env}
    if stage == "prepare":
        del env["HF_HUB_OFFLINE"]  # the one stage that fetches
    main = container(stage, settings.images.trainer, settings, env)
    main["command"] = ["python", "-m", "finetune_trainer"]
    main["args"] = [parts.command, "--job", JOB_FILE]
    main["ports"] = [{"name": "progress", "containerPort": PROGRESS_PORT}]
    main["resources"] = parts.resources
    main["terminationMessagePolicy"] = "File"
    main["volumeMounts"] = parts.mounts.mounts
    return main
