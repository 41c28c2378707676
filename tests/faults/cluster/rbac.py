"""The rights that the chart gives to the operator: a verb that is missing there fails plays here."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path

import yaml

from dev.chart import CHART, NAMESPACE, RELEASE
from dev.cluster.binaries import KUBERNETES_VERSION
from tests.faults.cluster.client import Object

USER = f"system:serviceaccount:{NAMESPACE}:{RELEASE}"
_IMAGES = [f"--set=images.{name}=example.com/{name}:1" for name in ("operator", "trainer", "serving")]


def render(binaries: Path) -> list[Object]:
    """The chart's roles and bindings, as Helm renders them."""
    flags = [f"--namespace={NAMESPACE}", f"--kube-version={KUBERNETES_VERSION}", *_IMAGES]
    command: list[str | Path] = [
        binaries / "helm",
        "template",
        RELEASE,
        CHART,
        "--show-only=templates/rbac.yaml",
        *flags,
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return [manifest for manifest in yaml.safe_load_all(done.stdout) if manifest]


def clusterwide(manifests: Sequence[Object]) -> Iterator[Object]:
    """The roles for all namespaces."""
    return (manifest for manifest in manifests if manifest["kind"].startswith("ClusterRole"))


def of_lease(manifests: Sequence[Object], namespace: str) -> Iterator[Object]:
    """The role of the Lease, for one in this namespace: each play elects a leader of its own."""
    for manifest in manifests:
        if manifest["kind"] in ("Role", "RoleBinding"):
            yield {**manifest, "metadata": {**manifest["metadata"], "namespace": namespace}}
