"""The caches keep only parts of Jobs and pods: a plan must decide from them as from the whole objects."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from finetune_operator.core.actions import Plan
from finetune_operator.core.manifests import finished
from finetune_operator.runtime.cache import projections
from finetune_operator.runtime.cache.store import Store, labelled_uid
from finetune_operator.stages.observed import Observed
from finetune_operator.stages.plan import plan
from tests.unit.stages.kubernetes_simulation import KubernetesSimulation

SINCE = "2025-12-31T00:00:00Z"


class Cached(KubernetesSimulation):
    """Decides everything twice: from the whole objects and from what the caches keep of them."""

    def decide(self) -> Plan:
        whole = self.observe()
        decided = plan(whole, self.settings, self.now)
        assert plan(self._as_cached(whole), self.settings, self.now) == decided
        return decided

    def _as_cached(self, observed: Observed) -> Observed:
        """As the observer puts it together: pods of a Job that is gone or has ended are read live."""
        jobs = {name: _kept(projections.job, job) for name, job in observed.jobs.items()}
        pods = {
            name: found
            if name not in jobs or finished(jobs[name])
            else tuple(_kept(projections.pod, p) for p in found)
            for name, found in observed.pods.items()
        }
        return replace(observed, jobs=jobs, pods=pods)


def _kept(projection: Callable[[Any], Any], manifest: Any) -> Any:
    return json.loads(json.dumps(projection(manifest)))


def _condition(kind: str, status: str, **more: str) -> dict[str, Any]:
    return {"conditions": [{"type": kind, "status": status, "lastTransitionTime": SINCE, **more}]}


def _waiting(reason: str) -> dict[str, Any]:
    state = {"waiting": {"reason": reason, "message": f"{reason} for a reason"}}
    return {
        "phase": "Pending",
        "containerStatuses": [{"name": "train", "image": "trainer:1", "state": state}],
    }


_KILLED = {"exitCode": 137, "reason": "OOMKilled", "finishedAt": SINCE}
_UNMOUNTED = [
    {"type": "PodScheduled", "status": "True", "lastTransitionTime": SINCE},
    {"type": "PodReadyToStartContainers", "status": "False", "lastTransitionTime": SINCE},
]
_STATUSES = [
    ("no node", {"phase": "Pending", **_condition("PodScheduled", "False", message="0/3 nodes")}),
    ("an image that cannot be pulled", _waiting("ErrImagePull")),
    ("a container that cannot be created", _waiting("CreateContainerConfigError")),
    ("volumes that are not mounted", {"phase": "Pending", "conditions": _UNMOUNTED}),
    ("killed for memory", {"phase": "Running", "containerStatuses": [{"name": "train", "state": {"terminated": _KILLED}}]}),
    ("an engine that keeps ending", {"phase": "Running", "initContainerStatuses": [
        {"name": "engine", "restartCount": 5, "lastState": {"terminated": _KILLED}}]}),
    ("evicted", {"phase": "Failed", "reason": "Evicted", "message": "The node was low on memory."}),
    ("preempted", {"phase": "Failed", **_condition("DisruptionTarget", "True", reason="PreemptionByScheduler")}),
    ("ended well", {"phase": "Succeeded", "containerStatuses": [
        {"name": "train", "state": {"terminated": {"exitCode": 0, "finishedAt": SINCE, "message": "{}"}}}]}),
]  # fmt: skip


@pytest.mark.parametrize("status", [s[1] for s in _STATUSES], ids=[s[0] for s in _STATUSES])
@pytest.mark.parametrize("stage", ["prepare", "train", "evaluate"])
@pytest.mark.parametrize("deleted", [False, True], ids=["there", "being deleted"])
def test_whatever_a_pod_shows_its_projection_leads_to_the_same_plan(
    status: Any, stage: str, deleted: bool
) -> None:
    world = Cached(resources={"gpuType": "h200", "gpusPerNode": 1}).to(stage)
    pod = world.pods[world.running()][0]
    pod["status"] = status
    if deleted:
        pod["metadata"] |= {"deletionTimestamp": SINCE, "deletionGracePeriodSeconds": 30}
    for seconds in (0, 60, 10_000):
        world.pass_time(seconds)


@pytest.mark.parametrize("nodes", [1, 2], ids=["one pod", "a gang"])
def test_whole_histories_lead_to_the_same_plans(nodes: int) -> None:
    world = Cached(
        resources={"gpuType": "h200", "gpusPerNode": 1, "nodes": nodes}, ttlSecondsAfterFinished=60
    )
    world.to("train").change(suspend=True).change(suspend=False)
    world.fail()
    for _ in range(3):
        world.end()
    world.pass_time(3600)


def test_a_finished_pod_takes_little_and_keeps_what_its_cost_is_counted_from() -> None:
    world = KubernetesSimulation().to("train")
    pod = world.pods[world.running()][0]
    ended = {
        "exitCode": 0,
        "reason": "Completed",
        "finishedAt": SINCE,
        "message": "x" * 4096,
        "containerID": "c",
    }
    pod["status"] = {
        "phase": "Succeeded",
        "containerStatuses": [{"name": "train", "state": {"terminated": ended}}],
    }
    kept = projections.pod(pod)
    assert len(json.dumps(kept)) < 1500
    assert kept["status"]["containerStatuses"][0]["state"]["terminated"]["finishedAt"] == SINCE


def test_a_store_finds_children_by_namespace_and_controller_only() -> None:
    def job(namespace: str, controller: bool) -> Any:
        reference = {"uid": "owner", "controller": controller}
        about = {"name": f"j-{controller}", "namespace": namespace, "ownerReferences": [reference]}
        return {"metadata": {**about, "labels": {"finetune.dev/uid": "owner"}}}

    store = Store()
    for manifest in (job("demo", True), job("demo", False), job("other", True)):
        store.put(manifest)
    assert [found["metadata"]["namespace"] for found in store.owned_by("demo", "owner")] == ["demo"]
    assert store.owned_by("demo", "owner")[0]["metadata"]["name"] == "j-True"


def test_a_store_follows_a_child_that_changes_its_owner() -> None:
    def pod(version: int, uid: str) -> Any:
        return {
            "metadata": {
                "name": "p",
                "namespace": "demo",
                "uid": "u",
                "resourceVersion": str(version),
                "labels": {"finetune.dev/uid": uid},
            }
        }

    store = Store(owner=labelled_uid)
    assert store.put(pod(1, "one"))
    assert not store.put(pod(1, "one")), "the same version is no change"
    assert store.put(pod(2, "two"))
    assert store.owned_by("demo", "one") == []
    assert len(store.owned_by("demo", "two")) == 1
    store.remove(pod(2, "two"))
    assert len(store) == 0
