"""The steps of a rollout, decided from what the pods report."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from finetune_operator.contracts.documents import ManifestBase
from finetune_operator.serving.observed import PodState
from finetune_operator.serving.routing import (
    EMPTY,
    Table,
    Wanted,
    next_table,
    read_table,
    report,
    write_table,
)

V1, V2 = "reviews--aaaaaaaaaaaa", "reviews--bbbbbbbbbbbb"


def want(version: str | None, alias: str = "reviews", **more: Any) -> Wanted:
    return Wanted(alias, f"{alias}-deployment", version, "pvc://adapters/x", "sha256:" + "a" * 64, **more)


def pod(
    name: str = "pod-1", applied: int = 0, ready: bool = True, terminating: bool = False, **phases: Any
) -> PodState:
    versions = [{"name": n.replace("__", "--"), **v} for n, v in phases.items()]
    return PodState(name, name, ready, terminating, {}, {"appliedGeneration": applied, "versions": versions})


def holds(*names: str, **more: Any) -> dict[str, Mapping[str, Any]]:
    return {n.replace("--", "__"): {"phase": "Ready", "inFlight": 0, **more} for n in names}


def table(generation: int, versions: tuple[str, ...], **routes: str) -> Table:
    entry = {"source": "pvc://adapters/x", "digest": "sha256:" + "a" * 64, "allowUnpromoted": False}
    return Table(generation, {n: {"name": n, **entry} for n in versions}, routes)


STEPS = [
    pytest.param(
        EMPTY, [want(V1)], [pod()], table(1, (V1,)), id="a new version is listed before it is routed"
    ),
    pytest.param(
        table(1, (V1,)),
        [want(V1)],
        [pod(applied=1)],
        table(1, (V1,)),
        id="nothing is routed while it is not loaded",
    ),
    pytest.param(
        table(1, (V1,)),
        [want(V1)],
        [pod(applied=1, **holds(V1))],
        table(2, (V1,), reviews=V1),
        id="the alias points to a version that every ready pod has verified",
    ),
    pytest.param(
        table(1, (V1,)),
        [want(V1)],
        [pod(applied=1, **holds(V1)), pod("pod-2", applied=1)],
        table(1, (V1,)),
        id="one ready pod without the version holds the route back",
    ),
    pytest.param(
        table(1, (V1,)),
        [want(V1)],
        [pod(applied=1, **holds(V1)), pod("pod-2", ready=False)],
        table(2, (V1,), reviews=V1),
        id="a pod that is not ready does not hold the route back, it becomes ready only with the routed versions",
    ),
    pytest.param(
        table(1, (V1,)), [want(V1)], [], table(1, (V1,)), id="without any ready pod nothing is routed"
    ),
    pytest.param(
        table(2, (V1,), reviews=V1),
        [want(V2)],
        [pod(applied=2, **holds(V1))],
        table(3, (V1, V2), reviews=V1),
        id="a changed adapter is listed beside the one that serves",
    ),
    pytest.param(
        table(3, (V1, V2), reviews=V1),
        [want(V2)],
        [pod(applied=3, **holds(V1, V2))],
        table(4, (V1, V2), reviews=V2),
        id="the alias moves and the old version stays until every pod follows",
    ),
    pytest.param(
        table(4, (V1, V2), reviews=V2),
        [want(V2)],
        [pod(applied=4, **holds(V1, V2)), pod("pod-2", applied=3, **holds(V1, V2))],
        table(4, (V1, V2), reviews=V2),
        id="a pod that has not followed yet keeps the old version loaded",
    ),
    pytest.param(
        table(4, (V1, V2), reviews=V2),
        [want(V2)],
        [pod(applied=4, **{**holds(V2), **holds(V1, inFlight=1)})],
        table(4, (V1, V2), reviews=V2),
        id="a request in flight keeps the old version loaded",
    ),
    pytest.param(
        table(4, (V1, V2), reviews=V2),
        [want(V2)],
        [pod(applied=4, **holds(V1, V2))],
        table(5, (V2,), reviews=V2),
        id="the drained version is dropped",
    ),
    pytest.param(
        table(4, (V2,), reviews=V2),
        [],
        [pod(applied=4, **holds(V2))],
        table(5, (V2,)),
        id="a deleted deployment loses its route first",
    ),
    pytest.param(
        table(2, (V1,), reviews=V1),
        [want(None)],
        [pod(applied=2, **holds(V1))],
        table(2, (V1,), reviews=V1),
        id="an adapter that is not resolved yet leaves the serving one alone",
    ),
    pytest.param(
        EMPTY,
        [want(V1, refusal=("AliasConflict", "taken"))],
        [pod()],
        table(1, ()),
        id="a refused deployment never reaches the pods",
    ),
]


@pytest.mark.parametrize(("current", "wanted", "pods", "expected"), STEPS)
def test_one_step(current: Table, wanted: list[Wanted], pods: list[PodState], expected: Table) -> None:
    after, _ = next_table(current, wanted, pods, slots=4)
    assert after == expected


def test_a_version_without_a_slot_is_refused_in_words_and_evicts_nothing() -> None:
    current = table(2, (V1,), reviews=V1)
    pods = [pod(applied=2, **holds(V1))]
    wanted = [want(V1), want("other--cccccccccccc", alias="other")]
    after, without_slot = next_table(current, wanted, pods, slots=1)
    assert (set(after.versions), without_slot) == ({V1}, {"other--cccccccccccc"})
    said = report(wanted[1], after, pods, without_slot)
    assert (said.state, said.reason) == ("Failed", "InsufficientSlots")
    assert "maxCpuLoras" in said.message


def test_a_version_that_failed_on_a_pod_is_reported_with_the_agents_words_and_the_old_one_serves() -> None:
    current = table(3, (V1, V2), reviews=V1)
    broken = {"phase": "Failed", "reason": "BaseMismatch", "message": "trained on another base"}
    pods = [pod(applied=3, **{**holds(V1), V2.replace("--", "__"): broken})]
    after, without_slot = next_table(current, [want(V2)], pods, slots=4)
    said = report(want(V2), after, pods, without_slot)
    assert after == current
    assert (said.state, said.reason, said.serving) == ("Failed", "BaseMismatch", V1)
    assert "trained on another base" in said.message


def test_serving_is_reported_only_when_every_ready_pod_follows_the_route() -> None:
    current = table(2, (V1,), reviews=V1)
    behind = [pod(applied=1, **holds(V1))]
    assert report(want(V1), current, behind, frozenset()).state == "Loading"
    assert report(want(V1), current, [pod(applied=2, **holds(V1))], frozenset()).state == "Serving"


def test_the_table_survives_the_manifest_that_carries_it() -> None:
    current = table(7, (V1, V2), reviews=V2)
    assert read_table(write_table(current, ManifestBase(name="base")).to_json_value()) == current


NAMES = st.sampled_from([V1, V2, "reviews--cccccccccccc"])
PODS = st.lists(
    st.builds(
        lambda ready, held, applied: pod(ready=ready, applied=applied, **holds(*held)),
        st.booleans(),
        st.sets(NAMES),
        st.integers(0, 9),
    ),
    max_size=3,
)


@given(st.lists(st.tuples(NAMES, PODS), min_size=1, max_size=8))
def test_whatever_pods_report_a_routed_version_is_always_listed(
    steps: list[tuple[str, list[PodState]]],
) -> None:
    current = EMPTY
    for version, pods in steps:
        before = current
        current, _ = next_table(current, [want(version)], pods, slots=3)
        assert set(current.routes.values()) <= set(current.versions)
        assert set(before.routes) <= set(current.routes), "an alias once served is never taken away by a roll"
        assert current.generation - before.generation in (0, 1)


@given(PODS)
def test_a_step_that_changes_nothing_keeps_the_generation(pods: list[PodState]) -> None:
    current = table(3, (V1,), reviews=V1)
    after, _ = next_table(current, [want(V1)], pods, slots=4)
    assert after == current
