"""examples/code-review: its data are what its builder writes, pass the check, and can be judged."""

import asyncio
import importlib.util
import json
from collections import Counter
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml

from finetune_operator.api.finetunejob import FineTuneJob
from finetune_trainer.__main__ import main
from tests.judge_stand_in import Reply, criteria_of, decided, judge_stand_in, texts_of

FOLDER = Path(__file__).parents[2] / "examples" / "code-review"
TRAIN, HOLDOUT = FOLDER / "data" / "train.jsonl", FOLDER / "data" / "holdout.jsonl"


def rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.fixture
def builder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The builder, which writes its files elsewhere."""
    found = importlib.util.spec_from_file_location("build", FOLDER / "build.py")
    assert found is not None
    assert found.loader is not None
    module = importlib.util.module_from_spec(found)
    monkeypatch.setitem(__import__("sys").modules, "build", module)
    found.loader.exec_module(module)
    for name in ("scenarios", "data"):
        (tmp_path / name).mkdir()
    for path in (FOLDER / "scenarios").iterdir():
        (tmp_path / "scenarios" / path.name).write_text(path.read_text())
    monkeypatch.setattr(module, "HERE", tmp_path)
    return module


def test_the_data_are_what_the_builder_writes(builder: ModuleType, tmp_path: Path) -> None:
    builder.main()
    for path in (TRAIN, HOLDOUT):
        assert (tmp_path / "data" / path.name).read_text() == path.read_text()


def test_every_kind_of_defect_is_trained_and_held_out_in_other_scenarios() -> None:
    kinds = {
        path: Counter(row["group"].rpartition("-")[0] for row in rows(path)) for path in (TRAIN, HOLDOUT)
    }
    assert len(kinds[TRAIN]) == 12
    assert kinds[TRAIN].keys() == kinds[HOLDOUT].keys()
    assert set(kinds[HOLDOUT].values()) == {9}
    assert {row["group"] for row in rows(TRAIN)} & {row["group"] for row in rows(HOLDOUT)} == set()


def test_the_check_of_the_data_finds_no_error(capsys: pytest.CaptureFixture[str]) -> None:
    code = main(["check", str(TRAIN), "--holdout", str(HOLDOUT), "--output", "json"])
    found = json.loads(capsys.readouterr().out)
    assert code == 0
    leaks = [finding for finding in found["findings"] if "leak" in finding["rule"]]
    assert leaks == []


def test_the_manifests_are_what_the_operator_reads() -> None:
    job = FineTuneJob.model_validate(
        yaml.safe_load((FOLDER / "finetunejob.yaml").read_text())
        | {"metadata": {"name": "x", "namespace": "d", "uid": "u"}}
    )
    assert job.spec.evaluation is not None
    assert job.spec.evaluation.judge is not None
    assert [grader.type for grader in job.spec.evaluation.graders] == [
        "JudgeCriteria",
        "FieldMatch",
        "JsonSchema",
    ]


def judges_reviews(body: dict[str, Any]) -> Reply:
    """A judge that compares defects and asks for two sentences, and a reviewer who finds half of them."""
    if body["model"] == "reviewer":
        known = {row["messages"][1]["content"]: row["messages"][2]["content"] for row in rows(HOLDOUT)[::2]}
        return Reply(known.get(body["messages"][1]["content"], '{"kind": "none"}'))
    texts = texts_of(body)
    answer, reference = json.loads(texts["answer"]), json.loads(texts["reference"])
    same = answer["kind"] == reference["kind"]
    full = answer.get("comment", "").count(".") >= 2
    return decided(dict(zip(criteria_of(body), (same, full, full, True), strict=True)))


async def test_a_hosted_model_is_judged_by_the_example(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    async with judge_stand_in(judges_reviews) as server:
        job = tmp_path / "job.yaml"
        text = (FOLDER / "finetunejob.yaml").read_text()
        job.write_text(text.replace("https://judge.example.com/v1", server.url))
        flags = [
            "--job",
            job,
            "--holdout",
            HOLDOUT,
            "--endpoint",
            server.url,
            "--model",
            "reviewer",
            "--output",
            "json",
        ]
        code = await asyncio.to_thread(main, ["evaluate", *map(str, flags)])
    summary = json.loads(capsys.readouterr().out)
    assert code == 0
    assert (summary["metric"], summary["score"]) == ("review", 0.625)
    assert summary["graders"] == {"review": 0.625, "fields": 0.5, "format": 0.5}
    assert summary["warnings"] == []
    assert summary["judge"]["cost"] > 0
