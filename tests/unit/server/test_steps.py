"""Rollouts by steps on a server: routes with weights, what is counted, and the way back."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from finetune_operator.api.modelserverstatus import ModelServerStatus
from finetune_operator.api.rollout import ProcessCounters, RolloutRecord, StepCounts
from finetune_operator.serving.observed import PodState, Unreadable
from finetune_operator.serving.status import ROLLOUTS_BYTES
from finetune_operator.serving.steps import AT_ONCE, COUNTED
from finetune_operator.serving.table import read_table
from tests.unit.server.builders import NOW, World, adapter, held, pod, version

V1, V2, V3 = (version("reviews", digit) for digit in "abc")
STEPS = [{"weight": 10, "holdSeconds": 60}, {"weight": 50, "holdSeconds": 60}]
ROLLOUT: dict[str, Any] = {"steps": STEPS, "analysis": {"maxErrorRate": "0.02"}}


class Server:
    """A server whose pods do at once what they are told; they count what the test says."""

    def __init__(self, rollout: dict[str, Any] | None = None) -> None:
        self.world = World()
        self.now = NOW
        self.rollout = rollout or ROLLOUT
        self.counters: dict[str, dict[str, int]] = {}
        self.broken: set[str] = set()
        self.generation = 0
        self.names = ("pod-1",)
        self.ask("a")
        self.settle()

    def ask(self, digit: str, **rollout: Any) -> None:
        """The user changes the spec."""
        self.generation += 1
        self.rollout = {**self.rollout, **rollout}
        asked = adapter("reviews", digit=digit, generation=self.generation, rollout=self.rollout)
        self.world.deployments = (asked,)

    def look(self, seconds: float = 0) -> None:
        """One reconcile, so many seconds later."""
        self.now += timedelta(seconds=seconds)
        self.world.pods = tuple(self._pod(name) for name in self.names)
        self.world.reconcile(self.now)

    def settle(self) -> None:
        for _ in range(6):
            self.look()

    def _pod(self, name: str) -> PodState:
        listed = json.loads(self._document())["versions"] if self.world.children else []
        versions = [
            held(
                v["name"],
                "Failed" if v["name"] in self.broken else "Ready",
                **self.counters.get(v["name"], {}),
            )
            for v in listed
        ]
        found = pod(*versions, name=name, applied=self.world.status.get("manifestGeneration", 0))
        return replace(found, state_at=self.now)

    def _document(self) -> str:
        return str(self.world.children["ConfigMap"]["data"]["manifest.json"])

    @property
    def weights(self) -> dict[str, int]:
        """What the manifest says of the alias."""
        (route,) = json.loads(self._document())["routes"]
        return {target["version"]: target["weight"] for target in route["targets"]}

    @property
    def listed(self) -> set[str]:
        return {v["name"] for v in json.loads(self._document())["versions"]}

    @property
    def record(self) -> RolloutRecord:
        (record,) = ModelServerStatus.model_validate(self.world.status).rollouts
        return record

    @property
    def told(self) -> tuple[str, str]:
        entry = self.world.adapters()["reviews"]
        return entry["state"], entry.get("reason", "")


def shifting(**rollout: Any) -> Server:
    """The second version has the first step's weight."""
    server = Server({**ROLLOUT, **rollout})
    server.ask("b")
    server.settle()
    assert server.weights == {V1: 90, V2: 10}
    return server


def test_the_first_version_of_an_alias_takes_no_steps() -> None:
    server = Server()
    assert server.weights == {V1: 100}
    assert server.world.status["rollouts"] == []


def test_a_canary_is_promoted_by_steps_and_the_version_before_leaves() -> None:
    server, seen = shifting(), []
    for requests in (200, 400, 600):
        server.counters = {V1: {"requests": 10 * requests}, V2: {"requests": requests}}
        server.look(61)
        server.settle()
        seen.append((server.weights, server.told))
    assert seen[0] == ({V1: 50, V2: 50}, ("Loading", "Holding"))
    assert seen[1] == seen[2] == ({V2: 100}, ("Serving", ""))
    assert server.listed == {V2}
    assert (server.record.phase, server.record.counts) == ("Complete", None)


def test_a_canary_that_fails_goes_back_in_one_reconcile_and_is_unloaded() -> None:
    server = shifting()
    server.counters = {V1: {"requests": 900}, V2: {"requests": 100, "failures": 50}}
    server.look(5)
    assert server.weights == {V1: 100}
    assert server.told == ("Failed", "RolledBack")
    server.settle()
    assert server.listed == {V1}
    assert "50 of 100 requests failed" in server.world.adapters()["reviews"]["message"]
    server.look(9999)
    assert (server.weights, server.listed) == ({V1: 100}, {V1})


@pytest.mark.parametrize("rollout", [ROLLOUT, None])
def test_it_is_not_tried_again_because_the_spec_asks_for_an_adapter_that_is_not_there_yet(
    rollout: dict[str, Any] | None,
) -> None:
    server = shifting()
    server.counters = {V2: {"requests": 100, "failures": 50}}
    server.settle()
    assert server.record.phase == "RolledBack"
    server.counters = {}
    asked = adapter("reviews", digit="b", generation=9, available=False, rollout=rollout)
    server.world.deployments = (asked,)
    server.settle()
    assert (server.record.phase, server.weights, server.listed) == ("RolledBack", {V1: 100}, {V1})


def test_a_step_is_judged_and_the_last_while_the_spec_asks_for_an_adapter_that_is_not_there_yet() -> None:
    server = shifting()
    asked = adapter("reviews", digit="b", generation=9, available=False, rollout=ROLLOUT)
    server.world.deployments = (asked,)
    server.counters = {V2: {"requests": 100}}
    server.look(9999)
    server.settle()
    assert (server.weights, server.told) == ({V1: 90, V2: 10}, ("Loading", "NotResolved"))
    server.counters = {V2: {"requests": 300, "failures": 100}}
    server.settle()
    assert (server.record.phase, server.weights) == ("RolledBack", {V1: 100})


def test_taking_back_adapter_and_rollout_in_one_change_gives_the_canary_no_more_requests() -> None:
    server = shifting()
    before = server.world.deployments[0]
    metadata = before.metadata.model_copy(update={"generation": before.metadata.generation + 1})
    spec = before.spec.model_copy(update={"rollout": None})
    server.world.deployments = (before.model_copy(update={"metadata": metadata, "spec": spec}),)
    server.settle()
    assert server.weights == {V1: 90, V2: 10}  # its resolution is of the spec before
    server.world.deployments = (adapter("reviews", digit="a", generation=9),)
    server.look()
    assert server.weights == {V1: 100}


def test_a_changed_spec_tries_it_again() -> None:
    server = shifting()
    server.counters = {V2: {"requests": 100, "failures": 50}}
    server.settle()
    assert server.record.phase == "RolledBack"
    server.ask("b", paused=False)
    server.counters = {}
    server.settle()
    assert server.weights == {V1: 90, V2: 10}


@pytest.mark.parametrize("seconds", [0, 30])
def test_reverting_the_field_takes_one_reconcile_in_the_middle_of_a_step(seconds: float) -> None:
    server = shifting()
    server.look(seconds)
    server.ask("a")
    server.look()
    assert server.weights == {V1: 100}
    server.settle()
    assert server.listed == {V1}
    assert server.world.status["rollouts"] == []


def test_reverting_after_the_end_takes_no_steps() -> None:
    server = shifting()
    server.ask("b", promote="sha256:" + "b" * 64)
    server.settle()
    assert server.weights == {V2: 100}
    server.ask("a")
    server.look()
    server.look()
    server.look()
    assert server.weights == {V1: 100}


def test_a_third_version_in_the_middle_of_a_step_takes_the_canarys_place() -> None:
    server = shifting()
    server.ask("c")
    server.look()
    assert server.weights == {V1: 100}
    server.settle()
    assert server.weights == {V1: 90, V3: 10}
    assert server.listed == {V1, V3}


def test_a_lost_table_in_the_middle_of_a_step_empties_no_alias_and_the_step_goes_on() -> None:
    server = shifting()
    del server.world.children["ConfigMap"]
    server.world.reconcile(server.now)
    assert server.weights == {V1: 100}
    server.settle()
    assert server.weights == {V1: 90, V2: 10}
    assert (server.record.step, server.record.since) == (1, "2026-11-23T12:00:00Z")


def test_a_lost_status_in_the_middle_of_a_step_begins_the_steps_again() -> None:
    server = shifting()
    server.look(30)
    server.world.status.pop("rollouts")
    server.look()
    server.settle()
    assert server.weights == {V1: 90, V2: 10}
    assert server.record.since == "2026-11-23T12:00:30Z"


def test_a_rollout_that_cannot_be_read_any_more_gives_its_share_back_and_begins_anew() -> None:
    server = shifting()
    readable = server.world.deployments
    unreadable = Unreadable("reviews", "reviews", "t", "spec.rollout: no; correct it.")
    server.world.deployments, server.world.more = (), {"unreadable": (unreadable,)}
    server.look()
    assert server.weights == {V1: 100}
    server.settle()
    entry = server.world.adapters()["reviews"]
    assert (entry["reason"], entry["servingVersion"]) == ("Unreadable", V1)
    assert entry["message"] == f"spec.rollout: no; correct it. Until then {V1} gets every request."
    assert (server.listed, server.world.status["rollouts"]) == ({V1}, [])
    server.world.deployments, server.world.more = readable, {}
    server.settle()
    assert (server.weights, server.record.step) == ({V1: 90, V2: 10}, 1)


def rolled_back_without_replicas(**status: Any) -> Server:
    """A rollout ended, the server was scaled to zero, and its manifest is lost."""
    server = shifting()
    server.broken = {V2}
    server.look(5)
    server.names = ()
    asked = adapter("reviews", digit="b", generation=server.generation, rollout=server.rollout, **status)
    server.world.spec, server.world.deployments = {"replicas": 0}, (asked,)
    server.settle()
    del server.world.children["ConfigMap"]
    server.settle()
    return server


def test_a_manifest_that_is_lost_without_replicas_comes_back_with_the_version_before() -> None:
    last = {"version": V1, "digest": "sha256:" + "a" * 64, "source": "pvc://adapters/x"}
    server = rolled_back_without_replicas(last_served=last)
    assert (server.weights, server.listed) == ({V1: 100}, {V1})
    assert server.told == ("Failed", "RolledBack")
    server.names, server.world.spec, server.broken = ("pod-1",), {}, set()
    server.settle()
    assert (server.weights, server.told) == ({V1: 100}, ("Failed", "RolledBack"))


def test_where_nobody_knows_the_version_before_what_was_rolled_back_is_not_tried_again_all_the_same() -> None:
    server = rolled_back_without_replicas()
    assert (server.listed, server.told) == (set(), ("Failed", "RolledBack"))
    server.ask("b")
    server.look()
    assert server.listed == {V2}, "another spec tries it again"


def test_a_version_that_was_rolled_back_stays_so_while_its_deployment_cannot_be_read() -> None:
    server = shifting()
    server.broken = {V2}
    server.look(5)
    readable = server.world.deployments
    unreadable = Unreadable("reviews", "reviews", "t", "spec.rollout: no; correct it.")
    server.world.deployments, server.world.more = (), {"unreadable": (unreadable,)}
    server.settle()
    server.world.deployments, server.world.more, server.broken = readable, {}, set()
    server.settle()
    assert (server.weights, server.told) == ({V1: 100}, ("Failed", "RolledBack"))


def test_a_canary_that_the_server_refuses_in_a_step_loses_its_share_and_begins_anew() -> None:
    server = shifting()
    server.world.spec = {"artifactStore": "pvc://elsewhere"}
    server.look()
    assert (server.weights, server.told) == ({V1: 100}, ("Failed", "OutsideStore"))
    server.settle()
    assert (server.listed, server.world.status["rollouts"]) == ({V1}, [])
    server.world.spec = {}
    server.settle()
    assert (server.weights, server.record.step) == ({V1: 90, V2: 10}, 1)


def test_counters_that_began_before_the_step_or_with_a_new_process_are_not_counted_twice() -> None:
    server = shifting()
    server.counters = {V1: {"requests": 900}, V2: {"requests": 60}}
    server.look(5)
    server.names = ("pod-2",)
    server.counters = {V1: {"requests": 50}, V2: {"requests": 20}}
    server.look(5)
    server.counters = {V1: {"requests": 80}, V2: {"requests": 70}}
    server.look(5)
    counts = server.record.counts
    assert counts is not None
    assert (counts.stable.requests, counts.canary.requests) == (900 + 30, 60 + 50)


def test_a_canary_that_no_replica_can_have_sends_all_requests_back() -> None:
    server = shifting()
    server.broken = {V2}
    server.look(5)
    assert server.weights == {V1: 100}
    assert server.told == ("Failed", "RolledBack")


def test_a_replica_of_before_that_does_not_count_lets_no_step_pass() -> None:
    server = shifting(analysis={"maxLatencyRatio": "1.5", "minRequests": 20})
    server.counters = {V1: {"requests": 900}, V2: {"requests": 200}}
    (pod,) = server.world.pods
    assert pod.state is not None
    older = {key: value for key, value in pod.state.items() if key != "processId"}
    for _ in range(3):
        server.world.pods = (replace(pod, state=older, state_at=NOW + timedelta(seconds=70)),)
        server.world.reconcile(NOW + timedelta(seconds=70))
    assert server.weights == {V1: 90, V2: 10}
    assert server.told == ("Loading", "WaitingForRequests")
    assert "pod-1 is too old" in server.record.message


def test_a_canary_that_the_only_replica_fetches_again_is_not_given_up() -> None:
    server = shifting()
    later = held(V2, "Failed", reason="ArtifactMissing", message="Not there yet.", triedAgain=True)
    server.world.pods = (pod(V1, later, name="pod-1", applied=server.world.pods[0].applied),)
    server.world.reconcile(server.now)
    assert (server.record.phase, server.weights) == ("Shift", {V1: 90, V2: 10})
    assert server.told == ("Loading", "ArtifactMissing")


def test_one_replica_that_cannot_have_the_canary_holds_it_where_it_is() -> None:
    server = shifting(analysis=None)
    server.look(61)
    server.look()
    (healthy,) = server.world.pods
    missing = held(V2, "Failed", reason="ArtifactMissing", message="Gone.")
    broken = pod(V1, missing, name="pod-2", applied=healthy.applied)
    server.world.pods = (healthy, replace(broken, state_at=server.now))
    server.world.reconcile(server.now + timedelta(seconds=200))
    assert server.weights == {V1: 50, V2: 50}
    assert server.told == ("Failed", "ArtifactMissing")


def test_header_and_shadow_are_in_the_manifest_only_during_the_steps() -> None:
    server = shifting(stickyHeader="x-user", shadow={"percent": 20})
    (route,) = json.loads(server._document())["routes"]
    assert (route["stickyHeader"], route["shadow"]) == ("x-user", {"version": V2, "percent": 20})
    server.ask("b", promote="sha256:" + "b" * 64)
    server.settle()
    (route,) = json.loads(server._document())["routes"]
    assert (route["stickyHeader"], route["shadow"]) == (None, None)


def test_without_rollout_in_the_middle_of_a_step_the_new_version_gets_everything() -> None:
    server = shifting()
    server.world.deployments = (adapter("reviews", digit="b"),)
    server.settle()
    assert server.weights == {V2: 100}


def test_the_operator_looks_again_when_the_time_of_a_step_is_over() -> None:
    server = shifting(analysis=None)
    server.look(50)
    assert server.world.plan(server.now + timedelta(seconds=7)).requeue_after == 3.0


def test_the_table_with_weights_survives_the_manifest_that_carries_it() -> None:
    server = shifting()
    found = read_table(server.world.children["ConfigMap"])
    assert found is not None
    assert found.routes["reviews"].versions == (V1, V2)


def test_a_canary_is_named_where_another_alias_waits_for_its_slot() -> None:
    server = Server()
    server.world.spec = {"maxLoras": 1, "maxCpuLoras": 2}
    others = adapter("others", created="u")
    server.world.deployments = (*server.world.deployments, others)
    server.settle()
    server.ask("b")
    server.world.deployments = (*server.world.deployments, others)
    server.settle()
    next_other = adapter("others", created="u", digit="b")
    server.world.deployments = (server.world.deployments[0], next_other)
    server.settle()
    waits = server.world.adapters()["others"]
    assert (waits["reason"], waits["message"]) == ("WaitingForSlot", f"The surge slot is in use by {V2}.")


def test_sixteen_rollouts_are_counted_at_once_and_the_others_wait_for_their_turn() -> None:
    names = [f"alias-{n:02}" for n in range(20)]
    world = World({"maxCpuLoras": 50})
    for digit in "ab":
        _ask_all(world, digit, dict.fromkeys(names, ROLLOUT))
    reasons = [entry["reason"] for entry in world.adapters().values()]
    assert reasons.count("WaitingForTurn") == 4
    assert sum(len(r["targets"]) == 2 for r in routes(world)) == 16


def test_rollouts_that_are_paused_before_their_first_step_keep_no_other_waiting() -> None:
    names = [f"alias-{n:02}" for n in range(AT_ONCE + 1)]
    paused = {**ROLLOUT, "paused": True}
    world = World({"maxCpuLoras": 50})
    _ask_all(world, "a", dict.fromkeys(names, paused))
    _ask_all(world, "b", dict.fromkeys(names, paused))
    assert {entry["reason"] for entry in world.adapters().values()} == {"Paused"}
    assert {record["counts"] for record in world.status["rollouts"] if "counts" in record} <= {None}
    _ask_all(world, "b", {**dict.fromkeys(names, paused), names[-1]: ROLLOUT})
    assert world.adapters()[names[-1]]["reason"] == "Holding"
    _ask_all(world, "b", dict.fromkeys(names, ROLLOUT))
    reasons = [entry["reason"] for entry in world.adapters().values()]
    assert (reasons.count("Holding"), reasons.count("WaitingForTurn")) == (AT_ONCE, 1)


def _ask_all(world: World, digit: str, rollouts: dict[str, Any]) -> None:
    """Every alias wants this version, by its rollout."""
    world.deployments = tuple(
        adapter(name, created=name, digit=digit, rollout=rollout) for name, rollout in rollouts.items()
    )
    for _ in range(4):
        held_now = [version(name, d) for name in rollouts for d in "ab"[: "ab".index(digit) + 1]]
        world.pods = (pod(*held_now, applied=world.status.get("manifestGeneration", 0)),)
        world.reconcile()


def routes(world: World) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(world.children["ConfigMap"]["data"]["manifest.json"])["routes"]
    return found


def test_rollouts_that_are_paused_in_a_step_keep_no_other_waiting_while_the_status_has_room() -> None:
    names = [f"alias-{n:02}" for n in range(COUNTED + 1)]
    world = World({"maxCpuLoras": 60})
    _ask_all(world, "a", dict.fromkeys(names, ROLLOUT))
    _ask_all(world, "b", dict.fromkeys(names, ROLLOUT))
    halted = {**ROLLOUT, "paused": True}
    _ask_all(world, "b", {**dict.fromkeys(names, ROLLOUT), **dict.fromkeys(names[:AT_ONCE], halted)})
    reasons = [entry["reason"] for entry in world.adapters().values()]
    assert (reasons.count("Paused"), reasons.count("Holding")) == (AT_ONCE, COUNTED - AT_ONCE)
    assert reasons.count("WaitingForTurn") == 1


def test_the_counters_of_those_in_a_step_on_many_replicas_fit_into_the_status() -> None:
    most = ProcessCounters(process="p" * 64, stable=(2**40,) * 6, canary=(2**40,) * 6)
    counts = StepCounts(processes=(most,) * 65)
    whole = RolloutRecord(
        from_version="v" * 128, to_version="v" * 128, phase="Shift", since="2026-11-23T12:00:00Z",
        message="m" * 1024, deployment="d" * 253, generation=1, counts=counts,
    )  # fmt: skip
    assert COUNTED * len(json.dumps(whole.to_dict())) < ROLLOUTS_BYTES


ALIASES = [
    pytest.param({}, None, id="it stays refused when the older one is gone"),
    pytest.param({"takeOverAlias": True}, "young", id="it serves when its spec says so"),
]


@pytest.mark.parametrize(("spec", "serves"), ALIASES)
def test_an_alias_that_was_anothers(spec: dict[str, Any], serves: str | None) -> None:
    waiting = adapter("young", "reviews", "2026-01-02", digit="b", alias_conflict=True, **spec)
    world = World(deployments=(waiting,))
    world.reconcile()
    entry = world.adapters()["young"]
    assert (entry.get("reason") == "AliasConflict") == (serves is None)
    assert serves is not None or "spec.takeOverAlias" in entry["message"]


@pytest.mark.parametrize("replicas", [1, 0])
def test_an_object_that_is_replaced_by_one_of_another_name_before_the_next_look_hands_its_alias_on(
    replicas: int,
) -> None:
    world = World({"replicas": replicas}, deployments=(adapter("old", "reviews"),))
    world.reconcile()
    world.deployments = (adapter("new", "reviews", "2026-01-02", digit="b"),)
    for _ in range(3):
        world.reconcile()
        assert world.adapters()["new"].get("reason") != "AliasConflict"


def test_an_object_that_is_created_anew_before_the_next_look_keeps_its_alias_from_an_older_one() -> None:
    world = World(deployments=(adapter("old", "reviews"),))
    world.reconcile()
    again = adapter("old", "reviews", "2026-01-03")
    world.deployments = (adapter("young", "reviews", "2026-01-02", digit="b"), again)
    for _ in range(3):
        world.reconcile()
        told = world.adapters()
        assert told["old"].get("reason") != "AliasConflict"
        assert told["young"]["reason"] == "AliasConflict"


def test_a_server_that_had_no_slots_gives_the_alias_to_the_older_one_once_it_has() -> None:
    both = adapter("old", "reviews"), adapter("young", "reviews", "u", digit="b")
    world = World({"maxLoras": 0}, deployments=both)
    world.reconcile()
    world.spec = {}
    for _ in range(2):
        world.reconcile()
        told = world.adapters()
        assert told["old"].get("reason") != "AliasConflict"
        assert told["young"]["reason"] == "AliasConflict"


def test_of_two_that_were_created_at_once_the_one_that_has_the_alias_keeps_it() -> None:
    world = World(deployments=(adapter("later-by-name", "reviews"),))
    world.reconcile()
    world.deployments = (*world.deployments, adapter("earlier-by-name", "reviews", digit="b"))
    for _ in range(3):
        world.reconcile()
        told = world.adapters()
        assert told["earlier-by-name"]["reason"] == "AliasConflict"
        assert told["later-by-name"].get("reason") != "AliasConflict"


def test_who_deletes_an_object_and_creates_it_again_keeps_its_alias() -> None:
    waiting = adapter("young", "reviews", "2026-01-02", digit="b", alias_conflict=True)
    again = adapter("old", "reviews", "2026-01-03")
    world = World(deployments=(waiting, again))
    world.reconcile()
    told = world.adapters()
    assert told["old"].get("reason") != "AliasConflict"
    assert told["young"]["reason"] == "AliasConflict"
