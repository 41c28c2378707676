"""CPU, memory, disk and GPUs of pods, and what the administrator says of the GPU."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from fractions import Fraction
from typing import Any

from finetune_operator.api.finetunejob import FineTuneJob
from finetune_operator.api.finetunejobstatus import GPU_STAGES, StageName
from finetune_operator.api.modelserver import ModelServer
from finetune_operator.contracts.job import JobAccelerator, JobGpu
from finetune_operator.contracts.settings import GpuType, Settings
from finetune_operator.core import manifests
from finetune_operator.render.placement import gpu_type

# What is requested where nobody says how much; without a limit, since it is a guess. A pod without requests
# would be the first that a full node evicts.
_FLOOR = {"cpu": "250m", "memory": "1Gi"}
_FLOOR_PER_GPU = {"cpu": "1", "memory": "4Gi"}
_DISK = "2Gi"
_SCORER = {"cpu": Decimal("0.25"), "memory": Decimal(2**30)}
_SHARED_MEMORY = "1Gi"


@dataclass(frozen=True)
class Amounts:
    """CPU and memory: what was `given` is request and limit, the `floor` of what was not is requested."""

    given: Mapping[str, str]
    floor: Mapping[str, str]

    def resources(self, devices: Mapping[str, str], disk: str = _DISK) -> dict[str, Any]:
        """A container's resources with these devices and this much of the node's disk."""
        limits = {**self.given, **devices}
        return {"requests": {"ephemeral-storage": disk, **self.floor, **limits}, "limits": limits}

    def for_scorer(self) -> Amounts:
        """What the client of the engine gets: little, and never more than a quarter."""
        return self._part(0)

    def for_engine(self) -> Amounts:
        """The rest."""
        return self._part(1)

    def _part(self, index: int) -> Amounts:
        given, floor = (
            {key: _split(quantity, _SCORER[key])[index] for key, quantity in amounts.items()}
            for amounts in (self.given, self.floor)
        )
        return Amounts(given, floor)


def cpu_stage_resources(settings: Settings) -> dict[str, Any]:
    """What a stage without GPUs gets, by the administrator; idle CPUs may be used too."""
    own = settings.cpu_stages
    return Amounts({"memory": own.memory}, {"cpu": own.cpu}).resources({}, own.ephemeral_storage)


def foreign_resources(settings: Settings) -> dict[str, Any]:
    """What a container of the user's own gets: as much as such a stage, and no CPUs beyond it."""
    own = settings.cpu_stages
    return Amounts({"cpu": own.cpu, "memory": own.memory}, {}).resources({}, own.ephemeral_storage)


def train_resources(job: FineTuneJob, settings: Settings) -> dict[str, Any]:
    """What a training pod gets: CPU, memory, all GPUs of the node, and as part of a gang network devices."""
    asked, gpu = job.spec.resources, gpu_type(job, settings)
    network = gpu.extra_resources if asked.nodes > 1 else {}
    return _amounts(job, settings, asked.gpus_per_node).resources(
        {**_gpus(gpu, asked.gpus_per_node), **network}
    )


def scorer_resources(job: FineTuneJob, settings: Settings) -> dict[str, Any]:
    """What the client of the engine gets; with the engine it is as large as the GPUs' share of the node.

    The client of a ModelServer is a stage without GPUs.
    """
    if job.spec.scoring_engine is not None:
        return cpu_stage_resources(settings)
    return _amounts(job, settings, scoring_gpus(job)).for_scorer().resources({})


def engine_resources(job: FineTuneJob, settings: Settings) -> dict[str, Any]:
    """What the engine beside a scorer gets."""
    count = scoring_gpus(job)
    amounts = _amounts(job, settings, count).for_engine()
    return amounts.resources(_gpus(gpu_type(job, settings), count))


def replica_resources(server: ModelServer, gpu: GpuType) -> dict[str, Any]:
    """What the engine of a server's replica gets."""
    asked = server.spec.resources
    amounts = _given_or_floor(asked.cpu, asked.memory, gpu, asked.gpus)
    return amounts.resources(_gpus(gpu, asked.gpus), asked.ephemeral_storage or _DISK)


def shared_memory(asked: str | None, gpu: GpuType, count: int) -> str:
    """The size of /dev/shm for a pod with so many GPUs."""
    return asked or (times(gpu.shared_memory_per_gpu, count) if count else _SHARED_MEMORY)


def scoring_gpus(job: FineTuneJob) -> int:
    """The GPUs that an engine needs for the base, by the plan; 0 without GPUs."""
    planned = job.status.plan.scoring_gpus if job.status.plan is not None else None
    return max(1, planned or 1) if job.spec.resources.gpus_per_node else 0


def on_gpus(job: FineTuneJob, stage: str) -> bool:
    """Whether a stage runs where the GPUs are, if the run has any: scoring on a ModelServer does not."""
    return stage in GPU_STAGES and (stage == "train" or job.spec.scoring_engine is None)


def gpus(job: FineTuneJob, stage: StageName) -> int:
    """The GPUs that all pods of a stage hold together."""
    if not on_gpus(job, stage):
        return 0
    return (
        job.spec.resources.nodes * job.spec.resources.gpus_per_node if stage == "train" else scoring_gpus(job)
    )


def accelerator(job: FineTuneJob, settings: Settings) -> JobAccelerator | None:
    """What job.json tells about the GPU; None on the CPU and when the spec names no gpuType."""
    name = job.spec.resources.gpu_type
    kind = settings.gpu_types.get(name or "")
    if name is None or kind is None or not job.spec.resources.gpus_per_node:
        return None
    spot = job.spec.resources.spot is True
    return JobAccelerator(
        name=name,
        memory_gib=kind.memory_gib,
        peak_tflops=kind.peak_tflops,
        price_per_hour=kind.spot_price_per_hour if spot else kind.price_per_hour,
        currency=kind.currency,
        spot=spot,
    )


def other_gpus(job: FineTuneJob, settings: Settings) -> tuple[JobGpu, ...]:
    """The other types whose memory is known, for a run whose own type is in the table."""
    own = accelerator(job, settings)
    if own is None:
        return ()
    return tuple(
        JobGpu(name=name, memory_gib=kind.memory_gib)
        for name, kind in sorted(settings.gpu_types.items())
        if kind.memory_gib is not None and name != own.name
    )


def in_gib(quantity: str | None) -> float | None:
    """Bytes as GiB; None where the spec says nothing."""
    amount = manifests.quantity(quantity)
    return None if amount is None else float(amount / 2**30)


def times(quantity: str, factor: int | Fraction) -> str:
    """A multiple of a quantity, rounded down; one that cannot be read stays as it is."""
    amount = manifests.quantity(quantity)
    return (
        quantity if amount is None or factor == 1 else _write(amount * factor.numerator / factor.denominator)
    )


def _amounts(job: FineTuneJob, settings: Settings, count: int) -> Amounts:
    """Of a pod with so many of the GPUs that a training pod has."""
    asked = job.spec.resources
    share = Fraction(count, asked.gpus_per_node) if asked.gpus_per_node else Fraction(1)
    cpu, memory = (times(q, share) if q is not None else None for q in (asked.cpu, asked.memory))
    return _given_or_floor(cpu, memory, gpu_type(job, settings), count)


def _given_or_floor(cpu: str | None, memory: str | None, gpu: GpuType, count: int) -> Amounts:
    per_gpu = {"cpu": gpu.cpu_per_gpu, "memory": gpu.memory_per_gpu} if count else {}
    defaults = {key: times(quantity, count) for key, quantity in per_gpu.items() if quantity is not None}
    asked = {key: quantity for key, quantity in (("cpu", cpu), ("memory", memory)) if quantity is not None}
    given = {**defaults, **asked}
    floor = {key: times(q, count) for key, q in _FLOOR_PER_GPU.items()} if count else _FLOOR
    return Amounts(given, {key: quantity for key, quantity in floor.items() if key not in given})


def _gpus(gpu: GpuType, count: int) -> dict[str, str]:
    return {gpu.resource_name: str(count)} if count else {}


def _split(quantity: str, most: Decimal) -> tuple[str, str]:
    """A quantity in two parts, the first at most `most` and a quarter."""
    whole = manifests.quantity(quantity)
    if whole is None:
        return quantity, quantity
    part = min(most, whole / 4)
    return _write(part), _write(whole - part)


def _write(amount: Decimal) -> str:
    """Thousandths below a thousand (CPU), else whole kibibytes (memory)."""
    return f"{int(amount * 1000)}m" if amount < 1024 else f"{int(amount // 1024)}Ki"
