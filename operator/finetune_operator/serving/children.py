"""The objects a ModelServer owns: Deployment and the ControllerRevision of its pod template, Service,
PodDisruptionBudget, NetworkPolicy and the manifest's ConfigMap.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

from finetune_operator.api.modelserver import ModelServer
from finetune_operator.contracts.digests import digest_of
from finetune_operator.contracts.server_manifest import ManifestKey, ManifestLimits, ServerManifest
from finetune_operator.contracts.settings import Settings
from finetune_operator.core.actions import Manifest
from finetune_operator.core.manifests import integer, items, mapping, text
from finetune_operator.render.engine import START_SECONDS
from finetune_operator.render.names import labels, manifest_name, pod_selector, server_name
from finetune_operator.serving.network import GATEWAY_PORT, egress, ingress

INTENT = "finetune.dev/intent"
SPEC = "finetune.dev/spec"
DOCUMENT = "manifest.json"
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
        "selector": {"matchLabels": pod_selector(server)},
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
    spec = {"selector": pod_selector(server), "ports": [port], "type": "ClusterIP"}
    return _child(server, "v1", "Service", server_name(server), {"spec": spec})


def disruption_budget(server: ModelServer) -> Manifest:
    """A drain takes one replica at a time. It never waits for ever: a server with one replica, or one that
    does not answer, keeps no node.
    """
    spec = {
        "maxUnavailable": 1,
        "unhealthyPodEvictionPolicy": "AlwaysAllow",
        "selector": {"matchLabels": pod_selector(server)},
    }
    return _child(server, "policy/v1", "PodDisruptionBudget", server_name(server), {"spec": spec})


def network_policy(server: ModelServer, settings: Settings) -> Manifest:
    """Whom pods answer, and where they may connect to. The engine's own ports are on loopback."""
    spec = {
        "podSelector": {"matchLabels": pod_selector(server)},
        "policyTypes": ["Ingress", "Egress"],
        "ingress": ingress(settings),
        "egress": egress(server, settings),
    }
    return _child(server, "networking.k8s.io/v1", "NetworkPolicy", server_name(server), {"spec": spec})


def manifest_configmap(server: ModelServer, document: ServerManifest) -> Manifest:
    """The server manifest with what the spec says of requests, mounted into every pod."""
    spec = server.spec
    keys = spec.api_keys.allowed_aliases if spec.api_keys is not None else ()
    whole = document.model_copy(
        update={
            "drain_seconds": spec.drain_seconds,
            "limits": ManifestLimits.model_validate(spec.limits.to_dict()),
            "keys": tuple(ManifestKey(name=key.name, aliases=key.aliases) for key in keys),
        }
    )
    return _child(server, "v1", "ConfigMap", manifest_name(server), {"data": {DOCUMENT: whole.to_json()}})


def template_revision(server: ModelServer, name: str, template: Manifest, number: int) -> Manifest:
    """The pod template as Kubernetes' own controllers keep theirs; the API server lets nobody change it."""
    body = {"data": {"spec": {"template": template}}, "revision": number}
    return _child(server, "apps/v1", "ControllerRevision", name, body)


def intent_of(manifest: Manifest | None) -> str | None:
    """The digest of the intent that was last applied to a child, None while the child is absent."""
    return text(manifest, "metadata", "annotations", INTENT) or None


def _start_seconds(template: Manifest) -> int:
    """How long the engine may take to load its model, by its probes."""
    containers = (*items(template, "spec", "initContainers"), *items(template, "spec", "containers"))
    return max((max(_by_liveness(one), _by_startup(one)) for one in containers), default=0)


def _by_liveness(container: Manifest) -> int:
    command = mapping(container, "livenessProbe", "exec").get("command")
    given = dict(pairwise(map(str, command))) if isinstance(command, (list, tuple)) else {}
    told = given.get(START_SECONDS, "")
    return int(told) if told.isdecimal() else 0


def _by_startup(container: Manifest) -> int:
    """Templates that an earlier operator rendered have a startup probe."""
    probe = mapping(container, "startupProbe")
    return (integer(probe, "periodSeconds") or 10) * (integer(probe, "failureThreshold") or 3) if probe else 0


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
