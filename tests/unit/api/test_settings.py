"""The administrator's settings: the operator and the chart's schema accept and refuse the same."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from jsonschema import Draft7Validator

from finetune_operator.api.finetunejob import FineTuneJob
from finetune_operator.api.finetunejobstatus import FineTuneJobStatus
from finetune_operator.api.parts import PodTemplate, Scheduling
from finetune_operator.contracts.settings import (
    Settings,
    SettingsError,
    parse_settings,
    pinned,
    pins,
    scoring_profile,
    scoring_profile_problem,
)

CHART = Path(__file__).resolve().parents[3] / "charts" / "finetune-operator"
SCHEMA = Draft7Validator(json.loads((CHART / "values.schema.json").read_text()))
IMAGES = {"trainer": "t", "serving": "s"}
Object = dict[str, Any]


def parsed(**settings: Any) -> Settings:
    return parse_settings(json.dumps({"images": IMAGES, **settings}))


def refused_by_the_chart(settings: Object) -> list[str]:
    values = {"images": {**IMAGES, "operator": "o"}, **settings}
    return [f"{error.json_path}: {error.message}" for error in SCHEMA.iter_errors(values)]


def gpu(**fields: Any) -> Object:
    return {"gpuTypes": {"h200": fields}}


def egress(**rule: Any) -> Object:
    return {"servingNetwork": {"egress": [rule]}}


WRONG: list[tuple[str, Object, str]] = [
    ("a type in upper case", {"gpuTypes": {"H200": {}}}, "gpuTypes.H200"),
    ("a price without a currency", gpu(pricePerHour="4"), "currency"),
    ("a spot price without a currency", gpu(spotPricePerHour="4", currency=None), "currency"),
    ("a price that is a number", gpu(pricePerHour=4, currency="USD"), "pricePerHour"),
    ("a negative price", gpu(pricePerHour="-4", currency="USD"), "pricePerHour"),
    ("a currency by its name", gpu(pricePerHour="4", currency="dollars"), "currency"),
    ("no memory", gpu(memoryGiB=0), "memoryGiB"),
    ("a misspelt field", gpu(peakTFLOPS=989), "peakTFLOPS"),
    ("a resource that cannot exist", gpu(resourceName="nvidia.com/gpu/a"), "resourceName"),
    ("a selector that cannot match", gpu(nodeSelector={"pool": "the big one"}), "nodeSelector"),
    ("a selector that is a truth", gpu(nodeSelector={"gpu": True}), "nodeSelector"),
    ("a misspelt toleration", gpu(tolerations=[{"keys": "gpu"}]), "keys"),
    ("a toleration of everything but nothing", gpu(tolerations=[{"operator": "Any"}]), "operator"),
    ("a label with a space", gpu(labels={"team": "my team"}), "labels"),
    ("an annotation that is a truth", gpu(annotations={"sidecar.istio.io/inject": False}), "annotations"),
    ("a variable that no shell knows", gpu(env={"NCCL-IB": "1"}), "env"),
    ("a variable that is a number", gpu(env={"NCCL_IB_DISABLE": 1}), "env"),
    ("a runtime class in upper case", gpu(runtimeClassName="NVIDIA"), "runtimeClassName"),
    ("an empty scheduler", gpu(schedulerName=""), "schedulerName"),
    ("a priority as a number", gpu(priorityClassName=1000), "priorityClassName"),
    ("CPUs as a number", gpu(cpuPerGpu=20), "cpuPerGpu"),
    ("memory in words", gpu(memoryPerGpu="200 GB"), "memoryPerGpu"),
    ("shared memory of nothing", gpu(sharedMemoryPerGpu=None), "sharedMemoryPerGpu"),
    ("devices as a number", gpu(extraResources={"rdma/hca": 1}), "extraResources"),
    ("IPC_LOCK as text", gpu(ipcLock="yes"), "ipcLock"),
    ("a topology with a space", gpu(topologyKey="the rack"), "topologyKey"),
    ("no memory for CPU stages", {"cpuStages": {"memory": None}}, "cpuStages.memory"),
    ("GPUs for CPU stages", {"cpuStages": {"gpus": "1"}}, "cpuStages.gpus"),
    ("an account that cannot exist", {"allowedServiceAccounts": ["Trainer"]}, "allowedServiceAccounts"),
    ("one account instead of a list", {"allowedServiceAccounts": "trainer"}, "allowedServiceAccounts"),
    ("a class that cannot exist", {"allowedPriorityClasses": ["high priority"]}, "allowedPriorityClasses"),
    ("root", {"runAsUser": 0}, "runAsUser"),
    ("a user by name", {"runAsUser": "nobody"}, "runAsUser"),
    ("a Hub without a scheme", {"hubEndpoint": "hub.local"}, "hubEndpoint"),
    ("an S3 service without a scheme", {"s3": {"endpoint": "minio:9000"}}, "endpoint"),
    ("a variable for all pods that is a number", {"env": {"A": 1}}, "env"),
    ("engine arguments in one string", {"engineArgs": "--enforce-eager"}, "engineArgs"),
    ("65 engine arguments", {"engineArgs": ["-v"] * 65}, "engineArgs"),
    ("an argument that is the operator's", {"engineArgs": ["--model", "/other"]}, "engineArgs"),
    ("the operator's as a key of JSON", {"engineArgs": ["--api-key.a", "x"]}, "engineArgs"),
    ("it in a profile", {"engineProfiles": {"fast": {"args": ["-tp=2"]}}}, "engineProfiles.fast.args"),
    ("a profile in upper case", {"engineProfiles": {"Fast": {}}}, "engineProfiles.Fast"),
    ("a misspelt profile", {"engineProfiles": {"fast": {"arguments": []}}}, "arguments"),
    ("two places in one rule", egress(cidr="10.0.0.0/8", namespace="tracing"), "egress"),
    ("a rule without a place", egress(ports=[443]), "egress"),
    ("an address without a range", egress(cidr="10.0.0.1"), "cidr"),
    ("a port that no host has", egress(cidr="10.0.0.0/8", ports=[65536]), "ports"),
    ("metrics for everybody", {"servingNetwork": {"prometheusNamespaces": ["*"]}}, "prometheusNamespaces"),
    ("seconds as text", {"engineStartSeconds": "1800"}, "engineStartSeconds"),
    ("an engine that starts in no time", {"engineStartSeconds": 1}, "engineStartSeconds"),
    ("pulling now and then", {"imagePullPolicy": "Sometimes"}, "imagePullPolicy"),
    ("no patience", {"imagePullDeadlineSeconds": 0}, "imagePullDeadlineSeconds"),
    ("progress all the time", {"progressSeconds": 0.1}, "progressSeconds"),
    ("a setting that does not exist", {"progresSeconds": 5}, "progresSeconds"),
]


@pytest.mark.parametrize("cidr", ["10.0.0.0/33", "10.0.0.256/8", "fd00::/129", "1:2/8"])
def test_a_range_that_no_network_has_is_refused_by_the_operator(cidr: str) -> None:
    with pytest.raises(SettingsError, match=r"servingNetwork\.egress\.0\.cidr"):
        parse_settings(json.dumps({"images": {"trainer": "t", "serving": "s"}, **egress(cidr=cidr)}))


@pytest.mark.parametrize("short", ["--api-k", "--lora_mod=x=/x", "--ssl-keyf.a", "--no-enable-lo"])
def test_the_beginning_of_a_flag_that_is_the_operators_is_refused_by_the_operator(short: str) -> None:
    with pytest.raises(SettingsError, match=r"engineArgs\.1: .*set by the operator"):
        parsed(engineArgs=["--enforce-eager", short])


@pytest.mark.parametrize("free", ["--max-num-seqs=4", "--enforce-eager", "--", "-O3", "--seed"])
def test_other_arguments_are_the_administrators(free: str) -> None:
    assert parsed(engineArgs=[free]).engine_args == (free,)


@pytest.mark.parametrize(("settings", "says"), [w[1:] for w in WRONG], ids=[w[0] for w in WRONG])
def test_a_wrong_setting_is_refused_by_the_chart_first_and_by_the_operator(
    settings: Object, says: str
) -> None:
    with pytest.raises(SettingsError, match=re.escape(says)):
        parsed(**settings)
    last = says.rpartition(".")[2]
    assert [said for said in refused_by_the_chart(settings) if last in said]


FULL_TYPE = {
    "resourceName": "nvidia.com/mig-3g.71gb", "nodeSelector": {"topology.kubernetes.io/zone": "a"},
    "tolerations": [{"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}],
    "memoryGiB": 139, "peakTflops": 989, "pricePerHour": "4.00", "spotPricePerHour": None, "currency": "USD",
    "labels": {"team": "ml"}, "annotations": {"example.com/net": "[{}]"}, "env": {"NCCL_IB_HCA": "mlx5"},
    "runtimeClassName": "nvidia", "schedulerName": "volcano", "priorityClassName": "training",
    "cpuPerGpu": "20", "memoryPerGpu": "200Gi", "sharedMemoryPerGpu": "2Gi",
    "extraResources": {"rdma/hca": "1"}, "ipcLock": True, "topologyKey": "topology.example.com/rack",
}  # fmt: skip
RIGHT: list[tuple[str, Object]] = [
    ("nothing", {}),
    ("a type of which nothing is said", gpu()),
    ("a type of which everything is said", gpu(**FULL_TYPE)),
    ("a user that the cluster chooses", {"runAsUser": None}),
    (
        "a profile",
        {"engineProfiles": {"tools": {"args": ["--tool-call-parser", "hermes"], "env": {"A": "1"}}}},
    ),
    ("ways out", egress(namespace="tracing", ports=[4317])),
    ("CPU stages", {"cpuStages": {"cpu": "500m", "memory": "1Gi", "nodeSelector": {"pool": "cpu"}}}),
]


@pytest.mark.parametrize("settings", [r[1] for r in RIGHT], ids=[r[0] for r in RIGHT])
def test_a_right_setting_is_accepted_by_both(settings: Object) -> None:
    parsed(**settings)
    assert refused_by_the_chart(settings) == []


def test_the_chart_ships_the_operators_defaults() -> None:
    values = yaml.safe_load((CHART / "values.yaml").read_text())
    shipped = {
        field.alias or name: values[field.alias or name]
        for name, field in Settings.model_fields.items()
        if name not in ("images", "operator_namespace")
    }
    assert parsed(**shipped) == parsed()


def test_the_example_of_the_values_file_is_accepted_by_both() -> None:
    lines = (CHART / "values.yaml").read_text().splitlines()
    begin, end = (
        next(n for n, line in enumerate(lines) if line.strip("# ") == "h200:"),
        lines.index("gpuTypes: {}"),
    )
    example = yaml.safe_load("\n".join(line.removeprefix("# ") for line in lines[begin:end]))
    assert set(example["h200"]) == set(FULL_TYPE)
    parsed(gpuTypes=example)
    assert refused_by_the_chart({"gpuTypes": example}) == []


def test_every_field_of_a_gpu_type_is_in_the_chart() -> None:
    (known,) = [
        part["properties"] for part in SCHEMA.schema["properties"]["gpuTypes"]["patternProperties"].values()
    ]
    (settings,) = parsed(**gpu()).gpu_types.values()
    assert set(known) == {field.alias for field in type(settings).model_fields.values()} == set(FULL_TYPE)


def test_settings_name_every_wrong_field() -> None:
    wrong = {"images": {"trainer": ""}, "progresSeconds": 5}
    with pytest.raises(SettingsError, match=r"images\.trainer.*images\.serving.*progresSeconds"):
        parse_settings(json.dumps(wrong))


NOT_ALLOWED = [
    ({"serviceAccountName": "root"}, {}, "spec.podTemplate.serviceAccountName is root", "allowed: a, b"),
    ({}, {"priorityClassName": "system"}, "spec.scheduling.priorityClassName is system", "allowed: none"),
]


@pytest.mark.parametrize(
    ("template", "scheduling", "asked", "allowed"), NOT_ALLOWED, ids=["account", "class"]
)
def test_what_the_administrator_does_not_allow_is_named_with_what_he_does(
    template: Object, scheduling: Object, asked: str, allowed: str
) -> None:
    settings = parsed(allowedServiceAccounts=["b", "a"])
    problem = settings.permission_problem(
        PodTemplate.model_validate(template), Scheduling.model_validate(scheduling)
    )
    assert problem is not None
    assert asked in problem
    assert allowed in problem


def test_what_the_administrator_allows_and_what_is_left_out_is_no_problem() -> None:
    settings = parsed(allowedServiceAccounts=["trainer"])
    allowed = PodTemplate(service_account_name="trainer")
    assert settings.permission_problem(allowed, Scheduling()) is None
    assert settings.permission_problem(PodTemplate(), Scheduling()) is None


def test_a_run_keeps_the_images_and_engine_arguments_that_it_recorded() -> None:
    profiles = {"fp8": {"args": ["--quantization", "fp8"], "env": {"A": "1"}}}
    before = parsed(engineArgs=["--enforce-eager"], engineProfiles=profiles)
    after = parsed(engineArgs=["--dtype", "float16"])
    after = after.model_copy(update={"images": before.images.model_copy(update={"serving": "s:2"})})
    job = FineTuneJob.model_validate(
        {
            "metadata": {"name": "run"},
            "spec": {
                "baseModel": {"source": "pvc://models/small"},
                "dataset": {"source": "configmap://reviews/train.jsonl"},
                "output": {"destination": "pvc://adapters/reviews"},
                "evaluation": {"engineProfile": "fp8"},
            },
        }
    )
    assert pinned(job, after) == after
    assert scoring_profile(job, before) == before.engine_profiles["fp8"]
    assert "fp8" in (scoring_profile_problem(job, after) or "")
    stored = FineTuneJobStatus.model_validate({"pinned": pins(job, before).to_dict()})
    begun = job.model_copy(update={"status": stored})
    kept = pinned(begun, after)
    assert (kept.images, kept.engine_args) == (before.images, ("--enforce-eager",))
    assert scoring_profile(begun, after) == before.engine_profiles["fp8"]
    assert scoring_profile_problem(begun, after) is None
