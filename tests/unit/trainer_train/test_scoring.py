"""Scoring against a stand-in engine that fails in the ways a real one may."""

import asyncio
import json
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from finetune_trainer import grading
from finetune_trainer.contracts import EngineSpec, EvaluationSpec, GraderSpec, Result
from finetune_trainer.data.corpus.related import Related
from finetune_trainer.errors import TemplateDrift, UserError
from finetune_trainer.report.store import read_report, write_reports
from finetune_trainer.scoring.ask import answer_all
from finetune_trainer.scoring.client import GREEDY, Engine, EngineUnavailable, Prompt, Refused, on_socket
from finetune_trainer.scoring.rows import Question
from finetune_trainer.stages import baseline, evaluate
from tests.unit.trainer_report.examples import clean
from tests.unit.trainer_train.conftest import EVALUATION

HOLDOUT = [
    {"id": f"r{n}", "messages": [{"role": "user", "content": f"question {n}"}], "reference": "right"}
    for n in range(60)
]
PROMPT = Prompt(({"role": "user", "content": "question 0"},))
Start = Callable[..., Awaitable[Any]]
Answer = Callable[..., tuple[int, Any]]


async def stage(name: str, run: Any) -> tuple[str, Result]:
    """Run the stage in a thread, since it has an event loop of its own."""
    function = {"baseline": baseline.run, "evaluate": evaluate.run}[name]
    return name, await asyncio.to_thread(function, run.job, run.workspace)


async def test_the_base_is_scored_on_every_row_and_every_output_is_stored(
    make_run: Any, stand_in: Start, chat_answer: Answer
) -> None:
    server = await stand_in(
        lambda body: chat_answer("right" if body["messages"][0]["content"][-1] in "02" else "no")
    )
    run = make_run("baseline", holdout=HOLDOUT)
    _, result = await stage("baseline", run)
    assert (result.summary["score"], result.summary["rows"], result.summary["cached"]) == (0.2, 60, False)
    assert result.summary["verdict"] == "CheckTaskOrData"
    assert result.summary["graders"] == {"exact": 0.2, "json": 0.0}
    [path] = (run.workspace.results_dir / "rows").iterdir()
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    assert [row["id"] for row in rows] == [row["id"] for row in HOLDOUT]
    assert rows[1]["output"] == "no"
    assert rows[1]["grades"]["exact"] == {
        "score": 0.0, "passed": False, "reason": "differs from the expected output",
    }  # fmt: skip
    assert {(body["max_tokens"], body["model"]) for body in server.requests} == {(8, "base")}


async def test_answers_and_the_probe_of_the_adapter_are_greedy_whatever_the_base_recommends(
    make_run: Any, stand_in: Start, chat_answer: Answer
) -> None:
    server = await stand_in(lambda body: chat_answer("no", -0.1 if body["model"] == "tuned" else -0.5))
    run = make_run("evaluate", holdout=HOLDOUT)
    await stage("baseline", run)
    await stage("evaluate", run)
    assert any(body.get("logprobs") for body in server.requests)
    assert all(body.items() >= GREEDY.items() for body in server.requests)
    assert GREEDY == {
        "temperature": 0, "top_p": 1, "top_k": 0, "min_p": 0,
        "repetition_penalty": 1, "presence_penalty": 0, "frequency_penalty": 0,
    }  # fmt: skip


async def test_a_row_with_tools_offers_them_as_in_training_and_wants_text(
    make_run: Any, stand_in: Start, chat_answer: Answer
) -> None:
    server = await stand_in(lambda _: chat_answer("right"))
    tools = [{"type": "function", "function": {"name": "f"}}]
    await stage("baseline", make_run("baseline", holdout=[{**row, "tools": tools} for row in HOLDOUT]))
    offered = [{"type": "function", "function": {"name": "f", "description": None, "parameters": None}}]
    assert {json.dumps(body["tools"]) for body in server.requests} == {json.dumps(offered)}
    assert {body["tool_choice"] for body in server.requests} == {"none"}


async def test_calls_in_a_prompt_reach_the_engine_as_its_api_takes_them(
    make_run: Any, stand_in: Start, chat_answer: Answer
) -> None:
    server = await stand_in(lambda _: chat_answer("right"))
    call = {"type": "function", "function": {"name": "tide_at", "arguments": {"port": "Øster"}}}
    history = [
        {"role": "user", "content": "When?"},
        {"role": "assistant", "content": "", "tool_calls": [call], "reasoning_content": "Look.", "weight": 0},
        {"role": "tool", "tool_call_id": "1", "content": "2.1"},
    ]
    await stage("baseline", make_run("baseline", holdout=[{**row, "messages": history} for row in HOLDOUT]))
    seen = server.requests[0]["messages"][1]
    assert seen["tool_calls"][0]["function"]["arguments"] == '{"port": "Øster"}'
    assert seen["tool_calls"][0]["id"]
    assert (seen["reasoning"], seen.keys() & {"weight", "reasoning_content"}) == ("Look.", set())


@pytest.mark.parametrize(
    ("answer", "opened", "score"),
    [
        pytest.param("right", False, 1.0, id="an answer without reasoning"),
        pytest.param("<think>\nso\n</think>\n\nright", False, 1.0, id="an answer after its reasoning"),
        pytest.param("so\n</think>\n\nright", True, 1.0, id="reasoning that the prompt opened"),
        pytest.param("<think>\nright", False, 0.0, id="reasoning that was cut off"),
        pytest.param("right", True, 0.0, id="reasoning that the prompt opened and that was cut off"),
    ],
)
async def test_graders_see_what_an_answer_says_after_its_reasoning(
    make_run: Any, stand_in: Start, chat_answer: Answer, answer: str, opened: bool, score: float
) -> None:
    await stand_in(lambda _: chat_answer(answer))
    run = make_run("baseline", holdout=[{**row, "opened": opened} for row in HOLDOUT])
    _, result = await stage("baseline", run)
    assert result.summary["score"] == score
    [path] = (run.workspace.results_dir / "rows").iterdir()
    assert json.loads(path.read_text().splitlines()[0])["output"] == answer


async def test_an_engine_that_tells_reasoning_apart_is_graded_by_its_answer(
    make_run: Any, stand_in: Start, chat_answer: Answer
) -> None:
    status, document = chat_answer("right")
    document["choices"][0]["message"]["reasoning"] = "so"
    await stand_in(lambda _: (status, document))
    run = make_run("baseline", holdout=[{**row, "opened": True} for row in HOLDOUT])
    _, result = await stage("baseline", run)
    assert result.summary["score"] == 1.0


async def test_prompts_are_rendered_with_what_prepare_decided(
    make_run: Any, stand_in: Start, chat_answer: Answer
) -> None:
    server = await stand_in(lambda _: chat_answer("right"))
    off = {"enable_thinking": False}
    rows = [{**HOLDOUT[0], "promptIds": [ord(letter) for letter in "question 0"]}, *HOLDOUT[1:]]
    await stage("baseline", make_run("baseline", holdout=rows, chatTemplateKwargs=off))
    assert all(body["chat_template_kwargs"] == off for body in server.requests)
    assert [body["chat_template_kwargs"] for body in server.tokenized] == [off]
    asked = len(server.requests)
    await stage("baseline", make_run("baseline", "other", holdout=rows))
    assert len(server.requests) == 2 * asked  # answers under other values are no answers for these


async def test_a_prompt_that_the_engine_renders_otherwise_ends_the_run_with_both_texts(
    make_run: Any, stand_in: Start, chat_answer: Answer
) -> None:
    server = await stand_in(lambda _: chat_answer("right"))
    rows = [{**HOLDOUT[0], "promptIds": [ord(letter) for letter in "question 1"]}, *HOLDOUT[1:]]
    with pytest.raises(
        TemplateDrift, match="row r0 otherwise than prepare: 'question 1' became 'question 0'"
    ):
        await stage("baseline", make_run("baseline", holdout=rows))
    assert server.requests == []


async def test_a_second_run_of_the_same_base_asks_nothing(
    make_run: Any, stand_in: Start, chat_answer: Answer
) -> None:
    server = await stand_in(lambda _: chat_answer("right"))
    await stage("baseline", make_run("baseline", "first", holdout=HOLDOUT))
    asked = len(server.requests)
    run = make_run("baseline", "second", holdout=HOLDOUT)
    _, result = await stage("baseline", run)
    assert len(server.requests) == asked
    assert result.summary["cached"]
    assert list((run.workspace.results_dir / "rows").iterdir())


def graded_by(run: Any, *graders: GraderSpec) -> Any:
    """The run with these graders, of which the first decides."""
    evaluation = run.job.spec.evaluation.model_copy(update={"graders": graders, "primary": graders[0].name})
    spec = run.job.spec.model_copy(update={"evaluation": evaluation})
    return replace(run, job=run.job.model_copy(update={"spec": spec}))


async def test_stored_answers_are_graded_anew_by_the_users_own_code(
    make_run: Any, stand_in: Start, chat_answer: Answer, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = await stand_in(lambda _: chat_answer("right"))
    own = GraderSpec(name="own", type="Python", grader="tests.unit.trainer_data.own_graders:Length")
    _, before = await stage("baseline", graded_by(make_run("baseline", "first", holdout=HOLDOUT), own))
    asked = len(server.requests)
    monkeypatch.setattr(grading.own, "_loaded", lambda name: lambda output, reference: (0.75, "new code"))
    _, after = await stage("baseline", graded_by(make_run("baseline", "second", holdout=HOLDOUT), own))
    assert (before.summary["score"], after.summary["score"]) == (0.5, 0.75)
    assert (after.summary["cached"], len(server.requests)) == (True, asked)


@pytest.mark.parametrize(
    ("reference", "opened", "score", "reason"),
    [
        ("at", False, (0.5 * 0.25) ** 0.5, "perplexity 2.83"),
        ("a", True, 0.5, "perplexity 2"),
        ("aaaaaaaabb", False, 0.5, "perplexity 2"),
        ("tax", False, None, "the prompt is too long"),
        ("", False, None, "the expected output is empty"),
    ],
    ids=["the mean over the tokens", "after the reasoning", "the first maxTokens", "refused", "empty"],
)
async def test_perplexity_is_how_likely_the_reference_is(
    make_run: Any,
    stand_in: Start,
    chat_answer: Answer,
    reference: str,
    opened: bool,
    score: float,
    reason: str,
) -> None:
    server = await stand_in(lambda _: chat_answer("right"))
    rows = [{**row, "reference": reference, "opened": opened} for row in HOLDOUT[:1]]
    graders = (
        GraderSpec(name="format", type="JsonSchema", schema="{}"),
        GraderSpec(name="p", type="Perplexity"),
    )
    run = graded_by(make_run("baseline", holdout=rows), *graders)
    await stage("baseline", run)
    [path] = (run.workspace.results_dir / "rows").iterdir()
    grade = json.loads(path.read_text())["grades"]["p"]
    assert (grade["score"], grade["reason"]) == (score and pytest.approx(score), reason)
    prefix = "question 0" + ("\n</think>\n\n" if opened else "")
    first = [body for body in server.completed if "".join(map(chr, body["prompt"])) == prefix]
    assert [body["allowed_token_ids"] for body in first] == ([[ord(reference[0])]] if reference else [])
    assert all(
        body.items() >= {**GREEDY, "max_tokens": 1, "logprobs": 0}.items() for body in server.completed
    )


async def test_perplexity_is_asked_of_several_rows_at_once_and_their_progress_is_told(
    stand_in: Start, chat_answer: Answer
) -> None:
    server = await stand_in(lambda _: chat_answer("right"))
    graders = (
        GraderSpec(name="format", type="JsonSchema", schema="{}"),
        GraderSpec(name="p", type="Perplexity"),
    )
    spec = EvaluationSpec.model_validate(EVALUATION | {"graders": graders, "primary": "format"})
    questions = [Question(row["id"], PROMPT, "at") for row in HOLDOUT]
    told: list[tuple[int, int]] = []

    def done(rows: int) -> None:
        told.append((rows, len(server.completed)))

    async with Engine(on_socket(server.socket)) as engine:
        rows = await answer_all(engine, "base", questions, spec, done)
    assert all(row.score("p") == pytest.approx((0.5 * 0.25) ** 0.5) for row in rows)
    assert [count for count, _ in told] == list(range(1, 61))
    assert told[0][1] < 2 * len(HOLDOUT) <= told[-1][1]
    assert 2 < server.most <= Engine.places


async def test_calls_are_read_in_the_syntax_of_the_template(
    make_run: Any, stand_in: Start, chat_answer: Answer
) -> None:
    call = '<tool_call>\n{"name": "tide", "arguments": {"port": "%s"}}\n</tool_call>'
    await stand_in(lambda _: chat_answer("Let me look.\n" + call % "Bergen"))
    syntax = {"before": '<tool_call>\n{"name": "', "opening": '", "arguments": '}
    rows = [
        {**row, "reference": call % ("Bergen" if place % 4 else "Oslo"), "callSyntax": syntax}
        for place, row in enumerate(HOLDOUT)
    ]
    tool_call = GraderSpec(name="calls", type="ToolCall")
    _, result = await stage("baseline", graded_by(make_run("baseline", holdout=rows), tool_call))
    assert result.summary["score"] == 0.75


@pytest.mark.parametrize(
    "engine",
    [
        pytest.param({"image": "serving:2"}, id="another image"),
        pytest.param({"args": ["--quantization", "fp8"]}, id="arguments"),
        pytest.param({"env": {"VLLM_USE_DEEP_GEMM": "0"}}, id="variables"),
    ],
)
async def test_an_engine_that_runs_otherwise_is_asked_anew(
    make_run: Any, stand_in: Start, chat_answer: Answer, engine: dict[str, Any]
) -> None:
    server = await stand_in(lambda _: chat_answer("right"))
    await stage("baseline", make_run("baseline", "first", holdout=HOLDOUT))
    run = make_run("baseline", "second", holdout=HOLDOUT)
    other = run.job.model_copy(update={"engine": EngineSpec.model_validate(engine)})
    _, result = await stage("baseline", replace(run, job=other))
    assert not result.summary["cached"]
    assert len(server.requests) == 2 * len(HOLDOUT)


async def test_the_tuned_model_is_compared_row_by_row(
    make_run: Any, stand_in: Start, chat_answer: Answer
) -> None:
    server = await stand_in(
        lambda b: chat_answer("right", -0.1) if b["model"] == "tuned" else chat_answer("no")
    )
    run = make_run("evaluate", holdout=HOLDOUT)
    await stage("baseline", run)
    _, result = await stage("evaluate", run)
    assert result.summary["verdict"] == "Promote"
    assert (result.summary["base"]["score"], result.summary["tuned"]["score"]) == (0.0, 1.0)
    assert result.summary["graders"]["exact"] == {"base": 0.0, "tuned": 1.0}
    assert server.loaded == [{"lora_name": "tuned", "lora_path": str(run.workspace.adapter_dir)}]


async def test_the_report_of_prepare_is_completed_by_the_evaluation(
    make_run: Any, stand_in: Start, chat_answer: Answer
) -> None:
    await stand_in(lambda b: chat_answer("right", -0.1) if b["model"] == "tuned" else chat_answer("no"))
    run = make_run("evaluate", holdout=HOLDOUT)
    write_reports(run.workspace, clean())
    run.workspace.related.write_text(json.dumps(Related("r0", 1, ((7, 0.8),)).to_json()))
    await stage("baseline", run)
    _, result = await stage("evaluate", run)
    report = read_report(run.workspace)
    assert report is not None
    assert report.evaluation is not None
    assert report.evaluation.verdict == result.summary["verdict"]
    assert report.evaluation.tuned.score == result.summary["tuned"]["score"]
    assert (report.evaluation.outcomes["win"], len(report.evaluation.shown)) == (60, 60)
    assert report.evaluation.shown[0].related[0].row == 7
    assert report.datasets == clean().datasets
    assert "The tuned model is better than its base" in run.workspace.report_html.read_text()


@pytest.mark.parametrize(
    ("count", "said"),
    [
        (0, ": CheckTaskOrData."),
        (1, " 1 of 60 answers reached evaluation.maxTokens (8) and ended there."),
        (6, " and ended there; raise it, for a right answer that is cut fails."),
    ],
    ids=["none", "few", "many"],
)
async def test_answers_that_were_cut_are_counted(
    make_run: Any, stand_in: Start, chat_answer: Answer, count: int, said: str
) -> None:
    def answer(body: dict[str, Any]) -> tuple[int, Any]:
        tuned, number = body["model"] == "tuned", int(body["messages"][0]["content"].split()[-1])
        cut = not tuned and number < count
        return chat_answer("right" if tuned else "no", finish="length" if cut else "stop")

    await stand_in(answer)
    run = make_run("evaluate", holdout=HOLDOUT)
    _, before = await stage("baseline", run)
    _, after = await stage("evaluate", run)
    assert before.summary["cut"] == count
    assert after.summary["cut"] == {"base": count, "tuned": 0}
    assert before.message.endswith(said)
    assert ("ended there" in after.message) == bool(count)


@pytest.mark.parametrize("moved", [0.0, 1e-6], ids=["the same numbers", "numbers that rounding moved"])
async def test_an_adapter_that_changes_nothing_is_an_error(
    make_run: Any, stand_in: Start, chat_answer: Answer, moved: float
) -> None:
    await stand_in(lambda b: chat_answer("no", -0.5 - (moved if b["model"] == "tuned" else 0.0)))
    run = make_run("evaluate", holdout=HOLDOUT)
    await stage("baseline", run)
    with pytest.raises(UserError, match="changes nothing"):
        await stage("evaluate", run)


async def test_a_row_with_tools_is_probed_for_text_too(
    make_run: Any, stand_in: Start, chat_answer: Answer
) -> None:
    def answer(body: dict[str, Any]) -> tuple[int, Any]:
        if body.get("tool_choice") != "none":
            return 400, {"error": {"message": '"auto" tool choice requires --enable-auto-tool-choice'}}
        return chat_answer("right", -0.1 if body["model"] == "tuned" else -0.5)

    await stand_in(answer)
    tools = [{"type": "function", "function": {"name": "f"}}]
    run = make_run("evaluate", holdout=[{**row, "tools": tools} for row in HOLDOUT])
    await stage("baseline", run)
    _, result = await stage("evaluate", run)
    assert result.summary["verdict"] == "NoClearImprovement"


async def test_rows_that_the_engine_refuses_are_no_probes(
    make_run: Any, stand_in: Start, chat_answer: Answer
) -> None:
    def answer(body: dict[str, Any]) -> tuple[int, Any]:
        if body["messages"][0]["content"] in ("question 0", "question 1", "question 2"):
            return 400, {"error": {"message": "the prompt is too long"}}
        return chat_answer("no", -0.5)

    await stand_in(answer)
    run = make_run("evaluate", holdout=HOLDOUT)
    await stage("baseline", run)
    with pytest.raises(UserError, match="changes nothing"):
        await stage("evaluate", run)


async def test_an_engine_that_refuses_every_probe_says_nothing_of_the_adapter(
    make_run: Any, stand_in: Start, chat_answer: Answer
) -> None:
    def answer(body: dict[str, Any]) -> tuple[int, Any]:
        return (400, {"error": {"message": "no"}}) if body.get("logprobs") else chat_answer("no")

    await stand_in(answer)
    run = make_run("evaluate", holdout=HOLDOUT)
    await stage("baseline", run)
    _, result = await stage("evaluate", run)
    assert result.summary["verdict"] == "NoClearImprovement"


async def test_a_full_model_is_asked_under_its_own_name(
    make_run: Any, stand_in: Start, chat_answer: Answer
) -> None:
    server = await stand_in(lambda _: chat_answer("no"))
    run = make_run("evaluate", method="Full", holdout=HOLDOUT)
    await stage("baseline", run)
    _, result = await stage("evaluate", run)
    assert result.summary["verdict"] == "NoClearImprovement"
    assert server.loaded == []


async def test_rows_that_the_engine_refuses_are_ungraded_not_zero(
    make_run: Any, stand_in: Start, chat_answer: Answer
) -> None:
    refusal = (400, {"error": {"message": "the prompt is too long"}})
    await stand_in(lambda b: refusal if b["messages"][0]["content"].endswith(" 7") else chat_answer("right"))
    _, result = await stage("baseline", make_run("baseline", holdout=HOLDOUT))
    assert result.summary["score"] == 1.0


HALF = "\ud83d"  # of a character, which no file can hold


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        pytest.param(f"right {HALF}", "right \ufffd", id="in an answer"),
        pytest.param(
            '{"name": "\\ud83d", "arguments": {}}', '{"name": "\\ud83d", "arguments": {}}', id="in a call"
        ),
    ],
)
async def test_half_of_a_character_ends_no_stage(
    make_run: Any, stand_in: Start, chat_answer: Answer, text: str, kept: str
) -> None:
    refusal = (400, {"error": {"message": f"no {HALF}"}})
    await stand_in(
        lambda body: refusal if body["messages"][0]["content"] == "question 1" else chat_answer(text)
    )
    calls = GraderSpec(name="calls", type="ToolCall")
    reference = '{"name": "f", "arguments": {}}'
    run = graded_by(make_run("baseline", holdout=[{**row, "reference": reference} for row in HOLDOUT]), calls)
    await stage("baseline", run)
    [path] = (run.workspace.results_dir / "rows").iterdir()
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    assert (rows[0]["output"], rows[0]["grades"]["calls"]["score"]) == (kept, 0.0)
    assert rows[1]["problem"] == "no \ufffd"


async def test_an_engine_that_refuses_everything_is_named(make_run: Any, stand_in: Start) -> None:
    await stand_in(lambda _: (400, {"error": {"message": "no chat template"}}))
    with pytest.raises(UserError, match="every prompt of the hold-out; it said: no chat template"):
        await stage("baseline", make_run("baseline", holdout=HOLDOUT))


async def test_without_the_base_answers_there_is_nothing_to_compare(make_run: Any) -> None:
    with pytest.raises(UserError, match="no answers of the base"):
        await stage("evaluate", make_run("evaluate", holdout=HOLDOUT))


async def test_an_error_of_the_engine_is_tried_again(stand_in: Start, chat_answer: Answer) -> None:
    answers = [(500, {}), (503, {}), chat_answer("late")]
    server = await stand_in(lambda _: answers.pop(0))
    async with Engine(on_socket(server.socket), first_wait=0.001) as engine:
        assert (await engine.chat("base", PROMPT, 8)).text == "late"


async def test_a_refusal_is_not_tried_again(stand_in: Start) -> None:
    server = await stand_in(lambda _: (400, {"error": {"message": "too long"}}))
    async with Engine(on_socket(server.socket), first_wait=0.001) as engine:
        with pytest.raises(Refused, match="too long"):
            await engine.chat("base", PROMPT, 8)
    assert len(server.requests) == 1


async def test_an_engine_that_is_gone_ends_the_stage_with_a_reason(stand_in: Start) -> None:
    server = await stand_in(lambda _: (500, {"error": {"message": "dead"}}))
    async with Engine(on_socket(server.socket), first_wait=0.001) as engine:
        with pytest.raises(EngineUnavailable, match="HTTP 500: dead"):
            await engine.chat("base", PROMPT, 8)


async def test_a_slow_start_is_waited_for(stand_in: Start, chat_answer: Answer) -> None:
    server = await stand_in(lambda _: chat_answer("x"))
    server.unhealthy = 2
    async with Engine(on_socket(server.socket), first_wait=0.001) as engine:
        await engine.wait_ready()
        assert await engine.base_name() == "base"


async def test_an_engine_that_never_starts_is_an_error(tmp_path: Path) -> None:
    async with Engine(on_socket(tmp_path / "none.sock"), start_seconds=0.05, first_wait=0.01) as engine:
        with pytest.raises(EngineUnavailable, match="not ready"):
            await engine.wait_ready()


async def test_a_gone_engine_is_unknown_to_the_runner_and_so_tried_again(
    make_run: Any, stand_in: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    await stand_in(lambda _: (500, {}))
    monkeypatch.setattr("finetune_trainer.scoring.client._MOST_WAIT", 0.001)
    run = make_run("baseline", holdout=HOLDOUT)
    with pytest.raises(EngineUnavailable) as caught:
        await stage("baseline", run)
    assert (caught.value.reason, caught.value.exit_code) == ("Unknown", 1)
