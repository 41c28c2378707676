"""What the agent does next, from what it knows."""

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from finetune_serving.agent.converge import (
    Decision,
    Record,
    Work,
    World,
    after_engine_restart,
    converge,
    failed,
    interrupted,
)
from finetune_serving.documents import ServerManifest, VersionEntry


def entry(name: str, digit: str = "a") -> VersionEntry:
    return VersionEntry(name=name, source="pvc://adapters/x", digest="sha256:" + digit * 64)


def manifest(generation: int, versions: str, routes: str = "") -> ServerManifest:
    """Versions and routed versions by one-letter names."""
    return ServerManifest.model_validate(
        {
            "schemaVersion": 1,
            "generation": generation,
            "base": {"name": "base"},
            "versions": [entry(name).model_dump() for name in versions],
            "routes": [{"alias": f"alias-{name}", "targets": [{"version": name}]} for name in routes],
        }
    )


def world(m: ServerManifest | None, applied: ServerManifest | None = None, **phases: Any) -> World:
    records = {name: Record(entry(name), phase=phase) for name, phase in phases.items()}
    return World(manifest=m, records=records, applied=applied, engine_up=True)


OLD = manifest(1, "a", "a")
BOTH = manifest(2, "ab", "a")
MOVED = manifest(3, "ab", "b")
NEW = manifest(4, "b", "b")


@pytest.mark.parametrize(
    ("given_world", "work"),
    [
        pytest.param(world(None), None, id="without a manifest there is nothing to do"),
        pytest.param(world(OLD), Work("Fetch", "a"), id="a new version is fetched"),
        pytest.param(world(OLD, a="Loading"), Work("Load", "a"), id="a fetched version is loaded"),
        pytest.param(world(OLD, a="Verifying"), Work("Verify", "a"), id="a loaded version is verified"),
        pytest.param(world(OLD, a="Ready"), None, id="a ready version needs nothing"),
        pytest.param(world(OLD, a="Failed"), None, id="a failed version is not tried again by itself"),
        pytest.param(
            replace(world(OLD, a="Loading"), engine_up=False), None, id="a load waits for the engine"
        ),
        pytest.param(replace(world(OLD), engine_up=False), Work("Fetch", "a"), id="a fetch does not wait"),
        pytest.param(world(NEW, NEW, a="Ready", b="Ready"), Work("Remove", "a"), id="an unlisted one goes"),
        pytest.param(
            replace(world(NEW, NEW, a="Ready", b="Ready"), in_flight={"a": 1}),
            None,
            id="but not while it answers a request",
        ),
        pytest.param(
            world(NEW, OLD, a="Ready", b="Loading"), Work("Load", "b"), id="and not while routes name it"
        ),
    ],
)
def test_next_work(given_world: World, work: Work | None) -> None:
    assert converge(given_world).work == work


@pytest.mark.parametrize(
    ("given_world", "generation"),
    [
        pytest.param(world(OLD, a="Verifying"), None, id="routes wait for their version"),
        pytest.param(world(OLD, a="Ready"), 1, id="and come into force once it is ready"),
        pytest.param(world(BOTH, OLD, a="Ready", b="Fetching"), 2, id="an unrouted version holds up nobody"),
        pytest.param(world(MOVED, BOTH, a="Ready", b="Failed"), 2, id="a failed version never gets traffic"),
        pytest.param(world(MOVED, BOTH, a="Ready", b="Ready"), 3, id="the alias moves when both can answer"),
        pytest.param(world(manifest(5, "", "z")), None, id="a route to an unlisted version is never applied"),
    ],
)
def test_routes(given_world: World, generation: int | None) -> None:
    applied = converge(given_world).applied
    assert (applied.generation if applied else None) == generation


def test_a_new_engine_process_means_loading_again() -> None:
    records = world(OLD, a="Ready", b="Failed", c="Draining", d="Verifying", e="Fetching").records
    phases = {name: record.phase for name, record in after_engine_restart(records).items()}
    assert phases == {"a": "Loading", "b": "Failed", "c": "Draining", "d": "Loading", "e": "Fetching"}


def test_a_changed_entry_gives_a_failed_version_another_chance() -> None:
    record = failed(Record(entry("a")), "Unpromoted", "no", 0.0, retry=False)
    allowed = entry("a").model_copy(update={"allow_unpromoted": True})
    listed = OLD.model_copy(update={"versions": (allowed,)})
    decision = converge(World(manifest=listed, records={"a": record}))
    assert decision.work == Work("Fetch", "a")
    assert decision.records["a"].reason == ""


def test_a_version_listed_again_while_draining_starts_over() -> None:
    decision = converge(world(BOTH, BOTH, a="Ready", b="Draining"))
    assert decision.records["b"].phase == "Fetching"


def test_one_name_with_other_content_is_removed_first() -> None:
    listed = OLD.model_copy(update={"versions": (entry("a", "c"),)})
    assert converge(replace(world(listed, a="Ready"))).work == Work("Remove", "a")


def test_retries_back_off_and_wait_for_their_time() -> None:
    record = failed(Record(entry("a")), "ArtifactMissing", "not there", 100.0, retry=True)
    assert record.retry_at == 102.0
    at = replace(world(OLD), records={"a": record}, now=101.0)
    assert converge(at).work is None
    assert converge(replace(at, now=102.0)).work == Work("Fetch", "a")
    for _ in range(10):
        record = failed(record, "ArtifactMissing", "not there", 0.0, retry=True)
    assert record.retry_at == 60.0


def test_an_adapter_that_took_the_engine_down_three_times_is_given_up() -> None:
    record = Record(entry("a"), phase="Loading")
    for expected in ("Loading", "Loading", "Failed"):
        record = interrupted(record, "the engine went away", 0.0)
        assert record.phase == expected
    assert record.reason == "LoadFailed"
    assert record.retry_at is None


PHASES = st.sampled_from(["Fetching", "Loading", "Verifying", "Ready", "Draining", "Failed"])


@given(
    phases=st.dictionaries(st.sampled_from("abcd"), PHASES),
    listed=st.sets(st.sampled_from("abcd")),
    routed=st.sets(st.sampled_from("abcd")),
    up=st.booleans(),
)
def test_a_routed_version_is_never_removed_and_settling_is_stable(
    phases: dict[str, str], listed: set[str], routed: set[str], up: bool
) -> None:
    m = manifest(9, "".join(sorted(listed)), "".join(sorted(routed & listed)))
    at = replace(world(m, BOTH, **phases), engine_up=up)
    decision = converge(at)
    assert decision.applied is not None
    if decision.work and decision.work.kind == "Remove":
        was_draining = phases.get(decision.work.version) == "Draining"
        assert was_draining or decision.work.version not in decision.applied.routed()
    again = converge(replace(at, records=decision.records, applied=decision.applied))
    assert again == Decision(decision.records, decision.applied, decision.work)
