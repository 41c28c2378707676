"""The Argo CD health scripts, run by a real Lua on the statuses that the operator writes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from finetune_operator.rollout.observed import Observed
from finetune_operator.rollout.plan import plan
from tests.unit.rollout import test_plan
from tests.unit.server.builders import World
from tests.unit.stages.kubernetes_simulation import KubernetesSimulation

lupa = pytest.importorskip("lupa", reason="lupa is not installed")

SCRIPTS = Path(__file__).resolve().parents[3] / "crds" / "argocd"


def _object(
    kind_status: dict[str, str], *, suspend: bool = False, observed: int | None = 2
) -> dict[str, Any]:
    conditions = [
        {"type": kind, "status": status, "reason": "Why", "message": f"{kind} is {status}"}
        for kind, status in kind_status.items()
    ]
    status = {"conditions": conditions, "observedGeneration": observed}
    return {"metadata": {"generation": 2}, "spec": {"suspend": suspend}, "status": status}


def _health(kind: str, body: dict[str, Any]) -> tuple[str, str]:
    runtime = lupa.LuaRuntime(register_eval=False)
    runtime.globals()["obj"] = runtime.table_from(_clean(body), recursive=True)
    result = runtime.execute((SCRIPTS / kind / "health.lua").read_text())
    return result["status"], result["message"]


def _clean(body: dict[str, Any]) -> dict[str, Any]:
    """Without nulls, as the API server returns objects."""
    return {k: _clean(v) if isinstance(v, dict) else v for k, v in body.items() if v is not None}


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ({"metadata": {"generation": 1}, "spec": {}}, ("Progressing", "Waiting for the operator")),
        (_object({"Succeeded": "True"}, observed=1), ("Progressing", "Waiting for the operator")),
        (_object({"Succeeded": "True"}), ("Healthy", "Succeeded is True")),
        (_object({"Succeeded": "True"}, suspend=True), ("Healthy", "Succeeded is True")),
        (_object({"Succeeded": "False", "Stalled": "True"}), ("Degraded", "Succeeded is False")),
        (_object({"Succeeded": "Unknown", "Stalled": "True"}), ("Degraded", "Stalled is True")),
        (_object({"Succeeded": "Unknown"}, suspend=True), ("Suspended", "Suspended by spec.suspend")),
        (_object({"Admitted": "False", "Succeeded": "Unknown"}), ("Suspended", "Admitted is False")),
        (_object({"Admitted": "True", "Succeeded": "Unknown"}), ("Progressing", "Succeeded is Unknown")),
    ],
    ids=[
        "a new object is progressing",
        "an old status is progressing",
        "a success is healthy",
        "a success stays healthy when suspended",
        "a failure is degraded",
        "a stalled run is degraded",
        "a suspended run is suspended",
        "a run without resources is suspended",
        "a running run is progressing",
    ],
)
def test_health_of_a_run(body: dict[str, Any], expected: tuple[str, str]) -> None:
    assert _health("FineTuneJob", body) == expected


@pytest.mark.parametrize("kind", ["ModelServer", "AdapterDeployment"])
@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ({"metadata": {"generation": 1}, "spec": {}}, ("Progressing", "Waiting for the operator")),
        (_object({"Ready": "True"}, observed=1), ("Progressing", "Waiting for the operator")),
        (_object({"Ready": "True"}), ("Healthy", "Ready is True")),
        (_object({"Ready": "False", "Stalled": "True"}), ("Degraded", "Stalled is True")),
        (_object({"Ready": "False", "Stalled": "False"}), ("Progressing", "Ready is False")),
        (_object({"Ready": "True", "Reconciling": "True"}), ("Progressing", "Reconciling is True")),
        (_object({"Ready": "True", "Stalled": "True"}), ("Degraded", "Stalled is True")),
    ],
    ids=[
        "a new object",
        "an old status",
        "ready",
        "stalled",
        "on its way",
        "a rollout while the old pods answer",
        "a rollout that stands still while the old pods answer",
    ],
)
def test_health_of_what_serves(kind: str, body: dict[str, Any], expected: tuple[str, str]) -> None:
    assert _health(kind, body) == expected


def _stopped() -> dict[str, Any]:
    world = World({"replicas": 0}).settle()
    return {"metadata": {"generation": 1}, "spec": {"replicas": 0}, "status": world.status}


def test_a_server_that_is_scaled_to_zero_is_suspended() -> None:
    assert _health("ModelServer", _stopped())[0] == "Suspended"


def _rolling_out(reason: str) -> dict[str, Any]:
    """What the operator says of an AdapterDeployment whose rollout stands there."""
    server = test_plan.server(version=test_plan.NEW, state="Loading", reason=reason, message="Why.")
    if reason in ("RolledBack", "Aborted"):
        server = test_plan.server(version=test_plan.NEW, state="Failed", reason=reason, message="Why.")
    mine = test_plan.deployment()
    decided = plan(Observed(mine, test_plan.job(), server), test_plan.SETTINGS, test_plan.NOW)
    return {"metadata": {"generation": 2}, "spec": {}, "status": decided.status}


@pytest.mark.parametrize(
    ("reason", "expected"),
    [
        ("Holding", "Progressing"),
        ("WaitingForRequests", "Progressing"),
        ("Inconclusive", "Progressing"),
        ("WaitingForTurn", "Progressing"),
        ("Paused", "Suspended"),
        ("AnalysisFailed", "Degraded"),
        ("RolledBack", "Degraded"),
        ("Aborted", "Degraded"),
    ],
)
def test_a_rollout_by_steps(reason: str, expected: str) -> None:
    assert _health("AdapterDeployment", _rolling_out(reason))[0] == expected


def _without_claim(world: KubernetesSimulation) -> None:
    world.claims.pop("models")


def _without_configmap(world: KubernetesSimulation) -> None:
    world.configmaps.clear()


def _without_key(world: KubernetesSimulation) -> None:
    world.configmaps.remove("reviews/train.jsonl")


def _unknown_gpu(world: KubernetesSimulation) -> None:
    world.object["spec"]["resources"] = {"gpusPerNode": 1, "gpuType": "h900"}


def _wrong_image(world: KubernetesSimulation) -> None:
    world.settle()
    waiting = {"name": "prepare", "state": {"waiting": {"reason": "ErrImagePull", "message": "not found"}}}
    (pods,) = world.pods.values()
    pods[0]["status"] = {"phase": "Pending", "containerStatuses": [waiting]}


@pytest.mark.parametrize(
    "mistake",
    [_without_claim, _without_configmap, _without_key, _unknown_gpu, _wrong_image],
    ids=["no claim", "no ConfigMap", "no key in it", "no such gpuType", "an image that cannot be pulled"],
)
def test_a_mistake_that_only_a_person_can_mend_is_degraded(mistake: Any) -> None:
    world = KubernetesSimulation()
    mistake(world)
    assert _health("FineTuneJob", world.settle().object)[0] == "Degraded"


def test_a_run_that_waits_for_a_node_is_suspended() -> None:
    world = KubernetesSimulation().settle()
    no_node = {"type": "PodScheduled", "status": "False", "lastTransitionTime": "2025-12-31T23:00:00Z"}
    (pods,) = world.pods.values()
    pods[0]["spec"].pop("nodeName")
    pods[0]["status"] = {"phase": "Pending", "conditions": [no_node]}
    assert _health("FineTuneJob", world.settle().object)[0] == "Suspended"
