"""baseline: score the untuned base on everything that is asked, before any accelerator trains."""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from finetune_trainer import verdicts
from finetune_trainer.contracts import EvaluationSpec, Job, Result
from finetune_trainer.data.prepared import check_prepared
from finetune_trainer.errors import UserError
from finetune_trainer.progress import ProgressServer
from finetune_trainer.results import succeeded
from finetune_trainer.scoring.ask import answer_sets
from finetune_trainer.scoring.baseline_store import cache_baseline, cached_baseline, rows_path
from finetune_trainer.scoring.client import Engine, socket_path
from finetune_trainer.scoring.compare import means, rounded, score
from finetune_trainer.scoring.question_sets import QuestionSet, holdout_set, rival_sets, suite_sets
from finetune_trainer.scoring.rows import GradedRow, read_rows, write_rows
from finetune_trainer.statistics import Interval
from finetune_trainer.words import plural
from finetune_trainer.workspace import Workspace


@dataclass(frozen=True)
class Scored:
    """What the base scores on the hold-out, there with the prompt of each rival, and on each suite."""

    base: Interval
    rivals: Mapping[str, Interval]
    suites: Mapping[str, Interval]

    @property
    def best_rival(self) -> str | None:
        """The rival that scores highest, if it beats the base as it is."""
        best = max(self.rivals, key=lambda name: self.rivals[name].score, default=None)
        return best if best is not None and self.rivals[best].score > self.base.score else None

    @property
    def best(self) -> Interval:
        """What the base reaches with the best prompt that it was given: training has to beat that."""
        return self.base if self.best_rival is None else self.rivals[self.best_rival]


def run(job: Job, workspace: Workspace) -> Result:
    """Ask the base every question, or take what an earlier run stored of the same base and questions.

    Asked are the hold-out, the same under the prompt of each rival, and the suites outside of the task.
    """
    prepared = check_prepared(workspace, job)
    evaluation = required_evaluation(job)
    holdout = holdout_set(workspace, prepared, evaluation, job.engine)
    rivals, suites = (find(workspace, prepared, evaluation, job.engine) for find in (rival_sets, suite_sets))
    sets = [holdout, *rivals.values(), *suites.values()]
    stored = _stored(job, workspace, sets)
    rows = stored | _ask(job, workspace, [asked for asked in sets if asked.title not in stored])
    scored = Scored(
        _score(holdout, rows),
        {name: _score(asked, rows) for name, asked in rivals.items()},
        {name: _score(asked, rows) for name, asked in suites.items()},
    )
    return _result(job, rows[holdout.title], scored, cached=len(stored) == len(sets))


def required_evaluation(job: Job) -> EvaluationSpec:
    """The job's evaluation; UserError when it has none."""
    if job.spec.evaluation is None:
        raise UserError("The job has no `evaluation`, so nothing can be scored; add one or skip this stage.")
    return job.spec.evaluation


def _stored(job: Job, workspace: Workspace, sets: Sequence[QuestionSet]) -> dict[str, list[GradedRow]]:
    """The answers that an earlier run or attempt stored, by the title of their questions."""
    found: dict[str, list[GradedRow]] = {}
    for asked in sets:
        path = rows_path(workspace, asked.answers_of("base"), asked.key)
        rows = _usable(cached_baseline(job, asked.key), asked) or _usable(read_rows(path), asked)
        if rows:
            write_rows(path, rows)
            found[asked.title] = rows
    return found


def _usable(rows: list[GradedRow] | None, asked: QuestionSet) -> list[GradedRow] | None:
    ids = [question.id for question in asked.questions]
    return rows if rows and [row.id for row in rows] == ids else None


def _ask(job: Job, workspace: Workspace, sets: Sequence[QuestionSet]) -> dict[str, list[GradedRow]]:
    if not sets:
        return {}
    with ProgressServer("baseline") as server:
        total = sum(len(asked.questions) for asked in sets)
        server.update(total_steps=total, message="waiting for the engine")
        return asyncio.run(_answers(job, workspace, sets, server))


async def _answers(
    job: Job, workspace: Workspace, sets: Sequence[QuestionSet], server: ProgressServer
) -> dict[str, list[GradedRow]]:
    answered: dict[str, list[GradedRow]] = {}

    def keep(asked: QuestionSet, rows: list[GradedRow]) -> None:
        write_rows(rows_path(workspace, asked.answers_of("base"), asked.key), rows)
        cache_baseline(job, asked.key, rows)
        answered[asked.title] = rows

    async with Engine(socket_path()) as engine:
        await engine.wait_ready()
        await answer_sets(engine, await engine.base_name(), sets, server, keep)
    return answered


def _score(asked: QuestionSet, rows: Mapping[str, Sequence[GradedRow]]) -> Interval:
    try:
        return score(rows[asked.title], asked.evaluation.primary_grader.name)
    except UserError as error:
        raise UserError(f"The base cannot be scored on {asked.title}: {error}") from error


def _result(job: Job, rows: Sequence[GradedRow], scored: Scored, *, cached: bool) -> Result:
    evaluation = required_evaluation(job)
    judged = verdicts.baseline(scored.best)
    summary: dict[str, Any] = {
        "metric": evaluation.primary_grader.name,
        "rows": len(rows),
        **rounded(scored.base),
        "graders": means(rows, evaluation),
        "verdict": judged.verdict,
        "blocking": judged.blocking,
        "cached": cached,
        **_beside("rivals", {name: rounded(interval) for name, interval in scored.rivals.items()}),
        **_beside(
            "regression", {name: {"base": rounded(found)["score"]} for name, found in scored.suites.items()}
        ),
    }
    return succeeded(job, _sentence(evaluation, len(rows), scored, judged.verdict), summary)


def _beside(key: str, entries: Mapping[str, Any]) -> dict[str, Any]:
    return {key: entries} if entries else {}


def _sentence(evaluation: EvaluationSpec, rows: int, scored: Scored, verdict: str) -> str:
    base, name = scored.base, scored.best_rival
    metric = evaluation.primary_grader.name
    rival = "" if name is None else f", and with the prompt {name} {_in_words(scored.rivals[name])}"
    text = f"The base scores {_in_words(base)} by {metric} on {plural(rows, 'row')}{rival}: {verdict}."
    return " ".join([text, *_too_low(evaluation, scored)])


def _too_low(evaluation: EvaluationSpec, scored: Scored) -> list[str]:
    """Suites on which the base scores less than may be lost, so that no loss could be shown."""
    return [
        f"On the suite {suite.name} it scores {scored.suites[suite.name].score:.1%}, too little for a drop "
        f"of {float(suite.margin):.1%} to show: choose easier questions."
        for suite in evaluation.suites
        if scored.suites[suite.name].score < float(suite.margin)
    ]


def _in_words(interval: Interval) -> str:
    return f"{interval.score:.1%} (95 % interval {interval.low:.1%} to {interval.high:.1%})"
