"""helm and kubectl against one API server, for the tests of releases."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

from dev.chart import CHART
from dev.cluster.controlplane import ApiServer

IMAGES = {"operator": "example/operator:1", "trainer": "example/trainer:1", "serving": "example/serving:1"}
KINDS = [f"{plural}.finetune.dev" for plural in ("finetunejobs", "modelservers", "adapterdeployments")]
Object = dict[str, Any]
Done = subprocess.CompletedProcess[str]


class Programs:
    """helm and kubectl of one API server. Nothing else runs, so a release is its objects and no pods."""

    def __init__(self, server: ApiServer, folder: Path) -> None:
        self.kubeconfig, self._folder = server.kubeconfig, folder

    def kubectl(self, *arguments: str) -> str:
        done = self._run("kubectl", *arguments)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def get(self, *arguments: str) -> Object:
        found: Object = json.loads(self.kubectl("get", *arguments, "-o", "json"))
        return found

    def make_namespace(self, name: str) -> None:
        """Create it unless it is there."""
        self._run("kubectl", "create", "namespace", name)

    def create(self, namespace: str, version: str, kind: str, name: str, **body: Any) -> None:
        """Create or replace an object."""
        manifest = {"apiVersion": version, "kind": kind, "metadata": {"name": name}, **body}
        done = self._run("kubectl", "apply", "-n", namespace, "-f", "-", stdin=json.dumps(manifest))
        assert done.returncode == 0, done.stderr

    def may(self, verb: str, resource: str, namespace: str, account: str) -> bool:
        """Whether a service account, NAMESPACE:NAME, may do something."""
        who = f"--as=system:serviceaccount:{account}"
        return self._run("kubectl", "auth", "can-i", verb, resource, "-n", namespace, who).returncode == 0

    def helm(self, *arguments: str, **values: Any) -> Done:
        given = ["--values", "-"] if values else []
        return self._run("helm", *arguments, *given, stdin=json.dumps({"images": IMAGES, **values}))

    def install(self, release: str, namespace: str, *flags: str, chart: Path = CHART, **values: Any) -> Done:
        where = [release, str(chart), "--namespace", namespace, "--create-namespace"]
        return self.helm("upgrade", "--install", *where, *flags, **{"logLevel": "INFO", **values})

    def _run(self, program: str, *arguments: str, stdin: str | None = None) -> Done:
        command = [str(self._folder / program), "--kubeconfig", str(self.kubeconfig), *arguments]
        return subprocess.run(command, input=stdin, capture_output=True, text=True, check=False)
