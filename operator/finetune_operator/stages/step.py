"""One step of one stage: record an attempt, create its Job, follow it, record its outcome."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from finetune_operator.api.finetunejobstatus import Attempt
from finetune_operator.contracts.documents import JobDocument
from finetune_operator.contracts.settings import Settings
from finetune_operator.core.actions import Create, Manifest, Patch
from finetune_operator.core.manifests import finished, mapping, moment, name_of, text, unfinished
from finetune_operator.observe.outcome import AttemptOutcome, outcome_of
from finetune_operator.observe.trouble import Trouble, scheduled, trouble_of
from finetune_operator.render import job as children
from finetune_operator.render.names import workspace_name
from finetune_operator.render.pod import PodParts
from finetune_operator.render.resources import cpu_stage_resources, gpus
from finetune_operator.render.volumes import common, workspace_claim
from finetune_operator.stages import publish, summaries
from finetune_operator.stages.attempts import (
    goes_on,
    next_attempt,
    of_stage,
    record_outcome,
    record_start,
    reemits,
)
from finetune_operator.stages.draft import Draft
from finetune_operator.stages.finish import stop
from finetune_operator.stages.money import calibration, excess, priced
from finetune_operator.stages.observed import Observed
from finetune_operator.stages.requirements import violation
from finetune_operator.stages.stage import Stage

SUSPENDED = "spec.suspend is true; set it to false to go on from where the run stopped."


@dataclass(frozen=True)
class Step:
    """The stage that is due. `take` changes the draft and returns when to look again (seconds)."""

    observed: Observed
    settings: Settings
    draft: Draft
    stage: Stage

    def take(self) -> float | None:
        """Go one step further."""
        attempts = self._attempts()
        last = attempts[-1] if attempts else None
        if last is None or last.state == "Failed":
            return self._start(attempts)
        child = self.observed.jobs.get(last.job)
        if last.state == "Recorded" and child is None:
            return self._create(last)
        return self._follow(last, child)

    def _attempts(self) -> list[Attempt]:
        return of_stage(self.draft.attempts, self.stage.name)

    def _pods(self, attempt: Attempt) -> tuple[Manifest, ...]:
        return self.observed.pods.get(attempt.job, ())

    def _start(self, attempts: Sequence[Attempt]) -> float | None:
        """Record the next attempt, once nothing of the earlier ones runs any more."""
        if attempts and not goes_on(attempts):
            self._give_up(attempts)
            return None
        if self._something_still_runs(attempts) or self._held():
            return self.settings.progress_seconds
        attempt = next_attempt(self.observed.job, self.stage.name, attempts)
        if not reemits([*attempts, attempt], attempt):
            attempt = priced(self.observed.job, self.settings, attempt)
        record_start(self.draft, attempt)
        message = f"Attempt {attempt.number} of {self.stage.name} starts."
        self.draft.set(self.stage.condition, None, "Pending", message)
        self.draft.show(self.stage.title, self.stage.activity, message)
        self.draft.event("Normal", f"{self.stage.title}Started", message)
        return self.settings.progress_seconds

    def _something_still_runs(self, attempts: Sequence[Attempt]) -> bool:
        """Two attempts must never share a workspace, so the next one waits for the last pod."""
        live = [
            (attempt.job, child)
            for attempt in attempts
            if (child := self.observed.jobs.get(attempt.job)) is not None and not finished(child)
        ]
        for name, child in live:
            self.draft.actions.extend(stop(child, name))
        pods = [pod for attempt in attempts for pod in unfinished(self._pods(attempt))]
        if pods:
            where = text(pods[0], "spec", "nodeName") or "no node"
            message = f"The next attempt waits until pod {name_of(pods[0])} ({where}) of an earlier one ends."
            self.draft.show(self.stage.title, "Stopping", message)
        return bool(live or pods)

    def _held(self) -> bool:
        """Whether the user, the budget or a missing object keeps the stage from starting."""
        if self._halted():
            return True
        found = violation(self.observed, self.settings, self.stage.name)
        if found is None:
            return False
        self._show_trouble(Trouble(found.reason, found.message))
        return True

    def _halted(self) -> bool:
        """Whether the user wants no pods, or the budget no GPUs."""
        if self.observed.job.spec.suspend:
            self._show_suspended()
            return True
        message = excess(self.draft) if gpus(self.observed.job, self.stage.name) else None
        if message is None:
            return False
        self._show_trouble(Trouble("BudgetExceeded", message))
        return True

    def _create(self, attempt: Attempt) -> float:
        """The attempt is recorded, so its Job may be created: again and again, the name allows one."""
        if self._something_still_runs([attempt]) or self._held():
            return self.settings.progress_seconds
        job = self.observed.job
        ours = workspace_claim(job) == workspace_name(job)
        if ours and workspace_name(job) not in self.observed.claims:
            self.draft.actions.append(Create(children.workspace(job)))
        parts = self._parts(attempt)
        self.draft.actions.append(Create(children.stage_job(job, self.settings, attempt, parts)))
        return self.settings.progress_seconds

    def _parts(self, attempt: Attempt) -> PodParts:
        job = self.observed.job
        if reemits(self._attempts(), attempt):
            return PodParts("reemit", common(job, attempt.job), cpu_stage_resources(self.settings))
        return self.stage.parts(job, self.settings, attempt)

    def _follow(self, attempt: Attempt, child: Manifest | None) -> float | None:
        if attempt.state == "Recorded":
            attempt = attempt.model_copy(update={"state": "Running"})
            self.draft.record(attempt)
            # From here on the run is current for kstatus: a long training is not "in progress".
            self.draft.set("Reconciling", False, self.stage.activity, "The run is under way.")
        pods = self._pods(attempt)
        outcome = outcome_of(self.stage.name, child, pods)
        if outcome is None and child is not None:
            outcome = self._watch(attempt, child, pods)
        if outcome is not None:
            self._record(attempt, outcome)
        elif child is None:
            self._something_still_runs([attempt])
        return self.settings.progress_seconds

    def _watch(self, attempt: Attempt, child: Manifest, pods: Sequence[Manifest]) -> AttemptOutcome | None:
        """Show how a running attempt stands; the outcome if waiting for it has no use any more."""
        if self._halted():
            self._pause(attempt, child)
            return None
        self._resume(attempt, child)
        trouble = trouble_of(self.observed.job, child, pods, self.settings, self.draft.now)
        if trouble is not None:
            outcome = trouble.outcome(self.draft.now, self._noted(trouble))
            self._show_trouble(trouble)
            return outcome
        if scheduled(pods):
            self.draft.set("Admitted", True, "Scheduled", f"The pods of {self.stage.name} have their nodes.")
        self._show_progress(attempt)
        return None

    def _pause(self, attempt: Attempt, child: Manifest) -> None:
        """Take the pods away and keep the Job; training writes a checkpoint before it ends."""
        if mapping(child, "spec").get("suspend") is not True:
            self.draft.event("Normal", "Suspended", f"The pods of {self.stage.name} are stopped.")
            self.draft.actions.append(Patch("batch/v1", "Job", attempt.job, {"spec": {"suspend": True}}))

    def _resume(self, attempt: Attempt, child: Manifest) -> None:
        """Let the pods of a new or paused Job run; what they mount is owned by the Job, so it follows it."""
        if mapping(child, "spec").get("suspend") is not True or text(child, "metadata", "deletionTimestamp"):
            return
        job = self.observed.job
        self.draft.actions.append(
            Create(children.job_config_map(job, attempt, self._document(attempt), child))
        )
        if (mapping(child, "spec").get("completions") or 1) != 1:
            self.draft.actions.append(Create(children.rendezvous_service(job, attempt, child)))
        self.draft.actions.append(Patch("batch/v1", "Job", attempt.job, {"spec": {"suspend": False}}))

    def _document(self, attempt: Attempt) -> JobDocument:
        job, preparing = self.observed.job, self.stage.name == "prepare"
        decided = publish.decision(job) if self.stage.name == "publish" else None
        learnt = calibration(job, self.observed.runs) if preparing else None
        return children.job_document(job, self.settings, attempt, decided, learnt)

    def _noted(self, trouble: Trouble) -> datetime:
        """When this trouble was first shown; now, if it is new."""
        shown = self.draft.find("Admitted")
        if shown is None or shown.status != "False" or shown.reason != trouble.reason:
            return self.draft.now
        return moment({"at": shown.last_transition_time}, "at") or self.draft.now

    def _show_suspended(self) -> None:
        self.draft.set("Admitted", False, "Suspended", SUSPENDED)
        self.draft.set("Reconciling", False, "Suspended", SUSPENDED)
        self.draft.show("Suspended", "Suspended", SUSPENDED)

    def _show_trouble(self, trouble: Trouble) -> None:
        shown = self.draft.find("Admitted")
        if shown is None or shown.reason != trouble.reason:
            self.draft.event("Warning", trouble.reason, trouble.message)
        self.draft.set("Admitted", False, trouble.reason, trouble.message)
        self.draft.show(self.stage.title, trouble.reason, trouble.message)

    def _show_progress(self, attempt: Attempt) -> None:
        progress = summaries.progress(self.observed.progress, self.stage.name)
        if progress is not None:
            self.draft.status["progress"] = progress
            self.draft.merge("plan", summaries.measured_saving(self.observed.progress))
        message = f"Attempt {attempt.number} of {self.stage.name} is running."
        self.draft.set(self.stage.condition, None, self.stage.activity, message)
        self.draft.show(self.stage.title, self.stage.activity, message)

    def _record(self, attempt: Attempt, outcome: AttemptOutcome) -> None:
        """The one place where an outcome enters the status; it is final."""
        lacking = self.stage.lacks(outcome.summary) if outcome.succeeded else None
        if lacking is not None:
            outcome = AttemptOutcome(False, "Unknown", f"The result of {self.stage.name} lacks {lacking}.")
        record_outcome(self.draft, attempt, outcome)
        self.draft.status["progress"] = None
        if not outcome.succeeded:
            self._after_failure(outcome)
            return
        self.draft.set("Admitted", True, "Scheduled", f"The pods of {self.stage.name} had their nodes.")
        self.draft.event("Normal", f"{self.stage.title}Succeeded", outcome.message or "The stage succeeded.")
        self.stage.read(self.draft, outcome)

    def _after_failure(self, outcome: AttemptOutcome) -> None:
        attempts = self._attempts()
        if not goes_on(attempts):
            self._give_up(attempts)
            return
        message = f"{outcome.message} Another attempt follows."
        self.draft.set(self.stage.condition, None, outcome.reason, message)
        self.draft.show(self.stage.title, outcome.reason, message)
        self.draft.event("Warning", outcome.reason, message)

    def _give_up(self, attempts: Sequence[Attempt]) -> None:
        """End the run with the last failure that says something about the stage."""
        telling = next((a for a in reversed(attempts) if a.reason != "NotStored"), attempts[-1])
        reason = telling.reason or "Unknown"
        message = telling.message or f"The {self.stage.name} stage failed."
        if len(attempts) > 1:
            message = f"{self.stage.name} failed {len(attempts)} times, at last: {message}"
        self.draft.set(self.stage.condition, False, reason, message)
        self.draft.end(succeeded=False, reason=reason, message=message, stalled=True)
