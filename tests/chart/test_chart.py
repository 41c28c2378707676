"""What the chart renders, and what it refuses to render."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import yaml

from dev.chart import CHART
from finetune_operator.runtime import resources
from tests.chart.releases import IMAGES, Object

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


@pytest.mark.parametrize("user", [10001, None], ids=["a fixed user", "the cluster's choice (OpenShift)"])
def test_the_operator_pod_satisfies_pod_security_restricted(render: Render, user: int | None) -> None:
    pod = of_kind(render(runAsUser=user), "Deployment")[0]["spec"]["template"]["spec"]
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert [pod["securityContext"].get(key) for key in ("runAsUser", "runAsGroup", "fsGroup")] == [user] * 3
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    for container in pod["containers"]:
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }


def test_replicas_elect_their_leader_by_a_lease_that_only_they_may_touch(render: Render) -> None:
    objects = render()
    deployment = of_kind(objects, "Deployment")[0]
    assert deployment["spec"]["replicas"] == 2
    container = deployment["spec"]["template"]["spec"]["containers"][0]
    assert "--lease=$(POD_NAMESPACE)/finetune-operator" in container["args"]
    assert {variable["name"] for variable in container["env"]} == {"POD_NAME", "POD_NAMESPACE"}
    role = next(r for r in of_kind(objects, "Role") if r["metadata"]["name"] == "finetune-operator-lease")
    assert role["metadata"]["namespace"] == "finetune-system"
    assert permissions(role) == {
        ("coordination.k8s.io", "leases", verb) for verb in ("create", "get", "update")
    }
    named = [rule for rule in role["rules"] if "create" not in rule["verbs"]]
    assert [rule["resourceNames"] for rule in named] == [["finetune-operator"]]


@pytest.mark.parametrize("replicas", [1, 2])
def test_an_upgrade_starts_no_pod_while_one_of_the_old_release_runs(render: Render, replicas: int) -> None:
    (deployment,) = of_kind(render(replicas=replicas), "Deployment")
    assert deployment["spec"]["strategy"] == {"type": "Recreate"}


@pytest.mark.parametrize("replicas", [0, 1, 2, 3])
def test_a_drain_takes_one_of_several_replicas_at_a_time(render: Render, replicas: int) -> None:
    objects = render(replicas=replicas)
    budgets = of_kind(objects, "PodDisruptionBudget")
    assert of_kind(objects, "Deployment")[0]["spec"]["replicas"] == replicas
    assert [budget["spec"]["maxUnavailable"] for budget in budgets] == ([1] if replicas > 1 else [])
    for budget in budgets:
        pod = of_kind(objects, "Deployment")[0]["spec"]["template"]["metadata"]["labels"]
        assert budget["spec"]["selector"]["matchLabels"].items() <= pod.items()


def test_replicas_spread_over_nodes_and_zones_where_there_are_several(render: Render) -> None:
    pod = of_kind(render(), "Deployment")[0]["spec"]["template"]
    constraints = pod["spec"]["topologySpreadConstraints"]
    assert [c["topologyKey"] for c in constraints] == [
        "kubernetes.io/hostname",
        "topology.kubernetes.io/zone",
    ]
    for constraint in constraints:
        assert constraint["whenUnsatisfiable"] == "ScheduleAnyway"
        assert constraint["labelSelector"]["matchLabels"].items() <= pod["metadata"]["labels"].items()


PLACEMENT: dict[str, Object] = {
    "priorityClassName": {"priorityClassName": "system-cluster-critical"},
    "nodeSelector": {"nodeSelector": {"pool": "system"}},
    "tolerations": {"tolerations": [{"key": "dedicated", "operator": "Exists"}]},
    "imagePullSecrets": {"imagePullSecrets": ["registry"]},
}


@pytest.mark.parametrize("given", PLACEMENT.values(), ids=PLACEMENT.keys())
def test_the_operators_pods_are_placed_as_the_values_say(render: Render, given: Object) -> None:
    def of_pod(**values: Any) -> Any:
        (name,) = given
        return of_kind(render(**values), "Deployment")[0]["spec"]["template"]["spec"].get(name)

    (expected,) = given.values()
    assert of_pod() is None
    assert of_pod(**given) == ([{"name": "registry"}] if expected == ["registry"] else expected)


def test_a_change_of_settings_starts_a_new_pod(render: Render) -> None:
    def mark(**given: Any) -> str:
        template = of_kind(render(**given), "Deployment")[0]["spec"]["template"]
        return str(template["metadata"]["annotations"]["finetune.dev/settings"])

    assert mark() == mark()
    assert mark() != mark(env={"NAME": "value"})


READ = {"get", "list", "watch"}
VERBS = {
    "adapterdeployments": READ,
    "finetunejobs": READ,
    "modelservers": READ,
    "adapterdeployments/status": {"update"},
    "finetunejobs/status": {"update"},
    "modelservers/status": {"update"},
    "jobs": READ | {"create", "patch", "delete"},
    "deployments": READ | {"create", "patch"},
    "controllerrevisions": READ | {"create", "delete"},
    "services": READ | {"create", "patch"},
    "configmaps": READ | {"create", "patch"},
    "networkpolicies": READ | {"create", "patch"},
    "poddisruptionbudgets": READ | {"create", "patch"},
    "persistentvolumeclaims": READ | {"create", "delete"},
    "pods": READ | {"patch", "delete"},
    "workloads": READ | {"patch"},
    "events": {"create", "get", "patch"},
}


def test_the_role_holds_exactly_what_the_operator_does(render: Render) -> None:
    rules = operator_role(render())["rules"]
    named = [resource for rule in rules for resource in rule["resources"]]
    assert sorted(named) == sorted(VERBS)
    assert {name: set(rule["verbs"]) for rule in rules for name in rule["resources"]} == VERBS


def test_the_roles_name_exactly_the_resources_that_the_operator_uses(render: Render) -> None:
    objects = render()
    roles = [operator_role(objects), *of_kind(objects, "Role")]
    allowed = {(group, name) for role in roles for group, name, verb in permissions(role) if "/" not in name}
    used = {
        (found.api_version.rpartition("/")[0], found.plural)
        for found in vars(resources).values()
        if isinstance(found, resources.Resource)
    }
    others = {("coordination.k8s.io", "leases"), ("kueue.x-k8s.io", "workloads")}
    assert allowed == used | others


@pytest.mark.parametrize(
    "values",
    [{}, {"crds": {"enabled": False}}, {"watchNamespace": "team-a"}],
    ids=[
        "a release for the cluster",
        "kinds of somebody else's",
        "a release for one namespace with the kinds",
    ],
)
def test_who_may_view_or_edit_a_namespace_may_do_the_same_with_our_kinds(
    render: Render, values: Object
) -> None:
    roles = {role["metadata"]["name"]: role for role in of_kind(render(**values), "ClusterRole")}
    for name, verb in (("view", "list"), ("edit", "create")):
        role = roles[f"finetune-operator-{name}"]
        assert role["metadata"]["labels"][f"rbac.authorization.k8s.io/aggregate-to-{name}"] == "true"
        assert ("finetune.dev", "modelservers", verb) in permissions(role)
    assert ("finetune.dev", "modelservers", "create") not in permissions(roles["finetune-operator-view"])


def test_one_namespace_needs_no_cluster_role(render: Render) -> None:
    objects = render(watchNamespace="team-a", crds={"enabled": False})
    assert not of_kind(objects, "ClusterRole")
    assert not of_kind(objects, "ClusterRoleBinding")
    assert operator_role(objects)["metadata"]["namespace"] == "team-a"
    subject = of_kind(objects, "RoleBinding")[0]["subjects"][0]
    assert subject["namespace"] == "finetune-system"
    arguments = of_kind(objects, "Deployment")[0]["spec"]["template"]["spec"]["containers"][0]["args"]
    assert "--namespace=team-a" in arguments


def test_an_older_kubernetes_is_refused(helm: Callable[..., Any]) -> None:
    done = helm("template", {"images": IMAGES}, "--kube-version", "1.32.0")
    assert "1.33" in done.stderr
