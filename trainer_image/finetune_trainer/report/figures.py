"""The key figures of a report, each a label, a value and a note."""

from dataclasses import dataclass

from finetune_trainer.evaluation.document import Evaluation
from finetune_trainer.report.document import DataSummary, Estimate, MemoryPlan, Report
from finetune_trainer.words import duration, gib, money, number, percent, plural, points, share


@dataclass(frozen=True)
class Figure:
    """One key figure."""

    label: str
    value: str
    note: str = ""


def key_figures(report: Report) -> list[Figure]:
    """Those that are known, from the result over the data to the price."""
    train, holdout = report.datasets.train, report.datasets.holdout
    figures = [
        Figure("Training rows", number(train.rows), plural(len(train.files), "file") if train.files else ""),
        Figure("Hold-out rows", number(holdout.rows)) if holdout else None,
        _tokens(train),
        _steps(report.training) if report.training else None,
        _memory(report.memory) if report.memory else None,
        _time(report.estimate) if report.estimate else None,
        _cost(report.estimate) if report.estimate else None,
    ]
    results = _results(report.evaluation) if report.evaluation else []
    return [*results, *(figure for figure in figures if figure is not None)]


def _results(evaluation: Evaluation) -> list[Figure]:
    base, tuned, delta = evaluation.base, evaluation.tuned, evaluation.delta
    share_graded = "" if evaluation.graded_share is None else f"{percent(evaluation.graded_share)} graded"
    return [
        Figure("Base", percent(base.score), f"{percent(base.low)} to {percent(base.high)}"),
        Figure("Tuned", percent(tuned.score), f"{percent(tuned.low)} to {percent(tuned.high)}"),
        Figure("Difference", points(delta.score), f"{points(delta.low)} to {points(delta.high)}"),
        Figure("Rows compared", number(evaluation.rows), share_graded),
    ]


def _tokens(train: DataSummary) -> Figure | None:
    if train.tokens is None:
        return None
    trained = train.trained_tokens
    note = f"{share(trained, train.tokens)} trained" if trained is not None else ""
    return Figure("Tokens per epoch", number(train.tokens), note)


def _steps(training: dict[str, object]) -> Figure | None:
    steps, epochs = training.get("steps"), training.get("epochs")
    if not isinstance(steps, int):
        return None
    return Figure("Steps", number(steps), plural(epochs, "epoch") if isinstance(epochs, int) else "")


def _memory(plan: MemoryPlan) -> Figure:
    return Figure("Memory per GPU", gib(plan.peak_gib), f"of {gib(plan.limit_gib)} that may be used")


def _time(estimate: Estimate) -> Figure:
    note = f"{duration(estimate.hours_low)} to {duration(estimate.hours_high)}"
    return Figure("Time", duration(estimate.hours), note)


def _cost(estimate: Estimate) -> Figure | None:
    if estimate.cost is None:
        return None
    low, high, currency = estimate.cost_low, estimate.cost_high, estimate.currency
    note = f"{money(low, None)} to {money(high, None)}" if low is not None and high is not None else ""
    return Figure("Cost", money(estimate.cost, currency), note)
