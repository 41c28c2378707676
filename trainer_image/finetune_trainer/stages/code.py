"""Answers between the stage that got them and the one that scores them, after foreign code has run.

The pod of grade-base and grade-tuned has no network. Its first containers run the programs among the answers
(sandbox/) and the graders that are images of the user's own; each sees nothing but what it works on. The last
container reads what came of all that.
"""

import json
import os
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

from finetune_trainer.container_graders.questions import (
    ContainerQuestion,
    container_of,
    graded_by_containers,
    questions,
)
from finetune_trainer.container_graders.results import Said, read_results
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
CONTAINER_RESULTS = Path("/run/graders")
_Rows = Mapping[str, Sequence[GradedRow]]  # by the title of the questions


def await_code(
    job: Job, workspace: Workspace, model: str, sets: Sequence[QuestionSet], rows: _Rows, told: dict[str, Any]
) -> Result:
    """Leave for the next stage, which the summary asks for, what is to be run and graded there.

    What came of some programs may be known already.
    """
    write_lines(workspace.programs(model), map(_line, programs(sets, rows, _known(workspace))))
    _write_questions(workspace.questions_for_containers(model), list(questions(sets, rows)), sets)
    message = f"The {model} model has answered; next its answers are graded in a pod without network."
    return succeeded(job, message, {**told, "awaits": "code"}, "Answered")


def _write_questions(folder: Path, asked: Sequence[ContainerQuestion], sets: Iterable[QuestionSet]) -> None:
    """A file for each container, also where no answer is there to be graded."""
    for container in _containers(sets):
        own = (_line(question.line()) for question in asked if question.container == container)
        write_lines(folder / container / "questions.jsonl", own)


def _containers(sets: Iterable[QuestionSet]) -> list[str]:
    found = (container_of(asked, spec) for asked in sets for spec in asked.evaluation.graders_of("Container"))
    return list(dict.fromkeys(found))


def _line(document: dict[str, Any]) -> str:
    return json.dumps(document) + "\n"  # in ASCII: rows may hold halves of characters


def answered(
    workspace: Workspace, stage: Literal["baseline", "evaluate"], warnings: Sequence[str]
) -> dict[str, Any]:
    """What the stage that asked said beside scores, and more warnings.

    What its judge cost counts once, in that stage.
    """
    result = latest_succeeded(workspace, stage)
    told = {key: value for key, value in (result.summary if result else {}).items() if key != "awaits"}
    if "judge" in told:
        told["judge"] = {key: value for key, value in told["judge"].items() if key != "cost"}
    return {**told, "warnings": [*told.get("warnings", []), *warnings]}


def graded_rows(
    workspace: Workspace, model: str, sets: Sequence[QuestionSet]
) -> tuple[dict[str, list[GradedRow]], list[str]]:
    """The stored rows with the grades of what came of programs and containers, and warnings.

    UserError where programs ran without any results.
    """
    stored = {asked.title: stored_rows(workspace, model, asked) for asked in sets}
    ran = _ran(workspace) if any(asked.evaluation.graders_of("CodeAssert") for asked in sets) else {}
    rows = {asked.title: graded_by_running(asked, stored[asked.title], ran) for asked in sets}
    said = _said(sets, rows)
    rows = graded_by_containers(sets, rows, said)
    for asked in sets:
        write_rows(rows_path(workspace, asked.answers_of(model), asked.key), rows[asked.title])
    warnings = [f"In the results of {name} {text}." for name in said for text in said[name].warnings]
    return rows, warnings


def _said(sets: Sequence[QuestionSet], rows: _Rows) -> dict[str, Said]:
    """What every container says; of one that failed the operator tells how."""
    root = Path(os.environ.get("FT_GRADER_RESULTS", CONTAINER_RESULTS))
    failed: dict[str, str] = json.loads(os.environ.get("FT_FAILED_GRADERS", "{}"))
    ids = defaultdict[str, set[str]](set)
    for asked in questions(sets, rows):
        ids[asked.container].add(asked.id)
    return {
        name: Said({}, failed[name].rstrip("."))
        if name in failed
        else read_results(root / name / "results.jsonl", ids[name])
        for name in _containers(sets)
    }


def _ran(workspace: Workspace) -> dict[str, Ran]:
    """What came of every program, now and in earlier stages, which is kept for the next one."""
    ran = _known(workspace) | _results()
    write_lines(workspace.ran, (_line({"id": key, **asdict(each)}) for key, each in ran.items()))
    return ran


def _results() -> dict[str, Ran]:
    """UserError where the sandbox would run none."""
    path = Path(os.environ.get("FT_SANDBOX_RESULTS", RESULTS))
    try:
        lines = read_json_lines(path)
    except (OSError, ValueError) as error:
        raise UserError("The sandbox left no results; its container's log says why.") from error
    refused = next((line["refused"] for line in lines if "refused" in line), None)
    if refused is not None:
        raise UserError(f"No code of a model is run in this cluster: {refused}.")
    return _outcomes(lines)


def _known(workspace: Workspace) -> dict[str, Ran]:
    """What came of the programs of earlier stages of this run."""
    try:
        return _outcomes(read_json_lines(workspace.ran))
    except (OSError, ValueError, KeyError):
        return {}


def _outcomes(lines: Iterable[dict[str, Any]]) -> dict[str, Ran]:
    return {line["id"]: Ran(line["passed"], line["reason"]) for line in lines}
