"""The job.json that the operator writes is what the trainer reads."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from finetune_operator.render.graders import NETWORK_FOUND
from finetune_trainer.container_graders.questions import container_of
from finetune_trainer.contracts import Job, read_job
from finetune_trainer.errors import UserError
from finetune_trainer.local.manifest import job_of
from finetune_trainer.sandbox import network
from finetune_trainer.scoring.question_sets import QuestionSet
from finetune_trainer.workspace import Workspace
from tests.unit.stages.kubernetes_simulation import KubernetesSimulation, result_of

SAMPLES = Path(__file__).parents[2] / "crds" / "samples"
STAGES = ("prepare", "baseline", "train", "evaluate", "publish")
FULL_SPEC: dict[str, Any] = {
    "goal": "Format",
    "knowledgeChanges": "Monthly",
    "dataset": {"source": "s3://data/train.jsonl", "rules": {"near_duplicate": "Ignore"}},
    "savings": {"callsPerMonth": 10**6, "removedPromptTokens": 3000, "pricePerMillionTokens": "1.0"},
    "baseModel": {"source": "hf://org/model", "revision": "a" * 40, "credentialsSecretRef": {"name": "hub"}},
    "fallbackMethod": "QLoRA",
    "lora": {"rank": 16, "alpha": 32, "rankStabilized": True, "targetModules": ["q_proj", "v_proj"]},
    "training": {
        "epochs": 2,
        "learningRate": "2e-4",
        "effectiveBatchSize": 8,
        "maxLength": 1024,
        "seed": 17,
        "microBatchTokens": 8192,
        "gradientCheckpointing": "Selective",
    },
    "evaluation": {
        "graders": [
            {"name": "fields", "type": "FieldMatch", "fields": ["condition", "sentiment"]},
            {"name": "format", "type": "JsonSchema", "schema": '{"type": "object"}'},
            {"name": "style", "type": "JudgeCriteria", "criteria": ["It is kind"]},
            {"name": "better", "type": "JudgePairwise", "criteria": ["It is shorter", "It is kinder"]},
            {"name": "label", "type": "OneOf", "values": ["yes", "no"]},
            {
                "name": "date",
                "type": "FieldMatch",
                "fields": ["day"],
                "pattern": "(?P<day>[0-9]+)",
                "tolerance": "0.1",
            },
            {"name": "wording", "type": "Similarity", "metric": "RougeL"},
            {"name": "own", "type": "Python", "grader": "graders.dates:Sensible"},
        ],
        "judge": {
            "url": "https://judge.example/v1",
            "model": "judge",
            "credentialsSecretRef": {"name": "judge-key"},
            "pricePerMillionInputTokens": "2.5",
            "pricePerMillionOutputTokens": "0",
            "timeoutSeconds": 30,
            "maxConcurrency": 4,
        },
        "export": {
            "mlflow": {
                "trackingUri": "https://mlflow.example",
                "experiment": "reviews",
                "credentialsSecretRef": {"name": "tracking-token"},
            },
            "openTelemetry": {"endpoint": "https://collector.example:4318"},
        },
        "primary": "fields",
        "gate": {"minDelta": "0.1"},
        "maxTokens": 64,
        "regression": {
            "suites": [
                {
                    "name": "general",
                    "dataset": {
                        "source": "s3://data/general.jsonl",
                        "credentialsSecretRef": {"name": "keys"},
                    },
                    "grader": {"name": "answer", "type": "ExactMatch", "margin": "0.1"},
                }
            ]
        },
        "rivals": [{"name": "written", "system": "Answer in JSON."}, {"name": "shots", "fewShot": 4}],
        "accept": ["CheckTaskOrData"],
    },
}
SPECS = [
    pytest.param({}, id="the smallest spec"),
    pytest.param(FULL_SPEC, id="every field"),
    pytest.param({"method": "Full"}, id="a full fine-tune"),
    pytest.param(
        {"method": "QLoRA", "training": {"zeroStage": 3}}, id="an adapter on a shared base in 4 bits"
    ),
    pytest.param(
        {"method": "Full", "training": {"zeroStage": 3, "offload": "All"}},
        id="a full fine-tune that is told how",
    ),
    pytest.param(
        {
            "resources": {"gpusPerNode": 1, "gpuType": "h200", "spot": True},
            "budget": {"limit": "50", "currency": "USD"},
        },
        id="GPUs with a price and a budget",
    ),
    pytest.param({"lora": {"rank": 8}, "training": {"epochs": 1}}, id="some fields left out"),
    pytest.param({"evaluation": {"engineProfile": "tools"}}, id="an engine profile"),
    pytest.param(
        {"resources": {"nodes": 2, "processesPerNode": 2}, "workspace": {"claimName": "shared"}}, id="a gang"
    ),
]


def documents(**changes: Any) -> dict[str, str]:
    """job.json of every stage of a run."""
    world = KubernetesSimulation(**changes)
    world.claims["shared"] = {"metadata": {"uid": "s"}, "spec": {"accessModes": ["ReadWriteMany"]}}
    found = {}
    for stage in STAGES:
        name = world.to(stage).running()
        found[stage] = world.others["ConfigMap", name]["data"]["job.json"]
    return found


@pytest.mark.parametrize("changes", SPECS)
def test_the_trainer_reads_the_job_of_every_stage(changes: dict[str, Any], tmp_path: Path) -> None:
    written = documents(**changes)
    path = tmp_path / "job.json"
    for stage, text in written.items():
        path.write_text(text)
        job = read_job(path)
        assert (job.stage, job.attempt, job.namespace, job.name) == (stage, 1, "demo", "run")
        assert (job.publish is not None) == (stage == "publish")
    assert len({json.loads(text)["specDigest"] for text in written.values()}) == 1
    assert len({json.loads(text)["inputDigest"] for text in written.values()}) == len(STAGES)


@pytest.mark.parametrize("changes", SPECS)
def test_a_laptop_makes_of_a_manifest_what_the_operator_makes_of_it(changes: dict[str, Any]) -> None:
    world = KubernetesSimulation(**changes)
    manifest = {"apiVersion": "finetune.dev/v1alpha1", "kind": "FineTuneJob", **world.object}
    told = Job.model_validate_json(documents(**changes)["prepare"])
    mine = job_of(manifest, "job.yaml")
    evaluation = mine.spec.evaluation
    assert evaluation is not None
    assert told.spec.evaluation is not None
    assert evaluation.min_delta == told.spec.evaluation.min_delta
    assert evaluation.output_tokens == told.spec.evaluation.output_tokens
    defaults = {"gate": told.spec.evaluation.gate, "max_tokens": told.spec.evaluation.max_tokens}
    spec = mine.spec.model_copy(update={"evaluation": evaluation.model_copy(update=defaults)})
    assert spec == told.spec
    assert (mine.namespace, mine.name, mine.budget) == (told.namespace, told.name, told.budget)


def test_a_laptop_needs_no_server_to_look_at_a_run_that_scores_on_one() -> None:
    body = yaml.safe_load((SAMPLES / "finetunejob-scored-on-server.yaml").read_text())
    evaluation = job_of(body, "job.yaml").spec.evaluation
    assert evaluation is not None
    assert evaluation.dataset.source == "configmap://drug-reviews/holdout.jsonl"


def test_programs_that_a_server_answers_with_are_refused_before_anything_is_trained(tmp_path: Path) -> None:
    job = json.loads(documents(evaluation={"graders": [{"name": "runs", "type": "CodeAssert"}]})["prepare"])
    path = tmp_path / "job.json"
    path.write_text(json.dumps(job))
    assert read_job(path).spec.evaluation is not None
    server = {
        "endpoint": "http://shared-server.demo.svc:8000/v1", "model": "small", "template": job["specDigest"],
        "candidate": "candidate.run", "source": "pvc://adapters/_candidates/run",
    }  # fmt: skip
    path.write_text(json.dumps({**job, "engine": {"server": server}}))
    with pytest.raises(UserError, match=r"CodeAssert .* remove `engine.server`"):
        read_job(path)


def test_a_container_finds_its_questions_where_the_trainer_wrote_them(tmp_path: Path) -> None:
    grader = {
        "name": "polite",
        "type": "Container",
        "image": "r/polite@sha256:" + "a" * 64,
        "command": ["go"],
    }
    suite = {"name": "letters", "dataset": {"source": "configmap://reviews/holdout.jsonl"}, "grader": grader}
    world = KubernetesSimulation(evaluation={"graders": [grader], "regression": {"suites": [suite]}})
    world.to("baseline").end(result_of("baseline", verdict=None, awaits="code"))
    path = tmp_path / "job.json"
    path.write_text(world.others["ConfigMap", world.running()]["data"]["job.json"])
    evaluation = read_job(path).spec.evaluation
    assert evaluation is not None
    [own] = evaluation.graders_of("Container")
    holdout = QuestionSet("the hold-out", "", [], evaluation, "key")
    sets = [holdout, replace(holdout, suite=evaluation.suites[0].name)]
    folder = Workspace(tmp_path).questions_for_containers("base").relative_to(tmp_path)
    containers = world.jobs[world.running()]["spec"]["template"]["spec"]["initContainers"][1:]
    assert [container["volumeMounts"][0]["subPath"] for container in containers] == [
        str(folder / container_of(asked, own)) for asked in sets
    ]


def test_the_exit_code_of_a_network_is_the_one_that_the_operator_knows() -> None:
    assert NETWORK_FOUND == network.FOUND


def test_a_run_without_evaluation_is_read_too(tmp_path: Path) -> None:
    world = KubernetesSimulation(evaluation={"dataset": None, "graders": None, "accept": ["EvalMissing"]})
    name = world.to("publish").running()
    path = tmp_path / "job.json"
    path.write_text(world.others["ConfigMap", name]["data"]["job.json"])
    job = read_job(path)
    assert job.spec.evaluation is None
    assert job.publish is not None
    assert (job.publish.promoted, job.publish.accepted) == (True, ("EvalMissing",))
