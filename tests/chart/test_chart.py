"""What the chart renders, and what it refuses to render."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
import yaml

from dev.chart import CHART, values
from finetune_operator.contracts.settings import parse_settings

IMAGES = {"operator": "example/operator:1", "trainer": "example/trainer:1", "serving": "example/serving:1"}
Object = dict[str, Any]
Render = Callable[..., list[Object]]


def of_kind(objects: list[Object], kind: str) -> list[Object]:
    return [item for item in objects if item["kind"] == kind]


def permissions(role: Object) -> set[tuple[str, str, str]]:
    """(group, resource, verb) of every rule."""
    return {
        (group, resource, verb)
        for rule in role["rules"]
        for group in rule["apiGroups"]
        for resource in rule["resources"]
        for verb in rule["verbs"]
    }


def operator_role(objects: list[Object]) -> Object:
    return next(
        item
        for item in objects
        if item["kind"] in {"ClusterRole", "Role"} and item["metadata"]["name"] == "finetune-operator"
    )


def test_the_chart_lints_without_a_warning(helm: Callable[..., Any]) -> None:
    done = helm("lint", {"images": IMAGES}, "--strict")
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_settings_it_writes_are_what_the_operator_reads(render: Render) -> None:
    given = {
        "gpuTypes": {
            "h200": {
                "resourceName": "nvidia.com/gpu",
                "nodeSelector": {"gpu": "h200"},
                "memoryGiB": 139,
                "peakTflops": 989,
                "pricePerHour": "4.00",
                "spotPricePerHour": None,
                "currency": "USD",
            }
        },
        "s3": {"endpoint": "http://minio.example:9000", "region": None},
        "env": {"NAME": "value"},
        "engineArgs": ["--enforce-eager"],
        "hubEndpoint": "http://hub.example",
        "unschedulableDeadlineSeconds": 86400,
    }
    config = of_kind(render(**given), "ConfigMap")[0]
    settings = parse_settings(config["data"]["settings.json"])
    assert settings.images.trainer == IMAGES["trainer"]
    assert settings.gpu_types["h200"].node_selector == {"gpu": "h200"}
    assert settings.gpu_types["h200"].price_per_hour == "4.00"
    assert settings.gpu_types["h200"].spot_price_per_hour is None
    assert settings.gpu_types["h200"].memory_gib == 139
    assert settings.s3.endpoint == "http://minio.example:9000"
    assert settings.engine_args == ("--enforce-eager",)
    assert settings.unschedulable_deadline_seconds == 86400


def test_the_values_of_the_embedded_cluster_are_accepted(render: Render) -> None:
    config = of_kind(render(**values({**IMAGES, "pause": "example/pause:1"})), "ConfigMap")[0]
    assert parse_settings(config["data"]["settings.json"]).env["VLLM_CPU_KVCACHE_SPACE"] == "1"


@pytest.mark.parametrize("keep", [True, False], ids=["kept on uninstall", "removed on uninstall"])
def test_the_crds_are_the_generated_ones(render: Render, keep: bool) -> None:
    rendered = {
        item["metadata"]["name"]: item
        for item in of_kind(render(crds={"enabled": True, "keep": keep}), "CustomResourceDefinition")
    }
    for path in sorted((CHART / "files" / "crds").glob("*.yaml")):
        generated = yaml.safe_load(path.read_text())
        item = rendered.pop(generated["metadata"]["name"])
        policy = item["metadata"].pop("annotations", {}).get("helm.sh/resource-policy")
        assert policy == ("keep" if keep else None)
        assert item == generated
    assert not rendered


def test_crds_can_be_left_to_somebody_else(render: Render) -> None:
    objects = render(crds={"enabled": False})
    assert not of_kind(objects, "CustomResourceDefinition")


def test_the_operator_pod_satisfies_pod_security_restricted(render: Render) -> None:
    pod = of_kind(render(), "Deployment")[0]["spec"]["template"]["spec"]
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["runAsUser"] == 10001
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    for container in pod["containers"]:
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }


def test_two_operators_never_run_at_once(render: Render) -> None:
    assert of_kind(render(), "Deployment")[0]["spec"]["strategy"] == {"type": "Recreate"}


def test_a_change_of_settings_starts_a_new_pod(render: Render) -> None:
    def mark(**given: Any) -> str:
        template = of_kind(render(**given), "Deployment")[0]["spec"]["template"]
        return str(template["metadata"]["annotations"]["finetune.dev/settings"])

    assert mark() == mark()
    assert mark() != mark(env={"NAME": "value"})


def test_the_role_holds_exactly_what_the_operator_does(render: Render) -> None:
    allowed = permissions(operator_role(render()))
    assert {resource for _, resource, _ in allowed}.isdisjoint(
        {"secrets", "pods/exec", "serviceaccounts", "roles", "*"}
    )
    assert not [entry for entry in allowed if "*" in entry]
    ours = {(resource, verb) for group, resource, verb in allowed if group == "finetune.dev"}
    assert {verb for resource, verb in ours if "/" not in resource} == {"get", "list", "watch"}
    assert {verb for resource, verb in ours if "/" in resource} == {"patch", "update"}
    assert {verb for _, resource, verb in allowed if resource == "pods"} == {"get", "list", "patch", "watch"}


def test_one_namespace_needs_no_cluster_role(render: Render) -> None:
    objects = render(watchNamespace="team-a", crds={"enabled": False})
    assert not of_kind(objects, "ClusterRole")
    assert not of_kind(objects, "ClusterRoleBinding")
    assert operator_role(objects)["metadata"]["namespace"] == "team-a"
    subject = of_kind(objects, "RoleBinding")[0]["subjects"][0]
    assert subject["namespace"] == "finetune-system"
    arguments = of_kind(objects, "Deployment")[0]["spec"]["template"]["spec"]["containers"][0]["args"]
    assert "--namespace=team-a" in arguments


WRONG = {
    "an image that nobody named": ({"images": {**IMAGES, "trainer": ""}}, "images.trainer is empty"),
    "a misspelt value": ({"images": IMAGES, "engineArg": []}, "engineArg"),
    "an unknown image": ({"images": {**IMAGES, "trainr": "x"}}, "trainr"),
    "a number as environment variable": ({"images": IMAGES, "env": {"A": 1}}, "env"),
    "a deadline of zero": ({"images": IMAGES, "imagePullDeadlineSeconds": 0}, "imagePullDeadlineSeconds"),
    "a hub without a scheme": ({"images": IMAGES, "hubEndpoint": "hub.example"}, "hubEndpoint"),
}


@pytest.mark.parametrize(("given", "named"), WRONG.values(), ids=WRONG.keys())
def test_wrong_values_are_refused_by_name(helm: Callable[..., Any], given: Object, named: str) -> None:
    done = helm("template", given, "--kube-version", "1.36.3")
    assert done.returncode != 0
    assert named in done.stderr


def test_an_older_kubernetes_is_refused(helm: Callable[..., Any]) -> None:
    done = helm("template", {"images": IMAGES}, "--kube-version", "1.32.0")
    assert "1.33" in done.stderr


def test_every_default_is_described_by_the_schema() -> None:
    schema = json.loads((CHART / "values.schema.json").read_text())
    defaults = yaml.safe_load((CHART / "values.yaml").read_text())
    assert set(defaults) == set(schema["properties"]) - {"global"}
