"""The operator's own metrics (docs/operations.md, "Metrics").

No series names an object: their number must not grow with the history of the cluster. Gauges carry the
namespace of the objects they count, as `object_namespace`: `namespace` is the label that Prometheus gives to
the operator's own pod.
"""

from __future__ import annotations

from collections import Counter as Tally
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from sys import intern
from typing import Any

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    Info,
    ProcessCollector,
    disable_created_metrics,
    generate_latest,
)
from prometheus_client.core import GaugeMetricFamily

from finetune_operator import __version__
from finetune_operator.canary import machine
from finetune_operator.core.manifests import condition, integer, items, mapping, text
from finetune_operator.runtime.resources import MODELSERVER, OURS, Key

PREFIX = "finetune_operator"
RESULTS = ("written", "unchanged", "stale", "refused", "gone", "error")
PROMOTED, ROLLED_BACK = "promoted", "rolled_back"
_ROLLOUT_ENDS = dict.fromkeys(machine.PROMOTED, PROMOTED) | {"RolledBack": ROLLED_BACK}
# One more gauge per series that no query uses.
disable_created_metrics()  # type: ignore[no-untyped-call]


@dataclass(frozen=True)
class _Seen:
    """What the gauges need of an object; `budget_used` is a share of spec.budget.limit, `silent` why a server
    of which no replica answers is not ready, `step` that of a rollout in one.
    """

    conditions: tuple[tuple[str, str, str], ...]
    budget_used: float | None
    silent: str | None
    step: int | None


class Objects:
    """A collector: objects by kind and by condition, counted when scraped."""

    def __init__(self) -> None:
        self._seen: dict[Key, _Seen] = {}

    def show(self, key: Key, owner: Mapping[str, Any]) -> None:
        """Remember an object as it now is."""
        found = items(owner, "status", "conditions")
        # One copy of each word: thousands of objects say the same few.
        conditions = tuple(
            (intern(text(c, "type")), intern(text(c, "status")), intern(text(c, "reason"))) for c in found
        )
        self._seen[key] = _Seen(conditions, _budget_used(owner), _silent(key, owner), _step(owner))

    def forget(self, key: Key) -> None:
        """The object is gone."""
        self._seen.pop(key, None)

    def collect(self) -> Iterable[GaugeMetricFamily]:
        """The gauges of now."""
        return [
            self._objects(),
            self._conditions(),
            self._silent_servers(),
            self._budgets(),
            self._rollouts(),
        ]

    def _objects(self) -> GaugeMetricFamily:
        labels = ["kind", "object_namespace"]
        family = GaugeMetricFamily(f"{PREFIX}_objects", "Custom resources that exist", labels=labels)
        for found, number in sorted(Tally((key.kind, key.namespace) for key in self._seen).items()):
            family.add_metric(list(found), number)
        return family

    def _conditions(self) -> GaugeMetricFamily:
        labels = ["kind", "object_namespace", "type", "status", "reason"]
        help_text = "Custom resources by type, status and reason of each condition"
        family = GaugeMetricFamily(f"{PREFIX}_conditions", help_text, labels=labels)
        tally = Tally((k.kind, k.namespace, *c) for k, seen in self._seen.items() for c in seen.conditions)
        for found, number in sorted(tally.items()):
            family.add_metric(list(found), number)
        return family

    def _silent_servers(self) -> GaugeMetricFamily:
        help_text = "ModelServers of which no replica answers, by the reason of their condition Ready"
        labels = ["object_namespace", "reason"]
        family = GaugeMetricFamily(f"{PREFIX}_servers_not_answering", help_text, labels=labels)
        tally = Tally((k.namespace, seen.silent) for k, seen in self._seen.items() if seen.silent)
        for (namespace, reason), number in sorted(tally.items()):
            family.add_metric([namespace, reason], number)
        return family

    def _budgets(self) -> GaugeMetricFamily:
        help_text = "Highest share of spec.budget.limit that a run under way has cost, 1 for all of it"
        family = GaugeMetricFamily(f"{PREFIX}_budget_used_ratio", help_text, labels=["object_namespace"])
        highest: dict[str, float] = {}
        for key, seen in self._seen.items():
            if seen.budget_used is not None:
                highest[key.namespace] = max(seen.budget_used, highest.get(key.namespace, 0.0))
        for namespace, share in sorted(highest.items()):
            family.add_metric([namespace], share)
        return family

    def _rollouts(self) -> GaugeMetricFamily:
        help_text = (
            "AdapterDeployments whose rollout is in this step, 0 for one that is paused before the first"
        )
        labels = ["object_namespace", "step"]
        family = GaugeMetricFamily(f"{PREFIX}_rollouts_in_step", help_text, labels=labels)
        tally = Tally((k.namespace, seen.step) for k, seen in self._seen.items() if seen.step is not None)
        for (namespace, step), number in sorted(tally.items()):
            family.add_metric([namespace, str(step)], number)
        return family


class StaleWatches:
    """A collector: for how long each watch may have missed something; `read` gives seconds by kind."""

    def __init__(self, read: Callable[[], Mapping[str, float]]):
        self._read = read

    def collect(self) -> Iterable[GaugeMetricFamily]:
        """The gauge of now."""
        help_text = "For how long a watch may have missed something"
        family = GaugeMetricFamily(f"{PREFIX}_watch_stale_seconds", help_text, labels=["kind"])
        for kind, seconds in sorted(self._read().items()):
            family.add_metric([kind], seconds)
        return [family]


class Metrics:
    """All metrics of one process, in a registry of their own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        self._objects = Objects()
        self.registry.register(self._objects)
        build = Info(f"{PREFIX}_build", "Version of the operator", registry=self.registry)
        build.info({"version": __version__})
        self._reconciles = self._counter("reconciles_total", "Reconciles by result", "kind", "result")
        seconds, help_text = f"{PREFIX}_reconcile_duration_seconds", "Duration of a reconcile"
        self._seconds = Histogram(seconds, help_text, ["kind"], registry=self.registry)
        self._requests = self._counter(
            "api_requests_total", "Requests to the API server; code 0 is no answer", "verb", "code"
        )
        self._restarts = self._counter(
            "watch_restarts_total", "Watches that ended, by kind and cause", "kind", "cause"
        )
        self._spent: dict[Key, float] = {}
        self._spending = self._counter(
            "spent_total", "Cost of runs since this process started; sums are per currency", "currency"
        )
        self._phases: dict[Key, str] = {}
        self._rollouts = self._counter("rollouts_total", "Rollouts by steps that ended, by result", "result")
        for result in (PROMOTED, ROLLED_BACK):
            self._rollouts.labels(result)
        self._actions = self._counter("actions_total", "Actions of plans that were executed", "action")
        self._refused = self._counter(
            "refused_total", "Writes of children that the API server refused for good", "kind", "reason"
        )
        self._pruned = self._counter(
            "status_pruned_total", "Statuses that were stored without fields that the CRD lacks", "kind"
        )
        self._missing = self._gauge(
            "crd_missing_fields", "Fields that the installed CRD lacks, as seen at the start", "kind"
        )
        self.loop_lag = self._gauge("loop_lag_seconds", "Delay of the event loop")
        self.leader = self._gauge("leader", "1 in the replica that leads, 0 in one that stands by")
        for resource in OURS:  # at 0, so that a rate sees the first error
            self._reconciles.labels(resource.kind, "error")

    def reconciled(self, kind: str, result: str, seconds: float) -> None:
        """Count a reconcile; `result` is one of RESULTS."""
        self._reconciles.labels(kind, result).inc()
        self._seconds.labels(kind).observe(seconds)

    def requested(self, verb: str, status: int) -> None:
        """Count a request; status 0 means no answer."""
        self._requests.labels(verb, str(status)).inc()

    def acted(self, action: str) -> None:
        """Count an action of a plan."""
        self._actions.labels(action).inc()

    def refused(self, kind: str, reason: str) -> None:
        """Count a refusal; `kind` is that of the child."""
        self._refused.labels(kind, reason).inc()

    def pruned(self, kind: str) -> None:
        """Count a status that lost fields on its way into the store."""
        self._pruned.labels(kind).inc()

    def crd_lacks(self, kind: str, fields: int) -> None:
        """Publish how many fields the installed CRD of a kind lacks."""
        self._missing.labels(kind).set(fields)

    def watch_restarted(self, kind: str, cause: str) -> None:
        """Count the end of a watch; `cause` is ended, gone or error."""
        self._restarts.labels(kind, cause).inc()

    def publish(self, name: str, help_text: str, read: Callable[[], float]) -> None:
        """A gauge whose value is read when it is scraped."""
        self._gauge(name, help_text).set_function(read)

    def stale_watches(self, read: Callable[[], Mapping[str, float]]) -> None:
        """Publish for how long each watch may have missed something."""
        self.registry.register(StaleWatches(read))

    def show(self, key: Key, owner: Mapping[str, Any]) -> None:
        """Remember an object for the gauges, and count what a run cost, and how a rollout ended, since it was
        last shown.
        """
        self._objects.show(key, owner)
        self._count_rollouts(key, text(owner, "status", "rollout", "phase"))
        self._count_spending(key, mapping(owner, "status", "cost"))

    def forget(self, key: Key) -> None:
        """The object is gone."""
        self._objects.forget(key)
        self._spent.pop(key, None)
        self._phases.pop(key, None)

    def render(self) -> bytes:
        """The text format for a scrape."""
        return generate_latest(self.registry)

    def _count_spending(self, key: Key, cost: Mapping[str, Any]) -> None:
        """What a run cost before this process first saw it was counted by an earlier process."""
        spent = _amount(text(cost, "spent")) or 0.0
        before = self._spent.get(key, spent)
        self._spent[key] = spent
        if spent > before:
            self._spending.labels(text(cost, "currency")).inc(spent - before)

    def _count_rollouts(self, key: Key, phase: str) -> None:
        """What had ended before this process first saw it was counted by an earlier process."""
        before = self._phases.get(key, phase)
        self._phases[key] = intern(phase)
        ended = _ROLLOUT_ENDS.get(phase)
        if ended is not None and ended != _ROLLOUT_ENDS.get(before):
            self._rollouts.labels(ended).inc()

    def _counter(self, name: str, help_text: str, *labels: str) -> Counter:
        return Counter(f"{PREFIX}_{name}", help_text, labels, registry=self.registry)

    def _gauge(self, name: str, help_text: str, *labels: str) -> Gauge:
        return Gauge(f"{PREFIX}_{name}", help_text, labels, registry=self.registry)


def _budget_used(owner: Mapping[str, Any]) -> float | None:
    """None for what has no budget and for a run that has ended: its cost no longer grows."""
    limit = _amount(text(owner, "spec", "budget", "limit"))
    spent = _amount(text(owner, "status", "cost", "spent"))
    if not limit or spent is None or text(owner, "status", "completionTime"):
        return None
    return spent / limit


def _silent(key: Key, owner: Mapping[str, Any]) -> str | None:
    """None for other kinds, and where a replica answers."""
    ready = condition(owner, "Ready")
    if key.kind != MODELSERVER.kind or text(ready, "status") != "False":
        return None
    return None if integer(owner, "status", "readyReplicas") else intern(text(ready, "reason"))


def _step(owner: Mapping[str, Any]) -> int | None:
    rollout = mapping(owner, "status", "rollout")
    return integer(rollout, "step") or 0 if text(rollout, "phase") == "Shift" else None


def _amount(value: str) -> float | None:
    try:
        return float(value)
    except ValueError:
        return None
