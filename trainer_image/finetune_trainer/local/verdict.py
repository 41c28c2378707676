"""What the commands without a cluster end with."""

from finetune_trainer.report.document import Report
from finetune_trainer.report.words import money

FINE, REFUSED, UNREADABLE = 0, 1, 64


def over_budget(report: Report) -> str | None:
    """Why the run would wait for its budget, as the operator says it; None when it would not."""
    expected = report.estimate
    if expected is None or expected.cost is None or expected.budget is None:
        return None
    if expected.cost <= expected.budget:
        return None
    cost, limit = money(expected.cost, expected.currency), money(expected.budget, expected.currency)
    return f"The run is expected to cost {cost}, above spec.budget.limit of {limit}; raise it or train less."
