"""What runs programs that a model wrote: a container that sees nothing but them, in a pod without network.

The container puts a filter of system calls on every program, which allows no sockets, and runs none where
that does not hold (finetune_trainer/sandbox). The NetworkPolicy beside it says the same of the whole pod.
"""

from __future__ import annotations

from finetune_operator.api.finetunejob import FineTuneJob
from finetune_operator.contracts.settings import Settings, pinned
from finetune_operator.core.actions import Manifest
from finetune_operator.render.containers import Container, container
from finetune_operator.render.mounts import Mounts
from finetune_operator.render.resources import cpu_stage_resources
from finetune_operator.render.volumes import workspace_claim, workspace_folder

PROGRAMS = "/run/programs"
RESULTS = "/run/sandbox"
_RESULTS_SIZE = "256Mi"
_FILES_SIZE = "256Mi"  # of all programs: in memory, so that a full one refuses and evicts nobody
_SHARED_SIZE = "64Mi"


def sandbox(job: FineTuneJob, settings: Settings, model: str, pod: Mounts) -> Container:
    """The container that runs the programs of `base` or `tuned`, before the one that reads the results."""
    pod.empty_dir("sandbox-results", RESULTS, _RESULTS_SIZE, read_only=True)
    mounts = pod.of_another_container()
    folder = "/".join(filter(None, (workspace_folder(job), "results/code")))
    mounts.claim(workspace_claim(job), PROGRAMS, read_only=True, folder=folder)
    mounts.empty_dir("sandbox-results", RESULTS, _RESULTS_SIZE)
    mounts.memory_dir("sandbox-tmp", "/tmp", _FILES_SIZE)  # noqa: S108
    mounts.shared_memory(_SHARED_SIZE, "sandbox-shm")
    files = ["--programs", f"{PROGRAMS}/{model}.jsonl", "--results", f"{RESULTS}/results.jsonl"]
    return {
        **container("sandbox", pinned(job, settings).images.trainer, settings, {}),
        "command": ["python", "-m", "finetune_trainer.sandbox"],
        "args": files,
        "resources": cpu_stage_resources(settings),
        "terminationMessagePolicy": "FallbackToLogsOnError",
        "volumeMounts": mounts.mounts,
    }


def isolation(metadata: Manifest, pods: dict[str, str]) -> Manifest:
    """The NetworkPolicy of such a pod: nothing goes in or out."""
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": metadata,
        "spec": {"podSelector": {"matchLabels": pods}, "policyTypes": ["Ingress", "Egress"]},
    }
