"""The cache of our own objects, and how a watch of kopf's that stands still is noticed."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from finetune_operator.runtime.cache.arrivals import Arrivals
from finetune_operator.runtime.cache.listing import Listing, RestoredError
from finetune_operator.runtime.cache.owners import Owners
from finetune_operator.runtime.resources import Key

RUN = Key("FineTuneJob", "demo", "run")
SERVER = Key("ModelServer", "demo", "s")
ADAPTER = Key("AdapterDeployment", "demo", "d")
RUNS = "/apis/finetune.dev/v1alpha1/finetunejobs"
NAMES = {"serverRef": {"name": "s"}, "adapter": {"fineTuneJobRef": {"name": "run"}}}


def manifest(version: int, uid: str = "u", **parts: Any) -> dict[str, Any]:
    return {
        "metadata": {"name": "run", "namespace": "demo", "uid": uid, "resourceVersion": str(version)},
        **parts,
    }


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def owners(clock: Clock) -> Owners:
    return Owners(Arrivals(clock))


def version_of(owners: Owners, key: Key = RUN) -> str | None:
    found = owners.get(key)
    return None if found is None else found["metadata"]["resourceVersion"]


def test_a_new_state_is_kept_and_queues_its_object(owners: Owners) -> None:
    assert owners.brought(RUN, manifest(9), deleted=False) == {RUN}
    assert owners.brought(RUN, manifest(10), deleted=False) == {RUN}
    assert version_of(owners) == "10"


def test_an_old_state_changes_nothing(owners: Owners) -> None:
    owners.brought(RUN, manifest(10), deleted=False)
    assert owners.brought(RUN, manifest(9), deleted=False) == set()
    assert version_of(owners) == "10"


def test_what_we_wrote_ourselves_queues_only_who_names_it(owners: Owners) -> None:
    owners.brought(RUN, manifest(9), deleted=False)
    owners.brought(ADAPTER, manifest(1, spec=NAMES), deleted=False)
    owners.rewritten(RUN, manifest(10))
    assert version_of(owners) == "10"
    assert owners.brought(RUN, manifest(10), deleted=False) == {ADAPTER}


def reported(version: int, spec: Any = None, **more: Any) -> dict[str, Any]:
    """A server with an entry for each of two adapters; the rollout of one is in a step."""
    entries = [{"deployment": name, "state": "Serving"} for name in ("d", "e")]
    step = {"deployment": "d", "weight": 5, "counts": {"stable": {"requests": 1}}}
    return manifest(version, spec=spec, status={"adapters": entries, "rollouts": [step], **more})


STEP: dict[str, Any] = {"deployment": "d", "weight": 5}
CHANGES = [
    pytest.param({"rollouts": [{**STEP, "counts": {"stable": {"requests": 2}}}]}, set(), id="counts"),
    pytest.param({"rollouts": [{**STEP, "weight": 25}]}, {"d"}, id="the next step"),
    pytest.param({"rollouts": []}, {"d"}, id="a rollout that is forgotten"),
    pytest.param({"adapters": [{"deployment": "d", "state": "Serving"}]}, {"e"}, id="an entry that goes"),
    pytest.param({"conditions": [{"type": "Ready"}]}, {"d", "e"}, id="what is said to all"),
    pytest.param({"spec": {"replicas": 2}}, {"d", "e"}, id="a spec that can be read again"),
]


@pytest.mark.parametrize(("change", "woken"), CHANGES)
def test_a_server_wakes_the_adapters_to_which_it_says_something_new(
    owners: Owners, change: dict[str, Any], woken: set[str]
) -> None:
    both = {Key("AdapterDeployment", "demo", name) for name in ("d", "e")}
    for key in both:
        owners.brought(key, manifest(1, spec=NAMES), deleted=False)
    assert owners.brought(SERVER, reported(9), deleted=False) == {SERVER, *both}
    found = owners.brought(SERVER, reported(10, **change), deleted=False)
    assert {key.name for key in found - {SERVER}} == woken
    assert owners.brought(SERVER, manifest(11), deleted=True) == {SERVER, *both}


def test_the_deletion_of_a_predecessor_does_not_remove_its_successor(owners: Owners) -> None:
    owners.brought(RUN, manifest(20, uid="new"), deleted=False)
    owners.brought(RUN, manifest(19, uid="old"), deleted=True)
    assert version_of(owners) == "20"
    owners.brought(RUN, manifest(21, uid="new"), deleted=True)
    assert version_of(owners) is None


def test_an_answer_that_its_objects_deletion_overtook_brings_nothing_back(owners: Owners) -> None:
    owners.brought(RUN, manifest(9), deleted=False)
    owners.brought(RUN, manifest(11), deleted=True)
    owners.rewritten(RUN, manifest(10))
    assert version_of(owners) is None
    assert owners.arrivals.owed() == 0


def test_who_names_an_object_is_found(owners: Owners) -> None:
    owners.brought(ADAPTER, manifest(1, spec=NAMES), deleted=False)
    assert [found["spec"] for found in owners.naming(SERVER, "AdapterDeployment")] == [NAMES]
    assert owners.brought(ADAPTER, manifest(2), deleted=True) == {ADAPTER, SERVER}
    assert owners.naming(SERVER, "AdapterDeployment") == []


def test_what_finished_runs_measured_is_kept_by_namespace(owners: Owners) -> None:
    measured = {"completionTime": "2026-01-01T00:00:00Z", "cost": {"mfu": "0.4"}}
    owners.brought(RUN, manifest(1, spec={"method": "LoRA"}, status=measured), deleted=False)
    owners.brought(SERVER, manifest(1, status=measured), deleted=False)
    (found,) = owners.measured("demo")
    assert (found["spec"]["method"], found["status"]["cost"]) == ("LoRA", {"mfu": "0.4"})
    owners.brought(RUN, manifest(2), deleted=True)
    assert owners.measured("demo") == []


SCORES = {"evaluation": {"engine": {"serverRef": {"name": "s"}}}}


def test_a_run_wakes_the_server_that_scores_it_when_it_asks_for_something_else(owners: Owners) -> None:
    def brought(version: int, **status: Any) -> set[Key]:
        return owners.brought(RUN, manifest(version, spec=SCORES, status=status), deleted=False)

    assert brought(1) == {RUN, SERVER}, "what it asked for before is not known"
    assert brought(2, progress={"percent": 1}) == {RUN}
    assert brought(3, candidate={"version": "candidate.run--a"}) == {RUN, SERVER}
    assert brought(4, candidate={"version": "candidate.run--a"}, progress={"percent": 2}) == {RUN}
    assert brought(5) == {RUN, SERVER}
    assert owners.brought(RUN, manifest(6), deleted=True) == {RUN, SERVER}
    assert owners.naming(SERVER, "FineTuneJob") == []


def test_a_server_tells_a_run_how_its_candidate_stands(owners: Owners) -> None:
    def told(version: int, state: str) -> set[Key]:
        status = {"candidates": [{"fineTuneJob": "run", "state": state}]}
        return owners.brought(SERVER, manifest(version, status=status), deleted=False)

    owners.brought(RUN, manifest(1, spec=SCORES), deleted=False)
    owners.brought(ADAPTER, manifest(1, spec={"serverRef": {"name": "s"}}), deleted=False)
    assert told(1, "Loading") == {SERVER, RUN, ADAPTER}
    assert told(2, "Ready") == {SERVER, RUN}
    assert told(3, "Ready") == {SERVER}


def test_who_published_an_artifact_is_found_by_its_digest(owners: Owners) -> None:
    published = {"artifact": {"digest": "sha256:a"}}
    owners.brought(RUN, manifest(1, status=published), deleted=False)
    assert owners.publishing("demo", "sha256:a") == owners.get(RUN)
    assert (owners.publishing("demo", "sha256:b"), owners.publishing("other", "sha256:a")) == (None, None)
    owners.brought(RUN, manifest(2, "another"), deleted=False)
    assert owners.publishing("demo", "sha256:a") is None, "it was created anew and has published nothing"


def test_a_run_wakes_who_names_its_artifact_by_the_digest(owners: Owners) -> None:
    pinned = {"serverRef": {"name": "s"}, "adapter": {"source": "pvc://a/b", "digest": "sha256:a"}}
    published = {"artifact": {"digest": "sha256:a"}}
    owners.brought(ADAPTER, manifest(1, spec=pinned), deleted=False)
    assert owners.brought(RUN, manifest(2), deleted=False) == {RUN}
    owners.rewritten(RUN, manifest(3, status=published))
    assert owners.brought(RUN, manifest(3, status=published), deleted=False) == {ADAPTER}
    assert owners.brought(RUN, manifest(4, "another"), deleted=False) == {RUN, ADAPTER}, "created anew"
    owners.brought(RUN, manifest(5, "another", status=published), deleted=False)
    assert owners.brought(RUN, manifest(6, "another"), deleted=True) == {RUN, ADAPTER}
    other = Key("FineTuneJob", "other", "run")
    assert owners.brought(other, manifest(7, status=published), deleted=False) == {other}


def test_an_artifact_whose_run_is_gone_is_published_by_nobody(owners: Owners) -> None:
    owners.brought(RUN, manifest(1, status={"artifact": {"digest": "sha256:a"}}), deleted=False)
    owners.brought(RUN, manifest(2), deleted=True)
    assert owners.publishing("demo", "sha256:a") is None


def test_a_write_that_does_not_come_back_makes_its_watch_overdue(owners: Owners, clock: Clock) -> None:
    owners.brought(RUN, manifest(9), deleted=False)
    owners.rewritten(RUN, manifest(10))
    clock.now = 70.0
    owners.rewritten(RUN, manifest(11))
    assert owners.arrivals.overdue() == {"FineTuneJob": 70.0}
    owners.brought(RUN, manifest(10), deleted=False)
    assert owners.arrivals.overdue() == {"FineTuneJob": 70.0}, "the newest has not come"
    owners.brought(RUN, manifest(12), deleted=False)
    assert owners.arrivals.overdue() == {}


def test_a_deletion_settles_what_was_awaited(owners: Owners, clock: Clock) -> None:
    owners.brought(RUN, manifest(9), deleted=False)
    owners.rewritten(RUN, manifest(10))
    owners.brought(RUN, manifest(11), deleted=True)
    assert owners.arrivals.owed() == 0


_LISTS = [
    ("the same state", {RUN: "9"}, "9", [], 0),
    ("a newer state", {RUN: "12"}, "12", [], 1),
    ("an unknown object", {RUN: "9", SERVER: "3"}, "9", [], 1),
    ("an object is missing", {}, "30", [RUN], 0),
    ("an object came after the list", {}, "8", [], 0),
]


@pytest.mark.parametrize(
    ("versions", "at", "gone", "owed"), [c[1:] for c in _LISTS], ids=[c[0] for c in _LISTS]
)
def test_a_list_shows_what_a_watch_owes(
    owners: Owners, versions: dict[Key, str], at: str, gone: list[Key], owed: int
) -> None:
    owners.brought(RUN, manifest(9), deleted=False)
    found = [key for kind in ("FineTuneJob", "ModelServer") for key in owners.listed(
        kind, {k: v for k, v in versions.items() if k.kind == kind}, at)]  # fmt: skip
    assert (found, owners.arrivals.owed()) == (gone, owed)


@pytest.mark.parametrize(
    ("meanwhile", "kept"), [(None, "5"), (12, "12")], ids=["etcd was restored", "the watch was faster"]
)
def test_a_read_replaces_what_was_known_when_it_began(
    owners: Owners, meanwhile: int | None, kept: str
) -> None:
    owners.brought(RUN, manifest(9), deleted=False)
    before = owners.version(RUN)
    if meanwhile is not None:
        owners.brought(RUN, manifest(meanwhile), deleted=False)
    owners.reread(RUN, manifest(5), before)
    assert version_of(owners) == kept


def test_an_object_that_a_read_does_not_find_is_gone(owners: Owners) -> None:
    owners.brought(RUN, manifest(9), deleted=False)
    owners.reread(RUN, None, "9")
    assert RUN not in owners


async def test_a_list_that_is_older_than_what_was_known_ends_the_process(
    server: Any, api: Any, owners: Owners
) -> None:
    owners.brought(RUN, manifest(server.version + 1), deleted=False)
    with pytest.raises(RestoredError, match="etcd was restored from a backup"):
        await Listing(api, owners, None, lambda key: None).caught_up()


async def test_what_was_deleted_while_a_watch_was_cut_is_found_by_the_list(
    server: Any, api: Any, owners: Owners
) -> None:
    owners.brought(RUN, manifest(9), deleted=False)
    adapter = server.put("/apis/finetune.dev/v1alpha1/adapterdeployments/d", spec=NAMES)
    owners.brought(ADAPTER, adapter, deleted=False)
    changed: list[Key] = []
    async with asyncio.timeout(5):
        await Listing(api, owners, None, changed.append).caught_up()
    assert set(changed) == {RUN, ADAPTER}
    assert version_of(owners) is None
    assert ("GET", RUNS) in server.seen
