"""baseline and evaluate with a judge: what is stored when, what it cost, and who decides the verdicts."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from finetune_trainer.contracts import Result
from finetune_trainer.errors import UserError
from finetune_trainer.judging.judge import JudgeUnavailable
from finetune_trainer.stages import baseline, evaluate
from tests.judge_stand_in import (
    JudgeStandIn,
    Reply,
    in_turn,
    judge_stand_in,
    judges_by_words,
    preferring,
    texts_of,
)
from tests.unit.trainer_train.conftest import EVALUATION

HOLDOUT = [
    {"id": f"r{n}", "messages": [{"role": "user", "content": f"colour {n}"}], "reference": "red and blue"}
    for n in range(60)
]
Start = Callable[..., Awaitable[Any]]
Answer = Callable[..., tuple[int, Any]]


@pytest.fixture
async def judge() -> AsyncIterator[JudgeStandIn]:
    """A judge that is right until its script is changed."""
    async with judge_stand_in(judges_by_words) as server:
        yield server


@pytest.fixture
async def engine(stand_in: Start, chat_answer: Answer) -> Any:
    """An engine whose base knows half and whose tuned model knows all."""

    def answer(body: dict[str, Any]) -> tuple[int, Any]:
        tuned = body["model"] == "tuned"
        return chat_answer("red and blue" if tuned else "red", -0.1 if tuned else -0.5)

    return await stand_in(answer)


def judged_by(url: str, kind: str, **more: Any) -> dict[str, Any]:
    """The evaluation with a judge beside ExactMatch; the judge's grader decides."""
    grader = {"name": "style", "type": kind, "criteria": ["It says red", "It says blue"]}
    prices = {"pricePerMillionInputTokens": "1", "pricePerMillionOutputTokens": "10"}
    return {
        **EVALUATION,
        "graders": [{"name": "exact", "type": "ExactMatch"}, grader],
        "primary": "style",
        "judge": {"url": url, "model": "judge", **prices, **more},
    }


def stored(run: Any, who: str) -> list[dict[str, Any]]:
    [path] = (run.workspace.results_dir / "rows").glob(f"{who}-*.jsonl")
    return [json.loads(line) for line in path.read_text().splitlines()]


async def stage(function: Callable[..., Result], run: Any) -> Result:
    return await asyncio.to_thread(function, run.job, run.workspace)


async def test_criteria_decide_both_verdicts_and_their_cost_is_told(
    make_run: Any, engine: Any, judge: JudgeStandIn
) -> None:
    run = make_run("evaluate", holdout=HOLDOUT, evaluation=judged_by(judge.url, "JudgeCriteria"))
    before = await stage(baseline.run, run)
    assert (before.summary["metric"], before.summary["score"]) == ("style", 0.5)
    assert before.summary["graders"] == {"exact": 0.0, "style": 0.5}
    # 20 references and 60 answers, each 100 tokens in and 10 out
    assert before.summary["judge"] == {
        "requests": 80, "cached": 0, "inputTokens": 8000, "outputTokens": 800, "cost": 0.016,
    }  # fmt: skip
    after = await stage(evaluate.run, run)
    assert after.summary["verdict"] == "Promote"
    assert after.summary["graders"]["style"] == {"base": 0.5, "tuned": 1.0}
    assert after.summary["judge"]["requests"] == 40  # the first 20 answers are the references
    assert {row["grades"]["style"]["score"] for row in stored(run, "tuned")} == {1.0}


async def test_a_pairwise_judge_decides_after_training_and_another_grader_before(
    make_run: Any, engine: Any, judge: JudgeStandIn
) -> None:
    run = make_run("evaluate", holdout=HOLDOUT, evaluation=judged_by(judge.url, "JudgePairwise"))
    before = await stage(baseline.run, run)
    assert (before.summary["metric"], before.summary["graders"]) == ("exact", {"exact": 0.0, "style": None})
    after = await stage(evaluate.run, run)
    assert (after.summary["metric"], after.summary["verdict"]) == ("style", "Promote")
    assert after.summary["judge"]["flipRate"] == 0
    assert {row["grades"]["style"]["score"] for row in stored(run, "base")} == {0.0}


async def test_a_judge_that_decides_by_position_promotes_nothing_and_is_warned_about(
    make_run: Any, engine: Any, judge: JudgeStandIn
) -> None:
    judge.script = in_turn(preferring("A"))
    run = make_run("evaluate", holdout=HOLDOUT, evaluation=judged_by(judge.url, "JudgePairwise"))
    await stage(baseline.run, run)
    after = await stage(evaluate.run, run)
    assert (after.summary["verdict"], after.summary["judge"]["flipRate"]) == ("NoClearImprovement", 1)
    assert "order of the answers decided" in after.summary["warnings"][0]


async def test_answers_are_kept_when_the_judge_fails_and_are_judged_in_the_next_attempt(
    make_run: Any, engine: Any, judge: JudgeStandIn
) -> None:
    run = make_run("evaluate", holdout=HOLDOUT, evaluation=judged_by(judge.url, "JudgeCriteria"))
    judge.script = lambda body: (
        judges_by_words(body) if "blue" in texts_of(body)["answer"] else Reply(status=404)
    )
    failed = await stage(baseline.run, run)
    assert (failed.summary["verdict"], failed.summary["score"]) == ("Ungraded", None)
    asked = len(engine.requests)
    judge.script = judges_by_words
    before = await stage(baseline.run, run)
    assert (before.summary["cached"], before.summary["score"]) == (True, 0.5)
    assert len(engine.requests) == asked


@pytest.fixture
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A judge is away as soon as one question gets no reply at one try."""
    monkeypatch.setattr("finetune_trainer.scoring.endpoint.TRIES", 1)
    monkeypatch.setattr("finetune_trainer.judging.patience.TRIES", 0)
    monkeypatch.setattr("finetune_trainer.judging.patience._AWAY_SECONDS", 0)


@pytest.mark.usefixtures("_impatient")
async def test_a_judge_that_is_away_after_training_leaves_the_model_ungraded_and_ends_nothing(
    make_run: Any, engine: Any, judge: JudgeStandIn
) -> None:
    run = make_run("evaluate", holdout=HOLDOUT, evaluation=judged_by(judge.url, "JudgePairwise"))
    await stage(baseline.run, run)
    judge.script = in_turn(Reply(status=503, body="back soon"))
    after = await stage(evaluate.run, run)
    assert (after.outcome, after.summary["verdict"]) == ("Succeeded", "Ungraded")
    assert after.summary["ungraded"] == len(HOLDOUT)
    assert "the judge gave no reply for" in after.summary["ungradedReason"]


@pytest.mark.usefixtures("_impatient")
async def test_a_judge_that_is_away_before_training_ends_the_attempt(
    make_run: Any, engine: Any, judge: JudgeStandIn
) -> None:
    judge.script = in_turn(Reply(status=503))
    run = make_run("baseline", holdout=HOLDOUT, evaluation=judged_by(judge.url, "JudgeCriteria"))
    with pytest.raises(JudgeUnavailable):
        await stage(baseline.run, run)
    assert engine.requests == []


async def test_a_second_run_with_the_same_base_and_hold_out_asks_the_judge_nothing(
    make_run: Any, engine: Any, judge: JudgeStandIn
) -> None:
    evaluation = judged_by(judge.url, "JudgeCriteria")
    await stage(baseline.run, make_run("baseline", "first", holdout=HOLDOUT, evaluation=evaluation))
    asked = len(judge.bodies)
    again = await stage(baseline.run, make_run("baseline", "second", holdout=HOLDOUT, evaluation=evaluation))
    assert len(judge.bodies) == asked
    assert (again.summary["score"], again.summary["judge"]["cached"]) == (0.5, 80)
    assert again.summary["judge"]["cost"] == 0


async def test_references_are_judged_before_the_base_is_asked(
    make_run: Any, engine: Any, judge: JudgeStandIn
) -> None:
    holdout = [{**row, "reference": "red"} for row in HOLDOUT]
    run = make_run("baseline", holdout=holdout, evaluation=judged_by(judge.url, "JudgeCriteria"))
    with pytest.raises(UserError, match="no reference meets the criterion 'It says blue'"):
        await stage(baseline.run, run)
    assert engine.requests == []


async def test_a_reference_that_fails_is_a_warning_of_the_baseline(
    make_run: Any, engine: Any, judge: JudgeStandIn
) -> None:
    holdout = [{**HOLDOUT[0], "reference": "red"}, *HOLDOUT[1:]]
    run = make_run("baseline", holdout=holdout, evaluation=judged_by(judge.url, "JudgeCriteria"))
    result = await stage(baseline.run, run)
    assert (
        "1 of 20 references do not meet the criterion 'It says blue': rows r0"
        in result.summary["warnings"][0]
    )


async def test_a_cost_that_is_not_whole_is_not_told_as_if_it_were(
    make_run: Any, engine: Any, judge: JudgeStandIn
) -> None:
    def script(body: dict[str, Any]) -> Reply:
        text = judges_by_words(body).text
        return Reply(body=json.dumps({"choices": [{"message": {"content": text}}]}))

    judge.script = script
    run = make_run("baseline", holdout=HOLDOUT, evaluation=judged_by(judge.url, "JudgeCriteria"))
    result = await stage(baseline.run, run)
    assert result.summary["judge"]["cost"] == 0
    assert "how many tokens 80 of its answers took, so judging costs more" in result.summary["warnings"][0]


async def test_the_mounted_key_goes_to_the_judge_and_nowhere_else(
    make_run: Any,
    engine: Any,
    judge: JudgeStandIn,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: Any,
) -> None:
    monkeypatch.setenv("FT_CREDENTIALS_ROOT", str(tmp_path / "credentials"))
    (tmp_path / "credentials" / "judge").mkdir(parents=True)
    (tmp_path / "credentials" / "judge" / "token").write_text("sk-secret\n")
    run = make_run("baseline", holdout=HOLDOUT, evaluation=judged_by(judge.url, "JudgeCriteria"))
    result = await stage(baseline.run, run)
    assert {headers["Authorization"] for headers in judge.headers} == {"Bearer sk-secret"}
    written = [
        path.read_text() for path in run.workspace.root.rglob("*") if path.suffix in (".json", ".jsonl")
    ]
    assert not any("sk-secret" in text for text in [*written, result.to_json(), caplog.text])
