"""`prepare --work`: what the stage does, on a laptop: rows as they will be trained, and the report."""

import argparse
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from finetune_trainer.errors import UserError
from finetune_trainer.local.job import find_local_base, load_local_data, read_local_job
from finetune_trainer.local.progress import terminal_progress
from finetune_trainer.local.verdict import conclude, judge
from finetune_trainer.report.document import Report
from finetune_trainer.report.store import write_reports
from finetune_trainer.report.terminal import print_report
from finetune_trainer.stages.prepare import discard_rows, examine_and_write
from finetune_trainer.workspace import Workspace


def run(options: argparse.Namespace) -> int:
    """Print the report; 0 when the job may run, 1 when not; StageError when nothing can be read."""
    workspace = Workspace(options.work)
    report, refusal = _prepared(options, workspace)
    if options.output == "json":
        print(report.to_json(), end="")
    else:
        print_report(report, sys.stdout)
        print(f"\nThe report is {workspace.report_html}.")
    return conclude(refusal)


def _prepared(options: argparse.Namespace, workspace: Workspace) -> tuple[Report, str | None]:
    """The report, and why the job would be refused."""
    job = read_local_job(options)
    _make_folder(options.work)
    with terminal_progress() as watch, TemporaryDirectory(prefix=".rows-", dir=options.work) as scratch:
        data = load_local_data(job, options, Path(scratch), watch)
        discard_rows(workspace)

        def look() -> Report:
            base = find_local_base(job, options, Path(scratch) / "base", watch)
            return examine_and_write(job, workspace, data, base, watch).report

        report, refusal = judge(job, data, look)
    write_reports(workspace, report)
    return report, refusal


def _make_folder(path: Path) -> None:
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        text = f"{path} cannot be made a folder ({error.strerror})"
        raise UserError(f"{text}; name another one with --work.") from error
