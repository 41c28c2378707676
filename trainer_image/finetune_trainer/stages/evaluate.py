"""evaluate: score the tuned model on the same hold-out, and compare it with the base row by row."""

import asyncio
import logging
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from typing import Any

from finetune_trainer.contracts import Job, Result
from finetune_trainer.data.prepared import check_prepared
from finetune_trainer.evaluation.report import evaluated_report
from finetune_trainer.gate.compare import (
    Comparison,
    SuiteResult,
    compare,
    grouped,
    if_any,
    kept,
    means,
    rounded,
)
from finetune_trainer.gate.regression import in_summary, judge_suites, sentences
from finetune_trainer.gate.rivals import prompt_alone
from finetune_trainer.gate.statistics import Interval
from finetune_trainer.gate.verdicts import GRADED_SHARE
from finetune_trainer.judging.judge import JudgeUse
from finetune_trainer.judging.session import decisions, judge_two
from finetune_trainer.progress import ProgressServer
from finetune_trainer.report.store import write_reports
from finetune_trainer.results import succeeded
from finetune_trainer.scoring.ask import Answered, ask
from finetune_trainer.scoring.baseline_store import rows_path
from finetune_trainer.scoring.client import Engine
from finetune_trainer.scoring.effect import check_effect
from finetune_trainer.scoring.holdout_uses import record_use
from finetune_trainer.scoring.question_sets import Asked, QuestionSet, asked_of, is_stored, stored_rows
from finetune_trainer.scoring.rows import GradedRow, Question, cut, cut_of_both, write_rows
from finetune_trainer.scoring.server import Offer, engine_for
from finetune_trainer.stages.baseline import ask_base, graded_scores, required_evaluation
from finetune_trainer.stages.code import answered, await_code, graded_rows
from finetune_trainer.stages.judging import judge_access, judge_summary, judging_progress
from finetune_trainer.stages.publish import publish_candidate, withdraw_candidate
from finetune_trainer.workspace import Workspace

ADAPTER_NAME = "tuned"
_log = logging.getLogger(__name__)


def run(job: Job, workspace: Workspace) -> Result:
    """Ask the tuned model every question and judge the paired difference to the stored baseline."""
    prepared = check_prepared(workspace, job)
    evaluation = required_evaluation(job)
    asked = asked_of(workspace, prepared, evaluation, job.engine)
    on_server = job.engine is not None and job.engine.server is not None
    # A model is trained: a judge that is away must not cost it.
    access, before = judge_access(job, workspace, required=False), JudgeUse()
    title = asked.holdout.title
    with ProgressServer("evaluate") as server:
        if on_server and not all(is_stored(workspace, "base", found) for found in asked.of_base):
            # The server runs otherwise than when the base was scored.
            before = ask_base(job, workspace, asked, access, server, before).use
        base = {found.title: stored_rows(workspace, "base", found) for found in asked.of_base}
        tuned = _ask(job, workspace, asked.of_tuned, server)
        decided = decisions(evaluation, len(tuned[title]), paired=True)
        watch = judging_progress(job, server, decided, before)
        judged = asyncio.run(
            judge_two(evaluation, access, asked.holdout.questions, base[title], tuned[title], watch)
        )
    base[title], tuned[title] = judged.base or base[title], judged.rows
    write_rows(rows_path(workspace, asked.holdout.answers_of("tuned"), asked.holdout.key), tuned[title])
    for found in asked.of_base:  # the newest are then those that were compared, whatever other attempts asked
        write_rows(rows_path(workspace, found.answers_of("base"), found.key), base[found.title])
    uses = record_use(job, prepared.summary["holdoutDigest"])
    told = {"holdoutUses": uses, **judge_summary(job, before + judged.use, judged.warnings, judged.flip_rate)}
    if evaluation.runs_code:
        return await_code(job, workspace, "tuned", asked.of_tuned, tuned, told)
    return _conclude(job, workspace, asked, base, tuned, told)


def grade_programs(job: Job, workspace: Workspace) -> Result:
    """grade-tuned: what evaluate says once the tuned model's answers are graded."""
    prepared = check_prepared(workspace, job)
    asked = asked_of(workspace, prepared, required_evaluation(job), job.engine)
    base = {found.title: stored_rows(workspace, "base", found) for found in asked.of_base}
    tuned, warnings = graded_rows(workspace, "tuned", asked.of_tuned)
    return _conclude(job, workspace, asked, base, tuned, answered(workspace, "evaluate", warnings))


def _conclude(
    job: Job, workspace: Workspace, asked: Asked, base: Answered, tuned: Answered, told: dict[str, Any]
) -> Result:
    """The comparison of graded rows, its verdict and the report; `told` is what else is known of them."""
    evaluation = required_evaluation(job)
    before, after = (
        {name: rows[found.title] for name, found in asked.suites.items()} for rows in (base, tuned)
    )
    regression = judge_suites(evaluation.suites, before, after)
    # The base alone is scored by another grader where the one that decides compares two models.
    comparable = evaluation.primary_grader == evaluation.baseline_grader
    rivals = graded_scores(asked.rivals, base, GRADED_SHARE) if comparable else {}
    title = asked.holdout.title
    result = _result(job, base[title], tuned[title], regression, rivals, told)
    if report := evaluated_report(job, workspace, result.summary):
        write_reports(workspace, report)
    return result


def _ask(job: Job, workspace: Workspace, sets: Sequence[QuestionSet], server: ProgressServer) -> Answered:
    def keep(asked: QuestionSet, rows: list[GradedRow]) -> None:  # before a judge, which may fail
        write_rows(rows_path(workspace, asked.answers_of("tuned"), asked.key), rows)

    return ask(sets, _tuned(job, workspace, server, sets[0].questions), server, keep)


@asynccontextmanager
async def _tuned(
    job: Job, workspace: Workspace, server: ProgressServer, probes: Sequence[Question]
) -> AsyncIterator[tuple[Engine, str]]:
    """The engine with its adapter, which answers the probes otherwise than the base, or (Full) its model."""
    with _offering(job, workspace, server) as offer:
        async with engine_for(job.engine, offer) as engine:
            await engine.wait_ready()
            base = model = await engine.base_name()
            if job.spec.trains_adapter:
                model = await engine.load_adapter(ADAPTER_NAME, workspace.adapter_dir)
                await check_effect(engine, base, model, probes)
            yield engine, model


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
        server.update(candidate=None)  # the slot is free for others while a judge works
        withdraw_candidate(asked.source)


def _result(
    job: Job,
    base: list[GradedRow],
    tuned: list[GradedRow],
    regression: Mapping[str, SuiteResult],
    rivals: Mapping[str, Interval],
    told: dict[str, Any],
) -> Result:
    evaluation = required_evaluation(job)
    outcome = compare(base, tuned, evaluation, list(regression.values()))
    metric = evaluation.primary_grader.name
    before, after = means(base, evaluation), means(tuned, evaluation)
    prompt = prompt_alone(outcome.base, outcome.tuned, rivals)
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
        **if_any(
            regression=in_summary(regression),
            rivals={name: rounded(found) for name, found in rivals.items()},
            promptAlone=prompt,
        ),
        **told,
    }
    cuts = cut_of_both(cut(base), cut(tuned), evaluation.output_tokens)
    said = [_sentence(metric, outcome), cuts, prompt, *sentences(regression)]
    return succeeded(job, " ".join(filter(None, said)), summary)


def _sentence(metric: str, outcome: Comparison) -> str:
    text = f"{_difference(metric, outcome)}, {outcome.verdict}."
    lost = [
        f"By {name} it may have lost more than {found.margin:.1%}: {found.delta:+.1%}, lower bound "
        f"{found.low:+.1%}."
        for name, found in outcome.secondary.items()
        if not found.holds
    ]
    return " ".join(filter(None, [text, *lost, outcome.coverage.sentence()]))


def _difference(metric: str, outcome: Comparison) -> str:
    base, tuned, delta = outcome.base, outcome.tuned, outcome.delta
    if base is None or tuned is None or delta is None:
        return f"{metric} could grade no row for both models"
    return (
        f"The tuned model scores {tuned.score:.1%} by {metric}, the base {base.score:.1%}: "
        f"{delta.score:+.1%} (95 % interval {delta.low:+.1%} to {delta.high:+.1%})"
    )
