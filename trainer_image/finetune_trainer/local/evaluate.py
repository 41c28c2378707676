"""`evaluate --endpoint`: score what an endpoint serves by a job's hold-out and graders, without a cluster."""

import argparse
import asyncio
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import httpx

from finetune_trainer.contracts import EvaluationSpec, GraderSpec, GraderType, Job
from finetune_trainer.data.findings import errors
from finetune_trainer.data.holdout import (
    duplicate_ids,
    eval_no_reference,
    split_reference,
    with_calls_added,
)
from finetune_trainer.data.load import Watch
from finetune_trainer.errors import UserError
from finetune_trainer.files import write_lines
from finetune_trainer.gate import verdicts
from finetune_trainer.gate.compare import compare, coverage, kept, means, rounded, score
from finetune_trainer.judging.judge import JudgeUse
from finetune_trainer.judging.replies import Replies
from finetune_trainer.judging.session import JudgeAccess, Judged, examine_references, judge_one, judge_two
from finetune_trainer.local.job import load_local_holdout
from finetune_trainer.local.manifest import job_of, read_manifest
from finetune_trainer.local.progress import terminal_progress
from finetune_trainer.local.verdict import FINE, REFUSED
from finetune_trainer.scoring.client import Prompt
from finetune_trainer.scoring.endpoint import Endpoint
from finetune_trainer.scoring.hosted import answer_hosted
from finetune_trainer.scoring.rows import GradedRow, Question, cut, cut_of_both, cut_sentence
from finetune_trainer.stages.examine import check_request
from finetune_trainer.stages.judging import judge_summary
from finetune_trainer.words import printable

_ANSWER_SECONDS = 120.0
# Why, and what can be scored here.
_ONLY_IN_THE_CLUSTER: dict[GraderType, str] = {
    "Perplexity": "it needs the probability of every token of a reference, which no chat endpoint tells; "
    "Similarity can be scored here",
    # The sandbox keeps them from the network, and not from the files of whoever runs this.
    "CodeAssert": "programs that a model wrote run in a pod without network and without files of yours; "
    "JudgeCriteria can be scored here",
    "Container": "its image runs in a pod without network; a Python grader can be run here",
}


@dataclass(frozen=True)
class _Scored:
    """The rows of the model, of the one to beat if there is one, and what the judge took and warns of."""

    rows: list[GradedRow]
    against: list[GradedRow] | None
    judge: dict[str, Any]


def run(options: argparse.Namespace) -> int:
    """Print the scores; 1 when too few rows could be graded or `--against` is not beaten; UserError."""
    job, in_cluster = _job(options)
    evaluation, left_out = _scored_here(in_cluster)
    with TemporaryDirectory() as scratch, terminal_progress() as watch:
        questions = _questions(evaluation, options, Path(scratch), watch)
        scored = asyncio.run(_score(job, evaluation, options, questions, watch))
    if options.rows is not None:
        _write_scores(options.rows, scored.rows, evaluation)
    summary = _summary(evaluation, options, scored)
    summary |= _warnings([*left_out, _cut(evaluation, scored), *summary.get("warnings", ())])
    print(json.dumps(summary) if options.output == "json" else _table(summary))
    good = summary["graded"] >= verdicts.GRADED_SHARE and summary.get("verdict", "Promote") == "Promote"
    return FINE if good else REFUSED


def _job(options: argparse.Namespace) -> tuple[Job, EvaluationSpec]:
    if options.model is None:
        raise UserError("--endpoint needs --model NAME, the model to score there.")
    if not _is_address(options.endpoint):
        raise UserError(f"--endpoint {options.endpoint} is no address; write it as https://HOST/v1.")
    job = job_of(read_manifest(options.job), str(options.job))
    check_request(job)
    if job.spec.evaluation is None:
        raise UserError(
            "The job has no evaluation, so nothing can be scored; give it a hold-out and graders."
        )
    return job, job.spec.evaluation


def _scored_here(evaluation: EvaluationSpec) -> tuple[EvaluationSpec, list[str]]:
    """The evaluation with the graders that need no cluster, and what to know of the others.

    UserError when the primary grader is one of these, or no other scores one model alone.
    """
    graders = tuple(spec for spec in evaluation.graders if spec.type not in _ONLY_IN_THE_CLUSTER)
    here = evaluation.model_copy(update={"graders": graders})
    if evaluation.primary_grader not in graders or not here.deciding_alone:
        raise UserError(_refusal(evaluation, here))
    others = [spec for spec in evaluation.graders if spec.type in _ONLY_IN_THE_CLUSTER]
    return here, list(map(_left_out, others))


def _refusal(evaluation: EvaluationSpec, here: EvaluationSpec) -> str:
    primary = evaluation.primary_grader
    wrong = evaluation.baseline_grader if primary in here.graders else primary
    able = next((spec.name for spec in here.deciding_alone), None)
    advice = f"name {able}" if able else "add a grader that scores one model here"
    if wrong == primary:
        advice += " in evaluation.primary" if able else " and name it in evaluation.primary"
    text = f"Grader {wrong.name} decides, and {wrong.type} is graded in the cluster only"
    return f"{text}: {_ONLY_IN_THE_CLUSTER[wrong.type]}. Run the job there, or {advice}."


def _left_out(spec: GraderSpec) -> str:
    why = _ONLY_IN_THE_CLUSTER[spec.type]
    return f"Grader {spec.name} is left out: {spec.type} is graded in the cluster only, for {why}."


def _cut(evaluation: EvaluationSpec, scored: _Scored) -> str:
    if scored.against is None:
        return cut_sentence(cut(scored.rows), len(scored.rows), evaluation.output_tokens)
    return cut_of_both(cut(scored.against), cut(scored.rows), evaluation.output_tokens)


def _warnings(texts: list[str]) -> dict[str, list[str]]:
    found = list(filter(None, texts))
    return {"warnings": found} if found else {}


def _is_address(text: str) -> bool:
    try:
        found = httpx.URL(text)
    except httpx.InvalidURL:
        return False
    return found.scheme in ("http", "https") and bool(found.host) and not found.userinfo


def _questions(
    evaluation: EvaluationSpec, options: argparse.Namespace, scratch: Path, watch: Watch
) -> list[Question]:
    """The held-out rows; UserError for rows that cannot be scored."""
    loaded = load_local_holdout(evaluation, options, scratch, watch)
    held = [split_reference(row) for row in loaded.rows]
    if evaluation.graders_of("ToolCall"):
        held = list(map(with_calls_added, held))
    found = [*loaded.findings, duplicate_ids(held), eval_no_reference(held, evaluation.graders)]
    wrong = errors([finding for finding in found if finding is not None])
    if wrong or not held:
        raise UserError(wrong[0].message if wrong else f"{loaded.source} holds no row to score.")
    return [
        Question(row.id, Prompt(row.messages, row.tools), row.reference, group=row.group, syntax=row.syntax)
        for row in held
    ]


async def _score(
    job: Job,
    evaluation: EvaluationSpec,
    options: argparse.Namespace,
    questions: Sequence[Question],
    watch: Watch,
) -> _Scored:
    access = JudgeAccess(_key(options.judge_key_env), Replies())
    findings, use = await examine_references(evaluation, access, questions)
    rows = await _answers(options, options.model, evaluation, questions, watch)
    decided = count(1)

    def told(_: JudgeUse) -> None:
        watch("judged", next(decided), None)

    if options.against is None:
        judged = await judge_one(evaluation, access, questions, rows, told)
        return _scored(job, judged, None, findings, use)
    other = await _answers(options, options.against, evaluation, questions, watch)
    first = await judge_one(evaluation, access, questions, other, told)
    judged = await judge_two(evaluation, access, questions, first.rows, rows, told)
    return _scored(job, judged, judged.base or first.rows, findings, use + first.use)


def _scored(
    job: Job, judged: Judged, against: list[GradedRow] | None, findings: list[str], before: JudgeUse
) -> _Scored:
    told = judge_summary(job, before + judged.use, [*findings, *judged.warnings], judged.flip_rate)
    return _Scored(judged.rows, against, told)


async def _answers(
    options: argparse.Namespace,
    model: str,
    evaluation: EvaluationSpec,
    questions: Sequence[Question],
    watch: Watch,
) -> list[GradedRow]:
    answered = count(1)

    def done() -> None:
        watch(f"answers of {model}", next(answered), len(questions))

    async with Endpoint(options.endpoint, model, _key(options.api_key_env), _ANSWER_SECONDS) as endpoint:
        return await answer_hosted(endpoint, questions, evaluation, done)


def _key(variable: str | None) -> str | None:
    if variable is None:
        return None
    if not os.environ.get(variable):
        raise UserError(f"The environment variable {variable} is not set; put the API key into it.")
    return os.environ[variable].strip()


def _write_scores(path: Path, rows: Sequence[GradedRow], evaluation: EvaluationSpec) -> None:
    """One line for each row as `compare` reads it; null is the score of one that could not be graded."""
    grader = evaluation.baseline_grader.name
    lines = (
        {"id": row.id, "score": row.score(grader), **({} if row.group is None else {"group": row.group})}
        for row in rows
    )
    try:
        write_lines(path, (json.dumps(line) + "\n" for line in lines))
    except OSError as error:
        raise UserError(f"{path} cannot be written ({error.strerror}); name another file.") from error


def _summary(evaluation: EvaluationSpec, options: argparse.Namespace, scored: _Scored) -> dict[str, Any]:
    if scored.against is None:
        return _alone(evaluation, options.model, scored)
    outcome = compare(scored.against, scored.rows, evaluation)
    before, after = means(scored.against, evaluation), means(scored.rows, evaluation)
    return {
        "model": options.model,
        "against": options.against,
        "metric": evaluation.primary_grader.name,
        "rows": len(scored.rows),
        "base": rounded(outcome.base),
        "tuned": rounded(outcome.tuned),
        "delta": rounded(outcome.delta),
        "graders": {name: {"base": before[name], "tuned": after[name]} for name in after},
        "secondary": kept(outcome.secondary),
        "cut": {"base": cut(scored.against), "tuned": cut(scored.rows)},
        **outcome.coverage.summary(),
        "verdict": outcome.verdict,
        **scored.judge,
    }


def _alone(evaluation: EvaluationSpec, model: str, scored: _Scored) -> dict[str, Any]:
    metric = evaluation.baseline_grader.name
    return {
        "model": model,
        "metric": metric,
        "rows": len(scored.rows),
        **rounded(score(scored.rows, metric)),
        "graders": means(scored.rows, evaluation),
        "cut": cut(scored.rows),
        **coverage([scored.rows], evaluation.baseline_graders).summary(),
        **scored.judge,
    }


def _table(summary: dict[str, Any]) -> str:
    """The scores for people: the deciding grader with intervals, the others, then what to know."""
    heading = f"{summary['rows']} rows by {summary['metric']}"
    lines = [f"{heading:<32}  score  95 % interval", *_scores(summary)]
    lines += [_grader(name, value) for name, value in summary["graders"].items() if name != summary["metric"]]
    if summary["ungraded"]:
        lines.append(f"{summary['ungraded']} rows could not be graded: {summary['ungradedReason']}")
    lines += [f"warning: {text}" for text in summary.get("warnings", ())]
    # Names and reasons come from endpoints and data.
    shown = [printable(line) for line in lines]
    return "\n".join([*shown, *([summary["verdict"]] if "verdict" in summary else [])])


def _scores(summary: dict[str, Any]) -> list[str]:
    if "against" not in summary:
        return [_line(summary["model"], summary, ".1%")]
    named = (
        (summary["against"], "base", ".1%"),
        (summary["model"], "tuned", ".1%"),
        ("difference", "delta", "+.1%"),
    )
    return [_line(name, summary[key], form) for name, key, form in named]


def _line(what: str, value: Mapping[str, Any], form: str) -> str:
    if value["score"] is None:
        return f"{what:<32} {'?':>6}"
    return f"{what:<32} {format(value['score'], form):>6}  {value['low']:{form}} to {value['high']:{form}}"


def _grader(name: str, value: Any) -> str:
    told = [value["base"], value["tuned"]] if isinstance(value, dict) else [value]
    return f"{name:<32} {' -> '.join('?' if mean is None else f'{mean:.1%}' for mean in told):>6}"
