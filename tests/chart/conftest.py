"""Real Helm over the real chart."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml

from dev.chart import CHART
from dev.cluster import binaries
from dev.cluster.controlplane import ApiServer
from tests.chart.releases import IMAGES, KINDS, Object, Programs


def _helm() -> str:
    """Helm of the embedded cluster, else one on PATH; a skip says how to get it."""
    home = Path(os.environ.get("FINETUNE_DEV_HOME", Path.home() / ".cache" / "finetune-operator"))
    built = sorted(home.glob("bin/**/helm"))
    found = os.environ.get("HELM") or (str(built[-1]) if built else shutil.which("helm"))
    if found is None:
        pytest.skip("helm is not built yet: `make up` builds it")
    return found


@pytest.fixture(scope="session")
def helm() -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run a Helm command with values on standard input."""
    program = _helm()

    def run(command: str, values: Object | None, *flags: str) -> subprocess.CompletedProcess[str]:
        given = ["--values", "-"] if values is not None else []
        name = ["finetune-operator"] if command == "template" else []
        return subprocess.run(
            [program, command, *name, str(CHART), "--namespace", "finetune-system", *given, *flags],
            input=json.dumps(values) if values is not None else None,
            capture_output=True,
            text=True,
            check=False,
        )

    return run


@pytest.fixture(scope="session")
def render(helm: Callable[..., subprocess.CompletedProcess[str]]) -> Callable[..., list[Object]]:
    """The objects that the chart renders for some values, images given unless overridden.

    `apis` are what the cluster serves beside Kubernetes' own, for example monitoring.coreos.com/v1/PodMonitor.
    """

    def objects(apis: Sequence[str] = (), **values: Any) -> list[Object]:
        flags = ["--kube-version", "1.36.3", *(f"--api-versions={api}" for api in apis)]
        done = helm("template", {"images": IMAGES, **values}, *flags)
        assert done.returncode == 0, done.stderr
        return [document for document in yaml.safe_load_all(done.stdout) if document]

    return objects


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Programs]:
    folder = binaries.ensure(["kube-apiserver", "kubectl", "helm"])
    with ApiServer(tmp_path_factory.mktemp("releases"), folder) as running:
        yield Programs(running, folder)


@pytest.fixture
def programs(server: Programs) -> Iterator[Programs]:
    """The server without any release; afterwards again."""
    yield server
    for release in json.loads(server.helm("list", "--all-namespaces", "-o", "json").stdout):
        server.helm("uninstall", release["name"], "--namespace", release["namespace"])
    server.kubectl("delete", "crd", "--ignore-not-found", *KINDS)
