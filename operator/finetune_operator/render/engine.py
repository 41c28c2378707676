"""The engine beside a scoring stage: vLLM from the serving image as a native sidecar.

It starts before the scorer, which begins once the startup probe has answered, and stops after it, so the
Job ends when the scorer does. Base and tuned model are scored with the same flags.
"""

from __future__ import annotations

import json
from typing import Any

from finetune_operator.api.finetunejob import FineTuneJob
from finetune_operator.contracts.settings import Settings
from finetune_operator.render.pod import Container, container
from finetune_operator.render.resources import engine_resources
from finetune_operator.render.volumes import WORKSPACE, Mounts, add_base, add_shared_memory, workspace_claim

SOCKET_FOLDER = "/run/engine"
SOCKET = f"{SOCKET_FOLDER}/engine.sock"
SERVED_NAME = "base"
RANKS = (8, 16, 32, 64, 128, 256)
"""The values that vLLM takes for --max-lora-rank."""
UNKNOWN_RANK = 64  # prepare chose the rank, but its summary did not fit into the termination message


def engine(job: FineTuneJob, settings: Settings, model: str, pod: Mounts) -> Container:
    """The sidecar that serves the model folder on a socket; adds its volumes and the socket's to the pod."""
    pod.empty_dir("engine", SOCKET_FOLDER)
    env = {"HF_HUB_OFFLINE": "1", "FT_ENGINE_ARGS": json.dumps(settings.engine_args)}
    sidecar = container("engine", settings.images.serving, settings, env)
    sidecar["command"] = ["python", "-m", "finetune_serving"]
    sidecar["args"] = [
        "engine", "--model", model, "--served-name", SERVED_NAME, "--uds", SOCKET,
        "--max-loras", "1", "--max-cpu-loras", "1", "--max-lora-rank", str(max_rank(job)),
    ]  # fmt: skip
    sidecar["restartPolicy"] = "Always"
    sidecar["startupProbe"] = {
        "exec": {"command": ["python", "-m", "finetune_serving", "health", "--uds", SOCKET]},
        "periodSeconds": 5,
        "timeoutSeconds": 10,
        "failureThreshold": 360,
    }
    sidecar["resources"] = engine_resources(job, settings)
    # An engine that cannot start says why only in its log.
    sidecar["terminationMessagePolicy"] = "FallbackToLogsOnError"
    sidecar["volumeMounts"] = _mounts(job, pod)
    return sidecar


def _mounts(job: FineTuneJob, pod: Mounts) -> list[dict[str, Any]]:
    """The engine reads the models and writes only its socket; job and destination are not its business."""
    own = Mounts(pod.volumes)
    own.claim(workspace_claim(job), WORKSPACE, read_only=True)
    add_base(own, job)
    add_shared_memory(own, job)
    own.empty_dir("engine", SOCKET_FOLDER)
    own.empty_dir("engine-tmp", "/tmp")  # noqa: S108
    return own.mounts


def max_rank(job: FineTuneJob) -> int:
    """The smallest rank that the engine can be told and that the adapter fits in."""
    if job.spec.method == "Full":
        return RANKS[0]
    resolved = job.status.resolved.lora if job.status.resolved is not None else None
    chosen = job.spec.lora.rank if job.spec.lora is not None else None
    rank = chosen or (resolved.rank if resolved is not None else None) or UNKNOWN_RANK
    return next((allowed for allowed in RANKS if allowed >= rank), RANKS[-1])
