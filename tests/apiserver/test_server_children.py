"""The children of a ModelServer, applied to a real API server that enforces Pod Security restricted."""

from __future__ import annotations

from datetime import UTC, datetime

import httpx
import pytest
import yaml

from finetune_operator.api.modelserver import ModelServer
from finetune_operator.core.actions import Apply, Create, Manifest
from finetune_operator.serving.observed import Observed
from finetune_operator.serving.plan import plan
from tests.apiserver.client import GROUP, ROOT, Object
from tests.apiserver.test_stage_children import NETWORK
from tests.unit.server.builders import KINDS, World, adapter, serve, version
from tests.unit.stages.rendered import with_settings

pytestmark = pytest.mark.apiserver
NAMESPACE = "servers"
PATHS = {
    "Deployment": f"/apis/apps/v1/namespaces/{NAMESPACE}/deployments",
    "ControllerRevision": f"/apis/apps/v1/namespaces/{NAMESPACE}/controllerrevisions",
    "ConfigMap": f"/api/v1/namespaces/{NAMESPACE}/configmaps",
    "Service": f"/api/v1/namespaces/{NAMESPACE}/services",
    "NetworkPolicy": f"/apis/networking.k8s.io/v1/namespaces/{NAMESPACE}/networkpolicies",
    "PodDisruptionBudget": f"/apis/policy/v1/namespaces/{NAMESPACE}/poddisruptionbudgets",
}
SERVERS = [
    pytest.param({}, id="a small server"),
    pytest.param(
        {"baseModel": {"source": "pvc://team.models/base"}, "artifactStore": "pvc://team.adapters"},
        id="claims with dots in their names",
    ),
    pytest.param(
        {
            "baseModel": {
                "source": "hf://org/name",
                "revision": "a" * 40,
                "credentialsSecretRef": {"name": "hub"},
            },
            "resources": {"gpus": 2, "gpuType": "h200", "ephemeralStorage": "200Gi"},
            "apiKeys": {"secretRef": {"name": "keys"}},
            "podTemplate": {"labels": {"team": "reviews"}, "imagePullSecrets": [{"name": "registry"}]},
        },
        id="a base from the Hub on GPUs",
    ),
    pytest.param(
        {
            "baseModel": {"source": "hf://org/name", "revision": "a" * 40},
            "cache": {"claimName": "adapters"},
            "engineProfile": "tools",
            "maxLoras": 0,
        },
        id="a base alone, kept on the claim of the adapters",
    ),
]


@pytest.fixture(scope="module")
def server(http: httpx.Client) -> httpx.Client:
    """The server with a namespace as users should have it."""
    labels = {
        "pod-security.kubernetes.io/enforce": "restricted",
        "pod-security.kubernetes.io/warn": "restricted",
    }
    namespace = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE, "labels": labels}}
    assert http.post("/api/v1/namespaces", json=namespace).status_code == 201
    return http


AIR_GAPPED = {"HF_HUB_OFFLINE": "1", "HF_ENDPOINT": "http://hub.local"}
PROFILES = {"tools": {"args": ["--enable-auto-tool-choice"], "env": {"VLLM_LOGGING_LEVEL": "DEBUG"}}}
WAYS_OUT = [{"cidr": "10.0.0.0/8", "ports": [443]}, {"namespace": "tracing"}]
SETTINGS = with_settings(
    gpuTypes={"h200": NETWORK},
    env=AIR_GAPPED,
    hubEndpoint="http://hub.local",
    engineProfiles=PROFILES,
    operatorNamespace="finetune-system",
    servingNetwork={"egress": WAYS_OUT},
)
MERGE = {"Content-Type": "application/merge-patch+json"}


class Server:
    """A ModelServer whose children are on the API server."""

    def __init__(self, http: httpx.Client, spec: Object, name: str):
        self.http = http
        body = {"baseModel": {"source": "pvc://models/small"}, "artifactStore": "pvc://adapters", **spec}
        self.object: Object = {
            "metadata": {"name": name, "namespace": NAMESPACE, "uid": f"uid-{name}", "generation": 1},
            "spec": body,
        }
        self.live: dict[str, Object] = {}

    def writes(self) -> list[Manifest]:
        """What one reconcile applies or creates; its status is taken over."""
        children = {field: self.live.get(kind) for kind, field in KINDS.items()}
        kept = self.live.get("ControllerRevision")
        observed = Observed(ModelServer.model_validate(self.object), **children, revision=kept)
        decided = plan(observed, SETTINGS, datetime(2026, 1, 1, tzinfo=UTC))
        self.object["status"] = decided.status
        return [action.manifest for action in decided.actions if isinstance(action, Apply | Create)]

    def apply(self, child: Manifest, **parameters: str) -> httpx.Response:
        """A strict server-side apply."""
        given = {"fieldManager": "finetune-operator", "force": "true", "fieldValidation": "Strict"}
        response = self.http.patch(
            _path(child),
            params={**given, **parameters},
            json=child,
            headers={"Content-Type": "application/apply-patch+yaml"},
        )
        assert response.status_code in (200, 201), response.text
        if not parameters:
            self.live[child["kind"]] = response.json()
        return response

    def settled(self) -> Server:
        """With all children applied."""
        for child in self.writes():
            self.apply(child)
        assert set(self.live) == set(PATHS)
        return self


def _path(child: Manifest) -> str:
    return f"{PATHS[child['kind']]}/{child['metadata']['name']}"


@pytest.mark.parametrize("spec", SERVERS)
def test_every_child_is_applied_without_a_warning(server: httpx.Client, spec: Object) -> None:
    mine = Server(server, spec, "dry")
    made = mine.writes()
    assert {child["kind"] for child in made} == set(PATHS)
    for child in made:
        assert "Warning" not in mine.apply(child, dryRun="All").headers


@pytest.mark.parametrize("spec", SERVERS)
def test_what_the_api_server_stores_is_written_once(server: httpx.Client, spec: Object) -> None:
    mine = Server(server, spec, f"rest-{len(str(spec))}").settled()
    assert mine.writes() == []
    mine.object["status"]["template"] = None
    kept = mine.live.pop("ControllerRevision")
    (again,) = mine.writes()
    assert again["metadata"]["name"] == kept["metadata"]["name"], "the Deployment of another operator stays"


EDITS = [
    pytest.param("Deployment", {"spec": {"replicas": 0}}, id="kubectl scale"),
    pytest.param("Deployment", {"spec": {"paused": True}}, id="kubectl rollout pause"),
    pytest.param("Deployment", {"spec": {"strategy": {"rollingUpdate": {"maxSurge": 2}}}}, id="strategy"),
    pytest.param("Service", {"spec": {"selector": {"app": "other"}}}, id="a narrower selector"),
    pytest.param("Service", {"spec": {"ports": [{"port": 8000, "targetPort": 1}]}}, id="another port"),
    pytest.param("Service", {"spec": {"type": "NodePort"}}, id="open to the outside"),
    pytest.param("NetworkPolicy", {"spec": {"ingress": [{}]}}, id="open to everybody"),
    pytest.param("NetworkPolicy", {"spec": {"podSelector": None}}, id="for every pod"),
    pytest.param("NetworkPolicy", {"spec": {"egress": [{}]}}, id="a way out to everywhere"),
    pytest.param("PodDisruptionBudget", {"spec": {"maxUnavailable": 0}}, id="no drain"),
    pytest.param("ConfigMap", {"data": {"manifest.json": "{}"}}, id="the server manifest"),
    pytest.param("ConfigMap", {"metadata": {"labels": {"finetune.dev/uid": "x"}}}, id="a label of ours"),
]


@pytest.mark.parametrize(("kind", "patch"), EDITS)
def test_an_edit_by_hand_is_put_back_for_good(server: httpx.Client, kind: str, patch: Object) -> None:
    mine = Server(server, {}, "edited").settled()
    _edited_and_put_back(mine, kind, patch)


@pytest.mark.parametrize("container", [0, 1])
def test_an_image_that_was_set_by_hand_is_put_back(server: httpx.Client, container: int) -> None:
    mine = Server(server, {}, "images").settled()
    spec = mine.live["Deployment"]["spec"]["template"]["spec"]
    changed = [
        {**one, "image": "example.com/other:1"} for one in (*spec["initContainers"], *spec["containers"])
    ]
    where = "initContainers" if container == 0 else "containers"
    patch = {"spec": {"template": {"spec": {where: [changed[container]]}}}}
    _edited_and_put_back(mine, "Deployment", patch)
    assert mine.object["status"]["image"] == SETTINGS.images.serving


def _edited_and_put_back(mine: Server, kind: str, patch: Object) -> None:
    response = mine.http.patch(_path(mine.live[kind]), json=patch, headers=MERGE)
    assert response.status_code == 200, response.text
    mine.live[kind] = response.json()
    again = mine.writes()
    assert [child["kind"] for child in again] == [kind]
    mine.apply(again[0])
    assert mine.writes() == []


def test_the_status_is_stored_whole(server: httpx.Client) -> None:
    world = World({"upgrade": {"revision": "1"}}, deployments=(adapter("reviews"), adapter("smollm2")))
    serve(world, version("reviews"))
    path = f"{GROUP}/namespaces/{NAMESPACE}/modelservers"
    spec = world.server.spec.model_dump(mode="json", by_alias=True, exclude_unset=True)
    body = {
        "apiVersion": "finetune.dev/v1alpha1",
        "kind": "ModelServer",
        "metadata": {"name": "told"},
        "spec": spec,
    }
    created = server.post(path, params={"fieldValidation": "Strict"}, json=body)
    assert created.status_code == 201, created.text
    answer = server.put(f"{path}/told/status", json={**created.json(), "status": world.status})
    assert answer.status_code == 200, answer.text
    assert answer.json()["status"] == world.status


def test_the_autoscaler_of_the_example_is_accepted(server: httpx.Client) -> None:
    autoscaler = yaml.safe_load((ROOT / "examples" / "autoscaling" / "hpa.yaml").read_text())
    path = f"/apis/autoscaling/v2/namespaces/{NAMESPACE}/horizontalpodautoscalers"
    strict = {"fieldValidation": "Strict", "dryRun": "All"}
    made = server.post(path, params=strict, json=autoscaler)
    assert made.status_code == 201, made.text
    assert autoscaler["spec"]["scaleTargetRef"]["kind"] == "ModelServer"
