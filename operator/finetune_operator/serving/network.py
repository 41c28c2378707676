"""The ports of a serving pod, who may call them, and where the pod may connect to."""

from __future__ import annotations

from typing import Any
from urllib.parse import urlsplit

from finetune_operator.api.modelserver import ModelServer
from finetune_operator.contracts.settings import EgressRule, Settings
from finetune_operator.render.names import pod_selector

GATEWAY_PORT = 8000
AGENT_PORT = 8001
_DNS_PORTS = (53, 5353)  # policies see the port of the server's pod, which is 5353 on OpenShift
_HUB = "https://huggingface.co"
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
    """DNS, the server's other pods, the Hub for a base from there, and what the administrator names."""
    dns = [{"port": port, "protocol": protocol} for port in _DNS_PORTS for protocol in ("UDP", "TCP")]
    peers = {"podSelector": {"matchLabels": pod_selector(server)}}
    return [
        {"ports": dns},
        {"ports": _tcp(GATEWAY_PORT), "to": [peers]},
        *_hub(server, settings),
        *map(_named, settings.serving_network.egress),
    ]


def _hub(server: ModelServer, settings: Settings) -> list[Rule]:
    """The Hub and its storage have addresses all over the internet; a mirror may also be in the cluster."""
    if not server.spec.base_model.source.startswith("hf://"):
        return []
    address = urlsplit(settings.hub_endpoint or _HUB)
    ports = _tcp(address.port or (443 if address.scheme == "https" else 80))
    if settings.hub_endpoint is not None:
        return [{"ports": ports}]
    return [{"ports": ports, "to": [{"ipBlock": block} for block in _PUBLIC]}]


def _named(rule: EgressRule) -> Rule:
    to = _pods_of(rule.namespace) if rule.namespace is not None else {"ipBlock": {"cidr": rule.cidr}}
    return {"to": [to], **({"ports": _tcp(*rule.ports)} if rule.ports else {})}


def _pods_of(namespace: str) -> Rule:
    return {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": namespace}}}


def _tcp(*ports: int) -> list[Rule]:
    return [{"port": port, "protocol": "TCP"} for port in ports]
