"""baseline: score the untuned base on the hold-out, before any accelerator is spent on training."""

import asyncio
from typing import Any

from finetune_trainer import verdicts
from finetune_trainer.contracts import EvaluationSpec, Job, Result
from finetune_trainer.data.prepared import check_prepared
from finetune_trainer.errors import UserError
from finetune_trainer.judging.session import decisions, examine_references, judge_one
from finetune_trainer.progress import ProgressServer
from finetune_trainer.results import succeeded
from finetune_trainer.scoring.ask import answer_all
from finetune_trainer.scoring.baseline_store import (
    baseline_key,
    cache_baseline,
    cached_baseline,
    rows_path,
    template_kwargs,
)
from finetune_trainer.scoring.client import Engine, socket_path
from finetune_trainer.scoring.compare import means, rounded, score
from finetune_trainer.scoring.rows import GradedRow, Question, read_questions, write_rows
from finetune_trainer.stages.judging import judge_access, judge_summary, judging_progress, share_replies
from finetune_trainer.words import plural
from finetune_trainer.workspace import Workspace


def run(job: Job, workspace: Workspace) -> Result:
    """Ask the base every question, or take what an earlier run of the same base and hold-out stored."""
    prepared = check_prepared(workspace, job)
    evaluation = required_evaluation(job)
    key = baseline_key(prepared.summary, evaluation, job.engine)
    questions = read_questions(workspace.holdout, template_kwargs(prepared.summary))
    access = judge_access(job, workspace)
    warnings, use = asyncio.run(examine_references(evaluation, access, questions))
    cached = _usable(cached_baseline(job, key), questions)
    with ProgressServer("baseline") as server:
        rows = cached or _ask(questions, evaluation, server)
        if not cached:
            cache_baseline(job, key, rows)  # without a judge's grades, which its own cache holds
        watch = judging_progress(job, server, decisions(evaluation, len(rows), paired=False), use)
        judged = asyncio.run(judge_one(evaluation, access, questions, rows, watch))
    write_rows(rows_path(workspace, "base", key), judged.rows)
    share_replies(job, access)
    told = judge_summary(job, use + judged.use, warnings)
    return _result(job, evaluation, judged.rows, cached=bool(cached), told=told)


def required_evaluation(job: Job) -> EvaluationSpec:
    """The job's evaluation; UserError when it has none."""
    if job.spec.evaluation is None:
        raise UserError("The job has no `evaluation`, so nothing can be scored; add one or skip this stage.")
    return job.spec.evaluation


def _usable(rows: list[GradedRow] | None, questions: list[Question]) -> list[GradedRow] | None:
    return rows if rows and [row.id for row in rows] == [question.id for question in questions] else None


def _ask(questions: list[Question], evaluation: EvaluationSpec, server: ProgressServer) -> list[GradedRow]:
    server.update(total_steps=len(questions), message="waiting for the engine")
    return asyncio.run(_answers(questions, evaluation, server))


async def _answers(
    questions: list[Question], evaluation: EvaluationSpec, server: ProgressServer
) -> list[GradedRow]:
    async with Engine(socket_path()) as engine:
        await engine.wait_ready()
        model = await engine.base_name()
        server.update(message="asking the base model")
        return await answer_all(engine, model, questions, evaluation, lambda done: server.stepped(step=done))


def _result(
    job: Job, evaluation: EvaluationSpec, rows: list[GradedRow], *, cached: bool, told: dict[str, Any]
) -> Result:
    metric = evaluation.baseline_grader.name
    interval = score(rows, metric)
    judged = verdicts.baseline(interval)
    summary: dict[str, Any] = {
        "metric": metric,
        "rows": len(rows),
        **rounded(interval),
        "graders": means(rows, evaluation),
        "verdict": judged.verdict,
        "blocking": judged.blocking,
        "cached": cached,
        **told,
    }
    text = (
        f"The base scores {interval.score:.1%} by {metric} on {plural(len(rows), 'row')} "
        f"(95 % interval {interval.low:.1%} to {interval.high:.1%}): {judged.verdict}."
    )
    return succeeded(job, text, summary)
