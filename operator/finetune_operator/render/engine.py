"""The engine: vLLM from the serving image as a native sidecar that answers on a socket.

A scorer beside it begins once the startup probe has answered, and ends before it. Beside a scorer base and
tuned model are served alike, whatever the settings have become.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from finetune_operator.api.finetunejob import FineTuneJob
from finetune_operator.contracts.engine import EngineProfile
from finetune_operator.contracts.settings import GpuType, Settings, pinned, scoring_profile
from finetune_operator.render.containers import Container, container
from finetune_operator.render.mounts import Mounts
from finetune_operator.render.placement import gpu_type
from finetune_operator.render.resources import engine_resources, scoring_gpus, shared_memory
from finetune_operator.render.volumes import add_base, add_workspace

SOCKET_FOLDER = "/run/engine"
SOCKET = f"{SOCKET_FOLDER}/engine.sock"
SERVED_NAME = "base"
START_SECONDS = "--start-seconds"
RANKS = (8, 16, 32, 64, 128, 256)
"""The values that vLLM takes for --max-lora-rank."""
UNKNOWN_RANK = 64  # prepare chose the rank, but its summary did not fit into the termination message
_STARTUP_PERIOD = 5
_FITTING_LENGTH = -1  # vLLM shortens the context to what fits; prepare saw to it that the run's rows do


@dataclass(frozen=True)
class Engine:
    """What an engine serves: the model folder under a name, with room for adapters, on so many GPUs.

    `profile` is what the administrator adds to the arguments and variables of all engines.
    """

    model: str
    served_name: str
    max_loras: int
    max_cpu_loras: int
    max_lora_rank: int
    gpus: int
    max_model_length: int | None = None
    profile: EngineProfile = field(default_factory=EngineProfile)

    def arguments(self) -> list[str]:
        """The command line of the serving image."""
        options: dict[str, str | int | None] = {
            "--model": self.model,
            "--served-name": self.served_name,
            "--uds": SOCKET,
            "--max-loras": self.max_loras,
            "--max-cpu-loras": self.max_cpu_loras,
            "--max-lora-rank": self.max_lora_rank,
            "--tensor-parallel-size": self.gpus if self.gpus > 1 else None,
            "--max-model-len": self.max_model_length,
        }
        return ["engine", *command_line(options)]


def command_line(options: Mapping[str, str | int | None]) -> list[str]:
    """Options with their values, without those that are None."""
    given = [(name, str(value)) for name, value in options.items() if value is not None]
    return [part for option in given for part in option]


def health(start_seconds: int | None = None) -> dict[str, Any]:
    """A probe of the engine; with `start_seconds` an engine that loads is in order too, for so long."""
    command = ["python", "-m", "finetune_serving", "health", "--uds", SOCKET]
    return {"exec": {"command": [*command, *command_line({START_SECONDS: start_seconds})]}}


def engine_container(
    engine: Engine,
    image: str,
    settings: Settings,
    gpu: GpuType,
    resources: Mapping[str, Any],
    mounts: Mounts,
) -> Container:
    """The sidecar. It writes its socket, /tmp and shared memory; `mounts` holds the models that it reads."""
    mounts.tmp("engine-tmp")
    add_socket(mounts)
    arguments = json.dumps([*settings.engine_args, *engine.profile.args])
    env = {**gpu.env, **engine.profile.env, "HF_HUB_OFFLINE": "1", "FT_ENGINE_ARGS": arguments}
    return {
        **container("engine", image, settings, env),
        "command": ["python", "-m", "finetune_serving"],
        "args": engine.arguments(),
        "restartPolicy": "Always",
        "resources": resources,
        # An engine that cannot start says why only in its log.
        "terminationMessagePolicy": "FallbackToLogsOnError",
        "volumeMounts": mounts.mounts,
    }


def add_socket(mounts: Mounts) -> None:
    """The folder of the engine's socket."""
    mounts.sockets("engine", SOCKET_FOLDER)


def scoring_engine(job: FineTuneJob, settings: Settings, model: str, pod: Mounts) -> Container:
    """The engine beside a scoring stage, which is given the socket and starts once the engine answers."""
    add_socket(pod)
    gpu, count, kept = gpu_type(job, settings), scoring_gpus(job), pinned(job, settings)
    mounts = pod.of_another_container()
    add_workspace(mounts, job, read_only=True)
    add_base(mounts, job)
    mounts.shared_memory(shared_memory(job.spec.resources.shared_memory, gpu, count))
    serves = Engine(
        model,
        SERVED_NAME,
        max_loras=1,
        max_cpu_loras=1,
        max_lora_rank=max_rank(job),
        gpus=count,
        max_model_length=_FITTING_LENGTH if count else None,
        profile=scoring_profile(job, settings),
    )
    sidecar = engine_container(
        serves, kept.images.serving, kept, gpu, engine_resources(job, settings), mounts
    )
    return {
        **sidecar,
        "startupProbe": {
            **health(),
            "periodSeconds": _STARTUP_PERIOD,
            "timeoutSeconds": 10,
            "failureThreshold": math.ceil(kept.engine_start_seconds / _STARTUP_PERIOD),
        },
    }


def max_rank(job: FineTuneJob) -> int:
    """The smallest rank that the engine can be told and that the adapter fits in."""
    if job.spec.method == "Full":
        return RANKS[0]
    resolved = job.status.resolved.lora if job.status.resolved is not None else None
    chosen = job.spec.lora.rank if job.spec.lora is not None else None
    rank = chosen or (resolved.rank if resolved is not None else None) or UNKNOWN_RANK
    return next((allowed for allowed in RANKS if allowed >= rank), RANKS[-1])
