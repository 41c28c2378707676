"""The handler that the operator is measured beside, as kopf's documentation writes one: one Job per object.

    python -m benchmarks.operator.plain_handler PORT          ($KUBECONFIG names the API server)

It uses kopf and the `kubernetes` client, and keeps no status. PORT answers once it
runs.
"""

from __future__ import annotations

import sys
from typing import Any

import kopf
from kubernetes import client, config


@kopf.on.startup()  # type: ignore[untyped-decorator]
def connect(**_: Any) -> None:
    """Load $KUBECONFIG."""
    config.load_kube_config()


@kopf.on.create("benchmark.example.com", "v1", "plains")  # type: ignore[untyped-decorator]
def create(name: str, namespace: str, **_: Any) -> None:
    """Create the object's Job."""
    container = {"name": "main", "image": "trainer:1", "command": ["train"]}
    template = {"spec": {"containers": [container], "restartPolicy": "Never"}}
    job = {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {"name": f"{name}-job"},
        "spec": {"backoffLimit": 0, "template": template},
    }
    kopf.adopt(job)
    client.BatchV1Api().create_namespaced_job(namespace, job)


if __name__ == "__main__":
    kopf.run(standalone=True, clusterwide=True, liveness_endpoint=f"http://127.0.0.1:{sys.argv[1]}/healthz")
