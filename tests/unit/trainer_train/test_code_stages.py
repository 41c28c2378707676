"""CodeAssert through baseline, the sandbox, grade-base, evaluate and grade-tuned, against a stand-in engine."""

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import pytest

from finetune_trainer.contracts import Result
from finetune_trainer.errors import UserError
from finetune_trainer.files import write_atomically
from finetune_trainer.report.store import write_reports
from finetune_trainer.results import result_path
from finetune_trainer.scoring.code import code_of
from finetune_trainer.stages import baseline, evaluate, publish
from finetune_trainer.workspace import destination_dir
from tests.unit.trainer_report.examples import clean
from tests.unit.trainer_train.conftest import DIGEST, EVALUATION

PACKAGE = Path(__file__).parents[3] / "trainer_image"
HOLDOUT = [
    {
        "id": f"r{n}",
        "messages": [{"role": "user", "content": f"Write f that returns {n}."}],
        "reference": f"def f(): return {n}",
        "tests": f"assert f() == {n}",
    }
    for n in range(50)
]
RUN = {
    **EVALUATION,
    "graders": [{"name": "tests", "type": "CodeAssert"}],
    "primary": "tests",
    "maxTokens": 64,
}
Start = Callable[..., Awaitable[Any]]
Answer = Callable[..., tuple[int, Any]]


def run_programs(run: Any, model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the pod's first container does; root has it done by nobody."""
    folder = Path(mkdtemp(prefix="sandbox-"))
    (folder / "results").mkdir()
    programs, results = folder / "programs.jsonl", folder / "results" / "results.jsonl"
    programs.write_bytes(run.workspace.programs(model).read_bytes())
    for place in (folder, folder / "results"):
        place.chmod(0o777)
    root = os.geteuid() == 0
    subprocess.run(
        ["/usr/bin/python3" if root else sys.executable, "-B", "-m", "finetune_trainer.sandbox",
         "--programs", str(programs), "--results", str(results)],
        check=True, cwd="/", env={"PYTHONPATH": str(PACKAGE)}, user=65534 if root else None,
    )  # fmt: skip
    monkeypatch.setenv("FT_SANDBOX_RESULTS", str(results))


async def stage(function: Callable[..., Result], run: Any, name: str = "baseline") -> Result:
    """Run the stage in a thread, as it has an event loop of its own, and keep its result as the runner does."""
    job = run.job.model_copy(update={"stage": name})
    result = await asyncio.to_thread(function, job, run.workspace)
    write_atomically(result_path(run.workspace, name, job.input_digest), result.to_json())
    return result


def right_when_tuned(chat_answer: Answer) -> Callable[[dict[str, Any]], tuple[int, Any]]:
    """Models of which only the tuned one writes what passes the tests."""

    def answer(body: dict[str, Any]) -> tuple[int, Any]:
        asked = body["messages"][-1]["content"].split()[-1].rstrip(".")
        right = f"Here it is:\n```python\ndef f():\n    return {asked}\n```\nThat is all."
        wrong = "```python\ndef f():\n    return None\n```"
        tuned = body["model"] == "tuned"
        return chat_answer(right if tuned else wrong, -0.1 if tuned else -1)

    return answer


async def test_the_code_of_both_models_is_run_and_decides(
    make_run: Any, stand_in: Start, chat_answer: Answer, monkeypatch: pytest.MonkeyPatch
) -> None:
    await stand_in(right_when_tuned(chat_answer))
    run = make_run("baseline", holdout=HOLDOUT, evaluation=RUN)
    answered = await stage(baseline.run, run)
    assert (answered.summary["awaits"], "verdict" in answered.summary) == ("code", False)
    run_programs(run, "base", monkeypatch)
    scored = baseline.grade_programs(run.job, run.workspace)
    assert (scored.summary["score"], scored.summary["verdict"]) == (0.0, "CheckTaskOrData")
    assert scored.summary["cached"] is False
    await asyncio.to_thread(evaluate.run, run.job, run.workspace)
    run_programs(run, "tuned", monkeypatch)
    compared = evaluate.grade_programs(run.job, run.workspace)
    assert (compared.summary["tuned"]["score"], compared.summary["verdict"]) == (1.0, "Promote")


def what_runs(run: Any, model: str) -> list[str]:
    """The programs that the sandbox is told to run."""
    return [json.loads(line)["program"] for line in run.workspace.programs(model).read_text().splitlines()]


async def test_each_program_runs_once_with_the_same_tests(
    make_run: Any, stand_in: Start, chat_answer: Answer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The base answers wrongly, with and without a rival's prompt; the tuned model as the references say."""
    tuned = [f"def f(): return {n}" for n in range(50)]

    def answer(body: dict[str, Any]) -> tuple[int, Any]:
        asked = int(body["messages"][-1]["content"].split()[-1].rstrip("."))
        return chat_answer(
            tuned[asked] if body["model"] == "tuned" else "x = 1", -0.1 if body["model"] == "tuned" else -1
        )

    await stand_in(answer)
    run = make_run("baseline", holdout=HOLDOUT, rivals={"careful": HOLDOUT}, evaluation=RUN)
    await stage(baseline.run, run)
    assert sorted(what_runs(run, "base")) == sorted([row["reference"] for row in HOLDOUT] + ["x = 1"] * 50)
    run_programs(run, "base", monkeypatch)
    baseline.grade_programs(run.job, run.workspace)
    await asyncio.to_thread(evaluate.run, run.job, run.workspace)
    assert what_runs(run, "tuned") == []
    run_programs(run, "tuned", monkeypatch)
    compared = evaluate.grade_programs(run.job, run.workspace)
    assert (compared.summary["tuned"]["score"], compared.summary["base"]["score"]) == (1.0, 0.0)


async def test_what_a_machine_could_not_run_is_run_again(
    make_run: Any, stand_in: Start, chat_answer: Answer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    await stand_in(right_when_tuned(chat_answer))
    run = make_run("baseline", holdout=HOLDOUT, evaluation=RUN)
    await stage(baseline.run, run)
    ids = [json.loads(line)["id"] for line in run.workspace.programs("base").read_text().splitlines()]
    busy = {"passed": None, "reason": "it could not be run: the process did not start"}
    path = tmp_path / "left.jsonl"
    path.write_text("".join(json.dumps({"id": key, **busy}) + "\n" for key in ids))
    monkeypatch.setenv("FT_SANDBOX_RESULTS", str(path))
    scored = baseline.grade_programs(run.job, run.workspace)
    assert scored.summary["verdict"] == "Ungraded"
    await asyncio.to_thread(evaluate.run, run.job, run.workspace)
    assert {row["reference"] for row in HOLDOUT} <= set(what_runs(run, "tuned"))


async def test_what_is_published_after_programs_ran_has_their_scores_and_the_report(
    make_run: Any, stand_in: Start, chat_answer: Answer, monkeypatch: pytest.MonkeyPatch
) -> None:
    await stand_in(right_when_tuned(chat_answer))
    run = make_run("baseline", holdout=HOLDOUT, evaluation=RUN, datasetDigest=DIGEST)
    write_reports(run.workspace, clean())
    write_atomically(run.workspace.adapter_dir / "adapter_config.json", "{}")
    write_atomically(run.workspace.adapter_dir / "adapter_model.safetensors", "weights")
    await stage(baseline.run, run)
    run_programs(run, "base", monkeypatch)
    await stage(baseline.grade_programs, run, "grade-base")
    await stage(evaluate.run, run, "evaluate")
    run_programs(run, "tuned", monkeypatch)
    compared = await stage(evaluate.grade_programs, run, "grade-tuned")
    await stage(publish.run, run, "publish")
    folder = destination_dir(run.job)
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest["scores"] == compared.summary
    assert "Promote" in (folder / "report.html").read_text()
    assert list((folder / "evaluation").iterdir())


async def test_rows_whose_expected_answer_fails_its_tests_are_ungraded_and_stop_the_run_before_training(
    make_run: Any, stand_in: Start, chat_answer: Answer, monkeypatch: pytest.MonkeyPatch
) -> None:
    await stand_in(lambda _: chat_answer("def f(): return 0"))
    broken = [{**row, "tests": "assert f() == 'no'"} if n < 5 else row for n, row in enumerate(HOLDOUT)]
    run = make_run("baseline", holdout=broken, evaluation=RUN)
    await stage(baseline.run, run)
    run_programs(run, "base", monkeypatch)
    scored = baseline.grade_programs(run.job, run.workspace)
    assert (scored.summary["verdict"], scored.summary["ungraded"]) == ("Ungraded", 5)
    assert "the expected answer does not pass the tests: AssertionError" in scored.message


@pytest.mark.parametrize(
    ("left", "message"),
    [
        pytest.param(None, "The sandbox left no results", id="no file"),
        pytest.param('{"refused": "it could open a socket"}\n', "it could open a socket", id="a refusal"),
    ],
)
async def test_without_results_of_the_sandbox_nothing_is_scored(
    make_run: Any,
    stand_in: Start,
    chat_answer: Answer,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    left: str | None,
    message: str,
) -> None:
    await stand_in(lambda _: chat_answer("x = 1"))
    run = make_run("baseline", holdout=HOLDOUT, evaluation=RUN)
    await stage(baseline.run, run)
    path = tmp_path / "left.jsonl"
    monkeypatch.setenv("FT_SANDBOX_RESULTS", str(path))
    if left is not None:
        path.write_text(left)
    with pytest.raises(UserError, match=message):
        baseline.grade_programs(run.job, run.workspace)


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        pytest.param("x = 1", "x = 1", id="code alone"),
        pytest.param("```python\nx = 1\n```", "x = 1\n", id="a fence"),
        pytest.param("Sure!\n```\nx = 1\n```\nBye.", "x = 1\n", id="a fence in a text"),
        pytest.param("```py\nx = 1\n```\n```\ny\n```", "x = 1\n", id="the first of two"),
        pytest.param("```python\nx = 1", "x = 1", id="a fence that was cut off"),
        pytest.param("x = '```'", "x = '```'", id="back ticks in code"),
    ],
)
def test_the_code_of_an_answer_is_its_first_fenced_block(answer: str, expected: str) -> None:
    assert code_of(answer) == expected
