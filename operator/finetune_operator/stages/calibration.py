"""What finished runs teach the estimate of the next one."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from statistics import median

from finetune_operator.api.contracts import JobCalibration
from finetune_operator.api.finetunejob import FineTuneJob
from finetune_operator.api.plan import Manifest
from finetune_operator.stages.reading import number, text


def calibration(job: FineTuneJob, runs: Iterable[Manifest]) -> JobCalibration | None:
    """The median MFU that finished runs with the same gpuType and method measured; None without any."""
    found = list(_measured(job, runs))
    return JobCalibration(mfu=median(found), runs=len(found)) if found else None


def _measured(job: FineTuneJob, runs: Iterable[Manifest]) -> Iterator[float]:
    for run in runs:
        alike = text(run, "spec", "resources", "gpuType") == job.spec.resources.gpu_type
        asked = text(run, "spec", "method") or "LoRA"
        method = text(run, "status", "resolved", "method") or asked  # a fallback may have been in force
        if alike and method == job.spec.method and text(run, "status", "completionTime"):
            yield from _mfu(run)


def _mfu(run: Manifest) -> Iterator[float]:
    try:
        value = number({"mfu": float(text(run, "status", "cost", "mfu"))}, "mfu")
    except ValueError:
        return
    if value is not None and 0 < value <= 1:
        yield value
