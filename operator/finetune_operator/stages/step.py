"""One step of the stage that is due: record an attempt, create its Job, follow it, record its outcome.

Every function returns a Decision; nothing is changed here.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from finetune_operator.api.conditions import Fact, is_true
from finetune_operator.api.finetunejobstatus import CODE_STAGES, Attempt
from finetune_operator.contracts.job import JobDocument
from finetune_operator.contracts.settings import pins
from finetune_operator.core.actions import Action, Confirm, Create, Manifest
from finetune_operator.core.manifests import label, mapping, suspended, terminating, text
from finetune_operator.core.times import format_time
from finetune_operator.observe.graders import blamed
from finetune_operator.observe.outcome import AttemptOutcome, explained, outcome_of
from finetune_operator.observe.queue import let_run, stop, waiting
from finetune_operator.observe.trouble import Trouble, scheduled
from finetune_operator.render import job as children
from finetune_operator.render.names import MANAGED_BY, QUEUE_LABEL, SUSPENDED_BY, workspace_name
from finetune_operator.render.pod import PodParts
from finetune_operator.render.resources import cpu_stage_resources, on_gpus
from finetune_operator.render.volumes import common, workspace_claim
from finetune_operator.stages import publish, scoring, summaries
from finetune_operator.stages.attempts import (
    at_work,
    bad_nodes,
    ended_as,
    faults,
    next_attempt,
    of_stage,
    retry,
)
from finetune_operator.stages.blockers import Blocker, blocker, halt, unfit_server
from finetune_operator.stages.cleanup import leftovers
from finetune_operator.stages.decision import Decision, Ending, Stage, event
from finetune_operator.stages.money import calibration, judged, priced
from finetune_operator.stages.observed import Run
from finetune_operator.stages.running import (
    given_up,
    progress_now,
    seconds_until_hang,
    trouble_now,
    waiting_for,
)
from finetune_operator.stages.shown import (
    NOTHING_WRONG,
    backing_off,
    blocked,
    current,
    refused,
    shown,
    waiting_for_leftovers,
    waits,
    working,
    works,
)


def step(run: Run, stage: Stage) -> Decision:
    """What to do next for a stage that has not succeeded."""
    if run.observed.refusal is not None:
        return refused(stage, run.observed.refusal)
    attempts = of_stage(run.status.attempts, stage.name)
    last = attempts[-1] if attempts else None
    if last is None or last.state == "Failed":
        return _start(run, stage, attempts)
    child = _child(run, last)
    if last.state == "Recorded" and child is None:
        return _create(run, stage, last)
    return _follow(run, stage, last, child)


def _child(run: Run, attempt: Attempt) -> Manifest | None:
    """The Job of an attempt. What an operator before this one suspended carries no annotation yet: such runs
    have no pinned images either.
    """
    child = run.observed.jobs.get(attempt.job)
    if child is None or run.job.status.pinned is not None or label(child, QUEUE_LABEL):
        return child
    metadata = mapping(child, "metadata")
    annotations = {**mapping(metadata, "annotations"), SUSPENDED_BY: MANAGED_BY}
    return {**child, "metadata": {**metadata, "annotations": annotations}}


def _start(run: Run, stage: Stage, attempts: Sequence[Attempt]) -> Decision:
    """Record the next attempt, once nothing of earlier ones runs, the wait is over and nothing blocks it."""
    again = retry(attempts) if attempts else None
    if attempts and again is None:
        return _give_up(stage, attempts)
    left = leftovers(run, _ended(run))
    if left is not None:
        return waiting_for_leftovers(run, stage, left)
    if again is not None and run.now < again.at:
        return backing_off(stage, attempts[-1], format_time(again.at), (again.at - run.now).total_seconds())
    found = blocker(run, stage.name, reemits=again is not None and again.reemits)
    if found is not None:
        return blocked(run, stage, found)
    attempt = next_attempt(run.job, stage.name, attempts, run.now)
    attempt = scoring.on_template(run, attempt, attempts)
    return _begin(run, stage, attempt if attempt.reemits else priced(run.job, run.settings, attempt))


def _ended(run: Run) -> list[Attempt]:
    return [attempt for attempt in run.status.attempts if attempt.state in ("Succeeded", "Failed")]


def _begin(run: Run, stage: Stage, attempt: Attempt) -> Decision:
    """Record an attempt; its Job follows in the next reconcile, so that a crash cannot double it.

    The first Job of a run is created at once: it holds no GPU, and no other can have been before it.
    """
    message = f"Attempt {attempt.number} of {stage.name} starts."
    pending = Fact(stage.condition, None, "Pending", message)
    first = stage.name == "prepare" and attempt.number == 1
    created = _creating(run, stage, attempt) if first else ()
    return Decision(
        attempts=(attempt,),
        pinned=pins(run.job, run.settings),
        facts=(*shown(stage, message), *_mended(run, stage, message), pending),
        title=stage.title,
        actions=(*created, event("Normal", f"{stage.title}Started", message)),
        again=run.settings.progress_seconds,
    )


def _create(run: Run, stage: Stage, attempt: Attempt) -> Decision:
    """The attempt is recorded, so its Job may be created: its name allows one at a time, and a run that
    is gone or has gone on none.
    """
    left = leftovers(run, [*_ended(run), attempt])
    if left is not None:
        return waiting_for_leftovers(run, stage, left)
    found = blocker(run, stage.name, reemits=attempt.reemits is True)
    if found is not None:
        return blocked(run, stage, found)
    return Decision(
        actions=(Confirm(), *_creating(run, stage, attempt)),
        facts=_mended(run, stage, f"Attempt {attempt.number} of {stage.name} starts."),
        again=run.settings.progress_seconds,
    )


def _mended(run: Run, stage: Stage, message: str) -> tuple[Fact, ...]:
    """What kept the run from going on is over."""
    was_stalled = is_true(run.status.conditions, "Stalled")
    return (NOTHING_WRONG, *([Fact("Reconciling", True, stage.activity, message)] if was_stalled else []))


def _creating(run: Run, stage: Stage, attempt: Attempt) -> tuple[Action, ...]:
    ours = workspace_name(run.job)
    missing = workspace_claim(run.job) == ours and ours not in run.observed.claims
    volumes = [Create(children.workspace(run.job))] if missing else []
    job = children.stage_job(run.job, run.settings, attempt, _parts(run, stage, attempt))
    return (*volumes, Create(job))


def _parts(run: Run, stage: Stage, attempt: Attempt) -> PodParts:
    if attempt.reemits:
        return PodParts("reemit", common(run.job, attempt.job), cpu_stage_resources(run.settings))
    avoided = bad_nodes(of_stage(run.status.attempts, stage.name))
    return replace(stage.parts(run.job, run.settings, attempt), avoided_nodes=avoided)


def _follow(run: Run, stage: Stage, attempt: Attempt, child: Manifest | None) -> Decision:
    pods = run.observed.pods.get(attempt.job, ())
    outcome = outcome_of(stage.name, child, pods, run.now)
    if outcome is not None:
        had_nodes = any(text(pod, "spec", "nodeName") for pod in pods)
        failed_before = faults(of_stage(run.status.attempts, stage.name)) > 0
        cause = blamed(run.job, pods, outcome, failed_before=failed_before)
        told = explained(cause, child, attempt.disruption)
        return _record(run, stage, attempt, told, had_nodes=had_nodes)
    if child is None:
        left = leftovers(run, [attempt])
        return waiting_for_leftovers(run, stage, left) if left is not None else Decision()
    if attempt.state == "Recorded" and (_resuming(run, attempt, child) or _queued(run, attempt, child)):
        return _released(run, stage, attempt, child)
    return _watch(run, stage, attempt, child, pods)


def _queued(run: Run, attempt: Attempt, child: Manifest) -> bool:
    """Whether Kueue resumes the Job, which may be before it has what its pods mount."""
    return bool(label(child, QUEUE_LABEL)) or attempt.job in run.observed.workloads


def _released(run: Run, stage: Stage, attempt: Attempt, child: Manifest) -> Decision:
    """Give the Job what its pods mount, which it owns, and let it have them.

    job.json names the ModelServer that scores, which may be gone since the Job was created.

    The same write says so of what may hold GPUs, or a crash could have it run twice; of others it is said
    once their pods have nodes, which saves a write.
    """
    if terminating(child):
        return Decision(again=run.settings.progress_seconds)
    held = halt(run, stage.name, reemits=attempt.reemits is True) or unfit_server(run, stage.name)
    if held is not None:
        return _halted(run, stage, attempt, child, held)
    actions = (*_needed(run, attempt, child), *_resuming(run, attempt, child))
    on_cpu = attempt.reemits or not on_gpus(run.job, stage.name)
    if on_cpu and not _queued(run, attempt, child):
        return Decision(actions=actions, again=run.settings.progress_seconds)
    return Decision(
        actions=actions,
        attempts=(attempt.model_copy(update={"state": "Running"}),),
        facts=(current(stage.activity, "The run works."), *working(stage, attempt)),
        title=stage.title,
        again=run.settings.progress_seconds,
    )


def _needed(run: Run, attempt: Attempt, child: Manifest) -> Iterator[Create]:
    """What the pods of a Job need. The ConfigMap that they mount comes last: where Kueue has resumed the Job
    already, they run once it is there, and their network must be closed by then.
    """
    if (mapping(child, "spec").get("completions") or 1) != 1:
        yield from map(Create, children.rendezvous(run.job, attempt, child))
    if attempt.stage in CODE_STAGES:
        yield Create(children.isolated(run.job, attempt, child))
    yield Create(children.job_config_map(run.job, attempt, _document(run, attempt), child))


def _resuming(run: Run, attempt: Attempt, child: Manifest) -> tuple[Action, ...]:
    workload, queue = run.observed.workloads.get(attempt.job), run.job.spec.scheduling.queue_name
    patch = let_run(child, workload, queue, kueue=run.observed.kueue)
    return () if patch is None else (patch,)


def _document(run: Run, attempt: Attempt) -> JobDocument:
    decided = publish.decision(run.job, run.status.scores) if attempt.stage == "publish" else None
    learnt = calibration(run.job, run.observed.runs) if attempt.stage == "prepare" else None
    return children.job_document(run.job, run.settings, attempt, decided, learnt, run.observed.server)


def _watch(run: Run, stage: Stage, attempt: Attempt, child: Manifest, pods: Sequence[Manifest]) -> Decision:
    """Show how a running attempt stands; end it where waiting has no use any more."""
    held = halt(run, stage.name, reemits=attempt.reemits is True)
    if held is not None:
        return _halted(run, stage, attempt, child, held)
    if suspended(child):
        return _suspended(run, stage, attempt, child)
    progress = progress_now(run, stage)
    trouble = trouble_now(run, attempt, child, pods, progress) or scoring.candidate_trouble(run)
    asked, scored = scoring.candidate(run), scoring.scored(run)
    if trouble is None and not scheduled(child, pods) and attempt.state == "Recorded":
        return Decision(again=run.settings.progress_seconds)  # its pods are about to come
    begun = at_work(attempt, pods)
    if trouble is None:
        shows = works(run, stage, begun, pods, placed=scheduled(child, pods))
        hang = seconds_until_hang(run, begun, progress)
        looks = [seconds for seconds in (shows.again, hang) if seconds is not None]
        again = min(looks, default=None)
        return replace(shows, progress=progress, candidate=asked, scored=scored, again=again)
    wait = waiting_for(run, trouble)
    outcome = given_up(run, trouble, wait)
    if outcome is not None:
        return _record(run, stage, attempt, outcome, had_nodes=False)
    shows = waits(run, stage, wait, stalled=trouble.stalled)
    shows = replace(shows, attempts=(begun,), candidate=asked, scored=scored)
    return shows.adding(current(wait.reason, wait.message))


def _halted(run: Run, stage: Stage, attempt: Attempt, child: Manifest, held: Blocker) -> Decision:
    """The Job stays, without pods; Kueue might have given them to one that is not even released."""
    patch = stop(child, run.observed.workloads.get(attempt.job))
    told = event("Normal", "Suspended", f"The pods of {stage.name} are stopped: {held.message}")
    shows = blocked(run, stage, held).adding(actions=() if patch is None else (told, patch))
    return replace(shows, idle=True)


def _suspended(run: Run, stage: Stage, attempt: Attempt, child: Manifest) -> Decision:
    """The Job is suspended though the run may go on: by us until now, by Kueue, or by somebody else."""
    workload = run.observed.workloads.get(attempt.job)
    kueue, problem = run.observed.kueue, run.observed.kueue_problem
    why = waiting(child, workload, kueue=kueue, problem=problem, now=run.now)
    resuming = _resuming(run, attempt, child)
    if why is None:
        return Decision(actions=resuming, again=run.settings.progress_seconds)
    wait = waiting_for(run, Trouble(why.reason, why.message))
    return replace(waits(run, stage, wait, stalled=False).adding(actions=resuming), idle=True)


def _record(
    run: Run, stage: Stage, attempt: Attempt, outcome: AttemptOutcome, *, had_nodes: bool
) -> Decision:
    """The one place where an outcome enters the status; it is final."""
    lacking = stage.lacks(outcome.summary) if outcome.succeeded else None
    if lacking is not None:
        outcome = AttemptOutcome(False, "Unknown", f"The result of {stage.name} lacks {lacking}.")
    outcome = scoring.of_one_template(run, attempt, outcome)
    closed = judged(ended_as(attempt, outcome, run.now), summaries.judge_cost(outcome.summary))
    admitted = Fact("Admitted", True, "Scheduled", f"The pods of {stage.name} had their nodes.")
    if not outcome.succeeded:
        failed = _failed(run, stage, closed)
        return failed.adding(admitted) if had_nodes else failed
    told = event("Normal", f"{stage.title}Succeeded", outcome.message or "The stage succeeded.")
    decision = replace(stage.read(run.job, outcome), attempts=(closed,), again=0)
    return replace(
        decision,
        facts=(admitted, NOTHING_WRONG, *decision.facts),
        actions=(told, *decision.actions),
    )


def _failed(run: Run, stage: Stage, closed: Attempt) -> Decision:
    others = [a for a in of_stage(run.status.attempts, stage.name) if a.number != closed.number]
    attempts = [*others, closed]
    again = retry(attempts)
    if again is None:
        return replace(_give_up(stage, attempts), attempts=(closed,))
    message = f"{closed.message or 'The stage failed.'} Retrying."
    reason = closed.reason or "Unknown"
    return Decision(
        attempts=(closed,),
        facts=(*shown(stage, message, reason), Fact(stage.condition, None, reason, message)),
        title=stage.title,
        actions=(event("Warning", reason, message),),
        again=0,
    )


def _give_up(stage: Stage, attempts: Sequence[Attempt]) -> Decision:
    """End the run with the last failure that says something about the stage."""
    telling = next((a for a in reversed(attempts) if a.reason != "NotStored"), attempts[-1])
    reason = telling.reason or "Unknown"
    message = telling.message or f"The {stage.name} stage failed."
    if len(attempts) > 1:
        message = f"{stage.name} failed {len(attempts)} times; the last failure: {message}"
    failed = Fact(stage.condition, False, reason, message)
    return Decision(facts=(failed,)).ending_in(Ending(False, reason, message, stalled=True))
