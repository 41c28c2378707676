"""The oracles see what they are there for: histories with one thing wrong each."""

from __future__ import annotations

import copy
import json
from collections.abc import Sequence
from typing import Any

import pytest

from tests.faults.cluster.client import Object
from tests.faults.cluster.history import Revision
from tests.faults.ends import differences, essence
from tests.faults.oracles import log_violations, violations

OURS = {"app.kubernetes.io/managed-by": "finetune-operator"}


def job(name: str = "run-train-1", **status: Any) -> Object:
    owner = {"uid": "run-uid", "controller": True}
    metadata = {"name": name, "uid": name, "labels": OURS, "ownerReferences": [owner]}
    return {"kind": "Job", "metadata": metadata, "status": status}


def run(*attempts: str, conditions: Sequence[Object] = (), generation: int = 1) -> Object:
    listed = [
        {"stage": "train", "number": n, "job": f"run-train-{n}", "state": s, "reason": s}
        for n, s in enumerate(attempts, 1)
    ]
    status = {"observedGeneration": generation, "attempts": listed, "conditions": list(conditions)}
    written = {"subresource": "status", "time": "2026-01-01T00:00:09Z"}
    metadata = {"name": "run", "uid": "run-uid", "managedFields": [written]}
    return {"kind": "FineTuneJob", "metadata": metadata, "status": status}


def succeeded(status: str, moved: int = 0) -> Object:
    return {
        "type": "Succeeded",
        "status": status,
        "reason": "R",
        "lastTransitionTime": f"2026-01-01T00:00:0{moved}Z",
    }


def manifest(routes: dict[str, str], versions: Sequence[str]) -> Object:
    targets = [{"alias": alias, "targets": [{"version": version}]} for alias, version in routes.items()]
    document = json.dumps({"routes": targets, "versions": [{"name": version} for version in versions]})
    labels = OURS | {"finetune.dev/uid": "server-uid"}
    return {
        "kind": "ConfigMap",
        "metadata": {"name": "m", "labels": labels, "uid": "m"},
        "data": {"manifest.json": document},
    }


SERVER = {"kind": "ModelServer", "metadata": {"name": "shared", "uid": "server-uid"}}
ADAPTER = {"kind": "AdapterDeployment", "metadata": {"name": "a", "uid": "a"}, "spec": {"alias": "a"}}
COMPLETE = [{"type": "Complete", "status": "True"}]


def revisions(*steps: tuple[str, Object]) -> list[Revision]:
    return [Revision(number, event, copy.deepcopy(body)) for number, (event, body) in enumerate(steps)]


WRONG = [
    pytest.param(
        [("ADDED", run("Recorded", "Recorded")), ("ADDED", job()), ("ADDED", job("run-train-2"))],
        "unfinished Jobs of one run at the same time",
        id="two Jobs at once",
    ),
    pytest.param(
        [("ADDED", job()), ("MODIFIED", job(conditions=COMPLETE)), ("ADDED", job("run-train-2"))],
        "Job run-train-2 was created before its attempt was recorded",
        id="a Job without an attempt",
    ),
    pytest.param(
        [("ADDED", run("Recorded")), ("ADDED", job()), ("DELETED", job()), ("ADDED", job())],
        "was created 2 times",
        id="a Job for an attempt that had one",
    ),
    pytest.param(
        [("ADDED", run("Failed")), ("MODIFIED", run("Succeeded"))],
        "the outcome of attempt 1 of train changed",
        id="another outcome",
    ),
    pytest.param(
        [("ADDED", run("Failed")), ("MODIFIED", run())], "was forgotten", id="an attempt that is forgotten"
    ),
    pytest.param(
        [("ADDED", run(generation=2)), ("MODIFIED", run(generation=1))],
        "observedGeneration went back",
        id="an older generation",
    ),
    pytest.param(
        [("ADDED", run(conditions=[succeeded("Unknown")])), ("MODIFIED", run(conditions=[succeeded("Unknown", 1)]))],
        "lastTransitionTime of Succeeded moved",
        id="a transition without a change",
    ),
    pytest.param(
        [("ADDED", run(conditions=[succeeded("Unknown")])), ("MODIFIED", run(conditions=[succeeded("True")]))],
        "changed to True and kept its lastTransitionTime",
        id="a change without a transition",
    ),
    pytest.param(
        [("ADDED", run(conditions=[succeeded("False")])), ("MODIFIED", run(conditions=[succeeded("True", 1)]))],
        "the outcome of the run changed",
        id="a run that failed and then succeeds",
    ),
    pytest.param(
        [("ADDED", SERVER), ("ADDED", ADAPTER), ("ADDED", manifest({"a": "v1"}, ["v1"])), ("MODIFIED", manifest({}, ["v1"]))],
        "alias a lost its route",
        id="an alias that stops to answer",
    ),
    pytest.param(
        [("ADDED", SERVER), ("ADDED", ADAPTER), ("ADDED", manifest({"a": "v1"}, []))],
        "v1 is routed and not listed",
        id="a route to nothing",
    ),
    pytest.param(
        [
            ("ADDED", SERVER),
            ("ADDED", ADAPTER),
            ("ADDED", manifest({"a": "v1"}, ["v1"])),
            ("MODIFIED", manifest({"a": "v2"}, ["v2"])),
        ],
        "v1 was dropped while pods may still route to it",
        id="a version that goes with its route",
    ),
]  # fmt: skip


@pytest.mark.parametrize(("steps", "told"), WRONG)
def test_it_is_seen(steps: list[tuple[str, Object]], told: str) -> None:
    assert any(told in found for found in violations(revisions(*steps)))


def test_a_history_as_it_should_be_has_no_violation() -> None:
    steps = [
        ("ADDED", run("Recorded", conditions=[succeeded("Unknown")])),
        ("ADDED", job()),
        ("MODIFIED", job(conditions=COMPLETE)),
        ("MODIFIED", run("Failed", "Recorded", conditions=[succeeded("Unknown")])),
        ("ADDED", job("run-train-2")),
        ("MODIFIED", run("Failed", "Succeeded", conditions=[succeeded("True", 1)])),
        ("ADDED", SERVER),
        ("ADDED", ADAPTER),
        ("ADDED", manifest({"a": "v1"}, ["v1"])),
        ("MODIFIED", manifest({"a": "v2"}, ["v1", "v2"])),
        ("MODIFIED", manifest({"a": "v2"}, ["v2"])),
        ("DELETED", ADAPTER),
        ("MODIFIED", manifest({}, ["v2"])),
    ]
    assert violations(revisions(*steps)) == []


def test_ends_are_compared_without_uids_and_times() -> None:
    one, other = run("Failed"), run("Failed")
    other["metadata"]["uid"] = "other-uid"
    one["status"]["completionTime"], other["status"]["completionTime"] = (
        "2026-01-01T00:00:00Z",
        "2026-01-02T00:00:00Z",
    )
    name = ("FineTuneJob", "run")
    assert differences(essence({name: one}, vague=False), essence({name: other}, vague=False)) == []
    changed = essence({name: run("Succeeded")}, vague=False)
    assert len(differences(essence({name: one}, vague=False), changed)) == 3


def test_a_traceback_is_told_and_a_request_that_kopf_repeats_is_not() -> None:
    kopf = {"level": "ERROR", "logger": "kopf.watching", "message": "will retry"}
    own = {
        "level": "WARNING",
        "logger": "finetune_operator",
        "message": "reconcile failed",
        "traceback": "KeyError",
    }
    assert log_violations([kopf]) == []
    assert log_violations([own]) == ["log: reconcile failed: KeyError"]
    assert log_violations([own], "reconcile") == []
