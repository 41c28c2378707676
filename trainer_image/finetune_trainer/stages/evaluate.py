"""evaluate: score the tuned model on the same hold-out, and compare it with the base row by row."""

import asyncio
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from finetune_trainer.contracts import EvaluationSpec, Job, Result
from finetune_trainer.data.prepared import check_prepared
from finetune_trainer.errors import UserError
from finetune_trainer.evaluation.report import evaluated_report
from finetune_trainer.judging.judge import JudgeUse
from finetune_trainer.judging.session import decisions, judge_two
from finetune_trainer.progress import ProgressServer
from finetune_trainer.report.store import write_reports
from finetune_trainer.results import succeeded
from finetune_trainer.scoring.ask import answer_all
from finetune_trainer.scoring.baseline_store import baseline_key, rows_path, template_kwargs
from finetune_trainer.scoring.compare import Comparison, compare, grouped, kept, means, rounded
from finetune_trainer.scoring.effect import check_effect
from finetune_trainer.scoring.holdout_uses import record_use
from finetune_trainer.scoring.rows import GradedRow, Question, cut, read_questions, read_rows, write_rows
from finetune_trainer.scoring.server import Offer, engine_for
from finetune_trainer.stages import baseline
from finetune_trainer.stages.baseline import required_evaluation
from finetune_trainer.stages.judging import judge_access, judge_summary, judging_progress
from finetune_trainer.stages.publish import publish_candidate, withdraw_candidate
from finetune_trainer.workspace import Workspace

ADAPTER_NAME = "tuned"
_log = logging.getLogger(__name__)


def run(job: Job, workspace: Workspace) -> Result:
    """Ask the tuned model every question and judge the paired difference to the stored baseline."""
    prepared = check_prepared(workspace, job)
    evaluation = required_evaluation(job)
    key = baseline_key(prepared.summary, evaluation, job.engine)
    base = read_rows(rows_path(workspace, "base", key))
    if base is None and job.engine is not None and job.engine.server is not None:
        baseline.run(job, workspace)  # the server runs otherwise than when the base was scored
        base = read_rows(rows_path(workspace, "base", key))
    if base is None:
        raise UserError("The workspace holds no answers of the base to compare with; run the job again.")
    questions = read_questions(workspace.holdout, template_kwargs(prepared.summary))
    access = judge_access(job, workspace)
    with ProgressServer("evaluate") as server:
        server.update(total_steps=len(questions), message="waiting for the engine")
        tuned = asyncio.run(_answers(job, workspace, questions, evaluation, server))
        write_rows(rows_path(workspace, "tuned", key), tuned)  # before a judge, which may fail
        watch = judging_progress(job, server, decisions(evaluation, len(tuned), paired=True), JudgeUse())
        judged = asyncio.run(judge_two(evaluation, access, questions, base, tuned, watch))
    base = judged.base or base
    write_rows(rows_path(workspace, "base", key), base)
    write_rows(rows_path(workspace, "tuned", key), judged.rows)
    uses = record_use(job, prepared.summary["holdoutDigest"])
    told = {"holdoutUses": uses, **judge_summary(job, judged.use, judged.warnings, judged.flip_rate)}
    result = _result(job, evaluation, base, judged.rows, told)
    if report := evaluated_report(job, workspace, result.summary):
        write_reports(workspace, report)
    return result


async def _answers(
    job: Job,
    workspace: Workspace,
    questions: list[Question],
    evaluation: EvaluationSpec,
    server: ProgressServer,
) -> list[GradedRow]:
    with _offering(job, workspace, server) as offer:
        async with engine_for(job.engine, offer) as engine:
            await engine.wait_ready()
            base = model = await engine.base_name()
            if job.spec.trains_adapter:
                model = await engine.load_adapter(ADAPTER_NAME, workspace.adapter_dir)
                await check_effect(engine, base, model, questions)
            server.update(message="asking the tuned model")
            return await answer_all(
                engine, model, questions, evaluation, lambda done: server.stepped(step=done)
            )


@contextmanager
def _offering(job: Job, workspace: Workspace, server: ProgressServer) -> Iterator[Offer | None]:
    """What puts the adapter where a ModelServer finds it, for as long as it is asked."""
    asked = job.engine.server if job.engine is not None else None
    if asked is None:
        yield None
        return

    def offer() -> str:
        server.update(message="waiting until the ModelServer holds the candidate")
        digest = publish_candidate(job, workspace, asked.source)
        server.update(candidate=digest)
        return digest

    try:
        yield offer
    finally:
        withdraw_candidate(asked.source)


def _result(
    job: Job,
    evaluation: EvaluationSpec,
    base: list[GradedRow],
    tuned: list[GradedRow],
    told: dict[str, Any],
) -> Result:
    outcome = compare(base, tuned, evaluation)
    metric = evaluation.primary_grader.name
    before, after = means(base, evaluation), means(tuned, evaluation)
    summary: dict[str, Any] = {
        "metric": metric,
        "rows": len(tuned),
        **grouped(tuned),
        "base": rounded(outcome.base),
        "tuned": rounded(outcome.tuned),
        "delta": rounded(outcome.delta),
        "graders": {name: {"base": before[name], "tuned": after[name]} for name in after},
        "secondary": kept(outcome.secondary),
        **outcome.coverage.summary(),
        "verdict": outcome.verdict,
        "cut": {"base": cut(base), "tuned": cut(tuned)},
        **told,
    }
    cuts = _cut_sentence(cut(base), cut(tuned), evaluation.output_tokens)
    return succeeded(job, _sentence(metric, outcome) + cuts, summary)


def _cut_sentence(base: int, tuned: int, limit: int) -> str:
    if not base and not tuned:
        return ""
    counts = f"{tuned} answers of the tuned model and {base} of the base"
    return f" {counts} reached evaluation.maxTokens ({limit}) and ended there."


def _sentence(metric: str, outcome: Comparison) -> str:
    delta = outcome.delta
    text = (
        f"The tuned model scores {outcome.tuned.score:.1%} by {metric}, the base {outcome.base.score:.1%}: "
        f"{delta.score:+.1%} (95 % interval {delta.low:+.1%} to {delta.high:+.1%}), {outcome.verdict}."
    )
    lost = [
        f"By {name} it may have lost more than {found.margin:.1%}: {found.delta:+.1%}, lower bound "
        f"{found.low:+.1%}."
        for name, found in outcome.secondary.items()
        if not found.holds
    ]
    return " ".join(filter(None, [text, *lost, outcome.coverage.sentence()]))
