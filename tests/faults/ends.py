"""The end of a play as it is compared: without uids, times, random names and counters."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from operator import itemgetter
from typing import Any

from tests.faults.cluster.client import Object
from tests.faults.cluster.history import Name
from tests.faults.oracles import OWN
from tests.faults.scenarios.scenario import ours

_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z")
_SECONDS = re.compile(r"\b\d+(\.\d+)? (s|ms|min)\b")
_REQUESTS = re.compile(r"\b\d+ of \d+ requests\b")
_POD_NAME = re.compile(r"(-server-[0-9a-z]+|<hash>-\d+)-[0-9a-z]{5}\b")
_TEMPLATE = re.compile(r"(?<=-template-<hash>-)[0-9a-f]{10}\b")  # a digest of labels, the uid among them
_WHEN = frozenset({"manifestGeneration", "heldSeconds"})
_WHAT = frozenset({"reason", "message", "attempts"})
_COMPARED = frozenset({*OWN, "PersistentVolumeClaim", "Deployment", "NetworkPolicy", "PodDisruptionBudget"})
_OF_ATTEMPTS = frozenset({"Job", "ConfigMap", "Service"})
_UNTOLD = ("generation", "creationTimestamp", "resourceVersion", "uid", "managedFields", "annotations")


def essence(objects: Mapping[Name, Object], vague: bool) -> dict[str, Any]:
    """What must be equal however the end was reached: everything but uids, times, random names and counters.

    Of children only what was asked for is compared, their status is the controllers'. `vague` leaves out
    attempts with their children, reasons and messages.
    """
    kinds = _COMPARED if vague else _COMPARED | _OF_ATTEMPTS
    kept = {name: o for name, o in objects.items() if name[0] in kinds and (name[0] in OWN or ours(o))}
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
    for pattern, mask in (
        (_TIME, "<time>"),
        (_SECONDS, "<seconds>"),
        (_REQUESTS, "<requests>"),
        (_POD_NAME, "<pod>"),
        (_TEMPLATE, "<digest>"),
    ):
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
