"""What a publication holds beside the files that servers copy: model card, report and traces."""

import logging
from pathlib import Path

from finetune_trainer.contracts import AdapterManifest, Job
from finetune_trainer.evaluation.card import model_card
from finetune_trainer.evaluation.report import evaluated_report
from finetune_trainer.evaluation.traces import all_answers, write_traces
from finetune_trainer.files import write_atomically
from finetune_trainer.report.html import report_html
from finetune_trainer.results import latest_evaluation
from finetune_trainer.workspace import Workspace

CARD, PAGE, FOLDER = "README.md", "report.html", "evaluation"
_log = logging.getLogger(__name__)


def write_documents(job: Job, workspace: Workspace, manifest: AdapterManifest, folder: Path) -> None:
    """Write those that can be made from what the workspace holds; the card always can."""
    evaluated = latest_evaluation(workspace)
    report = evaluated_report(job, workspace, evaluated.summary if evaluated else None)
    write_atomically(folder / CARD, model_card(job, manifest, report))
    if report:
        write_atomically(folder / PAGE, report_html(report))
    if evaluated and (spec := job.spec.evaluation):
        answers = all_answers(workspace, spec)
        if answers is None:
            _log.warning("no traces are published: the graded answers are not in the workspace any more")
            return
        write_traces(answers, folder / FOLDER)
