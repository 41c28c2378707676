"""What the agent does next, from what it knows."""

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from finetune_serving.agent.converge import COPIES, OPENING_SECONDS, Decision, Work, World, converge
from finetune_serving.agent.record import (
    ATTEMPTS,
    Record,
    after_engine_restart,
    failed,
    interrupted,
    postponed,
)
from finetune_serving.agent.routes import STALLED_SECONDS
from finetune_serving.documents import ServerManifest, VersionEntry


def entry(name: str, digit: str = "") -> VersionEntry:
    digest = "sha256:" + (digit or f"{ord(name):x}"[-1]) * 64
    return VersionEntry(name=name, source="pvc://adapters/x", digest=digest)


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


def world(m: ServerManifest | None, before: ServerManifest | None = None, **phases: Any) -> World:
    """`before` is the manifest whose routes are in force; every version has a content of its own."""
    records = {name: Record(entry(name), phase=phase) for name, phase in phases.items()}
    routes = {route.alias: route for route in before.routes} if before else {}
    applied = before.generation if before else 0
    return World(manifest=m, records=records, routes=routes, applied=applied, engine_up=True)


def moved(generation: int, versions: str) -> ServerManifest:
    """The alias of a now points at b."""
    document = manifest(generation, versions, "a").model_dump()
    document["routes"][0]["targets"] = [{"version": "b"}]
    return ServerManifest.model_validate(document)


OLD = manifest(1, "a", "a")
BOTH = manifest(2, "ab", "a")
MOVED = moved(3, "ab")
NEW = moved(4, "b")


@pytest.mark.parametrize(
    ("given_world", "work"),
    [
        pytest.param(world(None), None, id="without a manifest there is nothing to do"),
        pytest.param(world(OLD), None, id="a version whose files are missing waits for its copy"),
        pytest.param(world(OLD, a="Loading"), Work("Load", "a"), id="a fetched version is loaded"),
        pytest.param(world(OLD, a="Verifying"), Work("Verify", "a"), id="a loaded version is verified"),
        pytest.param(world(OLD, a="Ready"), None, id="a ready version needs nothing"),
        pytest.param(world(OLD, a="Failed"), None, id="a failed version is not tried again by itself"),
        pytest.param(
            replace(world(OLD, a="Loading"), engine_up=False), None, id="a load waits for the engine"
        ),
        pytest.param(world(NEW, NEW, a="Ready", b="Ready"), Work("Remove", "a"), id="an unlisted one goes"),
        pytest.param(
            replace(world(NEW, NEW, a="Ready", b="Ready"), in_flight={"a": 1}),
            None,
            id="but not while it answers a request",
        ),
        pytest.param(
            replace(world(NEW, NEW, a="Draining", b="Ready"), folders=frozenset({entry("a").digest})),
            None,
            id="and not while its files are being copied",
        ),
        pytest.param(
            world(NEW, OLD, a="Ready", b="Loading"), Work("Load", "b"), id="and not while routes name it"
        ),
    ],
)
def test_next_work(given_world: World, work: Work | None) -> None:
    assert converge(given_world).work == work


def test_copies_run_beside_each_other_but_never_two_of_one_content() -> None:
    names = "abcdef"
    listed = manifest(1, names)
    decision = converge(World(manifest=listed))
    assert decision.copies == tuple(names[:COPIES])
    busy = frozenset(entry(name).digest for name in "ab")
    assert converge(World(manifest=listed, folders=busy)).copies == ("c", "d")
    twins = manifest(1, "ab").model_copy(update={"versions": (entry("a", "c"), entry("b", "c"))})
    assert converge(World(manifest=twins)).copies == ("a",)


def test_a_copy_does_not_wait_for_the_engine() -> None:
    assert converge(replace(world(OLD), engine_up=False)).copies == ("a",)


def routed(decision: Decision) -> dict[str, str]:
    return {alias: route.targets[0].version for alias, route in decision.world.routes.items()}


@pytest.mark.parametrize(
    ("given_world", "version", "applied"),
    [
        pytest.param(
            world(OLD, a="Verifying"), "a", 0, id="the first route is in force before it can answer"
        ),
        pytest.param(world(OLD, a="Ready"), "a", 1, id="and counts once it can"),
        pytest.param(world(OLD, a="Failed"), "a", 1, id="or once its version is given up"),
        pytest.param(
            world(BOTH, OLD, a="Ready", b="Fetching"), "a", 2, id="an unrouted version holds up nobody"
        ),
        pytest.param(
            world(MOVED, BOTH, a="Ready", b="Loading"), "a", 2, id="an alias stays until it can move"
        ),
        pytest.param(
            world(MOVED, BOTH, a="Ready", b="Ready"), "b", 3, id="and moves when its version is ready"
        ),
        pytest.param(
            world(MOVED, BOTH, a="Ready", b="Failed"), "a", 3, id="a failed version never takes over"
        ),
        pytest.param(
            world(MOVED, BOTH, a="Failed", b="Failed"), "b", 3, id="unless the old one cannot be had"
        ),
        pytest.param(
            world(NEW, BOTH, a="Ready", b="Failed"), "a", 4, id="the old one answers on when it is unlisted"
        ),
        pytest.param(
            world(manifest(5, "", "z")), "z", 5, id="a route to an unlisted version waits for nobody"
        ),
    ],
)
def test_a_route(given_world: World, version: str, applied: int) -> None:
    decision = converge(given_world)
    assert (list(routed(decision).values()), decision.world.applied) == ([version], applied)


def test_a_version_that_is_unlisted_but_still_answers_is_kept() -> None:
    decision = converge(world(NEW, BOTH, a="Ready", b="Failed"))
    assert decision.world.records["a"].phase == "Ready"


def test_one_alias_moves_while_another_waits() -> None:
    before = manifest(1, "ab", "ab")
    document = manifest(2, "abcd", "ab").model_dump()
    for route, version in zip(document["routes"], "cd", strict=True):
        route["targets"] = [{"version": version}]
    after = ServerManifest.model_validate(document)
    decision = converge(world(after, before, a="Ready", b="Ready", c="Ready", d="Loading"))
    assert routed(decision) == {"alias-a": "c", "alias-b": "b"}


@pytest.mark.parametrize(
    ("phases", "engine_up", "opened"),
    [
        pytest.param({"a": "Ready", "b": "Loading"}, True, False, id="it waits for what can be had"),
        pytest.param({"a": "Ready", "b": "Failed"}, True, True, id="it waits for nothing that cannot"),
        pytest.param({"a": "Ready", "b": "Ready"}, False, False, id="without an engine nothing answers"),
    ],
)
def test_when_a_pod_opens(phases: dict[str, str], engine_up: bool, opened: bool) -> None:
    at = replace(world(manifest(1, "ab", "ab"), None, **phases), engine_up=engine_up)
    assert converge(at).world.opened is opened


def test_an_open_pod_stays_open_when_one_version_has_to_be_loaded_again() -> None:
    at = replace(world(OLD, OLD, a="Loading"), opened=True)
    assert converge(at).world.opened


def test_a_pod_opens_when_a_copy_hangs() -> None:
    at = world(manifest(1, "ab", "ab"), a="Ready", b="Fetching")
    assert not converge(replace(at, now=STALLED_SECONDS)).world.opened
    assert converge(replace(at, now=STALLED_SECONDS + 1)).world.opened


def test_a_pod_opens_although_a_copy_trickles() -> None:
    at = replace(world(manifest(1, "ab", "ab"), a="Ready", b="Fetching"), engine_at=50.0)
    late = 50.0 + OPENING_SECONDS
    assert not converge(replace(at, now=late, moved_at=late)).world.opened
    after = converge(replace(at, now=late + 1, moved_at=late)).world
    assert (after.opened, after.applied) == (True, 0)


@pytest.mark.parametrize(
    ("names", "seconds", "overdue"),
    [
        pytest.param("b", 601.0, ("a",), id="a version that no route names any more has its time"),
        pytest.param("b", 600.0, (), id="and all of it"),
        pytest.param("a", 9999.0, (), id="a routed one has no limit"),
    ],
)
def test_the_last_requests_of_a_version(names: str, seconds: float, overdue: tuple[str, ...]) -> None:
    listed = manifest(1, "ab", names)
    at = replace(world(listed, listed, a="Ready", b="Ready"), in_flight={"a": 1})
    first = converge(at).world
    assert converge(replace(first, now=seconds)).overdue == overdue


def test_a_new_engine_process_means_loading_again() -> None:
    records = world(OLD, a="Ready", b="Failed", c="Draining", d="Verifying", e="Fetching").records
    phases = {name: record.phase for name, record in after_engine_restart(records).items()}
    assert phases == {"a": "Loading", "b": "Failed", "c": "Draining", "d": "Loading", "e": "Fetching"}


def test_a_changed_entry_gives_a_failed_version_another_chance() -> None:
    record = failed(Record(entry("a")), "Unpromoted", "no", 0.0, retry=False)
    allowed = entry("a").model_copy(update={"allow_unpromoted": True})
    listed = OLD.model_copy(update={"versions": (allowed,)})
    decision = converge(World(manifest=listed, records={"a": record}))
    assert decision.copies == ("a",)
    assert decision.world.records["a"].reason == ""


def test_a_version_listed_again_while_draining_starts_over() -> None:
    decision = converge(world(BOTH, BOTH, a="Ready", b="Draining"))
    assert decision.world.records["b"].phase == "Fetching"


def test_one_name_with_other_content_is_removed_first() -> None:
    listed = OLD.model_copy(update={"versions": (entry("a", "c"),)})
    assert converge(replace(world(listed, a="Ready"))).work == Work("Remove", "a")


def test_retries_back_off_and_wait_for_their_time() -> None:
    record = failed(Record(entry("a")), "ArtifactMissing", "not there", 100.0, retry=True)
    assert record.retry_at == 101.0
    at = replace(world(OLD), records={"a": record}, now=100.5)
    assert converge(at).copies == ()
    assert converge(replace(at, now=101.0)).copies == ("a",)
    for _ in range(10):
        record = failed(record, "ArtifactMissing", "not there", 0.0, retry=True)
    assert record.retry_at == 60.0


def _restarted(record: Record) -> Record:
    return after_engine_restart({"a": record})["a"]


def test_an_adapter_that_took_three_engines_in_a_row_down_is_given_up() -> None:
    record = Record(entry("a"), phase="Loading")
    for expected in ("Loading", "Loading", "Failed"):
        record = interrupted(_restarted(record), "the engine went away", 0.0)
        assert record.phase == expected
    assert record.reason == "LoadFailed"
    assert record.retry_at is None


def test_an_engine_that_ends_without_the_load_of_an_adapter_ends_for_other_reasons() -> None:
    record = Record(entry("a"), phase="Loading")
    for _ in range(3):
        record = interrupted(_restarted(record), "the engine went away", 0.0)
        record = _restarted(_restarted(record))
    assert record.phase == "Loading"


def test_the_end_of_one_engine_counts_once() -> None:
    record = Record(entry("a"), phase="Loading")
    for _ in range(5):
        record = interrupted(record, "the engine went away", 0.0)
    assert (record.phase, record.losses) == ("Loading", 1)


PHASES = st.sampled_from(["Fetching", "Loading", "Verifying", "Ready", "Draining", "Failed"])


def test_what_fails_in_the_engine_is_tried_ever_more_rarely() -> None:
    record = Record(entry("a"), phase="Loading")
    for _ in range(12):
        record = replace(failed(record, "LoadFailed", "out of memory", 0.0, retry=True), phase="Loading")
    assert record.retry_at == 600.0


def test_what_fails_for_weeks_is_still_tried_again() -> None:
    record = replace(Record(entry("a"), phase="Loading"), attempts=100_000)
    assert failed(record, "LoadFailed", "x", 0.0, retry=True).retry_at == 600.0
    assert postponed(record, "x", 0.0).retry_at == 60.0


def test_a_version_that_failed_three_times_keeps_nobody_waiting_while_it_is_tried_again() -> None:
    tried = replace(Record(entry("a"), phase="Loading"), attempts=ATTEMPTS)
    assert converge(replace(world(OLD), records={"a": tried})).world.opened


def test_other_failures_do_not_count_as_ends_of_the_engine() -> None:
    tried = replace(Record(entry("a"), phase="Loading"), attempts=5)
    assert interrupted(tried, "the engine went away", 0.0).phase == "Loading"


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
    named = {t.version for route in decision.world.routes.values() for t in route.targets}
    if decision.work and decision.work.kind == "Remove":
        assert phases.get(decision.work.version) == "Draining" or decision.work.version not in named
    again = converge(decision.world)
    assert again == decision
