"""baseline: score the untuned base on everything that is asked, before any accelerator trains."""

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import Any

from finetune_trainer.contracts import EvaluationSpec, Job, Result
from finetune_trainer.data.prepared import check_prepared
from finetune_trainer.errors import UserError
from finetune_trainer.gate import verdicts
from finetune_trainer.gate.compare import Coverage, coverage, grouped, if_any, means, rounded, score
from finetune_trainer.gate.power import detectable, differing_share, rows_needed
from finetune_trainer.gate.regression import covered
from finetune_trainer.gate.rivals import best_rival
from finetune_trainer.gate.statistics import Interval, count_groups
from finetune_trainer.grading import DEFERRED
from finetune_trainer.judging.judge import JudgeUse
from finetune_trainer.judging.session import JudgeAccess, decisions, examine_references, judge_one
from finetune_trainer.progress import ProgressServer
from finetune_trainer.results import succeeded
from finetune_trainer.scoring.ask import Answered, ask
from finetune_trainer.scoring.baseline_store import cache_baseline, cached_baseline, rows_path
from finetune_trainer.scoring.client import Engine
from finetune_trainer.scoring.holdout_uses import earlier_uses
from finetune_trainer.scoring.question_sets import Asked, QuestionSet, asked_of
from finetune_trainer.scoring.rows import GradedRow, cut, cut_sentence, read_rows, regraded, write_rows
from finetune_trainer.scoring.server import engine_for
from finetune_trainer.stages.code import answered, await_code, graded_rows
from finetune_trainer.stages.judging import judge_access, judge_summary, judging_progress, share_replies
from finetune_trainer.words import plural
from finetune_trainer.workspace import Workspace

_WARNINGS = 5


@dataclass(frozen=True)
class Scored:
    """What the base scores on the hold-out, there with the prompt of each rival, and on each suite.

    Left out are rivals with too few answers that could be graded, and suites without any. The base is None
    where no answer could be graded.
    """

    base: Interval | None
    rivals: Mapping[str, Interval]
    suites: Mapping[str, Interval]

    @property
    def best(self) -> Interval | None:
        """What the base reaches with the best prompt that it was given: training has to beat that."""
        best = best_rival(self.base, self.rivals)
        return self.base if best is None else self.rivals[best]


@dataclass(frozen=True)
class AskedBase:
    """The graded rows of the base, and what the judge took so far; `cached` where all answers were known."""

    rows: Answered
    use: JudgeUse
    cached: bool


def run(job: Job, workspace: Workspace) -> Result:
    """Score the base: on the hold-out, with the prompt of each rival there, and on the suites."""
    prepared = check_prepared(workspace, job)
    evaluation = required_evaluation(job)
    asked = asked_of(workspace, prepared, evaluation, job.engine)
    access = judge_access(job, workspace, required=True)
    with ProgressServer("baseline") as server:
        warnings, use = asyncio.run(examine_references(evaluation, access, asked.holdout.questions))
        found = ask_base(job, workspace, asked, access, server, use)
    uses = earlier_uses(job, prepared.summary["holdoutDigest"])
    judge = judge_summary(job, found.use, warnings)
    told = {"cached": found.cached, "holdoutUses": uses, **judge}
    if evaluation.runs_code:
        return await_code(job, workspace, "base", asked.of_base, found.rows, told)
    return _conclude(job, asked, found.rows, told)


def ask_base(
    job: Job, workspace: Workspace, asked: Asked, access: JudgeAccess, server: ProgressServer, use: JudgeUse
) -> AskedBase:
    """Ask the base every question, or take what an earlier run stored of the same base; store graded rows.

    `use` is what the judge took before.
    """
    stored = _stored(job, workspace, asked.of_base)
    missing = [found for found in asked.of_base if found.title not in stored]
    rows = stored | _ask(job, workspace, missing, server)
    rows, use = _judged(job, access, asked.of_base, rows, server, use)
    for found in asked.of_base:
        write_rows(rows_path(workspace, found.answers_of("base"), found.key), rows[found.title])
    share_replies(job, access)
    return AskedBase(rows, use, cached=not missing)


def grade_programs(job: Job, workspace: Workspace) -> Result:
    """grade-base: what baseline says once the base's answers are graded."""
    prepared = check_prepared(workspace, job)
    asked = asked_of(workspace, prepared, required_evaluation(job), job.engine)
    rows, warnings = graded_rows(workspace, "base", asked.of_base)
    return _conclude(job, asked, rows, answered(workspace, "baseline", warnings))


def _conclude(job: Job, asked: Asked, rows: Mapping[str, list[GradedRow]], told: dict[str, Any]) -> Result:
    """The scores and the verdict of rows that are graded; `told` is what else is known of them."""
    evaluation = required_evaluation(job)
    holdout = rows[asked.holdout.title]
    rivals = graded_scores(asked.rivals, rows, verdicts.GRADED_SHARE)
    scored = Scored(_score(asked.holdout, rows), rivals, graded_scores(asked.suites, rows))
    suites = {name: rows[found.title] for name, found in asked.suites.items()}
    doubts = [*told.get("warnings", []), *_doubts(evaluation, scored)][:_WARNINGS]
    return _result(job, holdout, scored, _coverage(evaluation, holdout, suites), {**told, "warnings": doubts})


def required_evaluation(job: Job) -> EvaluationSpec:
    """The job's evaluation; UserError when it has none."""
    if job.spec.evaluation is None:
        raise UserError("The job has no `evaluation`, so nothing can be scored; add one or skip this stage.")
    return job.spec.evaluation


def _stored(job: Job, workspace: Workspace, sets: Sequence[QuestionSet]) -> Answered:
    """The answers that an earlier run, or an earlier attempt of this one, stored."""
    found: Answered = {}
    for asked in sets:
        here = rows_path(workspace, asked.answers_of("base"), asked.key)
        rows = _usable(cached_baseline(job, asked.key), asked) or _usable(read_rows(here), asked)
        if rows:
            found[asked.title] = rows
    return found


def _usable(rows: list[GradedRow] | None, asked: QuestionSet) -> list[GradedRow] | None:
    if not rows or [row.id for row in rows] != [question.id for question in asked.questions]:
        return None
    pairs, graders = zip(asked.questions, rows, strict=True), asked.evaluation.graders
    # Groups are the hold-out's, which may say others of the same rows than when they were answered.
    found = [replace(regraded(question, row, graders), group=question.group) for question, row in pairs]
    return found if _worth_keeping(found, asked.evaluation) else None


def _worth_keeping(rows: list[GradedRow], evaluation: EvaluationSpec) -> bool:
    """Whether a run may start from these rows: nothing that can be graded here was left ungraded."""
    here = [spec for spec in evaluation.graders if spec.type not in DEFERRED]
    return not here or coverage([rows], here).share >= verdicts.GRADED_SHARE


def _ask(job: Job, workspace: Workspace, sets: Sequence[QuestionSet], server: ProgressServer) -> Answered:
    def keep(asked: QuestionSet, rows: list[GradedRow]) -> None:
        write_rows(rows_path(workspace, asked.answers_of("base"), asked.key), rows)
        if _worth_keeping(rows, asked.evaluation):
            cache_baseline(job, asked.key, rows)  # without a judge's grades, which its own cache holds

    return ask(sets, _base(job), server, keep) if sets else {}


@asynccontextmanager
async def _base(job: Job) -> AsyncIterator[tuple[Engine, str]]:
    async with engine_for(job.engine) as engine:
        await engine.wait_ready()
        yield engine, await engine.base_name()


def _judged(
    job: Job,
    access: JudgeAccess,
    sets: Sequence[QuestionSet],
    rows: Answered,
    server: ProgressServer,
    use: JudgeUse,
) -> tuple[Answered, JudgeUse]:
    """The rows with the judge's grades, and all that the judge took so far."""
    found: Answered = {}
    for asked in sets:
        given = rows[asked.title]
        watch = judging_progress(job, server, decisions(asked.evaluation, len(given), paired=False), use)
        judged = asyncio.run(judge_one(asked.evaluation, access, asked.questions, given, watch))
        found[asked.title], use = judged.rows, use + judged.use
    return found, use


def _score(asked: QuestionSet, rows: Mapping[str, list[GradedRow]]) -> Interval | None:
    return score(rows[asked.title], asked.evaluation.baseline_grader.name)


def graded_scores(
    sets: Mapping[str, QuestionSet], rows: Mapping[str, list[GradedRow]], share: float = 0.0
) -> dict[str, Interval]:
    """The base's scores on the sets of which at least a share, and any answer, could be graded."""
    return {
        name: found
        for name, asked in sets.items()
        if _is_graded(asked, rows, share) and (found := _score(asked, rows)) is not None
    }


def _is_graded(asked: QuestionSet, rows: Mapping[str, list[GradedRow]], share: float) -> bool:
    found = coverage([rows[asked.title]], (asked.evaluation.baseline_grader,))
    return found.share >= share


def _coverage(
    evaluation: EvaluationSpec, rows: list[GradedRow], suites: Mapping[str, list[GradedRow]]
) -> Coverage:
    of_suites = (covered(suite, suites) for suite in evaluation.suites)
    return min([coverage([rows], evaluation.baseline_graders), *of_suites], key=lambda found: found.share)


def _doubts(evaluation: EvaluationSpec, scored: Scored) -> list[str]:
    """Rivals that could not be scored, and suites on which no loss could be shown."""
    unscored = [rival.name for rival in evaluation.rivals or () if rival.name not in scored.rivals]
    low = [
        suite
        for suite in evaluation.suites
        if (found := scored.suites.get(suite.name)) and found.score < suite.grader.allowed_loss < 1
    ]
    return [
        *(f"Too few answers with the prompt {name} could be graded to compare it." for name in unscored),
        *(
            f"On the suite {suite.name} the base scores {scored.suites[suite.name].score:.1%}, too little "
            f"for a drop of {suite.grader.allowed_loss:.1%} to show: choose easier questions."
            for suite in low
        ),
    ]


def _result(
    job: Job, rows: list[GradedRow], scored: Scored, found: Coverage, circumstances: dict[str, Any]
) -> Result:
    evaluation, base = required_evaluation(job), scored.base
    judged = verdicts.baseline(scored.best, found.share)
    effect = None if base is None else detectable(count_groups([row.group for row in rows]), base.score)
    summary: dict[str, Any] = {
        "metric": evaluation.baseline_grader.name,
        "rows": len(rows),
        **grouped(rows),
        **rounded(base),
        "graders": means(rows, evaluation),
        **found.summary(),
        "verdict": judged.verdict,
        "blocking": judged.blocking,
        "detectable": None if effect is None else round(effect, 4),
        "rowsNeeded": None if base is None else _rows_needed(base.score, evaluation.min_delta),
        "cut": cut(rows),
        **if_any(
            rivals={name: rounded(found) for name, found in scored.rivals.items()},
            regression={name: {"base": round(found.score, 4)} for name, found in scored.suites.items()},
        ),
        **circumstances,
    }
    text = _sentence(evaluation, len(rows), scored, judged.verdict)
    said = [text, cut_sentence(cut(rows), len(rows), evaluation.output_tokens), found.sentence()]
    return succeeded(job, " ".join([*filter(None, said), *circumstances["warnings"]]), summary)


def _sentence(evaluation: EvaluationSpec, rows: int, scored: Scored, verdict: str) -> str:
    name, metric = best_rival(scored.base, scored.rivals), evaluation.baseline_grader.name
    rival = "" if name is None else f", and with the prompt {name} {_in_words(scored.rivals[name])}"
    return f"The base scores {_in_words(scored.base)} by {metric} on {plural(rows, 'row')}{rival}: {verdict}."


def _in_words(interval: Interval | None) -> str:
    if interval is None:
        return "nothing that could be graded"
    return f"{interval.score:.1%} (95 % interval {interval.low:.1%} to {interval.high:.1%})"


def _rows_needed(base: float, min_delta: float) -> int | None:
    """Rows or groups that show a gain of the gate's minimum; None for a gain that cannot be."""
    if not 0 < min_delta <= 1 - base:
        return None
    return rows_needed(min_delta, differing_share(base, min_delta))
