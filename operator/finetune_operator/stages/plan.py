"""One reconcile of a FineTuneJob: which stage is due, one step of it, and the end when none is left."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime

from finetune_operator.api.conditions import Fact
from finetune_operator.api.finetunejob import FineTuneJob
from finetune_operator.api.finetunejobstatus import FineTuneJobStatus
from finetune_operator.contracts.settings import Settings
from finetune_operator.core.actions import Plan
from finetune_operator.stages import prepare, publish, scoring, train
from finetune_operator.stages.attempts import condensed, of_stage
from finetune_operator.stages.cleanup import after_end, superseded
from finetune_operator.stages.decision import (
    Decision,
    Stage,
    begun,
    ended,
    evaluated,
    fold,
    merged,
    recorded,
    runs_code,
)
from finetune_operator.stages.money import accounted, cost_so_far
from finetune_operator.stages.observed import Observed, Run
from finetune_operator.stages.step import step

CHAIN = (
    prepare.STAGE,
    scoring.BASELINE,
    scoring.GRADE_BASE,
    train.STAGE,
    scoring.EVALUATE,
    scoring.GRADE_TUNED,
    publish.STAGE,
)
_SCORING = (scoring.BASELINE, scoring.EVALUATE)
_CODE = (scoring.GRADE_BASE, scoring.GRADE_TUNED)
_SKIPPED = "Skipped: the run has no evaluation, which spec.evaluation.accept allows (EvalMissing)."


def plan(observed: Observed, settings: Settings, now: datetime) -> Plan:
    """Decide children and status. What deleting the run leaves behind goes by owner references."""
    if observed.job.metadata.deletion_timestamp is not None:
        return Plan()
    run = _accounted(Run(observed, settings, observed.job.status, now))
    if ended(run.status):
        decision = after_end(run)
        return Plan(decision.actions, run.status.to_status(), decision.again)
    run = replace(run, status=begun(run.status, observed.job.metadata.generation, now))
    stage = due(run.job, run.status)
    decision = step(run, stage) if stage is not None else Decision()
    status = _next(run, decision)
    actions = (*decision.actions, *superseded(run))
    if not ended(status) and status.artifact is not None:
        conclusion = publish.conclude(run.job, status.artifact, status.scores)
        status, actions = _folded(run, status, conclusion), (*actions, *conclusion.actions)
    return Plan(actions, status.to_status(), None if ended(status) else decision.again)


def due(job: FineTuneJob, status: FineTuneJobStatus) -> Stage | None:
    """The first stage that has not succeeded; None once there is an artifact to conclude from."""
    if status.artifact is not None:
        return None
    for stage in CHAIN:
        attempts = of_stage(status.attempts, stage.name)
        done = bool(attempts) and attempts[-1].state == "Succeeded"
        if not done and not _skipped(job, stage):
            return stage
    return None


def _skipped(job: FineTuneJob, stage: Stage) -> bool:
    unscored = stage in (*_SCORING, *_CODE) and not evaluated(job)
    return unscored or (stage in _CODE and not runs_code(job))


def _accounted(run: Run) -> Run:
    """The run with its money brought up to what its pods show, and a list of attempts that stays short."""
    changed = accounted(run.status.attempts, run.observed.pods, run.now)
    attempts = condensed(recorded(run.status.attempts, changed))
    status = run.status.model_copy(update={"attempts": attempts})
    cost = cost_so_far(run.job, run.settings, status, run.now)
    return replace(run, status=status.model_copy(update={"cost": merged(status.cost, cost)}))


def _next(run: Run, decision: Decision) -> FineTuneJobStatus:
    skipped = (
        [] if evaluated(run.job) else [Fact(s.condition, False, "EvalMissing", _SKIPPED) for s in _SCORING]
    )
    return _folded(run, run.status, decision.adding(*skipped))


def _folded(run: Run, status: FineTuneJobStatus, decision: Decision) -> FineTuneJobStatus:
    return fold(status, decision, run.job.metadata.generation, run.now)
