"""Rivals and suites through baseline and evaluate, against a stand-in engine."""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from finetune_trainer.contracts import Result
from finetune_trainer.errors import UserError
from finetune_trainer.evaluation.traces import all_answers, trace
from finetune_trainer.report.store import read_report, write_reports
from finetune_trainer.stages import baseline, evaluate
from tests.unit.trainer_report.examples import clean

Start = Callable[..., Awaitable[Any]]
Answer = Callable[..., tuple[int, Any]]


def questions(word: str, count: int = 60, before: str = "") -> list[dict[str, Any]]:
    examples = [{"role": "system", "content": before}] if before else []
    return [
        {
            "id": f"{word}{n}",
            "messages": [*examples, {"role": "user", "content": f"{word} {n}"}],
            "reference": "right",
        }
        for n in range(count)
    ]


HOLDOUT = questions("task")
GENERAL = {"general": questions("general")}


def said(body: dict[str, Any]) -> str:
    return str(body["messages"][-1]["content"])


async def scored(run: Any) -> Result:
    return await asyncio.to_thread(baseline.run, run.job, run.workspace)


async def compared(run: Any) -> Result:
    return await asyncio.to_thread(evaluate.run, run.job, run.workspace)


@pytest.fixture
async def engine(stand_in: Start, chat_answer: Answer) -> Callable[..., Awaitable[Any]]:
    """Start an engine that is right where `right` says so of a request, with other probabilities when tuned."""

    async def start(right: Callable[[dict[str, Any]], bool]) -> Any:
        return await stand_in(
            lambda body: chat_answer(
                "right" if right(body) else "no", -0.1 if body["model"] == "tuned" else -0.5
            )
        )

    return start


@pytest.mark.parametrize(
    ("plain", "prompted", "verdict", "blocking"),
    [
        pytest.param(0, 60, "PromptingLikelyEnough", True, id="a prompt alone does the job"),
        pytest.param(0, 36, "GoodCandidate", False, id="a prompt shows that the base can learn it"),
        pytest.param(36, 0, "GoodCandidate", False, id="a prompt that makes it worse changes nothing"),
    ],
)
async def test_the_verdict_before_training_goes_by_the_best_prompt(
    make_run: Any,
    engine: Callable[..., Awaitable[Any]],
    plain: int,
    prompted: int,
    verdict: str,
    blocking: bool,
) -> None:
    await engine(lambda body: int(said(body).split()[1]) < (prompted if len(body["messages"]) > 1 else plain))
    rival = questions("task", before="Say right.")
    result = await scored(make_run("baseline", holdout=HOLDOUT, rivals={"shots": rival}))
    summary = result.summary
    assert (summary["verdict"], summary["blocking"]) == (verdict, blocking)
    assert summary["score"] == plain / 60
    assert summary["rivals"]["shots"]["score"] == prompted / 60
    assert ("with the prompt shots" in result.message) is (prompted > plain)


async def test_a_rival_as_good_as_the_tuned_model_is_named_after_training(
    make_run: Any, engine: Callable[..., Awaitable[Any]]
) -> None:
    await engine(lambda body: body["model"] == "tuned" or len(body["messages"]) > 1)
    run = make_run("evaluate", holdout=HOLDOUT, rivals={"shots": questions("task", before="Say right.")})
    await scored(run)
    result = await compared(run)
    assert result.summary["verdict"] == "Promote"
    assert result.summary["rivals"]["shots"]["score"] == 1.0
    said = result.summary["promptAlone"]
    assert said.startswith("With the prompt shots the base alone scores 100.0 % [")
    assert said in result.message


@pytest.mark.parametrize(
    ("lost", "verdict"), [pytest.param(0, "Promote", id="none"), pytest.param(20, "Regressed", id="a third")]
)
async def test_what_the_tuned_model_lost_outside_of_the_task_decides(
    make_run: Any, engine: Callable[..., Awaitable[Any]], lost: int, verdict: str
) -> None:
    def right(body: dict[str, Any]) -> bool:
        word, number = said(body).split()
        tuned = body["model"] == "tuned"
        return tuned if word == "task" else not tuned or int(number) >= lost

    await engine(right)
    run = make_run("evaluate", holdout=HOLDOUT, suites=GENERAL)
    before = await scored(run)
    assert before.summary["regression"] == {"general": {"base": 1.0}}
    result = await compared(run)
    assert result.summary["verdict"] == verdict
    found = result.summary["regression"]["general"]
    assert (found["base"], found["tuned"], found["holds"]) == (1.0, round(1 - lost / 60, 4), not lost)
    assert ("On the suite general it scores 66.7%, the base 100.0%" in result.message) is bool(lost)
    stored = run.workspace.results_dir / "rows"
    names = sorted(str(path.relative_to(stored)).rpartition("-")[0] for path in stored.rglob("*.jsonl"))
    assert names == ["base", "suites/general-base", "suites/general-tuned", "tuned"]


async def test_the_bases_answers_to_rivals_and_suites_are_kept_for_the_next_run(
    make_run: Any, engine: Callable[..., Awaitable[Any]]
) -> None:
    server = await engine(lambda _: True)
    asked = {"rivals": {"shots": questions("task", before="a")}, "suites": GENERAL}
    await scored(make_run("baseline", "first", holdout=HOLDOUT, **asked))
    assert len(server.requests) == 180
    again = await scored(make_run("baseline", "second", holdout=HOLDOUT, **asked))
    assert (len(server.requests), again.summary["cached"]) == (180, True)
    changed = {**asked, "rivals": {"shots": questions("task", before="b")}}
    await scored(make_run("baseline", "third", holdout=HOLDOUT, **changed))
    assert len(server.requests) == 240


async def test_an_attempt_that_was_cut_off_asks_only_what_is_not_stored(
    make_run: Any, stand_in: Start, chat_answer: Answer
) -> None:
    down = {"now": True}

    def answer(body: dict[str, Any]) -> tuple[int, Any]:
        if said(body).startswith("general") and down["now"]:
            return 400, {"error": {"message": "no"}}
        return chat_answer("right")

    server = await stand_in(answer)
    run = make_run("baseline", holdout=HOLDOUT, suites=GENERAL)
    with pytest.raises(UserError, match="refused every prompt of suite general; it said: no"):
        await scored(run)
    down["now"], before = False, len(server.requests)
    result = await scored(run)
    assert {said(body).split()[0] for body in server.requests[before:]} == {"general"}
    assert result.summary["cached"] is False


async def test_a_suite_that_the_base_cannot_answer_is_told_before_training(
    make_run: Any, engine: Callable[..., Awaitable[Any]]
) -> None:
    await engine(lambda body: said(body).startswith("task"))
    result = await scored(make_run("baseline", holdout=HOLDOUT, suites=GENERAL))
    [warning] = result.summary["warnings"]
    assert "On the suite general the base scores 0.0%, too little for a drop of 5.0% to show" in warning


async def test_a_suite_that_may_lose_everything_needs_no_easier_questions(
    make_run: Any, engine: Callable[..., Awaitable[Any]]
) -> None:
    await engine(lambda body: said(body).startswith("task"))
    run = make_run("baseline", holdout=HOLDOUT, suites=GENERAL, suite_margin="1")
    assert (await scored(run)).summary["warnings"] == []


async def test_a_rival_of_which_few_answers_exist_is_not_compared(
    make_run: Any, stand_in: Start, chat_answer: Answer
) -> None:
    def answer(body: dict[str, Any]) -> tuple[int, Any]:
        if len(body["messages"]) > 1:
            few = int(said(body).split()[1]) < 10
            return chat_answer("right") if few else (400, {"error": {"message": "too long"}})
        return chat_answer("no")

    await stand_in(answer)
    rival = questions("task", before="Say right.")
    result = await scored(make_run("baseline", holdout=HOLDOUT, rivals={"shots": rival}))
    assert (result.summary["verdict"], "rivals" in result.summary) == ("CheckTaskOrData", False)
    assert result.summary["warnings"] == [
        "Too few answers with the prompt shots could be graded to compare it."
    ]


async def test_report_and_traces_have_the_answers_to_rivals_and_suites(
    make_run: Any, engine: Callable[..., Awaitable[Any]]
) -> None:
    # Names that could be taken for a part of a file's.
    asked = {
        "rivals": {"base-1": questions("task", before="Say right.")},
        "suites": {"tuned": GENERAL["general"]},
    }

    def right(body: dict[str, Any]) -> bool:
        said_before = len(body["messages"]) > 1
        return body["model"] == "tuned" or said_before or not said(body).startswith("task")

    await engine(right)
    run = make_run("evaluate", holdout=HOLDOUT, **asked)
    write_reports(run.workspace, clean())
    await scored(run)
    result = await compared(run)
    report = read_report(run.workspace)
    assert report is not None
    assert report.evaluation is not None
    assert report.evaluation.rivals["base-1"].score == 1.0
    assert report.evaluation.prompt_alone == result.summary["promptAlone"]
    [suite] = report.evaluation.regression
    assert (suite.name, suite.rows, suite.base, suite.tuned, suite.delta) == ("tuned", 60, 1.0, 1.0, 0.0)
    traces = map(trace, all_answers(run.workspace, run.job.spec.evaluation) or ())
    counted = Counter((row["questions"], row["arm"], row["model"], row["score"]) for row in traces)
    assert counted == {
        ("holdout", "base", "base", 0.0): 60,
        ("holdout", "tuned", "tuned", 1.0): 60,
        ("holdout", "rival base-1", "base", 1.0): 60,
        ("suite tuned", "base", "base", 1.0): 60,
        ("suite tuned", "tuned", "tuned", 1.0): 60,
    }


async def test_traces_have_the_answers_that_were_compared_and_not_newer_ones_of_another_server(
    make_run: Any, engine: Callable[..., Awaitable[Any]]
) -> None:
    await engine(lambda _: True)
    run = make_run("evaluate", holdout=HOLDOUT, rivals={"shots": questions("task", before="Say right.")})
    await scored(run)
    [kept] = (run.workspace.results_dir / "rows" / "rivals").iterdir()
    lines = kept.read_text().replace('"output": "right"', '"output": "of another server"')
    kept.with_name("shots-base-0123456789ab.jsonl").write_text(lines)
    await compared(run)
    found = list(all_answers(run.workspace, run.job.spec.evaluation) or ())
    assert {answered.row.output for answered in found if answered.arm == "rival shots"} == {"right"}


async def test_the_traces_lack_only_what_the_workspace_has_no_more(
    make_run: Any, engine: Callable[..., Awaitable[Any]], caplog: pytest.LogCaptureFixture
) -> None:
    await engine(lambda body: body["model"] == "tuned")
    run = make_run("evaluate", holdout=HOLDOUT, suites=GENERAL)
    await scored(run)
    await compared(run)
    for path in (run.workspace.results_dir / "rows" / "suites").iterdir():
        path.unlink()
    found = list(all_answers(run.workspace, run.job.spec.evaluation) or ())
    assert {answered.questions for answered in found} == {"holdout"}
    assert "the traces lack the answers of suite general" in caplog.text
