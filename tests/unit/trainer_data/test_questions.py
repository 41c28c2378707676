"""What is asked beside the hold-out: examples for rivals, and suites outside of the task."""

import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from finetune_trainer.contracts import RivalSpec, SuiteSpec
from finetune_trainer.data.formats import Row
from finetune_trainer.data.holdout import HoldoutRow, split_reference
from finetune_trainer.data.questions.rivals import rival_rows
from finetune_trainer.data.questions.suites import suite_findings, unseen_drop
from finetune_trainer.errors import UserError
from finetune_trainer.files import read_json_lines
from finetune_trainer.grading import grade
from finetune_trainer.workspace import Workspace

Make = Callable[..., dict[str, Any]]
Run = Callable[..., tuple[int, dict[str, Any]]]


def row(number: int, question: str, answer: str, system: str | None = None, **more: Any) -> Row:
    said = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
    first = [{"role": "system", "content": system}] if system else []
    return Row(number, f"r{number}", tuple(first + said), **more)


TRAIN = [row(n, f"question {n}", f"answer {n}", system="Be brief.") for n in range(1, 41)]
HELD_OUT = [split_reference(row(n, f"held out {n}", "x", system="Be kind.")) for n in range(1, 4)]


def shown(rows: list[HoldoutRow]) -> list[str]:
    return [message["content"] for message in rows[0].messages]


def test_a_rival_shows_rows_of_the_training_data_before_the_question_and_keeps_the_systems_message() -> None:
    asked = rival_rows(RivalSpec(name="shots", few_shot=2), TRAIN, HELD_OUT)
    roles = [message["role"] for message in asked[0].messages]
    assert roles == ["system", "user", "assistant", "user", "assistant", "user"]
    said = shown(asked)
    assert (said[0], said[-1]) == ("Be kind.", "held out 1")
    assert said[1].replace("question", "answer") == said[2]
    assert [other.messages[:-1] for other in asked] == [asked[0].messages[:-1]] * 3
    assert [(other.id, other.reference) for other in asked] == [(o.id, o.reference) for o in HELD_OUT]


def test_the_examples_do_not_depend_on_the_order_of_the_training_data() -> None:
    rival = RivalSpec(name="shots", few_shot=4)
    assert rival_rows(rival, TRAIN, HELD_OUT) == rival_rows(rival, reversed(TRAIN), HELD_OUT)


def test_rows_that_ask_the_same_do_not_displace_others_as_examples() -> None:
    often = [row(100 + n, question.messages[1]["content"], "again") for question in TRAIN for n in range(50)]
    asked = rival_rows(RivalSpec(name="shots", few_shot=32), [*TRAIN, *often], HELD_OUT)
    questions = {message["content"] for message in asked[0].messages[:-1] if message["role"] == "user"}
    assert len(questions) == 32


def test_a_rivals_system_message_takes_the_place_of_the_rows_own() -> None:
    asked = rival_rows(RivalSpec(name="written", system="Answer in JSON."), [], HELD_OUT)
    assert shown(asked) == ["Answer in JSON.", "held out 1"]


@pytest.mark.parametrize(
    "unusable",
    [
        pytest.param(row(1, "held out 2", "x", system="Other."), id="it is in the hold-out"),
        pytest.param(row(1, "question", ""), id="it has no answer"),
        pytest.param(row(1, "question", "a", tools=({"type": "function"},)), id="it has tools"),
        pytest.param(Row(1, "r1", (), "Only a text."), id="it is a text"),
        pytest.param(row(2, "question 1", "another answer"), id="it asks the same as another one"),
    ],
)
def test_a_row_that_cannot_be_shown_is_not_counted_as_an_example(unusable: Row) -> None:
    with pytest.raises(UserError, match="shots shows 2 rows of the training data as examples, which has 1"):
        rival_rows(RivalSpec(name="shots", few_shot=2), [TRAIN[0], unusable], HELD_OUT)


def suite(margin: str = "0.05", kind: str = "ExactMatch") -> SuiteSpec:
    return SuiteSpec.model_validate(
        {
            "name": "general",
            "dataset": {"source": "configmap://general/rows.jsonl"},
            "grader": {
                "name": "answer",
                "type": kind,
                "margin": margin,
                **({"fields": ["a"]} if kind == "FieldMatch" else {}),
            },
        }
    )


def asked(count: int, reference: str = "yes", **same: Any) -> list[HoldoutRow]:
    return [
        HoldoutRow(n, f"q{n}", ({"role": "user", "content": f"{n}?"},), reference, **same)
        for n in range(count)
    ]


@pytest.mark.parametrize(
    ("rows", "given", "rules"),
    [
        pytest.param(asked(59), suite(), [], id="59 rows are enough for a margin of five points"),
        pytest.param(asked(58), suite(), ["eval_size"], id="58 rows are not"),
        pytest.param(asked(29), suite("0.1"), [], id="29 rows are enough for ten points"),
        pytest.param(asked(100, group="one"), suite(), ["eval_size"], id="rows of one group count as one"),
        pytest.param(asked(60, ""), suite(), ["eval_no_reference"], id="rows without an answer"),
        pytest.param(
            asked(60, "no JSON"),
            suite(kind="FieldMatch"),
            ["eval_no_reference"],
            id="no answer for the grader",
        ),
        pytest.param(
            [*asked(60), replace(asked(1)[0], number=61)], suite(), ["duplicate_ids"], id="an id twice"
        ),
    ],
)
def test_a_suite_is_checked_as_a_hold_out_is(
    rows: list[HoldoutRow], given: SuiteSpec, rules: list[str]
) -> None:
    found = suite_findings(given, rows)
    assert [item.rule for item in found] == rules
    assert all(item.dataset == "suite general" for item in found)


def test_what_equal_answers_can_miss_is_the_exact_binomial_bound() -> None:
    assert unseen_drop(1) == pytest.approx(0.95)
    assert 0.95**59 < 0.05 < 0.95**58
    assert unseen_drop(59) < 0.05 < unseen_drop(58)


def regression(volumes: Any, rows: list[dict[str, Any]]) -> dict[str, Any]:
    source = {"source": volumes.configmap("general", "suite.jsonl", rows)}
    graded = {"grader": {"name": "answer", "type": "ExactMatch"}}
    return {"suites": [{"name": "general", "dataset": source, **graded}]}


def general_rows(count: int) -> list[dict[str, Any]]:
    return [
        {"id": f"g{n}", "prompt": f"What is {n} plus one?", "completion": str(n + 1)} for n in range(count)
    ]


def test_prepare_writes_rivals_and_suites_beside_the_hold_out(
    job_document: Make, run_cli: Run, volumes: Any
) -> None:
    document = job_document()
    document["spec"]["evaluation"] |= {
        "regression": regression(volumes, general_rows(60)),
        "rivals": [{"name": "shots", "fewShot": 2}, {"name": "written", "system": "Copy the number."}],
    }
    code, result = run_cli(document)
    assert code == 0, result["message"]
    workspace = Workspace(volumes.workspace)
    suite_rows = read_json_lines(workspace.suites_dir / "general.jsonl")
    assert [entry["reference"] for entry in suite_rows] == [str(n + 1) for n in range(60)]
    shots = read_json_lines(workspace.rivals_dir / "shots.jsonl")
    assert [len(entry["messages"]) for entry in shots] == [5] * 100
    assert {"rivals/shots.jsonl", "rivals/written.jsonl", "suites/general.jsonl"} <= set(
        json.loads(workspace.prepared.read_text())["files"]
    )
    assert result["summary"]["suites"]["general"]["rows"] == 60


@pytest.mark.parametrize(
    ("change", "message"),
    [
        pytest.param(
            {"rivals": [{"name": "shots", "fewShot": 13}]},
            "shots shows 13 rows of the training data as examples, which has 12",
            id="more examples than training rows",
        ),
        pytest.param(
            {"rivals": [{"name": "long", "system": "word " * 300}]},
            r"\[rival long\] Prompts leave no room",
            id="a prompt that leaves no room for the answer",
        ),
        pytest.param(
            {"rivals": [{"name": "same", "system": "a"}, {"name": "same", "system": "b"}]},
            "two of `rivals` have the same name",
            id="two rivals of one name",
        ),
    ],
)
def test_a_rival_that_cannot_be_asked_is_named_before_a_gpu_is(
    job_document: Make, run_cli: Run, change: dict[str, Any], message: str
) -> None:
    document = job_document()
    document["spec"]["evaluation"] |= change
    code, result = run_cli(document)
    assert code == 64
    assert re.search(message, result["message"])


def test_a_suite_that_cannot_be_graded_is_refused_by_its_name(
    job_document: Make, run_cli: Run, volumes: Any
) -> None:
    document = job_document()
    rows = [{**entry, "completion": ""} for entry in general_rows(60)]
    document["spec"]["evaluation"] |= {"regression": regression(volumes, rows)}
    code, result = run_cli(document)
    assert code == 64
    assert "[suite general]" in result["message"]


def test_the_suite_of_the_example_is_sound_and_has_one_word_answers() -> None:
    path = Path(__file__).parents[3] / "examples" / "general-suite" / "questions.jsonl"
    rows = [
        split_reference(row(number, entry["prompt"], entry["completion"]))
        for number, entry in enumerate(read_json_lines(path), 1)
    ]
    given = suite(kind="Contains")
    assert suite_findings(given, rows) == []
    assert all(len(entry.reference.split()) == 1 for entry in rows)
    echoed = [
        entry for entry in rows if grade(given.grader, entry.messages[-1]["content"], entry.reference).passed
    ]
    assert echoed == [], "a model that repeats the question must not score"
