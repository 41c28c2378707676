"""The children of a ModelServer, applied to a real API server that enforces Pod Security restricted."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import httpx
import pytest

from finetune_operator.api.modelserver import ModelServer
from finetune_operator.core.actions import Apply, Manifest
from finetune_operator.serving.observed import Observed
from finetune_operator.serving.plan import plan
from tests.apiserver.client import Object
from tests.apiserver.test_stage_children import NETWORK
from tests.unit.stages.rendered import with_settings

pytestmark = pytest.mark.apiserver
NAMESPACE = "servers"
PATHS = {
    "Deployment": f"/apis/apps/v1/namespaces/{NAMESPACE}/deployments",
    "ConfigMap": f"/api/v1/namespaces/{NAMESPACE}/configmaps",
    "Service": f"/api/v1/namespaces/{NAMESPACE}/services",
    "NetworkPolicy": f"/apis/networking.k8s.io/v1/namespaces/{NAMESPACE}/networkpolicies",
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


def children(spec: Object) -> list[Manifest]:
    body = {"baseModel": {"source": "pvc://models/small"}, "artifactStore": "pvc://adapters", **spec}
    metadata = {"name": "shared", "namespace": NAMESPACE, "uid": "u-1"}
    mine = ModelServer.model_validate({"metadata": metadata, "spec": body})
    air_gapped = {"HF_HUB_OFFLINE": "1", "HF_ENDPOINT": "http://hub.local"}
    settings = with_settings(gpuTypes={"h200": NETWORK}, env=air_gapped, hubEndpoint="http://hub.local")
    decided = plan(Observed(mine, None, None), settings, datetime(2026, 1, 1, tzinfo=UTC))
    return [action.manifest for action in decided.actions if isinstance(action, Apply)]


@pytest.mark.parametrize("spec", SERVERS)
def test_every_child_is_applied_without_a_warning(server: httpx.Client, spec: Object) -> None:
    parameters: dict[str, Any] = {"dryRun": "All", "fieldManager": "finetune-operator", "force": "true"}
    made = children(spec)
    assert {child["kind"] for child in made} == set(PATHS)
    for child in made:
        response = server.patch(
            f"{PATHS[child['kind']]}/{child['metadata']['name']}",
            params={**parameters, "fieldValidation": "Strict"},
            json=child,
            headers={"Content-Type": "application/apply-patch+yaml"},
        )
        assert response.status_code in (200, 201), response.text
        assert "Warning" not in response.headers
