"""For every rule and bound of the CRDs at least one wrong object, refused in words that help."""

from __future__ import annotations

from typing import Any

import pytest

from tests.apiserver.client import REMOVED, Api, changed, sample

pytestmark = pytest.mark.apiserver

JOB, FULL, CPU = "finetunejob-minimal", "finetunejob-full", "finetunejob-cpu-full-method"
SERVER, BIG_SERVER = "modelserver-minimal", "modelserver-full"
DEPLOYMENT, PINNED = "adapterdeployment-minimal", "adapterdeployment-full"
DIGEST = "sha256:" + "0" * 64
GRADER = {"name": "exact", "type": "ExactMatch"}

# what is wrong, sample, dotted path, value, what the message says
WRONG: list[tuple[str, str, str, Any, list[str]]] = [
    ("an unknown field", JOB, "spec.goal", "Format", ['unknown field "spec.goal"']),
    ("an unknown nested field", JOB, "spec.training.epoch", 3, ['unknown field "spec.training.epoch"']),
    ("no spec", JOB, "spec", REMOVED, ["spec: Required value"]),
    ("no base model", JOB, "spec.baseModel", REMOVED, ["spec.baseModel: Required value"]),
    ("no dataset", JOB, "spec.dataset", REMOVED, ["spec.dataset: Required value"]),
    ("no output", JOB, "spec.output", REMOVED, ["spec.output: Required value"]),
    ("a name of 41 characters", JOB, "metadata.name", "n" * 41, ["metadata.name", "at most 40"]),
    ("a name with a dot", JOB, "metadata.name", "drug.reviews", ["metadata.name", "hyphens"]),
    ("a name that starts with a digit", JOB, "metadata.name", "1st", ["metadata.name", "starting with a letter"]),
    ("a model scheme nobody knows", JOB, "spec.baseModel.source", "s3://b/m",
     ["spec.baseModel.source", "must be hf://ORG/NAME"]),
    ("a model in a configmap", JOB, "spec.baseModel.source", "configmap://m/f",
     ["spec.baseModel.source", "pvc://CLAIM/PATH"]),
    ("a model path that leaves the volume", JOB, "spec.baseModel.source", "pvc://c/../../etc",
     ["spec.baseModel.source", "pvc://CLAIM/PATH"]),
    ("a model source of 513 characters", JOB, "spec.baseModel.source", "pvc://c/" + "a" * 505,
     ["spec.baseModel.source", "512"]),
    ("an unpinned hf model", FULL, "spec.baseModel.revision", REMOVED,
     ["spec.baseModel.revision", "must be pinned", "set revision to the commit"]),
    ("a branch instead of a commit", FULL, "spec.baseModel.revision", "main",
     ["spec.baseModel.revision", "40 hex digits"]),
    ("a revision on a volume", JOB, "spec.baseModel.revision", "a" * 40,
     ["spec.baseModel.revision", "only hf:// models have a revision; remove it"]),
    ("credentials on a volume", JOB, "spec.baseModel.credentialsSecretRef", {"name": "token"},
     ["spec.baseModel.credentialsSecretRef", "remove credentialsSecretRef"]),
    ("a Secret without a name", FULL, "spec.baseModel.credentialsSecretRef", {},
     ["spec.baseModel.credentialsSecretRef.name: Required value"]),
    ("a Secret name that cannot exist", FULL, "spec.baseModel.credentialsSecretRef.name", "Hub_Token",
     ["spec.baseModel.credentialsSecretRef.name", "must be the name of an object"]),
    ("a short fingerprint", JOB, "spec.baseModel.fingerprint", "sha256:12",
     ["spec.baseModel.fingerprint", "64 hex digits"]),
    ("an unknown method", JOB, "spec.method", "QLoRA", ["spec.method", '"LoRA"', '"Full"']),
    ("a lora block with method Full", CPU, "spec.lora", {"rank": 8},
     ["spec.lora", "remove it, or set spec.method: LoRA"]),
    ("rank 0", FULL, "spec.lora.rank", 0, ["spec.lora.rank", "greater than or equal to 1"]),
    ("rank 257", FULL, "spec.lora.rank", 257, ["spec.lora.rank", "less than or equal to 256"]),
    ("alpha 0", FULL, "spec.lora.alpha", 0, ["spec.lora.alpha", "greater than or equal to 1"]),
    ("alpha 1025", FULL, "spec.lora.alpha", 1025, ["spec.lora.alpha", "less than or equal to 1024"]),
    ("a dataset scheme nobody knows", JOB, "spec.dataset.source", "https://example.com/x.jsonl",
     ["spec.dataset.source", "must be hf://datasets/ORG/NAME/FILE"]),
    ("an hf dataset without a file", FULL, "spec.dataset.source", "hf://datasets/org/name",
     ["spec.dataset.source", "hf://datasets/ORG/NAME/FILE"]),
    ("a configmap without a key", JOB, "spec.dataset.source", "configmap://drug-reviews",
     ["spec.dataset.source", "configmap://NAME/KEY"]),
    ("an unpinned hf dataset", FULL, "spec.dataset.revision", REMOVED,
     ["spec.dataset.revision", "must be pinned"]),
    ("a revision on a configmap", JOB, "spec.dataset.revision", "a" * 40,
     ["spec.dataset.revision", "only hf:// datasets have a revision"]),
    ("credentials on a configmap", JOB, "spec.dataset.credentialsSecretRef", {"name": "x"},
     ["spec.dataset.credentialsSecretRef", "remove credentialsSecretRef"]),
    ("no epochs at all", FULL, "spec.training.epochs", 0, ["spec.training.epochs", "greater than or equal to 1"]),
    ("26 epochs", FULL, "spec.training.epochs", 26, ["spec.training.epochs", "less than or equal to 25"]),
    ("epochs as text", FULL, "spec.training.epochs", "3", ["spec.training.epochs", "integer"]),
    ("a learning rate of 0.02", FULL, "spec.training.learningRate", "0.02",
     ["spec.training.learningRate", "at most 1e-2"]),
    ("a learning rate of 1e-7", FULL, "spec.training.learningRate", "1e-7",
     ["spec.training.learningRate", "above 1e-7"]),
    ("a learning rate that is no number", FULL, "spec.training.learningRate", "fast",
     ["spec.training.learningRate", "must be a number as a string"]),
    ("a learning rate that is not text", FULL, "spec.training.learningRate", 0.001,
     ["spec.training.learningRate", "string"]),
    ("a batch of 0 rows", FULL, "spec.training.effectiveBatchSize", 0,
     ["spec.training.effectiveBatchSize", "greater than or equal to 1"]),
    ("a batch of 1025 rows", FULL, "spec.training.effectiveBatchSize", 1025,
     ["spec.training.effectiveBatchSize", "less than or equal to 1024"]),
    ("a batch that 2 x 4 GPUs cannot share", FULL, "spec.training.effectiveBatchSize", 12,
     ["spec.training", "effectiveBatchSize must be divisible by the number of processes"]),
    ("a batch that two processes cannot share", CPU, "spec.training.effectiveBatchSize", 3,
     ["effectiveBatchSize must be divisible"]),
    ("rows of 15 tokens", FULL, "spec.training.maxLength", 15, ["spec.training.maxLength", "16"]),
    ("rows of 131073 tokens", FULL, "spec.training.maxLength", 131073, ["spec.training.maxLength", "131072"]),
    ("a negative seed", FULL, "spec.training.seed", -1, ["spec.training.seed", "greater than or equal to 0"]),
    ("a seed of 2^31", FULL, "spec.training.seed", 2**31, ["spec.training.seed", "2147483647"]),
    ("no evaluation", JOB, "spec.evaluation", REMOVED,
     ["spec.evaluation", "set spec.evaluation.dataset and graders", "accept: [EvalMissing]"]),
    ("an evaluation that accepts something else", CPU, "spec.evaluation.accept", ["CheckTaskOrData"],
     ["spec.evaluation", "accept: [EvalMissing]"]),
    ("a hold-out without graders", JOB, "spec.evaluation.graders", REMOVED,
     ["spec.evaluation.dataset and spec.evaluation.graders belong together"]),
    ("graders without a hold-out", JOB, "spec.evaluation.dataset", REMOVED,
     ["spec.evaluation.dataset and spec.evaluation.graders belong together"]),
    ("an empty list of graders", JOB, "spec.evaluation.graders", [], ["spec.evaluation.graders", "at least 1"]),
    ("nine graders", FULL, "spec.evaluation.graders",
     [{"name": f"g{n}", "type": "ExactMatch"} for n in range(9)],
     ["spec.evaluation.graders", "at most 8"]),
    ("two graders of one name", FULL, "spec.evaluation.graders", [GRADER, GRADER],
     ["spec.evaluation.graders[1]", "Duplicate value"]),
    ("an unknown grader", JOB, "spec.evaluation.graders", [{"name": "x", "type": "Judge"}],
     ["spec.evaluation.graders[0].type", '"ExactMatch", "FieldMatch", "JsonSchema"']),
    ("a grader without a name", JOB, "spec.evaluation.graders", [{"type": "ExactMatch"}],
     ["spec.evaluation.graders[0].name: Required value"]),
    ("a grader name with a space", JOB, "spec.evaluation.graders.0.name", "my grader",
     ["spec.evaluation.graders[0].name", "lower-case letters, digits and hyphens"]),
    ("FieldMatch without fields", JOB, "spec.evaluation.graders", [{"name": "f", "type": "FieldMatch"}],
     ["spec.evaluation.graders[0].fields", "list the JSON fields"]),
    ("FieldMatch with no field", JOB, "spec.evaluation.graders",
     [{"name": "f", "type": "FieldMatch", "fields": []}],
     ["spec.evaluation.graders[0].fields", "at least 1"]),
    ("one field twice", JOB, "spec.evaluation.graders",
     [{"name": "f", "type": "FieldMatch", "fields": ["a", "a"]}],
     ["spec.evaluation.graders[0].fields[1]", "Duplicate value"]),
    ("fields on ExactMatch", JOB, "spec.evaluation.graders", [{**GRADER, "fields": ["a"]}],
     ["spec.evaluation.graders[0].fields", "belongs to type FieldMatch"]),
    ("JsonSchema without a schema", JOB, "spec.evaluation.graders", [{"name": "f", "type": "JsonSchema"}],
     ["spec.evaluation.graders[0].schema", "give a JSON Schema"]),
    ("a schema on ExactMatch", JOB, "spec.evaluation.graders", [{**GRADER, "schema": "{}"}],
     ["spec.evaluation.graders[0].schema", "belongs to type JsonSchema"]),
    ("a schema over 16 KiB", JOB, "spec.evaluation.graders",
     [{"name": "f", "type": "JsonSchema", "schema": "{" + " " * 16384 + "}"}],
     ["spec.evaluation.graders[0].schema", "16384"]),
    ("a primary that no grader has", FULL, "spec.evaluation.primary", "accuracy",
     ["spec.evaluation.primary", "must be the name of one of spec.evaluation.graders"]),
    ("several graders and no primary", FULL, "spec.evaluation.primary", REMOVED,
     ["spec.evaluation.primary", "set spec.evaluation.primary"]),
    ("a gate above 1", FULL, "spec.evaluation.gate.minDelta", "5",
     ["spec.evaluation.gate.minDelta", "a fraction from 0 to 1"]),
    ("a negative gate", FULL, "spec.evaluation.gate.minDelta", "-0.1",
     ["spec.evaluation.gate.minDelta", "a fraction from 0 to 1"]),
    ("answers of no token", FULL, "spec.evaluation.maxTokens", 0, ["spec.evaluation.maxTokens", "1"]),
    ("answers of 8193 tokens", FULL, "spec.evaluation.maxTokens", 8193, ["spec.evaluation.maxTokens", "8192"]),
    ("an unknown verdict accepted", FULL, "spec.evaluation.accept", ["Everything"],
     ["spec.evaluation.accept[0]", '"CheckTaskOrData"']),
    ("a verdict accepted twice", FULL, "spec.evaluation.accept", ["EvalMissing", "EvalMissing"],
     ["spec.evaluation.accept[1]", "Duplicate value"]),
    ("an unpinned hf hold-out", FULL, "spec.evaluation.dataset.revision", REMOVED,
     ["spec.evaluation.dataset.revision", "must be pinned"]),
    ("no nodes", FULL, "spec.resources.nodes", 0, ["spec.resources.nodes", "greater than or equal to 1"]),
    ("65 nodes", FULL, "spec.resources.nodes", 65, ["spec.resources.nodes", "less than or equal to 64"]),
    ("-1 GPUs", FULL, "spec.resources.gpusPerNode", -1, ["spec.resources.gpusPerNode", "0"]),
    ("17 GPUs", FULL, "spec.resources.gpusPerNode", 17, ["spec.resources.gpusPerNode", "16"]),
    ("processes per node with GPUs", FULL, "spec.resources.processesPerNode", 4,
     ["spec.resources.processesPerNode", "remove processesPerNode, or set gpusPerNode: 0"]),
    ("17 processes", CPU, "spec.resources.processesPerNode", 17, ["spec.resources.processesPerNode", "16"]),
    ("no processes", CPU, "spec.resources.processesPerNode", 0, ["spec.resources.processesPerNode", "1"]),
    ("a GPU type without GPUs", CPU, "spec.resources.gpuType", "h200",
     ["spec.resources.gpuType", "remove gpuType or ask for GPUs"]),
    ("a cpu quantity that is none", FULL, "spec.resources.cpu", "many",
     ["spec.resources.cpu", "positive Kubernetes quantity"]),
    ("a cpu quantity that is no text", FULL, "spec.resources.cpu", 8, ["spec.resources.cpu", "string"]),
    ("no memory", FULL, "spec.resources.memory", "0", ["spec.resources.memory", "positive"]),
    ("negative shared memory", FULL, "spec.resources.sharedMemory", "-1Gi",
     ["spec.resources.sharedMemory", "positive"]),
    ("a long node label", FULL, "spec.nodeSelector", {"pool": "x" * 64}, ["spec.nodeSelector", "63"]),
    ("33 node labels", FULL, "spec.nodeSelector", {f"l{n}": "x" for n in range(33)},
     ["spec.nodeSelector", "at most 32"]),
    ("33 tolerations", FULL, "spec.tolerations", [{"key": f"k{n}"} for n in range(33)],
     ["spec.tolerations", "at most 32"]),
    ("an unknown taint effect", FULL, "spec.tolerations.0.effect", "Never",
     ["spec.tolerations[0].effect", '"NoSchedule"']),
    ("an unknown toleration operator", FULL, "spec.tolerations.0.operator", "In",
     ["spec.tolerations[0].operator", '"Exists"']),
    ("a claim with a size", CPU, "spec.workspace.size", "1Gi",
     ["spec.workspace.claimName", "remove it, or remove size and storageClassName"]),
    ("a claim with a class", CPU, "spec.workspace.storageClassName", "fast",
     ["spec.workspace.claimName", "remove it"]),
    ("a size that is none", FULL, "spec.workspace.size", "big", ["spec.workspace.size", "for example"]),
    ("an output on the Hub", JOB, "spec.output.destination", "hf://org/name",
     ["spec.output.destination", "must be pvc://CLAIM/PATH"]),
    ("an output on a volume's root", JOB, "spec.output.destination", "pvc://adapters",
     ["spec.output.destination", "must be pvc://CLAIM/PATH"]),
    ("suspend as text", JOB, "spec.suspend", "yes", ["spec.suspend", "boolean"]),
    ("a negative time to live", JOB, "spec.ttlSecondsAfterFinished", -1,
     ["spec.ttlSecondsAfterFinished", "greater than or equal to 0"]),
    ("a server with a long name", SERVER, "metadata.name", "n" * 41, ["metadata.name", "at most 40"]),
    ("a server without a base", SERVER, "spec.baseModel", REMOVED, ["spec.baseModel: Required value"]),
    ("a server without a store", SERVER, "spec.artifactStore", REMOVED, ["spec.artifactStore: Required value"]),
    ("a store with a path", SERVER, "spec.artifactStore", "pvc://adapters/team",
     ["spec.artifactStore", "must be pvc://CLAIM"]),
    ("a server of an unpinned base", SERVER, "spec.baseModel.source", "hf://org/name",
     ["spec.baseModel.revision", "must be pinned"]),
    ("-1 replicas", SERVER, "spec.replicas", -1, ["spec.replicas", "greater than or equal to 0"]),
    ("65 replicas", SERVER, "spec.replicas", 65, ["spec.replicas", "less than or equal to 64"]),
    ("a server with 17 GPUs", SERVER, "spec.resources.gpus", 17, ["spec.resources.gpus", "16"]),
    ("a server with -1 GPUs", SERVER, "spec.resources.gpus", -1, ["spec.resources.gpus", "0"]),
    ("a server with a GPU type and no GPU", BIG_SERVER, "spec.resources.gpus", 0,
     ["spec.resources.gpuType", "remove gpuType or ask for GPUs"]),
    ("a server with odd memory", SERVER, "spec.resources.memory", "lots", ["spec.resources.memory", "quantity"]),
    ("no slots", SERVER, "spec.maxLoras", 0, ["spec.maxLoras", "1"]),
    ("65 slots in a batch", SERVER, "spec.maxLoras", 65, ["spec.maxLoras", "64"]),
    ("fewer slots than a batch mixes", BIG_SERVER, "spec.maxCpuLoras", 3,
     ["spec.maxCpuLoras", "at least spec.maxLoras", "raise it or leave it out"]),
    ("fewer slots than the default batch mixes", SERVER, "spec.maxCpuLoras", 3,
     ["spec.maxCpuLoras", "at least spec.maxLoras"]),
    ("1025 slots", SERVER, "spec.maxCpuLoras", 1025, ["spec.maxCpuLoras", "1024"]),
    ("a rank the engine does not know", SERVER, "spec.maxLoraRank", 48, ["spec.maxLoraRank", "64", "128"]),
    ("requests of 15 tokens", SERVER, "spec.maxModelLength", 15, ["spec.maxModelLength", "16"]),
    ("requests of 2^31 tokens", SERVER, "spec.maxModelLength", 2**31, ["spec.maxModelLength", "10485760"]),
    ("keys without a Secret", SERVER, "spec.apiKeys", {}, ["spec.apiKeys.secretRef: Required value"]),
    ("a long name of a deployment", DEPLOYMENT, "metadata.name", "n" * 41, ["metadata.name", "at most 40"]),
    ("no server", DEPLOYMENT, "spec.serverRef", REMOVED, ["spec.serverRef: Required value"]),
    ("no alias", DEPLOYMENT, "spec.alias", REMOVED, ["spec.alias: Required value"]),
    ("an alias with a slash", DEPLOYMENT, "spec.alias", "team/model", ["spec.alias", "starting with a letter"]),
    ("an alias of 64 characters", DEPLOYMENT, "spec.alias", "a" * 64, ["spec.alias", "63"]),
    ("no adapter", DEPLOYMENT, "spec.adapter", REMOVED, ["spec.adapter: Required value"]),
    ("an empty adapter", DEPLOYMENT, "spec.adapter", {}, ["spec.adapter", "exactly one form"]),
    ("both adapter forms", DEPLOYMENT, "spec.adapter",
     {"fineTuneJobRef": {"name": "a"}, "source": "pvc://a/b", "digest": DIGEST},
     ["spec.adapter", "exactly one form: fineTuneJobRef alone, or source together with digest"]),
    ("a source without a digest", PINNED, "spec.adapter.digest", REMOVED, ["spec.adapter", "with digest"]),
    ("a digest without a source", PINNED, "spec.adapter.source", REMOVED, ["spec.adapter", "source together"]),
    ("a digest that is none", PINNED, "spec.adapter.digest", "latest", ["spec.adapter.digest", "64 hex digits"]),
    ("an adapter on the Hub", PINNED, "spec.adapter.source", "hf://org/name",
     ["spec.adapter.source", "must be pvc://CLAIM/PATH"]),
]  # fmt: skip

# what is changed, sample, dotted path, value, what the message says
CHANGES: list[tuple[str, str, str, Any, list[str]]] = [
    ("another dataset", JOB, "spec.dataset.source", "pvc://other/train.jsonl",
     ["spec", "spec cannot be changed", "Create a FineTuneJob with a new name"]),
    ("another grader", JOB, "spec.evaluation.graders.0.name", "other", ["spec cannot be changed"]),
    ("a setting that was left out", JOB, "spec.training", {"epochs": 2}, ["spec cannot be changed"]),
    ("a verdict no longer accepted", FULL, "spec.evaluation.accept", [], ["evaluation.accept may grow"]),
    ("a verdict swapped for another", FULL, "spec.evaluation.accept", ["NoClearImprovement"],
     ["evaluation.accept may grow"]),
    ("another base model", SERVER, "spec.baseModel.source", "pvc://base-models/other",
     ["spec.baseModel", "cannot be changed", "create a ModelServer with a new name"]),
    ("another alias", DEPLOYMENT, "spec.alias", "other", ["spec.alias", "cannot be changed", "new name"]),
    ("another server", DEPLOYMENT, "spec.serverRef.name", "other",
     ["spec.serverRef", "cannot be changed", "create a new AdapterDeployment"]),
]  # fmt: skip

ALLOWED: list[tuple[str, str, str, Any]] = [
    ("suspending", JOB, "spec.suspend", True),
    ("a time to live", JOB, "spec.ttlSecondsAfterFinished", 60),
    ("no time to live", FULL, "spec.ttlSecondsAfterFinished", REMOVED),
    ("a first accepted verdict", JOB, "spec.evaluation.accept", ["CheckTaskOrData"]),
    ("one more accepted verdict", FULL, "spec.evaluation.accept", ["NoClearImprovement", "CheckTaskOrData"]),
    ("more replicas", SERVER, "spec.replicas", 3),
    ("other resources of a server", SERVER, "spec.resources", {"gpus": 2}),
    ("another adapter", DEPLOYMENT, "spec.adapter.fineTuneJobRef.name", "drug-reviews-v2"),
    ("the other form of adapter", DEPLOYMENT, "spec.adapter", {"source": "pvc://a/b", "digest": DIGEST}),
    ("an override", DEPLOYMENT, "spec.allowUnpromoted", True),
]

# Optional fields of the full sample whose removal is a change and nothing else that is wrong.
REMOVALS = [
    "baseModel.fingerprint",
    "baseModel.credentialsSecretRef",
    "method",
    "lora",
    "lora.rank",
    "lora.alpha",
    "dataset.credentialsSecretRef",
    "training",
    "training.epochs",
    "training.learningRate",
    "training.effectiveBatchSize",
    "training.maxLength",
    "training.seed",
    "evaluation.dataset.credentialsSecretRef",
    "evaluation.gate",
    "evaluation.maxTokens",
    "resources.gpuType",
    "resources.cpu",
    "resources.memory",
    "resources.sharedMemory",
    "nodeSelector",
    "tolerations",
    "workspace",
    "workspace.storageClassName",
    "workspace.size",
]


@pytest.mark.parametrize(("name", "path", "value", "says"), [w[1:] for w in WRONG], ids=[w[0] for w in WRONG])
def test_a_wrong_object_is_refused(api: Api, name: str, path: str, value: Any, says: list[str]) -> None:
    response = api.check(changed(sample(name), path, value))
    assert response.status_code in (400, 422), response.text
    message = response.json()["message"]
    assert [part for part in says if part not in message] == [], message


@pytest.mark.parametrize(
    ("name", "path", "value", "says"), [c[1:] for c in CHANGES], ids=[c[0] for c in CHANGES]
)
def test_a_forbidden_change_is_refused(
    api: Api, stored: dict[str, Any], name: str, path: str, value: Any, says: list[str]
) -> None:
    response = api.check_update(stored[name], changed(sample(name), path, value))
    assert response.status_code == 422, response.text
    message = response.json()["message"]
    assert [part for part in says if part not in message] == [], message


@pytest.mark.parametrize(("name", "path", "value"), [c[1:] for c in ALLOWED], ids=[c[0] for c in ALLOWED])
def test_what_may_change_is_accepted(
    api: Api, stored: dict[str, Any], name: str, path: str, value: Any
) -> None:
    response = api.check_update(stored[name], changed(sample(name), path, value))
    assert response.status_code == 200, response.text


@pytest.mark.parametrize("path", REMOVALS)
def test_no_field_of_a_run_can_be_taken_away(api: Api, stored: dict[str, Any], path: str) -> None:
    response = api.check_update(stored[FULL], changed(sample(FULL), f"spec.{path}", REMOVED))
    assert response.status_code == 422, response.text
    assert "spec cannot be changed" in response.json()["message"]
