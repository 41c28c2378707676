"""The operator's own metrics. Counters carry no object names: their number must not grow with the cluster."""

from __future__ import annotations

from collections import Counter as Tally
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest
from prometheus_client.core import GaugeMetricFamily

from finetune_operator.runtime.resources import Key

PREFIX = "finetune_operator"
_Condition = tuple[str, str, str]


class Metrics:
    """All metrics of one process, in a registry of their own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._conditions: dict[Key, tuple[_Condition, ...]] = {}
        ProcessCollector(registry=self.registry)
        self.registry.register(self)
        self._reconciles = self._counter("reconcile_total", "Reconciles by result", "kind", "result")
        self._seconds = Histogram(
            f"{PREFIX}_reconcile_seconds", "Duration of a reconcile", ["kind"], registry=self.registry
        )
        self._requests = self._counter("api_requests_total", "Requests to the API server", "verb", "code")
        self._restarts = self._counter("watch_restarts_total", "Watches that ended", "kind", "cause")
        self._alive = Gauge(
            f"{PREFIX}_watch_last_event_timestamp_seconds",
            "When a watch last brought anything",
            ["kind"],
            registry=self.registry,
        )
        self._spent: dict[Key, float] = {}
        self._spending = self._counter(
            "spent_total", "Money that runs cost, as status.cost tells", "currency"
        )
        self._actions = self._counter("actions_total", "Actions executed", "action")
        self.loop_lag = Gauge(f"{PREFIX}_loop_lag_seconds", "Delay of the event loop", registry=self.registry)

    def reconciled(self, kind: str, result: str, seconds: float) -> None:
        """Count a reconcile; `result` is done, requeued, conflict or error."""
        self._reconciles.labels(kind, result).inc()
        self._seconds.labels(kind).observe(seconds)

    def requested(self, verb: str, status: int) -> None:
        """Count a request; status 0 means no answer."""
        self._requests.labels(verb, str(status)).inc()

    def acted(self, action: str) -> None:
        """Count an action of a plan."""
        self._actions.labels(action).inc()

    def watch_restarted(self, kind: str, cause: str) -> None:
        """Count the end of a watch; `cause` is ended, gone or error."""
        self._restarts.labels(kind, cause).inc()

    def watch_alive(self, kind: str) -> None:
        """Note that a watch brought something."""
        self._alive.labels(kind).set_to_current_time()

    def watch_depth(self, name: str, depth: Callable[[], float]) -> None:
        """Publish a depth that is read at scrape time."""
        gauge = Gauge(f"{PREFIX}_{name}", "Read at scrape time", registry=self.registry)
        gauge.set_function(depth)

    def show(self, key: Key, status: Mapping[str, Any] | None) -> None:
        """Remember the conditions of an object for the gauges, and count what it cost since the last time."""
        conditions = (status or {}).get("conditions") or ()
        self._conditions[key] = tuple(
            (str(c.get("type")), str(c.get("status")), str(c.get("reason", ""))) for c in conditions
        )
        self._count_spending(key, (status or {}).get("cost") or {})

    def forget(self, key: Key) -> None:
        """The object is gone."""
        self._conditions.pop(key, None)
        self._spent.pop(key, None)

    def collect(self) -> Iterable[GaugeMetricFamily]:
        """The gauges `finetune_operator_objects` and `..._conditions`, counted when scraped."""
        objects = GaugeMetricFamily(f"{PREFIX}_objects", "Objects of ours", labels=["kind"])
        for kind, number in sorted(Tally(key.kind for key in self._conditions).items()):
            objects.add_metric([kind], number)
        conditions = GaugeMetricFamily(
            f"{PREFIX}_conditions", "Objects by condition", labels=["kind", "type", "status", "reason"]
        )
        tally = Tally((key.kind, *c) for key, found in self._conditions.items() for c in found)
        for labels, number in sorted(tally.items()):
            conditions.add_metric(list(labels), number)
        return [objects, conditions]

    def render(self) -> bytes:
        """The text format for a scrape."""
        return generate_latest(self.registry)

    def _count_spending(self, key: Key, cost: Mapping[str, Any]) -> None:
        """What a run cost before this process first saw it was counted by an earlier process."""
        spent = float(cost.get("spent") or 0)
        before = self._spent.get(key, spent)
        self._spent[key] = spent
        if spent > before:
            self._spending.labels(str(cost.get("currency"))).inc(spent - before)

    def _counter(self, name: str, text: str, *labels: str) -> Counter:
        return Counter(f"{PREFIX}_{name}", text, labels, registry=self.registry)
