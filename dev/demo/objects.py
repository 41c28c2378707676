"""Reading and awaiting objects of the running cluster for the demo and the end-to-end tests."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from kubernetes import client, config, watch

Object = dict[str, Any]
PLURALS = {
    "FineTuneJob": "finetunejobs",
    "ModelServer": "modelservers",
    "AdapterDeployment": "adapterdeployments",
}


class Cluster:
    """One namespace of a cluster: kubectl for what a user would type, the client for watching."""

    def __init__(self, kubeconfig: Path, kubectl: Path, namespace: str) -> None:
        """`kubectl` is the binary that matches the cluster's version."""
        self.kubeconfig, self.binary, self.namespace = kubeconfig, kubectl, namespace
        self.api = config.new_client_from_config(str(kubeconfig))
        self.custom = client.CustomObjectsApi(self.api)
        self.core = client.CoreV1Api(self.api)

    def kubectl(self, *args: str, stdin: str | None = None, check: bool = True) -> str:
        """Run kubectl in the namespace; a failure raises with what kubectl said."""
        command = [str(self.binary), "--kubeconfig", str(self.kubeconfig), "-n", self.namespace, *args]
        done = subprocess.run(command, input=stdin, capture_output=True, text=True, check=False)
        if check and done.returncode != 0:
            raise RuntimeError(f"kubectl {' '.join(args)}: {done.stderr.strip()}")
        return done.stdout if done.returncode == 0 else done.stdout + done.stderr

    def apply(self, *manifests: Object) -> None:
        """kubectl apply of objects made in code."""
        for manifest in manifests:
            self.kubectl("apply", "-f", "-", stdin=json.dumps(manifest))

    def get(self, kind: str, name: str) -> Object:
        """One of our objects as it is now."""
        found: Object = self.custom.get_namespaced_custom_object(
            "finetune.dev", "v1alpha1", self.namespace, PLURALS[kind], name
        )
        return found

    def changes(self, kind: str, name: str, seconds: float) -> Iterator[Object]:
        """The object at each of its changes, for at most `seconds`; reconnects when the watch ends."""
        deadline = time.monotonic() + seconds
        while (left := deadline - time.monotonic()) > 0:
            stream = watch.Watch().stream(
                self.custom.list_namespaced_custom_object,
                "finetune.dev",
                "v1alpha1",
                self.namespace,
                PLURALS[kind],
                field_selector=f"metadata.name={name}",
                timeout_seconds=max(1, min(60, int(left))),
            )
            for event in stream:
                if event["type"] != "DELETED":
                    yield event["object"]

    def wait(self, kind: str, name: str, until: Callable[[Object], bool], seconds: float) -> Object:
        """Await a state of an object through its watch; time out with its last status in the message."""
        last: Object = {}
        for last in self.changes(kind, name, seconds):
            if until(last):
                return last
        status = json.dumps(last.get("status", {}), indent=1)
        raise TimeoutError(f"{kind} {name} did not get there within {seconds:.0f} s; its status is {status}")

    def volume_folder(self, claim: str, seconds: float = 60) -> Path:
        """The folder on this machine behind a claim of the embedded cluster's storage class."""
        stream = watch.Watch().stream(
            self.core.list_namespaced_persistent_volume_claim,
            self.namespace,
            field_selector=f"metadata.name={claim}",
            timeout_seconds=int(seconds),
        )
        for event in stream:
            if event["object"].status.phase == "Bound":
                volume = self.core.read_persistent_volume(event["object"].spec.volume_name)
                return Path(volume.spec.local.path)
        raise TimeoutError(f"PersistentVolumeClaim {claim} was not bound within {seconds:.0f} s")


def workspace_folder(cluster: Cluster, run: str) -> Path:
    """The folder on this machine behind the workspace of a run."""
    claims = cluster.core.list_namespaced_persistent_volume_claim(
        cluster.namespace, label_selector=f"finetune.dev/owner={run}"
    ).items
    return cluster.volume_folder(claims[0].metadata.name)
