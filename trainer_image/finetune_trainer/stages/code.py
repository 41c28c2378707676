"""grade-base and grade-tuned: the scores of models whose answers are programs, after a sandbox ran them.

The pod of these stages has no network. Its first container runs the programs (sandbox/) and sees nothing but
them; the second one, here, reads what came of them.
"""

import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from finetune_trainer.contracts import Job, Result
from finetune_trainer.data.prepared import check_prepared
from finetune_trainer.errors import UserError
from finetune_trainer.files import read_json_lines, write_lines
from finetune_trainer.results import latest_succeeded, succeeded
from finetune_trainer.scoring.baseline_store import rows_path
from finetune_trainer.scoring.code import Ran, graded_by_running
from finetune_trainer.scoring.question_sets import Asked, QuestionSet, asked_of, stored_rows
from finetune_trainer.scoring.rows import GradedRow, write_rows
from finetune_trainer.workspace import Workspace

RESULTS = Path("/run/sandbox/results.jsonl")
_ANSWERED_BY = {"base": "baseline", "tuned": "evaluate"}


def ask_sandbox(
    job: Job, workspace: Workspace, model: str, programs: Iterable[dict[str, Any]], told: dict[str, Any]
) -> Result:
    """Leave the programs for the next stage, which the summary asks for."""
    write_lines(workspace.programs(model), (json.dumps(program) + "\n" for program in programs))
    message = f"The {model} model has answered; next its programs are run."
    return succeeded(job, message, {**told, "awaits": "code"}, "Answered")


def grade_base(job: Job, workspace: Workspace) -> Result:
    """What baseline says once the base's programs have run."""
    from finetune_trainer.stages import baseline

    asked = _asked(job, workspace)
    rows = _graded(workspace, "base", asked.of_base)
    return baseline.conclude(job, asked, rows, _told(workspace, "base"))


def grade_tuned(job: Job, workspace: Workspace) -> Result:
    """What evaluate says once the tuned model's programs have run."""
    from finetune_trainer.stages import evaluate

    asked = _asked(job, workspace)
    base = {found.title: stored_rows(workspace, "base", found) for found in asked.of_base}
    tuned = _graded(workspace, "tuned", asked.of_tuned)
    return evaluate.conclude(job, asked, base, tuned, _told(workspace, "tuned"))


def _asked(job: Job, workspace: Workspace) -> Asked:
    if job.spec.evaluation is None:
        raise UserError("The job has no `evaluation`, so nothing can be scored; add one or skip this stage.")
    return asked_of(workspace, check_prepared(workspace, job), job.spec.evaluation, job.engine)


def _graded(workspace: Workspace, model: str, sets: Iterable[QuestionSet]) -> dict[str, list[GradedRow]]:
    ran, found = _results(), dict[str, list[GradedRow]]()
    for asked in sets:
        rows = graded_by_running(asked, stored_rows(workspace, model, asked), ran)
        write_rows(rows_path(workspace, asked.answers_of(model), asked.key), rows)
        found[asked.title] = rows
    return found


def _results() -> dict[str, Ran]:
    """What came of every program; UserError where the sandbox would run none."""
    path = Path(os.environ.get("FT_SANDBOX_RESULTS", RESULTS))
    try:
        lines = read_json_lines(path)
    except (OSError, ValueError) as error:
        raise UserError("The sandbox left no results; its container's log says why.") from error
    refused = next((line["refused"] for line in lines if "refused" in line), None)
    if refused is not None:
        raise UserError(f"No code of a model is run in this cluster: {refused}.")
    return {line["id"]: Ran(line["passed"], line["reason"]) for line in lines}


def _told(workspace: Workspace, model: str) -> dict[str, Any]:
    answered = latest_succeeded(workspace, _ANSWERED_BY[model])
    summary = answered.summary if answered else {}
    return {key: value for key, value in summary.items() if key != "awaits"}
