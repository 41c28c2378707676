"""A running attempt as users see it: what it waits for and for how long, how far it is, whether it hangs."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta

from finetune_operator.api.conditions import clip
from finetune_operator.api.finetunejobstatus import CODE_STAGES, Attempt, Progress, Waiting
from finetune_operator.core.actions import Manifest
from finetune_operator.core.manifests import text
from finetune_operator.core.times import format_time, moment_of
from finetune_operator.observe.graders import grader_trouble
from finetune_operator.observe.outcome import SUSPECT, AttemptOutcome
from finetune_operator.observe.trouble import Trouble, trouble_of
from finetune_operator.render.resources import on_gpus
from finetune_operator.stages import summaries
from finetune_operator.stages.decision import Stage
from finetune_operator.stages.observed import Run
from finetune_operator.stages.train import saving_seconds

HANG_STEPS = 20
"""A step that takes so many times the median is a hang, if it also takes the administrator's least time."""
SILENCE_SECONDS = 60


def trouble_now(
    run: Run, attempt: Attempt, child: Manifest, pods: Sequence[Manifest], progress: Progress | None
) -> Trouble | None:
    """What keeps the attempt from working: its pods, or a step that does not end."""
    found = trouble_of(run.job, child, pods, run.settings, run.now)
    if attempt.stage in CODE_STAGES:
        return grader_trouble(run.job, pods, found, run.settings.stuck_deadline_seconds, run.now)
    return found or _hang(run, attempt, pods, progress)


def waiting_for(run: Run, trouble: Trouble) -> Waiting:
    """The trouble with its begin and its deadline.

    The begin is noted in the status, since Kubernetes does not tell when a container began to wait. A pod
    that came after an older trouble of the same sort has its own time.
    """
    known = run.status.waiting
    noted = moment_of(known.since) if known is not None and known.reason == trouble.reason else None
    same_node = trouble.node and known is not None and known.node == trouble.node
    times = (noted,) if noted and same_node else (noted, trouble.since)
    since = max(filter(None, times), default=run.now)
    limit = trouble.deadline_seconds
    return Waiting(
        reason=trouble.reason,
        message=clip(trouble.message),
        node=trouble.node or None,
        since=format_time(since),
        until=None if limit is None else format_time(since + timedelta(seconds=limit)),
    )


def given_up(run: Run, trouble: Trouble, waiting: Waiting) -> AttemptOutcome | None:
    """How the attempt ends because of its trouble; None while it may go on waiting."""
    until, since = moment_of(waiting.until), moment_of(waiting.since)
    noted = run.job.status.waiting is not None and run.job.status.waiting.reason == waiting.reason
    if until is None or since is None or run.now < until or not noted:
        return None  # what was not noted yet may be news of an old cache; once noted the pods are read live
    lasted = int((run.now - since).total_seconds())
    limit = (
        f" This has lasted {lasted} s, longer than the administrator allows."
        if trouble.deadline_seconds
        else ""
    )
    node = trouble.node if trouble.outcome in SUSPECT else None
    message = trouble.message + limit
    return AttemptOutcome(False, trouble.outcome, message, node=node or None, grader=trouble.grader)


def progress_now(run: Run, stage: Stage) -> Progress | None:
    """The progress to show: what the stage serves, with when it last moved and since when it is silent."""
    shown, reported = run.status.progress, summaries.progress(run.observed.progress, stage.name)
    if reported is None:
        return None
    same = shown is not None and shown.step == reported.step
    stepped = shown.stepped_at if shown is not None and same else None
    return reported.model_copy(
        update={"stepped_at": stepped or format_time(run.now), "silent_since": _silent_since(run)}
    )


def _silent_since(run: Run) -> str | None:
    at = run.observed.progress_at
    if at is None or not run.observed.progress_failed:
        return None
    silent = run.now - at >= timedelta(seconds=SILENCE_SECONDS)
    return format_time(at) if silent else None


def seconds_until_hang(run: Run, attempt: Attempt, progress: Progress | None) -> float | None:
    """When to look again, as a frozen process tells nothing new; None where no step is timed."""
    timed = _timed(run, attempt, progress)
    if timed is None:
        return None
    since, limit = timed
    return max(0.0, limit - (run.now - since).total_seconds())


def _hang(run: Run, attempt: Attempt, pods: Sequence[Manifest], progress: Progress | None) -> Trouble | None:
    """A step that does not end. The trainer ends itself; one that cannot is ended at twice the time."""
    timed = _timed(run, attempt, progress)
    if timed is None or progress is None:
        return None
    since, limit = timed
    if run.now - since < timedelta(seconds=limit):
        return None
    node = text(pods[0], "spec", "nodeName") if len(pods) == 1 else None  # of a gang any may be the cause
    return Trouble("Hang", _standing_still(progress, since), "Hang", since, 2 * limit, node=node)


def _timed(run: Run, attempt: Attempt, progress: Progress | None) -> tuple[datetime, float] | None:
    """Since when the step goes on, and how many seconds it may take.

    A stage that the operator cannot reach is not one that hangs. Until a training step is measured only the
    trainer knows how long loading and compiling may take.
    """
    if attempt.reemits or not on_gpus(run.job, attempt.stage) or progress is None:
        return None
    since = moment_of(progress.stepped_at)
    unmeasured = attempt.stage == "train" and progress.step_seconds is None
    if since is None or progress.silent_since is not None or unmeasured:
        return None
    saving = saving_seconds(run.status.plan) if attempt.stage == "train" else 0
    return since, max(run.settings.hang_deadline_seconds, HANG_STEPS * _usual(progress)) + saving


def _usual(progress: Progress) -> float:
    """What a step took before, in seconds; 0 while unknown."""
    return summaries.as_number(progress.step_seconds) or 0


def _standing_still(progress: Progress, since: datetime) -> str:
    usual = _usual(progress)
    step = f"Step {progress.step} of {progress.total_steps or '?'}"
    took = f"; a step took {usual:.1f} s before" if usual else ""
    return f"{step} was the last to end, at {format_time(since)}{took}. See the log of the pod."
