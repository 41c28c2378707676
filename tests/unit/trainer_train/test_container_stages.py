"""Graders that are containers through baseline, grade-base, evaluate and grade-tuned.

In place of a container the script of examples/own-grader runs on the files that it would see.
"""

import json
import subprocess
import sys
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from finetune_trainer.contracts import Job
from finetune_trainer.stages import baseline, evaluate
from tests.unit.trainer_train.conftest import EVALUATION
from tests.unit.trainer_train.test_code_stages import stage

ROOT = Path(__file__).parents[3]
EXAMPLE = ROOT / "examples" / "own-grader"
IMAGE = "registry.example/polite@sha256:" + "a" * 64
POLITE = {"name": "polite", "type": "Container", "image": IMAGE}
RUN = {**EVALUATION, "graders": [POLITE], "primary": "polite", "maxTokens": 64}
Start = Callable[..., Awaitable[Any]]
Answer = Callable[..., tuple[int, Any]]


def rows(count: int = 50, reference: str = "Hello, dear customer {n}.") -> list[dict[str, Any]]:
    return [
        {
            "id": f"r{n}",
            "messages": [{"role": "user", "content": f"Answer letter {n}."}],
            "reference": reference.format(n=n),
        }
        for n in range(count)
    ]


def polite_when_tuned(chat_answer: Answer) -> Callable[[dict[str, Any]], tuple[int, Any]]:
    """Models of which only the tuned one greets."""

    def answer(body: dict[str, Any]) -> tuple[int, Any]:
        tuned = body["model"] == "tuned"
        return chat_answer("Hello! Here you are." if tuned else "Here.", -0.1 if tuned else -1)

    return answer


@pytest.fixture
def graders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[Any, str], None]:
    """What the containers of a model's pod do."""

    def grade(run: Any, model: str) -> None:
        results = tmp_path / f"graders-{model}"
        monkeypatch.setenv("FT_GRADER_RESULTS", str(results))
        for folder in run.workspace.questions_for_containers(model).iterdir():
            (results / folder.name).mkdir(parents=True)
            paths = (folder / "questions.jsonl", results / folder.name / "results.jsonl")
            subprocess.run([sys.executable, str(EXAMPLE / "grade.py"), *map(str, paths)], check=True)

    return grade


async def test_a_container_grades_both_models_and_decides(
    make_run: Any, stand_in: Start, chat_answer: Answer, graders: Callable[[Any, str], None]
) -> None:
    await stand_in(polite_when_tuned(chat_answer))
    run = make_run("baseline", holdout=rows(), evaluation=RUN)
    answered = await stage(baseline.run, run)
    assert (answered.summary["awaits"], "verdict" in answered.summary) == ("code", False)
    graders(run, "base")
    scored = baseline.grade_programs(run.job, run.workspace)
    assert (scored.summary["score"], scored.summary["verdict"]) == (0.0, "CheckTaskOrData")
    await stage(evaluate.run, run, "evaluate")
    graders(run, "tuned")
    compared = evaluate.grade_programs(run.job, run.workspace)
    assert (compared.summary["tuned"]["score"], compared.summary["verdict"]) == (1.0, "Promote")


async def test_what_a_container_reads_are_expected_answers_and_answers_of_all_that_is_asked(
    make_run: Any, stand_in: Start, chat_answer: Answer
) -> None:
    await stand_in(lambda _: chat_answer("<think>hm</think>Hello!"))
    evaluation = {**RUN, "rivals": [{"name": "kind", "system": "Be kind."}]}
    kind = [{"role": "system", "content": "Be kind."}]
    asked = [
        {**row, "messages": kind + row["messages"], "group": "g", "tests": "assert 1"} for row in rows(2)
    ]
    run = make_run("baseline", holdout=rows(2), evaluation=evaluation, rivals={"kind": asked})
    await stage(baseline.run, run)
    path = run.workspace.questions_for_containers("base") / "grader-polite" / "questions.jsonl"
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert [line["id"] for line in lines] == [str(number) for number in range(1, 9)]
    assert [(line["row"], line["kind"]) for line in lines[:3]] == [
        ("r0", "reference"), ("r0", "answer"), ("r1", "reference"),
    ]  # fmt: skip
    assert lines[0]["output"] == lines[0]["reference"] == "Hello, dear customer 0."
    assert lines[1] == {
        "id": "2", "row": "r0", "kind": "answer", "output": "Hello!", "reference": "Hello, dear customer 0.",
        "messages": [{"role": "user", "content": "Answer letter 0."}],
    }  # fmt: skip
    assert (lines[-1]["messages"][0], lines[-1]["group"], lines[-1]["tests"]) == (kind[0], "g", "assert 1")


async def test_a_suite_is_graded_by_a_container_of_its_own(
    make_run: Any, stand_in: Start, chat_answer: Answer, graders: Callable[[Any, str], None]
) -> None:
    await stand_in(polite_when_tuned(chat_answer))
    made = make_run("baseline", holdout=rows(), evaluation=RUN, suites={"letters": rows(20)})
    document = made.job.model_dump(mode="json", by_alias=True, exclude_none=True)
    document["spec"]["evaluation"]["regression"]["suites"][0]["grader"] = POLITE
    run = replace(made, job=Job.model_validate(document))
    await stage(baseline.run, run)
    graders(run, "base")
    folders = run.workspace.questions_for_containers("base").iterdir()
    assert sorted(folder.name for folder in folders) == ["grader-polite", "suite-letters"]
    scored = baseline.grade_programs(run.job, run.workspace)
    assert scored.summary["regression"] == {"letters": {"base": 0.0}}


async def test_rows_of_a_container_that_failed_are_ungraded_with_what_it_did(
    make_run: Any, stand_in: Start, chat_answer: Answer, monkeypatch: pytest.MonkeyPatch
) -> None:
    await stand_in(polite_when_tuned(chat_answer))
    run = make_run("baseline", holdout=rows(), evaluation=RUN)
    await stage(baseline.run, run)
    failed = {"grader-polite": "Grader polite (image) exited with code 3: no module named nltk."}
    monkeypatch.setenv("FT_FAILED_GRADERS", json.dumps(failed))
    scored = baseline.grade_programs(run.job, run.workspace)
    assert (scored.summary["verdict"], scored.summary["ungraded"]) == ("Ungraded", 50)
    assert "exited with code 3: no module named nltk" in scored.summary["ungradedReason"]


async def test_rows_that_a_container_leaves_out_are_ungraded_and_strange_lines_are_told(
    make_run: Any, stand_in: Start, chat_answer: Answer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    await stand_in(polite_when_tuned(chat_answer))
    run = make_run("baseline", holdout=rows(), evaluation=RUN)
    await stage(baseline.run, run)
    written = [{"id": str(number), "score": 1} for number in (*range(1, 99), 777)]
    (tmp_path / "left" / "grader-polite").mkdir(parents=True)
    path = tmp_path / "left" / "grader-polite" / "results.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in written))
    monkeypatch.setenv("FT_GRADER_RESULTS", str(tmp_path / "left"))
    scored = baseline.grade_programs(run.job, run.workspace)
    assert (scored.summary["score"], scored.summary["ungraded"]) == (1.0, 1)
    assert (
        "grader polite, row r49, its expected answer: its container wrote no line about it"
        in (scored.summary["ungradedReason"])
    )
    assert scored.summary["warnings"] == [
        "In the results of grader-polite 1 line with an id that was not asked (line 99: 777)."
    ]


async def test_rows_whose_expected_answer_gets_less_than_full_marks_are_ungraded(
    make_run: Any, stand_in: Start, chat_answer: Answer, graders: Callable[[Any, str], None]
) -> None:
    await stand_in(polite_when_tuned(chat_answer))
    run = make_run("baseline", holdout=rows(reference="Good bye, {n}."), evaluation=RUN)
    await stage(baseline.run, run)
    graders(run, "base")
    scored = baseline.grade_programs(run.job, run.workspace)
    assert (scored.summary["verdict"], scored.summary["ungraded"]) == ("Ungraded", 50)
    assert (
        "row r0: the expected answer gets 0 and not full marks (no greeting)"
        in (scored.summary["ungradedReason"])
    )


@pytest.mark.parametrize(
    ("line", "why"),
    [
        pytest.param({"score": 0.9, "pass": True}, "gets 0.9 and not full marks", id="nearly full marks"),
        pytest.param({"score": 1, "pass": False}, "does not pass", id="full marks without a pass"),
        pytest.param({"score": None, "reason": "too long"}, "too long", id="no judgement"),
    ],
)
async def test_an_answer_counts_only_where_the_expected_one_passes_with_full_marks(
    make_run: Any,
    stand_in: Start,
    chat_answer: Answer,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    line: dict[str, Any],
    why: str,
) -> None:
    await stand_in(polite_when_tuned(chat_answer))
    run = make_run("baseline", holdout=rows(), evaluation=RUN)
    await stage(baseline.run, run)
    (tmp_path / "left" / "grader-polite").mkdir(parents=True)
    written = [{"id": "1", **line}, *({"id": str(number), "score": 1} for number in range(2, 101))]
    path = tmp_path / "left" / "grader-polite" / "results.jsonl"
    path.write_text("".join(json.dumps(entry) + "\n" for entry in written))
    monkeypatch.setenv("FT_GRADER_RESULTS", str(tmp_path / "left"))
    scored = baseline.grade_programs(run.job, run.workspace)
    assert (scored.summary["score"], scored.summary["ungraded"]) == (1.0, 1)
    assert "row r0" in scored.summary["ungradedReason"]
    assert why in scored.summary["ungradedReason"]


def test_the_page_about_graders_shows_the_example_as_it_is() -> None:
    page = (ROOT / "docs" / "graders.md").read_text()
    for name in ("grade.py", "Dockerfile"):
        assert (EXAMPLE / name).read_text() in page
