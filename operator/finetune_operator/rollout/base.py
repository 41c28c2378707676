"""Whether an adapter belongs to the base of its server, and how to train it again where it does not (R14)."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass

from finetune_operator.api.conditions import Fact
from finetune_operator.api.finetunejob import FineTuneJob
from finetune_operator.api.modelserver import ModelServer
from finetune_operator.rollout.observed import Observed
from finetune_operator.rollout.resolve import Resolution

FITS_BASE = "FitsBase"
_LONGEST_NAME = 40
_TUNED_FROM = ("hf://", "pvc://")
"""Where a FineTuneJob takes its base from; a server may have one from a bucket too."""


@dataclass(frozen=True)
class Fit:
    """The condition FitsBase, and the command that trains the adapter again on the server's base."""

    fact: Fact
    retrain: str | None = None


def fit(observed: Observed, resolution: Resolution) -> Fit:
    """Compare the fingerprint that the run trained on with that of the server."""
    server, target = observed.server, resolution.target
    if server is None or target is None:
        return _open("NotKnown", "There is no adapter or no server yet.")
    name, trained, here = server.metadata.name, target.base_fingerprint, _fingerprint(server)
    if trained is None:
        return _open("NotKnown", "No FineTuneJob of this namespace tells on which base it was trained.")
    if here is None:
        return _open(
            "NotKnown", f"No replica of ModelServer {name} has told the fingerprint of its base yet."
        )
    if trained == here:
        return _fits("SameBase", f"It was trained on the base of ModelServer {name}, {here[:19]}.")
    if trained == server.spec.base_model.derived_from:
        return _fits("DerivedBase", f"ModelServer {name} has a quantised form of the base it was trained on.")
    parted = (
        f"It was trained on the base {trained[:19]} and belongs to it; ModelServer {name} has another one, "
        f"{here[:19]}."
    )
    advice, command = _advice(server, resolution, observed.job, here)
    return Fit(Fact(FITS_BASE, False, "OtherBase", f"{parted} {advice}"), command)


def _advice(
    server: ModelServer, resolution: Resolution, job: FineTuneJob | None, here: str
) -> tuple[str, str | None]:
    """What to do in words, and the command where there is one."""
    original, base = server.spec.base_model.derived_from, {**_base_of(server), "fingerprint": here}
    if not resolution.current:
        return "spec.adapter asks for another adapter, see the condition Resolved.", None
    if original is not None:
        return f"Train it again on the model with the fingerprint {original} (derivedFrom).", None
    if not str(base["source"]).startswith(_TUNED_FROM):
        copied = f"a FineTuneJob with spec.baseModel pvc://CLAIM/PATH and fingerprint {here}"
        return f"Train it again: copy the model from {base['source']} to a claim, and create {copied}.", None
    if job is None:
        return f"Train it again: create a FineTuneJob with spec.baseModel {json.dumps(base)}.", None
    new = successor(job.metadata.name, here)
    words = (
        f"Train it again: the command in status.retrain creates FineTuneJob {new}, with the same data on "
        "this base; then name it in spec.adapter.fineTuneJobRef."
    )
    return words, retraining(job, base, new, here)


def retraining(job: FineTuneJob, base: Mapping[str, object], new: str, fingerprint: str) -> str:
    """The command that creates a copy of a run under a new name, on another base, with its own destination.

    kubectl alone does it, and no part of it holds a quote that the shell would read.
    """
    old, namespace = job.metadata.name, job.metadata.namespace
    destination = f"{job.spec.output.destination.rstrip('/')}-{_short(fingerprint)}"
    changes = [
        {"op": "replace", "path": "/metadata", "value": {"name": new, "namespace": namespace}},
        {"op": "remove", "path": "/status"},
        {"op": "replace", "path": "/spec/baseModel", "value": base},
        {"op": "replace", "path": "/spec/output/destination", "value": destination},
    ]
    patch = json.dumps(changes, separators=(",", ":"))
    return (
        f"kubectl -n {namespace} get finetunejob {old} -o json | "
        f"kubectl patch --local -f - --type json -p '{patch}' -o json | kubectl create -f -"
    )


def successor(name: str, fingerprint: str) -> str:
    """The name of the run that trains again what `name` trained, on the base with this fingerprint."""
    ending = f"-{_short(fingerprint)}"
    return name[: _LONGEST_NAME - len(ending)].rstrip("-.") + ending


def _short(fingerprint: str) -> str:
    return fingerprint.removeprefix("sha256:")[:6]


def _base_of(server: ModelServer) -> dict[str, object]:
    given: dict[str, object] = server.spec.base_model.to_dict()
    return {key: value for key, value in given.items() if key != "derivedFrom"}


def _fingerprint(server: ModelServer) -> str | None:
    return server.spec.base_model.fingerprint or server.status.base_fingerprint


def _fits(reason: str, message: str) -> Fit:
    return Fit(Fact(FITS_BASE, True, reason, message))


def _open(reason: str, message: str) -> Fit:
    return Fit(Fact(FITS_BASE, None, reason, message))
