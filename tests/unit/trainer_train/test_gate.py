"""What baseline and evaluate say about the hold-out and the graders, against a stand-in engine."""

import asyncio
import json
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from finetune_trainer.contracts import Result
from finetune_trainer.report.store import write_reports
from finetune_trainer.scoring.holdout_uses import earlier_uses, record_use
from finetune_trainer.stages import baseline, evaluate
from tests.unit.trainer_report.examples import clean

HOLDOUT = [
    {"id": f"r{n}", "messages": [{"role": "user", "content": f"question {n}"}], "reference": "right"}
    for n in range(60)
]
Start = Callable[..., Awaitable[Any]]
Answer = Callable[..., tuple[int, Any]]
REFUSAL = (400, {"error": {"message": "the prompt is too long"}})


async def stage(run: Any, function: Any) -> Result:
    """Run the stage in a thread, since it has an event loop of its own."""
    result: Result = await asyncio.to_thread(function.run, run.job, run.workspace)
    return result


async def both_stages(run: Any) -> Result:
    """What evaluate says after baseline."""
    await stage(run, baseline)
    return await stage(run, evaluate)


@pytest.fixture
async def each_right_by_another_grader(stand_in: Start, chat_answer: Answer) -> None:
    """An engine whose base answers valid JSON that is wrong, and its tuned model what is right and no JSON."""
    await stand_in(lambda b: chat_answer("right", -0.1) if b["model"] == "tuned" else chat_answer("{}"))


def of_another_run(run: Any, uid: str) -> Any:
    return replace(run, job=run.job.model_copy(update={"uid": uid}))


def number_of(body: dict[str, Any]) -> int:
    return int(body["messages"][0]["content"].split()[-1])


async def test_the_baseline_says_what_the_hold_out_can_show(
    make_run: Any, stand_in: Start, chat_answer: Answer
) -> None:
    await stand_in(lambda body: chat_answer("right" if number_of(body) % 2 else "no"))
    result = await stage(make_run("baseline", holdout=HOLDOUT), baseline)
    shown = {
        key: result.summary[key] for key in ("score", "detectable", "rowsNeeded", "holdoutUses", "ungraded")
    }
    assert shown == {
        "score": 0.5, "detectable": pytest.approx(0.26, abs=0.01), "rowsNeeded": 1562, "holdoutUses": 0,
        "ungraded": 0,
    }  # fmt: skip
    assert "groups" not in result.summary


async def test_rows_of_a_group_count_as_one(make_run: Any, stand_in: Start, chat_answer: Answer) -> None:
    await stand_in(lambda body: chat_answer("right" if number_of(body) < 30 else "no"))
    grouped = [{**row, "group": f"g{place // 10}"} for place, row in enumerate(HOLDOUT)]
    result = await stage(make_run("baseline", holdout=grouped), baseline)
    assert (result.summary["groups"], result.summary["detectable"]) == (6, None)
    assert (result.summary["low"], result.summary["high"]) == (0.0, 1.0)


async def test_stored_answers_are_in_the_groups_that_the_hold_out_says_now(
    make_run: Any, stand_in: Start, chat_answer: Answer
) -> None:
    await stand_in(lambda _: chat_answer("no"))
    await stage(make_run("baseline", "first", holdout=HOLDOUT), baseline)
    grouped = [{**row, "group": f"g{place // 10}"} for place, row in enumerate(HOLDOUT)]
    result = await stage(make_run("baseline", "second", holdout=grouped), baseline)
    assert (result.summary["cached"], result.summary["groups"]) == (True, 6)


async def test_too_many_ungraded_rows_are_named_block_and_are_asked_again_by_the_next_run(
    make_run: Any, stand_in: Start, chat_answer: Answer
) -> None:
    server = await stand_in(lambda body: REFUSAL if number_of(body) < 2 else chat_answer("right"))
    result = await stage(make_run("baseline", holdout=HOLDOUT), baseline)
    assert (result.summary["verdict"], result.summary["blocking"]) == ("Ungraded", True)
    assert (result.summary["ungraded"], result.summary["graded"]) == (2, 0.9667)
    assert "the prompt is too long" in result.summary["ungradedReason"]
    assert "could not grade 2 of 60 rows" in result.message
    asked = len(server.requests)
    await stage(make_run("baseline", "next", holdout=HOLDOUT), baseline)
    assert len(server.requests) == 2 * asked


async def test_rows_that_only_one_model_could_not_be_graded_on_count(
    make_run: Any, stand_in: Start, chat_answer: Answer
) -> None:
    def answer(body: dict[str, Any]) -> tuple[int, Any]:
        if body["model"] == "tuned" and not body.get("logprobs"):
            return REFUSAL if number_of(body) < 3 else chat_answer("right", -0.1)
        return chat_answer("no", -0.1 if body["model"] == "tuned" else -0.5)

    await stand_in(answer)
    run = make_run("evaluate", holdout=HOLDOUT)
    result = await both_stages(run)
    assert (result.summary["verdict"], result.summary["ungraded"]) == ("Ungraded", 3)
    assert result.summary["delta"]["score"] == 1.0
    assert "the prompt is too long" in result.message


@pytest.mark.usefixtures("each_right_by_another_grader")
async def test_a_model_that_wins_by_one_grader_and_loses_by_another_is_regressed(make_run: Any) -> None:
    run = make_run("evaluate", holdout=HOLDOUT)
    result = await both_stages(run)
    assert result.summary["verdict"] == "Regressed"
    lost = result.summary["secondary"]["json"]
    assert (lost["delta"], lost["margin"], lost["holds"]) == (-1.0, 0.05, False)
    assert "By json it may have lost more than 5.0%: -100.0%" in result.message


@pytest.mark.usefixtures("each_right_by_another_grader")
async def test_a_use_of_the_hold_out_counts_once_for_each_run(make_run: Any) -> None:
    first = make_run("evaluate", holdout=HOLDOUT)
    await stage(first, baseline)
    for _ in range(2):
        assert (await stage(first, evaluate)).summary["holdoutUses"] == 1
    assert (await stage(of_another_run(first, "second"), evaluate)).summary["holdoutUses"] == 2
    later = await stage(of_another_run(make_run("baseline", "later", holdout=HOLDOUT), "later"), baseline)
    assert later.summary["holdoutUses"] == 2
    other = make_run("baseline", "other", holdout=HOLDOUT, holdoutDigest="sha256:" + "e" * 64)
    assert (await stage(other, baseline)).summary["holdoutUses"] == 0


def test_runs_at_the_same_time_lose_no_use(make_run: Any) -> None:
    run, digest = make_run("evaluate"), "sha256:" + "f" * 64
    jobs = [of_another_run(run, f"uid-{number}").job for number in range(16)]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda job: record_use(job, digest), jobs))
    assert earlier_uses(run.job, digest) == 16


def test_a_place_that_cannot_be_written_ends_no_evaluation(
    make_run: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "destination" / "adapters" / ".finetune-holdouts").write_text("in the way")
    run = make_run("evaluate")
    assert record_use(run.job, "sha256:" + "f" * 64) is None
    assert "the use of the hold-out is not noted" in caplog.text


@pytest.mark.usefixtures("each_right_by_another_grader")
async def test_the_summaries_of_eight_graders_fit_into_a_termination_message(make_run: Any) -> None:
    run = make_run("evaluate", holdout=HOLDOUT)
    graders = [{"name": f"{place}-{'x' * 38}", "type": "ExactMatch"} for place in range(8)]
    given = {**run.job.model_dump(by_alias=True, mode="json")}
    given["spec"]["evaluation"] |= {"graders": graders, "primary": graders[0]["name"]}
    run = replace(run, job=type(run.job).model_validate(given))
    result = await both_stages(run)
    assert len(json.dumps(result.summary)) < 3000


async def test_nothing_graded_of_one_model_is_a_verdict_and_says_why(
    make_run: Any, stand_in: Start, chat_answer: Answer
) -> None:
    await stand_in(lambda b: chat_answer("right", -0.1) if b["model"] == "tuned" else chat_answer("no"))
    run = make_run("evaluate", holdout=HOLDOUT)
    await stage(run, baseline)
    [path] = (run.workspace.results_dir / "rows").iterdir()
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    for row in rows:
        row["grades"]["exact"] = {"score": None, "passed": None, "reason": "it timed out"}
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    write_reports(run.workspace, clean())
    result = await stage(run, evaluate)
    assert result.summary["verdict"] == "Ungraded"
    assert {result.summary[key]["score"] for key in ("base", "tuned", "delta")} == {None}
    assert "exact could grade no row for both models, Ungraded." in result.message
    assert "it timed out" in result.message


async def test_nothing_graded_of_the_base_is_a_verdict_that_blocks(
    make_run: Any, stand_in: Start, chat_answer: Answer
) -> None:
    await stand_in(lambda _: chat_answer("no"))
    run = make_run("baseline", holdout=HOLDOUT)
    given = run.job.model_dump(by_alias=True, mode="json")
    own = {"name": "own", "type": "Python", "grader": "tests.unit.trainer_data.own_graders:Raises"}
    given["spec"]["evaluation"] |= {"graders": [own], "primary": "own"}
    result = await stage(replace(run, job=type(run.job).model_validate(given)), baseline)
    assert (result.summary["verdict"], result.summary["blocking"]) == ("Ungraded", True)
    assert (result.summary["score"], result.summary["ungraded"]) == (None, 60)
