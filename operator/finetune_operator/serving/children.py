"""The objects a ModelServer owns: Deployment, Service, NetworkPolicy and the manifest's ConfigMap."""

from __future__ import annotations

from typing import Any

from finetune_operator.api.modelserver import ModelServer
from finetune_operator.contracts.digests import digest_of
from finetune_operator.contracts.documents import ServerManifest
from finetune_operator.core.actions import Manifest
from finetune_operator.core.manifests import integer, items, mapping, text
from finetune_operator.render.names import KIND_LABEL, OWNER_LABEL, labels, manifest_name, server_name

INTENT = "finetune.dev/intent"
SPEC = "finetune.dev/spec"
DOCUMENT = "manifest.json"
GATEWAY_PORT = 8000
AGENT_PORT = 8001
FETCH_SECONDS = 3600  # for pulling images and fetching the base, before the engine starts
_ROLLING = {
    "Surge": {"maxSurge": 1, "maxUnavailable": 0},
    "Recreate": {"maxSurge": 0, "maxUnavailable": 1},
}


def deployment(server: ModelServer, template: Manifest, spec_digest: str) -> Manifest:
    """The Deployment of a template, which says from which spec it was rendered.

    By Surge it changes without a moment with fewer ready replicas.
    """
    spec = {
        "replicas": server.spec.replicas,
        "paused": False,
        "selector": {"matchLabels": selector(server)},
        "strategy": {"type": "RollingUpdate", "rollingUpdate": dict(_ROLLING[server.spec.upgrade.strategy])},
        "progressDeadlineSeconds": FETCH_SECONDS + _start_seconds(template),
        "template": template,
    }
    child = _child(server, "apps/v1", "Deployment", server_name(server), {"spec": spec})
    child["metadata"]["annotations"][SPEC] = spec_digest
    return child


def service(server: ModelServer) -> Manifest:
    """The address that applications call; only ready pods answer behind it."""
    port = {"name": "http", "port": GATEWAY_PORT, "targetPort": "http", "protocol": "TCP"}
    spec = {"selector": selector(server), "ports": [port], "type": "ClusterIP"}
    return _child(server, "v1", "Service", server_name(server), {"spec": spec})


def network_policy(server: ModelServer) -> Manifest:
    """Pods take traffic on the gateway's and the agent's port only (the engine has no port at all)."""
    ports = [{"port": GATEWAY_PORT, "protocol": "TCP"}, {"port": AGENT_PORT, "protocol": "TCP"}]
    spec = {
        "podSelector": {"matchLabels": selector(server)},
        "policyTypes": ["Ingress"],
        "ingress": [{"ports": ports}],
    }
    return _child(server, "networking.k8s.io/v1", "NetworkPolicy", server_name(server), {"spec": spec})


def manifest_configmap(server: ModelServer, document: ServerManifest) -> Manifest:
    """The server manifest, mounted into every pod."""
    data = {DOCUMENT: document.to_json()}
    return _child(server, "v1", "ConfigMap", manifest_name(server), {"data": data})


def intent_of(manifest: Manifest | None) -> str | None:
    """The digest of the intent that was last applied to a child, None while the child is absent."""
    return text(manifest, "metadata", "annotations", INTENT) or None


def selector(server: ModelServer) -> dict[str, str]:
    """The labels by which Deployment, Service and NetworkPolicy find the pods."""
    return {KIND_LABEL: server.kind_name, OWNER_LABEL: server.metadata.name}


def _start_seconds(template: Manifest) -> int:
    """How long the slowest container may take to start, by its startup probe."""
    containers = (*items(template, "spec", "initContainers"), *items(template, "spec", "containers"))
    probes = [mapping(container, "startupProbe") for container in containers]
    return max(
        ((integer(p, "periodSeconds") or 10) * (integer(p, "failureThreshold") or 3) for p in probes if p),
        default=0,
    )


def _child(
    server: ModelServer, api_version: str, kind: str, name: str, body: dict[str, Any]
) -> dict[str, Any]:
    metadata: dict[str, Any] = {
        "name": name,
        "namespace": server.metadata.namespace,
        "labels": labels(server),
        "annotations": {INTENT: digest_of(body)},
        "ownerReferences": [server.owner_reference()],
    }
    return {"apiVersion": api_version, "kind": kind, "metadata": metadata, **body}
