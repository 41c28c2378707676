"""The command lines that the operator renders are those that the images understand."""

from __future__ import annotations

from typing import Any

import pytest

from finetune_operator.api.finetunejob import FineTuneJob
from finetune_operator.api.finetunejobstatus import Attempt
from finetune_operator.api.modelserver import ModelServer
from finetune_operator.contracts.settings import Settings
from finetune_operator.render.pod import stage_pod
from finetune_operator.serving.pod import pod_template as server_pod
from finetune_operator.stages.plan import CHAIN
from finetune_serving.__main__ import _parser as serving_parser
from finetune_serving.engine import engine_arguments
from finetune_trainer.__main__ import _parser as trainer_parser
from finetune_trainer.sandbox.__main__ import parser as sandbox_parser

SETTINGS = Settings.model_validate({"images": {"trainer": "t", "serving": "s"}})
PARSERS = {
    "finetune_serving": serving_parser,
    "finetune_trainer": trainer_parser,
    "finetune_trainer.sandbox": sandbox_parser,
}
META = {"name": "x", "namespace": "demo", "uid": "u1", "generation": 1}
HUB = {"source": "hf://org/name", "revision": "a" * 40, "credentialsSecretRef": {"name": "hub"}}
SERVER = {
    "baseModel": HUB,
    "artifactStore": "pvc://adapters",
    "resources": {"gpus": 4},
    "maxModelLength": 2048,
    "apiKeys": {"secretRef": {"name": "keys"}},
}
JOB = {
    "baseModel": HUB,
    "dataset": {"source": "configmap://d/train.jsonl"},
    "evaluation": {
        "dataset": {"source": "configmap://d/holdout.jsonl"},
        "graders": [{"name": "exact", "type": "ExactMatch"}],
    },
    "output": {"destination": "pvc://adapters/x"},
}


def parsed(spec: dict[str, Any]) -> dict[str, Any]:
    """Every container's parsed options by its name; a wrong option ends the parser with SystemExit."""
    found = {}
    for container in [*spec.get("initContainers", []), *spec["containers"]]:
        _, _, module = container["command"]
        found[container["name"]] = PARSERS[module]().parse_args(container["args"])
    return found


def test_a_server_with_every_option_is_understood() -> None:
    server = ModelServer.model_validate({"metadata": META, "spec": SERVER})
    found = parsed(server_pod(server, SETTINGS, "s", {})["spec"])
    assert set(found) == {"fetch-base", "engine", "gateway"}
    assert found["engine"].max_model_len == 2048
    vllm = engine_arguments(found["engine"], "[]")
    assert vllm[vllm.index("--tensor-parallel-size") + 1] == "4"


def test_a_server_with_a_base_in_a_bucket_is_understood() -> None:
    base = {"source": "gs://models/base", "fingerprint": "sha256:" + "b" * 64}
    server = ModelServer.model_validate({"metadata": META, "spec": {**SERVER, "baseModel": base}})
    found = parsed(server_pod(server, SETTINGS, "s", {})["spec"])
    assert (found["fetch-base"].source, found["fetch-base"].fingerprint) == tuple(base.values())


def test_vllm_is_told_to_shorten_the_context_of_a_scoring_engine_to_what_fits() -> None:
    job = FineTuneJob.model_validate({"metadata": META, "spec": {**JOB, "resources": {"gpusPerNode": 1}}})
    stage = next(stage for stage in CHAIN if stage.name == "baseline")
    attempt = Attempt(stage="baseline", number=1, job="x-baseline-1-abcdef", state="Recorded")
    found = parsed(stage_pod(job, SETTINGS, attempt, stage.parts(job, SETTINGS, attempt))["spec"])
    vllm = engine_arguments(found["engine"], "[]")
    assert vllm[vllm.index("--max-model-len") + 1] == "-1"


@pytest.mark.parametrize("stage", CHAIN, ids=[stage.name for stage in CHAIN])
def test_a_stage_is_understood(stage: Any) -> None:
    job = FineTuneJob.model_validate({"metadata": META, "spec": JOB})
    attempt = Attempt(stage=stage.name, number=1, job=f"x-{stage.name}-1-abcdef", state="Recorded")
    found = parsed(stage_pod(job, SETTINGS, attempt, stage.parts(job, SETTINGS, attempt))["spec"])
    assert found[stage.name].stage == stage.name
