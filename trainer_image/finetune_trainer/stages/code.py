"""Programs between a stage that got them as answers and the one that scores them, after a sandbox ran them.

The pod of grade-base and grade-tuned has no network. Its first container runs the programs (sandbox/) and
sees nothing but them; the second one reads what came of them.
"""

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

from finetune_trainer.contracts import Job, Result
from finetune_trainer.errors import UserError
from finetune_trainer.files import read_json_lines, write_lines
from finetune_trainer.results import latest_succeeded, succeeded
from finetune_trainer.scoring.baseline_store import rows_path
from finetune_trainer.scoring.code import Ran, graded_by_running, programs
from finetune_trainer.scoring.question_sets import QuestionSet, stored_rows
from finetune_trainer.scoring.rows import GradedRow, write_rows
from finetune_trainer.workspace import Workspace

RESULTS = Path("/run/sandbox/results.jsonl")
Rows = Mapping[str, Sequence[GradedRow]]  # by the title of their questions


def ask_sandbox(
    job: Job, workspace: Workspace, model: str, sets: Iterable[QuestionSet], rows: Rows, told: dict[str, Any]
) -> Result:
    """Leave the programs for the next stage, which the summary asks for; what came of some may be known."""
    asked = programs(sets, rows, _known(workspace))
    write_lines(workspace.programs(model), (json.dumps(program) + "\n" for program in asked))
    message = f"The {model} model has answered; next its programs are run."
    return succeeded(job, message, {**told, "awaits": "code"}, "Answered")


def answered(workspace: Workspace, stage: Literal["baseline", "evaluate"]) -> dict[str, Any]:
    """What the stage that asked said beside scores; what its judge cost counts once, in that stage."""
    result = latest_succeeded(workspace, stage)
    told = {key: value for key, value in (result.summary if result else {}).items() if key != "awaits"}
    if "judge" in told:
        told["judge"] = {key: value for key, value in told["judge"].items() if key != "cost"}
    return told


def run_rows(workspace: Workspace, model: str, sets: Iterable[QuestionSet]) -> dict[str, list[GradedRow]]:
    """The stored rows with the grades of what came of their programs; UserError without any results."""
    ran, found = _known(workspace) | _results(), dict[str, list[GradedRow]]()
    _keep(workspace, ran)
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
    return _ran(lines)


def _known(workspace: Workspace) -> dict[str, Ran]:
    """What came of the programs of earlier stages of this run."""
    try:
        return _ran(read_json_lines(workspace.ran))
    except (OSError, ValueError, KeyError):
        return {}


def _keep(workspace: Workspace, ran: Mapping[str, Ran]) -> None:
    write_lines(workspace.ran, (json.dumps({"id": key, **asdict(each)}) + "\n" for key, each in ran.items()))


def _ran(lines: Iterable[dict[str, Any]]) -> dict[str, Ran]:
    return {line["id"]: Ran(line["passed"], line["reason"]) for line in lines}
