"""Whole histories of a FineTuneJob, played against a simulation of Kubernetes."""

from __future__ import annotations

import json
from typing import Any

import pytest

from finetune_operator.core.actions import Delete
from tests.unit.stages.kubernetes_simulation import KubernetesSimulation, result_of


def stages_of(world: KubernetesSimulation) -> list[tuple[str, int, str]]:
    return [(a["stage"], a["number"], a["state"]) for a in world.status["attempts"]]


def complete(world: KubernetesSimulation) -> KubernetesSimulation:
    world.to("publish")
    return world.end()


def test_a_run_goes_through_five_stages_and_is_promoted() -> None:
    world = complete(KubernetesSimulation())
    assert [s for s, _, _ in stages_of(world)] == ["prepare", "baseline", "train", "evaluate", "publish"]
    kinds = [
        "Validated",
        "Admitted",
        "BaselineScored",
        "Trained",
        "Evaluated",
        "Published",
        "Promoted",
        "Succeeded",
    ]
    assert [world.condition(kind)[0] for kind in kinds] == ["True"] * 8
    assert [c["type"] for c in world.status["conditions"]] == [*kinds, "Reconciling", "Stalled"]
    assert world.condition("Succeeded") == ("True", "Promote")
    assert (world.condition("Reconciling")[0], world.condition("Stalled")[0]) == ("False", "False")
    assert "90.0 % [84.0, 94.0]" in world.message("Promoted")
    assert world.status["artifact"]["promoted"] is True
    assert world.status["scores"]["baselineVerdict"] == "GoodCandidate"
    assert world.status["stage"] == "Succeeded"


def test_the_stage_is_shown_while_it_runs() -> None:
    world = KubernetesSimulation()
    stages = ("prepare", "baseline", "train", "evaluate", "publish")
    shown = [world.to(stage).status["stage"] for stage in stages]
    assert shown == ["Prepare", "Baseline", "Train", "Evaluate", "Publish"]


def test_an_attempt_is_recorded_one_reconcile_before_its_job_is_created() -> None:
    world = KubernetesSimulation().settle()
    world.end_job()
    while len(stages_of(world)) < 2:
        world.reconcile()
    assert stages_of(world)[-1] == ("baseline", 1, "Recorded")
    assert len(world.created) == 1
    world.reconcile()
    assert len(world.created) == 2


def test_the_first_job_of_a_run_is_created_with_its_record() -> None:
    world = KubernetesSimulation()
    world.reconcile()
    assert stages_of(world) == [("prepare", 1, "Recorded")]
    assert len(world.created) == 1


def test_kstatus_sees_progress_only_until_the_first_child_exists() -> None:
    world = KubernetesSimulation()
    world.reconcile()
    assert world.condition("Reconciling")[0] == "True"
    world.settle()
    assert world.condition("Reconciling")[0] == "False"
    assert world.condition("Succeeded")[0] == "Unknown"


def test_a_job_is_never_created_twice_after_its_outcome_is_recorded() -> None:
    world = complete(KubernetesSimulation())
    created = list(world.created)
    world.jobs.clear()
    world.pods.clear()
    world.claims.pop("run-work-" + created[0][-6:])
    world.settle()
    world.pass_time(10**6)
    assert world.created == created
    assert world.condition("Succeeded") == ("True", "Promote")


BASELINES = [
    pytest.param(
        {"verdict": "CheckTaskOrData", "score": 0.0, "low": 0.0, "high": 0.025, "blocking": True},
        ["0.0 % [0.0, 2.5]", "check the task definition"],
        id="a base that cannot do the task blocks",
    ),
    pytest.param(
        {"verdict": "PromptingLikelyEnough", "score": 0.95, "low": 0.9, "high": 0.98, "blocking": True},
        ["95.0 %", "prompt"],
        id="a base that is good already blocks",
    ),
]


@pytest.mark.parametrize(("summary", "words"), BASELINES)
def test_a_blocking_verdict_ends_the_run_before_training(summary: dict[str, Any], words: list[str]) -> None:
    world = KubernetesSimulation().to("baseline")
    world.end(result_of("baseline", **summary))
    assert world.condition("Succeeded") == ("False", summary["verdict"])
    assert world.condition("BaselineScored") == ("True", summary["verdict"])
    message = world.message("Succeeded")
    assert [w for w in (*words, "spec.evaluation.accept", summary["verdict"]) if w not in message] == []
    assert world.condition("Stalled")[0] == "False", "a verdict is an answer, no misconfiguration"
    assert world.condition("Trained") == ("False", "NotReached")
    world.change(evaluation={"accept": [summary["verdict"]]})
    assert world.condition("Succeeded")[0] == "False", "the end is final"


@pytest.mark.parametrize(("summary", "words"), BASELINES)
def test_an_accepted_verdict_goes_on_to_training(summary: dict[str, Any], words: list[str]) -> None:
    world = KubernetesSimulation(evaluation={"accept": [summary["verdict"]]}).to("baseline")
    world.end(result_of("baseline", **summary))
    assert "-train-" in world.running()


@pytest.mark.parametrize(
    ("cut", "said"),
    [
        (0, "rows (fields)."),
        (7, "7 of its answers reached spec.evaluation.maxTokens and ended there."),
        (8, "8 of its answers reached spec.evaluation.maxTokens and ended there; a right answer that is cut fails: "
         "raise it in a new FineTuneJob."),
    ],
)  # fmt: skip
def test_answers_that_were_cut_are_told(cut: int, said: str) -> None:
    world = KubernetesSimulation().to("baseline")
    world.end(result_of("baseline", cut=cut))
    assert world.message("BaselineScored").endswith(said)
    assert world.status["scores"]["cut"] == {"base": cut}
    world.to("evaluate").end(result_of("evaluate", cut={"base": cut, "tuned": 1}))
    assert world.status["scores"]["cut"] == {"base": cut, "tuned": 1}


def test_accepting_while_the_baseline_runs_is_in_time() -> None:
    world = KubernetesSimulation().to("baseline")
    world.change(evaluation={"accept": ["CheckTaskOrData"]})
    world.end(result_of("baseline", verdict="CheckTaskOrData", blocking=True))
    assert "-train-" in world.running()


def test_a_warning_verdict_does_not_block() -> None:
    world = KubernetesSimulation().to("baseline")
    world.end(result_of("baseline", verdict="CheckTaskOrData", blocking=False))
    assert "-train-" in world.running()


def test_the_best_prompt_is_told_with_the_bases_score() -> None:
    rivals = {
        "shots": {"score": 0.9, "low": 0.84, "high": 0.94},
        "weak": {"score": 0.2, "low": 0.1, "high": 0.3},
    }
    world = KubernetesSimulation().to("baseline")
    world.end(result_of("baseline", verdict="PromptingLikelyEnough", blocking=True, rivals=rivals))
    said = (
        "The base scores 60.0 % [52.0, 68.0] on 150 held-out rows (fields), and 90.0 % [84.0, 94.0] with the"
    )
    assert f"{said} prompt shots." in world.message("Succeeded")
    assert world.status["scores"]["rivals"]["weak"]["score"] == "0.2000"


def test_that_a_prompt_may_be_enough_is_told_in_the_words_of_the_trainer() -> None:
    said = "With the prompt shots the base alone scores 86.0 % [80.0, 90.0]: the prompt may be enough."
    world = KubernetesSimulation().to("evaluate")
    world.end(result_of("evaluate", promptAlone=said))
    assert world.status["scores"]["promptAlone"] == said
    world.end()
    assert said in world.message("Promoted")


def test_a_suite_on_which_the_tuned_model_fell_behind_is_named_with_what_to_do() -> None:
    lost = {"rows": 150, "base": 0.8, "tuned": 0.6, "low": -0.27, "margin": 0.05, "holds": False}
    fine = {"rows": 150, "base": 0.8, "tuned": 0.8, "low": 0.0, "margin": 0.05, "holds": True}
    world = KubernetesSimulation().to("evaluate")
    world.end(result_of("evaluate", verdict="Regressed", regression={"general": lost, "sums": fine}))
    world.end(result_of("publish", verdict="Regressed", promoted=False))
    message = world.message("Promoted")
    assert "On general it may have got worse: 80.0 % became 60.0 %" in message
    assert "On sums" not in message
    assert "fewer epochs, with a lower learning rate, or with general data mixed in" in message
    assert world.status["scores"]["regression"]["general"] == {
        "base": "0.8000", "tuned": "0.6000", "low": "-0.2700", "margin": "0.0500", "holds": False,
    }  # fmt: skip


@pytest.mark.parametrize("verdict", ["NoClearImprovement", "WorseThanBase", "Regressed"])
def test_a_result_that_is_not_better_is_published_and_fails_the_run(verdict: str) -> None:
    world = KubernetesSimulation().to("evaluate")
    world.end(result_of("evaluate", verdict=verdict))
    document = json.loads(world.others["ConfigMap", world.running()]["data"]["job.json"])
    assert document["publish"] == {"promoted": False, "verdict": verdict, "accepted": []}
    world.end(result_of("publish", verdict=verdict, promoted=False))
    assert world.condition("Published")[0] == "True"
    assert world.condition("Promoted") == ("False", verdict)
    assert world.condition("Succeeded") == ("False", verdict)
    assert "promoted: false" in world.message("Succeeded")


def test_an_accepted_regression_is_promoted_as_accepted() -> None:
    world = KubernetesSimulation(evaluation={"accept": ["Regressed"]}).to("evaluate")
    world.end(result_of("evaluate", verdict="Regressed"))
    world.end(result_of("publish", verdict="Regressed", promoted=True))
    assert world.condition("Promoted") == ("True", "Accepted")


def test_a_regression_names_the_grader_its_numbers_and_what_helps() -> None:
    secondary = {"format": {"delta": -0.06, "low": -0.11, "margin": 0.05, "holds": False}}
    graders = {"fields": {"base": 0.6, "tuned": 0.9}, "format": {"base": 0.98, "tuned": 0.92}}
    world = KubernetesSimulation().to("evaluate")
    world.end(result_of("evaluate", verdict="Regressed", graders=graders, secondary=secondary))
    assert world.status["scores"]["graders"]["format"] == {
        "base": "0.9800", "tuned": "0.9200", "low": "-0.1100", "margin": "0.0500", "holds": False,
    }  # fmt: skip
    world.end(result_of("publish", verdict="Regressed", promoted=False))
    message = world.message("Succeeded")
    for words in (
        "By format",
        "98.0 % became 92.0 %",
        "-11.0 points",
        "margin of 5.0",
        "fewer epochs",
        "Regressed in",
    ):
        assert words in message


UNGRADED = {"verdict": "Ungraded", "ungraded": 9, "ungradedReason": "judge: HTTP 500", "graded": 0.94}


def test_a_result_that_could_not_be_graded_says_why_and_cannot_be_accepted() -> None:
    world = KubernetesSimulation().to("evaluate")
    world.end(result_of("evaluate", **UNGRADED))
    world.end(result_of("publish", verdict="Ungraded", promoted=False))
    assert world.condition("Succeeded") == ("False", "Ungraded")
    message = world.message("Succeeded")
    assert "9 rows could not be graded (judge: HTTP 500)" in message
    assert "evaluate in a new FineTuneJob" in message
    assert "spec.evaluation.accept" not in message
    assert world.status["scores"]["ungraded"] == 9


def test_a_reason_for_ungraded_rows_goes_with_their_number() -> None:
    world = KubernetesSimulation().to("baseline")
    world.end(result_of("baseline", ungraded=1, ungradedReason="judge: HTTP 500", graded=0.99))
    assert world.status["scores"]["ungradedReason"] == "judge: HTTP 500"
    world.to("evaluate").end(result_of("evaluate", ungraded=0, graded=1.0))
    assert world.status["scores"]["ungraded"] == 0
    assert "ungradedReason" not in world.status["scores"]


def test_a_base_that_could_not_be_graded_stops_the_run_before_training() -> None:
    world = KubernetesSimulation().to("baseline")
    world.end(result_of("baseline", blocking=True, **UNGRADED))
    assert world.condition("Succeeded") == ("False", "Ungraded")
    message = world.message("Succeeded")
    assert "judge: HTTP 500" in message
    assert "Nothing was trained" in message
    assert "spec.evaluation.accept" not in message


@pytest.mark.parametrize(
    ("summary", "shown", "words"),
    [
        pytest.param(
            {"detectable": 0.1574, "rowsNeeded": 1507},
            "15.7 points",
            ["improvements from 15.7 points on", "minDelta of 5 points", "about 1507 rows"],
            id="more than the gate asks for",
        ),
        pytest.param(
            {"detectable": 0.2, "rowsNeeded": 300, "groups": 30},
            "20.0 points",
            ["150 held-out rows in 30 groups", "about 300 groups"],
            id="rows in groups",
        ),
        pytest.param({"detectable": None}, "none", ["no improvement is sure to show"], id="nothing can show"),
        pytest.param({"detectable": 0.05}, "5.0 points", [], id="what the gate asks for shows"),
        pytest.param({}, None, [], id="the trainer of an older version does not say"),
        pytest.param({"holdoutUses": 10}, None, [], id="ten uses of the hold-out"),
        pytest.param(
            {"holdoutUses": 11}, None, ["judged 11 tuned models", "fresh hold-out"], id="eleven uses of it"
        ),
    ],
)
def test_what_a_hold_out_cannot_show_is_said_before_a_gpu_trains(
    summary: dict[str, Any], shown: str | None, words: list[str]
) -> None:
    world = KubernetesSimulation().to("baseline")
    world.end(result_of("baseline", **summary))
    assert "-train-" in world.running()
    message = world.message("BaselineScored")
    told = [event.message for event in world.events if event.type == "Warning"]
    assert [word for word in words if word not in message] == []
    assert bool(told) == bool(words)
    assert all(said in message for said in told)
    assert world.status["scores"].get("detectable") == shown
    world.end(result_of("train"))
    world.end(result_of("evaluate"))
    assert world.status["scores"].get("detectable") == shown


def test_the_uses_of_a_hold_out_are_warned_of_after_ten() -> None:
    world = KubernetesSimulation().to("evaluate")
    world.end(result_of("evaluate", holdoutUses=11))
    assert world.status["scores"]["holdoutUses"] == 11
    assert "judged 11 tuned models" in world.message("Evaluated")


def test_the_message_of_no_clear_improvement_points_to_data_or_setup_first() -> None:
    world = KubernetesSimulation().to("evaluate")
    world.end(result_of("evaluate", verdict="NoClearImprovement"))
    world.end(result_of("publish", verdict="NoClearImprovement", promoted=False))
    assert "the data or the setup is wrong" in world.message("Succeeded")
    assert "hold-out shows" not in world.message("Succeeded")


@pytest.mark.parametrize(
    ("effect", "words"),
    [(0.166, "shows improvements from 16.6 points on"), (None, "can show no improvement")],
    ids=["some improvements", "none"],
)
def test_the_message_of_no_clear_improvement_says_what_the_hold_out_could_show(
    effect: float | None, words: str
) -> None:
    world = KubernetesSimulation().to("baseline")
    world.end(result_of("baseline", detectable=effect))
    world.end(result_of("train"))
    world.end(result_of("evaluate", verdict="NoClearImprovement"))
    world.end(result_of("publish", verdict="NoClearImprovement", promoted=False))
    assert words in world.message("Succeeded")


def test_an_accepted_no_clear_improvement_is_promoted_as_accepted() -> None:
    world = KubernetesSimulation(evaluation={"accept": ["NoClearImprovement"]}).to("evaluate")
    world.end(result_of("evaluate", verdict="NoClearImprovement"))
    document = json.loads(world.others["ConfigMap", world.running()]["data"]["job.json"])
    assert document["publish"] == {
        "promoted": True,
        "verdict": "NoClearImprovement",
        "accepted": ["NoClearImprovement"],
    }
    world.end(result_of("publish", verdict="NoClearImprovement", promoted=True))
    assert world.condition("Promoted") == ("True", "Accepted")
    assert world.condition("Succeeded") == ("True", "Accepted")


def test_without_an_evaluation_that_is_accepted_the_scoring_stages_are_skipped() -> None:
    world = KubernetesSimulation(evaluation={"dataset": None, "graders": None, "accept": ["EvalMissing"]}).to(
        "publish"
    )
    assert [s for s, _, _ in stages_of(world)] == ["prepare", "train", "publish"]
    assert world.condition("BaselineScored") == ("False", "EvalMissing")
    assert world.condition("Evaluated") == ("False", "EvalMissing")
    document = json.loads(world.others["ConfigMap", world.running()]["data"]["job.json"])
    assert document["publish"] == {"promoted": True, "verdict": "EvalMissing", "accepted": ["EvalMissing"]}
    assert "evaluation" not in document["spec"]
    world.end(result_of("publish", verdict="EvalMissing"))
    assert world.condition("Succeeded") == ("True", "Accepted")


def test_without_an_evaluation_that_is_not_accepted_nothing_starts() -> None:
    world = KubernetesSimulation(evaluation=None).settle()
    assert (world.created, world.condition("Admitted")) == ([], ("False", "EvalMissing"))


def test_a_published_result_is_adopted_without_running_anything_again() -> None:
    artifact = {
        "destination": "pvc://adapters/reviews-v1",
        "digest": "sha256:" + "b" * 64,
        "promoted": True,
        "verdict": "Promote",
    }
    scores = {"tuned": {"score": 0.9, "low": 0.8, "high": 0.95}, "rows": 150, "verdict": "Promote"}
    world = KubernetesSimulation().settle()
    world.end(result_of("prepare", adopted=True, artifact=artifact, scores=scores))
    assert [s for s, _, _ in stages_of(world)] == ["prepare"]
    for kind in ("BaselineScored", "Trained", "Evaluated", "Published"):
        assert world.condition(kind) == ("True", "Adopted")
    assert world.condition("Succeeded") == ("True", "Promote")
    assert world.status["artifact"] == artifact


def test_an_adopted_result_that_was_not_promoted_is_not_promoted_now() -> None:
    artifact = {"digest": "sha256:" + "b" * 64, "promoted": False, "verdict": "WorseThanBase"}
    world = KubernetesSimulation().settle()
    world.end(result_of("prepare", adopted=True, artifact=artifact, scores={}))
    assert world.condition("Succeeded") == ("False", "WorseThanBase")


@pytest.mark.parametrize(
    "reason", ["UserError", "DatasetChanged", "OutOfMemory", "DiskFull", "Diverged", "TemplateDrift"]
)
def test_a_failure_that_another_attempt_would_repeat_ends_the_run(reason: str) -> None:
    world = KubernetesSimulation().to("train")
    world.end(result_of("train", "Failed", reason))
    assert world.condition("Succeeded") == ("False", reason)
    assert world.condition("Trained") == ("False", reason)
    assert world.condition("Admitted") == ("True", "Scheduled"), "its pods had their nodes"
    assert world.condition("Stalled")[0] == "True"
    assert f"train says {reason}." in world.message("Succeeded")
    assert world.status["attempts"][-1]["number"] == 1


@pytest.mark.parametrize("reason", ["Hang", "Unknown"])
def test_a_failure_of_the_work_that_may_not_repeat_is_tried_three_times(reason: str) -> None:
    world = KubernetesSimulation().to("train")
    for _ in range(3):
        world.fail(reason)
    assert world.condition("Succeeded") == ("False", reason)
    assert [n for s, n, _ in stages_of(world) if s == "train"] == [1, 2, 3]
    assert "3 times" in world.message("Succeeded")


def test_the_second_attempt_may_succeed() -> None:
    world = KubernetesSimulation().to("train")
    world.end(result_of("train", "Interrupted", "Interrupted"))
    assert world.status["stage"] == "Train"
    world.end()
    assert "-evaluate-" in world.running()


def command(world: KubernetesSimulation) -> str:
    return str(world.jobs[world.running()]["spec"]["template"]["spec"]["containers"][0]["args"][0])


def lose_pods(world: KubernetesSimulation) -> None:
    name = world.running()
    world.finish_job(name, good=True)
    world.pods[name] = []
    world.settle()


def delete_job(world: KubernetesSimulation) -> None:
    name = world.running()
    world._delete("Job", name, world.jobs[name]["metadata"]["uid"])
    world.settle()


@pytest.mark.parametrize(("lose", "reason"), [(lose_pods, "ResultLost"), (delete_job, "ChildDeleted")])
def test_a_lost_result_is_read_again_on_the_cpu_before_the_stage_runs_again(lose: Any, reason: str) -> None:
    world = KubernetesSimulation(resources={"gpusPerNode": 1}).to("train")
    lose(world)
    assert world.status["attempts"][-2]["reason"] == reason
    assert command(world) == "reemit"
    container = world.jobs[world.running()]["spec"]["template"]["spec"]["containers"][0]
    assert "nvidia.com/gpu" not in container["resources"]["limits"]
    document = json.loads(world.others["ConfigMap", world.running()]["data"]["job.json"])
    assert document["stage"] == "train"
    world.end()
    assert "-evaluate-" in world.running(), "the stored result was found"


def evict(world: KubernetesSimulation, name: str) -> None:
    """The API server marks the pod; after its grace period it is gone, before anybody has read its message."""
    why = {"reason": "EvictionByEvictionAPI", "message": "Eviction API: evicting"}
    pod = world.pods[name][0]
    pod["metadata"]["deletionTimestamp"] = "2026-01-01T01:00:00Z"
    pod["status"]["conditions"] = [{"type": "DisruptionTarget", "status": "True", **why}]
    world.settle()
    world.finish_job(name, good=False)
    world.pods[name] = []
    world.settle()


def test_an_evicted_pod_that_is_gone_before_its_result_is_read_was_evicted() -> None:
    world = KubernetesSimulation().to("train")
    for number in range(1, 5):
        evict(world, world.running())
        lost = [a for a in world.status["attempts"] if a["stage"] == "train"][-2]
        assert (lost["reason"], lost.get("disruption")) == ("Preempted", None)
        assert "Eviction API: evicting" in lost["message"]
        assert command(world) == "reemit"
        world.end(result_of("train", "Interrupted", "Interrupted"))
        world.pass_time(600)
        assert command(world) == "train", f"eviction {number} is no failure of the work"


def test_a_result_that_was_lost_without_an_eviction_stays_lost() -> None:
    world = KubernetesSimulation().to("train")
    name = world.running()
    world.finish_job(name, good=False)
    world.pods[name] = []
    world.settle()
    assert world.status["attempts"][-2]["reason"] == "ResultLost"


def test_when_nothing_was_stored_the_stage_runs_again() -> None:
    world = KubernetesSimulation().to("train")
    lose_pods(world)
    world.end(result_of("train", "Failed", "NotStored"))
    assert command(world) == "train"
    assert [n for s, n, _ in stages_of(world) if s == "train"] == [1, 2, 3]


def test_losing_every_result_ends_after_a_bounded_number_of_attempts() -> None:
    world = KubernetesSimulation().to("train")
    commands = []
    while world.condition("Succeeded")[0] == "Unknown":
        commands.append(command(world))
        lose_pods(world)
        world.pass_time(600)
    assert (commands.count("train"), commands.count("reemit")) == (3, 9)
    assert world.condition("Succeeded") == ("False", "ResultLost")


def test_a_success_that_lacks_what_the_gate_needs_decides_nothing() -> None:
    world = KubernetesSimulation().to("baseline")
    world.end(result_of("baseline", verdict=None))
    assert "lacks a verdict" in world.status["attempts"][1]["message"]
    assert "-baseline-2-" in world.running()


def test_suspending_stops_the_pods_and_resuming_goes_on_with_the_same_job() -> None:
    world = KubernetesSimulation().to("train")
    name = world.running()
    world.change(suspend=True)
    assert world.jobs[name]["spec"]["suspend"] is True
    assert name not in world.pods
    assert (world.status["stage"], world.condition("Admitted")) == ("Suspended", ("False", "Suspended"))
    world.pass_time(10**5)
    world.change(suspend=False)
    assert (world.running(), world.status["stage"], world.condition("Admitted")[0]) == (name, "Train", "True")
    assert world.created.count(name) == 1
    world.end()
    assert "-evaluate-" in world.running()


def test_a_run_that_is_suspended_between_stages_starts_nothing() -> None:
    world = KubernetesSimulation(suspend=True).settle()
    assert (world.created, world.status.get("attempts")) == ([], [])
    assert world.condition("Succeeded") == ("Unknown", "Suspended")
    world.change(suspend=False)
    assert "-prepare-" in world.running()


def test_a_recorded_attempt_is_not_created_while_suspended() -> None:
    world = KubernetesSimulation().settle()
    world.end_job()
    while len(stages_of(world)) < 2:
        world.reconcile()
    world.change(suspend=True)
    assert len(world.created) == 1


def test_a_deleted_run_is_left_to_its_owner_references() -> None:
    world = KubernetesSimulation().to("train")
    world.object["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z"
    decided = world.decide()
    assert (decided.actions, decided.status) == ((), None)


def test_the_time_to_live_removes_jobs_and_workspace_and_keeps_the_object() -> None:
    world = complete(KubernetesSimulation(ttlSecondsAfterFinished=60))
    assert world.decide().requeue_after == 60
    world.pass_time(61)
    assert (world.jobs, world.pods, world.others) == ({}, {}, {})
    assert set(world.claims) == {"models", "adapters"}
    assert world.condition("Succeeded") == ("True", "Promote")


def test_the_time_to_live_spares_a_workspace_of_the_user() -> None:
    world = KubernetesSimulation(ttlSecondsAfterFinished=0, workspace={"claimName": "mine"})
    world.claims["mine"] = {"metadata": {"uid": "mine"}}
    complete(world)
    assert set(world.claims) == {"models", "adapters", "mine"}
    assert world.jobs == {}


def test_no_time_to_live_keeps_everything_for_looking_at() -> None:
    world = complete(KubernetesSimulation())
    world.pass_time(10**7)
    assert len(world.jobs) == 5


def test_a_wiped_status_is_rebuilt_from_the_jobs_without_running_anything_again() -> None:
    world = complete(KubernetesSimulation())
    created = list(world.created)
    del world.object["status"]
    world.settle()
    assert world.created == created
    assert world.condition("Succeeded") == ("True", "Promote")


def test_the_next_attempt_waits_until_no_pod_of_the_last_one_can_write() -> None:
    world = KubernetesSimulation().to("train")
    name = world.running()
    del world.jobs[name]
    world.settle()
    assert len(world.created) == 3
    assert "waits until pod" in world.message("Succeeded")
    world.pods[name] = []
    world.settle()
    assert command(world) == "reemit"


def test_progress_is_shown_with_a_readable_remaining_time_and_goes_with_its_stage() -> None:
    world = KubernetesSimulation().to("train")
    world.progress = {
        "schemaVersion": 1,
        "stage": "train",
        "step": 12,
        "totalSteps": 74,
        "fraction": 0.16,
        "loss": 1.31,
        "tokensPerSecond": 290.04,
        "etaSeconds": 210,
        "message": "training",
    }
    world.settle()
    assert world.status["progress"] == {
        "percent": 16, "step": 12, "totalSteps": 74, "loss": "1.3100", "tokensPerSecond": "290.0", "etaSeconds": 210, "eta": "4m", "message": "training",
        "steppedAt": "2026-01-01T00:00:00Z",
    }  # fmt: skip
    assert world.decide().requeue_after == 300, "the poller tells of changes"
    world.end()
    assert "progress" not in world.status or world.status["progress"].get("step") is None


def test_every_transition_is_told_as_an_event() -> None:
    world = complete(KubernetesSimulation())
    reasons = [event.reason for event in world.events]
    expected = [
        f"{s}{w}"
        for s in ("Prepare", "Baseline", "Train", "Evaluate", "Publish")
        for w in ("Started", "Succeeded")
    ]
    assert reasons == [*expected, "Promote"]


def test_a_stuck_job_is_deleted_only_after_its_outcome_is_recorded() -> None:
    world = KubernetesSimulation().settle()
    name = world.running()
    pull = {
        "name": "prepare",
        "image": "trainer:1",
        "state": {"waiting": {"reason": "ImagePullBackOff", "message": "not found"}},
    }
    world.pods[name][0]["status"] = {"phase": "Pending", "containerStatuses": [pull]}
    world.settle()
    assert world.condition("Admitted") == ("False", "ImagePull")
    assert "trainer:1" in world.message("Succeeded")
    world.now = world.now.replace(hour=1)
    decided = world.decide()
    assert [a for a in decided.actions if isinstance(a, Delete)] == []
    world.settle()
    assert world.status["attempts"][0]["reason"] == "ImagePull"
    assert name not in world.jobs


def test_an_image_that_becomes_available_in_time_loses_nothing() -> None:
    world = KubernetesSimulation().settle()
    name = world.running()
    pull = {"name": "prepare", "image": "trainer:1", "state": {"waiting": {"reason": "ErrImagePull"}}}
    world.pods[name][0]["status"] = {"phase": "Pending", "containerStatuses": [pull]}
    world.settle()
    world.pods[name][0]["status"] = {"phase": "Running"}
    world.pass_time(599)
    assert world.condition("Admitted")[0] == "True"
    world.end()
    assert "-baseline-" in world.running()


CODE = {"graders": [{"name": "tests", "type": "CodeAssert", "tests": "assert f()"}]}


def test_programs_of_both_models_run_in_pods_of_their_own_before_a_verdict() -> None:
    world = KubernetesSimulation(evaluation=CODE).to("baseline")
    world.end(result_of("baseline", verdict=None, awaits="code"))
    assert world.condition("BaselineScored")[0] == "Unknown"
    assert "-grade-base-" in world.running()
    world.end(result_of("grade-base"))
    assert world.condition("BaselineScored") == ("True", "GoodCandidate")
    world.to("evaluate")
    world.end(result_of("evaluate", verdict=None, awaits="code"))
    assert world.condition("Evaluated")[0] == "Unknown"
    world.end(result_of("grade-tuned"))
    world.end()
    assert world.condition("Succeeded") == ("True", "Promote")
    assert [s for s, _, _ in stages_of(world)] == [
        "prepare", "baseline", "grade-base", "train", "evaluate", "grade-tuned", "publish",
    ]  # fmt: skip


def test_the_network_is_closed_before_a_pod_can_start_that_runs_programs() -> None:
    world = KubernetesSimulation(evaluation=CODE).to("baseline")
    name = world.end(result_of("baseline", verdict=None, awaits="code")).running()
    assert "-grade-base-" in name
    created = [kind for kind, owner in world.others if owner == name]
    assert created == ["NetworkPolicy", "ConfigMap"]


def test_a_base_whose_programs_fail_blocks_before_training() -> None:
    world = KubernetesSimulation(evaluation=CODE).to("baseline")
    world.end(result_of("baseline", verdict=None, awaits="code"))
    world.end(result_of("grade-base", verdict="CheckTaskOrData", blocking=True))
    assert world.condition("Succeeded") == ("False", "CheckTaskOrData")


def test_the_pod_that_runs_programs_sees_nothing_but_them_and_is_cut_off() -> None:
    world = KubernetesSimulation(evaluation=CODE).to("baseline")
    world.end(result_of("baseline", verdict=None, awaits="code"))
    name = world.running()
    pod = world.jobs[name]["spec"]["template"]["spec"]
    [sandbox] = pod["initContainers"]
    assert {mount["mountPath"]: mount.get("readOnly", False) for mount in sandbox["volumeMounts"]} == {
        "/run/programs": True, "/run/sandbox": False, "/tmp": False, "/dev/shm": False,
    }  # fmt: skip
    [programs] = [mount for mount in sandbox["volumeMounts"] if mount["mountPath"] == "/run/programs"]
    assert programs["subPath"] == "results/code"
    assert sandbox["securityContext"]["readOnlyRootFilesystem"] is True
    assert sandbox["resources"]["limits"].keys() >= {"memory"}
    assert pod["automountServiceAccountToken"] is False
    policy = world.others["NetworkPolicy", name]["spec"]
    assert policy["policyTypes"] == ["Ingress", "Egress"]
    assert policy.keys() == {"podSelector", "policyTypes"}
    assert world.jobs[name]["spec"]["template"]["metadata"]["labels"].items() >= {
        ("finetune.dev/uid", policy["podSelector"]["matchLabels"]["finetune.dev/uid"])
    }
