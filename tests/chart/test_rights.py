"""The operator as the chart starts it, with the rights that the chart gives it, against a real API server."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from dev.chart import CHART
from dev.cluster.controlplane import free_ports
from tests.chart.releases import Programs

pytestmark = pytest.mark.apiserver
ROOT = CHART.parents[1]
SAMPLES = ROOT / "crds" / "samples"
SYSTEM = "system"
TAKEOVER_SECONDS = 20
Object = dict[str, Any]


class Replica:
    """One process with the arguments, the settings and the service account of the installed Deployment."""

    def __init__(self, programs: Programs, folder: Path, name: str) -> None:
        self.name, self._port = name, free_ports(1)[0]
        deployment = programs.get("deployment", "finetune-operator", "-n", SYSTEM)
        settings = programs.get("configmap", "finetune-operator-settings", "-n", SYSTEM)["data"]
        (folder / "settings.json").write_text(settings["settings.json"])
        kubeconfig = folder / f"{name}.kubeconfig"
        kubeconfig.write_text(yaml.safe_dump(as_account(programs)))
        given = deployment["spec"]["template"]["spec"]["containers"][0]["args"]
        arguments = [arg.replace("$(POD_NAMESPACE)", SYSTEM) for arg in given if "--port" not in arg]
        where = ["--kubeconfig", str(kubeconfig), "--host", "127.0.0.1", "--port", str(self._port)]
        environment = {
            "FINETUNE_SETTINGS": str(folder / "settings.json"),
            "PYTHONPATH": str(ROOT / "operator"),
            "POD_NAMESPACE": SYSTEM,
            "POD_NAME": name,
        }
        self._process = subprocess.Popen(
            [sys.executable, "-m", "finetune_operator", *arguments, *where],
            env={**os.environ, **environment},
            stderr=subprocess.PIPE,
            text=True,
        )
        self.lines: list[Object] = []
        self._told = threading.Condition()
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        assert self._process.stderr is not None
        for line in self._process.stderr:
            with self._told:
                self.lines.append(json.loads(line))
                self._told.notify_all()

    def await_message(self, *messages: str, seconds: float = 60) -> str:
        """The first of the messages that the log has, once it is there."""

        def found() -> str | None:
            said = [line["message"] for line in self.lines]
            return next((message for message in messages if message in said), None)

        with self._told:
            assert self._told.wait_for(found, seconds), (messages, self.lines[-5:])
        return str(found())

    def metric(self, pattern: str) -> list[float]:
        """The values of the series whose line begins as the pattern says."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self._port}/metrics", timeout=10) as answer:
            lines = answer.read().decode().splitlines()
        return [float(line.rpartition(" ")[2]) for line in lines if re.match(pattern, line)]

    def kill(self) -> None:
        """No grace: the Lease stays as it is."""
        self._process.send_signal(signal.SIGKILL)
        self._process.wait()
        self._reader.join()


def as_account(programs: Programs) -> Object:
    """The administrator's kubeconfig with the token of the operator's service account instead."""
    configuration: Object = yaml.safe_load(programs.kubeconfig.read_text())
    token = programs.kubectl("create", "token", "finetune-operator", "-n", SYSTEM).strip()
    return {**configuration, "users": [{**configuration["users"][0], "user": {"token": token}}]}


@pytest.fixture
def replicas(programs: Programs, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[list[Replica]]:
    """The release, and the two processes of its Deployment; the first one leads."""
    done = programs.install("finetune-operator", SYSTEM, **request.param)
    assert done.returncode == 0, done.stderr
    programs.kubectl("wait", "--for=condition=Established", "--timeout=20s", "crd", "--all")
    running: list[Replica] = []
    try:
        for name, expected in (("first", "started"), ("second", "standing by")):
            running.append(Replica(programs, tmp_path, name))
            running[-1].await_message(expected)
        yield running
    finally:
        for replica in running:
            replica.kill()


@pytest.mark.parametrize(
    "replicas",
    [{}, {"watchNamespace": "team"}],
    ids=["a ClusterRole for all namespaces", "a Role for one"],
    indirect=True,
)
def test_two_replicas_work_with_the_charts_rights_and_one_takes_over(
    programs: Programs, replicas: list[Replica]
) -> None:
    first, second = replicas
    assert [replica.metric("finetune_operator_leader")[0] for replica in replicas] == [1, 0]
    programs.make_namespace("team")
    ask_for_everything(programs, "team", "drug-reviews-v1")
    assert denied(first) == []

    first.kill()
    begun = time.monotonic()
    second.await_message("started", seconds=2 * TAKEOVER_SECONDS)
    assert time.monotonic() - begun < TAKEOVER_SECONDS
    programs.kubectl("delete", "ftj,msv,adep", "--all", "-n", "team", "--timeout=30s")
    ask_for_everything(programs, "team", "drug-reviews-v1")
    assert denied(second) == []


def ask_for_everything(programs: Programs, namespace: str, run: str) -> None:
    """A run whose first Job is released, a server with its children, and an alias."""
    for claim in ("base-models", "adapters"):
        programs.create(namespace, "v1", "PersistentVolumeClaim", claim, spec=CLAIM)
    programs.create(
        namespace, "v1", "ConfigMap", "drug-reviews", data={"train.jsonl": "{}", "holdout.jsonl": "{}"}
    )
    for kind in ("finetunejob", "modelserver", "adapterdeployment"):
        programs.kubectl("apply", "-n", namespace, "-f", str(SAMPLES / f"{kind}-minimal.yaml"))
    wait = ["wait", "-n", namespace, "--timeout=60s"]
    programs.kubectl(*wait, "--for=jsonpath={.status.attempts[0].job}", f"ftj/{run}")
    job = programs.get("ftj", run, "-n", namespace)["status"]["attempts"][0]["job"]
    for condition in ("create", "jsonpath={.spec.suspend}=false"):
        programs.kubectl(*wait, f"--for={condition}", f"job/{job}")
    for child in ("deployment", "service", "networkpolicy"):
        programs.kubectl(*wait, "--for=create", f"{child}/shared-server")
    programs.kubectl(
        *wait, "--for=jsonpath={.status.conditions[?(@.type=='Ready')].status}=False", "adep/drug-reviews"
    )


CLAIM = {"accessModes": ["ReadWriteMany"], "resources": {"requests": {"storage": "1Gi"}}}


def denied(replica: Replica) -> list[Object]:
    """What the log and the metrics say of requests that the API server did not allow."""
    lines = [line for line in replica.lines if "forbidden" in json.dumps(line).lower()]
    counted = replica.metric(r'finetune_operator_api_requests_total{code="(401|403)"')
    return [*lines, *({"requests": number} for number in counted)]
