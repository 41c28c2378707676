"""What the models do not say of the kinds: short names, columns, subresources."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from finetune_operator.api.adapterdeployment import AdapterDeployment
from finetune_operator.api.finetunejob import FineTuneJob
from finetune_operator.api.modelserver import ModelServer
from finetune_operator.api.objects import ApiObject


@dataclass(frozen=True)
class Column:
    """A column of `kubectl get`; `wide` columns show with -o wide only."""

    name: str
    path: str
    description: str
    type: str = "string"
    wide: bool = False

    def as_schema(self) -> dict[str, Any]:
        """The column as an entry of additionalPrinterColumns."""
        column: dict[str, Any] = {"name": self.name, "type": self.type, "jsonPath": self.path}
        column["description"] = self.description
        return {**column, "priority": 1} if self.wide else column


@dataclass(frozen=True)
class Kind:
    """One kind as it is registered with the API server."""

    model: type[ApiObject]
    short: str
    columns: tuple[Column, ...]
    scale: dict[str, str] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """CamelCase name of the kind."""
        return self.model.kind_name


def _condition(kind: str, part: str) -> str:
    return f'.status.conditions[?(@.type=="{kind}")].{part}'


_AGE = Column("Age", ".metadata.creationTimestamp", "When it was created.", "date")

FINETUNEJOB = Kind(
    FineTuneJob,
    "ftj",
    (
        Column("Stage", ".status.stage", "What the run is doing."),
        Column("Progress%", ".status.progress.percent", "Share of the stage that is done.", "integer"),
        Column("ETA", ".status.progress.eta", "Expected time to the end of the stage."),
        Column("Base", ".status.scores.base.score", "Score of the base model."),
        Column("Tuned", ".status.scores.tuned.score", "Score of the tuned model."),
        Column("Succeeded", _condition("Succeeded", "reason"), "How the run ended, or why it has not."),
        _AGE,
        Column("Model", ".spec.baseModel.source", "The model that is tuned.", wide=True),
        Column("Cost", ".status.cost.spent", "What the run has cost so far.", wide=True),
        Column("Verdict", ".status.scores.verdict", "What the comparison says.", wide=True),
        Column("Message", _condition("Succeeded", "message"), "The state in words.", wide=True),
    ),
)

MODELSERVER = Kind(
    ModelServer,
    "msv",
    (
        Column("Ready", _condition("Ready", "status"), "Whether every replica answers."),
        Column("Replicas", ".status.readyReplicas", "Replicas that answer.", "integer"),
        Column("Adapters", ".status.adaptersServing", "Adapters that answer, of those that are wanted."),
        Column("Endpoint", ".status.endpoint", "Base URL for OpenAI clients."),
        _AGE,
        Column("Model", ".spec.baseModel.source", "The base model.", wide=True),
        Column(
            "Update",
            _condition("UpdateAvailable", "reason"),
            "Whether other pods wait to be taken.",
            wide=True,
        ),
        Column("Message", _condition("Ready", "message"), "The state in words.", wide=True),
    ),
    scale={
        "specReplicasPath": ".spec.replicas",
        "statusReplicasPath": ".status.replicas",
        "labelSelectorPath": ".status.selector",
    },
)

ADAPTERDEPLOYMENT = Kind(
    AdapterDeployment,
    "adep",
    (
        Column("Alias", ".spec.alias", "The model name that applications use."),
        Column("Server", ".spec.serverRef.name", "The ModelServer."),
        Column("Version", ".status.serving.version", "The version that answers now."),
        Column("Step", ".status.rollout.step", "The step of the rollout.", "integer"),
        Column(
            "Weight", ".status.rollout.weight", "How many of 100 requests the new version gets.", "integer"
        ),
        Column("Verdict", ".status.rollout.verdict", "What the analysis says of the step."),
        Column(
            "Evaluation",
            ".status.resolved.evaluation.outcome",
            "What let the wanted version be served: a passed evaluation, or something less.",
        ),
        Column("Ready", _condition("Ready", "status"), "Whether the wanted version answers."),
        Column("Reason", _condition("Ready", "reason"), "Why it does, or does not."),
        _AGE,
        Column("Base", _condition("FitsBase", "reason"), "Whether it was trained on this base.", wide=True),
        Column(
            "Delta", ".status.resolved.evaluation.delta.score", "Tuned model minus base, scored.", wide=True
        ),
        Column("Endpoint", ".status.endpoint", "Base URL for OpenAI clients.", wide=True),
        Column("Message", _condition("Ready", "message"), "The state in words.", wide=True),
    ),
)

KINDS = (FINETUNEJOB, MODELSERVER, ADAPTERDEPLOYMENT)
