"""One reconcile of a FineTuneJob: which stage is due, one step of it, and the end when none is left."""

from __future__ import annotations

from datetime import datetime

from finetune_operator.contracts.settings import Settings
from finetune_operator.core.actions import Plan
from finetune_operator.stages import baseline, evaluate, prepare, publish, train
from finetune_operator.stages.attempts import of_stage
from finetune_operator.stages.draft import Draft
from finetune_operator.stages.finish import after_end
from finetune_operator.stages.money import account, show_spent
from finetune_operator.stages.observed import Observed
from finetune_operator.stages.stage import Stage, evaluated
from finetune_operator.stages.step import Step

CHAIN = (prepare.STAGE, baseline.STAGE, train.STAGE, evaluate.STAGE, publish.STAGE)
_SCORING = (baseline.STAGE, evaluate.STAGE)


def plan(observed: Observed, settings: Settings, now: datetime) -> Plan:
    """Decide children and status. What deleting the run leaves behind goes by owner references."""
    if observed.job.metadata.deletion_timestamp is not None:
        return Plan()
    draft = Draft(observed.job, now)
    account(observed, draft)
    show_spent(draft, settings)
    if draft.ended:
        return after_end(observed, draft)
    draft.begin()
    stage = due(draft)
    again = Step(observed, settings, draft, stage).take() if stage is not None else None
    if not draft.ended and due(draft) is None:
        publish.conclude(draft)
    return draft.plan(None if draft.ended else again)


def due(draft: Draft) -> Stage | None:
    """The first stage that has not succeeded; None once there is an artifact to conclude from."""
    if draft.status.get("artifact"):
        return None
    for stage in CHAIN:
        if stage in _SCORING and not evaluated(draft.job):
            message = "Skipped: the run has no evaluation, which spec.evaluation.accept allows (EvalMissing)."
            draft.set(stage.condition, False, "EvalMissing", message)
            continue
        attempts = of_stage(draft.attempts, stage.name)
        if not attempts or attempts[-1].state != "Succeeded":
            return stage
    return None
