"""ServiceMonitor, PodMonitor and PrometheusRule: only where the cluster serves them, and aimed at what exists."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest
import yaml

from dev.chart import CHART
from finetune_operator.core.manifests import INDEX
from tests.chart.releases import Object

Render = Callable[..., list[Object]]
SWITCHES = {"ServiceMonitor": "serviceMonitor", "PodMonitor": "podMonitor", "PrometheusRule": "rules"}
APIS = [f"monitoring.coreos.com/v1/{kind}" for kind in SWITCHES]


def monitors(objects: list[Object]) -> dict[str, Object]:
    return {item["kind"]: item for item in objects if item["apiVersion"].startswith("monitoring.coreos.com/")}


def test_a_cluster_without_the_prometheus_operator_gets_none(render: Render) -> None:
    assert monitors(render()) == {}


def test_a_cluster_with_it_gets_all_three(render: Render) -> None:
    assert set(monitors(render(apis=APIS))) == set(SWITCHES)


@pytest.mark.parametrize("kind", SWITCHES)
def test_each_is_left_out_where_its_kind_is_absent_or_a_value_says_so(render: Render, kind: str) -> None:
    others = set(SWITCHES) - {kind}
    assert set(monitors(render(apis=[api for api in APIS if not api.endswith(f"/{kind}")]))) == others
    assert set(monitors(render(apis=APIS, monitoring={SWITCHES[kind]: False}))) == others


def test_they_carry_the_labels_by_which_a_prometheus_selects_them(render: Render) -> None:
    given = {"release": "kube-prometheus-stack", "app.kubernetes.io/part-of": "ml"}
    for item in monitors(render(apis=APIS, monitoring={"labels": given})).values():
        assert given.items() <= item["metadata"]["labels"].items()
        assert item["metadata"]["labels"]["app.kubernetes.io/instance"] == "finetune-operator"


def test_the_service_monitor_selects_the_metrics_service_and_its_port(render: Render) -> None:
    objects = render(apis=APIS, monitoring={"interval": "15s"})
    (service,) = [item for item in objects if item["kind"] == "Service"]
    monitor = monitors(objects)["ServiceMonitor"]
    assert monitor["metadata"]["namespace"] == service["metadata"]["namespace"]
    assert monitor["spec"]["selector"]["matchLabels"].items() <= service["metadata"]["labels"].items()
    (endpoint,) = monitor["spec"]["endpoints"]
    assert endpoint["port"] in {port["name"] for port in service["spec"]["ports"]}
    assert endpoint["interval"] == "15s"


@pytest.mark.parametrize(
    ("watched", "expected"),
    [("", {"any": True}), ("team-a", {"matchNames": ["team-a"]})],
    ids=["in all namespaces", "in the one that the operator serves"],
)
def test_the_pod_monitor_finds_the_pods_of_runs_and_servers(
    render: Render, watched: str, expected: Object
) -> None:
    spec = monitors(render(apis=APIS, watchNamespace=watched))["PodMonitor"]["spec"]
    assert spec["namespaceSelector"] == expected
    assert spec["selector"] == {"matchLabels": {"app.kubernetes.io/managed-by": "finetune-operator"}}
    assert [endpoint["port"] for endpoint in spec["podMetricsEndpoints"]] == ["agent", "progress"]


def test_the_pod_monitor_gives_series_the_label_by_which_the_autoscaling_example_finds_a_server(
    render: Render,
) -> None:
    given = monitors(render(apis=APIS))["PodMonitor"]["spec"]["podTargetLabels"]
    keda = yaml.safe_load((CHART.parents[1] / "examples" / "autoscaling" / "keda.yaml").read_text())
    query = keda["spec"]["triggers"][0]["metadata"]["query"]
    used = set(re.findall(r"(\w+)=", query)) - {"namespace"}
    assert used <= {re.sub(r"\W", "_", label) for label in given}


def test_of_a_gang_only_the_pod_that_tells_the_progress_is_scraped(render: Render) -> None:
    endpoints = monitors(render(apis=APIS))["PodMonitor"]["spec"]["podMetricsEndpoints"]
    relabelings = {endpoint["port"]: endpoint.get("relabelings", []) for endpoint in endpoints}
    label = "__meta_kubernetes_pod_label_" + re.sub(r"\W", "_", INDEX)
    assert relabelings == {
        "agent": [],
        "progress": [{"sourceLabels": [label], "regex": "0", "action": "keep"}],
    }


def test_the_rule_object_holds_the_rule_file(render: Render) -> None:
    rules = yaml.safe_load((CHART / "files" / "alerts.yaml").read_text())
    assert monitors(render(apis=APIS))["PrometheusRule"]["spec"] == rules
