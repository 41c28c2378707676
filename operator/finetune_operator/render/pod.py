"""The pod of a stage attempt, admitted by Pod Security `restricted` unless its gpuType sets ipcLock."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from finetune_operator.api.finetunejob import FineTuneJob
from finetune_operator.api.finetunejobstatus import CODE_STAGES, GPU_STAGES, Attempt
from finetune_operator.contracts.settings import Settings, pinned
from finetune_operator.core.actions import Manifest
from finetune_operator.render.containers import Container, container
from finetune_operator.render.mounts import Mounts
from finetune_operator.render.names import stage_labels
from finetune_operator.render.placement import away_from, cpu_stage, gang_affinity, gpu_type, with_gpus
from finetune_operator.render.resources import on_gpus
from finetune_operator.render.security import SYSCTLS_OF_FOREIGN_CODE
from finetune_operator.render.volumes import JOB_FILE, workspace_claim, workspace_folder

PROGRESS_PORT = 8080
GRACE_SECONDS = 30
_CLAIM = "/claim"


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


def stage_pod(job: FineTuneJob, settings: Settings, attempt: Attempt, parts: PodParts) -> Manifest:
    """The pod template of an attempt."""
    gpu = gpu_type(job, settings)
    place = with_gpus(job.spec, gpu) if on_gpus(job, parts.command) else cpu_stage(job, settings)
    special: dict[str, Any] = {
        "restartPolicy": "Never",
        "terminationGracePeriodSeconds": parts.grace_seconds,
        "containers": [_main(job, settings, attempt, parts)],
    }
    if starters := [*_folder_makers(job, settings, parts), *parts.sidecars]:
        special["initContainers"] = starters
    if parts.subdomain is not None:
        special["subdomain"] = parts.subdomain
    has_gpus = job.spec.resources.gpus_per_node > 0
    gang = gang_affinity(attempt.job, gpu, on_gpus=has_gpus) if parts.nodes > 1 else {}
    if affinity := {**away_from(parts.avoided_nodes), **gang}:
        special["affinity"] = affinity
    labels = stage_labels(job, attempt.stage, attempt.number)
    template = place.pod_template(settings, labels, parts.mounts, special)
    return _of_foreign_code(template, labels) if attempt.stage in CODE_STAGES else template


def _of_foreign_code(template: Manifest, labels: dict[str, str]) -> Manifest:
    """The template where code of a model or of a user runs: of spec.podTemplate it has the pull secrets only.

    NetworkPolicies add up, so one that selects a label of the user would open the pod; an annotation may
    attach a second network; and for a service account a cloud's webhook mounts a token.
    """
    spec = {key: value for key, value in template["spec"].items() if key != "serviceAccountName"}
    security = {**spec["securityContext"], "sysctls": SYSCTLS_OF_FOREIGN_CODE}
    return {"metadata": {"labels": labels}, "spec": {**spec, "securityContext": security}}


def _main(job: FineTuneJob, settings: Settings, attempt: Attempt, parts: PodParts) -> Container:
    offline = {} if attempt.stage == "prepare" else {"HF_HUB_OFFLINE": "1"}  # the one stage that fetches
    gpu = gpu_type(job, settings)
    watched = {"FT_HANG_SECONDS": str(settings.hang_deadline_seconds)}
    capabilities = ("IPC_LOCK",) if gpu.ipc_lock and parts.nodes > 1 else ()
    near = gpu.env if on_gpus(job, parts.command) else {}
    env = {**near, **(watched if parts.command in GPU_STAGES else {}), **offline, **parts.env}
    return {
        **container(attempt.stage, pinned(job, settings).images.trainer, settings, env, capabilities),
        "command": ["python", "-m", "finetune_trainer"],
        "args": [parts.command, "--job", JOB_FILE],
        "ports": [{"name": "progress", "containerPort": PROGRESS_PORT}],
        "resources": parts.resources,
        "terminationMessagePolicy": "File",
        "volumeMounts": parts.mounts.mounts,
    }


def _folder_makers(job: FineTuneJob, settings: Settings, parts: PodParts) -> list[Container]:
    """In prepare, what creates the run's folder on a claim of the user, before it is mounted as /workspace.

    The kubelet would create it too, but as root: often not writable for the pod's user, and refused by
    network volumes that trust no root.
    """
    folder = workspace_folder(job)
    if folder is None or parts.command != "prepare":
        return []
    mounts = parts.mounts.of_another_container()
    mounts.claim(workspace_claim(job), _CLAIM, read_only=False)
    return [
        {
            **container("workspace", pinned(job, settings).images.trainer, settings, {}),
            "command": ["mkdir", "-p", f"{_CLAIM}/{folder}"],
            "resources": parts.resources,
            "terminationMessagePolicy": "FallbackToLogsOnError",
            "volumeMounts": mounts.mounts,
        }
    ]
