"""Whose the children are, and what is put back when somebody changed one."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from finetune_operator.core.actions import Apply, Emit
from finetune_operator.serving.drift import difference
from tests.unit.server.builders import KINDS, World, adapter, applied, pod

OURS = set(KINDS)


def foreign(kind: str, **metadata: Any) -> dict[str, Any]:
    name = "shared-manifest-0e1d44" if kind == "ConfigMap" else "shared-server"
    return {
        "kind": kind,
        "metadata": {"name": name, "uid": "theirs", **metadata},
        "spec": {"selector": {"app": "x"}},
    }


def controller(kind: str, name: str, uid: str) -> dict[str, Any]:
    return {"ownerReferences": [{"kind": kind, "name": name, "uid": uid, "controller": True}]}


@pytest.mark.parametrize("kind", sorted(OURS))
def test_an_object_of_somebody_else_is_left_alone_and_named(kind: str) -> None:
    world = World(children={kind: foreign(kind)})
    made = applied(world.reconcile())
    assert kind not in made
    assert "Deployment" not in made, "no pods that nobody reaches"
    ready, stalled = world.condition("Ready"), world.condition("Stalled")
    assert (ready.status, ready.reason, stalled.status) == ("False", "NameConflict", "True")
    assert f"{kind} {foreign(kind)['metadata']['name']}" in ready.message
    assert world.status["image"] == "serving:1"


def test_nothing_is_taken_from_a_foreign_deployment() -> None:
    theirs = foreign("Deployment")
    theirs["spec"] = {"template": {"spec": {"containers": [{"name": "web", "image": "nginx:1"}]}}}
    world = World(children={"Deployment": theirs})
    world.reconcile()
    assert world.status["image"] == "serving:1"


def test_a_running_server_keeps_its_pods_when_its_service_is_taken() -> None:
    world = World().settle()
    world.children["Service"] = foreign("Service")
    world.children["Deployment"]["spec"]["replicas"] = 0
    assert set(applied(world.plan())) == {"Deployment"}


@pytest.mark.parametrize("deleted", [None, "2026-11-23T11:59:00Z"])
def test_a_new_server_waits_for_its_predecessors_children(deleted: str | None) -> None:
    old = foreign("Service", **controller("ModelServer", "shared", "u0"))
    if deleted:
        old["metadata"]["deletionTimestamp"] = deleted
    world = World(children={"Service": old})
    made = applied(world.reconcile())
    assert not set(made) & {"Service", "Deployment"}
    assert world.condition("Ready").reason == "WaitingForDeletion"
    assert (world.condition("Reconciling").status, world.condition("Stalled").status) == ("True", "False")
    del world.children["Service"]
    world.settle()
    assert set(world.children) == OURS


def test_a_server_of_another_name_is_no_predecessor() -> None:
    world = World(children={"Service": foreign("Service", **controller("ModelServer", "other", "u9"))})
    world.reconcile()
    assert world.condition("Ready").reason == "NameConflict"
    assert "ModelServer other" in world.condition("Ready").message


def test_a_child_of_ours_that_is_being_deleted_is_made_again_once_it_is_gone() -> None:
    world = World().settle()
    world.children["Service"]["metadata"]["deletionTimestamp"] = "2026-11-23T12:00:00Z"
    world.children["Service"]["spec"]["selector"] = {}
    assert world.plan().actions == ()
    del world.children["Service"]
    assert set(applied(world.plan())) == {"Service"}


def edit(kind: str, path: str, value: Any) -> tuple[str, str, Any]:
    return kind, path, value


EDITS = [
    pytest.param("Deployment", "spec.replicas", 0, "spec.replicas", id="kubectl scale"),
    pytest.param("Deployment", "spec.paused", True, "spec.paused", id="kubectl rollout pause"),
    pytest.param(
        "Deployment",
        "spec.template.spec.containers.0.image",
        "example.com/other:1",
        "spec.template.spec.containers[gateway].image",
        id="kubectl set image",
    ),
    pytest.param(
        "Deployment",
        "spec.template.spec.initContainers.0.args",
        ["engine"],
        "spec.template.spec.initContainers[engine].args",
        id="engine arguments",
    ),
    pytest.param(
        "Deployment",
        "spec.template.spec.volumes.0",
        {"name": "adapters", "hostPath": {"path": "/"}},
        "spec.template.spec.volumes[adapters].emptyDir",
        id="a volume of the host",
    ),
    pytest.param(
        "Service", "spec.selector.app", "other", "spec.selector", id="a selector that finds nothing"
    ),
    pytest.param(
        "Service", "spec.ports.0.targetPort", 1, "spec.ports[8000:TCP].targetPort", id="another port"
    ),
    pytest.param("NetworkPolicy", "spec.ingress", [{}], "spec.ingress", id="a policy opened to everybody"),
    pytest.param("NetworkPolicy", "spec.ingress", [{}, {}], "spec.ingress", id="another rule beside ours"),
    pytest.param("NetworkPolicy", "spec.podSelector", {}, "spec.podSelector.matchLabels", id="no pod named"),
    pytest.param("NetworkPolicy", "spec.egress", [{}], "spec.egress", id="pods that may connect anywhere"),
    pytest.param(
        "PodDisruptionBudget", "spec.maxUnavailable", 0, "spec.maxUnavailable", id="no drain at all"
    ),
    pytest.param("Service", "metadata.labels", {}, "metadata.labels", id="labels removed"),
]


@pytest.mark.parametrize(("kind", "path", "value", "told"), EDITS)
def test_what_somebody_changed_is_put_back_once_and_told(kind: str, path: str, value: Any, told: str) -> None:
    world = World().settle()
    intended = copy.deepcopy(world.children[kind])
    _set(world.children[kind], path, value)
    decided = world.reconcile()
    assert set(applied(decided)) == {kind}
    (event,) = (action for action in decided.actions if isinstance(action, Emit))
    assert event.reason == "ChangeReverted"
    assert event.message.startswith(told)
    assert world.children[kind]["spec"] == intended["spec"]
    assert world.status["image"] == "serving:1", "what was put in by hand is not taken over"
    assert applied(world.plan()) == {}


def _set(manifest: dict[str, Any], path: str, value: Any) -> None:
    node: Any = manifest
    *parents, last = path.split(".")
    for part in parents:
        node = node[int(part)] if isinstance(node, list) else node[part]
    node[int(last) if isinstance(node, list) else last] = value


UNTOUCHED = [
    pytest.param({"a": 1}, {"a": 1, "b": 2}, id="a default beside ours"),
    pytest.param({"limits": {"cpu": "0.5"}}, {"limits": {"cpu": "500m"}}, id="a quantity in another form"),
    pytest.param({"limits": {"gpu": "0"}}, {"limits": {"gpu": "0m"}}, id="none of it in another form"),
    pytest.param(
        {"limits": {"memory": "1024Mi"}}, {"limits": {"memory": "1Gi"}}, id="a size in another unit"
    ),
    pytest.param({"sizeLimit": "2Gi"}, {"sizeLimit": "2048Mi"}, id="the limit of a volume"),
    pytest.param({"tolerations": [], "readOnly": False}, {}, id="what the server leaves out"),
    pytest.param(
        {"containers": [{"name": "a"}]},
        {"containers": [{"name": "injected"}, {"name": "a", "terminationMessagePath": "/dev/x"}]},
        id="a container that a webhook added",
    ),
    pytest.param({"emptyDir": {}}, {"emptyDir": {}}, id="an empty volume"),
    pytest.param({"nodeSelector": {}}, {}, id="an empty selector"),
]
CHANGED = [
    pytest.param({"replicas": 2}, {"replicas": 0}, id="a number"),
    pytest.param({"replicas": 0}, {"replicas": 2}, id="a number that was nothing"),
    pytest.param({"limits": {"cpu": "1"}}, {"limits": {"cpu": "1m"}}, id="an amount"),
    pytest.param({"limits": {"cpu": "1"}}, {}, id="an amount that is gone"),
    pytest.param({"args": ["a", "b"]}, {"args": ["a", "b", "c"]}, id="an argument more"),
    pytest.param(
        {"nodeSelector": {"a": "1"}}, {"nodeSelector": {"a": "1", "b": "2"}}, id="a selector's entry"
    ),
    pytest.param(
        {"ingress": [{"ports": [1]}]}, {"ingress": [{"ports": [1], "from": [{}]}]}, id="within a rule"
    ),
    pytest.param({"emptyDir": {}}, {"hostPath": {}}, id="another sort of volume"),
    pytest.param(
        {"env": [{"name": "A", "value": "1"}]}, {"env": [{"name": "A", "value": "2"}]}, id="a variable"
    ),
]


@pytest.mark.parametrize(("intent", "live"), UNTOUCHED)
def test_what_others_fill_in_is_no_difference(intent: dict[str, Any], live: dict[str, Any]) -> None:
    assert difference(intent, live) is None


@pytest.mark.parametrize(("intent", "live"), CHANGED)
def test_what_others_change_is_a_difference(intent: dict[str, Any], live: dict[str, Any]) -> None:
    assert difference(intent, live) is not None


def test_a_hand_edit_of_the_manifest_is_put_back_under_a_new_generation() -> None:
    world = World().settle()
    world.pods = (pod(applied=1),)
    world.children["ConfigMap"]["data"]["manifest.json"] = "{}"
    decided = world.plan()
    assert '"generation": 2' in applied(decided)["ConfigMap"]["data"]["manifest.json"]
    assert "ManifestRebuilt" in {action.reason for action in decided.actions if isinstance(action, Emit)}


def test_the_server_manifest_is_written_only_over_the_one_that_it_was_decided_from() -> None:
    world = World().settle()
    for child in world.children.values():
        child["metadata"] |= {"uid": f"uid-{child['kind']}", "resourceVersion": "7"}
    world.spec = {"replicas": 2}
    world.deployments = (adapter("reviews"),)
    written = {
        a.manifest["kind"]: (a.uid, a.resource_version) for a in world.plan().actions if isinstance(a, Apply)
    }
    assert written == {"ConfigMap": ("uid-ConfigMap", "7"), "Deployment": ("uid-Deployment", None)}
