"""The command in status.retrain of an AdapterDeployment, run as a user would run it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess

import pytest

from dev.cluster.controlplane import ApiServer
from finetune_operator.api.finetunejob import FineTuneJob
from finetune_operator.rollout.base import retraining, successor
from tests.apiserver.client import MERGE, Api, sample

pytestmark = [
    pytest.mark.apiserver,
    pytest.mark.skipif(shutil.which("kubectl") is None, reason="needs kubectl"),
]
MOVED = "sha256:" + "e" * 64
BASES = [
    pytest.param("on-volume", {"source": "pvc://models/next", "fingerprint": MOVED}, id="a base on a volume"),
    pytest.param(
        "from-hub",
        {
            "source": "hf://org/next",
            "revision": "a" * 40,
            "fingerprint": MOVED,
            "credentialsSecretRef": {"name": "hub-token"},
        },
        id="a base from the Hub",
    ),
]


@pytest.mark.parametrize(("name", "base"), BASES)
def test_the_command_creates_the_run_on_the_new_base(
    api: Api, running: ApiServer, name: str, base: dict[str, object]
) -> None:
    body = sample("finetunejob-full")
    stored = api.create({**body, "metadata": {"name": name, "annotations": {"note": "the team's own"}}})
    status = {"status": {"stage": "Succeeded"}}
    api.http.patch(
        api.path("FineTuneJob", name, "status"), json=status, headers={"Content-Type": MERGE}
    ).raise_for_status()
    new = successor(name, MOVED)
    command = retraining(FineTuneJob.model_validate(stored), base, new, MOVED)
    environment = {**os.environ, "KUBECONFIG": str(running.kubeconfig)}
    ran = subprocess.run(["/bin/sh", "-c", command], env=environment, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    created = api.http.get(api.path("FineTuneJob", new)).json()
    destination = stored["spec"]["output"]["destination"] + "-eeeeee"
    wanted = {**stored["spec"], "baseModel": base, "output": {"destination": destination}}
    assert json.dumps(created["spec"], sort_keys=True) == json.dumps(wanted, sort_keys=True)
    assert "status" not in created
