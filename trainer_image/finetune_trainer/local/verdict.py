"""What the commands without a cluster end with."""

import sys
from collections.abc import Callable

from finetune_trainer.contracts import Job
from finetune_trainer.report.document import Report
from finetune_trainer.report.readiness import over_budget
from finetune_trainer.stages.examine import Data, RefusedError, refuse_unsound
from finetune_trainer.words import money

FINE, REFUSED = 0, 1


def judge(job: Job, data: Data, look: Callable[[], Report]) -> tuple[Report, str | None]:
    """The report of a job, and why it would be refused; only sound rows are looked at more closely."""
    try:
        refuse_unsound(job, data)
        report = look()
    except RefusedError as refused:
        return refused.report, str(refused)
    return report, _awaits_budget(report)


def conclude(refusal: str | None) -> int:
    """The exit code; why a job would be refused comes last on the terminal."""
    if refusal is None:
        return FINE
    print(refusal, file=sys.stderr)
    return REFUSED


def _awaits_budget(report: Report) -> str | None:
    """Why the run would wait for its budget, as the operator says it; None when it would not."""
    exceeded, estimate = over_budget(report), report.estimate
    if exceeded is None or estimate is None:
        return None
    cost, limit = (money(amount, estimate.currency) for amount in exceeded)
    return f"The run is expected to cost {cost}, above spec.budget.limit of {limit}; raise it or train less."
