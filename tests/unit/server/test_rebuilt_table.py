"""A server manifest that was lost or edited is rebuilt from what pods and statuses hold."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from finetune_operator.serving.observed import PodState
from finetune_operator.serving.table import Table, current_table, read_table, whole_route
from finetune_operator.serving.wanted import wanted_versions
from tests.unit.server.builders import World, adapter, held, pod, version

V1, V2 = version("reviews", "a"), version("reviews", "b")


def serving(digit: str, **more: Any) -> dict[str, Any]:
    """`status.serving` of an AdapterDeployment."""
    known = {
        "version": version("reviews", digit),
        "digest": "sha256:" + digit * 64,
        "source": f"pvc://adapters/{digit}",
    }
    return {**known, **more}


def served(digit: str = "a") -> World:
    """A server whose pod answers `reviews`."""
    world = World(deployments=(adapter("reviews", digit=digit),))
    for applied in (0, 1, 2):
        world.pods = (pod(version("reviews", digit), applied=applied),)
        world.reconcile()
    assert world.adapters()["reviews"]["servingVersion"] == version("reviews", digit)
    return world


def table(world: World) -> Table:
    observed = world.observed()
    return current_table(observed, wanted_versions(observed))


def _lost(world: World) -> None:
    del world.children["ConfigMap"]


def _emptied(world: World) -> None:
    world.children["ConfigMap"]["data"] = {}


def _garbage(world: World) -> None:
    world.children["ConfigMap"]["data"]["manifest.json"] = "[" * 100_000


def _without_routes(world: World) -> None:
    data = world.children["ConfigMap"]["data"]
    data["manifest.json"] = json.dumps({**json.loads(data["manifest.json"]), "routes": []})


def _another_shape(world: World) -> None:
    world.children["ConfigMap"]["data"] = ["manifest.json"]


DAMAGES = [
    pytest.param(_lost, id="deleted"),
    pytest.param(_emptied, id="without its document"),
    pytest.param(_garbage, id="nested without end"),
    pytest.param(_without_routes, id="its routes taken out by hand"),
    pytest.param(_another_shape, id="data of another type"),
]


@pytest.mark.parametrize("damage", DAMAGES)
def test_an_alias_that_answers_keeps_its_route(damage: Any) -> None:
    world = served()
    before = read_table(world.children["ConfigMap"])
    assert before is not None
    damage(world)
    world.reconcile()
    after = read_table(world.children["ConfigMap"])
    assert after is not None
    assert after.routes == before.routes == {"reviews": whole_route("reviews", V1)}
    assert after.generation > before.generation
    assert world.adapters()["reviews"]["servingVersion"] == V1


def test_in_the_middle_of_a_roll_the_old_version_goes_on_with_its_source() -> None:
    world = served()
    world.deployments = (adapter("reviews", digit="b", serving=serving("a", allowUnpromoted=True)),)
    world.pods = (pod(V1, held(V2, "Loading"), applied=2),)
    world.reconcile()
    _lost(world)
    found = table(world)
    assert found.routes == {"reviews": whole_route("reviews", V1)}
    assert (found.versions[V1].source, found.versions[V1].allow_unpromoted) == ("pvc://adapters/a", True)
    world.reconcile()
    after = read_table(world.children["ConfigMap"])
    assert after is not None
    assert set(after.versions) == {V1, V2}


def test_without_any_status_the_pods_say_what_answers() -> None:
    world = World(deployments=(adapter("reviews", digit="b"),), pods=(pod(V1, applied=7),))
    found = table(world)
    assert found.routes == {"reviews": whole_route("reviews", V1)}
    assert found.generation == 8
    assert found.versions[V1].digest == "sha256:" + "a" * 64


def test_without_any_pod_the_status_says_what_was_served() -> None:
    world = World(
        deployments=(adapter("reviews", digit="b", serving=serving("a")),), status={"manifestGeneration": 5}
    )
    assert (table(world).routes, table(world).generation) == ({"reviews": whole_route("reviews", V1)}, 6)


def test_a_deleted_deployment_gets_no_route_back() -> None:
    world = served()
    world.deployments = ()
    _lost(world)
    assert table(world).routes == {}


def test_an_old_copy_of_the_manifest_is_not_believed() -> None:
    world = World(deployments=(adapter("reviews"),))
    world.reconcile()
    old = world.children["ConfigMap"]
    later = served()
    later.children["ConfigMap"] = old
    assert table(later).routes == {"reviews": whole_route("reviews", V1)}
    assert table(later).generation > 2


def test_a_new_server_starts_with_an_empty_table() -> None:
    assert table(World()) == Table()


PHASES = st.sampled_from(["Ready", "Loading", "Draining", "Failed"])
DIGITS = st.sampled_from("ab")


def _pod(ready: bool, phases: dict[str, str], applied: int) -> PodState:
    return pod(*(held(version("reviews", d), p) for d, p in phases.items()), ready=ready, applied=applied)


PODS = st.lists(
    st.builds(_pod, st.booleans(), st.dictionaries(DIGITS, PHASES), st.integers(0, 5)), max_size=2
)
EVENTS = st.lists(
    st.tuples(PODS, DIGITS, st.sampled_from([None, _lost, _garbage, _without_routes])), max_size=8
)


@settings(deadline=None)
@given(EVENTS)
def test_whatever_happens_an_answering_alias_keeps_a_route_and_the_generation_grows(events: Any) -> None:
    world = World()
    generation = 0
    for pods, digit, damage in events:
        world.pods = tuple(pods)
        before = world.adapters()["reviews"].get("servingVersion") if world.status else None
        world.deployments = (adapter("reviews", digit=digit),)
        if damage is not None and "ConfigMap" in world.children:
            damage(world)
        world.reconcile()
        after = read_table(world.children["ConfigMap"])
        assert after is not None
        newest = max([generation, *(p.generation for p in pods)])
        assert after.generation >= newest
        assert damage is None or after.generation >= generation
        generation = after.generation
        if before is not None and any(p.ready and p.phase(before) == "Ready" for p in pods):
            assert after.routes.get("reviews"), "it answered before and does now"
        assert {v for route in after.routes.values() for v in route.versions} <= set(after.versions)
