"""Which evaluation an adapter is served by: told as it was, and never as a pass when there was none."""

from __future__ import annotations

from typing import Any

import pytest

from finetune_operator.api.adapterdeployment import AdapterDeployment
from finetune_operator.api.finetunejob import FineTuneJob
from finetune_operator.rollout.observed import Observed
from finetune_operator.rollout.plan import plan
from tests.unit.rollout.test_plan import DIGEST, DIRECT, NOW, OTHER, SETTINGS, deployment, job, server

SCORES = {
    "base": {"score": "0.6000"},
    "delta": {"score": "0.3000", "low": "0.2200", "high": "0.3800"},
    "verdict": "Promote",
}
HOLDOUT, BASE = "sha256:" + "c" * 64, "sha256:" + "d" * 64


def run(verdict: str, *, promoted: bool, said: str = "It is better.") -> FineTuneJob:
    """A run that ended with this verdict."""
    found = job()
    assert found.status.artifact is not None
    condition = {"type": "Promoted", "status": str(promoted), "reason": "X", "message": said}
    status: dict[str, Any] = {
        **found.status.to_dict(),
        "artifact": {**found.status.artifact.to_dict(), "verdict": verdict, "promoted": promoted},
        "resolved": {"holdoutDigest": HOLDOUT, "baseFingerprint": BASE},
        "scores": {} if verdict == "EvalMissing" else {**SCORES, "verdict": verdict},
        "conditions": [condition],
    }
    return FineTuneJob.model_validate({**found.model_dump(by_alias=True), "status": status})


def shown(asked: AdapterDeployment, found: FineTuneJob | None) -> dict[str, Any]:
    """`status.resolved` after a look."""
    decided = plan(Observed(asked, found, server()), SETTINGS, NOW)
    assert decided.status is not None
    resolved: dict[str, Any] = decided.status["resolved"]
    return resolved


ANYWAY: dict[str, Any] = {"allowUnpromoted": True}
OUTCOMES = [
    pytest.param(run("Promote", promoted=True), {}, "Passed", "promoted it", id="the gate promoted it"),
    pytest.param(
        run("NoClearImprovement", promoted=True), {}, "Accepted", "which the run accepts",
        id="its verdict was accepted",
    ),
    pytest.param(
        run("EvalMissing", promoted=True), {}, "NotEvaluated", "nobody knows", id="going without was accepted"
    ),
    pytest.param(
        run("EvalMissing", promoted=True), ANYWAY, "NotEvaluated", "nobody knows",
        id="going without was accepted twice",
    ),
    pytest.param(
        run("WorseThanBase", promoted=False), ANYWAY, "NotPromoted", "allowUnpromoted",
        id="it is served although its gate said no",
    ),
    pytest.param(
        run("Promote", promoted=True), ANYWAY, "Passed", "promoted it", id="permission that is not needed"
    ),
    pytest.param(
        run("Promote", promoted=True), DIRECT, "Passed", "FineTuneJob run", id="it is named by its digest"
    ),
    pytest.param(None, DIRECT, "Unknown", "not known here", id="its run is not in this namespace"),
    pytest.param(None, DIRECT, "Unknown", "may have been deleted", id="its run is gone"),
    pytest.param(
        run("Promote", promoted=True), {"adapter": {**DIRECT["adapter"], "digest": OTHER}}, "Unknown",
        "not known here", id="the run published another digest by now",
    ),
]  # fmt: skip


@pytest.mark.parametrize(("found", "spec", "outcome", "words"), OUTCOMES)
def test_what_let_an_adapter_be_served_is_told(
    found: FineTuneJob | None, spec: dict[str, Any], outcome: str, words: str
) -> None:
    record = shown(deployment(**spec), found)["evaluation"]
    assert record["outcome"] == outcome
    assert words in record["message"]
    evaluated = outcome in ("Passed", "Accepted", "NotPromoted")
    assert record.get("delta") == (SCORES["delta"] if evaluated else None)
    assert record.get("holdoutDigest") == (HOLDOUT if evaluated else None)
    assert record.get("fineTuneJob") == ("run" if outcome != "Unknown" else None)


def test_the_condition_resolved_says_it_too() -> None:
    decided = plan(Observed(deployment(), run("EvalMissing", promoted=True), server()), SETTINGS, NOW)
    assert decided.status is not None
    found = next(c for c in decided.status["conditions"] if c["type"] == "Resolved")
    assert "without an evaluation" in found["message"]


@pytest.mark.parametrize("spec", [{}, DIRECT], ids=["named by its run", "named by its digest"])
def test_the_evaluation_outlives_its_run(spec: dict[str, Any]) -> None:
    before = shown(deployment(**spec), run("Promote", promoted=True))
    after = shown(deployment({"resolved": before}, **spec), None)
    assert after == before
    assert after["baseFingerprint"] == BASE


def test_the_evaluation_of_one_artifact_is_not_told_of_the_next() -> None:
    before = shown(deployment(), run("Promote", promoted=True))
    after = shown(deployment({"resolved": before}, adapter={"source": "pvc://a/b", "digest": OTHER}), None)
    assert (before["digest"], after["digest"]) == (DIGEST, OTHER)
    assert after["evaluation"]["outcome"] == "Unknown"
    assert "baseFingerprint" not in after
