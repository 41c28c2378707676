"""The alerts: promtool's verdict, and that they speak of metrics that exist."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from dev.chart import CHART
from finetune_operator.runtime.metrics import Metrics
from finetune_operator.stages.plan import CHAIN

RULES = CHART / "files" / "alerts.yaml"
CASES = Path(__file__).with_name("alerts_test.yaml")
OPERATOR = CHART.parents[1] / "operator" / "finetune_operator"
METRIC = re.compile(r"finetune_operator_\w+")
# The running process publishes these; everything else is there from the start.
PUBLISHED = {"finetune_operator_queue_wait_seconds", "finetune_operator_watch_stale_seconds"}

# Why Kueue evicts (WorkloadEvictedBy... and ...DueTo... of its API v1beta2).
EVICTIONS = {
    "Preempted", "PodsReadyTimeout", "AdmissionCheck", "NodeFailures", "ClusterQueueStopped", "LocalQueueStopped"
}  # fmt: skip


@pytest.fixture(scope="module")
def promtool() -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run promtool."""
    program = shutil.which("promtool")
    if program is None:
        pytest.skip("promtool is not installed (Debian: prometheus); `make test` installs it as root")

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run([program, *arguments], capture_output=True, text=True, check=False)

    return run


def alerts() -> dict[str, dict[str, Any]]:
    groups = yaml.safe_load(RULES.read_text())["groups"]
    return {rule["alert"]: rule for group in groups for rule in group["rules"]}


def test_promtool_accepts_the_rules(promtool: Callable[..., Any]) -> None:
    done = promtool("check", "rules", str(RULES))
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_alert_fires_and_stays_quiet_as_its_cases_say(promtool: Callable[..., Any]) -> None:
    done = promtool("test", "rules", str(CASES))
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("wanted", [True, False], ids=["one in which it fires", "one in which it is quiet"])
def test_every_alert_has_a_case(wanted: bool) -> None:
    tested = {
        check["alertname"]
        for case in yaml.safe_load(CASES.read_text())["tests"]
        for check in case["alert_rule_test"]
        if bool(check.get("exp_alerts")) is wanted
    }
    assert tested == set(alerts())


def test_every_alert_says_what_to_do_and_how_urgent_it_is() -> None:
    for name, rule in alerts().items():
        assert rule["labels"]["severity"] in {"critical", "warning"}, name
        assert set(rule["annotations"]) == {"summary", "description"}, name
        assert rule["for"], name


def test_the_alerts_use_metrics_that_the_operator_has() -> None:
    families = list(Metrics().registry.collect())
    suffix = {"counter": "_total", "info": "_info"}
    known = {family.name + suffix.get(family.type, "") for family in families} | PUBLISHED
    used = {name for rule in alerts().values() for name in METRIC.findall(rule["expr"])}
    assert used <= known


def test_the_alerts_name_reasons_that_the_operator_or_kueue_gives() -> None:
    sources = "".join(path.read_text() for path in OPERATOR.rglob("*.py"))
    lists = [
        found for rule in alerts().values() for found in re.findall(r'reason!?[=~]+"([^"]+)"', rule["expr"])
    ]
    named = {reason for found in lists for reason in found.split("|")}
    assert {reason for reason in named - EVICTIONS if f'"{reason}"' not in sources} == set()


def test_neither_a_stage_that_works_nor_a_run_in_its_queue_is_one_that_waits() -> None:
    lists = re.findall(r'reason!~"([^"]+)"', alerts()["FineTuneJobWaiting"]["expr"])
    meant_so = set("|".join(lists).split("|"))
    assert {stage.activity for stage in CHAIN} | EVICTIONS <= meant_so


def test_the_page_lists_every_alert() -> None:
    page = (Path(__file__).parents[2] / "docs" / "operations.md").read_text()
    assert set(re.findall(r"^\| (\w+) \|", page.split("## Alerts")[1], re.MULTILINE)) >= set(alerts())
