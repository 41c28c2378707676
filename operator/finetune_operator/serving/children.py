"""The objects a ModelServer owns: Deployment, Service, NetworkPolicy and the manifest's ConfigMap."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from finetune_operator.api.modelserver import ModelServer
from finetune_operator.contracts.digests import digest_of
from finetune_operator.contracts.documents import ServerManifest
from finetune_operator.contracts.settings import Settings
from finetune_operator.core.actions import Manifest
from finetune_operator.render.names import KIND_LABEL, OWNER_LABEL, labels, manifest_name, server_name
from finetune_operator.serving.pod import pod_template

INTENT = "finetune.dev/intent"
GATEWAY_PORT = 8000
AGENT_PORT = 8001


def deployment(server: ModelServer, settings: Settings, image: str) -> Manifest:
    """The Deployment; a surge pod lets it change without a moment with fewer ready replicas."""
    selector = _selector(server)
    spec = {
        "replicas": server.spec.replicas,
        "selector": {"matchLabels": selector},
        "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}},
        "progressDeadlineSeconds": 3600,
        "template": pod_template(server, settings, image, {**labels(server), **selector}),
    }
    return _child(server, "apps/v1", "Deployment", server_name(server), {"spec": spec})


def service(server: ModelServer) -> Manifest:
    """The address that applications call; only ready pods answer behind it."""
    port = {"name": "http", "port": GATEWAY_PORT, "targetPort": "http", "protocol": "TCP"}
    spec = {"selector": _selector(server), "ports": [port], "type": "ClusterIP"}
    return _child(server, "v1", "Service", server_name(server), {"spec": spec})


def network_policy(server: ModelServer) -> Manifest:
    """Pods take traffic on the gateway's and the agent's port only (the engine has no port at all)."""
    ports = [{"port": GATEWAY_PORT, "protocol": "TCP"}, {"port": AGENT_PORT, "protocol": "TCP"}]
    spec = {
        "podSelector": {"matchLabels": _selector(server)},
        "policyTypes": ["Ingress"],
        "ingress": [{"ports": ports}],
    }
    return _child(server, "networking.k8s.io/v1", "NetworkPolicy", server_name(server), {"spec": spec})


def manifest_configmap(server: ModelServer, document: ServerManifest) -> Manifest:
    """The server manifest, mounted into every pod."""
    data = {"manifest.json": document.to_json()}
    return _child(server, "v1", "ConfigMap", manifest_name(server), {"data": data})


def intent_of(manifest: Manifest | None) -> str | None:
    """The digest of the intent that was last applied to a child, None while the child is absent."""
    if manifest is None:
        return None
    annotations: Mapping[str, str] = manifest["metadata"].get("annotations") or {}
    return annotations.get(INTENT)


def _child(server: ModelServer, api_version: str, kind: str, name: str, body: dict[str, Any]) -> Manifest:
    metadata: dict[str, Any] = {
        "name": name,
        "namespace": server.metadata.namespace,
        "labels": labels(server),
        "annotations": {INTENT: digest_of(body)},
        "ownerReferences": [server.owner_reference()],
    }
    return {"apiVersion": api_version, "kind": kind, "metadata": metadata, **body}


def _selector(server: ModelServer) -> dict[str, str]:
    return {KIND_LABEL: server.kind_name, OWNER_LABEL: server.metadata.name}
