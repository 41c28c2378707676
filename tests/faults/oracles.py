"""What must hold whatever happened: of every stored revision, of the end, of the writes and of the logs."""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from operator import itemgetter
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
from tests.faults.cluster.history import Name, Revision
from tests.faults.scenarios.scenario import ours

CHECKS = (
    "The end is the end of the undisturbed play: the whole status, and what every child was asked to be.",
    "At most one Job of a run is unfinished, in every stored revision.",
    "A Job is created after its attempt is recorded, and once.",
    "A recorded outcome never changes; no attempt is forgotten.",
    "observedGeneration never goes back; lastTransitionTime changes if and only if the status does.",
    "An alias that answered keeps its route; a routed version is listed, and stays listed one step longer.",
    "No write stores what was there already; after the end nothing is written at all.",
    "No operator ends by itself; no log has a traceback or an error.",
)
OWN = tuple(resource.kind for resource in OURS)
FINAL = ("Succeeded", "Failed")
PRECISION = timedelta(seconds=2)
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
    """A Job is created only for an attempt that its run has recorded, and once."""
    complete = not any(
        revision.event == "LISTED" and revision.kind == "FineTuneJob" for revision in revisions
    )
    recorded: set[str] = set()
    created: Counter[str] = Counter()
    for revision in revisions:
        if revision.kind == "FineTuneJob":
            recorded |= {text(attempt, "job") for attempt in items(revision.manifest, "status", "attempts")}
        if revision.kind == "Job" and revision.event == "ADDED" and ours(revision.manifest):
            name = revision.name[1]
            created[name] += 1
            if complete and name not in recorded:
                yield f"Job {name} was created before its attempt was recorded"
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
            changes = _of_status(mapping(before[uid], "status"), status, _written(revision.manifest))
            yield from (f"{'/'.join(revision.name)}: {change}" for change in changes)
        before[uid] = revision.manifest


def _written(manifest: Object) -> datetime | None:
    """When the status was last written, None where the API server does not say."""
    fields = items(manifest, "metadata", "managedFields")
    return max((parse_time(f["time"]) for f in fields if f.get("subresource") == "status"), default=None)


def _of_status(
    before: Mapping[str, Any], after: Mapping[str, Any], written: datetime | None
) -> Iterator[str]:
    """What may not happen from one status to the next."""
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
        elif attempt["state"] in FINAL and (now["state"], now["reason"]) != (
            attempt["state"],
            attempt["reason"],
        ):
            yield f"the outcome of attempt {attempt['number']} of {attempt['stage']} changed"


def _of_condition(
    kind: str, before: Mapping[str, Any], after: Mapping[str, Any] | None, written: datetime | None
) -> Iterator[str]:
    if after is None:
        yield f"condition {kind} was removed"
        return
    moved = before["lastTransitionTime"] != after["lastTransitionTime"]
    if moved and before["status"] == after["status"]:
        yield f"lastTransitionTime of {kind} moved while it stayed {after['status']}"
    late = written is not None and written - parse_time(after["lastTransitionTime"]) > PRECISION
    if not moved and before["status"] != after["status"] and late:
        yield f"{kind} changed to {after['status']} and kept its lastTransitionTime"
    if (
        kind == "Succeeded"
        and before["status"] != "Unknown" != after["status"]
        and before["status"] != after["status"]
    ):
        yield "the outcome of the run changed"


def _routes(revisions: Sequence[Revision]) -> Iterator[str]:
    """An alias that answered keeps a route while its AdapterDeployment is there; a routed version is listed.

    A version may leave the list only when no route led to it one revision earlier: pods follow one at a time.
    """
    routed: dict[str, dict[str, str]] = {}
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
        routes = {r["alias"]: r["targets"][0]["version"] for r in table["routes"]}
        listed = {v["name"] for v in table["versions"]}
        before = routed.get(server, {}) if server in alive else {}
        yield from (
            f"alias {alias} lost its route" for alias in before if alias in alive and alias not in routes
        )
        yield from (f"{v} is routed and not listed" for v in routes.values() if v not in listed)
        yield from (
            f"{v} was dropped while pods may still route to it" for v in before.values() if v not in listed
        )
        routed[server] = routes


_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z")
_PRECISIONS = re.compile(r"\b\d+(\.\d+)? (s|ms|min)\b")
_POD_NAME = re.compile(r"(-server-[0-9a-z]+|<hash>-\d+)-[0-9a-z]{5}\b")
_WHEN = frozenset({"manifestGeneration", "heldSeconds"})
_WHAT = frozenset({"reason", "message", "attempts"})
_COMPARED = (*OWN, "Job", "ConfigMap", "Service", "PersistentVolumeClaim", "Deployment", "NetworkPolicy")
_UNTOLD = ("generation", "creationTimestamp", "resourceVersion", "uid", "managedFields", "annotations")


def essence(objects: Mapping[Name, Object], vague: bool) -> dict[str, Any]:
    """What must be equal however the end was reached: everything but uids, times, random names and counters.

    Of children only what was asked for is compared, their status is the controllers'. `vague` leaves out
    attempts, reasons and messages.
    """
    kept = {name: o for name, o in objects.items() if name[0] in _COMPARED and (name[0] in OWN or ours(o))}
    words = {
        uid: f"<uid of {'/'.join(name)}>" for name, o in objects.items() if (uid := o["metadata"]["uid"])
    }
    words |= {hashlib.sha256(uid.encode()).hexdigest()[:6]: "<hash>" for uid in list(words)}
    namespaces = {o["metadata"].get("namespace", "") for o in kept.values()}
    words |= {namespace: "<namespace>" for namespace in namespaces if namespace}
    plain = {"/".join(name): _bare(name[0], o, vague) for name, o in sorted(kept.items(), key=itemgetter(0))}
    return dict(json.loads(_masked(json.dumps(plain), words)))


def _masked(document: str, words: Mapping[str, str]) -> str:
    for word, mask in words.items():
        document = document.replace(word, mask)
    for pattern, mask in ((_TIME, "<time>"), (_PRECISIONS, "<seconds>"), (_POD_NAME, "<pod>")):
        document = pattern.sub(mask, document)
    return document


def _bare(kind: str, manifest: Object, vague: bool) -> Object:
    metadata = {k: v for k, v in manifest["metadata"].items() if k not in _UNTOLD}
    bare = {k: v for k, v in manifest.items() if k not in ("metadata", "status")} | {"metadata": metadata}
    if kind in OWN:
        return bare | {"status": _without(manifest.get("status", {}), _WHEN if not vague else _WHEN | _WHAT)}
    if kind == "ConfigMap" and "manifest.json" in manifest.get("data", {}):
        return bare | {"data": _table(manifest["data"]["manifest.json"])}
    if kind == "Service":
        return bare | {"spec": {k: v for k, v in manifest["spec"].items() if not k.startswith("clusterIP")}}
    return bare


def _without(value: Any, keys: frozenset[str]) -> Any:
    if isinstance(value, dict):
        return {k: _without(v, keys) for k, v in value.items() if k not in keys}
    return [_without(v, keys) for v in value] if isinstance(value, list) else value


def _table(document: str) -> Object:
    """A server manifest without its generation, which counts the steps of the way."""
    return {key: value for key, value in json.loads(document).items() if key != "generation"}


def differences(expected: Mapping[str, Any], found: Mapping[str, Any]) -> list[str]:
    """The places where two ends differ, a line each."""
    return [f"the end differs: {line}" for line in _differing("", expected, found)][:10]


def _differing(path: str, expected: Any, found: Any) -> Iterator[str]:
    if isinstance(expected, dict) and isinstance(found, dict):
        for key in sorted({*expected, *found}):
            yield from _differing(f"{path}.{key}", expected.get(key), found.get(key))
    elif isinstance(expected, list) and isinstance(found, list) and len(expected) == len(found):
        for at, (one, other) in enumerate(zip(expected, found, strict=True)):
            yield from _differing(f"{path}[{at}]", one, other)
    elif expected != found:
        yield f"{path.lstrip('.')}: {_short(expected)} became {_short(found)}"


def _short(value: Any) -> str:
    shown = json.dumps(value)
    return shown if len(shown) < 200 else f"{shown[:200]} ..."


def log_violations(messages: Iterable[Mapping[str, Any]]) -> list[str]:
    """A traceback, or an error of the operator's own: kopf also calls a request an error that it repeats."""
    return [
        f"log: {line['message']}: {str(line.get('traceback') or line.get('error') or '')[-300:]}"
        for line in messages
        if "traceback" in line or (line["level"] in SEVERE and not line["logger"].startswith("kopf"))
    ][:5]
