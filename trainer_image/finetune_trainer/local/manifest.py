"""A FineTuneJob as users write it, in YAML, made into what the operator would tell a stage."""

import json
from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from finetune_trainer.contracts import BudgetSpec, Job, Spec
from finetune_trainer.contracts.job import sentences
from finetune_trainer.errors import UserError

_KIND, _GROUP = "FineTuneJob", "finetune.dev/"
# What only concerns the cluster: where pods run, with what leave, and when they are stopped or deleted.
_OF_THE_CLUSTER = {
    (): {"workspace", "nodeSelector", "tolerations", "suspend", "ttlSecondsAfterFinished", "budget"},
    ("baseModel",): {"credentialsSecretRef"},
    ("dataset",): {"credentialsSecretRef"},
    ("evaluation",): {"accept", "engine"},
    ("evaluation", "dataset"): {"credentialsSecretRef"},
    ("evaluation", "regression"): set(),
    ("evaluation", "regression", "suites"): set(),
    ("evaluation", "regression", "suites", "dataset"): {"credentialsSecretRef"},
    ("evaluation", "judge"): {"credentialsSecretRef"},
    ("evaluation", "export"): set(),
    ("evaluation", "export", "mlflow"): {"credentialsSecretRef"},
    ("evaluation", "export", "openTelemetry"): {"credentialsSecretRef"},
    ("resources",): {"gpuType", "spot", "cpu", "memory", "sharedMemory"},
}


class _Loader(yaml.SafeLoader):
    """YAML in which a key that is there twice is an error, as it is for the API server."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [key.value for key, _ in node.value]
        if twice := sorted({str(key) for key in keys if keys.count(key) > 1}):
            text = f"{', '.join(twice)} is there twice"
            raise yaml.constructor.ConstructorError(None, None, text, node.start_mark)
        return super().construct_mapping(node, deep)


def read_manifest(path: Path) -> dict[str, Any]:
    """The one FineTuneJob of a file, which may hold other objects too; UserError with what is wrong."""
    try:
        documents = list(yaml.load_all(path.read_bytes(), _Loader))
    except OSError as error:
        raise UserError(
            f"{path} cannot be read ({error.strerror}); give a FineTuneJob with --job."
        ) from error
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        told = " ".join(str(error).split()) or type(error).__name__
        raise UserError(f"{path} is no YAML: {told}.") from error
    found = [item for item in documents if _is_job(item)]
    if len(found) != 1:
        text = f"{path} holds {len(found)} objects of kind {_KIND} ({_GROUP}v1alpha1)"
        raise UserError(f"{text}; give a file with one.")
    job: dict[str, Any] = found[0]
    return job


def job_of(manifest: Mapping[str, Any], where: str, **beside: Any) -> Job:
    """What prepare would be told; `beside` are GPUs. UserError names every wrong field."""
    given = manifest.get("spec")
    if not isinstance(given, dict):
        raise UserError(f"{where}: spec is missing; give a {_KIND}.")
    spec = _told(given, ())
    spec["resources"] = {"gpusPerNode": 1, **(spec.get("resources") or {})}  # the default of the kind
    digest = sha256(json.dumps(spec, sort_keys=True, default=str).encode()).hexdigest()
    metadata = manifest.get("metadata")
    named = metadata if isinstance(metadata, dict) else {}
    try:
        return Job(
            namespace=str(named.get("namespace", "default")),
            name=str(named.get("name", "job")),
            uid="local",
            stage="prepare",
            attempt=1,
            spec_digest=f"sha256:{digest}",
            input_digest=f"sha256:{digest}",
            spec=Spec.model_validate(_evaluated(spec, given, where)),
            budget=BudgetSpec.model_validate(given["budget"]) if given.get("budget") else None,
            **beside,
        )
    except ValidationError as error:
        raise UserError(f"{where}: {sentences(error)}") from error


def _is_job(item: Any) -> bool:
    return (
        isinstance(item, dict)
        and item.get("kind") == _KIND
        and str(item.get("apiVersion")).startswith(_GROUP)
    )


def _told(part: Any, path: tuple[str, ...]) -> Any:
    """A part of the spec without what only concerns the cluster; what is no object is left as it is."""
    if isinstance(part, list):
        return [_told(item, path) for item in part]
    if not isinstance(part, dict) or path not in _OF_THE_CLUSTER:
        return part
    kept = {key: value for key, value in part.items() if key not in _OF_THE_CLUSTER[path]}
    return {key: _told(value, (*path, key)) for key, value in kept.items()}


def _evaluated(spec: dict[str, Any], given: dict[str, Any], where: str) -> dict[str, Any]:
    """Without a hold-out there is no evaluation, which the user must have accepted (R4)."""
    evaluation = given.get("evaluation") or {}
    if not isinstance(evaluation, dict) or evaluation.get("dataset"):
        return spec
    if "EvalMissing" not in (evaluation.get("accept") or ()):
        text = f"{where}: a run needs an evaluation; set spec.evaluation.dataset and graders"
        raise UserError(f"{text}, or accept to ship without with spec.evaluation.accept: [EvalMissing].")
    return {**spec, "evaluation": None}
