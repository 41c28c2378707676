"""Who suspended a Job, why it waits, and what may be written: from Workloads of Kueue 0.15.2 as it wrote them.

workloads.json was captured on the embedded cluster (`python -m dev kueue`): a ClusterQueue `cq` of one CPU, a
LocalQueue `team`, Jobs that ask for 0.8; pod templates were left out.
"""

from __future__ import annotations

import copy
import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from finetune_operator.core.actions import Patch
from finetune_operator.observe.queue import let_run, stop, waiting

WORKLOADS: dict[str, dict[str, Any]] = json.loads(Path(__file__).with_name("workloads.json").read_text())
NOW = datetime(2026, 11, 27, 12, tzinfo=UTC)
KEY = "finetune.dev/suspended-by"
OURS = {KEY: "finetune-operator"}
PREEMPTED = "Preempted to accommodate a workload"
SHORT = "insufficient unused quota for cpu in flavor nodes, 600m more needed"


def child(*, suspend: bool = True, queue: str | None = "team", ours: bool = False) -> dict[str, Any]:
    metadata = {
        "name": "run-train-1",
        "labels": {"kueue.x-k8s.io/queue-name": queue} if queue else {},
        "annotations": OURS if ours else {},
    }
    return {"apiVersion": "batch/v1", "kind": "Job", "metadata": metadata, "spec": {"suspend": suspend}}


def workload(state: str, *, ours: bool = False) -> dict[str, Any]:
    found = copy.deepcopy(WORKLOADS[state])
    found["metadata"]["annotations"] = OURS if ours else {}
    return found


@pytest.mark.parametrize(
    ("state", "reason", "words"),
    [
        ("quota used by another", "Pending", f"Waiting in LocalQueue team: couldn't assign flavors to pod set main: {SHORT}."),
        ("larger than the quota", "Pending", "maximum capacity (1)."),
        ("resource without quota", "Pending", "resource memory unavailable in ClusterQueue."),
        ("LocalQueue absent", "Inadmissible", "Waiting in LocalQueue absent: LocalQueue absent doesn't exist."),
        ("preempting another", "Pending", "Pending the preemption of 1 workload(s)."),
        ("preempted, pods stopping", "Preempted", PREEMPTED),
        ("preempted, queued again", "Preempted", f"preemptee path: /cq. Waiting in LocalQueue team: couldn't assign flavors to pod set main: {SHORT}."),
        ("ClusterQueue stopped", "ClusterQueueStopped", "The ClusterQueue is stopped. Waiting in LocalQueue team: ClusterQueue cq is inactive."),
        ("deactivated while running", "Deactivated", "set spec.active of Workload job-vip-e1f22 to true"),
        ("activated again, queued", "Pending", f"{SHORT}."),
        ("admission check pending", "UnsatisfiedChecks", "Quota reserved in ClusterQueue cq; admission check budget is Pending."),
        ("Job without a queue", "Inadmissible", "`kubectl label job run-train-1 kueue.x-k8s.io/queue-name=`"),
    ],
)  # fmt: skip
def test_a_waiting_job_is_explained_in_kueues_words(state: str, reason: str, words: str) -> None:
    found = waiting(child(), workload(state), kueue=True, now=NOW)
    assert found is not None
    assert found.reason == reason
    assert words in found.message


@pytest.mark.parametrize("state", ["admitted", "admitted again after preemption"])
def test_a_job_that_kueue_is_about_to_resume_waits_for_nothing(state: str) -> None:
    assert waiting(child(), workload(state), kueue=True, now=NOW) is None


def test_a_job_that_is_not_suspended_waits_for_nothing() -> None:
    for state in WORKLOADS:
        assert waiting(child(suspend=False), workload(state), kueue=True, now=NOW) is None


@pytest.mark.parametrize(
    ("job", "kueue", "reason", "words"),
    [
        (child(queue=None), True, "JobSuspended", "Job run-train-1 is suspended by somebody else; set spec.suspend of the Job to false"),
        (child(queue=None), False, "JobSuspended", "suspended by somebody else"),
        (child(), True, "Pending", "Kueue has made no Workload for Job run-train-1 yet"),
        (child(), False, "KueueNotInstalled", "LocalQueue team, but Kueue is not installed"),
    ],
)  # fmt: skip
def test_without_a_workload_the_job_says_who_keeps_it(
    job: dict[str, Any], kueue: bool, reason: str, words: str
) -> None:
    found = waiting(job, None, kueue=kueue, now=NOW)
    assert found is not None
    assert found.reason == reason
    assert words in found.message


def test_a_queued_job_says_why_it_is_not_known_what_it_waits_for() -> None:
    found = waiting(child(), None, kueue=True, problem="workloads is forbidden", now=NOW)
    assert found is not None
    assert found.reason == "WorkloadsNotListed"
    assert "Workloads cannot be listed: workloads is forbidden." in found.message
    known = waiting(child(), workload("larger than the quota"), kueue=True, problem="x", now=NOW)
    assert known is not None
    assert known.reason == "Pending", "what was listed before still holds"


def test_kueue_is_given_a_moment_to_say_whether_there_is_quota_for_a_new_job() -> None:
    made = workload("quota used by another")
    unseen = {**made, "status": {}}
    for found, age, told in (
        (None, 5, False),
        (unseen, 5, False),
        (made, 5, True),
        (None, 15, True),
        (unseen, 15, True),
    ):
        job = child()
        job["metadata"]["creationTimestamp"] = f"2026-11-27T11:59:{60 - age}Z"
        assert (waiting(job, found, kueue=True, now=NOW) is not None) == told


def test_what_the_operator_suspended_is_not_somebody_elses() -> None:
    assert waiting(child(queue=None, ours=True), None, kueue=False, now=NOW) is None
    assert waiting(child(), workload("deactivated while running", ours=True), kueue=True, now=NOW) is None


JOB_STOPPED = {"metadata": {"annotations": OURS}, "spec": {"suspend": True}}
JOB_RESUMED = {"metadata": {"annotations": {KEY: None}}, "spec": {"suspend": False}}
QUEUED = {"metadata": {"labels": {"kueue.x-k8s.io/queue-name": "team"}}}


def test_a_job_without_kueue_is_suspended_and_resumed_with_a_note_of_who_did_it() -> None:
    assert stop(child(suspend=False, queue=None), None) == Patch(
        "batch/v1", "Job", "run-train-1", JOB_STOPPED
    )
    assert let_run(child(queue=None, ours=True), None, None, kueue=True) == Patch(
        "batch/v1", "Job", "run-train-1", JOB_RESUMED
    )


def test_a_job_of_kueues_is_stopped_and_let_run_by_its_workload() -> None:
    name, version = WORKLOADS["admitted"]["metadata"]["name"], "kueue.x-k8s.io/v1beta2"
    inactive = {"metadata": {"annotations": OURS}, "spec": {"active": False}}
    assert stop(child(suspend=False), workload("admitted")) == Patch(version, "Workload", name, inactive)
    assert stop(child(), workload("quota used by another")) is not None
    held = workload("deactivated while running", ours=True)
    active = {"metadata": {"annotations": {KEY: None}}, "spec": {"active": True}}
    assert let_run(child(), held, "team", kueue=True) == Patch(
        version, "Workload", held["metadata"]["name"], active
    )


@pytest.mark.parametrize(
    ("job", "state"),
    [
        (child(queue=None), None),
        (child(), None),
        (child(ours=True), None),  # a LocalQueue `default` was given to a Job that named none
        (child(), "deactivated while running"),
        (child(), "quota used by another"),
        (child(), "preempted, queued again"),
        (child(), "admitted"),
        (child(queue=None, ours=True), "quota used by another"),
        (child(suspend=False), "admitted"),
    ],
)
def test_what_others_suspended_is_left_alone(job: dict[str, Any], state: str | None) -> None:
    assert let_run(job, workload(state) if state else None, "team", kueue=True) is None


@pytest.mark.parametrize("job", [child(queue=None), child(queue=None, ours=True)])
def test_where_kueue_manages_every_job_a_job_without_queue_gets_that_of_the_run(job: dict[str, Any]) -> None:
    found = workload("Job without a queue")
    assert let_run(job, found, "team", kueue=True) == Patch("batch/v1", "Job", "run-train-1", QUEUED)
    assert let_run(job, found, None, kueue=True) is None


def test_stopping_what_is_stopped_writes_nothing() -> None:
    for ours in (True, False):
        assert stop(child(ours=ours), None) is None
        assert stop(child(), workload("deactivated while running", ours=ours)) is None


jobs = st.builds(child, suspend=st.booleans(), queue=st.sampled_from(["team", None]), ours=st.booleans())
workloads = st.none() | st.builds(workload, st.sampled_from(sorted(WORKLOADS)), ours=st.booleans())


def patched(manifest: dict[str, Any], patch: Patch) -> dict[str, Any]:
    """The manifest after a merge-patch of metadata and spec."""
    after = copy.deepcopy(manifest)
    after["spec"].update(patch.body.get("spec", {}))
    for section, values in patch.body["metadata"].items():
        merged = {**after["metadata"].get(section, {}), **values}
        after["metadata"][section] = {key: value for key, value in merged.items() if value is not None}
    return after


@given(jobs, workloads)
def test_no_write_is_repeated_and_what_was_stopped_can_be_let_run(
    job: dict[str, Any], found: dict[str, Any] | None
) -> None:
    ours = False
    for _ in range(2):  # Kueue's Workload first, then the Job, which nobody suspends where Kueue is down
        held = stop(job, found)
        if held is not None and held.kind == "Workload" and found is not None:
            found, ours = patched(found, held), True
        elif held is not None:
            job, ours = patched(job, held), ours or found is None
    assert stop(job, found) is None
    if not ours:
        return
    let = let_run(job, found, None, kueue=found is not None)
    assert let is not None
    job, found = (job, patched(found, let)) if found is not None else (patched(job, let), None)
    assert let_run(job, found, None, kueue=found is not None) is None
