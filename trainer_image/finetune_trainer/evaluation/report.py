"""The report after an evaluation: what baseline, train and evaluate stored, as one document."""

from collections.abc import Iterable, Mapping
from typing import Any

from finetune_trainer.contracts import EvaluationSpec, Job
from finetune_trainer.data.corpus.related import Related
from finetune_trainer.data.findings import Finding
from finetune_trainer.evaluation import rows
from finetune_trainer.evaluation.curves import read_curves
from finetune_trainer.evaluation.document import (
    Evaluation,
    GraderScores,
    Judge,
    Margin,
    Score,
    Spent,
)
from finetune_trainer.evaluation.pairs import StoredPairs, stored_pairs
from finetune_trainer.files import stream_json_lines
from finetune_trainer.report.document import Report
from finetune_trainer.report.store import read_report
from finetune_trainer.results import latest_succeeded
from finetune_trainer.workspace import Workspace

Summary = Mapping[str, Any]


def evaluated_report(job: Job, workspace: Workspace, summary: Summary | None) -> Report | None:
    """prepare's report with the evaluation that has this summary; None where prepare left no report.

    An evaluation that could grade no row has nothing to report.
    """
    report, spec = read_report(workspace), job.spec.evaluation
    if report is None or spec is None or summary is None or summary["delta"]["score"] is None:
        return report
    pairs = stored_pairs(workspace)
    train = latest_succeeded(workspace, "train")
    evaluation = Evaluation(
        **_scores(spec, summary),
        **(_rows(workspace, pairs, spec.primary_grader.name, report.findings) if pairs else _NO_ROWS),
        curves=read_curves(workspace),
        training=_spent(job, train.summary) if train else None,
        promoted=job.publish.promoted if job.publish else None,
        accepted=job.publish.accepted if job.publish else (),
    )
    return report.model_copy(update={"evaluation": evaluation})


_NO_ROWS: dict[str, Any] = {"answers": {}, "outcomes": {}, "shown": ()}


def _scores(spec: EvaluationSpec, summary: Summary) -> dict[str, Any]:
    intervals = {name: _score(summary[name]) for name in ("base", "tuned", "delta")}
    return {
        "metric": summary["metric"],
        "verdict": summary["verdict"],
        "rows": summary["rows"],
        "min_delta": spec.min_delta,
        "rivals": {name: _score(found) for name, found in summary.get("rivals", {}).items()},
        "prompt_alone": summary.get("promptAlone"),
        "graded_share": summary.get("graded"),
        "ungraded_reason": summary.get("ungradedReason"),
        "graders": tuple(_grader(name, means, spec) for name, means in summary["graders"].items()),
        "secondary": tuple(_margins(summary.get("secondary"), summary["graders"])),
        "regression": tuple(_margins(summary.get("regression"), {})),
        "judge": _judge(summary["judge"]) if "judge" in summary else None,
        "warnings": tuple(summary.get("warnings", ())),
        **intervals,
    }


def _score(interval: Summary) -> Score:
    return Score(score=interval["score"], low=interval["low"], high=interval["high"])


def _grader(name: str, means: Summary, spec: EvaluationSpec) -> GraderScores:
    primary = name == spec.primary_grader.name
    return GraderScores(name=name, primary=primary, base=means["base"], tuned=means["tuned"])


def _margins(checks: Mapping[str, Summary] | None, means: Mapping[str, Summary]) -> Iterable[Margin]:
    """What must not get worse; `means` has the scores that a check does not have itself."""
    for name, check in (checks or {}).items():
        yield Margin(name=name, **means.get(name, {}), **check)


def _judge(told: Summary) -> Judge:
    return Judge(
        requests=told["requests"],
        cost=told.get("cost"),
        currency=told.get("currency"),
        flip_rate=told.get("flipRate"),
    )


def _rows(
    workspace: Workspace, pairs: StoredPairs, primary: str, findings: tuple[Finding, ...]
) -> dict[str, Any]:
    judged = rows.judge(pairs, primary)
    chosen = rows.worst(judged)
    return {
        "answers": {
            "base": rows.answers([row.base for row in judged]),
            "tuned": rows.answers([row.tuned for row in judged]),
        },
        "outcomes": rows.counts(judged),
        "shown": rows.shown(pairs, chosen, primary, _related(workspace), findings),
    }


def _related(workspace: Workspace) -> dict[str, Related]:
    """By the id of the hold-out row; nothing where prepare was an older version."""
    if not workspace.related.is_file():
        return {}
    return {row.id: row for row in map(Related.from_json, stream_json_lines(workspace.related))}


def _spent(job: Job, train: Summary) -> Spent:
    gpus = job.spec.resources.nodes * job.spec.resources.gpus_per_node
    price = job.accelerator.price_per_hour if job.accelerator else None
    cost = None if price is None or not gpus else train["seconds"] / 3600 * gpus * float(price)
    currency = job.accelerator.currency if job.accelerator else None
    return Spent(seconds=train["seconds"], gpus=gpus, cost=cost, currency=currency)
