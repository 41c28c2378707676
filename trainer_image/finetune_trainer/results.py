"""The stage runner: run a stage function once per input digest and report its outcome twice."""

import json
import logging
import os
import signal
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from finetune_trainer import logs
from finetune_trainer.contracts import Job, Result, read_job
from finetune_trainer.errors import (
    EXIT_CODES,
    UNKNOWN_EXIT_CODE,
    DiskFull,
    Interrupted,
    NotStored,
    OutOfMemory,
    StageError,
    UserError,
    cause_of,
)
from finetune_trainer.files import full_volume, write_atomically
from finetune_trainer.workspace import Workspace

StageFunction = Callable[[Job, Workspace], Result]

# What the kubelet keeps of a container; of all containers of a pod it keeps 12 KiB.
TERMINATION_LIMIT = 4096
_SHORTEST_MESSAGE = 200
_log = logging.getLogger(__name__)


def succeeded(job: Job, message: str, summary: dict[str, Any], reason: str = "Completed") -> Result:
    """The result of a stage that did its work."""
    return _result(job, "Succeeded", reason, message, summary)


def run_stage(
    name: str, job_path: Path, workspace_path: Path, function: StageFunction, *, stores: bool = True
) -> int:
    """Run a stage or re-emit its stored success; return the exit code of docs/contracts.md.

    `stores=False` is for the pods of a gang that are not its first: they report how they ended, but only
    the first pod's result is kept.
    """
    workspace = Workspace(workspace_path)
    try:
        job = _read_job_of_stage(name, job_path)
    except UserError as error:
        return _emit_without_job(name, error)
    logs.configure(job)
    if (stored := read_stored(workspace, job)) and stored.outcome == "Succeeded":
        _log.info("already done; the stored result is reported again")
        return _emit(stored)
    result = _run(job, workspace, function)
    if stores:
        _store(workspace, job, result)
    return _emit(result)


def reemit(job_path: Path, workspace_path: Path) -> int:
    """Report the stored result of the job's stage, whatever its outcome; NotStored if there is none."""
    try:
        job = read_job(job_path)
    except UserError as error:
        return _emit_without_job("reemit", error)
    logs.configure(job)
    stored = read_stored(Workspace(workspace_path), job)
    if stored is None:
        missing = f"No result of {job.stage} for this input is stored in the workspace; run the stage again."
        return _emit(_result(job, "Failed", NotStored.reason, missing, {}))
    return _emit(stored)


def result_path(workspace: Workspace, stage: str, input_digest: str) -> Path:
    """Where the result of a stage for one input is stored."""
    return workspace.results_dir / f"{stage}-{input_digest.removeprefix('sha256:')[:12]}.json"


def read_stored(workspace: Workspace, job: Job) -> Result | None:
    """The stored result for the job's stage and input digest, or None (an unreadable one counts as none)."""
    try:
        result = Result.model_validate_json(result_path(workspace, job.stage, job.input_digest).read_bytes())
    except (OSError, ValidationError):
        return None
    return result if result.input_digest == job.input_digest else None


def latest_succeeded(workspace: Workspace, stage: str) -> Result | None:
    """The newest stored success of another stage, such as prepare's, whose summary a later stage needs."""
    found = sorted(workspace.results_dir.glob(f"{stage}-*.json"), key=lambda path: path.stat().st_mtime)
    for path in reversed(found):
        with suppress(OSError, ValidationError):
            result = Result.model_validate_json(path.read_bytes())
            if result.outcome == "Succeeded":
                return result
    return None


def latest_evaluation(workspace: Workspace) -> Result | None:
    """What compared tuned model and base: evaluate, or grade-tuned where programs had to run first."""
    evaluated = latest_succeeded(workspace, "evaluate")
    if evaluated is not None and "awaits" in evaluated.summary:
        return latest_succeeded(workspace, "grade-tuned")
    return evaluated


def termination_message(result: Result) -> str:
    """The result as one JSON line of at most 4 KiB: cut are the message, then whole lists, then the summary.

    The longest list goes first.
    """
    summary = dict(result.summary)
    lists = sorted(
        (key for key, value in summary.items() if isinstance(value, list)),
        key=lambda key: len(str(summary[key])),
    )
    line = _fit(result)
    while summary and len(line.encode()) > TERMINATION_LIMIT:
        longest = lists.pop() if lists else None
        summary = {key: value for key, value in summary.items() if key != longest} if longest else {}
        line = _fit(result.model_copy(update={"summary": summary}))
    return line


def _fit(result: Result) -> str:
    line = _line(result)
    while len(line.encode()) > TERMINATION_LIMIT and len(result.message) > _SHORTEST_MESSAGE:
        excess = len(line.encode()) - TERMINATION_LIMIT
        keep = max(_SHORTEST_MESSAGE, len(result.message) - max(excess // 4, 1) - 1)
        result = result.model_copy(update={"message": result.message[: keep - 1] + "…"})
        line = _line(result)
    return line


def _line(result: Result) -> str:
    return json.dumps(
        result.model_dump(mode="json", by_alias=True), ensure_ascii=False, separators=(",", ":")
    )


def _read_job_of_stage(name: str, path: Path) -> Job:
    job = read_job(path)
    if job.stage != name:
        raise UserError(
            f"The job file asks for the stage {job.stage}, but the command is {name}; use one of them."
        )
    return job


def _run(job: Job, workspace: Workspace, function: StageFunction) -> Result:
    previous = signal.signal(signal.SIGTERM, _raise_interrupted)
    try:
        return function(job, workspace)
    except Interrupted as stop:
        return _result(job, "Interrupted", stop.reason, str(stop), stop.summary)
    except StageError as error:
        return _result(job, "Failed", error.reason, str(error), {})
    except Exception as error:
        return _unexpected(job, workspace, error)
    finally:
        signal.signal(signal.SIGTERM, previous)


def _raise_interrupted(*_: object) -> None:
    raise Interrupted("The stage was asked to stop (SIGTERM) before it was done.")


def _unexpected(job: Job, workspace: Workspace, error: Exception) -> Result:
    cause = cause_of(error)
    if cause is OutOfMemory:
        return _result(job, "Failed", cause.reason, "The process ran out of memory; give it more.", {})
    if cause is DiskFull:
        return _result(job, "Failed", cause.reason, full_volume(error, workspace.root), {})
    # The text of an unforeseen error may hold anything (paths, tokens in addresses): it stays in the log.
    _log.exception("the stage failed for an unforeseen reason")
    message = f"The {job.stage} stage failed with {type(error).__name__}; the pod's log has the traceback."
    return _result(job, "Failed", "Unknown", message, {})


def _result(job: Job, outcome: Any, reason: str, message: str, summary: dict[str, Any]) -> Result:
    return Result(
        stage=job.stage, input_digest=job.input_digest, outcome=outcome, reason=reason, message=message,
        summary=summary,
    )  # fmt: skip


def _store(workspace: Workspace, job: Job, result: Result) -> None:
    try:
        write_atomically(result_path(workspace, job.stage, job.input_digest), result.to_json())
    except OSError:
        # A full or lost workspace must not hide the outcome, which still travels as termination message.
        _log.exception("the result could not be stored")


def _emit(result: Result) -> int:
    line = termination_message(result)
    with suppress(OSError):  # absent outside Kubernetes
        Path(os.environ.get("FT_TERMINATION_LOG", "/dev/termination-log")).write_text(line, encoding="utf-8")
    _log.info("result: %s %s: %s", result.outcome, result.reason, result.message)
    return 0 if result.outcome == "Succeeded" else EXIT_CODES.get(result.reason, UNKNOWN_EXIT_CODE)


def _emit_without_job(stage: str, error: UserError) -> int:
    logging.basicConfig(level=logging.INFO)
    return _emit(
        Result(stage=stage, input_digest="", outcome="Failed", reason=error.reason, message=str(error))
    )
