"""What a ModelServer says of itself: never more than somebody can see."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from finetune_operator.core.actions import Emit, Manifest, Refusal
from finetune_operator.serving.observed import PodState, Unreadable
from tests.unit.server.builders import NOW, World, adapter, held, pod, serve, version

V1 = version("reviews")
ROUTED = [
    pytest.param(World({"replicas": 0}), (), "Stopped", id="scaled to zero"),
    pytest.param(World(), (), "ServerNotReady", id="no pods"),
    pytest.param(World(), (pod(V1, ready=False),), "ServerNotReady", id="no ready pod"),
    pytest.param(World(), (pod(V1, terminating=True),), "ServerNotReady", id="only a pod that is deleted"),
]


def routed(world: World) -> World:
    """A server that answered `reviews` a moment ago."""
    world.deployments = (adapter("reviews"),)
    serve(world, V1)
    return world


@pytest.mark.parametrize(("world", "pods", "reason"), ROUTED)
def test_nothing_serves_without_a_replica_that_answers(world: World, pods: Any, reason: str) -> None:
    world = routed(World(world.spec))
    world.pods = pods
    world.reconcile()
    told = world.adapters()["reviews"]
    assert (told["state"] == "Serving", told["reason"], "servingVersion" in told) == (False, reason, False)
    assert world.status["adaptersServing"] == "0/1"
    assert world.condition("Ready").status == "False"
    assert world.status["readyReplicas"] == 0


def test_a_server_that_is_scaled_to_zero_is_stopped_and_not_stalled() -> None:
    world = World({"replicas": 0}).settle()
    ready = world.condition("Ready")
    assert (ready.status, ready.reason) == ("False", "Stopped")
    assert {world.condition(kind).status for kind in ("Reconciling", "Stalled")} == {"False"}


def test_a_server_is_ready_when_its_replicas_answer() -> None:
    world = routed(World().settle())
    world.roll_out()
    world.reconcile()
    assert (world.condition("Ready").status, world.condition("Ready").message) == (
        "True",
        "1 of 1 replica answers.",
    )
    assert world.adapters()["reviews"]["state"] == "Serving"
    assert {world.condition(kind).status for kind in ("Reconciling", "Stalled")} == {"False"}


def test_evicted_pods_are_no_replicas_and_keep_nobody_busy() -> None:
    world = routed(World().settle())
    evicted = pod(name="pod-0", ready=False, phase="Failed", reason="Evicted")
    world.pods = (evicted, pod(V1, applied=3, name="pod-1"))
    decided = world.reconcile()
    assert (world.status["replicas"], world.status["readyReplicas"]) == (1, 1)
    assert decided.requeue_after == 15.0


def test_a_pod_that_says_that_it_is_not_ready_answers_nobody() -> None:
    world = World().settle()
    one = pod(applied=1)
    assert one.state is not None
    world.pods = (replace(one, state={**one.state, "ready": False, "message": "waiting for the engine"}),)
    world.reconcile()
    assert world.condition("Ready").status == "False"
    assert "waiting for the engine" in world.condition("Ready").message


SILENT = NOW - timedelta(seconds=31)


def test_a_ready_pod_whose_agent_cannot_be_reached_is_told_after_a_while() -> None:
    world = routed(World().settle())
    world.pods = (replace(pod(V1, applied=3), state_at=NOW - timedelta(seconds=20)),)
    world.reconcile()
    assert world.condition("Ready").status == "True"
    world.pods = (replace(pod(V1, applied=3), state_at=SILENT),)
    world.reconcile()
    ready = world.condition("Ready")
    assert (ready.status, ready.reason, world.condition("Stalled").status) == (
        "False",
        "AgentUnreachable",
        "True",
    )
    assert all(word in ready.message for word in ("pod-1", "8001", "NetworkPolicies", "mesh"))


FIRST_ASKED = [
    pytest.param(NOW - timedelta(seconds=5), "True", id="asked for seconds"),
    pytest.param(SILENT, "False", id="asked for longer"),
]


@pytest.mark.parametrize(("asked", "ready"), FIRST_ASKED)
def test_a_ready_pod_that_was_never_heard_counts_for_thirty_seconds(asked: Any, ready: str) -> None:
    world = World().settle()
    world.pods = (replace(pod(), state=None, state_at=asked),)
    world.reconcile()
    assert world.condition("Ready").status == ready


@pytest.mark.parametrize(
    "state", [{}, {"versions": 7}, {"versions": [7, {"name": 7}], "generation": "x"}, None]
)
def test_nonsense_of_an_agent_harms_nobody(state: Any) -> None:
    world = routed(World().settle())
    world.pods = (replace(pod(V1, applied=3), state=state),)
    world.reconcile()
    assert world.adapters()["reviews"]["state"] == "Loading"


def containers(**engine: Any) -> dict[str, Any]:
    return {"initContainerStatuses": [{"name": "engine", "image": "serving:1", **engine}]}


def condition(kind: str, status: str, seconds: float = 3600, **more: Any) -> dict[str, Any]:
    since = (NOW - timedelta(seconds=seconds)).strftime("%Y-%m-%dT%H:%M:%SZ")
    return {"type": kind, "status": status, "lastTransitionTime": since, **more}


BACK_OFF = {"waiting": {"reason": "CrashLoopBackOff", "message": "back-off 10s restarting failed container"}}
KILLED = {"terminated": {"exitCode": 137, "reason": "OOMKilled"}}
PENDING = {
    "phase": "Pending",
    "conditions": [condition("PodScheduled", "True", 700), condition("PodReadyToStartContainers", "False")],
}
JUST_PLACED = {
    "phase": "Pending",
    "conditions": [condition("PodScheduled", "True", 20), condition("PodReadyToStartContainers", "False")],
}
NO_NODE = {"conditions": [condition("PodScheduled", "False", message="0/12 nodes are available")]}
NO_NODE_YET = {"conditions": [condition("PodScheduled", "False", 60, message="0/12 nodes are available")]}
FETCHED = {"name": "fetch-base", "state": {"terminated": {"exitCode": 0}}}
WAITING = {"name": "engine", "image": "serving:1", "state": {"waiting": {"reason": "PodInitializing"}}}
TROUBLES = [
    pytest.param(
        containers(state={"waiting": {"reason": "ErrImagePull", "message": "no such image"}}),
        "ImagePull", "no such image", True, id="an image that cannot be pulled",
    ),
    pytest.param(
        containers(state=BACK_OFF, lastState=KILLED),
        "OutOfMemory", "was OOM-killed; raise spec.resources.memory", True, id="an engine that was OOM-killed",
    ),
    pytest.param(
        containers(state={"running": {}}, lastState=KILLED),
        "OutOfMemory", "raise spec.resources.memory", True, id="the same while it starts again",
    ),
    pytest.param(
        containers(state=BACK_OFF, lastState={"terminated": {"exitCode": 1, "message": "unknown option --x"}}),
        "CrashLoopBackOff", "exit code 1: unknown option --x", True, id="an engine that refuses its arguments",
    ),
    pytest.param(
        containers(state={"running": {}}, restartCount=1, lastState={"terminated": {"exitCode": 255}}),
        "Restarted", "exit code 255", False, id="a container that was restarted once",
    ),
    pytest.param(
        containers(state={"waiting": {"reason": "CreateContainerConfigError", "message": "no Secret"}}),
        "ContainerConfig", "no Secret", True, id="a container that cannot be made",
    ),
    pytest.param(containers(state={"running": {}}), "Starting", "loading", False, id="an engine that loads"),
    pytest.param(NO_NODE, "Unschedulable", "0/12 nodes are available", True, id="no node for an hour"),
    pytest.param(NO_NODE_YET, "Unschedulable", "0/12 nodes", False, id="no node for a minute: an autoscaler may help"),
    pytest.param(PENDING, "PodNotStarted", "kubectl describe pod pod-1", True, id="volumes or network for minutes"),
    pytest.param(JUST_PLACED, "Starting", "volumes and network", False, id="volumes for seconds"),
    pytest.param(
        {"initContainerStatuses": [{"name": "fetch-base", "state": {"running": {}}}, WAITING]},
        "Starting", "The base model is being fetched", False, id="a base that is fetched",
    ),
    pytest.param(
        {"initContainerStatuses": [FETCHED, WAITING], "conditions": [condition("PodReadyToStartContainers", "True")]},
        "Starting", "Image serving:1 of pod pod-1 is being pulled", False, id="an image that is pulled",
    ),
    pytest.param(
        {"initContainerStatuses": [FETCHED, {**WAITING, "state": {"running": {}}}]},
        "Starting", "The engine is loading", False, id="an engine that loads what was fetched",
    ),
    pytest.param(containers(started=True), "Starting", "The gateway of pod pod-1", False, id="an engine that is up"),
    pytest.param(
        {"containerStatuses": [{"name": "gateway", "state": {"running": {}}, "lastState": KILLED}]},
        "OutOfMemory", "container gateway was OOM-killed; its limit of 1Gi is fixed", True, id="a gateway OOM-killed",
    ),
    pytest.param(
        {"containerStatuses": [{"name": "mesh", "state": {"running": {}}, "lastState": KILLED}]},
        "OutOfMemory", "container mesh was OOM-killed; it needs more", True, id="a container of a webhook OOM-killed",
    ),
    pytest.param(
        {"initContainerStatuses": "?", "conditions": 7}, "Starting", "is being set up", False, id="a strange pod"
    ),
]  # fmt: skip


@pytest.mark.parametrize(("status", "reason", "words", "stalled"), TROUBLES)
def test_a_replica_that_is_missing_is_explained(
    status: Manifest, reason: str, words: str, stalled: bool
) -> None:
    world = World().settle()
    world.pods = (_starting(status),)
    world.reconcile()
    ready = world.condition("Ready")
    assert (ready.status, ready.reason) == ("False", reason)
    assert words in ready.message
    assert world.condition("Stalled").status == str(stalled)
    assert world.condition("Reconciling").status == str(not stalled)


def _starting(status: Manifest) -> PodState:
    about: dict[str, Any] = {"metadata": {"name": "pod-1"}, "spec": {"nodeName": "node-1"}}
    return PodState("pod-1", "u", False, False, {**about, "status": status}, None)


def test_a_pod_that_waits_for_a_secret_names_what_it_mounts() -> None:
    world = World({"apiKeys": {"secretRef": {"name": "keys"}}}).settle()
    world.pods = (_starting(PENDING),)
    world.reconcile()
    ready = world.condition("Ready")
    assert (ready.reason, "Secret keys" in ready.message) == ("SecretOrVolumeMissing", True)


def without_answer(one: PodState, reason: str, message: str = "") -> PodState:
    """A pod that serves others and cannot answer `reviews`."""
    told = {"alias": "reviews", "targets": [], "answers": False, "reason": reason, "message": message}
    return replace(one, state={**(one.state or {}), "aliases": [told]})


def test_an_alias_that_a_pod_cannot_answer_is_named_and_stops_nobody_else() -> None:
    world = routed(World().settle())
    broken = held(V1, "Failed", reason="ArtifactMissing", message="manifest.json is missing")
    world.pods = (without_answer(pod(broken, applied=3), "ArtifactMissing"),)
    world.reconcile()
    ready = world.condition("Ready")
    assert (ready.status, ready.reason) == ("True", "Serving")
    assert "Without an answer: reviews on pod-1 (ArtifactMissing)" in ready.message
    told = world.adapters()["reviews"]
    assert (told["state"], told["reason"], "servingVersion" in told) == ("Failed", "ArtifactMissing", False)


@pytest.mark.parametrize(
    ("replicas", "told"),
    [
        pytest.param((True,), ("Loading", "first"), id="the only replica tries again: it is on its way"),
        pytest.param((True, True), ("Loading", "first"), id="both try again"),
        pytest.param((True, False), ("Failed", "second"), id="one of two has given up"),
        pytest.param((None,), ("Failed", "first"), id="an older agent does not say"),
    ],
)
def test_a_version_that_is_tried_again_has_not_failed(
    replicas: tuple[bool | None, ...], told: tuple[str, str]
) -> None:
    world = routed(World({"replicas": len(replicas)}).settle())
    said = [{} if again is None else {"triedAgain": again} for again in replicas]
    world.pods = tuple(
        pod(held(V1, "Failed", reason="ArtifactMissing", message="Gone.", **more), applied=3, name=name)
        for more, name in zip(said, ("first", "second"), strict=False)
    )
    world.reconcile()
    entry = world.adapters()["reviews"]
    assert (entry["state"], entry["reason"], entry["message"]) == (
        told[0],
        "ArtifactMissing",
        f"{told[1]}: Gone.",
    )


@pytest.mark.parametrize(
    ("reason", "state", "shown"),
    [
        pytest.param("LoadFailed", "Failed", "LoadFailed", id="what it cannot have is a failure"),
        pytest.param("Loading", "Loading", "Rolling", id="what it loads again is on its way"),
    ],
)
def test_one_of_two_replicas_without_an_answer_shows(reason: str, state: str, shown: str) -> None:
    world = routed(World({"replicas": 2}).settle())
    world.pods = (pod(V1, applied=3), without_answer(pod(applied=3, name="pod-2"), reason, "out of memory"))
    world.reconcile()
    told = world.adapters()["reviews"]
    assert (told["state"], told["reason"]) == (state, shown)
    assert told["message"] == "pod-2: out of memory"


def test_many_aliases_without_an_answer_are_counted() -> None:
    world = World().settle()
    told = [{"alias": f"a{i}", "answers": False, "reason": "LoadFailed"} for i in range(12)]
    one = pod(applied=world.status["manifestGeneration"])
    world.pods = (replace(one, state={**(one.state or {}), "aliases": told}),)
    world.reconcile()
    assert "a7 on pod-1 (LoadFailed) and 4 more;" in world.condition("Ready").message


def test_an_engine_that_is_up_is_not_said_to_be_loading() -> None:
    world = World().settle()
    one = pod(ready=False)
    assert one.state is not None
    world.pods = (replace(one, state={**one.state, "message": "waiting for b--1"}),)
    world.reconcile()
    assert world.condition("Ready").message == "Pod pod-1: waiting for b--1."


def test_a_missing_claim_is_named() -> None:
    world = World(more={"claims": {}})
    world.reconcile()
    ready = world.condition("Ready")
    assert (ready.status, ready.reason) == ("False", "ClaimNotFound")
    assert "adapters" in ready.message


QUOTA = "pods is forbidden: exceeded quota: gpus, requested: requests.nvidia.com/gpu=1, used: 8, limited: 8"


def deployment_says(world: World, *conditions: dict[str, Any], **status: Any) -> None:
    world.children["Deployment"]["status"] = {
        "observedGeneration": 1,
        "conditions": list(conditions),
        **status,
    }


def test_pods_that_a_quota_refuses_are_told_with_the_servers_sentence() -> None:
    world = World().settle()
    deployment_says(world, condition("ReplicaFailure", "True", reason="FailedCreate", message=QUOTA))
    decided = world.reconcile()
    ready = world.condition("Ready")
    assert (ready.reason, world.condition("Stalled").status) == ("PodsRefused", "True")
    assert QUOTA in ready.message
    (event,) = (action for action in decided.actions if isinstance(action, Emit))
    assert (event.type, event.reason) == ("Warning", "PodsRefused")


def _changed() -> World:
    """A server that answers with the pods of its old spec while a new one rolls out."""
    world = routed(World().settle())
    world.roll_out()
    world.spec = {"maxModelLength": 4096}
    world.reconcile()
    return world


def test_a_rollout_is_told_while_the_old_pods_answer() -> None:
    world = _changed()
    world.pods = (pod(V1, applied=3), _starting({"initContainerStatuses": [{"name": "engine"}]}))
    world.reconcile()
    assert world.condition("Ready").status == "True"
    assert (world.condition("Reconciling").status, world.condition("Stalled").status) == ("True", "False")


def test_a_new_pod_for_which_the_pool_has_no_room_is_told_with_the_remedy() -> None:
    world = _changed()
    world.pods = (pod(V1, applied=3, name="old"), _starting(NO_NODE))
    world.reconcile()
    assert world.condition("Ready").status == "True"
    stalled = world.condition("Stalled")
    assert (stalled.status, stalled.reason) == ("True", "Unschedulable")
    assert "set spec.upgrade.strategy to Recreate" in stalled.message
    world.spec = {**world.spec, "upgrade": {"strategy": "Recreate"}}
    world.reconcile()
    assert "must recreate" not in world.condition("Stalled").message


def test_a_new_pod_that_a_quota_refuses_is_told_with_the_remedy() -> None:
    world = _changed()
    world.pods = (pod(V1, applied=3),)
    deployment_says(world, condition("ReplicaFailure", "True", reason="FailedCreate", message=QUOTA))
    world.reconcile()
    assert world.condition("Ready").status == "True"
    stalled = world.condition("Stalled")
    assert (stalled.status, stalled.reason) == ("True", "PodsRefused")
    assert all(words in stalled.message for words in (QUOTA, "spec.upgrade.strategy to Recreate"))


def test_a_rollout_that_stands_still_is_stalled() -> None:
    world = _changed()
    late = condition(
        "Progressing", "False", reason="ProgressDeadlineExceeded", message="timed out progressing"
    )
    deployment_says(world, late, updatedReplicas=1)
    world.reconcile()
    stalled = world.condition("Stalled")
    assert (stalled.status, stalled.reason) == ("True", "ProgressDeadlineExceeded")


@pytest.mark.parametrize("reason", ["Refused", "NameConflict"])
def test_what_the_api_server_refuses_is_told_in_its_words(reason: Any) -> None:
    refusal = Refusal(
        "Deployment", "shared-server", reason, "admission webhook denied the request: no GPUs today"
    )
    world = World(more={"refusal": refusal})
    world.reconcile()
    ready = world.condition("Ready")
    assert (ready.status, ready.reason, ready.message) == ("False", reason, refusal.message)
    assert world.condition("Stalled").status == "True"


FOREIGN = {"ownerReferences": [{"kind": "App", "name": "shop", "uid": "x", "controller": True}]}
BLOCKED = [
    pytest.param(
        {"refusal": Refusal("NetworkPolicy", "shared-server", "Refused", "no NetworkPolicies here")},
        None, "True", id="a child that the API server refuses",
    ),
    pytest.param({}, "ConfigMap", "True", id="a taken name that nobody calls"),
    pytest.param({}, "Service", "False", id="a taken name of the Service, which all callers use"),
]  # fmt: skip


@pytest.mark.parametrize(("more", "taken", "ready"), BLOCKED)
def test_replicas_that_answer_are_ready_whatever_else_is_refused(
    more: dict[str, Any], taken: str | None, ready: str
) -> None:
    world = routed(World().settle())
    world.more = more
    if taken is not None:
        world.children[taken]["metadata"] |= FOREIGN
    world.reconcile()
    assert world.condition("Ready").status == ready
    assert (world.condition("Stalled").status, world.condition("Reconciling").status) == ("True", "False")


def test_an_event_is_told_when_the_reason_changes_and_not_when_its_words_do() -> None:
    world = World().settle()
    assert [type(action) for action in _with(world, NO_NODE)] == [Emit]
    other = {"conditions": [condition("PodScheduled", "False", message="0/13 nodes are available")]}
    assert _with(world, other) == []


def _with(world: World, status: Manifest) -> list[Any]:
    world.pods = (_starting(status),)
    return [action for action in world.reconcile().actions if isinstance(action, Emit)]


LOADED = [
    pytest.param(1000, 1000, id="a thousand"),
    pytest.param(1100, 1100, id="more than the schema's list takes"),
]


@pytest.mark.parametrize(("count", "failing"), LOADED)
def test_the_status_of_a_thousand_adapters_stays_small(count: int, failing: int) -> None:
    names = [f"customer-{number:04}" for number in range(count)]
    world = World(
        {"maxCpuLoras": 1024},
        deployments=tuple(adapter(name, source=f"pvc://adapters/{name}") for name in names),
    )
    said = [held(version(name), "Failed", reason="LoadFailed", message="it broke " * 100) for name in names]
    world.pods = (pod(*said, applied=1),)
    world.reconcile()
    assert size(world.status) < 288 * 1024
    assert len(world.status["adapters"]) + world.status.get("adaptersLeftOut", 0) == count
    assert len(world.status["adapters"]) <= 1024


def test_a_thousand_adapters_that_serve_all_have_an_entry() -> None:
    names = [f"customer-{number:04}-reviews" for number in range(1000)]
    world = World({"maxCpuLoras": 1024}, deployments=tuple(map(adapter, names)))
    serve(world, *map(version, names))
    assert world.status["adaptersServing"] == "1000/1000"
    assert len(world.status["adapters"]) == 1000
    assert size(world.status) < 256 * 1024


def test_what_fails_takes_no_entry_from_what_serves() -> None:
    """Names as long as they may be, three in four of them failing with long messages."""
    names = [f"customer-{number:0>54}" for number in range(1000)]
    said = [
        held(version(name), "Failed", reason="LoadFailed", message="it broke " * 100)
        if number % 4
        else held(version(name))
        for number, name in enumerate(names)
    ]
    world = World({"maxCpuLoras": 1024}, deployments=tuple(map(adapter, names)))
    for _ in range(4):
        world.pods = (pod(*said, applied=world.status.get("manifestGeneration", 0)),)
        world.reconcile()
    assert world.status["adaptersServing"] == "250/1000"
    states = [one["state"] for one in world.adapters().values()]
    assert (states.count("Serving"), states.count("Failed")) == (250, 750)
    assert all("it broke" in one["message"] for one in world.adapters().values() if "message" in one)
    assert size(world.status) < 512 * 1024


def size(status: Manifest) -> int:
    """In bytes, as etcd stores it."""
    return len(json.dumps(status, separators=(",", ":")))


ODD = [
    pytest.param("Load" * 100, ("Load" * 100)[:128], id="a reason that is too long"),
    pytest.param("load failed: é", "loadfailed", id="a reason that is no word"),
    pytest.param("123", "Unknown", id="a reason that is a number"),
]


@pytest.mark.parametrize(("said", "told"), ODD)
def test_whatever_an_agent_calls_a_reason_fits_into_the_status(said: str, told: str) -> None:
    world = World(deployments=(adapter("reviews"),))
    world.pods = (pod(held(V1, "Failed", reason=said, message="m" * 5000), applied=1),)
    world.reconcile()
    assert world.adapters()["reviews"]["reason"] == told


def test_an_alias_that_cannot_be_read_fits_into_the_status() -> None:
    world = World(more={"unreadable": (Unreadable("odd", "a" * 300, "t", "It cannot be read."),)})
    world.reconcile()
    assert (len(world.adapters()["odd"]["alias"]), world.adapters()["odd"]["reason"]) == (63, "Unreadable")


SLOTS = [
    pytest.param(1, (), {"total": 2, "used": 1, "surge": "Free"}, id="room"),
    pytest.param(2, (), {"total": 2, "used": 2, "surge": "Free"}, id="full with the surge slot"),
    pytest.param(2, ("b",), {"total": 2, "used": 2, "surge": "InUse"}, id="full and rolling"),
]


@pytest.mark.parametrize(("count", "rolls", "slots"), SLOTS)
def test_the_slots_are_told(count: int, rolls: tuple[str, ...], slots: dict[str, Any]) -> None:
    names = ["one", "two"][:count]
    world = World({"maxLoras": 2, "maxCpuLoras": 2}, deployments=tuple(map(adapter, names)))
    serve(world, *map(version, names))
    world.deployments = (*(adapter("one", digit=digit) for digit in rolls), *world.deployments[len(rolls) :])
    world.reconcile()
    assert world.status["slots"] == slots


def test_pods_of_an_operator_before_the_surge_slot_have_none() -> None:
    world = World({"maxCpuLoras": 4}).settle()
    args = world.children["Deployment"]["spec"]["template"]["spec"]["initContainers"][0]["args"]
    args[args.index("--max-cpu-loras") + 1] = "4"
    world.status = {}
    world.reconcile()
    assert world.status["slots"]["surge"] == "Missing"


BASE, NEXT = "sha256:" + "b" * 64, "sha256:" + "c" * 64


def computing(*fingerprints: Any) -> tuple[PodState, ...]:
    """Pods that say so of their base."""
    pods = [pod(name=f"pod-{number}") for number in range(len(fingerprints))]
    return tuple(
        replace(one, state={**(one.state or {}), "base": {"fingerprint": told}})
        for one, told in zip(pods, fingerprints, strict=True)
    )


@pytest.mark.parametrize(
    ("told", "expected"),
    [
        pytest.param((NEXT, NEXT), NEXT, id="all pods say the same"),
        pytest.param((NEXT, None), NEXT, id="one pod has not computed it yet"),
        pytest.param((NEXT, BASE), BASE, id="they differ, so what was told before stays"),
        pytest.param((), BASE, id="no pods"),
        pytest.param(("x" * 5000,), BASE, id="what is no fingerprint"),
        pytest.param(({"a": 1},), BASE, id="what is no text"),
    ],
)
def test_the_base_is_told_as_the_pods_computed_it(told: tuple[Any, ...], expected: str) -> None:
    world = World(status={"baseFingerprint": BASE}, pods=computing(*told))
    world.reconcile()
    assert world.status["baseFingerprint"] == expected
