"""LoRA on one process, two processes and two pods gives one loss; QLoRA and Full train too."""

from __future__ import annotations

import json

import pytest

from dev.demo.objects import Cluster, workspace_folder
from tests.e2e.builders import Object, condition, ended, run

pytestmark = pytest.mark.e2e
LAYOUTS = {
    "one-process": {"nodes": 1, "processesPerNode": 1},
    "two-processes": {"nodes": 1, "processesPerNode": 2},
    "two-pods": {"nodes": 2},
}


def train(cluster: Cluster, name: str, **changes: Object | str | None) -> Object:
    """Run to the end; the training's own result comes from the workspace."""
    cluster.apply(run(name, **changes))
    job = cluster.wait("FineTuneJob", name, ended, 1200)
    assert condition(job, "Succeeded")["status"] == "True", condition(job, "Succeeded")
    return stored_result(cluster, name)


def stored_result(cluster: Cluster, name: str) -> Object:
    """What the train stage wrote into the workspace of a run."""
    folder = workspace_folder(cluster, name)
    found: Object = json.loads(next((folder / "results").glob("train-*.json")).read_text())
    return found


def test_the_same_global_batch_gives_the_same_loss_on_every_layout(cluster: Cluster) -> None:
    results = {
        name: train(cluster, name, resources={"gpusPerNode": 0, "memory": "6Gi", **layout})["summary"]
        for name, layout in LAYOUTS.items()
    }
    losses = {name: r["loss"] for name, r in results.items()}
    print(losses)
    assert [results[n]["worldSize"] for n in LAYOUTS] == [1, 2, 2]
    assert len({r["steps"] for r in results.values()}) == 1
    assert max(losses.values()) - min(losses.values()) < 0.01 * losses["one-process"]


def test_full_training_publishes_a_model(cluster: Cluster) -> None:
    training = {"epochs": 1, "learningRate": "1e-5", "effectiveBatchSize": 16, "maxLength": 512, "seed": 17}
    resources = {"gpusPerNode": 0, "memory": "9Gi"}
    result = train(cluster, "full", method="Full", lora=None, training=training, resources=resources)
    assert result["summary"]["loss"] > 0
    published = cluster.volume_folder("adapters") / "full"
    assert json.loads((published / "manifest.json").read_text())["kind"] == "Model"
    assert (published / "model.safetensors").stat().st_size > 100_000_000


def test_qlora_publishes_an_adapter_of_the_base_in_16_bits(cluster: Cluster) -> None:
    result = train(cluster, "qlora", method="QLoRA")
    assert result["summary"]["loss"] > 0
    published = cluster.volume_folder("adapters") / "qlora"
    manifest = json.loads((published / "manifest.json").read_text())
    assert (manifest["kind"], manifest["method"]) == ("Adapter", "QLoRA")
    assert json.loads((published / "adapter_config.json").read_text())["r"] == 8
    status = cluster.get("FineTuneJob", "qlora")["status"]
    assert status["resolved"]["method"] == "QLoRA"
