"""What prepare says of memory, time, money and sense, in its summary and in the report."""

import json
from collections.abc import Callable
from typing import Any

import pytest

from finetune_trainer.base.config import parse_base_config
from finetune_trainer.base.shape import BaseModel, usual_headers
from finetune_trainer.contracts import Job
from finetune_trainer.planning.defaults import make_plan
from finetune_trainer.planning.lengths import measure
from finetune_trainer.stages.outlook import look_ahead, summarise
from finetune_trainer.workspace import Workspace
from tests.unit.trainer_base.shapes import LLAMA_70B

Make = Callable[..., dict[str, Any]]
Run = Callable[..., tuple[int, dict[str, Any]]]
CARD = {
    "name": "h200",
    "memoryGiB": 139,
    "peakTflops": 989,
    "pricePerHour": "4.00",
    "currency": "USD",
    "spot": False,
}
ON_A_GPU = {"nodes": 1, "gpusPerNode": 1, "processesPerNode": None}


def prepared(run: Run, document: dict[str, Any], **beside: Any) -> tuple[int, dict[str, Any]]:
    """The exit code and the summary (or the whole result of a failure)."""
    code, result = run({**document, **beside})
    return code, result.get("summary") or result


def test_a_known_card_gives_memory_time_and_cost(job_document: Make, run_cli: Run, volumes: Any) -> None:
    code, summary = prepared(run_cli, job_document(resources=ON_A_GPU), accelerator=CARD)
    assert code == 0
    memory, estimate = summary["memory"], summary["estimate"]
    assert (memory["fits"], memory["gpuMemoryGiB"], memory["limitGiB"]) == (True, 139, 125.1)
    assert memory["peakGiB"] == pytest.approx(sum(memory["breakdown"].values()), abs=0.1)
    assert memory["chosen"]["offload"] == "None"
    assert estimate["hoursLow"] < estimate["hours"] < estimate["hoursHigh"]
    assert estimate["cost"] == pytest.approx(4 * estimate["hours"], abs=0.02)
    assert (estimate["currency"], estimate["calibrated"]) == ("USD", False)
    report = json.loads(Workspace(volumes.workspace).report_json.read_text())
    assert report["memory"]["gpu"] == "h200"
    assert report["estimate"]["tokens"] == estimate["tokens"] == 3 * summary["tokens"]


@pytest.mark.parametrize(
    ("card", "keys"),
    [
        (None, set()),
        ({"name": "h200"}, set()),
        ({"name": "h200", "memoryGiB": 139}, {"memory"}),
        ({**CARD, "pricePerHour": None, "currency": None}, {"memory", "estimate"}),
    ],
    ids=["no GPU", "a card without a size", "a card without a peak", "a card without a price"],
)
def test_what_is_not_known_is_not_said(
    job_document: Make, run_cli: Run, card: dict[str, Any] | None, keys: set[str]
) -> None:
    _, summary = prepared(run_cli, job_document(resources=ON_A_GPU), accelerator=card)
    assert {"memory", "estimate", "savings"} & set(summary) == keys
    assert summary["checkpointBytes"] > 0
    assert summary.get("estimate", {}).get("cost") is None


def test_finished_runs_replace_the_prior(job_document: Make, run_cli: Run) -> None:
    known = {"accelerator": CARD, "calibration": {"mfu": 0.2, "runs": 4}}
    _, summary = prepared(run_cli, job_document(resources=ON_A_GPU), **known)
    assert (summary["estimate"]["mfu"], summary["estimate"]["calibrated"]) == (0.2, True)


def test_what_cannot_fit_is_refused_before_a_gpu_is_asked_for(
    job_document: Make, run_cli: Run, volumes: Any
) -> None:
    cards = {
        "accelerator": {**CARD, "name": "tiny", "memoryGiB": 0.5},
        "otherGpus": [{"name": "l4", "memoryGiB": 22}],
    }
    code, result = prepared(run_cli, job_document(method="Full", resources=ON_A_GPU), **cards)
    assert code == 64
    assert "tiny" in result["message"]
    assert "set resources.gpuType: l4 (" in result["message"]
    report = json.loads(Workspace(volumes.workspace).report_json.read_text())
    assert report["memory"]["fits"] is False


@pytest.mark.parametrize(
    ("card", "resources", "scoring"),
    [
        (CARD, ON_A_GPU, {"gpus": 1}),
        ({"name": "h200"}, ON_A_GPU, {"gpus": 1}),
        (None, {"nodes": 1, "gpusPerNode": 0, "processesPerNode": 1}, None),
    ],
    ids=["a card that holds the base", "a card of unknown size", "no GPU"],
)
def test_the_gpus_that_score_are_in_the_summary(
    job_document: Make, run_cli: Run, card: dict[str, Any] | None, resources: dict[str, Any], scoring: Any
) -> None:
    _, summary = prepared(run_cli, job_document(resources=resources), accelerator=card)
    assert summary.get("scoring") == scoring


def test_scoring_on_a_server_takes_and_costs_none_of_the_runs_gpus(job_document: Make, run_cli: Run) -> None:
    server = {
        "endpoint": "http://s:8000/v1", "model": "small", "template": "sha256:" + "a" * 64,
        "candidate": "candidate.run", "source": "pvc://adapters/_candidates/run",
    }  # fmt: skip
    shared = {"accelerator": CARD, "engine": {"server": server}}
    code, summary = prepared(run_cli, job_document(resources=ON_A_GPU), **shared)
    assert (code, "scoring" in summary, "estimate" in summary) == (0, False, True)


def test_a_base_that_no_engine_can_hold_is_refused_before_a_gpu_is_asked_for(
    job_document: Make, run_cli: Run, volumes: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("finetune_trainer.planning.scoring.CONTEXT", 200e9)
    code, result = prepared(run_cli, job_document(resources=ON_A_GPU), accelerator=CARD)
    assert code == 64
    assert result["message"].startswith("The engine that scores the base and the tuned model needs 18")
    assert "EvalMissing" in result["message"]
    report = json.loads(Workspace(volumes.workspace).report_json.read_text())
    assert (report["memory"]["fits"], report["scoring"]) == (True, None)


def test_savings_pay_the_run_back(job_document: Make, run_cli: Run) -> None:
    savings = {"callsPerMonth": 1_000_000, "removedPromptTokens": 3000, "pricePerMillionTokens": "1.0"}
    _, summary = prepared(run_cli, job_document(resources=ON_A_GPU, savings=savings), accelerator=CARD)
    assert summary["savings"]["perMonth"] == 3000  # R50: 3 billion tokens at 1.00 per million
    assert summary["savings"]["breakEvenDays"] == pytest.approx(summary["estimate"]["cost"] / 100, abs=0.06)


@pytest.mark.parametrize(
    ("spec", "reasons"),
    [
        ({"goal": "Knowledge"}, ["KnowledgeGap"]),
        ({"goal": "Format"}, []),
        ({"knowledgeChanges": "Monthly"}, ["ChangingKnowledge"]),
        ({"knowledgeChanges": "Quarterly"}, []),
    ],
    ids=["the goal is knowledge", "the goal is a format", "facts change monthly", "facts change slowly"],
)
def test_advice_is_given_and_changes_nothing(
    job_document: Make, run_cli: Run, spec: dict[str, Any], reasons: list[str]
) -> None:
    code, summary = prepared(run_cli, job_document(**spec))
    assert code == 0
    assert [item["reason"] for item in summary.get("advice", [])] == reasons


def test_a_base_of_any_family_is_prepared_for_a_cpu(job_document: Make, run_cli: Run, volumes: Any) -> None:
    """Case 88: a plan that no CPU job needs refused its base, which `check` had found sound."""
    config = volumes.claims / "models" / "model" / "config.json"
    document = job_document()
    described = json.loads(config.read_text())
    config.write_text(json.dumps({**described, "model_type": "olmo"}))
    code, summary = prepared(run_cli, document)
    assert code == 0
    assert "memory" not in summary
    assert summary["method"] == "LoRA"


FALLBACKS = [
    ("LoRA fits eight cards, which share the base", 8, "QLoRA", "LoRA"),
    ("LoRA does not fit one card", 1, "QLoRA", "QLoRA"),
    ("nothing else is allowed", 1, None, "LoRA"),
]


@pytest.mark.parametrize(
    ("gpus", "fallback", "method"), [row[1:] for row in FALLBACKS], ids=[row[0] for row in FALLBACKS]
)
def test_the_fallback_method_is_in_force_only_where_lora_cannot_fit(
    job_document: Make, gpus: int, fallback: str | None, method: str
) -> None:
    """R21: and then it is said, with what it costs."""
    card = {**CARD, "memoryGiB": 79.1}
    resources = {"nodes": 1, "gpusPerNode": gpus}
    document = job_document(resources=resources, fallbackMethod=fallback)
    job = Job.model_validate({**document, "accelerator": card, "calibration": {"mfu": 0.2, "runs": 4}})
    base = BaseModel(parse_base_config(LLAMA_70B), usual_headers(parse_base_config(LLAMA_70B)))
    rows = measure([1000] * 400)
    outlook = look_ahead(job, base, make_plan(job.spec, rows, 8192, base.adapted(None)), rows, 0)
    summary = summarise(job, outlook)
    assert summary["method"] == method
    assert summary["memory"]["fits"] is (gpus == 8 or method == "QLoRA")
    reasons = [item["reason"] for item in summary["advice"]]
    assert ("QuantisedBase" in reasons) == (method == "QLoRA")
    fits = summary["memory"]["fits"]
    assert not fits or summary["estimate"]["calibrated"] is (method == "LoRA")
