"""Operator and agent, each with its own decisions, talking only through the manifest and /state."""

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import jsonschema
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from finetune_operator.api.modelserver import Limits, ModelServer
from finetune_operator.contracts.server_manifest import ManifestBase, ManifestVersion
from finetune_operator.serving.children import manifest_configmap
from finetune_operator.serving.observed import PodState
from finetune_operator.serving.report import AliasReport, report
from finetune_operator.serving.routing import Slots, next_step
from finetune_operator.serving.table import Table, write_table
from finetune_operator.serving.wanted import Wanted
from finetune_serving.agent.converge import World, converge
from finetune_serving.agent.record import Record, after_engine_restart, failed
from finetune_serving.agent.report import Process, state
from finetune_serving.documents import Counts, ServerManifest, json_schemas
from finetune_serving.gateway.routing import resolve, table_of
from tests.unit.server import builders

NEXT = {"Copy": "Loading", "Load": "Verifying", "Verify": "Ready"}
PROCESS = Process("process-1", "engine-1", "sha256:" + "b" * 64)
SLOTS = Slots(aliases=4, engine=5)
EMPTY = Table()


def want(alias: str, digit: str) -> Wanted:
    source, digest = f"pvc://adapters/{digit}", "sha256:" + digit * 64
    target = ManifestVersion(name=f"{alias}--{digit * 12}", source=source, digest=digest)
    return Wanted(alias, f"{alias}-deployment", target)


def told(one: Wanted, table: Table, pod: "Pod") -> AliasReport:
    """What the operator says of an alias."""
    pods = [pod.report()]
    return report(one, next_step(table, [one], pods, SLOTS), pods, [p for p in pods if p.ready], 1)


class Pod:
    """An agent whose engine does everything at once, and what it would answer on /state."""

    def __init__(self, broken: frozenset[str] = frozenset()) -> None:
        self.world = World(engine_up=True)
        self.broken = broken
        self.in_flight: dict[str, int] = {}
        self.tallies: dict[str, Counts] = {}

    def read(self, manifest: str) -> None:
        """Converge completely to a manifest as the operator writes it."""
        self.world = replace(self.world, manifest=ServerManifest.model_validate_json(manifest))
        while True:
            decision = converge(replace(self.world, in_flight=self.in_flight))
            self.world = decision.world
            for version in decision.copies:
                self._do("Copy", version)
            if decision.work is not None:
                self._do(decision.work.kind, decision.work.version)
            elif not decision.copies:
                return

    def _do(self, kind: str, version: str) -> None:
        records: dict[str, Record] = dict(self.world.records)
        record = records.pop(version)
        if kind != "Remove":
            broken = version in self.broken
            refused = failed(record, "InvalidArtifact", "It is broken; publish it again.", 0.0, retry=False)
            records[version] = refused if broken else replace(record, phase=NEXT[kind])  # type: ignore[arg-type]
        self.world = replace(self.world, records=records)

    def report(self) -> PodState:
        """The pod as the operator sees it."""
        document = state(self.world, PROCESS, self._tally)
        answer: Mapping[str, Any] = json.loads(document.model_dump_json(by_alias=True))
        jsonschema.validate(answer, json_schemas()["state"])
        return PodState("pod-1", "pod-1", bool(answer["ready"]), False, {}, answer)

    def _tally(self, version: str) -> Counts:
        return self.tallies.get(version, Counts(in_flight=self.in_flight.get(version, 0)))

    def shares(self, alias: str) -> dict[str, float]:
        """The share of requests that the gateway sends to each version."""
        routes = {"routes": tuple(self.world.routes.values())}
        assert self.world.manifest is not None
        table = table_of(self.world.manifest.model_copy(update=routes))
        picked = Counter(resolve(table, alias, draw / 100) for draw in range(100))
        return {str(version): number / 100 for version, number in picked.items()}

    def answers(self, alias: str) -> str | None:
        """The version that the gateway would pick now; fails if it could not answer."""
        if self.world.manifest is None:
            return None
        routes = {"routes": tuple(self.world.routes.values())}
        table = table_of(self.world.manifest.model_copy(update=routes))
        if alias not in table.aliases:
            return None
        version = resolve(table, alias, 0.5)
        assert self.world.records[version].phase == "Ready"
        return version


def settle(table: Table, wanted: list[Wanted], pod: Pod) -> Table:
    """Operator and pod in turns until neither changes anything; the alias is answered at every step."""
    served = {w.alias for w in wanted if pod.answers(w.alias)}
    for _ in range(12):
        after = next_step(table, wanted, [pod.report()], SLOTS).table
        pod.read(write_table(after, ManifestBase(name="base")).model_dump_json(by_alias=True))
        assert served <= {w.alias for w in wanted if pod.answers(w.alias)}
        if after == table:
            return after
        table = after
    pytest.fail(f"operator and agent never agree: {table}")


def test_an_alias_rolls_to_a_new_version_and_the_old_one_goes() -> None:
    pod = Pod()
    table = settle(EMPTY, [want("reviews", "a")], pod)
    assert pod.answers("reviews") == "reviews--" + "a" * 12
    table = settle(table, [want("reviews", "b")], pod)
    assert pod.answers("reviews") == "reviews--" + "b" * 12
    assert list(table.versions) == list(pod.world.records) == ["reviews--" + "b" * 12]
    assert told(want("reviews", "b"), table, pod).progress.state == "Serving"


def test_a_broken_version_is_reported_with_its_reason_and_the_old_one_stays() -> None:
    pod = Pod(broken=frozenset({"reviews--" + "b" * 12}))
    table = settle(EMPTY, [want("reviews", "a")], pod)
    table = settle(table, [want("reviews", "b")], pod)
    assert pod.answers("reviews") == "reviews--" + "a" * 12
    said = told(want("reviews", "b"), table, pod)
    assert (said.progress.state, said.progress.reason) == ("Failed", "InvalidArtifact")
    assert said.serving == "reviews--" + "a" * 12


def test_a_version_with_a_request_in_flight_stays_until_it_is_answered() -> None:
    pod, old = Pod(), "reviews--" + "a" * 12
    table = settle(EMPTY, [want("reviews", "a")], pod)
    pod.in_flight = {old: 1}
    table = settle(table, [want("reviews", "b")], pod)
    assert old in pod.world.records
    pod.in_flight = {}
    settle(table, [want("reviews", "b")], pod)
    assert old not in pod.world.records


def test_a_restarted_engine_is_not_ready_until_it_holds_everything_again() -> None:
    pod = Pod()
    table = settle(EMPTY, [want("reviews", "a")], pod)
    pod.world = replace(pod.world, records=after_engine_restart(pod.world.records), opened=False)
    assert not pod.report().ready
    assert next_step(table, [want("reviews", "a")], [pod.report()], SLOTS).table == table
    pod.read(write_table(table, ManifestBase(name="base")).model_dump_json(by_alias=True))
    assert pod.report().ready


class Server:
    """The operator's whole plan of a server whose only pod is `pod`."""

    def __init__(self, pod: Pod) -> None:
        self.pod = pod
        self.world = builders.World()

    def ask(self, digit: str) -> None:
        """Change the adapter; the rollout has one step of 20 of 100 requests."""
        steps = [{"weight": 20, "holdSeconds": 0}]
        rollout = {"steps": steps, "analysis": {"maxErrorRate": "0.02", "minRequests": 50}}
        self.world.deployments = (builders.adapter("reviews", digit=digit, rollout=rollout),)
        self.settle()

    def settle(self) -> None:
        """Operator and pod in turns."""
        for _ in range(6):
            self.world.pods = (self.pod.report(),)
            self.world.reconcile()
            self.pod.read(self.world.children["ConfigMap"]["data"]["manifest.json"])


OLD, NEW = (builders.version("reviews", digit) for digit in "ab")


def in_a_step() -> Server:
    server = Server(Pod())
    server.ask("a")
    server.ask("b")
    assert server.pod.shares("reviews") == {OLD: 0.8, NEW: 0.2}
    return server


def test_a_canary_gets_its_share_and_is_promoted_by_what_the_gateway_counts() -> None:
    server = in_a_step()
    server.pod.tallies = {NEW: Counts(requests=100, failures=1, seconds=12.5, first_byte_seconds=1.0)}
    server.settle()
    assert server.pod.shares("reviews") == {NEW: 1.0}
    assert list(server.pod.world.records) == [NEW]


def test_a_canary_whose_requests_fail_loses_its_share_and_leaves_the_engine() -> None:
    server = in_a_step()
    server.pod.tallies = {NEW: Counts(requests=100, failures=60)}
    server.settle()
    assert server.pod.shares("reviews") == {OLD: 1.0}
    assert list(server.pod.world.records) == [OLD]
    assert server.world.adapters()["reviews"]["reason"] == "RolledBack"


@pytest.mark.parametrize(("retry", "phase"), [(True, "Shift"), (False, "RolledBack")])
def test_a_canary_is_given_up_when_the_only_replica_tries_it_no_more(retry: bool, phase: str) -> None:
    server = in_a_step()
    lost = failed(server.pod.world.records[NEW], "ArtifactMissing", "It is not there.", 1e9, retry=retry)
    server.pod.world = replace(server.pod.world, records={**server.pod.world.records, NEW: lost})
    server.settle()
    (record,) = server.world.status["rollouts"]
    assert record["phase"] == phase


def test_the_operator_reads_every_counter_of_a_version() -> None:
    server = in_a_step()
    server.pod.tallies = {
        NEW: Counts(
            in_flight=7, requests=60, failures=5, empty=4, cut=3, seconds=12.5, first_byte_seconds=1.25
        )
    }
    pod = server.pod.report()
    assert (pod.process, pod.counters(NEW)) == ("process-1", (60, 5, 4, 3, 12_500, 1_250))


@settings(max_examples=50, deadline=None)
@given(st.lists(st.dictionaries(st.sampled_from(["one", "two"]), st.sampled_from("abc")), max_size=6))
def test_any_sequence_of_changes_ends_with_what_was_asked_last(changes: list[dict[str, str]]) -> None:
    pod, table = Pod(), EMPTY
    for change in changes:
        wanted = [want(alias, digit) for alias, digit in change.items()]
        table = settle(table, wanted, pod)
        assert {w.alias: w.version for w in wanted} == {a: r.stable for a, r in table.routes.items()}
        assert {w.version for w in wanted} == set(table.versions) == set(pod.world.records)


LIMITS = {
    "maxBodyBytes": 1024,
    "maxInFlight": 2,
    "maxInFlightPerAlias": 3,
    "maxInFlightPerKey": 4,
    "tokensPerMinutePerKey": 5,
    "maxN": 6,
    "maxPrompts": 7,
}


def told_to_gateway(**spec: Any) -> ServerManifest:
    """What the gateway reads of the server manifest of a ModelServer."""
    body = {"baseModel": {"source": "pvc://models/base"}, "artifactStore": "pvc://adapters", **spec}
    metadata = {"name": "shared", "namespace": "demo", "uid": "u1"}
    server = ModelServer.model_validate({"metadata": metadata, "spec": body})
    written = manifest_configmap(server, write_table(EMPTY, ManifestBase(name="base")))
    return ServerManifest.model_validate_json(written["data"]["manifest.json"])


def test_what_a_server_says_of_requests_is_what_its_gateway_does() -> None:
    grants = [{"name": "team", "aliases": ["reviews"]}]
    keys = {"secretRef": {"name": "keys"}, "allowedAliases": grants}
    read = told_to_gateway(limits=LIMITS, apiKeys=keys, drainSeconds=60)
    assert read.limits.model_dump(by_alias=True) == LIMITS
    assert [(key.name, set(key.aliases)) for key in read.keys] == [("team", {"reviews"})]
    assert read.drain_seconds == 60


def test_the_limits_that_nobody_set_are_those_that_the_api_tells() -> None:
    for name, value in told_to_gateway().limits.model_dump().items():
        told = str(Limits.model_fields[name].description).partition("Default: ")[2].rstrip(".")
        assert told == {None: "no limit", 32 * 2**20: "32 MiB"}.get(value, str(value))
