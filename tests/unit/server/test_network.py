"""Whom the pods of a server answer and where they may connect to."""

from __future__ import annotations

import json
from typing import Any

import pytest

from finetune_operator.contracts.settings import Settings, parse_settings
from finetune_operator.serving.network import egress, ingress
from tests.unit.server.builders import server

Rule = dict[str, Any]
HUB = {"source": "hf://org/name", "revision": "a" * 40}
BUCKET = {"source": "s3://models/base", "fingerprint": "sha256:" + "b" * 64}
PRIVATE = "10.0.0.0/8"
METADATA = "169.254.0.0/16"


def settings(**changes: Any) -> Settings:
    return parse_settings(json.dumps({"images": {"trainer": "t", "serving": "s"}, **changes}))


def ports(rule: Rule) -> list[int]:
    return [one["port"] for one in rule.get("ports", [])]


def namespaces(peers: list[Rule]) -> list[str]:
    return [peer["namespaceSelector"]["matchLabels"]["kubernetes.io/metadata.name"] for peer in peers]


def test_everybody_may_call_the_gateway_and_the_operator_and_prometheus_the_agent() -> None:
    where = {"prometheusNamespaces": ["monitoring", "metrics"]}
    api, agent = ingress(settings(operatorNamespace="finetune-system", servingNetwork=where))
    assert (ports(api), "from" in api) == ([8000], False)
    assert ports(agent) == [8001]
    assert namespaces(agent["from"]) == ["finetune-system", "monitoring", "metrics"]


def test_an_operator_that_does_not_know_its_namespace_shuts_itself_out_of_nothing() -> None:
    (both,) = ingress(settings())
    assert (ports(both), "from" in both) == ([8000, 8001], False)


def test_a_server_whose_base_is_on_a_claim_reaches_dns_and_its_other_pods() -> None:
    dns, peers = egress(server(), settings())
    assert (set(ports(dns)), "to" in dns) == ({53, 5353}, False)
    assert ports(peers) == [8000]
    assert peers["to"] == [
        {"podSelector": {"matchLabels": {"finetune.dev/kind": "ModelServer", "finetune.dev/owner": "shared"}}}
    ]


def test_a_base_from_the_hub_is_fetched_from_the_internet_and_from_no_private_address() -> None:
    (hub,) = egress(server(baseModel=HUB), settings())[2:]
    assert ports(hub) == [443]
    v4, v6 = (peer["ipBlock"] for peer in hub["to"])
    assert {PRIVATE, METADATA} <= set(v4["except"])
    assert v6["cidr"] == "::/0"


def test_a_mirror_of_the_hub_may_be_anywhere_but_has_one_port() -> None:
    (hub,) = egress(server(baseModel=HUB), settings(hubEndpoint="http://hub.mirror.svc:8080"))[2:]
    assert hub == {"ports": [{"port": 8080, "protocol": "TCP"}]}


@pytest.mark.parametrize("scheme", ["s3", "gs"])
def test_a_base_in_a_clouds_bucket_is_fetched_from_the_internet(scheme: str) -> None:
    (store,) = egress(server(baseModel=BUCKET | {"source": f"{scheme}://models/base"}), settings())[2:]
    assert ports(store) == [443]
    assert PRIVATE in store["to"][0]["ipBlock"]["except"]


def test_a_store_of_ones_own_may_be_anywhere_but_has_one_port() -> None:
    own = settings(s3={"endpoint": "http://minio.storage.svc:9000"})
    (store,) = egress(server(baseModel=BUCKET), own)[2:]
    assert store == {"ports": [{"port": 9000, "protocol": "TCP"}]}


def test_the_administrator_names_what_else_they_reach() -> None:
    rules = [
        {"cidr": "203.0.113.0/24", "ports": [443, 8443]},
        {"namespace": "tracing"},
    ]
    addresses, pods = egress(server(), settings(servingNetwork={"egress": rules}))[2:]
    assert addresses["to"] == [{"ipBlock": {"cidr": "203.0.113.0/24"}}]
    assert ports(addresses) == [443, 8443]
    assert (namespaces(pods["to"]), "ports" in pods) == (["tracing"], False)
