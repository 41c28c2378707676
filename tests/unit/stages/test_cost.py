"""What a run costs, what its budget does, and what prepare tells about both."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from finetune_operator.api.finetunejob import FineTuneJob
from finetune_operator.api.finetunejobstatus import Attempt
from finetune_operator.stages.money import calibration, held, seconds, spent
from tests.unit.stages.kubernetes_simulation import SETTINGS, KubernetesSimulation, merged, result_of
from tests.unit.stages.test_invariants import MOVES, assert_at_rest, play

Object = dict[str, Any]
HOUR = 3600
PRICE = Decimal("3.60")
GPUS: Object = {"resources": {"gpusPerNode": 4, "gpuType": "h200"}}
ESTIMATE = {"hours": 2.5, "cost": 36.0, "costLow": 28.8, "costHigh": 46.5, "currency": "USD", "mfu": 0.4}


def gpu_run(limit: str | None = None, **changes: Any) -> KubernetesSimulation:
    """A run on four GPUs for 3.60 USD each."""
    budget = {} if limit is None else {"budget": {"limit": limit, "currency": "USD"}}
    return KubernetesSimulation(**merged({**GPUS, **budget}, changes))


def cost(world: KubernetesSimulation) -> Object:
    found: Object = world.status.get("cost", {})
    return found


def estimated(world: KubernetesSimulation, **estimate: Any) -> KubernetesSimulation:
    """Prepare ends with an estimate."""
    world.settle()
    return world.end(result_of("prepare", estimate={**ESTIMATE, **estimate}))


def test_training_costs_time_times_gpus_times_price() -> None:
    world = gpu_run().to("train")
    world.pass_time(2 * HOUR)
    assert cost(world) == {"spent": "28.80", "currency": "USD"}
    world.end()
    assert cost(world)["spent"] == "28.80"


def test_scoring_holds_one_gpu_and_preparing_none() -> None:
    world = gpu_run().settle()
    world.pass_time(5 * HOUR)
    assert cost(world) == {}
    world.to("baseline").pass_time(HOUR)
    assert cost(world)["spent"] == "3.60"
    world.to("evaluate").pass_time(HOUR)
    assert cost(world)["spent"] == "7.20"
    world.to("publish").pass_time(5 * HOUR)
    assert cost(world)["spent"] == "7.20"


def test_every_node_of_a_gang_counts() -> None:
    world = gpu_run(resources={"nodes": 2}, workspace={"claimName": "shared"})
    world.claims["shared"] = {"metadata": {"uid": "s"}, "spec": {"accessModes": ["ReadWriteMany"]}}
    assert cost(world.to("train").pass_time(HOUR))["spent"] == "28.80"


def test_the_spot_price_counts_where_it_is_asked_for() -> None:
    assert cost(gpu_run(resources={"spot": True}).to("train").pass_time(HOUR))["spent"] == "7.20"


def test_without_a_price_there_is_no_cost_and_on_the_cpu_neither() -> None:
    for world in (gpu_run(resources={"gpuType": "bare"}), gpu_run(resources={"gpuType": None}), cpu_run()):
        assert cost(world.to("train").pass_time(HOUR)) == {}


def cpu_run() -> KubernetesSimulation:
    return KubernetesSimulation()


def test_a_suspended_run_costs_nothing() -> None:
    world = gpu_run().to("train")
    world.pass_time(HOUR)
    world.change(suspend=True)
    world.pass_time(100 * HOUR)
    assert cost(world)["spent"] == "14.40"
    world.change(suspend=False)
    world.pass_time(HOUR)
    assert cost(world)["spent"] == "28.80"


def test_a_lost_attempt_keeps_what_it_cost_and_looking_for_its_result_is_free() -> None:
    world = gpu_run().to("train")
    world.pass_time(HOUR)
    name = world.running()
    world.finish_job(name, good=False)
    world.pods[name] = []
    world.settle()
    world.pass_time(HOUR)
    assert cost(world)["spent"] == "14.40"
    world.end(result_of("train", "Failed", "NotStored"))
    world.pass_time(HOUR)
    assert cost(world)["spent"] == "28.80"


def test_a_pod_that_outlives_its_attempt_goes_on_costing_until_it_ends() -> None:
    world = gpu_run(resources={"nodes": 2}, workspace={"claimName": "shared"})
    world.claims["shared"] = {"metadata": {"uid": "s"}, "spec": {"accessModes": ["ReadWriteMany"]}}
    name = world.to("train").running()
    world.jobs[name]["status"] = {"conditions": [{"type": "Failed", "status": "True"}]}
    said = {"terminated": {"exitCode": 64, "message": result_of("train", "Failed", "UserError")}}
    first = {"phase": "Failed", "containerStatuses": [{"name": "train", "state": said}]}
    world.pods[name][0]["status"] = first
    world.settle()
    assert world.condition("Succeeded") == ("False", "UserError")
    assert cost(world.pass_time(HOUR))["spent"] == "28.80"
    world.pods[name] = []
    world.settle()
    assert cost(world.pass_time(HOUR))["spent"] == "28.80"


def test_a_later_price_changes_no_past() -> None:
    world = gpu_run().to("train")
    world.pass_time(HOUR)
    dearer = SETTINGS.gpu_types["h200"].model_copy(update={"price_per_hour": "1000"})
    world.settings = SETTINGS.model_copy(update={"gpu_types": {"h200": dearer}})
    world.pass_time(HOUR)
    assert cost(world)["spent"] == "28.80"


def test_looking_at_the_clock_does_not_write_the_status() -> None:
    world = gpu_run().to("train")
    world.pass_time(HOUR)
    before = world.status
    world.pass_time(59)
    assert world.status == before
    world.pass_time(1)
    assert cost(world)["spent"] == "14.64"


NOW = datetime(2026, 1, 1, 12, tzinfo=UTC)


def at(minutes: int) -> str:
    return (NOW + timedelta(minutes=minutes)).isoformat()


def pod(placed: int | None, ended: int | None = None) -> Object:
    """A pod by the minutes at which it was placed and its container ended."""
    terminated = {"terminated": {"finishedAt": at(ended)}} if ended is not None else {}
    conditions = [] if placed is None else [{"type": "PodScheduled", "lastTransitionTime": at(placed)}]
    return {
        "metadata": {"creationTimestamp": at(-100)},
        "spec": {} if placed is None else {"nodeName": "n"},
        "status": {
            "phase": "Running" if ended is None else "Failed",
            "conditions": conditions,
            "containerStatuses": [{"state": terminated}],
        },
    }


HOLDS = [
    ({}, [], None, None),
    ({}, [pod(None)], None, None),
    ({}, [pod(-10)], -10, None),
    ({}, [pod(-10), pod(-12)], -12, None),
    ({}, [pod(-10, -3), pod(-12)], -12, None),
    ({}, [pod(-10, -3)], None, 7),
    ({}, [pod(-10, -3), pod(-12, -5)], None, 9),
    ({"held_since": at(-20)}, [pod(-10)], -20, None),
    ({"held_since": at(-20)}, [pod(-20, -5)], None, 15),
    ({"held_since": at(-20)}, [], None, 20),
    ({"held_since": at(-20), "held_seconds": 300}, [], None, 25),
    ({"held_since": at(-20)}, [pod(-20, 90)], None, 20),
    ({"held_seconds": 300}, [pod(-10, -3)], None, 5),
    ({"held_seconds": 300}, [pod(-2)], -2, 5),
]
HOLD_NAMES = [
    "no pod yet",
    "a pod without a node",
    "a placed pod",
    "the first of a gang begins",
    "the rest of a gang still holds",
    "a pod that came and went unseen",
    "a gang that came and went unseen",
    "what was seen first stays",
    "the container tells the end",
    "pods gone without a trace end now",
    "one more time is added",
    "a clock that runs ahead is not believed",
    "what is counted is not counted again",
    "a resumed attempt holds again",
]


@pytest.mark.parametrize(("known", "pods", "since", "minutes"), HOLDS, ids=HOLD_NAMES)
def test_how_long_an_attempt_holds_its_gpus(
    known: Object, pods: list[Object], since: int | None, minutes: int | None
) -> None:
    attempt = Attempt(stage="train", number=1, job="j", state="Running", gpus=1, **known)
    found = held(attempt, pods, NOW)
    begun = None if found.held_since is None else datetime.fromisoformat(found.held_since)
    assert begun == (None if since is None else NOW + timedelta(minutes=since))
    assert found.held_seconds == (None if minutes is None else minutes * 60)
    assert held(found, pods, NOW) == found


@given(st.integers(0, 10**7), st.integers(0, 10**5))
def test_time_never_runs_backwards(passed: int, more: int) -> None:
    attempt = Attempt(stage="train", number=1, job="j", state="Running", held_since=at(0))
    earlier, later = (seconds(attempt, NOW + timedelta(seconds=s)) for s in (passed, passed + more))
    assert passed - 60 < earlier <= min(passed, later)


def test_the_cost_of_attempts_is_exact() -> None:
    def attempt(**given: Any) -> Attempt:
        return Attempt(stage="train", number=1, job="j", state="Failed", **given)

    tenth = attempt(gpus=3, price_per_hour="0.1", held_seconds=3600)
    assert spent([tenth, tenth, tenth], NOW) == Decimal("0.9")
    assert spent([tenth, attempt(gpus=1, held_seconds=9)], NOW) == Decimal("0.3")
    assert spent([attempt(gpus=1, held_seconds=9)], NOW) is None
    assert spent([], NOW) is None


def test_a_run_that_is_expected_to_cost_too_much_waits_without_a_gpu_until_the_limit_is_raised() -> None:
    world = estimated(gpu_run("30"))
    assert world.condition("Admitted") == ("False", "BudgetExceeded")
    assert world.condition("Succeeded") == ("Unknown", "BudgetExceeded")
    said = world.message("Admitted")
    assert [
        w for w in ("36.00 USD", "28.80 to 46.50", "is 30;", "raise spec.budget.limit") if w not in said
    ] == []
    world.pass_time(1000 * HOUR)
    assert [name for name in world.created if "-prepare-" not in name] == []
    world.change(budget={"limit": "35.99"})
    assert world.condition("Admitted") == ("False", "BudgetExceeded")
    world.change(budget={"limit": "36"})
    assert "-baseline-" in world.running()
    assert world.condition("Admitted") == ("True", "Scheduled")


def test_a_run_within_its_budget_is_not_held_up() -> None:
    assert "-baseline-" in estimated(gpu_run("36")).running()
    assert "-baseline-" in estimated(gpu_run("1"), cost=None).running()


def test_training_is_suspended_at_its_budget_and_goes_on_with_the_same_job_when_it_is_raised() -> None:
    world = gpu_run("20").to("train")
    name = world.running()
    world.pass_time(HOUR)
    assert world.condition("Admitted")[0] == "True"
    world.pass_time(HOUR)
    assert world.jobs[name]["spec"]["suspend"] is True
    assert name not in world.pods
    assert world.condition("Admitted") == ("False", "BudgetExceeded")
    said = world.message("Admitted")
    assert [
        w for w in ("28.80 USD", "is 20;", "checkpoint", "raise spec.budget.limit") if w not in said
    ] == []
    world.pass_time(1000 * HOUR)
    assert cost(world)["spent"] == "28.80"
    world.change(budget={"limit": "40"})
    assert (world.running(), world.condition("Admitted")[0]) == (name, "True")
    assert name in world.pods
    world.pass_time(HOUR)
    assert world.condition("Admitted") == ("False", "BudgetExceeded")
    assert cost(world)["spent"] == "43.20"


def test_a_budget_that_training_used_up_keeps_evaluation_waiting_and_nothing_is_lost() -> None:
    world = gpu_run("20").to("train")
    world.now += timedelta(hours=2)
    world.end()
    assert world.condition("Trained")[0] == "True"
    assert world.condition("Admitted") == ("False", "BudgetExceeded")
    assert [name for name in world.created if "-evaluate-" in name] == []
    world.change(budget={"limit": "30"})
    assert "-evaluate-" in world.running()


def test_publishing_needs_no_gpu_and_no_budget() -> None:
    world = gpu_run("20").to("evaluate")
    world.now += timedelta(hours=20)
    world.end()
    assert "-publish-" in world.running()
    world.end()
    assert world.condition("Succeeded") == ("True", "Promote")


def test_the_user_can_suspend_and_resume_a_run_that_has_used_up_its_budget() -> None:
    world = gpu_run("10").to("train")
    name = world.running()
    world.pass_time(HOUR)
    world.change(suspend=True)
    assert world.condition("Admitted") == ("False", "Suspended")
    world.change(suspend=False)
    assert world.condition("Admitted") == ("False", "BudgetExceeded")
    assert name not in world.pods


def test_an_exceeded_budget_is_told_once_as_an_event() -> None:
    world = gpu_run("10").to("train")
    for _ in range(5):
        world.pass_time(HOUR)
    assert [e.type for e in world.events if e.reason == "BudgetExceeded"] == ["Warning"]


NO_PRICE = [
    ({"gpuType": "bare"}, "USD", ["gpuTypes.bare.pricePerHour", "create a FineTuneJob without spec.budget"]),
    ({"gpuType": "bare", "spot": True}, "USD", ["gpuTypes.bare.spotPricePerHour"]),
    ({"gpuType": None}, "USD", ["set spec.resources.gpuType"]),
    ({}, "EUR", ["spec.budget.currency is EUR", "gpuTypes.h200.pricePerHour", "USD"]),
]


@pytest.mark.parametrize(
    ("resources", "currency", "words"),
    NO_PRICE,
    ids=["no price", "no spot price", "no gpuType", "another currency"],
)
def test_a_budget_that_cannot_be_kept_is_refused_in_words(
    resources: Object, currency: str, words: list[str]
) -> None:
    world = gpu_run("20", resources=resources, budget={"currency": currency}).settle()
    assert world.created == []
    assert world.condition("Admitted") == ("False", "NoPrice")
    assert [word for word in words if word not in world.message("Admitted")] == []


def test_a_run_that_waits_for_a_price_goes_on_when_the_administrator_sets_it() -> None:
    world = gpu_run("20", resources={"gpuType": "bare"}).settle()
    world.settings = SETTINGS.model_copy(update={"gpu_types": {"bare": SETTINGS.gpu_types["h200"]}})
    assert "-prepare-" in world.settle().running()


def test_the_estimate_is_shown() -> None:
    summary = {"perMonth": 3000.0, "breakEvenDays": 0.36}
    world = gpu_run().settle()
    world.end(result_of("prepare", estimate={**ESTIMATE, "calibrated": True, "hoursLow": 2}, savings=summary))
    assert cost(world) == {
        "estimate": "36.00", "low": "28.80", "high": "46.50", "spent": "0.00", "currency": "USD",
        "hours": "2.50", "hoursLow": "2.00", "expectedMfu": "0.4000", "calibrated": True,
        "perMonthSaved": "3000.00", "breakEvenDays": "0.4",
    }  # fmt: skip


def test_the_memory_plan_is_shown_and_the_measured_peak_beside_it() -> None:
    memory = {
        "fits": True, "tight": False, "peakGiB": 61.234, "limitGiB": 125.1, "gpuMemoryGiB": 139, "hostGiB": 3.78,
        "breakdown": {"weights": 15, "optimizer": 40.5},
        "chosen": {"zeroStage": 2, "microBatchTokens": 8192, "gradientCheckpointing": "Enabled", "offload": "None"},
    }  # fmt: skip
    world = gpu_run().settle()
    world.end(result_of("prepare", memory=memory)).to("train")
    world.end(result_of("train", peakGiB=58.1, mfu=0.412))
    assert world.status["plan"] == {
        "fits": True, "tight": False, "peakGiB": "61.23", "hostGiB": "3.78", "measuredGiB": "58.10", "limitGiB": "125.10", "gpuMemoryGiB": "139.00",
        "breakdown": {"weights": "15.00", "optimizer": "40.50"},
        "zeroStage": 2, "microBatchTokens": 8192, "gradientCheckpointing": "Enabled", "offload": "None",
    }  # fmt: skip
    assert cost(world)["mfu"] == "0.4120"


def test_advice_is_a_condition_and_an_event_and_changes_nothing() -> None:
    advice = [
        {"reason": "KnowledgeNeedsRetrieval", "message": "Facts are better looked up."},
        {"reason": "KnowledgeChangesOften", "message": "They change monthly."},
    ]
    world = KubernetesSimulation(goal="Knowledge").settle()
    world.end(result_of("prepare", advice=advice))
    assert world.condition("Advised") == ("True", "KnowledgeNeedsRetrieval")
    assert world.message("Advised") == "Facts are better looked up. They change monthly."
    assert [e.message for e in world.events if e.reason == "Advised"] == [world.message("Advised")]
    assert "-baseline-" in world.running()


def test_without_advice_there_is_no_such_condition() -> None:
    world = KubernetesSimulation().to("baseline")
    assert "Advised" not in {c["type"] for c in world.status["conditions"]}


@pytest.mark.parametrize(
    ("memory", "advised"),
    [("16Gi", True), ("17G", True), ("64Gi", False), ("1e11", False), (None, False)],
    ids=["too little", "in powers of ten", "enough", "a form that is not read", "no limit"],
)
def test_a_pod_with_less_memory_than_planned_is_warned_of(memory: str | None, advised: bool) -> None:
    world = KubernetesSimulation(resources={"gpusPerNode": 4, "memory": memory}).settle()
    world.end(result_of("prepare", memory={"fits": True, "hostGiB": 16.2}))
    assert ("Advised" in {c["type"] for c in world.status["conditions"]}) is advised
    if advised:
        assert "needs about 16.2 GiB of its node and gets" in world.message("Advised")


def test_the_method_in_force_and_its_adapter_are_shown() -> None:
    lora = {"rank": 16, "alpha": 32, "rankStabilized": False, "targetModules": ["q_proj", "v_proj"]}
    world = KubernetesSimulation(fallbackMethod="QLoRA").settle()
    world.end(result_of("prepare", method="QLoRA", lora=lora))
    assert world.status["resolved"]["method"] == "QLoRA"
    assert world.status["resolved"]["lora"] == lora


def test_overridden_rules_are_shown_and_warned_of() -> None:
    world = KubernetesSimulation().settle()
    world.end(result_of("prepare", overrides={"near_duplicate": "Ignore"}, warnings=["12 rows are short."]))
    assert world.status["resolved"]["rules"] == {"near_duplicate": "Ignore"}
    assert world.status["resolved"]["warnings"] == [
        "12 rows are short.",
        "Rule near_duplicate counts as Ignore: spec.dataset.rules.",
    ]


def finished(mfu: str | None, gpu: str = "h200", method: str | None = None, *, ended: bool = True) -> Object:
    status: Object = {"cost": {} if mfu is None else {"mfu": mfu}}
    if ended:
        status["completionTime"] = at(0)
    return {
        "spec": {"resources": {"gpuType": gpu}, **({"method": method} if method else {})},
        "status": status,
    }


RUNS = [
    ([], None),
    ([finished("0.4")], (0.4, 1)),
    ([finished("0.2"), finished("0.4"), finished("0.9")], (0.4, 3)),
    ([finished("0.4"), finished("0.3", method="LoRA")], (0.35, 2)),
    (
        [
            finished("0.4"),
            {**finished("0.3"), "status": {**finished("0.3")["status"], "resolved": {"method": "QLoRA"}}},
        ],
        (0.4, 1),
    ),
    ([finished("0.4", gpu="bare"), finished("0.4", method="Full"), finished("0.4", ended=False)], None),
    ([finished(None), finished("fast"), finished("0"), finished("1.5"), finished("nan"), {}], None),
]


@pytest.mark.parametrize(
    ("runs", "expected"),
    RUNS,
    ids=[
        "none",
        "one",
        "the median",
        "the default method",
        "a fallback in force",
        "others",
        "nothing measured",
    ],
)
def test_finished_runs_of_the_same_gpu_and_method_calibrate(
    runs: list[Object], expected: tuple[float, int] | None
) -> None:
    job = FineTuneJob.model_validate(gpu_run().object)
    found = calibration(job, runs)
    assert (None if found is None else (round(found.mfu, 9), found.runs)) == expected


def job_json(world: KubernetesSimulation) -> Object:
    found: Object = json.loads(world.others["ConfigMap", world.running()]["data"]["job.json"])
    return found


def test_prepare_is_told_the_gpu_the_budget_and_what_finished_runs_teach() -> None:
    world = gpu_run("50", resources={"spot": True})
    world.runs = (finished("0.4"), finished("0.5"))
    found = job_json(world.settle())
    assert found["accelerator"] == {
        "name": "h200", "memoryGiB": 139, "peakTflops": 989, "pricePerHour": "1.80", "currency": "USD", "spot": True,
    }  # fmt: skip
    assert found["budget"] == {"limit": "50", "currency": "USD"}
    assert found["calibration"] == {"mfu": 0.45, "runs": 2}
    assert "calibration" not in job_json(world.to("train"))


def test_prepare_is_told_the_other_gpu_types_whose_memory_is_known() -> None:
    assert job_json(gpu_run(resources={"gpuType": "bare"}).settle())["otherGpus"] == [
        {"name": "h200", "memoryGiB": 139}
    ]
    assert job_json(gpu_run().settle())["otherGpus"] == []
    assert job_json(cpu_run().settle())["otherGpus"] == []


def test_on_the_cpu_there_is_no_accelerator() -> None:
    assert "accelerator" not in job_json(cpu_run().settle())


def test_prices_and_calibration_change_no_digest() -> None:
    plain, dear = gpu_run(), gpu_run("50")
    dear.settings = SETTINGS.model_copy(
        update={"gpu_types": {"h200": SETTINGS.gpu_types["h200"].model_copy(update={"price_per_hour": "9"})}}
    )
    dear.runs = (finished("0.4"),)
    first, second = job_json(plain.settle()), job_json(dear.settle())
    assert [first[key] for key in ("specDigest", "inputDigest")] == [
        second[key] for key in ("specDigest", "inputDigest")
    ]


MONEY_MOVES = [*MOVES, "raise", "hour", "hour"]


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(st.sampled_from(MONEY_MOVES), max_size=25), st.integers(1, 60))
def test_no_history_spends_beyond_its_budget_or_takes_money_back(moves: list[str], limit: int) -> None:
    world = estimated(gpu_run(str(limit)), cost=0.5)
    before = Decimal(0)
    for move in moves:
        if move == "raise":
            limit += 10
            world.change(budget={"limit": str(limit)})
        elif move == "hour":
            world.pass_time(HOUR)
        else:
            play(world, move)
        now = Decimal(cost(world).get("spent", "0"))
        assert now >= before, "money is never taken back"
        assert (
            now <= PRICE * 4 * Decimal((world.now - datetime(2026, 1, 1, tzinfo=UTC)).total_seconds()) / HOUR
        )
        running = [
            name for name in world.pods if not world.jobs.get(name, {}).get("status", {}).get("conditions")
        ]
        if now >= limit:
            assert [
                n for n in running if n in world.jobs and "-prepare-" not in n and "-publish-" not in n
            ] == [], "no GPU works beyond the budget"
        before = now
        assert_at_rest(world)
