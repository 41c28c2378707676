"""Where each alias stands, in words that an AdapterDeployment can show."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from finetune_operator.canary.machine import PROMOTED
from finetune_operator.core.manifests import integer, text
from finetune_operator.serving.observed import PodState
from finetune_operator.serving.routing import Step, followed, verified
from finetune_operator.serving.wanted import Trial, Wanted

SHOWN = 8  # aliases in a sentence
_UNDER_WAY = frozenset({"Fetching", "Loading", "Verifying"})
State = Literal["Pending", "Loading", "Serving", "Failed"]


@dataclass(frozen=True)
class Progress:
    """How far a wanted version is, and why it is not further."""

    state: State
    reason: str
    message: str


@dataclass(frozen=True)
class AliasReport:
    """What the server says about one AdapterDeployment; `serving` is the version that answers now."""

    wanted: Wanted
    progress: Progress
    serving: str | None
    replicas_ready: int


def report(
    want: Wanted, step: Step, pods: Sequence[PodState], answering: Sequence[PodState], replicas: int
) -> AliasReport:
    """`pods` are the live ones, `answering` those that serve requests, `replicas` is the spec's number."""
    route = step.table.routes.get(want.alias) if want.keeps_route else None
    answers = route is not None and any(pod.phase(route.stable) == "Ready" for pod in answering)
    holders = sum(1 for pod in pods if want.version and pod.phase(want.version) == "Ready")
    progress = (
        _refused(want, step, pods)
        or _unanswered(want, answering)
        or _on_its_way(want, step, pods, answering, replicas)
    )
    return AliasReport(want, progress, route.stable if route is not None and answers else None, holders)


def _refused(want: Wanted, step: Step, pods: Sequence[PodState]) -> Progress | None:
    if want.rejection is not None:
        return Progress("Failed", want.rejection.reason, want.rejection.message + _meanwhile(want, step))
    if want.version is None:
        return Progress("Pending", "NotResolved", "The AdapterDeployment has no adapter resolved yet.")
    if want.version in step.without_slot:
        return _no_slot(want, step, pods)
    return _failure(want.version, pods)


def _meanwhile(want: Wanted, step: Step) -> str:
    """Who gets the requests: an AdapterDeployment that cannot be read does not say so itself."""
    route = step.table.routes.get(want.alias) if want.keeps_route else None
    if want.target is not None or route is None:
        return ""
    return f" Until then {route.stable} gets every request."


def _unanswered(want: Wanted, answering: Sequence[PodState]) -> Progress | None:
    """A replica that serves others may be unable to answer this alias; what it is still loading will come."""
    for pod in answering:
        entry = pod.unanswered.get(want.alias, {})
        reason, message = text(entry, "reason"), f"{pod.name}: {text(entry, 'message')}"
        if reason in _UNDER_WAY:
            return Progress("Loading", "Rolling", message)
        if reason:
            return Progress("Failed", reason, message)
    return None


def _on_its_way(
    want: Wanted, step: Step, pods: Sequence[PodState], answering: Sequence[PodState], replicas: int
) -> Progress:
    version = want.version or ""
    if replicas == 0:
        return Progress("Pending", "Stopped", "The ModelServer is scaled to zero: spec.replicas is 0.")
    if not answering:
        return Progress("Loading", "ServerNotReady", "No replica answers.")
    record, route = want.record, step.table.routes.get(want.alias)
    if record is not None and record.reason and record.phase not in PROMOTED:
        return Progress("Loading", record.reason, record.message)
    whole = route is not None and route.versions == (version,)
    if (
        whole
        and followed(step.table.generation, pods)
        and any(pod.phase(version) == "Ready" for pod in answering)
    ):
        return Progress("Serving", "Serving", f"Every ready replica answers {want.alias} with {version}.")
    if whole:
        return Progress("Loading", "Rolling", f"{version} gets every request once every replica follows.")
    return Progress("Loading", "Rolling", f"{version} is being loaded and verified on every replica.")


def _no_slot(want: Wanted, step: Step, pods: Sequence[PodState]) -> Progress:
    """A slot that is used for a moment comes free by itself; aliases that fill the server do not go."""
    passing = sorted(step.holding - {route.stable for route in step.table.routes.values()})
    uses = ", ".join(f"{name}{_in_flight(name, pods)}" for name in passing[:SHOWN])
    if want.alias in step.table.routes and passing:
        return Progress("Loading", "WaitingForSlot", f"The surge slot is in use by {uses}.")
    if not step.full:
        busy = f"The free slots are in use by {uses}; they come free when those are routed or unloaded."
        fewer = "Pods run that were started with fewer slots; waiting until they are replaced."
        return Progress("Pending", "WaitingForSlot", busy if passing else fewer)
    if want.alias in step.table.routes:
        return Progress(
            "Failed",
            "InsufficientSlots",
            "The engines were started without a surge slot, so a full server cannot roll: set "
            "spec.upgrade.revision of the ModelServer to a new value to start its pods with one.",
        )
    count, shown = len(step.aliases), ", ".join(step.aliases[:SHOWN])
    more = f" and {count - SHOWN} more" if count > SHOWN else ""
    message = (
        f"All {count} adapter slots of the ModelServer are taken ({shown}{more}); raise its spec.maxCpuLoras."
    )
    return Progress("Failed", "InsufficientSlots", message)


def _in_flight(version: str, pods: Sequence[PodState]) -> str:
    requests = sum(integer(pod.version(version), "inFlight") or 0 for pod in pods)
    return f" ({requests} requests in flight)" if requests else ""


def _failure(version: str, pods: Sequence[PodState]) -> Progress | None:
    """What a replica says that cannot have it; while all of those try again, it is on its way."""
    failed = [pod for pod in pods if pod.phase(version) == "Failed"]
    if not failed:
        return None
    pod = next((pod for pod in failed if not pod.tries_again(version)), failed[0])
    state: State = "Loading" if pod.tries_again(version) else "Failed"
    entry = pod.version(version)
    message = text(entry, "message") or "The agent gave no message."
    return Progress(state, text(entry, "reason") or "LoadFailed", f"{pod.name}: {message}")


def trial_report(
    trials: Sequence[Trial], step: Step, pods: Sequence[PodState]
) -> tuple[tuple[Trial, Progress], ...]:
    """Where the candidate of each run stands; only the first has its turn."""
    if not trials:
        return ()
    first, *others = trials
    waits = Progress("Pending", "WaitingForTurn", f"FineTuneJob {first.run} scores its candidate first.")
    return ((first, _tried(first.version.name, step, pods)), *((other, waits) for other in others))


def _tried(version: str, step: Step, pods: Sequence[PodState]) -> Progress:
    if version in step.without_slot:
        count, shown = len(step.aliases), ", ".join(step.aliases[:SHOWN])
        message = (
            f"All {count} adapter slots are taken ({shown}); waiting until one is free, or raise maxCpuLoras."
        )
        return Progress("Pending", "WaitingForSlot", message)
    older = next((pod for pod in pods if not pod.takes_candidates), None)
    if older is not None:
        message = (
            f"{older.name} runs an image that is older than candidates and answers them with 404; set "
            "spec.upgrade.revision to a new value to start the pods with the operator's image."
        )
        return Progress("Failed", "ImageTooOld", message)
    if verified(version, step.table, pods):
        return Progress("Serving", "Ready", "Every ready replica holds it.")
    return _failure(version, pods) or Progress("Loading", "Loading", "It is being loaded and verified.")
