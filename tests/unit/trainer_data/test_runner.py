"""The stage runner: outcomes, exit codes, the termination message and the stored result."""

import errno
import json
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from finetune_trainer import results
from finetune_trainer.contracts import Job, Result, read_job
from finetune_trainer.errors import (
    DatasetChanged,
    Diverged,
    OutOfMemory,
    SourceUnavailableError,
    TemplateDrift,
    UserError,
)
from finetune_trainer.gate.compare import Coverage
from finetune_trainer.workspace import Workspace

Make = Callable[..., dict[str, Any]]


@pytest.fixture
def job_file(job_document: Make, tmp_path: Path) -> Path:
    """job.json of a prepare stage."""
    path = tmp_path / "job.json"
    path.write_text(json.dumps(job_document()))
    return path


def _raiser(error: BaseException) -> results.StageFunction:
    def function(job: Job, workspace: Workspace) -> Result:
        raise error

    return function


def _sigterm(job: Job, workspace: Workspace) -> Result:
    os.kill(os.getpid(), signal.SIGTERM)
    raise AssertionError("the signal was not turned into an interruption")


def _no_space() -> OSError:
    return OSError(errno.ENOSPC, "No space left on device", "/workspace/dataset/train.jsonl")


def _quota() -> RuntimeError:
    error = RuntimeError("the file could not be written")
    error.__cause__ = OSError(errno.EDQUOT, "Disk quota exceeded")
    return error


@pytest.mark.parametrize(
    ("function", "code", "outcome", "reason", "text"),
    [
        (_raiser(UserError("Row 1 is wrong; fix it.")), 64, "Failed", "UserError", "Row 1 is wrong; fix it."),
        (_raiser(DatasetChanged("changed")), 65, "Failed", "DatasetChanged", "changed"),
        (_raiser(OutOfMemory("full")), 70, "Failed", "OutOfMemory", "full"),
        (_raiser(MemoryError()), 70, "Failed", "OutOfMemory", "ran out of memory"),
        (_raiser(Diverged("nan")), 76, "Failed", "Diverged", "nan"),
        (_raiser(TemplateDrift("a")), 77, "Failed", "TemplateDrift", "a"),
        (_raiser(SourceUnavailableError("away")), 1, "Failed", "Unknown", "away"),
        (_raiser(_no_space()), 74, "Failed", "DiskFull", "make it larger"),
        (_raiser(_quota()), 74, "Failed", "DiskFull", "raise spec.workspace.size"),
        (_raiser(KeyError("secret-token")), 1, "Failed", "Unknown", "failed with KeyError; the pod's log"),
        (_sigterm, 75, "Interrupted", "Interrupted", "SIGTERM"),
    ],
    ids=["user", "data changed", "memory", "host memory", "diverged", "other prompts", "source away", "disk full", "over quota", "unforeseen", "SIGTERM"],
)  # fmt: skip
def test_every_end_of_a_stage_has_its_code(
    function: Any, code: int, outcome: str, reason: str, text: str, job_file: Path, volumes: Any
) -> None:
    assert results.run_stage("prepare", job_file, volumes.workspace, function) == code
    message = json.loads(volumes.termination.read_text())
    stored = json.loads((volumes.workspace / "results" / "prepare-bbbbbbbbbbbb.json").read_text())
    assert message == stored
    assert (message["outcome"], message["reason"]) == (outcome, reason)
    assert text in message["message"]
    assert "secret-token" not in volumes.termination.read_text()


def test_a_failed_result_does_not_stop_the_next_attempt(job_file: Path, volumes: Any) -> None:
    results.run_stage("prepare", job_file, volumes.workspace, _raiser(Diverged("nan")))
    code = results.run_stage(
        "prepare", job_file, volumes.workspace, lambda job, _: results.succeeded(job, "done", {})
    )
    assert code == 0
    assert results.run_stage("prepare", job_file, volumes.workspace, _raiser(Diverged("nan"))) == 0


def test_the_other_pods_of_a_gang_store_nothing(job_file: Path, volumes: Any) -> None:
    results.run_stage("prepare", job_file, volumes.workspace, _raiser(Diverged("nan")), stores=False)
    assert not (volumes.workspace / "results").exists()


def test_reemit_reports_a_failure_too_and_says_when_there_is_nothing(job_file: Path, volumes: Any) -> None:
    assert results.reemit(job_file, volumes.workspace) == 78
    assert json.loads(volumes.termination.read_text())["reason"] == "NotStored"
    results.run_stage("prepare", job_file, volumes.workspace, _raiser(Diverged("nan")))
    assert results.reemit(job_file, volumes.workspace) == 76


def test_a_broken_stored_result_counts_as_none(job_file: Path, volumes: Any) -> None:
    path = volumes.workspace / "results" / "prepare-bbbbbbbbbbbb.json"
    path.parent.mkdir()
    path.write_text("{")
    assert results.reemit(job_file, volumes.workspace) == 78


def test_a_result_of_another_stage_is_refused(job_file: Path, volumes: Any) -> None:
    assert results.run_stage("train", job_file, volumes.workspace, _raiser(Diverged("nan"))) == 64
    assert "asks for the stage prepare, but the command is train" in volumes.termination.read_text()


def test_a_missing_job_file_is_named(volumes: Any) -> None:
    missing = volumes.root / "no.json"
    assert results.run_stage("prepare", missing, volumes.workspace, _raiser(Diverged("nan"))) == 64
    assert "no.json cannot be read" in json.loads(volumes.termination.read_text())["message"]


@settings(max_examples=60, deadline=None)
@given(
    st.text(max_size=6000),
    st.dictionaries(st.text(max_size=20), st.one_of(st.floats(allow_nan=False), st.lists(st.text(max_size=400))), max_size=8),
)  # fmt: skip
def test_the_termination_message_is_always_valid_json_within_its_limit(
    message: str, summary: dict[str, Any]
) -> None:
    result = Result(
        stage="train", input_digest="sha256:" + "0" * 64, outcome="Succeeded", reason="Completed",
        message=message, summary=summary,
    )  # fmt: skip
    line = results.termination_message(result)
    assert len(line.encode()) <= results.TERMINATION_LIMIT
    assert Result.model_validate_json(line).outcome == "Succeeded"


def test_a_long_message_is_cut_before_the_summary() -> None:
    summary = {"rows": 3, "warnings": ["w"]}
    result = Result(
        stage="prepare",
        input_digest="x",
        outcome="Failed",
        reason="UserError",
        message="é" * 5000,
        summary=summary,
    )
    read = json.loads(results.termination_message(result))
    assert read["summary"] == summary
    assert read["message"].endswith("…")
    assert len(read["message"]) > 600


def _cut(summary: dict[str, Any]) -> dict[str, Any]:
    result = Result(
        stage="prepare",
        input_digest="x",
        outcome="Succeeded",
        reason="Completed",
        message="Done.",
        summary=summary,
    )
    return dict(json.loads(results.termination_message(result))["summary"])


def test_the_names_of_all_layers_and_the_advice_reach_the_operator() -> None:
    advice = [{"reason": "TightMemory", "message": "m" * 400}] * 3
    summary = {"lora": {"targetModules": ["n" * 40] * 32}, "warnings": ["w" * 100], "advice": advice}
    assert _cut(summary) == summary


def test_of_too_many_lists_the_longest_is_left_out_first() -> None:
    summary = {"checkpointBytes": 1, "warnings": ["w" * 3000], "advice": ["a" * 2000], "empty": []}
    assert _cut(summary) == {"checkpointBytes": 1, "advice": ["a" * 2000], "empty": []}


def test_scores_and_verdict_of_an_evaluation_reach_the_operator_whatever_stands_beside_them() -> None:
    interval = {"score": 0.1234, "low": 0.1234, "high": 0.1234}
    scores = {"verdict": "Regressed", "base": interval, "tuned": interval, "delta": interval}
    names = [f"{place}{'n' * 39}" for place in range(8)]
    margins = {name: {"delta": -0.1234, "low": -0.1234, "margin": 0.05, "holds": False} for name in names}
    beside = {
        "graders": {name: {"base": 0.1234, "tuned": 0.1234} for name in names},
        "secondary": margins,
        "regression": margins,
        "rivals": dict.fromkeys(names, interval),
        "ungradedReason": Coverage(9, 0, "n" * 40, "因" * 500).summary()["ungradedReason"],
        "warnings": ["因" * 300],
    }
    cut = _cut({**beside, **scores})
    assert cut.items() >= scores.items()
    assert len(cut) > len(scores) + 2


WRONG_JOBS = [
    (lambda d: d["spec"].update(metod="LoRA"), "spec.metod: there is no such field"),
    (lambda d: d["spec"]["baseModel"].update(source="hf://a/b"), "hf://a/b needs `revision`"),
    (lambda d: d["spec"]["dataset"].update(revision="0" * 40), "takes no `revision`"),
    (
        lambda d: d["spec"]["evaluation"].update(primary="other"),
        "`primary` is 'other'; it must be one of exact",
    ),
    (lambda d: d["spec"].update(training={"learningRate": "1"}), "spec.training.learningRate"),
    (lambda d: d.update(publish={"promoted": True}), "`publish` must be given in the publish stage"),
    (lambda d: d.update(specDigest="abc"), "specDigest"),
    (
        lambda d: d["spec"]["evaluation"].update(graders=[{"name": "f", "type": "FieldMatch"}], primary="f"),
        "needs `fields`",
    ),
]


@pytest.mark.parametrize(("change", "text"), WRONG_JOBS, ids=[text for _, text in WRONG_JOBS])
def test_a_wrong_job_file_is_explained_by_field(
    change: Any, text: str, job_document: Make, tmp_path: Path
) -> None:
    document = job_document()
    change(document)
    path = tmp_path / "wrong.json"
    path.write_text(json.dumps(document))
    with pytest.raises(UserError) as caught:
        read_job(path)
    assert text in str(caught.value)


def test_the_command_line_explains_itself_without_heavy_imports() -> None:
    import subprocess
    import sys

    code = (
        "import sys; from finetune_trainer.__main__ import main\n"
        "try: main(['--help'])\nexcept SystemExit: pass\n"
        "assert not {'torch', 'transformers', 'numpy', 'pydantic'} & set(sys.modules)"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "prepare" in done.stdout
