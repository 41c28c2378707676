"""`plan`: does a run fit the GPUs, how, how long and for how much; of a job its rows are counted."""

import argparse
import json
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from finetune_trainer.errors import UserError
from finetune_trainer.local.flags import refuse_misplaced
from finetune_trainer.local.job import find_local_base, load_local_data, read_local_job
from finetune_trainer.local.plan_model import plan_model
from finetune_trainer.local.progress import terminal_progress
from finetune_trainer.local.verdict import conclude, judge
from finetune_trainer.report.document import Report
from finetune_trainer.report.terminal import print_report
from finetune_trainer.stages.examine import examine


def run(options: argparse.Namespace) -> int:
    """Print the plan; 0 when the run may start, 1 when it may not; StageError when the question is wrong."""
    refuse_misplaced(options)
    return _plan_job(options) if options.job else plan_model(options)


def _plan_job(options: argparse.Namespace) -> int:
    report, refusal = _looked_ahead(options)
    if options.output == "text":
        print_report(report, sys.stdout)
    else:
        print(json.dumps(_job_document(report, refusal), indent=2))
    return conclude(refusal)


def _looked_ahead(options: argparse.Namespace) -> tuple[Report, str | None]:
    """The report of a job, and why it would be refused."""
    job = read_local_job(options)
    if job.accelerator is None or job.accelerator.memory_gib is None:
        text = "A plan is for a GPU of known memory, and the job has none"
        raise UserError(f"{text}; name it with --gpu NAME and --gpus N, or give --gpu-memory-gib.")
    with terminal_progress() as watch, TemporaryDirectory() as scratch:
        data = load_local_data(job, options, Path(scratch) / "rows", watch)

        def look() -> Report:
            base = find_local_base(job, options, Path(scratch) / "base", watch)
            return examine(job, data, base, watch).report

        return judge(job, data, look)


def _job_document(report: Report, refusal: str | None) -> dict[str, Any]:
    """The keys of `plan --model` and more; without those about memory where the rows are refused."""
    told = report.model_dump(mode="json", by_alias=True, include={"memory", "scoring", "estimate", "advice"})
    memory = told.pop("memory") or {}
    memory.pop("measuredPeakGiB", None)
    return {**memory, **told, "refused": refusal}
