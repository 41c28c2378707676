"""The status that a plan is about to write, and the actions that go with it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import datetime
from typing import Any, Literal

from finetune_operator.api.conditions import Condition, clip, find, set_condition
from finetune_operator.api.finetunejob import FineTuneJob
from finetune_operator.api.finetunejobstatus import Attempt
from finetune_operator.core.actions import Action, Emit, Plan
from finetune_operator.core.times import format_time

CONDITIONS = (
    "Validated", "Admitted", "BaselineScored", "Trained", "Evaluated", "Published", "Promoted", "Succeeded",
    "Reconciling", "Stalled",
)  # fmt: skip
_REASON = re.compile(r"[A-Za-z]([A-Za-z0-9_]{0,62}[A-Za-z0-9])?")


class Draft:
    """A copy of the status to change. It starts from what is recorded, so nothing recorded gets lost."""

    def __init__(self, job: FineTuneJob, now: datetime):
        self.job = job
        self.now = now
        self.status: dict[str, Any] = job.status.to_status()
        self.status["observedGeneration"] = job.metadata.generation
        self.attempts: list[Attempt] = list(job.status.attempts)
        self.actions: list[Action] = []

    @property
    def ended(self) -> bool:
        """Whether the outcome of the run is recorded; it is final."""
        found = self.find("Succeeded")
        return found is not None and found.status != "Unknown"

    def find(self, kind: str) -> Condition | None:
        """A condition as it now stands in the draft."""
        return find(self.status.get("conditions", []), kind)

    def begin(self) -> None:
        """All conditions are there from the first visit on."""
        self.status.setdefault("startTime", format_time(self.now))
        self.status.setdefault("stage", "Pending")
        for kind in CONDITIONS:
            if self.find(kind) is None:
                status = {"Reconciling": True, "Stalled": False}.get(kind)
                self.set(kind, status, "Pending", "The run has not come to this yet.")

    def set(self, kind: str, status: bool | None, reason: str, message: str) -> None:
        """Set a condition; `status` None is Unknown."""
        generation = self.job.metadata.generation
        self.status["conditions"] = set_condition(
            self.status.get("conditions", []), kind, status, word(reason), message, generation, self.now
        )

    def show(self, title: str, reason: str, message: str) -> None:
        """What the run is doing now, in the display stage and in the summary condition."""
        self.status["stage"] = title
        self.set("Succeeded", None, reason, message)

    def merge(self, section: str, values: Mapping[str, Any]) -> None:
        """Add known values to a section such as `resolved`; what is None leaves the earlier value."""
        known = {key: value for key, value in values.items() if value is not None}
        if known:
            self.status[section] = {**self.status.get(section, {}), **known}

    def event(self, kind: Literal["Normal", "Warning"], reason: str, message: str) -> None:
        """Record an event on the run."""
        self.actions.append(Emit(kind, word(reason), clip(message)))

    def record(self, attempt: Attempt) -> None:
        """Add an attempt, or replace the entry of the same stage and number."""
        key = (attempt.stage, attempt.number)
        for at, known in enumerate(self.attempts):
            if (known.stage, known.number) == key:
                self.attempts[at] = attempt
                return
        self.attempts.append(attempt)

    def end(self, *, succeeded: bool, reason: str, message: str, stalled: bool) -> None:
        """Record how the run ended. What it never came to is False now, no longer Unknown."""
        for kind in CONDITIONS:
            found = self.find(kind)
            if kind not in ("Succeeded", "Reconciling", "Stalled") and (
                found is None or found.status == "Unknown"
            ):
                self.set(kind, False, "NotReached", "The run ended before this.")
        self.set("Succeeded", succeeded, reason, message)
        self.set("Reconciling", False, "Ended", "The run has ended.")
        self.set(
            "Stalled", stalled, reason if stalled else "Ended", message if stalled else "The run has ended."
        )
        self.status["stage"] = "Succeeded" if succeeded else "Failed"
        self.status["progress"] = {"percent": 100} if succeeded else None
        self.status["completionTime"] = format_time(self.now)
        self.event("Normal" if succeeded else "Warning", reason, message)

    def plan(self, requeue_after: float | None) -> Plan:
        """The plan with everything that was decided."""
        attempts = [attempt.to_dict() for attempt in self.attempts]
        status = {**self.status, "attempts": attempts}
        return Plan(tuple(self.actions), {k: v for k, v in status.items() if v is not None}, requeue_after)


def word(reason: str) -> str:
    """A reason in the form that Kubernetes takes; what another program made up otherwise is Unknown."""
    return reason if _REASON.fullmatch(reason) else "Unknown"
