"""The JSON documents that enter and leave the trainer (docs/architecture.md, "Contracts")."""

from finetune_trainer.contracts.job import (
    BaseModelSpec,
    DatasetSpec,
    EvaluationSpec,
    GateSpec,
    GraderSpec,
    Job,
    LoraSpec,
    OutputSpec,
    PublishSpec,
    ResourcesSpec,
    Spec,
    TrainingSpec,
    read_job,
)
from finetune_trainer.contracts.manifest import (
    AdapterManifest,
    DataDigests,
    ManifestBase,
    ManifestFile,
    ManifestJob,
    ManifestLora,
)
from finetune_trainer.contracts.result import Outcome, Result
from finetune_trainer.contracts.schema import json_schemas

__all__ = [
    "AdapterManifest",
    "BaseModelSpec",
    "DataDigests",
    "DatasetSpec",
    "EvaluationSpec",
    "GateSpec",
    "GraderSpec",
    "Job",
    "LoraSpec",
    "ManifestBase",
    "ManifestFile",
    "ManifestJob",
    "ManifestLora",
    "Outcome",
    "OutputSpec",
    "PublishSpec",
    "ResourcesSpec",
    "Result",
    "Spec",
    "TrainingSpec",
    "json_schemas",
    "read_job",
]
