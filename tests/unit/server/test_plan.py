"""The children of a ModelServer, what their pods are, and when something is written."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from finetune_operator.api.adapterdeployment import AdapterDeployment
from finetune_operator.core.actions import Emit, Patch
from finetune_operator.runtime.cache import projections
from finetune_operator.serving.children import FETCH_SECONDS, deployment
from finetune_operator.serving.observed import PodState, Unreadable, is_replica
from finetune_operator.serving.plan import plan
from finetune_operator.serving.wanted import Wanted, wanted_versions
from tests.unit.server.builders import (
    KINDS,
    NOW,
    SETTINGS,
    World,
    adapter,
    applied,
    pod,
    serve,
    server,
    version,
)

SEEN = {"finetune.dev/manifest-generation": "1"}


def template(**spec: Any) -> dict[str, Any]:
    found: dict[str, Any] = World(spec).settle().children["Deployment"]["spec"]["template"]["spec"]
    return found


def wanted(*deployments: AdapterDeployment, unreadable: tuple[Unreadable, ...] = ()) -> dict[str, Wanted]:
    world = World(deployments=deployments, more={"unreadable": unreadable})
    return {want.deployment: want for want in wanted_versions(world.observed())}


def test_a_new_server_gets_its_children() -> None:
    made = applied(World().plan())
    assert set(made) == set(KINDS)
    assert all(m["metadata"]["ownerReferences"][0]["uid"] == "u1" for m in made.values())


def test_the_server_manifest_says_what_requests_may_take() -> None:
    keys = {"secretRef": {"name": "keys"}, "allowedAliases": [{"name": "team", "aliases": ["reviews"]}]}
    spec = {"limits": {"maxInFlight": 8}, "apiKeys": keys, "drainSeconds": 60}
    document = json.loads(World(spec).settle().children["ConfigMap"]["data"]["manifest.json"])
    assert document["limits"] == {"maxInFlight": 8}
    assert document["keys"] == [{"name": "team", "aliases": ["reviews"]}]
    assert document["drainSeconds"] == 60


@pytest.mark.parametrize("replicas", [0, 1, 3])
def test_a_drain_takes_one_replica_at_a_time_and_never_waits_for_ever(replicas: int) -> None:
    budget = World({"replicas": replicas}).settle().children["PodDisruptionBudget"]["spec"]
    assert (budget["maxUnavailable"], budget["unhealthyPodEvictionPolicy"]) == (1, "AlwaysAllow")
    assert budget["selector"]["matchLabels"]["finetune.dev/owner"] == "shared"


def test_a_server_without_slots_serves_no_adapter_and_says_why() -> None:
    world = World({"maxLoras": 0}, deployments=(adapter("reviews"),)).settle()
    (entry,) = world.status["adapters"]
    assert (entry["state"], entry["reason"]) == ("Failed", "BaseOnly")
    assert "maxLoras" in entry["message"]
    assert world.status["slots"]["total"] == 0


def test_nothing_is_written_twice() -> None:
    world = World().settle()
    assert world.plan().actions == ()
    assert world.plan().status == world.status


def test_a_deleted_server_is_left_to_the_garbage_collector() -> None:
    gone = server()
    meta = gone.metadata.model_copy(update={"deletion_timestamp": "2026-11-23T12:00:00Z"})
    observed = World().observed()
    observed = type(observed)(gone.model_copy(update={"metadata": meta}), None, None)
    assert plan(observed, World().settings, NOW).actions == ()


def test_a_pod_that_has_not_seen_the_manifest_is_nudged_once() -> None:
    world = World().settle()
    world.pods = (pod(applied=1),)
    assert [type(action) for action in world.plan().actions if not isinstance(action, Emit)] == [Patch]
    world.pods = (_annotated(SEEN),)
    assert [action for action in world.plan().actions if not isinstance(action, Emit)] == []


def _annotated(annotations: dict[str, str], **more: Any) -> PodState:
    found = pod(applied=1, **more)
    manifest = {**found.pod, "metadata": {"name": found.name, "annotations": annotations}}
    return PodState(found.name, found.uid, found.ready, found.terminating, manifest, found.state, NOW)


def test_pods_that_are_over_are_not_nudged() -> None:
    world = World().settle()
    world.pods = (pod(phase="Failed", ready=False), pod(name="pod-2", terminating=True))
    assert [action for action in world.plan().actions if isinstance(action, Patch)] == []


def test_until_every_ready_pod_was_asked_nothing_is_decided() -> None:
    world = World().settle()
    manifest = pod(podIP="10.0.0.1").pod
    world.pods = (PodState("pod-1", "p1", True, False, manifest, None, None),)
    decided = world.plan()
    assert (decided.actions, decided.status, decided.requeue_after) == ((), None, 1.0)


def test_the_pod_is_what_pod_security_restricted_admits() -> None:
    spec = template()
    assert spec["securityContext"]["runAsNonRoot"]
    assert not spec["automountServiceAccountToken"]
    for container in [*spec["initContainers"], *spec["containers"]]:
        assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
        assert container["securityContext"]["readOnlyRootFilesystem"]


def test_the_engine_has_no_port_and_no_keys_and_only_the_gateway_mounts_them() -> None:
    spec = template(apiKeys={"secretRef": {"name": "keys"}})
    engine, gateway = spec["initContainers"][-1], spec["containers"][0]
    assert "ports" not in engine
    assert "keys" not in {m["name"] for m in engine["volumeMounts"]}
    assert "keys" in {m["name"] for m in gateway["volumeMounts"]}


def test_an_hf_base_is_fetched_by_a_container_of_its_own_with_the_token() -> None:
    base = {"source": "hf://org/name", "revision": "a" * 40, "credentialsSecretRef": {"name": "hub"}}
    fetch, engine = template(baseModel=base)["initContainers"]
    assert fetch["args"][:4] == ["fetch-base", "--source", "hf://org/name", "--revision"]
    assert "token" in {m["name"] for m in fetch["volumeMounts"]}
    assert "token" not in {m["name"] for m in engine["volumeMounts"]}


def test_several_gpus_share_one_engine() -> None:
    engine = template(resources={"gpus": 4})["initContainers"][-1]
    assert engine["resources"]["limits"]["nvidia.com/gpu"] == "4"
    assert engine["args"][engine["args"].index("--tensor-parallel-size") + 1] == "4"


def test_the_engine_holds_one_adapter_more_than_the_server_serves() -> None:
    args = template(maxCpuLoras=4)["initContainers"][-1]["args"]
    assert args[args.index("--max-cpu-loras") + 1] == "5"


def test_the_rollout_may_take_as_long_as_the_engine_may_take_to_start() -> None:
    world = World().settle()
    deadline = world.children["Deployment"]["spec"]["progressDeadlineSeconds"]
    assert deadline == FETCH_SECONDS + SETTINGS.engine_start_seconds


def test_so_it_may_with_the_pods_of_an_operator_that_gave_them_a_startup_probe() -> None:
    engine = {"name": "engine", "startupProbe": {"periodSeconds": 5, "failureThreshold": 100}}
    kept = {"spec": {"initContainers": [engine], "containers": []}}
    made = deployment(server(), kept, "sha256:x")
    assert made["spec"]["progressDeadlineSeconds"] == FETCH_SECONDS + 500


ROLLING = [
    pytest.param("Surge", {"maxSurge": 1, "maxUnavailable": 0}, id="a new pod before an old one goes"),
    pytest.param("Recreate", {"maxSurge": 0, "maxUnavailable": 1}, id="a pod goes first"),
]


@pytest.mark.parametrize(("strategy", "rolling"), ROLLING)
def test_how_pods_are_replaced(strategy: str, rolling: dict[str, int]) -> None:
    spec = World({"upgrade": {"strategy": strategy}}).settle().children["Deployment"]["spec"]
    assert spec["strategy"]["rollingUpdate"] == rolling


def test_a_gpu_type_that_nobody_configured_gets_no_pods_and_is_named() -> None:
    world = World({"resources": {"gpus": 1, "gpuType": "H900"}})
    assert "Deployment" not in applied(world.reconcile())
    ready = world.condition("Ready")
    assert (ready.status, ready.reason) == ("False", "UnknownGpuType")
    assert "H900" in ready.message


def test_the_manifest_lists_a_wanted_version_before_it_is_routed() -> None:
    made = applied(World(deployments=(adapter("a", "reviews"),)).plan())
    document = json.loads(made["ConfigMap"]["data"]["manifest.json"])
    assert [v["name"] for v in document["versions"]] == [version("reviews")]
    assert document["routes"] == []
    assert document["base"] == {"name": "smollm2", "fingerprint": None}


def test_the_older_of_two_deployments_with_one_alias_wins() -> None:
    old, young = adapter("old", "reviews", "2026-01-01"), adapter("young", "reviews", "2026-01-02")
    found = wanted(young, old)
    assert found["old"].rejection is None
    assert found["young"].rejection is not None
    assert found["young"].rejection.reason == "AliasConflict"
    assert "old" in found["young"].rejection.message


REJECTED = [
    pytest.param(adapter("a", "smollm2"), "AliasOfBaseModel", id="an alias that is the base's name"),
    pytest.param(adapter("a", "x", source="pvc://elsewhere/x"), "OutsideStore", id="an adapter elsewhere"),
    pytest.param(adapter("a", "x", source="../x"), "InvalidSource", id="an address that is none"),
]


@pytest.mark.parametrize(("deployment", "reason"), REJECTED)
def test_refused_before_any_pod_sees_it(deployment: AdapterDeployment, reason: str) -> None:
    (only,) = wanted(deployment).values()
    assert only.rejection is not None
    assert only.rejection.reason == reason


def test_a_deployment_that_cannot_be_read_is_told_and_keeps_its_alias() -> None:
    broken = Unreadable("broken", "reviews", "2026-01-01", "spec.adapter: Field required")
    found = wanted(adapter("good", "other"), adapter("late", "reviews", "2026-01-02"), unreadable=(broken,))
    assert found["good"].rejection is None
    assert found["broken"].rejection is not None
    assert found["broken"].rejection.reason == "Unreadable"
    assert found["late"].rejection is not None
    assert found["late"].rejection.reason == "AliasConflict"


def test_one_that_cannot_be_read_holds_up_no_older_one_of_its_alias() -> None:
    young = Unreadable("young", "reviews", "2026-01-02", "spec.adapter: Field required")
    old = adapter("old", "reviews", "2026-01-01")
    world = World(deployments=(old,), more={"unreadable": (young,)})
    serve(world, version("reviews", "a"))
    world.deployments = (adapter("old", "reviews", "2026-01-01", digit="b"),)
    serve(world, version("reviews", "a"), version("reviews", "b"))
    assert world.adapters()["old"]["servingVersion"] == version("reviews", "b")
    assert world.adapters()["young"]["reason"] == "Unreadable"


CONTROLLER = {"kind": "ReplicaSet", "name": "shared-server-7d9", "controller": True}
PODS = [
    pytest.param({"ownerReferences": [CONTROLLER]}, True, id="a pod of the Deployment's ReplicaSet"),
    pytest.param({}, False, id="a copy that nothing controls"),
    pytest.param({"ownerReferences": [{**CONTROLLER, "kind": "Job"}]}, False, id="a pod of a Job"),
    pytest.param(
        {"ownerReferences": [{**CONTROLLER, "name": "web-7d9"}]}, False, id="a pod of another Deployment"
    ),
]


@pytest.mark.parametrize(("metadata", "ours"), PODS)
def test_a_pod_with_our_labels_is_ours_only_by_its_controller(metadata: dict[str, Any], ours: bool) -> None:
    found = {"metadata": {"name": "p", "labels": {"pod-template-hash": "7d9"}, **metadata}}
    assert is_replica(server(), found) == ours


ENGINES = [
    pytest.param((9,), "Rolling", id="pods of the new spec only"),
    pytest.param((9, 3), "WaitingForSlot", id="a pod of the old spec has room for one"),
]


@pytest.mark.parametrize(("engines", "fourth"), ENGINES)
def test_no_more_is_listed_than_the_smallest_engine_holds(engines: tuple[int, ...], fourth: str) -> None:
    """`maxCpuLoras` was raised from 2 to 8."""
    world = World({"maxLoras": 2, "maxCpuLoras": 8}, deployments=(adapter("one"), adapter("two")))
    serve(world, version("one"), version("two"))
    world.deployments = (*world.deployments, adapter("three", created="u"), adapter("four", created="v"))
    world.pods = tuple(
        with_slots(pod(version("one"), version("two"), name=f"pod-{slots}", applied=9), slots)
        for slots in engines
    )
    world.reconcile()
    told = world.adapters()
    assert (told["three"]["reason"], told["four"]["reason"]) == ("Rolling", fourth)


def with_slots(one: PodState, slots: int) -> PodState:
    engine = {"name": "engine", "args": ["engine", "--max-cpu-loras", str(slots)]}
    return replace(one, pod=projections.pod({**one.pod, "spec": {"initContainers": [engine]}}))
