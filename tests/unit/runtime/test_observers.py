"""What a run and a server see: caches, live reads where a decision is final, and nothing of other people's."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import pytest

from finetune_operator.runtime.cache.arrivals import Arrivals
from finetune_operator.runtime.cache.owners import Owners
from finetune_operator.runtime.cache.store import Stores
from finetune_operator.runtime.observers.jobs import JobObserver
from finetune_operator.runtime.observers.lookups import Expiring, Lookups
from finetune_operator.runtime.observers.rollouts import RolloutObserver
from finetune_operator.runtime.pods import Poller
from finetune_operator.runtime.resources import Key

JOBS = "/apis/batch/v1/namespaces/demo/jobs"
PODS = "/api/v1/namespaces/demo/pods"
CLAIMS = "/api/v1/namespaces/demo/persistentvolumeclaims"
CONFIGMAPS = "/api/v1/namespaces/demo/configmaps"
NOW = datetime(2026, 1, 1, tzinfo=UTC)
OWNED = [{"kind": "FineTuneJob", "name": "run", "uid": "u", "controller": True}]


def run(*attempts: dict[str, Any], **status: Any) -> dict[str, Any]:
    return {
        "metadata": {"name": "run", "namespace": "demo", "uid": "u"},
        "spec": {
            "baseModel": {"source": "pvc://m"},
            "dataset": {"source": "configmap://rows/train.jsonl"},
            "output": {"destination": "pvc://o/p"},
        },
        "status": {"attempts": list(attempts), **status},
    }


def attempt(state: str, stage: str = "train", job: str = "j") -> dict[str, Any]:
    return {"stage": stage, "number": 1, "job": job, "state": state}


def job(name: str = "j", *, done: bool = False, **metadata: Any) -> dict[str, Any]:
    conditions = [{"type": "Failed", "status": "True"}] if done else []
    about = {"name": name, "namespace": "demo", "uid": f"uid-{name}", "ownerReferences": OWNED, **metadata}
    return {"metadata": about, "spec": {"suspend": False}, "status": {"conditions": conditions}}


def pod(name: str, **metadata: Any) -> dict[str, Any]:
    labels = {"finetune.dev/uid": "u", "batch.kubernetes.io/job-name": "j"}
    controller = [{"kind": "Job", "name": "j", "uid": "uid-j", "controller": True}]
    about = {"name": name, "namespace": "demo", "uid": name, "labels": labels, "ownerReferences": controller}
    return {"metadata": {**about, **metadata}, "status": {"phase": "Running"}}


class World:
    """An observer of runs whose clock the test moves."""

    def __init__(self, api: Any, server: Any):
        self.now = 0.0
        self.stores = Stores()
        self.owners = Owners(Arrivals(lambda: self.now))
        self.requests = server.seen
        self.poller = Poller(self._asked, lambda key: None, 10.0, lambda: self.now, lambda: NOW)
        self.asked = asyncio.Event()
        lookups = Lookups(api, lambda: self.now)
        self.observe = JobObserver(api, self.owners, self.stores, lookups, self.poller, lambda: NOW)

    async def _asked(self, address: str, port: int, path: str) -> Mapping[str, Any] | None:
        self.asked.set()
        return None


@pytest.fixture
async def world(api: Any, server: Any) -> World:
    for claim in ("m", "o"):
        server.put(f"{CLAIMS}/{claim}")
    server.put(f"{CONFIGMAPS}/rows", data={"train.jsonl": "{}"})
    return World(api, server)


async def test_a_running_attempt_costs_no_request(world: World) -> None:
    world.stores.jobs.put(job())
    world.stores.pods.put(pod("p"))
    observed = await world.observe(run(attempt("Succeeded", "prepare", "i"), attempt("Running")))
    assert (list(observed.jobs), [len(pods) for pods in observed.pods.values()]) == (["j"], [1])
    assert world.requests == []


async def test_before_an_attempt_starts_what_the_spec_names_is_read_once_a_minute(world: World) -> None:
    for _ in range(3):
        observed = await world.observe(run())
    assert set(observed.claims) == {"m", "o"}
    assert observed.configmaps == {"rows", "rows/train.jsonl"}
    assert len(world.requests) == 3
    world.now = 61.0
    await world.observe(run())
    assert len(world.requests) == 6


async def test_what_is_missing_is_looked_for_again_soon(world: World, server: Any) -> None:
    del server.objects[f"{CLAIMS}/m"]
    assert set((await world.observe(run())).claims) == {"o"}
    server.put(f"{CLAIMS}/m")
    world.now = 11.0
    assert set((await world.observe(run())).claims) == {"m", "o"}


async def test_sources_are_not_read_once_prepare_has_them(world: World) -> None:
    observed = await world.observe(run(attempt("Succeeded", "prepare")))
    assert observed.configmaps == frozenset()
    assert ("GET", f"{CONFIGMAPS}/rows") not in world.requests


async def test_a_run_that_has_ended_reads_nothing(world: World) -> None:
    ended = {"type": "Succeeded", "status": "False", "reason": "X", "message": "x", "observedGeneration": 1}
    await world.observe(run(conditions=[{**ended, "lastTransitionTime": "2026-01-01T00:00:00Z"}]))
    assert world.requests == []


async def test_a_job_that_an_open_attempt_lacks_is_looked_for_live(world: World, server: Any) -> None:
    server.put(f"{JOBS}/j", **job())
    observed = await world.observe(run(attempt("Running")))
    assert list(observed.jobs) == ["j"]


async def test_a_job_of_the_name_that_another_controls_is_not_ours(world: World, server: Any) -> None:
    other = [{"kind": "FineTuneJob", "name": "run", "uid": "another", "controller": True}]
    server.put(f"{JOBS}/j", **job(ownerReferences=other))
    assert (await world.observe(run(attempt("Running")))).jobs == {}


async def test_an_attempt_that_this_process_just_recorded_needs_no_look(world: World) -> None:
    await world.observe(run())
    world.requests.clear()
    await world.observe(run(attempt("Recorded", "prepare")))
    assert ("GET", f"{JOBS}/j") not in world.requests
    await world.observe(run(attempt("Recorded", "prepare")))
    assert ("GET", f"{JOBS}/j") in world.requests, "it is not new any more"


async def test_an_attempt_that_another_process_recorded_is_looked_for(world: World) -> None:
    await world.observe(run(attempt("Recorded", "prepare")))
    assert ("GET", f"{JOBS}/j") in world.requests


async def test_the_pods_of_a_job_that_has_just_ended_are_read_live(world: World, server: Any) -> None:
    world.stores.jobs.put(job(done=True))
    world.stores.pods.put(pod("p"))
    server.put(f"{PODS}/p", **{**pod("p"), "status": {"phase": "Failed", "message": "last words"}})
    observed = await world.observe(run(attempt("Running")))
    assert observed.pods["j"][0]["status"]["message"] == "last words"


def waiting(until: str) -> dict[str, Any]:
    since = "2025-12-31T00:00:00Z"
    return {"reason": "ImagePull", "message": "m", "since": since, "until": until}


PREPARED = attempt("Succeeded", "prepare", "i")


async def test_before_an_attempt_is_given_up_its_pods_are_read_live(world: World, server: Any) -> None:
    world.stores.jobs.put(job())
    world.stores.pods.put(pod("p", resourceVersion="1"))
    healed = server.put(f"{PODS}/p", **{**pod("p"), "status": {"phase": "Running", "message": "healed"}})
    early = await world.observe(run(PREPARED, attempt("Running"), waiting=waiting("2026-01-01T00:00:01Z")))
    assert "message" not in early.pods["j"][0]["status"]
    assert world.requests == []
    due = await world.observe(run(PREPARED, attempt("Running"), waiting=waiting("2026-01-01T00:00:00Z")))
    assert due.pods["j"][0]["status"]["message"] == "healed"
    later = await world.observe(run(PREPARED, attempt("Running")))
    assert later.pods["j"][0]["status"]["message"] == "healed", "the store is known to be behind"
    world.stores.pods.put(healed)
    await world.observe(run(PREPARED, attempt("Running")))
    world.requests.clear()
    await world.observe(run(PREPARED, attempt("Running")))
    assert world.requests == [], "it has caught up"


_FOREIGN = [
    ("a copy that nothing controls", {"ownerReferences": []}),
    ("in another namespace", {"namespace": "other"}),
    ("of another controller", {"ownerReferences": [{"kind": "Job", "name": "k", "controller": True}]}),
]


@pytest.mark.parametrize("metadata", [f[1] for f in _FOREIGN], ids=[f[0] for f in _FOREIGN])
async def test_a_pod_with_our_labels_that_is_not_ours_is_not_seen(world: World, metadata: Any) -> None:
    world.stores.jobs.put(job())
    world.stores.pods.put(pod("p"))
    world.stores.pods.put(pod("foreign", **metadata))
    observed = await world.observe(run(attempt("Running")))
    assert [p["metadata"]["name"] for p in observed.pods["j"]] == ["p"]


async def test_measured_runs_are_shown_only_while_prepare_waits_for_its_document(world: World) -> None:
    status = {"completionTime": "2026-01-01T00:00:00Z", "cost": {"mfu": "0.4"}}
    about = {"name": "old", "namespace": "demo", "uid": "o", "resourceVersion": "1"}
    key = Key("FineTuneJob", "demo", "old")
    world.owners.brought(key, {"metadata": about, "spec": {}, "status": status}, deleted=False)
    waiting = {**job(), "spec": {"suspend": True}}
    world.stores.jobs.put(waiting)
    assert len((await world.observe(run(attempt("Recorded", "prepare")))).runs) == 1
    assert (await world.observe(run(attempt("Recorded", "train")))).runs == ()


async def test_a_stage_that_does_not_answer_is_seen_to_be_asked_in_vain(world: World) -> None:
    rank = pod("p")
    rank["metadata"]["labels"] |= {
        "finetune.dev/kind": "FineTuneJob",
        "finetune.dev/owner": "run",
        "finetune.dev/stage": "train",
        "batch.kubernetes.io/job-completion-index": "0",
    }
    rank["status"]["podIP"] = "10.0.0.1"
    world.stores.jobs.put(job())
    world.stores.pods.put(rank)
    assert not (await world.observe(run(attempt("Running")))).progress_failed
    world.poller.look(rank, gone=False)
    asking = asyncio.create_task(world.poller.work())
    await world.asked.wait()
    world.poller.close()
    await asking
    assert (await world.observe(run(attempt("Running")))).progress_failed


async def test_what_has_expired_takes_memory_for_a_minute_at_most() -> None:
    now = 0.0
    values: Expiring[str] = Expiring(lambda: now)

    async def read() -> str:
        return "x"

    for now in (0.0, 30.0, 59.0):
        await values.get("demo", f"at-{now}", read, lambda value: 10.0)
    assert len(values) == 3
    now = 60.0
    await values.get("demo", "last", read, lambda value: 10.0)
    assert len(values) == 2, "those of the last ten seconds"


SERVED = {"baseModel": {"source": "pvc://m"}, "artifactStore": "pvc://o"}


@pytest.mark.parametrize(
    ("stored", "found", "problem"),
    [
        pytest.param({"spec": SERVED}, "s", "", id="it is there"),
        pytest.param(None, None, "", id="it does not exist"),
        pytest.param({"spec": {}}, None, "ModelServer s cannot be read", id="it cannot be read"),
    ],
)
async def test_a_run_sees_the_server_that_scores_it(
    world: World, stored: dict[str, Any] | None, found: str | None, problem: str
) -> None:
    if stored is not None:
        metadata = {"name": "s", "namespace": "demo", "uid": "s", "resourceVersion": "1"}
        world.owners.put(Key("ModelServer", "demo", "s"), {"metadata": metadata, **stored})
    asked = run(attempt("Succeeded", "prepare"))
    asked["spec"]["evaluation"] = {"accept": ["EvalMissing"], "engine": {"serverRef": {"name": "s"}}}
    observed = await world.observe(asked)
    assert (None if observed.server is None else observed.server.metadata.name) == found
    assert problem in observed.server_problem


NAMED_BY_DIGEST = {
    "metadata": {"name": "d", "namespace": "demo", "uid": "d"},
    "spec": {
        "serverRef": {"name": "s"},
        "alias": "reviews",
        "adapter": {"source": "pvc://a/b", "digest": "sha256:" + "a" * 64},
    },
}


@pytest.mark.parametrize(
    ("spec", "found"),
    [
        pytest.param(run()["spec"], "run", id="the run can be read"),
        pytest.param({}, None, id="the run cannot be read, which nobody asked for"),
    ],
)
async def test_the_run_that_published_a_digest_is_looked_up(spec: dict[str, Any], found: str | None) -> None:
    owners = Owners(Arrivals(lambda: 0.0))
    status = {"artifact": {"destination": "pvc://a/b", "digest": "sha256:" + "a" * 64}}
    owners.put(Key("FineTuneJob", "demo", "run"), {**run(), "spec": spec, "status": status})
    observed = await RolloutObserver(owners)(NAMED_BY_DIGEST)
    assert observed.unreadable is None
    assert (None if observed.job is None else observed.job.metadata.name) == found
