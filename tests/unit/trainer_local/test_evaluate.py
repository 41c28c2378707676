"""`evaluate --endpoint` as a user types it: hosted models scored by a job, on a machine without a cluster."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from finetune_trainer.__main__ import main
from tests.judge_stand_in import JudgeStandIn, Reply, judge_stand_in, judges_by_words

Capture = pytest.CaptureFixture[str]
Write = Callable[..., Path]
STYLE = {"name": "style", "type": "JudgeCriteria", "criteria": ["It says answer"]}


def answers(body: dict[str, Any]) -> Reply:
    """A hosted model that is right (`good`), never right (`bad`) or often right (`fair`), and a judge."""
    if body["model"] == "judge":
        return judges_by_words(body)
    number = body["messages"][-1]["content"].split()[-1].strip("?")
    right = {"good": True, "bad": False, "fair": int(number) % 2 == 0}[body["model"]]
    return Reply(f"answer {number}" if right else "I do not know.")


@pytest.fixture
async def endpoint() -> AsyncIterator[JudgeStandIn]:
    async with judge_stand_in(answers) as server:
        yield server


@pytest.fixture
def holdout(tmp_path: Path) -> Path:
    path = tmp_path / "holdout.jsonl"
    rows = [
        {
            "messages": [
                {"role": "user", "content": f"Which is number {n}?"},
                {"role": "assistant", "content": f"answer {n}"},
            ]
        }
        for n in range(60)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


async def evaluated(*arguments: object) -> int:
    def run() -> int:
        try:
            return main(["evaluate", *map(str, arguments)])
        except SystemExit as ended:
            return int(ended.code or 0)

    return await asyncio.to_thread(run)


async def test_a_hosted_model_is_scored_by_the_graders_of_the_job(
    write_job: Write, holdout: Path, endpoint: JudgeStandIn, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MY_KEY", "sk-1")
    named = ("--endpoint", endpoint.url, "--model", "fair", "--api-key-env", "MY_KEY")
    code = await evaluated("--job", write_job(), "--holdout", holdout, *named, "--output", "json")
    summary = json.loads(capsys.readouterr().out)
    assert code == 0
    assert (summary["model"], summary["metric"], summary["rows"], summary["score"]) == (
        "fair",
        "exact",
        60,
        0.5,
    )
    assert (summary["graders"], summary["graded"]) == ({"exact": 0.5}, 1.0)
    assert {
        "model": "fair", "messages": [{"role": "user", "content": "Which is number 0?"}],
        "temperature": 0, "seed": 0, "max_tokens": 16,
    } in endpoint.bodies  # fmt: skip
    assert {headers["Authorization"] for headers in endpoint.headers} == {"Bearer sk-1"}


@pytest.mark.parametrize(
    ("model", "against", "verdict", "code"),
    [
        ("good", "bad", "Promote", 0),
        ("bad", "good", "WorseThanBase", 1),
        ("good", "good", "NoClearImprovement", 1),
    ],
    ids=["better", "worse", "the same"],
)
async def test_a_model_is_compared_with_the_one_to_beat(
    write_job: Write,
    holdout: Path,
    endpoint: JudgeStandIn,
    capsys: Capture,
    model: str,
    against: str,
    verdict: str,
    code: int,
) -> None:
    named = ("--endpoint", endpoint.url, "--model", model, "--against", against, "--output", "json")
    assert await evaluated("--job", write_job(), "--holdout", holdout, *named) == code
    summary = json.loads(capsys.readouterr().out)
    assert (summary["verdict"], summary["against"]) == (verdict, against)
    assert summary["graders"]["exact"] == {"base": float(against == "good"), "tuned": float(model == "good")}


async def test_the_judge_of_the_job_is_asked_with_its_own_key(
    write_job: Write, holdout: Path, endpoint: JudgeStandIn, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("JUDGE_KEY", "sk-judge")
    dataset = {"source": "configmap://rows/holdout.jsonl"}
    judge = {"url": endpoint.url, "model": "judge", "credentialsSecretRef": {"name": "in-the-cluster"}}
    job = write_job(evaluation={"dataset": dataset, "graders": [STYLE], "judge": judge})
    named = (
        "--endpoint",
        endpoint.url,
        "--model",
        "fair",
        "--against",
        "bad",
        "--judge-key-env",
        "JUDGE_KEY",
    )
    assert await evaluated("--job", job, "--holdout", holdout, *named) == 0
    said = capsys.readouterr().out
    assert "60 rows by style" in said
    assert said.endswith("Promote\n")
    keys = {
        (body["model"], headers.get("Authorization"))
        for body, headers in zip(endpoint.bodies, endpoint.headers, strict=True)
    }
    assert keys == {("judge", "Bearer sk-judge"), ("fair", None), ("bad", None)}


async def test_scores_are_written_for_compare(
    write_job: Write, holdout: Path, endpoint: JudgeStandIn, tmp_path: Path, capsys: Capture
) -> None:
    files = [tmp_path / "fair.jsonl", tmp_path / "good.jsonl"]
    for path in files:
        named = ("--endpoint", endpoint.url, "--model", path.stem, "--rows", path)
        assert await evaluated("--job", write_job(), "--holdout", holdout, *named) == 0
    capsys.readouterr()
    assert main(["compare", "--base", str(files[0]), "--tuned", str(files[1]), "--output", "json"]) == 0
    assert json.loads(capsys.readouterr().out)["delta"] == 0.5


async def test_scores_of_rows_that_could_not_be_graded_are_written_as_null(
    write_job: Write, holdout: Path, endpoint: JudgeStandIn, tmp_path: Path, capsys: Capture
) -> None:
    files = [tmp_path / "fair.jsonl", tmp_path / "good.jsonl"]
    endpoint.script = lambda body: (
        Reply(status=404)
        if "number 7?" in str(body["messages"]) and body["model"] == "good"
        else answers(body)
    )
    for path in files:
        named = ("--endpoint", endpoint.url, "--model", path.stem, "--rows", path)
        assert await evaluated("--job", write_job(), "--holdout", holdout, *named) == 0
    capsys.readouterr()
    assert main(["compare", "--base", str(files[0]), "--tuned", str(files[1]), "--output", "json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["n"], found["ungraded"]) == (59, 1)


async def test_rows_that_nobody_could_grade_are_told_and_end_with_1(
    write_job: Write, holdout: Path, endpoint: JudgeStandIn, capsys: Capture
) -> None:
    def script(body: dict[str, Any]) -> Reply:
        return Reply(status=404) if "number 7?" in str(body["messages"]) else answers(body)

    endpoint.script = script
    monkey = ("--endpoint", endpoint.url, "--model", "good", "--output", "json")
    assert (
        await evaluated("--job", write_job(), "--holdout", holdout, *monkey) == 0
    )  # 1 of 60 is less than 2 %
    endpoint.script = lambda body: Reply(status=404) if "7?" in str(body["messages"]) else answers(body)
    assert await evaluated("--job", write_job(), "--holdout", holdout, *monkey) == 1
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["ungraded"] == 6


async def test_answers_that_ended_at_the_limit_of_tokens_are_told(
    write_job: Write, holdout: Path, endpoint: JudgeStandIn, capsys: Capture
) -> None:
    def script(body: dict[str, Any]) -> Reply:
        return replace(answers(body), finish="length") if body["model"] == "bad" else answers(body)

    endpoint.script = script
    named = ("--job", write_job(), "--holdout", holdout, "--endpoint", endpoint.url, "--output", "json")
    assert await evaluated(*named, "--model", "bad") == 0
    alone = json.loads(capsys.readouterr().out)
    assert alone["cut"] == 60
    assert alone["warnings"] == [
        "60 of 60 answers reached evaluation.maxTokens (16) and ended there; raise it, for a right answer "
        "that is cut fails."
    ]
    assert await evaluated(*named, "--model", "good", "--against", "bad") == 0
    both = json.loads(capsys.readouterr().out)
    assert both["cut"] == {"base": 60, "tuned": 0}
    assert "0 answers of the tuned model and 60 of the base reached" in both["warnings"][0]


async def test_what_an_endpoint_says_cannot_steer_the_terminal(
    write_job: Write, holdout: Path, endpoint: JudgeStandIn, capsys: Capture
) -> None:
    said = json.dumps({"error": {"message": "gone \x1b[2J\u202e"}})
    endpoint.script = lambda body: (
        Reply(status=404, body=said) if "number 7?" in str(body["messages"]) else answers(body)
    )
    named = ("--endpoint", endpoint.url, "--model", "good")
    assert await evaluated("--job", write_job(), "--holdout", holdout, *named) == 0
    shown = capsys.readouterr().out
    assert "HTTP 404 gone \ufffd[2J\ufffd" in shown
    assert not {"\x1b", "\u202e"} & set(shown)


LIMITS = {"max_tokens", "max_completion_tokens"}


async def test_a_row_that_is_too_long_is_ungraded_and_every_answer_keeps_its_limit(
    write_job: Write, holdout: Path, endpoint: JudgeStandIn, capsys: Capture
) -> None:
    said = "'max_tokens' is too large: 16. This model's maximum context length is 20 tokens."

    def script(body: dict[str, Any]) -> Reply:
        too_long = "number 7?" in str(body["messages"]) and LIMITS & body.keys()
        return Reply(status=400, body=json.dumps({"error": said})) if too_long else answers(body)

    endpoint.script = script
    named = ("--endpoint", endpoint.url, "--model", "good", "--output", "json")
    assert await evaluated("--job", write_job(), "--holdout", holdout, *named) == 0
    assert json.loads(capsys.readouterr().out)["ungraded"] == 1
    assert {body.get("max_tokens") for body in endpoint.bodies} == {16}


async def test_the_limit_is_sent_by_its_newer_name_where_the_endpoint_asks_for_it(
    write_job: Write, holdout: Path, endpoint: JudgeStandIn, capsys: Capture
) -> None:
    said = "Unsupported parameter: 'max_tokens'. Use 'max_completion_tokens' instead."

    def script(body: dict[str, Any]) -> Reply:
        return Reply(status=400, body=json.dumps({"error": said})) if "max_tokens" in body else answers(body)

    endpoint.script = script
    named = ("--endpoint", endpoint.url, "--model", "good", "--output", "json")
    assert await evaluated("--job", write_job(), "--holdout", holdout, *named) == 0
    assert json.loads(capsys.readouterr().out)["graded"] == 1.0
    assert all(len(LIMITS & body.keys()) == 1 for body in endpoint.bodies)


TIDE = {
    "type": "function",
    "function": {
        "name": "tide",
        "description": "When it is high",
        "parameters": {"type": "object", "properties": {"port": {"type": "string"}}},
    },
}
CALLS = {
    "dataset": {"source": "configmap://rows/holdout.jsonl"},
    "graders": [{"name": "calls", "type": "ToolCall"}],
}


def calling(*calls: tuple[str, str], content: str | None = None) -> dict[str, Any]:
    """An answer with calls (name and arguments as JSON text), as the API writes it."""
    made = [
        {"id": f"call_{place}", "type": "function", "function": {"name": name, "arguments": arguments}}
        for place, (name, arguments) in enumerate(calls)
    ]
    return {"role": "assistant", "content": content, **({"tool_calls": made} if made else {})}


@pytest.fixture
def ports(tmp_path: Path) -> Path:
    """Rows that offer a function; the last one is to be answered without a call."""
    path = tmp_path / "ports.jsonl"
    rows = [
        {
            "messages": [
                {"role": "user", "content": f"When is high tide in port {n}?"},
                calling(("tide", json.dumps({"port": str(n)}))) if n < 59 else calling(content="Ask me."),
            ],
            "tools": [TIDE],
        }
        for n in range(60)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def completed(message: dict[str, Any]) -> Reply:
    return Reply(body=json.dumps({"choices": [{"message": message, "finish_reason": "tool_calls"}]}))


@pytest.mark.parametrize(
    ("answer", "score"),
    [
        pytest.param(lambda n: calling(("tide", f'{{"port": "{n}"}}'), content="Let me look."), 59 / 60, id="right calls"),
        pytest.param(lambda _: calling(("tide", '{"port": "x"}')), 0.0, id="other arguments"),
        pytest.param(lambda _: calling(("tide", '{"port": ')), 0.0, id="arguments that are no JSON"),
        pytest.param(lambda _: calling(("tide", '{"port": "</think>')), 0.0, id="arguments that seem to end a reasoning"),
        pytest.param(lambda _: calling(("tide", '["x"]')), 0.0, id="arguments that are no object"),
        pytest.param(lambda _: calling(("tide", '{"port": ' + "[" * 5000)), 0.0, id="arguments of too many levels"),
        pytest.param(lambda _: calling(("the tide", "{}")), 0.0, id="a name that no function has"),
        pytest.param(lambda n: calling(("tide", f'{{"port": "{n}"}}'), ("tide", "{")), 0.0, id="a right call and a broken one"),
        pytest.param(lambda _: calling(content="I do not know."), 1 / 60, id="no calls"),
    ],
)  # fmt: skip
async def test_calls_of_a_hosted_model_are_graded(
    write_job: Write,
    ports: Path,
    endpoint: JudgeStandIn,
    capsys: Capture,
    answer: Callable[[str], dict[str, Any]],
    score: float,
) -> None:
    endpoint.script = lambda body: completed(answer(body["messages"][-1]["content"].split()[-1].strip("?")))
    named = ("--holdout", ports, "--endpoint", endpoint.url, "--model", "good", "--output", "json")
    assert await evaluated("--job", write_job(evaluation=CALLS), *named) == 0
    summary = json.loads(capsys.readouterr().out)
    assert (summary["metric"], summary["score"], summary["graded"]) == (
        "calls",
        pytest.approx(score, abs=1e-4),
        1.0,
    )
    assert {(body["tool_choice"], body["tools"][0]["function"]["name"]) for body in endpoint.bodies} == {
        ("auto", "tide")
    }


async def test_without_a_grader_of_calls_a_hosted_model_is_asked_for_text(
    write_job: Write, ports: Path, endpoint: JudgeStandIn
) -> None:
    endpoint.script = lambda _: completed(calling(content="Ask me."))
    evaluation = {
        "dataset": CALLS["dataset"],
        "graders": [{"name": "calls", "type": "Contains", "values": ["Ask"]}],
    }
    named = ("--holdout", ports, "--endpoint", endpoint.url, "--model", "good")
    assert await evaluated("--job", write_job(evaluation=evaluation), *named) == 0
    assert {body["tool_choice"] for body in endpoint.bodies} == {"none"}


ELSEWHERE = [
    {"name": "certain", "type": "Perplexity"},
    {"name": "runs", "type": "CodeAssert", "tests": "assert True"},
    {"name": "polite", "type": "Container", "image": "r/polite@sha256:" + "a" * 64},
]


@pytest.mark.parametrize("grader", ELSEWHERE, ids=[str(grader["type"]) for grader in ELSEWHERE])
async def test_a_grader_that_needs_the_cluster_is_left_out_and_told(
    write_job: Write, holdout: Path, endpoint: JudgeStandIn, capsys: Capture, grader: dict[str, str]
) -> None:
    evaluation = {
        "dataset": {"source": "configmap://rows/holdout.jsonl"},
        "graders": [{"name": "exact", "type": "ExactMatch"}, grader],
        "primary": "exact",
    }
    named = ("--holdout", holdout, "--endpoint", endpoint.url, "--model", "good", "--output", "json")
    assert await evaluated("--job", write_job(evaluation=evaluation), *named) == 0
    summary = json.loads(capsys.readouterr().out)
    assert (summary["graders"], summary["graded"]) == ({"exact": 1.0}, 1.0)
    [warning] = summary["warnings"]
    assert warning.startswith(
        f"Grader {grader['name']} is left out: {grader['type']} is graded in the cluster only, for "
    )


PAIRS = {"name": "pairs", "type": "JudgePairwise", "criteria": ["It is better"]}
EXACT = {"name": "exact", "type": "ExactMatch"}


async def test_beside_a_primary_that_compares_the_next_grader_that_needs_no_cluster_scores_one_model(
    write_job: Write, holdout: Path, endpoint: JudgeStandIn, capsys: Capture
) -> None:
    evaluation = {
        "dataset": {"source": "configmap://rows/holdout.jsonl"},
        "graders": [PAIRS, ELSEWHERE[2], EXACT],
        "primary": "pairs",
        "judge": {"url": endpoint.url, "model": "judge"},
    }
    named = ("--holdout", holdout, "--endpoint", endpoint.url, "--model", "good", "--output", "json")
    assert await evaluated("--job", write_job(evaluation=evaluation), *named) == 0
    summary = json.loads(capsys.readouterr().out)
    assert (summary["metric"], summary["score"], summary["graded"]) == ("exact", 1.0, 1.0)
    assert summary["warnings"][0].startswith("Grader polite is left out: Container is graded in the cluster")


REFUSED = [
    pytest.param(
        [ELSEWHERE[1], EXACT], "runs", "Run the job there, or name exact in evaluation.primary.",
        id="the primary, and another could decide",
    ),
    pytest.param(
        [ELSEWHERE[1], PAIRS], "runs",
        "Run the job there, or add a grader that scores one model here and name it in evaluation.primary.",
        id="the primary, and no other could decide",
    ),
    pytest.param(
        [ELSEWHERE[1], PAIRS], "pairs", "Run the job there, or add a grader that scores one model here.",
        id="all that score one model alone",
    ),
]  # fmt: skip


@pytest.mark.parametrize(("graders", "primary", "advice"), REFUSED)
async def test_a_grader_that_decides_and_needs_the_cluster_ends_with_64(
    write_job: Write,
    holdout: Path,
    capsys: Capture,
    graders: list[dict[str, Any]],
    primary: str,
    advice: str,
) -> None:
    judge = {"judge": {"url": "http://127.0.0.1:9/v1", "model": "judge"}} if PAIRS in graders else {}
    evaluation = {
        "dataset": {"source": "configmap://rows/holdout.jsonl"},
        "graders": graders,
        "primary": primary,
        **judge,
    }
    named = ("--holdout", holdout, "--endpoint", "http://127.0.0.1:9/v1", "--model", "good")
    assert await evaluated("--job", write_job(evaluation=evaluation), *named) == 64
    said = capsys.readouterr().err
    assert "Grader runs decides, and CodeAssert is graded in the cluster only: programs that a model" in said
    assert advice in said


WRONG = [
    (["--model", "good"], "--model needs --endpoint URL"),
    (["--endpoint", "http://x/v1"], "--endpoint needs --model NAME"),
    (["--endpoint", "judge.example", "--model", "m"], "is no address; write it as https://HOST/v1"),
    (["--endpoint", "http://x/v1", "--model", "m"], "is in the cluster, where this machine does not look"),
]


@pytest.mark.parametrize(("flags", "said"), WRONG, ids=[said for _, said in WRONG])
async def test_wrong_use_ends_with_64_and_what_to_do(
    write_job: Write, capsys: Capture, flags: list[str], said: str
) -> None:
    assert await evaluated("--job", write_job(), *flags) == 64
    assert said in capsys.readouterr().err


async def test_an_unset_key_an_endpoint_that_refuses_it_and_a_job_without_evaluation_end_with_64(
    write_job: Write, holdout: Path, endpoint: JudgeStandIn, capsys: Capture
) -> None:
    named = ("--holdout", holdout, "--endpoint", endpoint.url, "--model", "good")
    assert await evaluated("--job", write_job(), *named, "--api-key-env", "NOT_SET") == 64
    endpoint.script = lambda _: Reply(status=401)
    assert await evaluated("--job", write_job(), *named) == 64
    job = write_job(evaluation={"accept": ["EvalMissing"]})
    assert await evaluated("--job", job, *named) == 64
    said = capsys.readouterr().err
    assert "The environment variable NOT_SET is not set" in said
    assert "answered no question as good: it refuses access (HTTP 401); give it a valid API key." in said
    assert "The job has no evaluation" in said
