"""The JSON documents that enter and leave the trainer (docs/contracts.md)."""

from finetune_trainer.contracts.evaluation import EvaluationSpec, GateSpec, GraderSpec
from finetune_trainer.contracts.job import (
    AcceleratorSpec,
    BudgetSpec,
    CalibrationSpec,
    GpuSpec,
    GradientCheckpointing,
    Job,
    LoraSpec,
    Method,
    Offload,
    OutputSpec,
    PublishSpec,
    ResourcesSpec,
    SavingsSpec,
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
from finetune_trainer.contracts.sources import BaseModelSpec, DatasetSpec, TrainingDatasetSpec

__all__ = [
    "AcceleratorSpec",
    "AdapterManifest",
    "BaseModelSpec",
    "BudgetSpec",
    "CalibrationSpec",
    "DataDigests",
    "DatasetSpec",
    "EvaluationSpec",
    "GateSpec",
    "GpuSpec",
    "GraderSpec",
    "GradientCheckpointing",
    "Job",
    "LoraSpec",
    "ManifestBase",
    "ManifestFile",
    "ManifestJob",
    "ManifestLora",
    "Method",
    "Offload",
    "Outcome",
    "OutputSpec",
    "PublishSpec",
    "ResourcesSpec",
    "Result",
    "SavingsSpec",
    "Spec",
    "TrainingDatasetSpec",
    "TrainingSpec",
    "json_schemas",
    "read_job",
]
