"""`plan`: does a run fit the GPUs, how, how long and for how much; of a job its rows are counted."""

import argparse
import json
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from finetune_trainer.errors import StageError, UserError
from finetune_trainer.local.flags import refuse_misplaced
from finetune_trainer.local.job import find_local_base, load_local_data, read_local_job
from finetune_trainer.local.plan_model import plan_model
from finetune_trainer.local.progress import terminal_progress
from finetune_trainer.local.verdict import FINE, REFUSED, UNREADABLE, over_budget
from finetune_trainer.report.document import Report
from finetune_trainer.report.terminal import print_report
from finetune_trainer.stages.examine import RefusedError, examine, refuse_unsound


def run(options: argparse.Namespace) -> int:
    """Print the plan; 0 when the run may start, 1 when it may not, 64 when the question is wrong."""
    try:
        refuse_misplaced(options)
        return _plan_job(options) if options.job else plan_model(options)
    except StageError as error:
        print(error, file=sys.stderr)
        return UNREADABLE


def _plan_job(options: argparse.Namespace) -> int:
    report, method, refusal = _looked_ahead(options)
    if options.output == "text":
        print_report(report, sys.stdout)
    else:
        print(json.dumps(_job_document(report, method, refusal), indent=2))
    if refusal:
        print(refusal, file=sys.stderr)
    return REFUSED if refusal else FINE


def _looked_ahead(options: argparse.Namespace) -> tuple[Report, str, str | None]:
    """The report of a job, its method, and why it would be refused."""
    job = read_local_job(options)
    if job.accelerator is None or job.accelerator.memory_gib is None:
        text = "A plan is for a GPU of known memory, and the job has none"
        raise UserError(f"{text}; name it with --gpu NAME and --gpus N, or give --gpu-memory-gib.")
    with terminal_progress() as watch, TemporaryDirectory() as scratch:
        data = load_local_data(job, options, Path(scratch) / "rows", watch)
        try:
            refuse_unsound(job, data)
            base = find_local_base(job, options, Path(scratch) / "base", watch)
            report = examine(job, data, base, watch).report
        except RefusedError as refused:
            return refused.report, job.spec.method, str(refused)
    return report, job.spec.method, over_budget(report)


def _job_document(report: Report, method: str, refusal: str | None) -> dict[str, Any]:
    """The keys of `plan --model` and more; without those about memory where the rows are refused."""
    told = report.model_dump(mode="json", by_alias=True, include={"memory", "estimate", "advice"})
    memory = told.pop("memory") or {}
    memory.pop("measuredPeakGiB", None)
    return {**memory, "method": method, **told, "refused": refusal}
