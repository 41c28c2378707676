"""CPU, memory, GPUs and placement of stage pods, and what the administrator says of the GPU."""

from __future__ import annotations

import re
from decimal import Decimal
from typing import Any

from finetune_operator.api.finetunejob import FineTuneJob
from finetune_operator.api.finetunejobstatus import StageName
from finetune_operator.contracts.documents import JobAccelerator, JobGpu
from finetune_operator.contracts.settings import GpuType, Settings

_FACTORS = {
    "m": Decimal("0.001"), "": Decimal(1),
    "k": Decimal(10**3), "M": Decimal(10**6), "G": Decimal(10**9), "T": Decimal(10**12),
    "Ki": Decimal(2**10), "Mi": Decimal(2**20), "Gi": Decimal(2**30), "Ti": Decimal(2**40),
}  # fmt: skip
_QUANTITY = re.compile(r"([0-9]*\.?[0-9]+)(m|k|M|G|T|Ki|Mi|Gi|Ti|)")
_SCORER_CPU = Decimal("0.25")
_SCORER_MEMORY = Decimal(2**30)


def stage_resources(job: FineTuneJob) -> dict[str, Any]:
    """Requests equal to limits with everything that the spec gives a pod, GPUs aside."""
    asked = job.spec.resources
    return _equal({"cpu": asked.cpu, "memory": asked.memory})


def train_resources(job: FineTuneJob, settings: Settings) -> dict[str, Any]:
    """What a training pod gets: CPU, memory and all GPUs of the node."""
    asked = job.spec.resources
    return _equal({"cpu": asked.cpu, "memory": asked.memory, **_gpus(job, settings, asked.gpus_per_node)})


def scorer_resources(job: FineTuneJob) -> dict[str, Any]:
    """What the client of the engine gets: little, and never more than a quarter of the pod."""
    asked = job.spec.resources
    return _equal(
        {"cpu": _share(asked.cpu, _SCORER_CPU)[0], "memory": _share(asked.memory, _SCORER_MEMORY)[0]}
    )


def engine_resources(job: FineTuneJob, settings: Settings) -> dict[str, Any]:
    """What the engine gets: a GPU and the rest, so that a scoring pod is as large as a training pod."""
    asked = job.spec.resources
    amounts = {"cpu": _share(asked.cpu, _SCORER_CPU)[1], "memory": _share(asked.memory, _SCORER_MEMORY)[1]}
    return _equal({**amounts, **_gpus(job, settings, _engine_gpus(job))})


def gpus(job: FineTuneJob, stage: StageName) -> int:
    """The GPUs that all pods of a stage hold together."""
    if stage == "train":
        return job.spec.resources.nodes * job.spec.resources.gpus_per_node
    return _engine_gpus(job) if stage in ("baseline", "evaluate") else 0


def node_selector(job: FineTuneJob, settings: Settings) -> dict[str, str]:
    """Where every stage runs: where training can, so that a zonal workspace is bound in the right zone."""
    kind = settings.gpu_type(job.spec.resources.gpu_type)
    chosen = kind.node_selector if kind is not None and job.spec.resources.gpus_per_node else {}
    return {**chosen, **job.spec.node_selector}


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
    """Bytes as GiB; None where the spec says nothing or writes them in a form that is not read here."""
    found = _QUANTITY.fullmatch(quantity or "")
    return float(Decimal(found[1]) * _FACTORS[found[2]] / 2**30) if found else None


def _engine_gpus(job: FineTuneJob) -> int:
    return min(1, job.spec.resources.gpus_per_node)


def _gpus(job: FineTuneJob, settings: Settings, count: int) -> dict[str, str | None]:
    kind = settings.gpu_type(job.spec.resources.gpu_type) or GpuType()
    return {kind.resource_name: str(count)} if count else {}


def _share(quantity: str | None, most: Decimal) -> tuple[str | None, str | None]:
    """A quantity split in two, the first part at most `most` and a quarter; the units stay readable."""
    found = _QUANTITY.fullmatch(quantity or "")
    if found is None or quantity is None:
        return quantity, quantity
    whole = Decimal(found[1]) * _FACTORS[found[2]]
    part = min(most, whole / 4)
    return _write(part), _write(whole - part)


def _write(amount: Decimal) -> str:
    """Thousandths below a thousand (CPU), else whole kibibytes (memory)."""
    return f"{int(amount * 1000)}m" if amount < 1024 else f"{int(amount // 1024)}Ki"


def _equal(amounts: dict[str, str | None]) -> dict[str, Any]:
    given = {key: value for key, value in amounts.items() if value is not None}
    return {"requests": given, "limits": dict(given)}
