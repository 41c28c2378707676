"""What a run says of itself while its stage works, waits, is blocked, or is about to be tried again."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

from finetune_operator.api.conditions import Fact
from finetune_operator.api.finetunejobstatus import Attempt, MemoryPlan, Waiting
from finetune_operator.core.actions import Manifest, Refusal
from finetune_operator.core.manifests import integer, mapping, number
from finetune_operator.core.times import moment_of
from finetune_operator.observe.trouble import Trouble, steady
from finetune_operator.stages import summaries
from finetune_operator.stages.attempts import with_checkpoint
from finetune_operator.stages.blockers import Blocker
from finetune_operator.stages.cleanup import Leftovers, stopping, whereabouts
from finetune_operator.stages.decision import Decision, Stage, event
from finetune_operator.stages.money import judged
from finetune_operator.stages.observed import Run
from finetune_operator.stages.running import waiting_for

BUDGET_SECONDS = 60
"""How soon to look at the cost of a run that has a budget."""
QUIET_SECONDS = 300
"""How soon to look again where a watch or the poller tells of every change."""
NOTHING_WRONG = Fact("Stalled", False, "Progressing", "Nothing is wrong.")


def shown(stage: Stage, message: str, reason: str = "") -> tuple[Fact, ...]:
    """What the run is doing now, in its summary condition."""
    return (Fact("Succeeded", None, reason or stage.activity, message),)


def working(stage: Stage, attempt: Attempt) -> tuple[Fact, ...]:
    """The attempt works."""
    message = f"Attempt {attempt.number} of {stage.name} is running."
    return (*shown(stage, message), Fact(stage.condition, None, stage.activity, message))


def current(reason: str, message: str) -> Fact:
    """From here on the run is current for kstatus: a long training is not "in progress"."""
    return Fact("Reconciling", False, reason, message)


def works(run: Run, stage: Stage, attempt: Attempt, pods: Sequence[Manifest], *, placed: bool) -> Decision:
    """How the pods of an attempt get on. `placed`: all of them have their nodes."""
    admitted = Fact("Admitted", True, "Scheduled", f"The pods of {stage.name} have their nodes.")
    told = mapping(run.observed.progress)
    moved = with_checkpoint(attempt, integer(told, "checkpointStep"))
    moved = judged(moved, summaries.decimal(number(told, "judgeCost"), 6))
    saving = summaries.decimal(told.get("checkpointSeconds"), 1)
    facts = (*working(stage, attempt), current(stage.activity, "The run works."), NOTHING_WRONG)
    return Decision(
        attempts=(moved,),
        facts=(*facts, *([admitted] if placed else [])),
        title=stage.title,
        plan=MemoryPlan(checkpoint_seconds=saving) if stage.name == "train" else None,
        again=_look_again(run, pods),
    )


def _look_again(run: Run, pods: Sequence[Manifest]) -> float:
    """Soon while pods start or end, for no event tells that one takes long; else the poller tells enough."""
    if not pods or not all(steady(pod) for pod in pods):
        return run.settings.progress_seconds
    return QUIET_SECONDS if run.job.spec.budget is None else BUDGET_SECONDS


def waits(run: Run, stage: Stage, wait: Waiting, *, stalled: bool) -> Decision:
    """The attempt cannot work; `stalled` when only a person can mend that. It is an event when it is new."""
    known = run.status.waiting
    new = known is None or known.reason != wait.reason
    told = event("Warning", wait.reason, wait.message)
    facts = (
        Fact("Admitted", False, wait.reason, wait.message),
        *shown(stage, wait.message, wait.reason),
        *(_stalled(wait.reason, wait.message) if stalled else [NOTHING_WRONG]),
    )
    return Decision(
        actions=(told,) if new and wait.reason != "Suspended" else (),
        facts=facts,
        title=stage.title,
        waiting=wait,
        again=_until(run, wait),
    )


def blocked(run: Run, stage: Stage, found: Blocker) -> Decision:
    """Nothing of the stage may run: for the user, the budget, or what only a person can mend."""
    wait = waiting_for(run, Trouble(found.reason, found.message))
    decision = waits(run, stage, wait, stalled=found.stalled)
    if found.stalled:  # nothing tells of the missing objects of users
        return replace(decision, again=run.settings.progress_seconds)
    if found.reason != "Suspended":
        return decision
    meant = Fact("Reconciling", False, "Suspended", found.message)
    return replace(decision.adding(meant), title="Suspended")


def refused(stage: Stage, refusal: Refusal) -> Decision:
    """What the API server refuses takes a person, unless it may pass by itself."""
    reason, message = refusal.reason, refusal.message
    stalled = [NOTHING_WRONG] if refusal.passes else _stalled(reason, message)
    facts = (Fact("Admitted", False, reason, message), *shown(stage, message, reason), *stalled)
    return Decision(facts=facts, title=stage.title)


def backing_off(stage: Stage, last: Attempt, at: str, seconds: float) -> Decision:
    """Another attempt follows at a time; `seconds` are left until then."""
    message = f"{last.message or 'The stage failed.'} Retrying at {at}."
    facts = (*shown(stage, message, last.reason or "Unknown"), NOTHING_WRONG)
    return Decision(facts=facts, title=stage.title, again=math.ceil(seconds))


def waiting_for_leftovers(run: Run, stage: Stage, left: Leftovers) -> Decision:
    """Something of earlier attempts still runs: it is stopped first."""
    message = whereabouts(left)
    return Decision(
        actions=stopping(run, left),
        facts=(*shown(stage, message, "Stopping"), NOTHING_WRONG),
        title=stage.title,
        again=run.settings.progress_seconds,
    )


def _until(run: Run, wait: Waiting) -> float:
    """Until the deadline, which nothing else tells of."""
    until = moment_of(wait.until)
    left = QUIET_SECONDS if until is None else (until - run.now).total_seconds()
    return max(1, min(left, QUIET_SECONDS))


def _stalled(reason: str, message: str) -> list[Fact]:
    """For kstatus a run that reconciles is in progress, whatever else is wrong."""
    return [Fact("Stalled", True, reason, message), Fact("Reconciling", False, reason, message)]
