"""The manifests of the benchmark: runs, what they refer to, nodes, and the plain handler's kind."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from finetune_operator.runtime.resources import CLAIM, CONFIGMAP, Resource

Object = dict[str, Any]
NAMESPACES = tuple(f"team-{number}" for number in range(10))
NODES = 20
NAMESPACE = Resource("v1", "Namespace", "namespaces")
ACCOUNT = Resource("v1", "ServiceAccount", "serviceaccounts")
NODE = Resource("v1", "Node", "nodes")
PLAIN_KIND = Resource("benchmark.example.com/v1", "Plain", "plains")
SETTINGS: Object = {
    "images": {"trainer": "trainer:1", "serving": "serving:1"},
    "gpuTypes": {
        "h200": {
            "nodeSelector": {"example.com/gpu": "h200"},
            "memoryGiB": 139,
            "peakTflops": 989,
            "pricePerHour": "3.60",
            "currency": "USD",
        }
    },
}
PLAIN_CRD: Object = {
    "apiVersion": "apiextensions.k8s.io/v1",
    "kind": "CustomResourceDefinition",
    "metadata": {"name": "plains.benchmark.example.com"},
    "spec": {
        "group": "benchmark.example.com",
        "scope": "Namespaced",
        "names": {"kind": "Plain", "plural": "plains", "singular": "plain"},
        "versions": [
            {
                "name": "v1",
                "served": True,
                "storage": True,
                "subresources": {"status": {}},
                "schema": {
                    "openAPIV3Schema": {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
                },
            }
        ],
    },
}


def spec() -> Object:
    """A run with every stage: LoRA on one GPU that has a price, scored before and after."""
    return {
        "baseModel": {"source": "pvc://base-models/base"},
        "dataset": {"source": "configmap://data/train.jsonl"},
        "evaluation": {
            "dataset": {"source": "configmap://data/holdout.jsonl"},
            "graders": [{"name": "exact", "type": "ExactMatch"}],
        },
        "resources": {"gpusPerNode": 1, "gpuType": "h200", "cpu": "8", "memory": "64Gi"},
        "output": {"destination": "pvc://adapters/run"},
    }


def named(resource: Resource, name: str, **fields: Any) -> Object:
    """A manifest."""
    about = {"apiVersion": resource.api_version, "kind": resource.kind, "metadata": {"name": name}}
    return {**about, **fields}


def place(number: int) -> str:
    """The namespace of the object of this number."""
    return NAMESPACES[number % len(NAMESPACES)]


def surroundings(namespace: str) -> Iterator[tuple[Resource, str | None, Object]]:
    """A namespace, and in it what a run refers to. The account is what a controller manager would make."""
    yield NAMESPACE, None, named(NAMESPACE, namespace)
    yield ACCOUNT, namespace, named(ACCOUNT, "default")
    yield (
        CONFIGMAP,
        namespace,
        named(CONFIGMAP, "data", data={"train.jsonl": "{}\n", "holdout.jsonl": "{}\n"}),
    )
    for claim in ("base-models", "adapters"):
        size = {"accessModes": ["ReadWriteMany"], "resources": {"requests": {"storage": "1Gi"}}}
        yield CLAIM, namespace, named(CLAIM, claim, spec=size)


def node(number: int) -> Object:
    """A node that is ready; nothing runs on it."""
    return named(NODE, node_name(number), status={"conditions": [{"type": "Ready", "status": "True"}]})


def node_name(number: int) -> str:
    """The node that the pod of this number is on."""
    return f"node-{number % NODES}"
