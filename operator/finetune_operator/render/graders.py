"""Graders that are images of the user's own: each a container of the pod that has no network.

Before the first of them one of ours looks whether the pod really has none (finetune_trainer/sandbox/network).
They run one after the other, before the container that reads what they say. The kubelet has no time limit for
one container, so the operator looks at how long each runs (observe/graders.py).
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from finetune_operator.api.evaluation.graders import Grader
from finetune_operator.api.finetunejob import FineTuneJob
from finetune_operator.contracts.settings import Settings, pinned
from finetune_operator.render.containers import Container, container, literal
from finetune_operator.render.mounts import Mounts
from finetune_operator.render.resources import cpu_stage_resources, foreign_resources
from finetune_operator.render.security import container_security
from finetune_operator.render.volumes import workspace_claim, workspace_folder

NETWORK_CHECK = "network-check"
NETWORK_FOUND = 3
"""The exit code of the check where it reached something."""
RESULTS = "/run/graders"
QUESTIONS_PATH, RESULTS_PATH = "/grading/questions", "/grading/results"
_RESULTS_SIZE = "64Mi"  # in memory, so that a full one refuses and evicts nobody
_FILES_SIZE = "256Mi"
_SHARED_SIZE = "64Mi"  # what a pod has; of its own, so that graders leave each other nothing there


def container_graders(job: FineTuneJob) -> dict[str, Grader]:
    """The graders that are containers, by the names of these."""
    evaluation = job.spec.evaluation
    named = {} if evaluation is None else evaluation.named_graders
    return {name: grader for name, grader in named.items() if grader.type == "Container"}


def grading_containers(
    job: FineTuneJob, settings: Settings, model: str, pod: Mounts, failed: Collection[str]
) -> tuple[Container, ...]:
    """What grades the answers of `base` or `tuned`, without those that have `failed`."""
    asked = {name: grader for name, grader in container_graders(job).items() if name not in failed}
    if not asked:
        return ()
    graders = (_grader(job, settings, model, name, asked[name], pod) for name in asked)
    return (_network_check(job, settings), *graders)


def _network_check(job: FineTuneJob, settings: Settings) -> Container:
    return {
        **container(NETWORK_CHECK, pinned(job, settings).images.trainer, settings, {}),
        "command": ["python", "-m", "finetune_trainer.sandbox.network"],
        "resources": cpu_stage_resources(settings),
        "terminationMessagePolicy": "FallbackToLogsOnError",
    }


def _grader(
    job: FineTuneJob, settings: Settings, model: str, name: str, grader: Grader, pod: Mounts
) -> Container:
    """It gets nothing of ours but the questions: no variables, no Secret, no other folder."""
    pod.memory_dir(f"results-{name}", f"{RESULTS}/{name}", _RESULTS_SIZE, read_only=True)
    mounts = pod.of_another_container()
    folder = "/".join(filter(None, (workspace_folder(job), f"results/graders/{model}/{name}")))
    mounts.claim(workspace_claim(job), QUESTIONS_PATH, read_only=True, folder=folder)
    mounts.memory_dir(f"results-{name}", RESULTS_PATH, _RESULTS_SIZE)
    mounts.memory_dir(f"tmp-{name}", "/tmp", _FILES_SIZE)  # noqa: S108
    mounts.shared_memory(_SHARED_SIZE, f"shm-{name}")
    command: dict[str, Any] = {} if grader.command is None else {"command": [*map(literal, grader.command)]}
    return {
        "name": name,
        "image": grader.image,
        "imagePullPolicy": settings.image_pull_policy,
        **command,
        "args": [f"{QUESTIONS_PATH}/questions.jsonl", f"{RESULTS_PATH}/results.jsonl"],
        "securityContext": container_security(),
        "resources": foreign_resources(settings),
        "terminationMessagePolicy": "FallbackToLogsOnError",
        "volumeMounts": mounts.mounts,
    }
