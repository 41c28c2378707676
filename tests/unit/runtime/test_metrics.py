"""What the operator tells Prometheus about itself and about the objects it keeps."""

from __future__ import annotations

import re
import shutil
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

from finetune_operator import __version__
from finetune_operator.runtime.metrics import Metrics
from finetune_operator.runtime.queue import WorkQueue
from finetune_operator.runtime.resources import Key

ROOT = Path(__file__).parents[3]
RUN = Key("FineTuneJob", "demo", "reviews-v1")
SERVER = Key("ModelServer", "demo", "shared")


def value(metrics: Metrics, name: str, **labels: str) -> float | None:
    return metrics.registry.get_sample_value(f"finetune_operator_{name}", labels)


def spending(spent: str | None, limit: str | None = None, **status: Any) -> dict[str, Any]:
    cost = {} if spent is None else {"cost": {"spent": spent, "currency": "USD"}}
    budget = {} if limit is None else {"budget": {"limit": limit, "currency": "USD"}}
    return {"spec": budget, "status": {**cost, **status}}


def standing(reason: str, ready: str = "False", **status: Any) -> dict[str, Any]:
    return {"status": {"conditions": [{"type": "Ready", "status": ready, "reason": reason}], **status}}


def exercised() -> Metrics:
    """Metrics with at least one series of each."""
    metrics = Metrics()
    conditions = [{"type": "Succeeded", "status": "Unknown", "reason": "Training"}]
    metrics.show(RUN, spending("1.00", "10", conditions=conditions))
    metrics.show(RUN, spending("9.50", "10", conditions=conditions))
    metrics.show(SERVER, standing("CrashLoopBackOff"))
    metrics.reconciled("FineTuneJob", "written", 0.1)
    metrics.requested("get", 200)
    metrics.acted("Create")
    metrics.watch_restarted("Job", "ended")
    metrics.stale_watches(lambda: {"Job": 3.0})
    metrics.refused("Job", "Forbidden")
    return metrics


def test_objects_are_counted_by_namespace_and_condition_without_their_names() -> None:
    metrics = exercised()
    metrics.show(SERVER, {})
    assert value(metrics, "objects", kind="FineTuneJob", object_namespace="demo") == 1
    labels = {"kind": "FineTuneJob", "object_namespace": "demo", "type": "Succeeded"}
    assert value(metrics, "conditions", status="Unknown", reason="Training", **labels) == 1
    assert "reviews-v1" not in metrics.render().decode()
    metrics.forget(RUN)
    assert value(metrics, "conditions", status="Unknown", reason="Training", **labels) is None


def test_a_status_that_another_program_wrote_costs_no_scrape() -> None:
    metrics = Metrics()
    metrics.show(RUN, {"spec": {"budget": "50"}, "status": {"conditions": ["odd", {"type": 3}], "cost": []}})
    assert b"finetune_operator_objects" in metrics.render()


def test_what_runs_cost_is_counted_as_it_grows_and_never_twice() -> None:
    metrics = Metrics()
    for spent in (None, "1.50", "1.50", "4.00"):
        metrics.show(RUN, spending(spent))
    assert value(metrics, "spent_total", currency="USD") == 4.0
    before = Key("FineTuneJob", "demo", "from before a restart")
    metrics.show(before, spending("100.00"))
    assert value(metrics, "spent_total", currency="USD") == 4.0
    metrics.show(before, spending("101.00"))
    metrics.forget(RUN)
    assert value(metrics, "spent_total", currency="USD") == 5.0


def test_rollouts_are_counted_once_when_they_end() -> None:
    metrics, adapter = Metrics(), Key("AdapterDeployment", "demo", "reviews")
    ended = Key("AdapterDeployment", "demo", "from before a restart")
    metrics.show(ended, {"status": {"rollout": {"phase": "RolledBack"}}})
    assert value(metrics, "rollouts_total", result="rolled_back") == 0.0
    for phase in ("Shift", "RolledBack", "RolledBack", "Shift", "Promote", "Drain", "Complete", "Complete"):
        metrics.show(adapter, {"status": {"rollout": {"phase": phase}}})
    assert value(metrics, "rollouts_total", result="rolled_back") == 1.0
    assert value(metrics, "rollouts_total", result="promoted") == 1.0


def test_rollouts_are_shown_by_the_step_that_they_are_in() -> None:
    metrics = Metrics()
    for name, rollout in {
        "first": {"phase": "Shift", "step": 1},
        "also": {"phase": "Shift", "step": 1},
        "paused": {"phase": "Shift"},
        "back": {"phase": "RolledBack", "step": 1},
        "without": {},
    }.items():
        metrics.show(Key("AdapterDeployment", "demo", name), {"status": {"rollout": rollout}})
    assert value(metrics, "rollouts_in_step", object_namespace="demo", step="1") == 2.0
    assert value(metrics, "rollouts_in_step", object_namespace="demo", step="0") == 1.0


@pytest.mark.parametrize(
    ("owner", "expected"),
    [
        (spending("45", "50"), 0.9),
        (spending("60", "50"), 1.2),
        (spending(None, "50"), None),
        (spending("45"), None),
        (spending("45", "50", completionTime="2026-01-01T00:00:00Z"), None),
        (spending("a lot", "50"), None),
    ],
    ids=[
        "a run near its budget", "a run above it", "nothing spent yet", "no budget",
        "a run that has ended", "an amount that is not a number",
    ],
)  # fmt: skip
def test_the_share_of_a_budget_is_that_of_runs_under_way(
    owner: dict[str, Any], expected: float | None
) -> None:
    metrics = Metrics()
    metrics.show(RUN, owner)
    assert value(metrics, "budget_used_ratio", object_namespace="demo") == expected


def test_the_run_nearest_to_its_budget_counts() -> None:
    metrics = Metrics()
    metrics.show(RUN, spending("45", "50"))
    metrics.show(Key("FineTuneJob", "demo", "cheap"), spending("1", "50"))
    assert value(metrics, "budget_used_ratio", object_namespace="demo") == 0.9


@pytest.mark.parametrize(
    ("key", "owner", "expected"),
    [
        (SERVER, standing("CrashLoopBackOff", readyReplicas=0), 1),
        (SERVER, standing("CrashLoopBackOff"), 1),
        (SERVER, standing("CrashLoopBackOff", readyReplicas=9), None),
        (SERVER, standing("CrashLoopBackOff", ready="True"), None),
        (SERVER, {}, None),
        (Key("AdapterDeployment", "demo", "reviews"), standing("CrashLoopBackOff"), None),
    ],
    ids=[
        "no replica answers", "a status that counts no replicas", "one of ten is missing", "it is Ready",
        "nothing is said yet", "an object without replicas",
    ],
)  # fmt: skip
def test_a_server_is_silent_when_no_replica_answers(
    key: Key, owner: dict[str, Any], expected: float | None
) -> None:
    metrics = Metrics()
    metrics.show(key, owner)
    labels = {"object_namespace": "demo", "reason": "CrashLoopBackOff"}
    assert value(metrics, "servers_not_answering", **labels) == expected


def test_waiting_for_a_worker_is_measured_and_waiting_for_the_time_is_not() -> None:
    now = [100.0]
    queue: WorkQueue[str] = WorkQueue(lambda: now[0])
    assert queue.waited() == 0
    queue.add("later", delay=60)
    assert queue.waited() == 0
    queue.add("now")
    now[0] = 107.0
    assert queue.waited() == 7


def test_names_follow_the_rules_of_prometheus() -> None:
    families = list(exercised().registry.collect())
    assert "finetune_operator_build" in {family.name for family in families}
    for family in families:
        assert family.documentation.strip(), family.name
        assert not family.name.endswith(("_count", "_sum", "_created")), family.name
        assert family.type != "counter" or not family.name.endswith("_total"), "the client adds _total"
        if family.type == "histogram":
            assert family.name.endswith("_seconds"), family.name
    assert "_created" not in exercised().render().decode()


def test_promtool_finds_nothing_to_say_about_the_names() -> None:
    program = shutil.which("promtool")
    if program is None:
        pytest.skip("promtool is not installed (Debian: prometheus); `make test` installs it as root")
    text = exercised().render()
    done = subprocess.run([program, "check", "metrics"], input=text, capture_output=True, check=False)
    assert (done.returncode, done.stderr) == (0, b"")


def test_an_error_can_be_seen_in_a_rate_from_the_first_on() -> None:
    assert value(Metrics(), "reconciles_total", kind="ModelServer", result="error") == 0


def test_one_version_everywhere() -> None:
    chart = yaml.safe_load((ROOT / "charts/finetune-operator/Chart.yaml").read_text())
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert __version__ == project["version"] == chart["appVersion"]
    assert value(Metrics(), "build_info", version=__version__) == 1


def test_the_page_lists_every_metric() -> None:
    page = (ROOT / "docs" / "operations.md").read_text()
    listed = set(re.findall(r"^\| `(finetune_operator_\w+)", page, re.MULTILINE))
    suffix = {"counter": "_total", "info": "_info"}
    metrics = exercised()
    for name in ("queue_length", "queue_wait_seconds", "workers_busy"):  # the reconciler publishes these
        metrics.publish(name, "Read when scraped", lambda: 0.0)
    known = {family.name + suffix.get(family.type, "") for family in metrics.registry.collect()}
    assert listed == {name for name in known if name.startswith("finetune_operator_")}
