"""What the API server does with the three kinds: samples, columns, names, subresources."""

from __future__ import annotations

from typing import Any

import pytest
import yaml

from finetune_operator.api.adapterdeployment import AdapterDeployment
from finetune_operator.api.finetunejob import FineTuneJob
from finetune_operator.api.modelserver import ModelServer
from finetune_operator.api.objects import ApiObject
from tests.apiserver.client import GROUP, MERGE, ROOT, TABLE, Api, changed, sample

pytestmark = pytest.mark.apiserver

SAMPLES = sorted(path.stem for path in (ROOT / "crds" / "samples").glob("*.yaml"))
MODELS: dict[str, type[ApiObject]] = {
    "FineTuneJob": FineTuneJob,
    "ModelServer": ModelServer,
    "AdapterDeployment": AdapterDeployment,
}
COLUMNS = {
    "FineTuneJob": ["Name", "Stage", "Progress%", "ETA", "Base", "Tuned", "Succeeded", "Age"],
    "ModelServer": ["Name", "Ready", "Replicas", "Adapters", "Endpoint", "Age"],
    "AdapterDeployment": [
        "Name",
        "Alias",
        "Server",
        "Version",
        "Step",
        "Weight",
        "Verdict",
        "Evaluation",
        "Ready",
        "Reason",
        "Age",
    ],
}
CONDITION = {
    "type": "Succeeded",
    "status": "Unknown",
    "reason": "Training",
    "message": "Step 12 of 74.",
    "lastTransitionTime": "2026-01-31T12:00:00Z",
}


@pytest.mark.parametrize("name", SAMPLES)
def test_every_sample_is_accepted_with_strict_validation(api: Api, name: str) -> None:
    response = api.check(sample(name))
    assert response.status_code == 201, response.text


def _examples() -> list[dict[str, Any]]:
    files = sorted((ROOT / "examples").rglob("*.yaml"))
    bodies = [body for file in files for body in yaml.safe_load_all(file.read_text())]
    return [body for body in bodies if body and body.get("apiVersion") == "finetune.dev/v1alpha1"]


@pytest.mark.parametrize("body", _examples(), ids=lambda body: f"{body['kind']} {body['metadata']['name']}")
def test_every_example_is_accepted_with_strict_validation(api: Api, body: dict[str, Any]) -> None:
    metadata = {key: value for key, value in body["metadata"].items() if key != "namespace"}
    response = api.check({**body, "metadata": metadata})
    assert response.status_code == 201, response.text


@pytest.mark.parametrize("name", SAMPLES)
def test_the_typed_model_reads_what_the_server_stored(api: Api, name: str) -> None:
    body = api.check(sample(name)).json()
    read = MODELS[body["kind"]].model_validate(body)
    assert (read.metadata.name, read.metadata.generation) == (body["metadata"]["name"], 1)


@pytest.mark.parametrize("kind", COLUMNS)
def test_kubectl_get_shows_the_columns(api: Api, kind: str) -> None:
    table = api.http.get(api.path(kind), headers={"Accept": TABLE}).json()
    shown = [column["name"] for column in table["columnDefinitions"] if column["priority"] == 0]
    assert shown == COLUMNS[kind]


def test_short_names_and_the_category_are_known(api: Api) -> None:
    resources = {r["name"]: r for r in api.http.get(GROUP).json()["resources"]}
    names = {plural: resources[plural]["shortNames"] for plural in resources if "/" not in plural}
    assert names == {"finetunejobs": ["ftj"], "modelservers": ["msv"], "adapterdeployments": ["adep"]}
    assert all(resources[plural]["categories"] == ["finetune"] for plural in names)


def test_nothing_but_replicas_is_written_into_a_spec(api: Api, stored: dict[str, Any]) -> None:
    for name, body in stored.items():
        assert body["spec"] == {**sample(name)["spec"], **_replicas(body)}


def _replicas(body: dict[str, Any]) -> dict[str, Any]:
    return {"replicas": body["spec"]["replicas"]} if body["kind"] == "ModelServer" else {}


def test_a_status_is_shown_in_the_columns(api: Api) -> None:
    name = _create(api, "finetunejob-minimal", "with-status")
    status = {
        "stage": "Training",
        "progress": {"percent": 16, "eta": "3m"},
        "scores": {"base": {"score": "0.02"}},
        "plan": {"fits": True, "peakGiB": "61.20", "breakdown": {"weights": "15.00"}},
        "cost": {"spent": "1.25", "currency": "USD"},
        "conditions": [CONDITION],
    }
    response = _patch(api, "FineTuneJob", name, {"status": status}, "status")
    assert response.status_code == 200, response.text
    table = api.http.get(api.path("FineTuneJob", name), headers={"Accept": TABLE}).json()
    row = table["rows"][0]["cells"]
    assert row[:7] == [name, "Training", 16, "3m", "0.02", None, "Training"]
    shown = dict(zip((c["name"] for c in table["columnDefinitions"]), row, strict=True))
    assert shown["Cost"] == "1.25"
    stored = api.http.get(api.path("FineTuneJob", name)).json()["status"]
    assert (stored["plan"], stored["cost"]) == (status["plan"], status["cost"])


def test_a_server_shows_how_many_adapters_it_serves(api: Api) -> None:
    name = _create(api, "modelserver-minimal", "with-adapters")
    adapters = [{"alias": a, "deployment": a, "state": "Serving"} for a in ("reviews", "mails")]
    status = {"readyReplicas": 2, "adapters": adapters, "adaptersServing": "2/2"}
    assert _patch(api, "ModelServer", name, {"status": status}, "status").status_code == 200
    table = api.http.get(api.path("ModelServer", name), headers={"Accept": TABLE}).json()
    assert table["rows"][0]["cells"][2:4] == [2, "2/2"]


def test_the_main_resource_leaves_the_status_alone(api: Api) -> None:
    name = _create(api, "finetunejob-minimal", "main-resource")
    response = _patch(api, "FineTuneJob", name, {"status": {"stage": "Forged"}})
    assert response.status_code == 200
    assert "status" not in response.json()


def test_the_status_subresource_leaves_the_spec_alone(api: Api) -> None:
    name = _create(api, "finetunejob-minimal", "sub-resource")
    body = {"spec": {"suspend": True}, "status": {"stage": "Preparing"}}
    stored = _patch(api, "FineTuneJob", name, body, "status").json()
    assert "suspend" not in stored["spec"]
    assert stored["metadata"]["generation"] == 1


@pytest.mark.parametrize(
    ("status", "says"),
    [
        ({"conditions": [CONDITION, CONDITION]}, "Duplicate value"),
        (
            {"conditions": [{"type": "Ready", "status": "Maybe", "reason": "X"}]},
            "status.conditions[0].status",
        ),
        ({"progress": {"percent": 101}}, "status.progress.percent"),
        ({"stage": "x" * 65}, "status.stage"),
    ],
    ids=["a condition twice", "a third truth", "more than everything", "a long stage"],
)
def test_a_wrong_status_is_refused(api: Api, status: dict[str, Any], says: str) -> None:
    name = _create(api, "finetunejob-minimal", None)
    response = _patch(api, "FineTuneJob", name, {"status": status}, "status")
    assert response.status_code == 422, response.text
    assert says in response.json()["message"]


def test_a_server_scales_like_a_deployment(api: Api) -> None:
    name = _create(api, "modelserver-minimal", "scaled")
    status = {"replicas": 1, "selector": "finetune.dev/owner=scaled"}
    assert _patch(api, "ModelServer", name, {"status": status}, "status").status_code == 200
    scale = _patch(api, "ModelServer", name, {"spec": {"replicas": 5}}, "scale").json()
    assert (scale["spec"]["replicas"], scale["status"]) == (5, status)
    assert api.http.get(api.path("ModelServer", name)).json()["spec"]["replicas"] == 5


def test_a_server_scales_within_its_bounds(api: Api) -> None:
    name = _create(api, "modelserver-minimal", "too-large")
    response = _patch(api, "ModelServer", name, {"spec": {"replicas": 65}}, "scale")
    assert response.status_code == 422, response.text


def test_kubectl_explain_has_a_description_for_every_field(api: Api) -> None:
    document = api.http.get("/openapi/v3/apis/finetune.dev/v1alpha1").json()
    for kind in COLUMNS:
        schema = document["components"]["schemas"][f"dev.finetune.v1alpha1.{kind}"]
        parts = {name: schema["properties"][name] for name in ("spec", "status")}
        assert _silent(parts, kind) == []


def _silent(fields: dict[str, Any], path: str) -> list[str]:
    """The paths of fields without a description."""
    found = [f"{path}.{name}" for name, field in fields.items() if not field.get("description")]
    for name, field in fields.items():
        inner = [field, field.get("items") or {}, field.get("additionalProperties") or {}]
        for part in inner:
            found += _silent(part.get("properties", {}), f"{path}.{name}")
    return found


def _create(api: Api, name: str, as_name: str | None) -> str:
    body = sample(name)
    metadata = {"name": as_name} if as_name else {"generateName": "some-"}
    created: str = api.create(changed(body, "metadata", metadata))["metadata"]["name"]
    return created


def _patch(api: Api, kind: str, name: str, body: dict[str, Any], subresource: str = "") -> Any:
    return api.http.patch(api.path(kind, name, subresource), json=body, headers={"Content-Type": MERGE})
