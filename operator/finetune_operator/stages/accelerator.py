"""The GPU of a run as the administrator's table describes it."""

from __future__ import annotations

from finetune_operator.api.contracts import JobAccelerator, JobGpu
from finetune_operator.api.finetunejob import FineTuneJob
from finetune_operator.api.settings import Settings


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
