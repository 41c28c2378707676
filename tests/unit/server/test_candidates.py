"""Candidates of runs on a shared server: held without a route, in a slot that nobody else needs, and let go."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from finetune_operator.api.finetunejob import FineTuneJob
from tests.unit.server.builders import NOW, World, adapter, pod, serve, version

V1 = version("reviews")
KEYS = {"secretRef": {"name": "keys"}}


def candidate(name: str = "run", digit: str = "d") -> str:
    """The version of a run's candidate."""
    return f"candidate.{name}--{digit * 12}"


def run(name: str = "run", created: str = "a", digit: str = "d", **asked: Any) -> FineTuneJob:
    """A run that asks for its candidate."""
    wish = {
        "server": "shared",
        "version": candidate(name, digit),
        "source": f"pvc://adapters/_candidates/{name}",
        "digest": "sha256:" + digit * 64,
        **asked,
    }
    spec = {
        "baseModel": {"source": "pvc://models/small"},
        "dataset": {"source": "configmap://reviews/train.jsonl"},
        "output": {"destination": "pvc://adapters/reviews"},
        "evaluation": {
            "dataset": {"source": "configmap://reviews/holdout.jsonl"},
            "graders": [{"name": "exact", "type": "ExactMatch"}],
            "engine": {"serverRef": {"name": "shared"}},
        },
    }
    metadata = {"name": name, "namespace": "demo", "creationTimestamp": created}
    return FineTuneJob.model_validate({"metadata": metadata, "spec": spec, "status": {"candidate": wish}})


def manifest(world: World) -> dict[str, Any]:
    """The server manifest as pods read it."""
    found: dict[str, Any] = json.loads(world.children["ConfigMap"]["data"]["manifest.json"])
    return found


def listed(world: World) -> list[str]:
    return [one["name"] for one in manifest(world)["versions"]]


def states(world: World) -> dict[str, tuple[str, str]]:
    """State and reason by run."""
    told = world.status.get("candidates", [])
    return {one["fineTuneJob"]: (one["state"], one["reason"]) for one in told}


def scoring(*runs: FineTuneJob, **spec: Any) -> World:
    """A server that answers `reviews`, and these runs."""
    world = World(spec, deployments=(adapter("reviews"),), more={"runs": runs})
    serve(world, V1)
    return world


def test_a_candidate_is_listed_without_a_route_and_not_promoted() -> None:
    world = scoring(run(key="evaluation"), apiKeys=KEYS)
    entry = next(one for one in manifest(world)["versions"] if one["name"] == candidate())
    assert (entry["source"], entry["allowUnpromoted"]) == ("pvc://adapters/_candidates/run", True)
    assert [route["alias"] for route in manifest(world)["routes"]] == ["reviews"]
    assert manifest(world)["candidates"] == [{"version": candidate(), "key": "evaluation"}]
    assert [one["alias"] for one in world.status["adapters"]] == ["reviews"]


def test_a_server_without_keys_lets_whoever_knows_the_name_ask() -> None:
    world = scoring(run(key="evaluation"))
    assert manifest(world)["candidates"] == [{"version": candidate(), "key": None}]


@pytest.mark.parametrize(
    ("held", "expected"),
    [
        pytest.param((V1,), ("Loading", "Loading"), id="no pod has it yet"),
        pytest.param((V1, candidate()), ("Ready", "Ready"), id="every pod has it"),
        pytest.param(
            (V1, {"name": candidate(), "phase": "Failed", "reason": "RankTooLarge", "message": "128"}),
            ("Failed", "RankTooLarge"),
            id="a pod refuses it",
        ),
    ],
)
def test_where_a_candidate_stands_is_told(held: Any, expected: tuple[str, str]) -> None:
    world = scoring(run())
    serve(world, *held)
    assert states(world) == {"run": expected}


def test_a_pod_whose_image_is_older_than_candidates_is_not_said_to_have_one() -> None:
    world = scoring(run())
    older = pod(V1, candidate(), applied=world.status["manifestGeneration"])
    told = {key: value for key, value in (older.state or {}).items() if key != "candidates"}
    world.pods = (replace(older, state=told),)
    world.reconcile()
    assert states(world) == {"run": ("Failed", "ImageTooOld")}
    (entry,) = world.status["candidates"]
    assert "spec.upgrade.revision" in entry["message"]


def test_a_run_that_has_ended_or_is_gone_leaves_nothing_behind() -> None:
    for gone in ((), (run(server="another"),)):
        world = scoring(run())
        serve(world, V1, candidate())
        world.more = {"runs": gone}
        serve(world, V1, candidate())
        assert listed(world) == [V1]
        assert manifest(world)["candidates"] == []
        assert states(world) == {}


def test_an_answer_under_way_is_waited_for_though_nobody_may_ask_any_more() -> None:
    world = scoring(run())
    world.more = {}
    busy = {"name": candidate(), "digest": "sha256:" + "d" * 64, "phase": "Ready", "inFlight": 1}
    serve(world, V1, busy)
    assert (listed(world), manifest(world)["candidates"]) == ([candidate(), V1], [])
    serve(world, V1, candidate())
    assert listed(world) == [V1]


def test_a_run_that_is_being_deleted_wants_nothing() -> None:
    asked = run()
    metadata = asked.metadata.model_copy(update={"deletion_timestamp": NOW.isoformat()})
    world = scoring(asked.model_copy(update={"metadata": metadata}))
    assert listed(world) == [V1]


def test_one_run_scores_at_a_time_and_the_one_that_scores_goes_on() -> None:
    older, younger = run("older", "a", "e"), run("younger", "b", "f")
    world = scoring(younger)
    world.more = {"runs": (older, younger)}
    serve(world, V1, candidate("younger", "f"))
    assert states(world) == {"younger": ("Ready", "Ready"), "older": ("Pending", "WaitingForTurn")}
    assert listed(world) == [candidate("younger", "f"), V1]
    world.more = {"runs": (older,)}
    serve(world, V1, candidate("younger", "f"))
    serve(world, V1, candidate("older", "e"))
    assert states(world) == {"older": ("Ready", "Ready")}


def test_a_full_server_keeps_its_surge_slot_for_its_users() -> None:
    world = World({"maxLoras": 1, "maxCpuLoras": 1}, deployments=(adapter("reviews"),))
    serve(world, V1)
    world.more = {"runs": (run(),)}
    serve(world, V1)
    assert listed(world) == [V1]
    assert states(world) == {"run": ("Pending", "WaitingForSlot")}
    world.deployments = (adapter("reviews", digit="b"),)
    serve(world, V1, version("reviews", "b"))
    assert version("reviews", "b") in listed(world), "a roll is not held up"


def test_an_alias_that_comes_while_a_run_scores_waits_for_its_end() -> None:
    world = World(
        {"maxLoras": 1, "maxCpuLoras": 2}, deployments=(adapter("reviews"),), more={"runs": (run(),)}
    )
    serve(world, V1, candidate())
    world.deployments = (adapter("reviews"), adapter("tickets"))
    serve(world, V1, candidate())
    told = world.adapters()["tickets"]
    assert (told["state"], told["reason"]) == ("Pending", "WaitingForSlot")
    assert candidate() in told["message"]
    world.more = {}
    serve(world, V1, candidate())
    serve(world, V1, version("tickets"))
    assert world.adapters()["tickets"]["state"] == "Serving"


def test_an_operator_that_lost_its_manifest_finds_the_wish_again() -> None:
    world = scoring(run())
    serve(world, V1, candidate())
    del world.children["ConfigMap"]
    serve(world, V1, candidate())
    assert listed(world) == [candidate(), V1]
    assert states(world) == {"run": ("Ready", "Ready")}


def test_a_candidate_is_no_reason_to_call_a_server_unready() -> None:
    world = scoring(run())
    world.roll_out()
    world.pods = (
        pod(
            V1,
            {"name": candidate(), "phase": "Failed", "reason": "SilentNoOp", "message": "No effect."},
            applied=world.status["manifestGeneration"],
        ),
    )
    world.reconcile()
    assert world.condition("Ready").status == "True"
    assert world.status["adaptersServing"] == "1/1"


def test_a_wish_that_no_manifest_can_hold_is_no_wish() -> None:
    assert listed(scoring(run(digest="sha256:x"))) == [V1]
