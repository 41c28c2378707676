"""Why a run waits or an attempt ended, in words."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from finetune_operator.contracts.engine import EngineProfile
from finetune_operator.observe.outcome import outcome_of
from tests.unit.stages.kubernetes_simulation import KubernetesSimulation, result_of

NOW = datetime(2026, 1, 1, tzinfo=UTC)

Object = dict[str, Any]
FAILED = {
    "status": {
        "conditions": [{"type": "Failed", "status": "True", "message": "Job has reached the backoff limit"}]
    }
}
COMPLETE = {"status": {"conditions": [{"type": "Complete", "status": "True"}]}}


def pod(index: int = 0, message: str = "", code: int = 1, reason: str = "Error", **more: Any) -> Object:
    ended = {"exitCode": code, "reason": reason, "message": message}
    status = {
        "phase": "Succeeded" if code == 0 else "Failed",
        "containerStatuses": [{"name": "train", "state": {"terminated": ended}}],
    }
    metadata = {"name": f"p-{index}", "labels": {"batch.kubernetes.io/job-completion-index": str(index)}}
    spec = {"nodeName": "n", "containers": [{"name": "train", "resources": {"limits": {"memory": "6Gi"}}}]}
    return {"metadata": metadata, "spec": spec, "status": {**status, **more}}


def starting(ended: Object) -> Object:
    """A pod whose first container did not do its work."""
    waiting = [{"name": "prepare", "state": {"waiting": {"reason": "PodInitializing"}}}]
    first = [{"name": "workspace", "state": {"terminated": ended}}]
    return pod(containerStatuses=waiting, initContainerStatuses=first)


def disrupted(reason: str) -> Object:
    return {
        "conditions": [
            {"type": "DisruptionTarget", "status": "True", "reason": reason, "message": "a node went"}
        ]
    }


def said(reason: str, outcome: str = "Failed") -> str:
    return result_of("train", outcome, reason)


OUTCOMES = [
    pytest.param(
        FAILED,
        [pod(message=said("UserError"), code=64)],
        "UserError",
        "train says UserError",
        id="the trainer's own word",
    ),
    pytest.param(
        FAILED, [pod(code=137, reason="OOMKilled")], "OutOfMemory", "6Gi", id="a container killed for memory"
    ),
    pytest.param(
        FAILED,
        [starting({"exitCode": 1, "reason": "Error", "message": "mkdir: Permission denied"})],
        "Unknown",
        "Container workspace of pod p-0 exited with code 1 and no result: mkdir: Permission denied.",
        id="a container that runs before the trainer",
    ),
    pytest.param(
        FAILED,
        [pod(code=137, **disrupted("PreemptionByScheduler"))],
        "Preempted",
        "a node went",
        id="a preempted pod",
    ),
    pytest.param(
        FAILED,
        [pod(code=137, **disrupted("EvictionByEvictionAPI"))],
        "Preempted",
        "a node went",
        id="an evicted pod",
    ),
    pytest.param(
        FAILED,
        [
            pod(code=137, reason="Error")
            | {"status": {"phase": "Failed", "reason": "Evicted", "message": "low on memory"}}
        ],
        "Preempted",
        "low on memory",
        id="a pod under node pressure",
    ),
    pytest.param(
        FAILED,
        [pod(code=137, **disrupted("DeletionByTaintManager"))],
        "NodeLost",
        "with n",
        id="an unreachable node",
    ),
    pytest.param(
        FAILED,
        [pod(code=75, message=said("Interrupted", "Interrupted"), **disrupted("PreemptionByScheduler"))],
        "Interrupted",
        "Cause: a node went",
        id="an interrupted stage says by whom",
    ),
    pytest.param(FAILED, [pod(code=139)], "Unknown", "code 139", id="a crash without a word"),
    pytest.param(FAILED, [], "ResultLost", "backoff limit", id="no pod left"),
    pytest.param(
        COMPLETE,
        [pod(code=0, message="nonsense")],
        "ResultLost",
        "no pod is left",
        id="a result nobody can read",
    ),
    pytest.param(
        COMPLETE,
        [pod(code=0, message=result_of("prepare"))],
        "ResultLost",
        "no pod is left",
        id="a result of another stage",
    ),
    pytest.param(None, [], "ChildDeleted", "deleted", id="a deleted Job"),
    pytest.param(
        None,
        [pod(code=0, message=said("Completed", "Succeeded"))],
        "Completed",
        "",
        id="a deleted Job whose pod still tells",
    ),
    pytest.param(
        FAILED,
        [pod(0, code=75, message=said("Interrupted", "Interrupted")), pod(1, code=137, reason="OOMKilled")],
        "OutOfMemory",
        "p-1",
        id="of a gang the cause is told",
    ),
    pytest.param(
        FAILED,
        [pod(0, code=1, message=said("Unknown")), pod(1, code=74, message=said("DiskFull"))],
        "DiskFull",
        "train says DiskFull",
        id="a full disk beats the peers that lost contact",
    ),
    pytest.param(
        FAILED,
        [pod(0, message=said("Unknown")), pod(1, code=137, **disrupted("PreemptionByScheduler"))],
        "Preempted",
        "p-1",
        id="lost peers are a consequence",
    ),
    pytest.param(
        FAILED,
        [pod(0, code=0, message=said("Completed", "Succeeded")), pod(1, code=1)],
        "Completed",
        "",
        id="rank 0 is done when all are",
    ),
]


@pytest.mark.parametrize(("job", "pods", "reason", "words"), OUTCOMES)
def test_an_ended_attempt_is_classified(
    job: Object | None, pods: list[Object], reason: str, words: str
) -> None:
    outcome = outcome_of("train", job, pods, NOW)
    assert outcome is not None
    assert outcome.reason == reason
    assert words in outcome.message
    assert outcome.succeeded == (reason == "Completed")


RUNNING = [
    pytest.param({"status": {}}, [], id="no pod yet"),
    pytest.param({"status": {}}, [pod()], id="a pod failed but the Job has not ended"),
    pytest.param(None, [{"status": {"phase": "Running"}}], id="a pod outlives its Job"),
]


@pytest.mark.parametrize(("job", "pods"), RUNNING)
def test_an_attempt_goes_on(job: Object | None, pods: list[Object]) -> None:
    assert outcome_of("train", job, pods, NOW) is None


def waiting(reason: str, message: str = "") -> Object:
    return {
        "name": "train",
        "image": "trainer:1",
        "state": {"waiting": {"reason": reason, "message": message}},
    }


def scheduling(status: str, message: str = "", at: str = "2026-01-01T00:00:00Z") -> Object:
    return {"type": "PodScheduled", "status": status, "message": message, "lastTransitionTime": at}


MOUNTING = {"type": "PodReadyToStartContainers", "status": "False"}
HUB: Object = {
    "baseModel": {"source": "hf://org/m", "revision": "0" * 40, "credentialsSecretRef": {"name": "hub-token"}}
}

TROUBLES = [
    pytest.param(
        {"containerStatuses": [waiting("ErrImagePull", "manifest unknown")]},
        "ImagePull",
        ["trainer:1", "manifest unknown"],
        id="an image that cannot be pulled",
    ),
    pytest.param(
        {"containerStatuses": [waiting("InvalidImageName")]},
        "ImagePull",
        ["trainer:1"],
        id="an image with a wrong name",
    ),
    pytest.param(
        {"containerStatuses": [waiting("CreateContainerConfigError", 'secret "hub" not found')]},
        "ContainerConfig",
        ['secret "hub" not found'],
        id="a container that lacks a Secret",
    ),
    pytest.param(
        {"conditions": [scheduling("False", "0/1 nodes: insufficient cpu")]},
        "Unschedulable",
        ["insufficient cpu"],
        id="no node fits",
    ),
    pytest.param(
        {"conditions": [scheduling("True"), MOUNTING]},
        "SecretOrVolumeMissing",
        ["Secret hub-token", "token"],
        id="a Secret that does not exist",
    ),
]


@pytest.mark.parametrize(("status", "reason", "words"), TROUBLES)
def test_a_pod_that_cannot_run_is_explained_at_once(status: Object, reason: str, words: list[str]) -> None:
    world = KubernetesSimulation(**HUB).settle()
    world.pods[world.running()][0]["status"] = {"phase": "Pending", **status}
    world.pass_time(70)
    assert world.condition("Admitted") == ("False", reason)
    message = world.message("Succeeded")
    assert [w for w in words if w not in message] == []
    assert world.condition("Succeeded") == ("Unknown", reason)
    assert [e.reason for e in world.events].count(reason) == 1
    world.pass_time(100)
    assert world.condition("Succeeded")[0] == "Unknown"


def test_a_pod_that_waits_a_moment_for_its_new_volume_is_no_trouble() -> None:
    world = KubernetesSimulation().settle()
    waits = {"phase": "Pending", "conditions": [scheduling("False", "unbound PersistentVolumeClaims")]}
    world.pods[world.running()][0]["status"] = waits
    world.pass_time(2)
    assert world.condition("Succeeded")[1] != "Unschedulable"
    assert [e.reason for e in world.events if e.type == "Warning"] == []


def test_a_pod_that_is_taken_down_after_its_work_is_no_trouble() -> None:
    world = KubernetesSimulation().settle()
    ending = {"phase": "Running", "conditions": [scheduling("True"), MOUNTING]}
    world.pods[world.running()][0]["status"] = ending
    world.pass_time(20)
    assert [e.reason for e in world.events if e.type == "Warning"] == []


DEADLINES = [
    pytest.param({"conditions": [scheduling("False", "no")]}, "Unschedulable", 86400, id="node"),
]


def test_an_image_that_cannot_be_pulled_is_tried_three_times() -> None:
    world = KubernetesSimulation().settle()
    for _ in range(3):
        status = {"phase": "Pending", "containerStatuses": [waiting("ErrImagePull")]}
        world.pods[world.running()][0]["status"] = status
        world.pass_time(1)
        world.pass_time(601)
        world.pass_time(600)
    assert world.condition("Succeeded") == ("False", "ImagePull")
    assert [a["number"] for a in world.status["attempts"]] == [1, 2, 3]


@pytest.mark.parametrize(("status", "reason", "seconds"), DEADLINES)
def test_waiting_ends_after_the_administrators_deadline(status: Object, reason: str, seconds: int) -> None:
    world = KubernetesSimulation().settle()
    world.pods[world.running()][0]["status"] = {"phase": "Pending", **status}
    world.pass_time(6)
    world.pass_time(seconds - 7)
    assert world.condition("Succeeded")[0] == "Unknown"
    world.pass_time(8)
    assert world.condition("Succeeded") == ("False", reason)
    assert world.jobs == {}, "the stuck Job is gone"


def engine(reason: str, message: str) -> Object:
    last = {"terminated": {"exitCode": 1, "reason": reason, "message": message}}
    return {"initContainerStatuses": [{"name": "engine", "restartCount": 3, "lastState": last, "state": {}}]}


@pytest.mark.parametrize(
    ("last", "reason", "attempts"), [("Error", "EngineFailed", 3), ("OOMKilled", "OutOfMemory", 1)]
)
def test_an_engine_that_keeps_ending_is_tried_on_other_nodes_unless_it_needs_more_memory(
    last: str, reason: str, attempts: int
) -> None:
    world = KubernetesSimulation().to("baseline")
    for number in range(1, attempts + 1):
        assert f"-baseline-{number}-" in world.running()
        world.pods[world.running()][0]["status"] = {"phase": "Pending", **engine(last, "unsupported model")}
        world.settle().pass_time(600)
    assert world.condition("Succeeded") == ("False", reason)
    assert ("unsupported model" in world.message("Succeeded")) == (reason == "EngineFailed")


@pytest.mark.parametrize(
    ("stage", "remedy"),
    [
        ("prepare", "cpuStages.memory of the chart"),
        ("train", "raise spec.resources.memory"),
        ("publish", "cpuStages.memory of the chart"),
    ],
)
def test_memory_is_raised_where_it_is_set(stage: str, remedy: str) -> None:
    outcome = outcome_of(stage, FAILED, [pod(code=137, reason="OOMKilled")], NOW)
    assert outcome is not None
    assert outcome.reason == "OutOfMemory"
    assert remedy in outcome.message


def test_an_engine_that_runs_after_its_third_restart_is_no_trouble() -> None:
    world = KubernetesSimulation().to("baseline")
    status = engine("Error", "out of GPU memory")
    status["initContainerStatuses"][0]["started"] = True
    world.pods[world.running()][0]["status"] = {"phase": "Running", **status}
    world.settle()
    assert world.condition("Succeeded")[0] == "Unknown"
    world.end()
    assert "-train-" in world.running()


def test_a_job_without_pods_points_to_quota_and_admission() -> None:
    world = KubernetesSimulation().settle()
    name = world.running()
    world.pods[name] = []
    world.jobs[name]["status"] = {"startTime": "2026-01-01T00:00:00Z"}
    world.pass_time(60)
    assert world.condition("Admitted") == ("False", "NoPods")
    assert f"kubectl describe job {name}" in world.message("Admitted")


def test_a_job_whose_pods_have_just_gone_is_not_refused_any() -> None:
    world = KubernetesSimulation().to("train")
    name = world.running()
    world.pods[name] = []
    world.jobs[name]["status"] = {"startTime": "2026-01-01T00:00:00Z", "active": 1}
    world.pass_time(60)
    assert world.condition("Admitted") != ("False", "NoPods")


MISSING = [
    pytest.param(
        {"dataset": {"source": "configmap://absent/train.jsonl"}},
        "ConfigMapNotFound",
        "ConfigMap absent",
        id="a ConfigMap",
    ),
    pytest.param(
        {"dataset": {"source": "configmap://reviews/absent.jsonl"}},
        "ConfigMapKeyNotFound",
        "absent.jsonl",
        id="a key",
    ),
    pytest.param(
        {
            "evaluation": {
                "regression": {
                    "suites": [
                        {
                            "name": "general",
                            "dataset": {"source": "configmap://absent/suite.jsonl"},
                            "grader": {"name": "exact", "type": "ExactMatch"},
                        }
                    ]
                }
            }
        },
        "ConfigMapNotFound",
        "spec.evaluation.regression.suites[general].dataset.source names ConfigMap absent",
        id="a ConfigMap of a suite",
    ),
    pytest.param(
        {"baseModel": {"source": "pvc://absent/m"}},
        "ClaimNotFound",
        "PersistentVolumeClaim absent",
        id="a claim of the base",
    ),
    pytest.param(
        {"output": {"destination": "pvc://absent/m"}},
        "ClaimNotFound",
        "spec.output.destination",
        id="a claim of the destination",
    ),
    pytest.param(
        {"workspace": {"claimName": "absent"}}, "ClaimNotFound", "spec.workspace.claimName", id="a workspace"
    ),
    pytest.param(
        {"resources": {"gpusPerNode": 1, "gpuType": "b300"}},
        "UnknownGpuType",
        "known: bare, h200",
        id="a type of GPU",
    ),
    pytest.param(
        {"evaluation": {"engineProfile": "fp8"}},
        "UnknownEngineProfile",
        "spec.evaluation.engineProfile is fp8",
        id="an engine profile",
    ),
]


@pytest.mark.parametrize(("changes", "reason", "words"), MISSING)
def test_a_missing_object_is_named_and_awaited(changes: Object, reason: str, words: str) -> None:
    world = KubernetesSimulation(**changes).settle()
    assert (world.created, world.status["attempts"]) == ([], [])
    assert world.condition("Admitted") == ("False", reason)
    assert words in world.message("Succeeded")
    assert world.condition("Succeeded")[0] == "Unknown"
    assert (world.condition("Stalled"), world.condition("Reconciling")[0]) == (("True", reason), "False")
    assert world.decide().requeue_after == 10


def test_the_run_goes_on_once_the_missing_object_exists() -> None:
    world = KubernetesSimulation(baseModel={"source": "pvc://absent/m"}).settle()
    world.claims["absent"] = {"metadata": {"uid": "x"}}
    world.reconcile()
    assert (world.condition("Stalled")[0], world.condition("Reconciling")[0]) == ("False", "True")
    world.settle()
    assert "-prepare-" in world.running()
    assert world.condition("Admitted")[0] == "True"


def test_the_run_begins_once_the_administrator_has_its_engine_profile() -> None:
    world = KubernetesSimulation(evaluation={"engineProfile": "fp8"}).settle()
    assert world.condition("Stalled") == ("True", "UnknownEngineProfile")
    world.settings = world.settings.model_copy(update={"engine_profiles": {"fp8": EngineProfile()}})
    world.settle()
    assert "-prepare-" in world.running()
    assert world.condition("Stalled")[0] == "False"


def test_the_data_may_go_once_it_is_prepared() -> None:
    world = KubernetesSimulation().to("baseline")
    world.configmaps.clear()
    world.end()
    assert "-train-" in world.running()


def test_a_workspace_that_vanished_is_not_replaced_by_an_empty_one() -> None:
    world = KubernetesSimulation().to("train")
    claim = next(n for n in world.claims if n.startswith("run-work-"))
    del world.claims[claim]
    world.end()
    assert world.condition("Admitted") == ("False", "WorkspaceLost")
    assert claim not in world.claims


def test_several_nodes_need_a_workspace_that_can_be_shared() -> None:
    world = KubernetesSimulation(resources={"nodes": 2}, workspace={"claimName": "mine"})
    world.claims["mine"] = {"metadata": {"uid": "mine"}, "spec": {"accessModes": ["ReadWriteOnce"]}}
    world.settle()
    assert world.condition("Admitted") == ("False", "WorkspaceNotShared")
    assert "ReadWriteMany" in world.message("Admitted")
    world.claims["mine"]["spec"]["accessModes"] = ["ReadWriteMany"]
    world.settle()
    assert "-prepare-" in world.running()


def test_two_tokens_for_datasets_are_refused_in_words() -> None:
    def data(secret: str) -> Object:
        return {
            "source": "hf://datasets/o/d/f.jsonl",
            "revision": "0" * 40,
            "credentialsSecretRef": {"name": secret},
        }

    world = KubernetesSimulation(dataset=data("a"), evaluation={"dataset": data("b")}).settle()
    assert world.condition("Admitted") == ("False", "CredentialsDiffer")
    suite = {"name": "general", "dataset": data("b"), "grader": {"name": "exact", "type": "ExactMatch"}}
    world = KubernetesSimulation(dataset=data("a"), evaluation={"regression": {"suites": [suite]}}).settle()
    assert "spec.evaluation.regression.suites[general].dataset" in world.message("Admitted")
