"""Which stored answers of the base are those to be scored: everything that decides them, and nothing else."""

from typing import Any

import pytest

from finetune_trainer.contracts import EngineSpec, EvaluationSpec
from finetune_trainer.scoring.baseline_store import baseline_key

SUMMARY = {"baseFingerprint": "sha256:1", "holdoutDigest": "sha256:2", "chatTemplateKwargs": {}}
ENGINE = {"image": "serving:1", "args": ["--dtype", "half"], "env": {"A": "1"}}
FIELDS = {"name": "fields", "type": "FieldMatch", "fields": ["a"]}
JUDGED = {"name": "judged", "type": "JudgeCriteria", "criteria": ["It is short."], "margin": "0.1"}
EVALUATION = {
    "dataset": {"source": "configmap://d/h.jsonl"},
    "graders": [FIELDS, JUDGED],
    "primary": "fields",
    "judge": {"url": "http://judge/v1", "model": "judge"},
}


def key(
    summary: dict[str, Any] | None = None,
    evaluation: dict[str, Any] | None = None,
    engine: dict[str, Any] | None = None,
) -> str:
    asked = EvaluationSpec.model_validate({**EVALUATION, **(evaluation or {})})
    return baseline_key(
        {**SUMMARY, **(summary or {})}, asked, EngineSpec.model_validate({**ENGINE, **(engine or {})})
    )


@pytest.mark.parametrize(
    "change",
    [
        pytest.param({"engine": {"image": "serving:2"}}, id="the engine's image"),
        pytest.param({"engine": {"args": []}}, id="the engine's arguments"),
        pytest.param({"engine": {"env": {}}}, id="the engine's variables"),
        pytest.param({"summary": {"baseFingerprint": "sha256:3"}}, id="the base"),
        pytest.param({"summary": {"holdoutDigest": "sha256:3"}}, id="the questions"),
        pytest.param({"summary": {"chatTemplateKwargs": {"date": "1"}}}, id="how prompts are rendered"),
        pytest.param({"evaluation": {"maxTokens": 512}}, id="the limit of tokens"),
        pytest.param(
            {"evaluation": {"graders": [{**FIELDS, "fields": ["b"]}, JUDGED]}}, id="what a grader reads"
        ),
    ],
)
def test_what_decides_an_answer_or_its_stored_grades_is_in_the_key(change: dict[str, Any]) -> None:
    assert key(**change) != key()


@pytest.mark.parametrize(
    "change",
    [
        pytest.param({"graders": [FIELDS, {**JUDGED, "criteria": ["It is long."]}]}, id="criteria"),
        pytest.param({"graders": [FIELDS, {**JUDGED, "margin": "0.2"}]}, id="the margin"),
        pytest.param({"judge": {"url": "http://other/v1", "model": "other"}}, id="the judge"),
        pytest.param({"gate": {"minDelta": "0.1"}}, id="the gate"),
    ],
)
def test_what_is_decided_after_the_answers_are_stored_is_not_in_the_key(change: dict[str, Any]) -> None:
    assert key(evaluation=change) == key()
