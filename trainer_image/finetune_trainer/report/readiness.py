"""The one sentence on top of every report."""

from dataclasses import dataclass
from typing import Literal

from finetune_trainer.data.findings import errors, warnings
from finetune_trainer.report.document import Report
from finetune_trainer.words import plural, printable

Level = Literal["good", "warning", "error"]


@dataclass(frozen=True)
class Readiness:
    """How a run stands; `text` is a headline without a full stop, `todo` what to do about a verdict."""

    level: Level
    text: str
    todo: str = ""


# A verdict that is not listed is shown by its name.
_VERDICTS = {
    "Promote": Readiness("good", "The tuned model is better than its base"),
    "NoClearImprovement": Readiness(
        "warning",
        "The tuned model is not clearly better than its base",
        "Read the rows that got worse or stayed wrong, and the findings about the training rows like them: "
        "more or cleaner rows help more often than other settings.",
    ),
    "WorseThanBase": Readiness(
        "error",
        "The tuned model is worse than its base",
        "Read the rows that got worse; lower training.learningRate or training.epochs.",
    ),
    "Regressed": Readiness(
        "error",
        "The tuned model got worse at something else",
        "Lower training.epochs or training.learningRate, or mix general rows into the training data.",
    ),
    "Ungraded": Readiness(
        "warning",
        "Too few rows could be graded for a verdict",
        "The rows that are not graded say why; correct the grader or these rows and run the job again.",
    ),
}


def readiness(report: Report) -> Readiness:
    """After an evaluation its verdict; before it whether training can start.

    Errors weigh most, then memory, then the budget, then warnings; ignored findings weigh nothing.
    """
    if report.evaluation:
        verdict = report.evaluation.verdict
        return _VERDICTS.get(verdict, Readiness("warning", printable(verdict)))
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
