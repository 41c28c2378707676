"""After the end: stop what may still run, and clean up when the user's time to live is over."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta

from finetune_operator.core.actions import Action, Delete, Manifest, Plan
from finetune_operator.core.manifests import finished, moment, text
from finetune_operator.render.names import workspace_name
from finetune_operator.render.volumes import workspace_claim
from finetune_operator.stages.draft import Draft
from finetune_operator.stages.observed import Observed


def after_end(observed: Observed, draft: Draft) -> Plan:
    """The outcome is final: nothing is created any more. The object itself is never deleted."""
    left = _seconds_left(draft)
    doomed = _everything(observed) if left == 0 else _still_running(observed)
    draft.actions.extend(doomed)
    return draft.plan(left or None)


def stop(child: Manifest, name: str) -> Iterator[Action]:
    """Delete a Job (its pods, ConfigMap and Service go with it) unless it is on its way already."""
    yield from _delete("batch/v1", "Job", name, child)


def _still_running(observed: Observed) -> list[Action]:
    """An attempt may end while its Job is alive: an image that cannot be pulled."""
    live = ((name, child) for name, child in sorted(observed.jobs.items()) if not finished(child))
    return [action for name, child in live for action in stop(child, name)]


def _everything(observed: Observed) -> list[Action]:
    actions = [action for name, child in sorted(observed.jobs.items()) for action in stop(child, name)]
    claim = workspace_name(observed.job)
    if workspace_claim(observed.job) == claim and claim in observed.claims:
        actions += _delete("v1", "PersistentVolumeClaim", claim, observed.claims[claim])
    return actions


def _seconds_left(draft: Draft) -> float | None:
    """Until the clean-up is due: 0 when it is, None when there is none."""
    lifetime = draft.job.spec.ttl_seconds_after_finished
    ended = moment(draft.status, "completionTime")
    if lifetime is None or ended is None:
        return None
    return max(0.0, (ended + timedelta(seconds=lifetime) - draft.now).total_seconds())


def _delete(api_version: str, kind: str, name: str, child: Manifest) -> Iterator[Action]:
    uid = text(child, "metadata", "uid")
    if uid and not text(child, "metadata", "deletionTimestamp"):
        yield Delete(api_version, kind, name, uid)
