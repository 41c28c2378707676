"""What ended attempts and ended runs leave behind: what must stop, what nobody needs any more."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import timedelta

from finetune_operator.api.finetunejobstatus import Attempt
from finetune_operator.core.actions import Action, Delete, Manifest
from finetune_operator.core.manifests import finished, name_of, terminating, text, uid_of, unfinished
from finetune_operator.core.times import moment_of
from finetune_operator.observe.trouble import overdue
from finetune_operator.render.names import workspace_name
from finetune_operator.render.volumes import workspace_claim
from finetune_operator.stages.attempts import of_stage
from finetune_operator.stages.decision import Decision
from finetune_operator.stages.observed import Run

KEPT = 2
"""The attempts of a stage whose Jobs stay, with their logs, until the run is cleaned up."""


@dataclass(frozen=True)
class Leftovers:
    """Jobs and pods of ended attempts that still run: two attempts must never share a workspace."""

    jobs: tuple[Manifest, ...]
    pods: tuple[Manifest, ...]


def leftovers(run: Run, attempts: Iterable[Attempt]) -> Leftovers | None:
    """What still runs of these attempts; None when nothing does."""
    names = [attempt.job for attempt in attempts]
    jobs = tuple(job for name in names if (job := run.observed.jobs.get(name)) and not finished(job))
    pods = tuple(pod for name in names for pod in unfinished(run.observed.pods.get(name, ())))
    return Leftovers(jobs, pods) if jobs or pods else None


def stopping(run: Run, left: Leftovers) -> tuple[Action, ...]:
    """Delete the Jobs, unless they ended after they were seen, and by force what a dead node keeps once the
    administrator's deadline is over.

    A node that is only cut off may still run such a pod: the deadline is when its GPUs count as lost.
    """
    limit = timedelta(seconds=run.settings.stuck_deadline_seconds)
    dead = [pod for pod in left.pods if overdue(pod, run.now - limit)]
    forced = (Delete("v1", "Pod", name_of(pod), uid_of(pod), grace_seconds=0) for pod in dead)
    return (*deleting("batch/v1", "Job", left.jobs, as_seen=True), *forced)


def whereabouts(left: Leftovers) -> str:
    """What is waited for, in a sentence."""
    if not left.pods:
        return f"The next attempt waits until Job {name_of(left.jobs[0])} of an earlier one is gone."
    pod = left.pods[0]
    node = text(pod, "spec", "nodeName")
    where = f"pod {name_of(pod)} ({f'node {node}' if node else 'no node'})"
    due = text(pod, "metadata", "deletionTimestamp")
    return f"The next attempt waits until {where} of an earlier one ends{f', due {due}' if due else ''}."


def superseded(run: Run) -> tuple[Action, ...]:
    """Delete the finished Jobs of a stage's earlier attempts: what they told is in the status."""
    stages = dict.fromkeys(attempt.stage for attempt in run.status.attempts)
    old = [a for stage in stages for a in of_stage(run.status.attempts, stage)[:-KEPT]]
    jobs = (run.observed.jobs.get(attempt.job) for attempt in old)
    doomed = deleting("batch/v1", "Job", (job for job in jobs if job is not None and finished(job)))
    return tuple(replace(delete, optional=True) for delete in doomed)


def after_end(run: Run) -> Decision:
    """The outcome is final: nothing is created any more. The object itself is never deleted."""
    left = _seconds_left(run)
    if left == 0:
        return Decision(actions=_everything(run))
    # An attempt may end while its Job is alive: an image that cannot be pulled.
    still = leftovers(run, run.status.attempts)
    actions = stopping(run, still) if still is not None else ()
    waits = run.settings.progress_seconds if still is not None else None
    return Decision(actions=actions, again=min(filter(None, (left, waits)), default=None))


def deleting(
    api_version: str, kind: str, children: Iterable[Manifest], *, as_seen: bool = False
) -> tuple[Delete, ...]:
    """Delete children, unless they are on their way already; pods, ConfigMap and Service go with a Job.

    `as_seen`: a Job that has ended since it was seen stays.
    """
    alive = (child for child in children if uid_of(child) and not terminating(child))
    return tuple(
        Delete(
            api_version,
            kind,
            name_of(child),
            uid_of(child),
            resource_version=text(child, "metadata", "resourceVersion") if as_seen else None,
        )
        for child in alive
    )


def _everything(run: Run) -> tuple[Action, ...]:
    jobs = deleting("batch/v1", "Job", (job for _, job in sorted(run.observed.jobs.items())))
    claim = workspace_name(run.job)
    ours = workspace_claim(run.job) == claim and claim in run.observed.claims
    claims = [run.observed.claims[claim]] if ours else []
    return (*jobs, *deleting("v1", "PersistentVolumeClaim", claims))


def _seconds_left(run: Run) -> float | None:
    """Until the clean-up is due: 0 when it is, None when there is none."""
    asked, ended = run.job.spec.ttl_seconds_after_finished, moment_of(run.status.completion_time)
    lifetime = run.settings.ttl_seconds_after_finished if asked is None else asked
    if lifetime is None or ended is None:
        return None
    return max(0.0, (ended + timedelta(seconds=lifetime) - run.now).total_seconds())
