"""Spot interruptions, dead nodes, half a gang, hangs: what a run does while the cluster takes its pods away."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from finetune_operator.api.finetunejobstatus import Attempt
from finetune_operator.core.actions import Refusal
from finetune_operator.stages.attempts import LISTED, condensed, retry
from finetune_operator.stages.money import spent
from finetune_operator.stages.plan import plan
from tests.unit.stages.kubernetes_simulation import SETTINGS, KubernetesSimulation, result_of

Object = dict[str, Any]
GPU = {"gpusPerNode": 8, "gpuType": "h200", "cpu": "8", "memory": "64Gi"}


def training(**changes: Any) -> KubernetesSimulation:
    return KubernetesSimulation(resources={**GPU, **changes}).to("train")


def serve(world: KubernetesSimulation, step: int, **more: Any) -> None:
    world.progress = {"schemaVersion": 1, "stage": "train", "step": step, "totalSteps": 10_000, **more}
    world.settle()


def train_attempts(world: KubernetesSimulation) -> list[Object]:
    return [a for a in world.status["attempts"] if a["stage"] == "train"]


def reemissions_find_nothing(world: KubernetesSimulation) -> None:
    """The CPU attempts after a preemption look for a result that is not there yet."""
    while world.jobs[world.running()]["spec"]["template"]["spec"]["containers"][0]["args"][0] == "reemit":
        world.fail("NotStored")


def preempt(world: KubernetesSimulation) -> None:
    disruption = {"type": "DisruptionTarget", "status": "True", "reason": "PreemptionByScheduler"}
    world.end("", status={"conditions": [disruption], "containerStatuses": None})
    world.pass_time(600)
    if world.condition("Succeeded")[0] == "Unknown":
        reemissions_find_nothing(world)


@pytest.mark.parametrize("disrupt", [preempt, lambda world: world.fail("Interrupted")], ids=["spot", "drain"])
def test_disruptions_never_end_a_run_that_moves(disrupt: Any) -> None:
    world = training()
    for number in range(1, 31):
        serve(world, 100 * number, checkpointStep=100 * number)
        disrupt(world)
    assert world.condition("Succeeded")[0] == "Unknown"
    world.end()
    assert "-evaluate-" in world.running()


def test_a_checkpoint_that_was_written_while_stopping_counts_as_moving() -> None:
    world = training()
    for number in range(1, 15):
        world.end(result_of("train", "Interrupted", "Interrupted", checkpointStep=number))
        world.pass_time(600)
    assert world.condition("Succeeded")[0] == "Unknown"


def test_a_run_that_is_disrupted_ten_times_without_a_newer_checkpoint_is_given_up() -> None:
    world = training()
    serve(world, 5, checkpointStep=5)
    disruptions = 0
    while world.condition("Succeeded")[0] == "Unknown":
        world.fail("Interrupted")
        disruptions += 1
    assert disruptions == 11, "the first one had moved"
    assert world.condition("Succeeded") == ("False", "Interrupted")
    assert "11 times" in world.message("Succeeded")


def test_the_wait_between_attempts_doubles_and_is_told() -> None:
    known = [Attempt(stage="train", number=n, job="j", state="Failed", reason="Interrupted", finish_time="2026-01-01T00:00:00Z") for n in range(1, 10)]  # fmt: skip
    delays = [(again.at.minute * 60 + again.at.second) for n in range(1, 10) if (again := retry(known[:n]))]
    assert delays == [0, 10, 20, 40, 80, 160, 320, 600, 600]
    world = training()
    for _ in range(2):
        world.end(result_of("train", "Interrupted", "Interrupted"))
    assert "Retrying at 2026-01-01T00:00:10Z" in world.message("Succeeded")
    assert world.decide().requeue_after == 10


def attempts() -> st.SearchStrategy[list[Attempt]]:
    kinds = st.tuples(
        st.sampled_from(["Interrupted", "Preempted", "NodeLost"]),
        st.sampled_from(["1.80", "3.60"]),
        st.integers(0, 5000),
        st.booleans(),
    )
    return st.lists(kinds, max_size=250).map(
        lambda given: [
            Attempt(
                stage="train", number=n, job=f"train-{n}", state="Failed", reason=reason, gpus=8, price_per_hour=price,
                held_seconds=held, reemits=reemits or None, finish_time="2026-01-01T00:00:00Z", checkpoint_step=n,
            )
            for n, (reason, price, held, reemits) in enumerate(given, 1)
        ]
    )  # fmt: skip


@settings(max_examples=40, deadline=None)
@given(attempts())
def test_a_list_of_many_attempts_is_summed_up_and_keeps_its_cost(found: list[Attempt]) -> None:
    now = KubernetesSimulation().now
    short = condensed(found)
    assert len(short) <= LISTED
    assert spent(short, now) == spent(found, now)
    assert sum(a.sums_up or 1 for a in short) == len(found)
    assert [a.number for a in short[-10:]] == [a.number for a in found[-10:]]
    assert condensed(short) == short


def terminate(world: KubernetesSimulation, due: str = "2026-01-01T00:02:00Z") -> Object:
    pod = world.pods[world.running()][0]
    pod["metadata"] |= {"deletionTimestamp": due, "uid": "pod-1"}
    pod["status"]["conditions"] = [
        {"type": "DisruptionTarget", "status": "True", "reason": "DeletionByTaintManager"}
    ]
    return pod


def test_a_pod_that_a_dead_node_keeps_is_named_and_given_up_after_the_deadline() -> None:
    world = training()
    pod = terminate(world)
    world.pass_time(130)
    assert world.condition("Admitted") == ("False", "NodeNotReady")
    waiting = world.status["waiting"]
    assert (waiting["node"], waiting["since"]) == ("node-1", "2026-01-01T00:02:00Z")
    assert waiting["until"] == "2026-01-01T00:32:00Z"
    assert "kubectl delete node node-1" in waiting["message"]
    world.pass_time(1800)
    (first, second) = train_attempts(world)
    assert (first["reason"], first["node"]) == ("NodeLost", "node-1")
    assert pod["metadata"]["name"] not in str(world.pods), "the pod that nobody ends was removed by force"
    assert second["reemits"] is True
    reemissions_find_nothing(world)
    affinity = world.jobs[world.running()]["spec"]["template"]["spec"]["affinity"]["nodeAffinity"]
    (preferred,) = affinity["preferredDuringSchedulingIgnoredDuringExecution"]
    assert preferred["preference"]["matchFields"] == [
        {"key": "metadata.name", "operator": "NotIn", "values": ["node-1"]}
    ]


def test_a_pod_that_is_to_go_is_looked_at_soon_for_no_event_tells_that_it_stays() -> None:
    world = training()
    world.settle()
    assert world.decide().requeue_after == 300
    terminate(world)
    assert world.decide().requeue_after == 10


def test_a_node_that_does_not_answer_is_told_before_its_pods_are_deleted() -> None:
    world = training()
    world.pods[world.running()][0]["status"]["conditions"] = [
        {"type": "ContainersReady", "status": "True"},
        {"type": "Ready", "status": "False", "lastTransitionTime": "2026-01-01T00:00:00Z"},
    ]
    world.pass_time(60)
    assert world.condition("Admitted") == ("False", "NodeNotReady")
    assert "Node node-1" in world.message("Succeeded")
    world.pods[world.running()][0]["status"]["conditions"] = []
    world.settle()
    assert (world.condition("Admitted")[0], world.status.get("waiting")) == ("True", None)


def unplaced(world: KubernetesSimulation, index: int) -> None:
    pod = world.pods[world.running()][index]
    del pod["spec"]["nodeName"]
    placed = {"type": "PodScheduled", "status": "False", "message": "0/2 nodes are available"}
    pod["status"] = {
        "phase": "Pending",
        "conditions": [{**placed, "lastTransitionTime": "2026-01-01T00:00:00Z"}],
    }


def test_a_gang_that_is_placed_in_part_lets_its_gpus_go_and_tries_again() -> None:
    world = KubernetesSimulation(resources={**GPU, "nodes": 2}, workspace={"claimName": "mine"})
    world.claims["mine"] = {"metadata": {"uid": "mine"}, "spec": {"accessModes": ["ReadWriteMany"]}}
    world.to("train")
    unplaced(world, 1)
    world.pass_time(30)
    assert world.condition("Admitted") == ("False", "GangIncomplete")
    assert "1 of 2 pods have nodes (node-1)" in world.message("Admitted")
    world.pass_time(1800)
    assert [a["reason"] for a in train_attempts(world) if "reason" in a] == ["PeersMissing"]
    assert "-train-2-" in world.running()


def test_a_whole_gang_without_nodes_waits_as_long_as_the_scheduler_may() -> None:
    world = KubernetesSimulation(resources={**GPU, "nodes": 2}, workspace={"claimName": "mine"})
    world.claims["mine"] = {"metadata": {"uid": "mine"}, "spec": {"accessModes": ["ReadWriteMany"]}}
    world.to("train")
    for index in (0, 1):
        unplaced(world, index)
    world.pass_time(7200)
    assert world.condition("Admitted") == ("False", "Unschedulable")
    assert world.condition("Succeeded")[0] == "Unknown"


CANNOT_START = [
    pytest.param(
        {
            "conditions": [
                {"type": "PodScheduled", "status": "True", "lastTransitionTime": "2026-01-01T00:00:00Z"},
                {"type": "PodReadyToStartContainers", "status": "False"},
            ]
        },
        id="volumes or network",
    ),
    pytest.param(
        {
            "containerStatuses": [
                {"name": "train", "state": {"waiting": {"reason": "RunContainerError", "message": "no GPU"}}}
            ]
        },
        id="a container that cannot be created",
    ),
]


@pytest.mark.parametrize("status", CANNOT_START)
def test_a_pod_that_holds_gpus_and_does_not_start_is_given_up(status: Object) -> None:
    world = training()
    world.pods[world.running()][0]["status"] = {"phase": "Pending", **status}
    world.pass_time(70)
    assert world.condition("Admitted")[0] == "False"
    assert world.status["waiting"]["node"] == "node-1"
    world.pass_time(1801)
    assert (train_attempts(world)[0]["reason"], train_attempts(world)[0]["node"]) == ("NotStarted", "node-1")
    assert "-train-2-" in world.running()


@pytest.mark.parametrize("status", CANNOT_START)
def test_a_pod_without_gpus_may_wait_for_its_volumes(status: Object) -> None:
    world = KubernetesSimulation().to("train")
    world.pods[world.running()][0]["status"] = {"phase": "Pending", **status}
    world.pass_time(10**6)
    assert world.condition("Succeeded")[0] == "Unknown"
    assert "-train-1-" in world.running()


def test_a_trouble_that_is_seen_first_after_its_deadline_is_noted_before_the_attempt_is_given_up() -> None:
    world = training()
    world.now += timedelta(seconds=7200)
    scheduled = {"type": "PodScheduled", "status": "True", "lastTransitionTime": "2026-01-01T00:00:00Z"}
    made = {"type": "PodReadyToStartContainers", "status": "False"}
    world.pods[world.running()][0]["status"] = {"phase": "Pending", "conditions": [scheduled, made]}
    world.reconcile()
    assert train_attempts(world)[0]["state"] == "Running", "its pods have not been read live"
    assert world.status["waiting"]["until"] < "2026-01-01T02:00:00Z"
    world.settle()
    assert train_attempts(world)[0]["reason"] == "NotStarted"


def test_an_image_that_fails_after_a_long_wait_for_a_node_has_its_whole_deadline() -> None:
    world = training()
    unplaced(world, 0)
    world.pass_time(1200)
    waiting = {"name": "train", "image": "trainer:1", "state": {"waiting": {"reason": "ErrImagePull"}}}
    world.pods[world.running()][0]["spec"]["nodeName"] = "node-1"
    world.pods[world.running()][0]["status"] = {"phase": "Pending", "containerStatuses": [waiting]}
    world.settle().pass_time(599)
    assert world.condition("Succeeded") == ("Unknown", "ImagePull")
    world.pass_time(2)
    assert train_attempts(world)[0]["reason"] == "ImagePull"


def test_a_step_that_does_not_end_is_shown_as_a_hang_and_tried_again() -> None:
    world = training()
    serve(world, 12, stepSeconds=3.0)
    world.pass_time(1700)
    assert world.condition("Succeeded")[1] == "Training"
    world.pass_time(200)
    assert world.condition("Succeeded") == ("Unknown", "Hang")
    assert "Step 12 of 10000 was the last to end, at 2026-01-01T00:00:00Z" in world.message("Succeeded")
    world.pass_time(1800)
    assert (train_attempts(world)[0]["reason"], train_attempts(world)[0]["node"]) == ("Hang", "node-1")
    assert "-train-2-" in world.running()


def test_a_frozen_process_is_looked_at_when_its_step_becomes_a_hang() -> None:
    world = training()
    serve(world, 12, stepSeconds=3.0)
    world.pass_time(1690)
    assert world.decide().requeue_after == pytest.approx(1800 - 1690, abs=1)


def test_long_steps_and_long_saves_are_no_hang() -> None:
    world = training()
    world.progress = {
        "schemaVersion": 1,
        "stage": "train",
        "step": 2,
        "stepSeconds": 300.0,
        "checkpointSeconds": 900,
    }
    world.settle().pass_time(7700)  # 20 x 300 s and 2 x 900 s
    assert world.condition("Succeeded")[1] == "Training"
    world.pass_time(200)
    assert world.condition("Succeeded")[1] == "Hang"


def test_loading_a_large_base_is_no_hang_before_a_step_is_measured() -> None:
    world = training()
    serve(world, 0)
    world.pass_time(10**4)
    assert world.condition("Succeeded")[1] == "Training"
    assert "-train-1-" in world.running()


def test_a_stage_that_the_operator_cannot_reach_is_shown_as_silent_and_not_ended() -> None:
    world = training()
    serve(world, 12, stepSeconds=3.0)
    world.progress_at = world.now
    world.pass_time(10**5)
    assert world.condition("Succeeded")[1] == "Training"
    assert world.status["progress"]["silentSince"] == "2026-01-01T00:00:00Z"


def test_a_stage_that_is_asked_rarely_because_there_are_many_is_not_silent() -> None:
    world = training()
    serve(world, 12, stepSeconds=3.0)
    world.now += timedelta(seconds=330)
    observed = replace(world.observe(), progress_at=world.now - timedelta(seconds=330), progress_failed=False)
    status = plan(observed, world.settings, world.now).status
    assert status is not None
    assert "silentSince" not in status["progress"]


def test_a_result_counts_although_a_sidecar_runs_on() -> None:
    world = training()
    name = world.running()
    ended_at = "2026-01-01T00:00:00Z"
    state = {"terminated": {"exitCode": 0, "message": result_of("train"), "finishedAt": ended_at}}
    world.pods[name][0]["status"] = {
        "phase": "Running",
        "containerStatuses": [
            {"name": "train", "state": state},
            {"name": "istio-proxy", "state": {"running": {}}},
        ],
    }
    world.pass_time(20)
    assert train_attempts(world)[0]["state"] == "Running", "an ordinary end reaches the Job within seconds"
    assert world.decide().requeue_after == 10
    world.pass_time(10)
    assert train_attempts(world)[0]["state"] == "Succeeded"
    assert name not in world.jobs, "the Job that the sidecar keeps alive is deleted"
    assert "-evaluate-" in world.running()


def test_a_gang_is_judged_when_all_its_pods_have_ended() -> None:
    world = KubernetesSimulation(resources={**GPU, "nodes": 2}, workspace={"claimName": "mine"})
    world.claims["mine"] = {"metadata": {"uid": "mine"}, "spec": {"accessModes": ["ReadWriteMany"]}}
    world.to("train")
    ended = {"name": "train", "state": {"terminated": {"exitCode": 1, "finishedAt": "2026-01-01T00:00:00Z"}}}
    world.pods[world.running()][1]["status"] = {"phase": "Running", "containerStatuses": [ended]}
    world.pass_time(3600)
    assert train_attempts(world)[0]["state"] == "Running"


def test_a_job_that_somebody_else_suspended_stays_suspended_and_is_shown() -> None:
    world = training()
    name = world.running()
    world.jobs[name]["spec"]["suspend"] = True
    world.settle().pass_time(3600)
    assert world.jobs[name]["spec"]["suspend"] is True
    assert world.condition("Admitted") == ("False", "JobSuspended")
    assert f"Job {name} is suspended by somebody else" in world.message("Succeeded")
    world.jobs[name]["spec"]["suspend"] = False
    world.settle()
    assert world.condition("Admitted")[0] == "True"


REFUSALS = [
    pytest.param(
        'jobs.batch "x" is forbidden: exceeded quota: jobs, used: 5, limited: 5', "False", id="a quota"
    ),
    pytest.param('admission webhook "policy" denied the request: no GPUs on Fridays', "True", id="a webhook"),
]


@pytest.mark.parametrize(("sentence", "stalled"), REFUSALS)
def test_a_refused_child_is_in_the_status_with_the_servers_sentence(sentence: str, stalled: str) -> None:
    world = KubernetesSimulation()
    world.reconcile()
    world.refusal = Refusal("Job", "run-prepare-1", "Refused", sentence)
    status = world.decide().status
    assert status is not None
    conditions = {c["type"]: (c["status"], c["reason"], c["message"]) for c in status["conditions"]}
    assert conditions["Admitted"] == ("False", "Refused", sentence)
    assert conditions["Succeeded"] == ("Unknown", "Refused", sentence)
    assert conditions["Stalled"][0] == stalled


def test_the_jobs_of_earlier_attempts_are_removed_once_their_outcome_is_recorded() -> None:
    world = training()
    for number in range(1, 8):
        serve(world, number, checkpointStep=number)
        world.fail("Interrupted")
    assert sorted(name for name in world.jobs if "-train-" in name) == sorted(
        a["job"] for a in train_attempts(world)[-2:]
    )


def test_the_administrators_time_to_live_applies_where_the_spec_has_none() -> None:
    limit = SETTINGS.model_copy(update={"ttl_seconds_after_finished": 3600})
    for asked, left in ((None, 0), (7200, 5)):
        world = KubernetesSimulation(settings=limit, ttlSecondsAfterFinished=asked)
        world.to("publish").end()
        world.pass_time(3601)
        assert len(world.jobs) == left


def gang() -> KubernetesSimulation:
    world = KubernetesSimulation(resources={**GPU, "nodes": 2}, workspace={"claimName": "mine"})
    world.claims["mine"] = {"metadata": {"uid": "mine"}, "spec": {"accessModes": ["ReadWriteMany"]}}
    return world.to("train")


def test_a_gang_whose_second_pod_was_never_made_holds_its_gpus_no_longer_than_the_deadline() -> None:
    world = gang()
    name = world.running()
    world.pods[name] = world.pods[name][:1]
    world.jobs[name]["status"] = {"startTime": "2026-01-01T00:00:00Z"}
    world.pass_time(60)
    assert world.condition("Admitted") == ("False", "GangIncomplete")
    assert "1 of 2 pods" in world.message("Admitted")
    world.pass_time(1800)
    assert train_attempts(world)[0]["reason"] == "PeersMissing"


def test_the_time_of_half_a_gang_begins_when_it_gets_its_first_node() -> None:
    world = gang()
    for index in (0, 1):
        unplaced(world, index)
    world.pass_time(3 * 3600)
    pod = world.pods[world.running()][0]
    pod["spec"]["nodeName"] = "node-1"
    placed = {"type": "PodScheduled", "status": "True", "lastTransitionTime": "2026-01-01T03:00:00Z"}
    pod["status"] = {"phase": "Running", "conditions": [placed]}
    world.settle()
    assert world.condition("Admitted") == ("False", "GangIncomplete")
    assert world.status["waiting"]["until"] == "2026-01-01T03:30:00Z"


def test_a_run_that_the_operator_before_this_one_suspended_goes_on() -> None:
    world = training()
    name = world.running()
    world.change(suspend=True)
    del world.jobs[name]["metadata"]["annotations"]
    del world.object["status"]["pinned"]
    world.change(suspend=False)
    assert world.jobs[name]["spec"]["suspend"] is False


def test_an_injected_container_that_keeps_ending_lets_the_gpus_go() -> None:
    world = training()
    crashing = {
        "name": "mesh-proxy",
        "restartCount": 7,
        "state": {"waiting": {"reason": "CrashLoopBackOff"}},
        "lastState": {"terminated": {"exitCode": 2, "message": "no certificate"}},
    }
    status = {"phase": "Pending", "initContainerStatuses": [crashing]}
    world.pods[world.running()][0]["status"] = status
    world.settle()
    assert world.condition("Admitted") == ("False", "CrashLoopBackOff")
    assert "mesh-proxy" in world.message("Admitted")
    assert "no certificate" in world.message("Admitted")
    world.pass_time(1801)
    assert train_attempts(world)[0]["reason"] == "NotStarted"


def test_a_pod_that_never_runs_lets_its_gpus_go_whatever_the_cause() -> None:
    world = training()
    placed = {"type": "PodScheduled", "status": "True", "lastTransitionTime": "2026-01-01T00:00:00Z"}
    world.pods[world.running()][0]["status"] = {"phase": "Pending", "conditions": [placed]}
    world.pass_time(3600 * 24)
    assert train_attempts(world)[0]["reason"] == "NotStarted"


def test_a_pod_that_no_scheduler_looks_at_is_told() -> None:
    world = training()
    pod = world.pods[world.running()][0]
    del pod["spec"]["nodeName"]
    pod["spec"]["schedulerName"] = "volcanoe"
    pod["status"] = {"phase": "Pending"}
    world.pass_time(61)
    assert world.condition("Admitted") == ("False", "Unschedulable")
    assert "volcanoe has not looked at it" in world.message("Admitted")


def test_time_in_suspension_is_no_hang() -> None:
    world = KubernetesSimulation(resources=GPU).to("baseline")
    world.progress = {"schemaVersion": 1, "stage": "baseline", "step": 0}
    world.settle()
    world.change(suspend=True)
    assert world.status.get("progress") is None
    world.pass_time(10 * 3600)
    world.change(suspend=False)
    world.settle()
    assert world.condition("Succeeded")[1] == "ScoringBase"


def test_a_gpu_job_that_was_released_and_vanished_is_not_created_again_under_its_name() -> None:
    world = training()
    name = world.running()
    world.jobs.pop(name)
    world.pods.pop(name)
    world.settle()
    assert world.created.count(name) == 1
    assert train_attempts(world)[0]["reason"] == "ChildDeleted"


def test_the_deadline_of_a_dead_node_goes_on_when_its_pods_are_deleted() -> None:
    world = training()
    silent = [
        {"type": "ContainersReady", "status": "True"},
        {"type": "Ready", "status": "False", "lastTransitionTime": "2026-01-01T00:00:00Z"},
    ]
    world.pods[world.running()][0]["status"]["conditions"] = silent
    world.pass_time(300)
    pod = terminate(world, "2026-01-01T00:25:00Z")
    pod["status"]["conditions"] += silent
    world.pass_time(60)
    assert world.condition("Admitted") == ("False", "NodeNotReady")
    world.pass_time(1260)
    assert world.status["waiting"]["until"] == "2026-01-01T00:30:00Z"


def test_a_result_is_read_again_although_the_budget_is_used_up() -> None:
    world = KubernetesSimulation(resources=GPU, budget={"limit": "60", "currency": "USD"}).to("train")
    world.pass_time(2 * 3600)
    lost = world.running()
    world.finish_job(lost, good=True)
    world.pods[lost] = []
    world.settle()
    container = world.jobs[world.running()]["spec"]["template"]["spec"]["containers"][0]
    assert container["args"][0] == "reemit"


def test_a_lost_node_beats_an_engine_that_was_oom_killed_long_ago() -> None:
    world = KubernetesSimulation(resources=GPU).to("baseline")
    engine = {
        "name": "engine",
        "state": {"running": {}},
        "lastState": {"terminated": {"reason": "OOMKilled"}},
    }
    gone = {"type": "DisruptionTarget", "status": "True", "reason": "DeletionByTaintManager"}
    world.end("", status={"conditions": [gone], "containerStatuses": None, "initContainerStatuses": [engine]})
    assert world.status["attempts"][1]["reason"] == "NodeLost"


def test_a_deeply_nested_message_of_a_pod_is_no_result() -> None:
    world = training()
    world.end("[" * 4000)
    assert train_attempts(world)[0]["reason"] == "Unknown"
