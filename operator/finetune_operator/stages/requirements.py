"""What must exist before a stage can start. A missing object is named and waited for: nothing is lost."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from finetune_operator.contracts.settings import Settings
from finetune_operator.core.manifests import mapping, text
from finetune_operator.core.sources import SourceError
from finetune_operator.render.job import access_mode
from finetune_operator.render.names import workspace_name
from finetune_operator.render.volumes import sources, workspace_claim
from finetune_operator.stages.money import price_problem
from finetune_operator.stages.observed import Observed
from finetune_operator.stages.stage import evaluated


@dataclass(frozen=True)
class Violation:
    """Why a stage cannot start, in a word and in a sentence that names the object and the remedy."""

    reason: str
    message: str


def violation(observed: Observed, settings: Settings, stage: str) -> Violation | None:
    """The first thing that keeps a stage from starting."""
    checks: tuple[Callable[[], Iterator[Violation]], ...] = (
        lambda: _evaluation(observed),
        lambda: _gpu_type(observed, settings),
        lambda: _price(observed, settings),
        lambda: _addresses(observed, stage),
        lambda: _workspace(observed, stage),
        lambda: _credentials(observed),
    )
    return next((found for check in checks for found in check()), None)


def _evaluation(observed: Observed) -> Iterator[Violation]:
    job = observed.job
    if not evaluated(job) and "EvalMissing" not in job.spec.accepted:
        yield Violation(
            "EvalMissing",
            "Nobody could say whether the result is better: set spec.evaluation.dataset and graders, or add "
            "EvalMissing to spec.evaluation.accept.",
        )


def _gpu_type(observed: Observed, settings: Settings) -> Iterator[Violation]:
    problem = settings.gpu_type_problem(observed.job.spec.resources.gpu_type)
    if problem is not None:
        yield Violation("UnknownGpuType", problem)


def _price(observed: Observed, settings: Settings) -> Iterator[Violation]:
    problem = price_problem(observed.job, settings)
    if problem is not None:
        yield Violation("NoPrice", problem)


def _addresses(observed: Observed, stage: str) -> Iterator[Violation]:
    try:
        found = sources(observed.job)
    except SourceError as error:
        yield Violation("InvalidSource", str(error))
        return
    for field, source in found.items():
        if source.scheme == "pvc" and (stage == "prepare" or "dataset" not in field):
            yield from _claim(observed, field, source.claim or "")
        if source.scheme == "configmap" and stage == "prepare":
            yield from _config_map(observed, field, source.name or "", source.path)


def _claim(observed: Observed, field: str, claim: str) -> Iterator[Violation]:
    if claim not in observed.claims:
        yield Violation(
            "ClaimNotFound",
            f"{field} names PersistentVolumeClaim {claim}, which is not in this namespace; create it.",
        )
    elif text(observed.claims[claim], "status", "phase") == "Lost":
        message = f"{field} names PersistentVolumeClaim {claim}, whose volume is lost; create it again."
        yield Violation("ClaimLost", message)


def _config_map(observed: Observed, field: str, name: str, key: str) -> Iterator[Violation]:
    if name not in observed.configmaps:
        yield Violation(
            "ConfigMapNotFound",
            f"{field} names ConfigMap {name}, which is not in this namespace; create it with the key {key}.",
        )
    elif f"{name}/{key}" not in observed.configmaps:
        message = f"{field} names the key {key}, which ConfigMap {name} does not have; add it."
        yield Violation("ConfigMapKeyNotFound", message)


def _workspace(observed: Observed, stage: str) -> Iterator[Violation]:
    job = observed.job
    claim = workspace_claim(job)
    ours = claim == workspace_name(job)
    found = observed.claims.get(claim)
    if found is None:
        if not ours:
            yield from _claim(observed, "spec.workspace.claimName", claim)
        elif stage != "prepare":
            yield Violation(
                "WorkspaceLost",
                f"PersistentVolumeClaim {claim}, the workspace of this run, was deleted, and with it the "
                "prepared data and the checkpoints; delete this FineTuneJob and create it again.",
            )
        return
    modes = mapping(found, "spec").get("accessModes")
    shared = isinstance(modes, (list, tuple)) and "ReadWriteMany" in modes
    if access_mode(job) == "ReadWriteMany" and not shared:
        yield Violation(
            "WorkspaceNotShared",
            f"spec.resources.nodes is {job.spec.resources.nodes}, so the workspace must be ReadWriteMany, "
            f"which PersistentVolumeClaim {claim} is not; name another claim in a new FineTuneJob.",
        )


def _credentials(observed: Observed) -> Iterator[Violation]:
    spec = observed.job.spec
    held_out = spec.evaluation.dataset if spec.evaluation is not None else None
    first = spec.dataset.credentials_secret_ref
    second = held_out.credentials_secret_ref if held_out is not None else None
    if first is not None and second is not None and first.name != second.name:
        yield Violation(
            "CredentialsDiffer",
            f"spec.dataset and spec.evaluation.dataset name different Secrets ({first.name}, {second.name}); "
            "one Secret serves both, so name the same Secret in a new FineTuneJob.",
        )
