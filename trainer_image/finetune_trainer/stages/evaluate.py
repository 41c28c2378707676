"""evaluate: score the tuned model on the same hold-out, and compare it with the base row by row."""

import asyncio
import logging
from collections.abc import Mapping, Sequence
from typing import Any

from finetune_trainer.contracts import Job, Result
from finetune_trainer.data.prepared import check_prepared
from finetune_trainer.errors import UserError
from finetune_trainer.progress import ProgressServer
from finetune_trainer.results import succeeded
from finetune_trainer.scoring.ask import answer_sets
from finetune_trainer.scoring.baseline_store import rows_path
from finetune_trainer.scoring.client import Engine, socket_path
from finetune_trainer.scoring.compare import Comparison, compare, means, rounded, score
from finetune_trainer.scoring.question_sets import QuestionSet, holdout_set, rival_sets, suite_sets
from finetune_trainer.scoring.regression import ALL_SUITES, SuiteResult, judge_suites
from finetune_trainer.scoring.rows import GradedRow, Question, read_rows, write_rows
from finetune_trainer.stages.baseline import required_evaluation
from finetune_trainer.statistics import Interval
from finetune_trainer.workspace import Workspace

ADAPTER_NAME = "tuned"
_PROBES = 3
_log = logging.getLogger(__name__)


def run(job: Job, workspace: Workspace) -> Result:
    """Ask the tuned model every question and judge the paired difference to the stored baseline."""
    prepared = check_prepared(workspace, job)
    evaluation = required_evaluation(job)
    holdout = holdout_set(workspace, prepared, evaluation, job.engine)
    rivals, suites = (find(workspace, prepared, evaluation, job.engine) for find in (rival_sets, suite_sets))
    base = {asked.title: _base_rows(workspace, asked) for asked in (holdout, *suites.values())}
    tuned = _ask(job, workspace, [holdout, *suites.values()])
    regression = judge_suites(
        evaluation.suites,
        {name: base[asked.title] for name, asked in suites.items()},
        {name: tuned[asked.title] for name, asked in suites.items()},
    )
    metric = evaluation.primary_grader.name
    prompted = {name: score(_base_rows(workspace, asked), metric) for name, asked in rivals.items()}
    return _result(job, base[holdout.title], tuned[holdout.title], regression, prompted)


def _base_rows(workspace: Workspace, asked: QuestionSet) -> list[GradedRow]:
    rows = read_rows(rows_path(workspace, asked.answers_of("base"), asked.key))
    if rows is None:
        text = f"The workspace holds no answers of the base to {asked.title} to compare with"
        raise UserError(f"{text}; run the job again.")
    return rows


def _ask(job: Job, workspace: Workspace, sets: Sequence[QuestionSet]) -> dict[str, list[GradedRow]]:
    with ProgressServer("evaluate") as server:
        total = sum(len(asked.questions) for asked in sets)
        server.update(total_steps=total, message="waiting for the engine")
        return asyncio.run(_answers(job, workspace, sets, server))


async def _answers(
    job: Job, workspace: Workspace, sets: Sequence[QuestionSet], server: ProgressServer
) -> dict[str, list[GradedRow]]:
    answered: dict[str, list[GradedRow]] = {}

    def keep(asked: QuestionSet, rows: list[GradedRow]) -> None:
        write_rows(rows_path(workspace, asked.answers_of("tuned"), asked.key), rows)
        answered[asked.title] = rows

    async with Engine(socket_path()) as engine:
        await engine.wait_ready()
        model = await engine.base_name()
        if job.spec.trains_adapter:
            await engine.load_adapter(ADAPTER_NAME, workspace.adapter_dir)
            await _check_effect(engine, model, sets[0].questions)
            model = ADAPTER_NAME
        await answer_sets(engine, model, sets, server, keep)
    return answered


async def _check_effect(engine: Engine, base: str, questions: list[Question]) -> None:
    """UserError when the adapter changes no probability at all: it was not trained, or not applied.

    Equal answers alone would not prove it; equal log-probabilities do.
    """
    for question in questions[:_PROBES]:
        before = await engine.log_probabilities(base, question.prompt)
        if await engine.log_probabilities(ADAPTER_NAME, question.prompt) != before:
            return
    raise UserError(
        "The adapter changes nothing: base and tuned model give the same probabilities; raise "
        "training.learningRate or training.epochs."
    )


def _result(
    job: Job,
    base: list[GradedRow],
    tuned: list[GradedRow],
    regression: Mapping[str, SuiteResult],
    rivals: Mapping[str, Interval],
) -> Result:
    evaluation = required_evaluation(job)
    outcome = compare(base, tuned, evaluation, regression.values())
    metric = evaluation.primary_grader.name
    before, after = means(base, evaluation), means(tuned, evaluation)
    summary: dict[str, Any] = {
        "metric": metric,
        "rows": len(tuned),
        "base": rounded(outcome.base),
        "tuned": rounded(outcome.tuned),
        "delta": rounded(outcome.delta),
        "graders": {name: {"base": before[name], "tuned": after[name]} for name in after},
        "verdict": outcome.verdict,
    }
    if regression:
        summary["regression"] = {name: result.to_json() for name, result in regression.items()}
    if rivals:
        summary["rivals"] = {name: rounded(interval) for name, interval in rivals.items()}
    said = [_sentence(metric, outcome, len(tuned)), *_rivalled(outcome.tuned, rivals), *_lost(regression)]
    return succeeded(job, " ".join(said), summary)


def _rivalled(tuned: Interval, rivals: Mapping[str, Interval]) -> list[str]:
    """The best prompt, where the tuned model is not clearly better than the base with it."""
    best = max(rivals, key=lambda name: rivals[name].score, default=None)
    if best is None or rivals[best].score < tuned.low:
        return []
    return [
        f"With the prompt {best} the base alone scores {rivals[best].score:.1%}, which is within the tuned "
        "model's interval or above it: the prompt may be enough."
    ]


def _lost(regression: Mapping[str, SuiteResult]) -> list[str]:
    return [
        f"On {name if name == ALL_SUITES else f'the suite {name}'} {_drop(result)}"
        for name, result in regression.items()
        if not result.holds
    ]


def _drop(result: SuiteResult) -> str:
    if result.base is None or result.tuned is None or result.low is None:
        return "no row could be graded for both models."
    return (
        f"it scores {result.tuned:.1%}, the base {result.base:.1%}: it may have lost {-result.low:.1%}, "
        f"{result.margin:.1%} are allowed."
    )


def _sentence(metric: str, outcome: Comparison, rows: int) -> str:
    delta = outcome.delta
    text = (
        f"The tuned model scores {outcome.tuned.score:.1%} by {metric}, the base {outcome.base.score:.1%}: "
        f"{delta.score:+.1%} (95 % interval {delta.low:+.1%} to {delta.high:+.1%}), {outcome.verdict}."
    )
    ungraded = round((1 - outcome.graded_share) * rows)
    return f"{text} {ungraded} of {rows} rows could not be graded." if ungraded else text
