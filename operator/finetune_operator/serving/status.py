"""What a ModelServer reports: readiness in words, its address, and one entry per alias."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import accumulate

from finetune_operator.api.conditions import MESSAGE_LIMIT, Fact, clip, with_facts, word
from finetune_operator.api.modelserverstatus import (
    AdapterState,
    CandidateState,
    ModelServerStatus,
    SlotsStatus,
)
from finetune_operator.api.rollout import RolloutRecord
from finetune_operator.contracts.settings import Settings
from finetune_operator.core.actions import Manifest
from finetune_operator.core.manifests import text
from finetune_operator.observe.trouble import Trouble
from finetune_operator.render.names import KIND_LABEL, OWNER_LABEL, server_name
from finetune_operator.serving.network import GATEWAY_PORT
from finetune_operator.serving.observed import Observed, PodState
from finetune_operator.serving.ownership import Taken
from finetune_operator.serving.report import SHOWN, AliasReport, Progress
from finetune_operator.serving.routing import Slots, Step
from finetune_operator.serving.template import (
    UPDATE_AVAILABLE,
    Template,
    Upgrade,
    in_force,
    refused,
    rolled_out,
    stored,
)
from finetune_operator.serving.trouble import trouble_of
from finetune_operator.serving.wanted import Trial

ENTRIES = 1024  # what the schema takes
CANDIDATES = 64
# etcd takes 1.5 MB of an object; readers and caches hold it many times.
ADAPTERS_BYTES = 240_000  # with messages, which are cut for it
ENTRIES_BYTES = 600_000  # without messages: a thousand whose names are all as long as names may be
ROLLOUTS_BYTES = 530_000
SHORTEST_MESSAGE = 40
STOPPED = "Stopped"
_FINGERPRINT = re.compile("sha256:[0-9a-f]{64}")


@dataclass(frozen=True)
class Decided:
    """What the plan decided, for the status to tell; `deployment` is the intended one."""

    template: Template | None
    deployment: Manifest | None
    step: Step
    slots: Slots
    reports: Sequence[AliasReport]
    trials: Sequence[tuple[Trial, Progress]]
    taken: Sequence[Taken]
    rebuilt: bool


def endpoint(name: str, namespace: str) -> str:
    """The OpenAI base URL of a server inside the cluster."""
    return f"http://{name}.{namespace}.svc:{GATEWAY_PORT}/v1"


def next_status(observed: Observed, settings: Settings, decided: Decided, now: datetime) -> ModelServerStatus:
    """The whole status; conditions keep their transition times."""
    server, template = observed.server, decided.template
    generation = server.metadata.generation
    facts = [*_facts(observed, settings, decided, now), _update(observed, settings, decided)]
    entries = _entries(decided.reports)
    return ModelServerStatus(
        observed_generation=generation,
        conditions=with_facts(server.status.conditions, facts, generation, now),
        replicas=len(observed.live),
        ready_replicas=len(observed.answering(now)),
        selector=f"{KIND_LABEL}={server.kind_name},{OWNER_LABEL}={server.metadata.name}",
        endpoint=endpoint(server_name(server), server.metadata.namespace),
        image=template.image if template is not None else None,
        base_fingerprint=_base_fingerprint(observed),
        manifest_generation=decided.step.table.generation,
        slots=_slots(decided),
        adapters_serving=f"{sum(_serves(r) for r in decided.reports)}/{len(decided.reports)}",
        adapters=entries,
        rollouts=_rollouts(decided.reports),
        candidates=_candidates(decided.trials),
        adapters_left_out=len(decided.reports) - len(entries) or None,
        template=template.record if template is not None else None,
        pod_template=None if stored(observed, template) else server.status.pod_template,
    )


def _base_fingerprint(observed: Observed) -> str | None:
    told = {text(pod.state, "base", "fingerprint") for pod in observed.live if pod.state is not None}
    known = [one for one in told if _FINGERPRINT.fullmatch(one)]
    return known[0] if len(known) == 1 else observed.server.status.base_fingerprint


def _facts(observed: Observed, settings: Settings, decided: Decided, now: datetime) -> Iterator[Fact]:
    """Ready says whether replicas answer; Reconciling and Stalled whether the server is as its spec says."""
    replicas, pods = observed.server.spec.replicas, observed.answering(now)
    answering = len(pods)
    ready = answering >= replicas > 0 and not any(entry.kind == "Service" for entry in decided.taken)
    trouble = _blocked(observed, decided)
    if trouble is None and not (ready and _as_specified(observed, decided)):
        trouble = trouble_of(observed, decided.template, settings, now)
    counted = f"{answering} of {replicas} {'replica answers' if replicas == 1 else 'replicas answer'}."
    fine = Trouble("Serving", counted + _unanswered(pods))
    shown, told = trouble or fine, fine if ready else trouble or fine
    moving = trouble is not None and not trouble.stalled and trouble.reason != STOPPED
    yield Fact("Ready", ready, told.reason, told.message)
    yield Fact("Reconciling", moving, shown.reason, shown.message)
    yield Fact("Stalled", trouble is not None and trouble.stalled, shown.reason, shown.message)


def _unanswered(pods: Sequence[PodState]) -> str:
    """The aliases that some replica cannot answer, for people who look at the server alone."""
    told = [
        f"{alias} on {pod.name} ({text(one, 'reason')})"
        for pod in pods
        for alias, one in pod.unanswered.items()
    ]
    if not told:
        return ""
    more = f" and {len(told) - SHOWN} more" if len(told) > SHOWN else ""
    return f" Without an answer: {', '.join(told[:SHOWN])}{more}; see the AdapterDeployments."


def _as_specified(observed: Observed, decided: Decided) -> bool:
    current = in_force(observed.server, decided.template)
    return current and rolled_out(observed.deployment, decided.deployment)


def _blocked(observed: Observed, decided: Decided) -> Trouble | None:
    """What keeps the server from being as its spec says, whatever its pods do."""
    if observed.refusal is not None:
        refusal = observed.refusal
        return Trouble(refusal.reason, refusal.message, stalled=not refusal.passes)
    for taken in sorted(decided.taken, key=lambda entry: entry.passing):
        reason = "WaitingForDeletion" if taken.passing else "NameConflict"
        return Trouble(reason, taken.message, stalled=not taken.passing)
    if observed.server.spec.replicas == 0:
        message = "The server is scaled to zero; set spec.replicas to 1 or more to serve."
        return Trouble(STOPPED, message)
    return None


def _update(observed: Observed, settings: Settings, decided: Decided) -> Fact:
    """Whether the operator would render other pods now, and how they come."""
    template, problem = decided.template, refused(observed.server, settings)
    if template is None or not in_force(observed.server, template):
        return Fact(UPDATE_AVAILABLE, None, "NotRendered", "There are no pods for this spec; see Stalled.")
    if problem is not None:
        reason, message = problem
        return Fact(UPDATE_AVAILABLE, False, reason, f"The pods stay as they are: {message}")
    if template.upgrade is not None:
        return _available(observed.server.spec.upgrade.policy, template.upgrade)
    if template.record.cause == "Automatic" and not rolled_out(observed.deployment, decided.deployment):
        message = "Pods with the operator's current image and settings replace the others."
        return Fact(UPDATE_AVAILABLE, False, "Upgrading", message)
    return Fact(
        UPDATE_AVAILABLE, False, "UpToDate", "The pods run the operator's current image and settings."
    )


def _available(policy: str, upgrade: Upgrade) -> Fact:
    changes = f"Would change: {upgrade.changes}."
    if policy == "Manual":
        how = "Set spec.upgrade.revision to a new value to roll it out, or spec.upgrade.policy to Automatic."
        return Fact(UPDATE_AVAILABLE, True, "UpdateAvailable", f"{changes} {how}")
    turn = f"Waiting for ModelServer {upgrade.waits_for}." if upgrade.waits_for else "It is next."
    return Fact(UPDATE_AVAILABLE, True, "WaitingForTurn", f"{changes} {turn}")


def _slots(decided: Decided) -> SlotsStatus:
    aliases = len(decided.step.aliases)
    if decided.slots.engine <= decided.slots.aliases:
        return SlotsStatus(total=decided.slots.aliases, used=aliases, surge="Missing")
    in_use = len(decided.step.holding) > decided.slots.aliases
    return SlotsStatus(total=decided.slots.aliases, used=aliases, surge="InUse" if in_use else "Free")


def _serves(report: AliasReport) -> bool:
    return report.progress.state == "Serving"


def _entries(reports: Sequence[AliasReport]) -> tuple[AdapterState, ...]:
    """Those that need somebody's attention first; every entry has room before messages share the rest."""
    ordered = sorted(reports, key=_serves)[:ENTRIES]
    bare = [_entry(report) for report in ordered]
    taken = list(accumulate(len(json.dumps(entry.to_dict(), separators=(",", ":"))) for entry in bare))
    shown = sum(size <= ENTRIES_BYTES for size in taken)
    telling = sum(not _serves(report) for report in ordered[:shown])
    share = (ADAPTERS_BYTES - taken[shown - 1]) // telling if telling else 0
    longest = min(max(SHORTEST_MESSAGE, share), MESSAGE_LIMIT)
    return tuple(_with_message(*one, longest) for one in zip(ordered[:shown], bare[:shown], strict=True))


def _candidates(trials: Sequence[tuple[Trial, Progress]]) -> tuple[CandidateState, ...]:
    return tuple(
        CandidateState(
            fine_tune_job=trial.run,
            version=trial.version.name,
            state="Ready" if progress.state == "Serving" else progress.state,
            reason=word(progress.reason),
            message=clip(progress.message),
        )
        for trial, progress in trials[:CANDIDATES]
    )


def _rollouts(reports: Sequence[AliasReport]) -> tuple[RolloutRecord, ...]:
    """Those in a step first, then others under way, those that were rolled back, and those complete."""
    order = {"Complete": 2, "RolledBack": 1, "Shift": -1}
    found = [report.wanted.record for report in reports if report.wanted.record is not None]
    found.sort(key=lambda record: order.get(record.phase, 0))
    taken = accumulate(len(json.dumps(record.to_dict(), separators=(",", ":"))) for record in found)
    kept = [record for record, size in zip(found, taken, strict=True) if size <= ROLLOUTS_BYTES]
    return tuple(kept[:ENTRIES])


def _entry(report: AliasReport) -> AdapterState:
    """One that serves needs no words. What pods and unreadable objects say may have any length."""
    want, progress = report.wanted, report.progress
    return AdapterState(
        alias=clip(want.alias, 63),
        deployment=want.deployment,
        version=want.version,
        state=progress.state,
        serving_version=report.serving,
        reason=None if _serves(report) else word(progress.reason),
        replicas_ready=report.replicas_ready,
    )


def _with_message(report: AliasReport, entry: AdapterState, longest: int) -> AdapterState:
    if _serves(report):
        return entry
    return entry.model_copy(update={"message": clip(report.progress.message, longest)})
