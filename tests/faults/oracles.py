"""What must hold whatever happened: of every stored revision and of the logs."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

from finetune_operator.core.manifests import (
    controller_uid,
    finished,
    integer,
    items,
    label,
    mapping,
    terminating,
    text,
)
from finetune_operator.core.times import parse_time
from finetune_operator.runtime.resources import OURS
from tests.faults.cluster.client import Object
from tests.faults.cluster.history import Revision
from tests.faults.scenarios.scenario import ours

CHECKS = (
    "The end is the end of the undisturbed play: the whole status, and what every child was asked to be.",
    "At most one Job of a run is unfinished, in every stored revision.",
    "A Job is created once, and (but for the first of a run) after its attempt is recorded.",
    "A recorded outcome never changes; no attempt is forgotten.",
    "observedGeneration never goes back; lastTransitionTime changes if and only if the status does.",
    "An alias that answered keeps its route; a routed version is listed, and stays listed one step longer.",
    "No write stores what was there already; after the end nothing is written at all.",
    "No operator ends by itself; no log has a traceback or an error.",
)
OWN = tuple(resource.kind for resource in OURS)
FINAL = ("Succeeded", "Failed")
PRECISION = timedelta(seconds=1)
SEVERE = ("ERROR", "CRITICAL")


def violations(revisions: Sequence[Revision]) -> list[str]:
    """What is wrong in the history of a namespace; `revisions` are in etcd's order."""
    checks = (_one_unfinished_job, _attempts_come_first, _statuses, _routes)
    return [found for check in checks for found in check(revisions)]


def _one_unfinished_job(revisions: Sequence[Revision]) -> Iterator[str]:
    """At most one Job of a run may still have pods: two would share a workspace, and GPUs are wasted."""
    open_jobs: dict[str, set[str]] = {}
    for revision in revisions:
        if revision.kind != "Job" or not ours(revision.manifest):
            continue
        jobs = open_jobs.setdefault(controller_uid(revision.manifest), set())
        name = revision.name[1]
        if revision.event == "DELETED" or finished(revision.manifest):
            jobs.discard(name)
        else:
            jobs.add(name)
        if len(jobs) > 1:
            yield f"unfinished Jobs of one run at the same time: {', '.join(sorted(jobs))}"


def _attempts_come_first(revisions: Sequence[Revision]) -> Iterator[str]:
    """A Job is created only for an attempt that its run has recorded, and once.

    The first Job of a run is the exception (docs/architecture.md): it is created with its record.
    """
    complete = not any(
        revision.event == "LISTED" and revision.kind == "FineTuneJob" for revision in revisions
    )
    recorded: set[str] = set()
    created: Counter[str] = Counter()
    owners: set[str] = set()
    for revision in revisions:
        if revision.kind == "FineTuneJob":
            recorded |= {text(attempt, "job") for attempt in items(revision.manifest, "status", "attempts")}
        if revision.kind == "Job" and revision.event == "ADDED" and ours(revision.manifest):
            name = revision.name[1]
            created[name] += 1
            if complete and name not in recorded and controller_uid(revision.manifest) in owners:
                yield f"Job {name} was created before its attempt was recorded"
            owners.add(controller_uid(revision.manifest))
            if created[name] > 1:
                yield f"Job {name} was created {created[name]} times"


def _statuses(revisions: Sequence[Revision]) -> Iterator[str]:
    before: dict[str, Object] = {}
    for revision in revisions:
        if revision.kind not in OWN:
            continue
        uid = revision.manifest["metadata"]["uid"]
        if uid in before and revision.event == "MODIFIED":
            status = mapping(revision.manifest, "status")
            changes = _of_status(mapping(before[uid], "status"), status, _written(before[uid]))
            yield from (f"{'/'.join(revision.name)}: {change}" for change in changes)
        before[uid] = revision.manifest


def _written(manifest: Object) -> datetime | None:
    """When the status was last written, None where the API server does not say."""
    fields = items(manifest, "metadata", "managedFields")
    return max((parse_time(f["time"]) for f in fields if f.get("subresource") == "status"), default=None)


def _of_status(
    before: Mapping[str, Any], after: Mapping[str, Any], written: datetime | None
) -> Iterator[str]:
    """What may not happen from one status, stored at `written`, to the next."""
    if (integer(after, "observedGeneration") or 0) < (integer(before, "observedGeneration") or 0):
        yield "observedGeneration went back"
    old, new = ({c["type"]: c for c in items(status, "conditions")} for status in (before, after))
    for kind, condition in old.items():
        yield from _of_condition(kind, condition, new.get(kind), written)
    attempts = {(a["stage"], a["number"]): a for a in items(after, "attempts")}
    for attempt in items(before, "attempts"):
        now = attempts.get((attempt["stage"], attempt["number"]))
        if now is None:
            yield f"attempt {attempt['number']} of {attempt['stage']} was forgotten"
        elif attempt["state"] in FINAL and _outcome(now) != _outcome(attempt):
            yield f"the outcome of attempt {attempt['number']} of {attempt['stage']} changed"


def _outcome(attempt: Mapping[str, Any]) -> tuple[str, str]:
    return text(attempt, "state"), text(attempt, "reason")


def _of_condition(
    kind: str, before: Mapping[str, Any], after: Mapping[str, Any] | None, written: datetime | None
) -> Iterator[str]:
    if after is None:
        yield f"condition {kind} was removed"
        return
    moved = before["lastTransitionTime"] != after["lastTransitionTime"]
    if moved and before["status"] == after["status"]:
        yield f"lastTransitionTime of {kind} moved while it stayed {after['status']}"
    # Both times are whole seconds; a change within the second of the one before is not seen in them.
    kept = written is not None and parse_time(after["lastTransitionTime"]) < written - PRECISION
    if not moved and before["status"] != after["status"] and kept:
        yield f"{kind} changed to {after['status']} and kept its lastTransitionTime"
    if kind == "Succeeded" and before["status"] not in ("Unknown", after["status"]):
        yield "the outcome of the run changed"


def _routes(revisions: Sequence[Revision]) -> Iterator[str]:
    """An alias that answered keeps a route while its AdapterDeployment is there; a routed version is listed.

    A version may leave the list only when no route led to it one revision earlier: pods follow one at a time.
    """
    routed: dict[str, dict[str, set[str]]] = {}
    alive: set[str] = set()
    for revision in revisions:
        if revision.kind in ("AdapterDeployment", "ModelServer"):
            named = text(revision.manifest, "spec", "alias") or revision.manifest["metadata"]["uid"]
            gone = revision.event == "DELETED" or terminating(revision.manifest)
            (alive.discard if gone else alive.add)(named)
        document = text(revision.manifest, "data", "manifest.json")
        if revision.kind != "ConfigMap" or not document or revision.event == "DELETED":
            continue
        server = label(revision.manifest, "finetune.dev/uid")
        table = json.loads(document)
        routes = {r["alias"]: {target["version"] for target in r["targets"]} for r in table["routes"]}
        listed = {v["name"] for v in table["versions"]}
        before = routed.get(server, {}) if server in alive else {}
        yield from (
            f"alias {alias} lost its route" for alias in before if alias in alive and alias not in routes
        )
        yield from (f"{v} is routed and not listed" for v in _versions(routes) - listed)
        yield from (f"{v} was dropped while pods may still route to it" for v in _versions(before) - listed)
        routed[server] = routes


def _versions(routes: Mapping[str, set[str]]) -> set[str]:
    return {version for versions in routes.values() for version in versions}


def log_violations(messages: Iterable[Mapping[str, Any]], told: str | None = None) -> list[str]:
    """A traceback, or an error of the operator's own: kopf also calls a request an error that it repeats.

    One that begins with `told` is right.
    """
    return [
        f"log: {line['message']}: {str(line.get('traceback') or line.get('error') or '')[-300:]}"
        for line in messages
        if _is_wrong(line) and not (told and line["message"].startswith(told))
    ][:5]


def _is_wrong(line: Mapping[str, Any]) -> bool:
    return "traceback" in line or (line["level"] in SEVERE and not line["logger"].startswith("kopf"))
