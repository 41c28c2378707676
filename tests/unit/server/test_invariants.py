"""Whatever children, pods and agents look like, a server is decided and its status can be written."""

from __future__ import annotations

import copy
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from finetune_operator.api.modelserverstatus import ModelServerStatus
from finetune_operator.core.actions import Apply
from finetune_operator.serving.observed import PodState
from tests.unit.server.builders import KINDS, NOW, World, adapter, pod, serve, version

RELAXED = settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.too_slow])
KEYS = st.sampled_from(
    ["metadata", "spec", "status", "data", "conditions", "template", "containers", "name", "type", "reason", "phase",
     "ownerReferences", "controller", "uid", "kind", "annotations", "labels", "manifest.json", "versions", "ready",
     "generation", "appliedGeneration", "inFlight", "message", "state", "lastState", "waiting", "terminated", "args",
     "processId", "requests", "failures", "empty", "cut", "seconds", "firstByteSeconds", "aliases", "targets",
     "initContainerStatuses", "lastTransitionTime", "deletionTimestamp", "ingress", "selector", "ports", "image"]
)  # fmt: skip
WORDS = st.sampled_from(
    ["True", "False", "Ready", "Failed", "Progressing", "ReplicaFailure", "PodScheduled", "u1", "ModelServer", "shared",
     "ReplicaSet", "2026-01-01T00:00:00Z", "not a time", "", "{}", "[" * 5000, version("reviews"), version("reviews", "b")]
)  # fmt: skip
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | WORDS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=5),
    max_leaves=25,
)
OBJECTS = st.dictionaries(KEYS, JSON, max_size=6)
CHILDREN = st.dictionaries(st.sampled_from(sorted(KINDS)), OBJECTS)


def served() -> World:
    world = World(deployments=(adapter("reviews"),))
    serve(world, version("reviews"))
    return world


def in_a_step() -> World:
    """A second version has its share."""
    steps = [{"weight": 10, "holdSeconds": 60}]
    world, analysis = served(), {"maxErrorRate": "0.02", "maxLatencyRatio": "1.5"}
    world.deployments = (adapter("reviews", digit="b", rollout={"steps": steps, "analysis": analysis}),)
    serve(world, version("reviews"), version("reviews", "b"))
    assert world.status["rollouts"][0]["phase"] == "Shift"
    return world


SERVED = served()
IN_A_STEP = in_a_step()


@RELAXED
@given(
    CHILDREN,
    st.lists(st.tuples(st.booleans(), OBJECTS, st.none() | OBJECTS), max_size=3),
    st.booleans(),
    st.booleans(),
    st.sampled_from([SERVED, IN_A_STEP]),
)
def test_the_plan_is_total_and_its_status_can_always_be_written(
    children: dict[str, dict[str, Any]],
    pods: list[tuple[bool, dict[str, Any], Any]],
    replaced: bool,
    lost: bool,
    before: World,
) -> None:
    world = copy.deepcopy(before)
    for kind, garbage in children.items():
        world.children[kind] = garbage if replaced else {**world.children[kind], **garbage}
    world.pods = tuple(
        PodState(f"p{i}", f"p{i}", ready, False, manifest, state, NOW)
        for i, (ready, manifest, state) in enumerate(pods)
    )
    if lost:
        world.status = {}
        owner = {"ownerReferences": [{"uid": "u1", "controller": True}]}
        world.children["Deployment"] = {**world.children["Deployment"], "metadata": owner}
    decided = world.plan()
    assert decided == world.plan(), "the plan is deterministic"
    ModelServerStatus.model_validate(decided.status)


@RELAXED
@given(CHILDREN)
def test_what_is_put_back_stays(children: dict[str, dict[str, Any]]) -> None:
    world = copy.deepcopy(SERVED)
    world.pods = (pod(version("reviews"), applied=2),)
    for kind, garbage in children.items():
        kept = {key: value for key, value in garbage.items() if key != "metadata"}
        world.children[kind] = {**world.children[kind], **kept}
    world.reconcile()
    again = world.plan()
    assert [action for action in again.actions if isinstance(action, Apply)] == []
