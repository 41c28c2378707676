"""A run whose answers are judged by another model: who gets its key, what it costs, and what it warns of."""

from __future__ import annotations

from typing import Any

import pytest

from finetune_operator.api.finetunejob import FineTuneJob
from finetune_operator.api.finetunejobstatus import Attempt, StageName
from finetune_operator.contracts.digests import spec_digest
from finetune_operator.stages.money import judged, pays_judge
from tests.unit.stages.kubernetes_simulation import KubernetesSimulation, merged, result_of
from tests.unit.stages.rendered import STAGES, engine_of, main_of, mounts_of, pod_of
from tests.unit.stages.test_scoring_on_server import BASE, server

Object = dict[str, Any]
HOUR = 3600
PRICES = {"pricePerMillionInputTokens": "2.5", "pricePerMillionOutputTokens": "10"}
JUDGE: Object = {
    "url": "https://judge.example/v1",
    "model": "m",
    "credentialsSecretRef": {"name": "key"},
    **PRICES,
}
JUDGED: Object = {
    "evaluation": {
        "graders": [{"name": "style", "type": "JudgeCriteria", "criteria": ["It is kind"]}],
        "judge": JUDGE,
    }
}
GPUS: Object = {"resources": {"gpusPerNode": 1, "gpuType": "h200"}}
KEY = "/etc/finetune/credentials/judge"


def gpu_run(limit: str | None = None) -> KubernetesSimulation:
    budget = {} if limit is None else {"budget": {"limit": limit, "currency": "USD"}}
    return KubernetesSimulation(**merged({**GPUS, **budget}, JUDGED))


def cost(world: KubernetesSimulation) -> Object:
    found: Object = world.status.get("cost", {})
    return found


def told(stage: str, cost: float, **summary: Any) -> str:
    return result_of(stage, judge={"requests": 9, "cost": cost, "currency": "USD"}, **summary)


@pytest.mark.parametrize("stage", STAGES)
def test_the_key_of_the_judge_is_given_to_the_scorer_alone(stage: str) -> None:
    scores = stage in ("baseline", "evaluate")
    assert (KEY in mounts_of(main_of(stage, **JUDGED))) == scores
    pod = pod_of(stage, **JUDGED)
    assert ("key" in str(pod["volumes"])) == scores
    assert "key" not in str(main_of(stage, **JUDGED)["env"]) + str(main_of(stage, **JUDGED)["args"])
    if scores:
        assert KEY not in mounts_of(engine_of(stage, **JUDGED))


def test_a_scorer_that_waits_for_the_key_names_the_secret() -> None:
    world = KubernetesSimulation(**JUDGED).to("baseline")
    conditions = [
        {"type": "PodScheduled", "status": "True", "lastTransitionTime": "2026-01-01T00:00:00Z"},
        {"type": "PodReadyToStartContainers", "status": "False"},
    ]
    world.pods[world.running()][0]["status"] = {"phase": "Pending", "conditions": conditions}
    world.pass_time(70)
    assert "Secret key with the key token" in world.message("Admitted")


def test_what_the_judge_costs_is_added_to_what_gpus_cost() -> None:
    world = gpu_run().to("baseline")
    world.pass_time(HOUR)
    world.end(told("baseline", 0.25))
    assert cost(world) == {"spent": "3.85", "currency": "USD"}
    world.to("evaluate").end(told("evaluate", 1.5))
    assert cost(world)["spent"] == "5.35"


def test_a_judge_costs_on_the_cpu_too() -> None:
    world = KubernetesSimulation(**JUDGED).to("baseline")
    world.end(told("baseline", 0.25))
    assert cost(world) == {"spent": "0.2500"}


def test_a_running_judge_is_stopped_when_the_budget_is_used_up() -> None:
    world = gpu_run("5").to("baseline")
    world.progress = {"stage": "baseline", "step": 5, "judgeCost": 4.5}
    world.pass_time(60)
    assert world.condition("Admitted")[0] == "True"
    world.progress = {"stage": "baseline", "step": 9, "judgeCost": 5.5}
    world.pass_time(60)
    world.pass_time(60)
    assert world.condition("Admitted") == ("False", "BudgetExceeded")
    world.change(budget={"limit": "50"})
    assert world.condition("Admitted") == ("True", "Scheduled")


SCORED_ELSEWHERE = {"evaluation": {"engine": {"serverRef": {"name": "shared"}}}}


@pytest.mark.parametrize(
    "changes",
    [
        pytest.param({"resources": {"gpusPerNode": 0, "cpu": "2"}}, id="on the CPU"),
        pytest.param({**GPUS, **SCORED_ELSEWHERE}, id="on a ModelServer"),
    ],
)
def test_a_judge_is_stopped_at_the_budget_where_scoring_holds_no_gpu(changes: Object) -> None:
    budget = {"budget": {"limit": "5", "currency": "USD"}}
    world = KubernetesSimulation(**merged({**changes, **budget}, JUDGED))
    world.server = server()
    world.settle().end(result_of("prepare", baseFingerprint=BASE))
    assert "-baseline-" in world.running()
    world.progress = {"stage": "baseline", "step": 9, "judgeCost": 5.5}
    world.pass_time(60)
    world.pass_time(60)
    assert world.condition("Admitted") == ("False", "BudgetExceeded")
    assert world.pods.get(world.running(), []) == []
    assert cost(world) == {"spent": "5.50", "currency": "USD"}
    world.change(budget={"limit": "50"})
    assert world.condition("Admitted") == ("True", "Scheduled")


@pytest.mark.parametrize("stage", STAGES)
def test_a_judge_without_prices_costs_nothing_that_a_budget_could_count(stage: StageName) -> None:
    unpriced = {**JUDGE, **dict.fromkeys(PRICES)}
    assert not pays_judge(run_of(merged(JUDGED, {"evaluation": {"judge": unpriced}})), stage)
    assert pays_judge(run_of(JUDGED), stage) == (stage in ("baseline", "evaluate"))


def run_of(changes: Object) -> FineTuneJob:
    return FineTuneJob.model_validate(KubernetesSimulation(**changes).object)


def test_an_attempt_that_is_lost_keeps_what_its_judge_cost_and_reading_its_result_costs_nothing() -> None:
    world = gpu_run().to("baseline")
    world.progress = {"stage": "baseline", "step": 5, "judgeCost": 2.0}
    world.pass_time(60)
    name = world.running()
    world.finish_job(name, good=False)
    world.pods[name], world.progress = [], None
    world.settle()
    assert cost(world)["spent"] == "2.06"
    world.end(told("baseline", 2.0))
    assert cost(world)["spent"] == "2.06"


@pytest.mark.parametrize(
    ("known", "told", "reemits", "after"),
    [
        (None, None, None, None),
        (None, "0.5", None, "0.5"),
        ("0.5", None, None, "0.5"),
        ("0.5", "0.7", None, "0.7"),
        ("0.5", "0.2", None, "0.5"),
        (None, "much", None, None),
        (None, "0.5", True, None),
    ],
    ids=["nothing", "the first", "silence", "more", "less", "no number", "of another attempt"],
)
def test_what_a_judge_costs_only_grows(
    known: str | None, told: str | None, reemits: bool | None, after: str | None
) -> None:
    attempt = Attempt(stage="baseline", number=1, job="j", state="Running", judge_cost=known, reemits=reemits)
    assert judged(attempt, told).judge_cost == after


def test_warnings_and_the_flip_rate_are_shown_and_stay() -> None:
    world = KubernetesSimulation(**JUDGED).to("baseline")
    world.end(told("baseline", 0, warnings=["a reference fails"]))
    assert world.status["scores"]["warnings"] == ["a reference fails"]
    summary = {"judge": {"requests": 1, "flipRate": 0.25}, "warnings": ["the order decided"]}
    world.to("evaluate").end(result_of("evaluate", **summary))
    assert world.status["scores"]["warnings"] == ["a reference fails", "the order decided"]
    assert world.status["scores"]["flipRate"] == "0.2500"
    assert [e.message for e in world.events if e.reason == "ScoringWarning"] == [
        "a reference fails", "the order decided",
    ]  # fmt: skip


def test_who_judges_decides_the_result_and_how_it_is_asked_does_not() -> None:
    def digest(**judge: Any) -> str:
        spec = KubernetesSimulation(**merged(JUDGED, {"evaluation": {"judge": judge}})).object
        return spec_digest(FineTuneJob.model_validate(spec).spec)

    assert digest() == digest(timeoutSeconds=5, maxConcurrency=1, pricePerMillionInputTokens="9")
    assert digest() == digest(credentialsSecretRef={"name": "other"})
    assert len({digest(), digest(model="other"), digest(url="http://other/v1")}) == 3
