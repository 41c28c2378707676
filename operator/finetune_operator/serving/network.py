"""The ports of a serving pod, who may call them, and where the pod may connect to."""

from __future__ import annotations

from typing import Any
from urllib.parse import urlsplit

from finetune_operator.api.modelserver import ModelServer
from finetune_operator.contracts.settings import EgressRule, Settings
from finetune_operator.core.sources import parse_source
from finetune_operator.render.names import pod_selector

GATEWAY_PORT = 8000
AGENT_PORT = 8001
_DNS_PORTS = (53, 5353)  # policies see the port of the server's pod, which is 5353 on OpenShift
_HTTPS = 443
# The internet: no addresses of clusters, of their clouds' metadata services or of other private networks.
_PUBLIC = (
    {
        "cidr": "0.0.0.0/0",
        "except": ["10.0.0.0/8", "100.64.0.0/10", "169.254.0.0/16", "172.16.0.0/12", "192.168.0.0/16"],
    },
    {"cidr": "::/0", "except": ["fc00::/7", "fe80::/10"]},
)

Rule = dict[str, Any]


def ingress(settings: Settings) -> list[Rule]:
    """Everybody may call the gateway; the agent only the operator and Prometheus, where it is known where
    the operator runs.
    """
    if settings.operator_namespace is None:
        return [{"ports": _tcp(GATEWAY_PORT, AGENT_PORT)}]
    readers = (settings.operator_namespace, *settings.serving_network.prometheus_namespaces)
    return [
        {"ports": _tcp(GATEWAY_PORT)},
        {"ports": _tcp(AGENT_PORT), "from": [_pods_of(namespace) for namespace in readers]},
    ]


def egress(server: ModelServer, settings: Settings) -> list[Rule]:
    """DNS, the server's other pods, where its base is fetched from, and what the administrator names."""
    dns = [{"port": port, "protocol": protocol} for port in _DNS_PORTS for protocol in ("UDP", "TCP")]
    peers = {"podSelector": {"matchLabels": pod_selector(server)}}
    return [
        {"ports": dns},
        {"ports": _tcp(GATEWAY_PORT), "to": [peers]},
        *_store(server, settings),
        *map(_named, settings.serving_network.egress),
    ]


def _store(server: ModelServer, settings: Settings) -> list[Rule]:
    """The Hub and the clouds' stores are all over the internet; one of one's own may be in the cluster."""
    scheme = parse_source(server.spec.base_model.source).scheme
    if scheme == "pvc":
        return []
    own = {"hf": settings.hub_endpoint, "s3": settings.s3.endpoint}.get(scheme)
    if own is None:
        return [{"ports": _tcp(_HTTPS), "to": [{"ipBlock": block} for block in _PUBLIC]}]
    address = urlsplit(own)
    return [{"ports": _tcp(address.port or (_HTTPS if address.scheme == "https" else 80))}]


def _named(rule: EgressRule) -> Rule:
    to = _pods_of(rule.namespace) if rule.namespace is not None else {"ipBlock": {"cidr": rule.cidr}}
    return {"to": [to], **({"ports": _tcp(*rule.ports)} if rule.ports else {})}


def _pods_of(namespace: str) -> Rule:
    return {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": namespace}}}


def _tcp(*ports: int) -> list[Rule]:
    return [{"port": port, "protocol": "TCP"} for port in ports]
