"""The steps of a rollout, decided from what the pods report."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from finetune_operator.contracts.server_manifest import ManifestBase
from finetune_operator.serving.children import manifest_configmap
from finetune_operator.serving.observed import PodState
from finetune_operator.serving.report import AliasReport, report
from finetune_operator.serving.routing import Slots, next_step
from finetune_operator.serving.table import Table, read_table, whole_route, write_table
from finetune_operator.serving.wanted import Rejection, Wanted
from tests.unit.server.builders import entry, held, pod, server, want

V1, V2, V3 = "reviews--aaaaaaaaaaaa", "reviews--bbbbbbbbbbbb", "reviews--cccccccccccc"
OTHER = "other--dddddddddddd"
ROOMY = Slots(aliases=4, engine=5)
EMPTY = Table()
CONFLICT = Rejection("AliasConflict", "taken", keeps_route=False)


def table(generation: int, versions: tuple[str, ...], **routes: str) -> Table:
    found = {alias: whole_route(alias, name) for alias, name in routes.items()}
    return Table(generation, {name: entry(name) for name in versions}, found)


def step(current: Table, wanted: list[Wanted], pods: list[PodState], slots: Slots = ROOMY) -> Table:
    return next_step(current, wanted, pods, slots).table


def said(
    one: Wanted, current: Table, wanted: list[Wanted], pods: list[PodState], slots: Slots = ROOMY
) -> AliasReport:
    """What the server reports of one alias after a step."""
    answering = [p for p in pods if p.ready]
    return report(one, next_step(current, wanted, pods, slots), pods, answering, replicas=1)


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
        [pod(V1, applied=1)],
        table(2, (V1,), reviews=V1),
        id="the alias points to a version that every ready pod has verified",
    ),
    pytest.param(
        table(1, (V1,)),
        [want(V1)],
        [pod(V1, applied=1), pod(name="pod-2", applied=1)],
        table(1, (V1,)),
        id="one ready pod without the version holds the route back",
    ),
    pytest.param(
        table(1, (V1,)),
        [want(V1)],
        [pod(V1, applied=1), pod(name="pod-2", ready=False)],
        table(2, (V1,), reviews=V1),
        id="a pod that is not ready does not hold the route back, it becomes ready only with the routed versions",
    ),
    pytest.param(
        table(1, (V1,)), [want(V1)], [], table(1, (V1,)), id="without any ready pod nothing is routed"
    ),
    pytest.param(
        table(2, (V1,), reviews=V1),
        [want(V2)],
        [pod(V1, applied=2)],
        table(3, (V1, V2), reviews=V1),
        id="a changed adapter is listed beside the one that serves",
    ),
    pytest.param(
        table(3, (V1, V2), reviews=V1),
        [want(V2)],
        [pod(V1, V2, applied=3)],
        table(4, (V1, V2), reviews=V2),
        id="the alias moves and the old version stays until every pod follows",
    ),
    pytest.param(
        table(4, (V1, V2), reviews=V2),
        [want(V2)],
        [pod(V1, V2, applied=4), pod(V1, V2, name="pod-2", applied=3)],
        table(4, (V1, V2), reviews=V2),
        id="a pod that has not followed yet keeps the old version loaded",
    ),
    pytest.param(
        table(4, (V1, V2), reviews=V2),
        [want(V2)],
        [pod(held(V1, inFlight=1), V2, applied=4)],
        table(4, (V1, V2), reviews=V2),
        id="a request in flight keeps the old version loaded",
    ),
    pytest.param(
        table(4, (V1, V2), reviews=V2),
        [want(V2)],
        [pod(V1, V2, applied=4)],
        table(5, (V2,), reviews=V2),
        id="the drained version is dropped",
    ),
    pytest.param(
        table(4, (V2,), reviews=V2),
        [],
        [pod(V2, applied=4)],
        table(5, (V2,)),
        id="a deleted deployment loses its route first",
    ),
    pytest.param(
        table(2, (V1,), reviews=V1),
        [want(None)],
        [pod(V1, applied=2)],
        table(2, (V1,), reviews=V1),
        id="an adapter that is not resolved yet leaves the serving one alone",
    ),
    pytest.param(
        table(2, (V1,), reviews=V1),
        [want(None, rejection=Rejection("Unreadable", "spec.adapter: Field required"))],
        [pod(V1, applied=2)],
        table(2, (V1,), reviews=V1),
        id="a deployment that cannot be read leaves the serving one alone",
    ),
    pytest.param(
        EMPTY,
        [want(V1, rejection=CONFLICT)],
        [pod()],
        table(1, ()),
        id="a refused deployment never reaches the pods",
    ),
    pytest.param(
        table(3, (V1, V2), reviews=V1),
        [want(V2)],
        [pod({"name": V1, "phase": 7, "inFlight": "many"}, {"name": [V2]}, applied=3)],
        table(3, (V1, V2), reviews=V1),
        id="nonsense of a pod moves nothing",
    ),
]


@pytest.mark.parametrize(("current", "wanted", "pods", "expected"), STEPS)
def test_one_step(current: Table, wanted: list[Wanted], pods: list[PodState], expected: Table) -> None:
    assert step(current, wanted, pods) == expected


FULL = Slots(aliases=2, engine=3)
TWO = table(2, (V1, OTHER), reviews=V1, other=OTHER)
NEXT_OTHER = "other--eeeeeeeeeeee"


def test_a_full_server_can_still_roll() -> None:
    pods = [pod(V1, OTHER, applied=2)]
    after = step(TWO, [want(V2), want(OTHER, "other")], pods, FULL)
    assert set(after.versions) == {V1, V2, OTHER}


def test_a_full_server_takes_no_other_alias_into_the_surge_slot() -> None:
    wanted = [want(V1), want(OTHER, "other"), want("third--ffffffffffff", "third")]
    pods = [pod(V1, OTHER, applied=2)]
    assert step(TWO, wanted, pods, FULL) == TWO
    third = said(wanted[2], TWO, wanted, pods, FULL).progress
    assert (third.state, third.reason) == ("Failed", "InsufficientSlots")
    assert "other, reviews" in third.message
    assert "maxCpuLoras" in third.message


THIRD = "third--ffffffffffff"
PASSING = [
    pytest.param(
        Slots(aliases=3, engine=4), table(2, (V1, OTHER, V2, NEXT_OTHER), reviews=V1, other=OTHER),
        [want(V2), want(NEXT_OTHER, "other")], id="two rolls at a time use the slots that aliases have left",
    ),
    pytest.param(
        FULL, table(3, (V1, OTHER), reviews=V1), [want(V1)],
        id="an alias that was deleted is being unloaded",
    ),
]  # fmt: skip


@pytest.mark.parametrize(("slots", "current", "others"), PASSING)
def test_a_new_alias_waits_for_a_slot_that_comes_free_by_itself(
    slots: Slots, current: Table, others: list[Wanted]
) -> None:
    wanted = [*others, want(THIRD, "third")]
    busy = held(OTHER, "Draining", inFlight=1)
    pods = [pod(*(busy if name == OTHER else name for name in current.versions), applied=1)]
    told = said(wanted[-1], current, wanted, pods, slots).progress
    assert (told.state, told.reason) == ("Pending", "WaitingForSlot")
    assert "come free" in told.message


def test_a_candidate_waits_while_a_roll_leaves_the_surge_slot_alone() -> None:
    current = table(2, (V1, V2, OTHER), reviews=V1, other=OTHER)
    pods = [pod(V1, held(V2, "Loading"), OTHER, applied=2)]
    slots, tried = Slots(aliases=3, engine=4), entry("candidate.run--dddddddddddd")
    rolling = next_step(current, [want(V2), want(OTHER, "other")], pods, slots, tried)
    assert rolling.without_slot == {tried.name}
    after = next_step(rolling.table, [want(V2), want(NEXT_OTHER, "other")], pods, slots, tried)
    assert NEXT_OTHER in after.holding, "the next alias rolls at once"


def test_two_rolls_on_a_full_server_take_turns_and_the_second_names_the_first() -> None:
    wanted = [want(V2), want(NEXT_OTHER, "other")]
    pods = [pod(V1, OTHER, held(V2, "Loading"), applied=2)]
    first = next_step(TWO, wanted, pods, FULL)
    assert (first.holding, first.without_slot) == ({V1, V2, OTHER}, {NEXT_OTHER})
    second = said(wanted[1], TWO, wanted, pods, FULL).progress
    assert (second.state, second.reason) == ("Loading", "WaitingForSlot")
    assert V2 in second.message


def test_a_version_that_drains_for_ever_is_named_with_its_requests() -> None:
    current = table(4, (V1, V2, OTHER), reviews=V2, other=OTHER)
    pods = [pod(held(V1, "Draining", inFlight=1), V2, OTHER, applied=4)]
    wanted = [want(V2), want(NEXT_OTHER, "other")]
    told = said(wanted[1], current, wanted, pods, FULL).progress
    assert told.message == f"The surge slot is in use by {V1} (1 requests in flight)."


def test_a_refused_version_holds_no_slot() -> None:
    broken = held(V2, "Failed", reason="BaseMismatch", message="trained on another base")
    current = table(3, (V1, V2, OTHER), reviews=V1, other=OTHER)
    after = step(current, [want(V2), want(NEXT_OTHER, "other")], [pod(V1, broken, OTHER, applied=3)], FULL)
    assert NEXT_OTHER in after.versions


def test_pods_without_a_surge_slot_are_told_how_to_get_one() -> None:
    wanted = [want(V2), want(OTHER, "other")]
    pods = [pod(V1, OTHER, applied=2)]
    told = said(wanted[0], TWO, wanted, pods, Slots(aliases=2, engine=2))
    assert (told.progress.state, told.progress.reason, told.serving) == ("Failed", "InsufficientSlots", V1)
    assert "spec.upgrade.revision" in told.progress.message


def test_a_version_that_failed_on_a_pod_is_reported_with_the_agents_words_and_the_old_one_serves() -> None:
    current = table(3, (V1, V2), reviews=V1)
    broken = held(V2, "Failed", reason="BaseMismatch", message="trained on another base")
    pods = [pod(V1, broken, applied=3)]
    assert step(current, [want(V2)], pods) == current
    told = said(want(V2), current, [want(V2)], pods)
    assert (told.progress.state, told.progress.reason, told.serving) == ("Failed", "BaseMismatch", V1)
    assert "trained on another base" in told.progress.message


ROUTED = table(2, (V1,), reviews=V1)
STANDINGS = [
    pytest.param([pod(V1, applied=2)], 1, "Serving", V1, id="a ready pod that follows the route answers"),
    pytest.param([pod(V1, applied=1)], 1, "Rolling", V1, id="a ready pod that is behind"),
    pytest.param([], 1, "ServerNotReady", None, id="no pods"),
    pytest.param([pod(V1, applied=2, ready=False)], 1, "ServerNotReady", None, id="no ready pod"),
    pytest.param([], 0, "Stopped", None, id="scaled to zero"),
    pytest.param([pod(held(V1, "Loading"), applied=2)], 1, "Rolling", None, id="a ready pod that lost it"),
]


@pytest.mark.parametrize(("pods", "replicas", "reason", "serving"), STANDINGS)
def test_serving_means_that_a_ready_replica_answers(
    pods: list[PodState], replicas: int, reason: str, serving: str | None
) -> None:
    answering = [p for p in pods if p.ready]
    told = report(want(V1), next_step(ROUTED, [want(V1)], pods, ROOMY), pods, answering, replicas)
    assert (told.progress.reason, told.serving) == (reason, serving)


def test_the_table_survives_the_manifest_that_carries_it() -> None:
    current = table(7, (V1, V2), reviews=V2)
    assert (
        read_table(manifest_configmap(server(), write_table(current, ManifestBase(name="base")))) == current
    )


NAMES = st.sampled_from([V1, V2, V3])


def _pod(ready: bool, versions: set[str], applied: int) -> PodState:
    return pod(*sorted(versions), ready=ready, applied=applied)


PODS = st.lists(st.builds(_pod, st.booleans(), st.sets(NAMES), st.integers(0, 9)), max_size=3)


@given(st.lists(st.tuples(NAMES, PODS), min_size=1, max_size=8), st.integers(1, 3))
def test_whatever_pods_report_a_routed_version_is_always_listed(
    steps: list[tuple[str, list[PodState]]], engine: int
) -> None:
    current = EMPTY
    for name, pods in steps:
        before = current
        current = step(current, [want(name)], pods, Slots(1, engine))
        assert {route.stable for route in current.routes.values()} <= set(current.versions)
        assert set(before.routes) <= set(current.routes), "an alias once served is never taken away by a roll"
        assert current.generation - before.generation in (0, 1)


@given(PODS)
def test_a_step_that_changes_nothing_keeps_the_generation(pods: list[PodState]) -> None:
    current: Any = table(3, (V1,), reviews=V1)
    assert step(current, [want(V1)], pods) == current
