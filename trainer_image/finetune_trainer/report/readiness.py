"""The one sentence on top of every report."""

from dataclasses import dataclass
from typing import Literal

from finetune_trainer.data.findings import errors, warnings
from finetune_trainer.report.document import Report
from finetune_trainer.words import plural

Level = Literal["good", "warning", "error"]


@dataclass(frozen=True)
class Readiness:
    """Whether training can start; `text` is a headline without a full stop."""

    level: Level
    text: str


def readiness(report: Report) -> Readiness:
    """Errors weigh most, then memory, then the budget, then warnings; ignored findings weigh nothing."""
    if wrong := errors(report.findings):
        return Readiness("error", f"{plural(len(wrong), 'error')} to mend")
    if report.memory and not report.memory.fits:
        return Readiness("error", "Does not fit into the memory of the GPUs")
    if over_budget(report) is not None:
        return Readiness("error", "Costs more than the budget allows")
    if noted := warnings(report.findings):
        return Readiness("warning", plural(len(noted), "warning"))
    return Readiness("good", "Ready to train")


def over_budget(report: Report) -> tuple[float, float] | None:
    """The expected cost and the budget that it is above; None when it is not."""
    estimate = report.estimate
    if estimate is None or estimate.cost is None or estimate.budget is None:
        return None
    return (estimate.cost, estimate.budget) if estimate.cost > estimate.budget else None
