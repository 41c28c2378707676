"""baseline: score the untuned base on the hold-out, before any accelerator is spent on training."""

import asyncio
from typing import Any

from finetune_trainer import verdicts
from finetune_trainer.contracts import EvaluationSpec, Job, Result
from finetune_trainer.data.prepared import check_prepared
from finetune_trainer.errors import UserError
from finetune_trainer.grading import DEFERRED
from finetune_trainer.judging.session import decisions, examine_references, judge_one
from finetune_trainer.power import detectable, differing_share, rows_needed
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
from finetune_trainer.scoring.compare import coverage, grouped, means, rounded, score
from finetune_trainer.scoring.holdout_uses import earlier_uses
from finetune_trainer.scoring.rows import (
    MANY_CUT,
    GradedRow,
    Question,
    cut,
    read_questions,
    regraded,
    write_rows,
)
from finetune_trainer.scoring.server import engine_for
from finetune_trainer.stages.judging import judge_access, judge_summary, judging_progress, share_replies
from finetune_trainer.statistics import count_groups
from finetune_trainer.words import plural
from finetune_trainer.workspace import Workspace


def run(job: Job, workspace: Workspace) -> Result:
    """Ask the base every question, or take what an earlier run of the same base and hold-out stored."""
    prepared = check_prepared(workspace, job)
    evaluation = required_evaluation(job)
    key = baseline_key(prepared.summary, evaluation, job.engine)
    questions = read_questions(workspace.holdout, template_kwargs(prepared.summary))
    access, cached = judge_access(job, workspace), _usable(cached_baseline(job, key), questions, evaluation)
    with ProgressServer("baseline") as server:
        warnings, use = asyncio.run(examine_references(evaluation, access, questions))
        rows = cached or _ask(job, questions, evaluation, server)
        if not cached and _worth_keeping(rows, evaluation):
            cache_baseline(job, key, rows)  # without a judge's grades, which its own cache holds
        watch = judging_progress(job, server, decisions(evaluation, len(rows), paired=False), use)
        judged = asyncio.run(judge_one(evaluation, access, questions, rows, watch))
    write_rows(rows_path(workspace, "base", key), judged.rows)
    share_replies(job, access)
    told = judge_summary(job, use + judged.use, warnings)
    uses = earlier_uses(job, prepared.summary["holdoutDigest"])
    return _result(job, evaluation, judged.rows, {"cached": bool(cached), "holdoutUses": uses, **told})


def required_evaluation(job: Job) -> EvaluationSpec:
    """The job's evaluation; UserError when it has none."""
    if job.spec.evaluation is None:
        raise UserError("The job has no `evaluation`, so nothing can be scored; add one or skip this stage.")
    return job.spec.evaluation


def _usable(
    rows: list[GradedRow] | None, questions: list[Question], evaluation: EvaluationSpec
) -> list[GradedRow] | None:
    if not rows or [row.id for row in rows] != [question.id for question in questions]:
        return None
    pairs = zip(questions, rows, strict=True)
    return [regraded(question, row, evaluation.graders) for question, row in pairs]


def _worth_keeping(rows: list[GradedRow], evaluation: EvaluationSpec) -> bool:
    """Whether the next run may start from these rows: nothing that can be graded here was left ungraded."""
    here = [spec for spec in evaluation.graders if spec.type not in DEFERRED]
    return not here or coverage([rows], here).share >= verdicts.GRADED_SHARE


def _ask(
    job: Job, questions: list[Question], evaluation: EvaluationSpec, server: ProgressServer
) -> list[GradedRow]:
    server.update(total_steps=len(questions), message="waiting for the engine")
    return asyncio.run(_answers(job, questions, evaluation, server))


async def _answers(
    job: Job, questions: list[Question], evaluation: EvaluationSpec, server: ProgressServer
) -> list[GradedRow]:
    async with engine_for(job.engine) as engine:
        await engine.wait_ready()
        model = await engine.base_name()
        server.update(message="asking the base model")
        return await answer_all(engine, model, questions, evaluation, lambda done: server.stepped(step=done))


def _result(
    job: Job, evaluation: EvaluationSpec, rows: list[GradedRow], circumstances: dict[str, Any]
) -> Result:
    metric = evaluation.baseline_grader.name
    interval, covered = score(rows, metric), coverage([rows], evaluation.baseline_graders)
    judged = verdicts.baseline(interval, covered.share)
    effect = detectable(count_groups([row.group for row in rows]), interval.score)
    summary: dict[str, Any] = {
        "metric": metric,
        "rows": len(rows),
        **grouped(rows),
        **rounded(interval),
        "graders": means(rows, evaluation),
        **covered.summary(),
        "verdict": judged.verdict,
        "blocking": judged.blocking,
        "detectable": None if effect is None else round(effect, 4),
        "rowsNeeded": _rows_needed(interval.score, evaluation.min_delta),
        "cut": cut(rows),
        **circumstances,
    }
    text = (
        f"The base scores {interval.score:.1%} by {metric} on {plural(len(rows), 'row')} "
        f"(95 % interval {interval.low:.1%} to {interval.high:.1%}): {judged.verdict}."
    )
    said = text + _cut_sentence(cut(rows), len(rows), evaluation.output_tokens)
    return succeeded(job, " ".join(filter(None, [said, covered.sentence()])), summary)


def _rows_needed(base: float, min_delta: float) -> int | None:
    """Rows or groups that show a gain of the gate's minimum; None for a gain that cannot be."""
    if not 0 < min_delta <= 1 - base:
        return None
    return rows_needed(min_delta, differing_share(base, min_delta))


def _cut_sentence(count: int, rows: int, limit: int) -> str:
    """What to know of answers that were cut, with a blank before it; "" when none was."""
    if not count:
        return ""
    advice = "; raise it, for a right answer that is cut fails" if count > MANY_CUT * rows else ""
    return f" {count} of {rows} answers reached evaluation.maxTokens ({limit}) and ended there{advice}."
