"""Releases against a real API server: a second one, upgrade and rollback of the kinds, and who may do what."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import yaml

from dev.chart import CHART
from dev.cluster import binaries
from tests.chart.releases import KINDS, Object, Programs

pytestmark = pytest.mark.apiserver

SAMPLE = CHART.parents[1] / "crds" / "samples" / "finetunejob-minimal.yaml"
PROMETHEUS_OPERATOR = "github.com/prometheus-operator/prometheus-operator"


@pytest.fixture
def older(tmp_path: Path) -> Path:
    """The chart as it was before FineTuneJobs had `spec.savings`."""
    chart = tmp_path / "older"
    shutil.copytree(CHART, chart)
    path = chart / "files" / "crds" / "finetunejobs.yaml"
    kind = yaml.safe_load(path.read_text())
    for version in kind["spec"]["versions"]:
        spec = version["schema"]["openAPIV3Schema"]["properties"]["spec"]
        del spec["properties"]["savings"]
        spec["x-kubernetes-validations"] = [
            rule for rule in spec.get("x-kubernetes-validations", []) if "savings" not in rule["rule"]
        ]
    path.write_text(yaml.safe_dump(kind, sort_keys=False))
    return chart


def knows_savings(programs: Programs) -> bool:
    kind = programs.get("crd", "finetunejobs.finetune.dev")
    schema = kind["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
    return "savings" in schema["properties"]["spec"]["properties"]


def run_in(programs: Programs, namespace: str) -> str:
    """Create the sample run; its uid."""
    programs.kubectl("wait", "--for=condition=Established", "--timeout=20s", f"crd/{KINDS[0]}")
    programs.kubectl("apply", "-n", namespace, "-f", str(SAMPLE))
    return uid_of_run(programs, namespace)


def uid_of_run(programs: Programs, namespace: str) -> str:
    (run,) = programs.get("finetunejobs", "-n", namespace)["items"]
    return str(run["metadata"]["uid"])


def test_an_upgrade_changes_the_kinds_and_a_rollback_changes_them_back(
    programs: Programs, older: Path
) -> None:
    assert programs.install("first", "one", chart=older, hangDeadlineSeconds=600).returncode == 0
    uid = run_in(programs, "one")
    assert not knows_savings(programs)

    done = programs.install("first", "one", hangDeadlineSeconds=900)
    assert done.returncode == 0, done.stderr
    assert knows_savings(programs)
    assert uid_of_run(programs, "one") == uid

    done = programs.helm("rollback", "first", "1", "--namespace", "one")
    assert done.returncode == 0, done.stderr
    assert not knows_savings(programs)
    assert uid_of_run(programs, "one") == uid
    settings = programs.get("configmap", "first-finetune-operator-settings", "-n", "one")
    assert json.loads(settings["data"]["settings.json"])["hangDeadlineSeconds"] == 600


def test_a_second_release_leaves_the_kinds_to_the_first_and_has_a_namespace_of_its_own(
    programs: Programs,
) -> None:
    assert programs.install("first", "one", watchNamespace="one").returncode == 0
    refused = programs.install("second", "two", watchNamespace="two")
    assert refused.returncode != 0
    assert "invalid ownership metadata" in refused.stderr

    done = programs.install("second", "two", crds={"enabled": False}, watchNamespace="two")
    assert done.returncode == 0, done.stderr
    accounts = {
        name: f"{name}:{release}-finetune-operator" for name, release in (("one", "first"), ("two", "second"))
    }
    for name, other in (("one", "two"), ("two", "one")):
        assert programs.may("create", "jobs.batch", name, accounts[name])
        assert not programs.may("create", "jobs.batch", other, accounts[name])
        assert not programs.may("list", "finetunejobs.finetune.dev", other, accounts[name])

    assert programs.helm("uninstall", "second", "--namespace", "two").returncode == 0
    assert len(programs.get("crd", *KINDS)["items"]) == 3


def test_uninstalling_keeps_runs_and_another_release_takes_them_over_when_told(programs: Programs) -> None:
    assert programs.install("first", "one").returncode == 0
    uid = run_in(programs, "one")
    assert programs.helm("uninstall", "first", "--namespace", "one").returncode == 0
    assert uid_of_run(programs, "one") == uid

    assert "invalid ownership metadata" in programs.install("other", "one").stderr
    done = programs.install("other", "one", "--take-ownership")
    assert done.returncode == 0, done.stderr
    assert uid_of_run(programs, "one") == uid


def test_the_prometheus_operators_own_kinds_accept_the_monitors_and_the_alerts(programs: Programs) -> None:
    folder = binaries.module_folder(PROMETHEUS_OPERATOR, "v0.85.0") / "example" / "prometheus-operator-crd"
    plurals = ("servicemonitors", "podmonitors", "prometheusrules")
    names = [f"{plural}.monitoring.coreos.com" for plural in plurals]
    for plural in plurals:
        programs.kubectl("create", "-f", str(folder / f"monitoring.coreos.com_{plural}.yaml"))
    programs.kubectl("wait", "--for=condition=Established", "--timeout=20s", "crd", *names)
    done = programs.install("first", "one")
    assert done.returncode == 0, done.stderr
    manifest = programs.helm("get", "manifest", "first", "--namespace", "one").stdout
    rendered = [item for item in yaml.safe_load_all(manifest) if item["apiVersion"].startswith("monitoring.")]
    assert len(rendered) == 3
    for item in rendered:  # the server keeps every field, so it knows them all
        stored = programs.get(item["kind"], item["metadata"]["name"], "-n", "one")
        assert item["spec"].items() <= stored["spec"].items()
    programs.kubectl("delete", "crd", *names)


def test_the_operator_may_elect_its_leader_and_reads_no_secrets(programs: Programs) -> None:
    assert programs.install("first", "one").returncode == 0
    account = "one:first-finetune-operator"
    assert programs.may("create", "leases.coordination.k8s.io", "one", account)
    assert programs.may("update", "leases.coordination.k8s.io/first-finetune-operator", "one", account)
    assert not programs.may("update", "leases.coordination.k8s.io/somebody-else", "one", account)
    assert not programs.may("create", "leases.coordination.k8s.io", "default", account)
    assert not programs.may("get", "secrets", "one", account)
    assert not programs.may("create", "pods/exec", "one", account)
    assert programs.may("list", "configmaps", "anywhere", account)


NOTES: dict[str, tuple[Object, str, bool]] = {
    "what uninstalling keeps": ({}, "Uninstalling keeps the three kinds", True),
    "nothing of that where the kinds are somebody else's": (
        {"crds": {"enabled": False}},
        "Uninstalling keeps",
        False,
    ),
    "a namespace for each of several releases": (
        {"crds": {"enabled": False}},
        "watchNamespace of its own",
        True,
    ),
    "nothing of that where it is given": (
        {"crds": {"enabled": False}, "watchNamespace": "one"},
        "watchNamespace of its own",
        False,
    ),
    "the alerts where no Prometheus operator loads them": ({}, "files/alerts.yaml", True),
    "GPU types that nobody configured": ({}, "No gpuTypes", True),
    "nothing of that where they are": ({"gpuTypes": {"h200": {}}}, "No gpuTypes", False),
}


@pytest.mark.parametrize(("given", "sentence", "there"), NOTES.values(), ids=NOTES.keys())
def test_the_notes_say(server: Programs, given: Object, sentence: str, there: bool) -> None:
    done = server.install("first", "default", "--dry-run=server", **given)
    assert done.returncode == 0, done.stderr
    assert (sentence in done.stdout.rpartition("\nNOTES:\n")[2]) is there
