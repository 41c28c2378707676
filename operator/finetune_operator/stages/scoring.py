"""baseline and evaluate: score the base before training, the tuned model on the same hold-out after."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import replace

from finetune_operator.api.conditions import Fact
from finetune_operator.api.evaluation.scores import GraderScore, Scores
from finetune_operator.api.evaluation.spec import ACCEPTABLE
from finetune_operator.api.finetunejob import FineTuneJob
from finetune_operator.api.finetunejobstatus import Attempt, Candidate
from finetune_operator.contracts.settings import Settings
from finetune_operator.core.actions import Emit
from finetune_operator.core.manifests import integer, number, text
from finetune_operator.observe.outcome import AttemptOutcome
from finetune_operator.observe.trouble import Trouble
from finetune_operator.render.containers import literal
from finetune_operator.render.engine import scoring_engine
from finetune_operator.render.graders import grading_containers
from finetune_operator.render.job import candidate_source
from finetune_operator.render.names import candidate_name, version_name
from finetune_operator.render.pod import PodParts
from finetune_operator.render.resources import cpu_stage_resources, scorer_resources
from finetune_operator.render.sandbox import sandbox
from finetune_operator.render.volumes import (
    WORKSPACE,
    add_api_key,
    add_base,
    add_destination,
    add_judge_credential,
    base_path,
    common,
)
from finetune_operator.stages import summaries
from finetune_operator.stages.attempts import failed_graders, of_stage
from finetune_operator.stages.decision import Decision, Ending, Stage, Summary, event
from finetune_operator.stages.observed import Run
from finetune_operator.stages.summaries import (
    as_number,
    best_rival,
    cut_answers,
    difference,
    points,
    rows_and_metric,
)

_DIGEST = re.compile("sha256:[0-9a-f]{64}")
_ADVICE = {
    "PromptingLikelyEnough": "That is above 85 %: a better prompt is probably enough.",
    "CheckTaskOrData": "That is below 40 %: check the task definition and the data first; a base that stays "
    "there with its best prompt and examples in it is not saved by tuning: take another.",
    "Ungraded": "At least 98 % of the rows must be graded, or the tuned model cannot be judged either: mend "
    "what the reason names in a new FineTuneJob.",
}
_MOST_USES = 10


def baseline_parts(job: FineTuneJob, settings: Settings, attempt: Attempt) -> PodParts:
    """The scorer with the base in an engine beside it; scores are cached beside the destination."""
    return _scorer("baseline", job, settings, attempt, base_path(job))


def evaluate_parts(job: FineTuneJob, settings: Settings, attempt: Attempt) -> PodParts:
    """The scorer, and an engine with the base (it loads the adapter there) or with the tuned model (Full).

    That the hold-out was used is noted beside the destination.
    """
    model = f"{WORKSPACE}/output/model" if job.spec.method == "Full" else base_path(job)
    return _scorer("evaluate", job, settings, attempt, model)


def _scorer(command: str, job: FineTuneJob, settings: Settings, attempt: Attempt, model: str) -> PodParts:
    """On a ModelServer there is no engine beside it, only a key to show."""
    mounts, resources = common(job, attempt.job), scorer_resources(job, settings)
    add_judge_credential(mounts, job)
    if job.spec.scoring_engine is not None:
        add_destination(mounts, job)
        add_api_key(mounts, job)
        return PodParts(command, mounts, resources)
    add_base(mounts, job)
    add_destination(mounts, job)
    return PodParts(command, mounts, resources, sidecars=(scoring_engine(job, settings, model, mounts),))


def candidate(run: Run) -> Candidate | None:
    """What the scorer published for its ModelServer, as far as it has told: it says the digest alone."""
    job, engine = run.job, run.job.spec.scoring_engine
    digest = text(run.observed.progress, "candidate")
    if engine is None or not _told(run) or not _DIGEST.fullmatch(digest):
        return None
    return Candidate(
        server=engine.server_ref.name,
        version=version_name(candidate_name(job), digest),
        source=candidate_source(job),
        digest=digest,
        key=engine.api_key.key if engine.api_key is not None else None,
    )


def scored(run: Run) -> bool:
    """Whether the scorer says that it asks no candidate: not yet, or not any more, as its judge works."""
    return _told(run) and not text(run.observed.progress, "candidate")


def _told(run: Run) -> bool:
    return text(run.observed.progress, "stage") == "evaluate"


def candidate_trouble(run: Run) -> Trouble | None:
    """What keeps the ModelServer from holding the candidate; loading it is no trouble."""
    asked, server = candidate(run), run.observed.server
    if asked is None:
        return None
    if server is None:
        message = run.observed.server_problem or f"ModelServer {asked.server} does not exist any more."
        return Trouble("ServerNotFound", message)
    found = next((one for one in server.status.candidates if one.version == asked.version), None)
    if found is None or found.state in ("Ready", "Loading"):
        return None
    return Trouble(found.reason, f"ModelServer {asked.server}: {found.message}")


def on_template(run: Run, attempt: Attempt, before: Sequence[Attempt]) -> Attempt:
    """The attempt with what the server's pods run by as it begins; one that only reads has the last one's."""
    if attempt.reemits:
        return attempt.model_copy(update={"server_template": before[-1].server_template})
    scores = attempt.stage in ("baseline", "evaluate")
    return attempt.model_copy(update={"server_template": _template(run)}) if scores else attempt


def of_one_template(run: Run, attempt: Attempt, outcome: AttemptOutcome) -> AttemptOutcome:
    """The outcome; ServerRolled where pods of two templates may have answered, which compare badly."""
    now = _template(run)
    if not outcome.succeeded or None in (now, attempt.server_template) or now == attempt.server_template:
        return outcome
    message = "The ModelServer replaced its pods while they were asked, so every question is asked again."
    return replace(outcome, succeeded=False, reason="ServerRolled", message=message)


def _template(run: Run) -> str | None:
    record = run.observed.server.status.template if run.observed.server is not None else None
    return None if record is None else record.controller_revision


def grading_parts(job: FineTuneJob, settings: Settings, attempt: Attempt) -> PodParts:
    """A CPU pod without network: what runs programs, graders of the user's own, then what reads both."""
    mounts = common(job, attempt.job)
    model = "base" if attempt.stage == "grade-base" else "tuned"
    programs = (sandbox(job, settings, model, mounts),) if _has_programs(job) else ()
    failed = failed_graders(of_stage(job.status.attempts, attempt.stage))
    graders = grading_containers(job, settings, model, mounts, failed)
    told = {"FT_FAILED_GRADERS": literal(json.dumps(failed))} if failed else {}
    resources = cpu_stage_resources(settings)
    return PodParts(attempt.stage, mounts, resources, told, sidecars=(*graders, *programs))


def _has_programs(job: FineTuneJob) -> bool:
    evaluation = job.spec.evaluation
    graders = {} if evaluation is None else evaluation.named_graders
    return any(grader.type == "CodeAssert" for grader in graders.values())


def read_baseline(job: FineTuneJob, outcome: AttemptOutcome) -> Decision:
    """Note the base's score; end the run if the verdict blocks and was not accepted."""
    if _awaits_code(outcome.summary):
        return _answered("BaselineScored", outcome)
    summary, verdict = outcome.summary, text(outcome.summary, "verdict")
    scores = summaries.baseline_scores(summary)
    scored = " ".join(
        [
            f"The base scores {points(scores.base)} on {rows_and_metric(scores)}{_prompted(scores)}."
            f"{cut_answers(scores)}",
            *_ungraded(scores),
        ]
    )
    cautions = _cautions(job, summary, scores)
    told = " ".join([scored, *(said for _, said in cautions)])
    decision = Decision(
        facts=(Fact("BaselineScored", True, verdict, told),),
        actions=(*(event("Warning", reason, said) for reason, said in cautions), *_warned(scores.warnings)),
        scores=scores,
    )
    if summary.get("blocking") is not True:
        return decision
    if verdict in job.spec.accepted:
        said = f"{verdict} is accepted by spec.evaluation.accept: {scored}"
        return decision.adding(actions=[event("Normal", "Accepted", said)])
    return _refused(decision, verdict, scored)


def _awaits_code(summary: Summary) -> bool:
    """Whether a model has answered with programs, which the next stage runs."""
    return text(summary, "awaits") == "code"


def _answered(condition: str, outcome: AttemptOutcome) -> Decision:
    return Decision(facts=(Fact(condition, None, outcome.reason, outcome.message),))


def read_evaluation(job: FineTuneJob, outcome: AttemptOutcome) -> Decision:
    """Note the comparison. Whatever the verdict, the result is published with it."""
    if _awaits_code(outcome.summary):
        return _answered("Evaluated", outcome)
    scores = summaries.comparison(outcome.summary)
    known = job.status.scores.warnings if job.status.scores is not None else ()
    verdict = text(outcome.summary, "verdict")
    used = _used(scores)
    told = " ".join([compared(scores), *(said for _, said in used)])
    return Decision(
        facts=(Fact("Evaluated", True, verdict, told),),
        actions=(*(event("Warning", reason, said) for reason, said in used), *_warned(scores.warnings)),
        scores=scores.model_copy(update={"warnings": summaries.joined(known, scores.warnings)}),
    )


def _warned(warnings: Sequence[str]) -> tuple[Emit, ...]:
    return (event("Warning", "ScoringWarning", " ".join(warnings)),) if warnings else ()


def compared(scores: Scores) -> str:
    """The comparison in words, with what speaks against the result."""
    scored = (
        f"The tuned model scores {points(scores.tuned)}, the base {points(scores.base)}: "
        f"{difference(scores.delta)} on {rows_and_metric(scores)}."
    )
    graders = [_lost(f"By {name}", found) for name, found in scores.graders.items() if found.holds is False]
    suites = [_lost(f"On {name}", found) for name, found in scores.regression.items() if found.holds is False]
    prompt = [scores.prompt_alone] if scores.prompt_alone else []
    return " ".join([scored, *prompt, *graders, *suites, *_ungraded(scores)])


def _prompted(scores: Scores) -> str:
    best = best_rival(scores)
    return "" if best is None else f", and {points(best[1])} with the prompt {best[0]}"


def _lost(where: str, found: GraderScore) -> str:
    base, tuned, low, margin = map(_percent, (found.base, found.tuned, found.low, found.margin))
    return (
        f"{where} it may have got worse: {base} % became {tuned} %, and the lower end of the difference, "
        f"{low} points, is beyond the margin of {margin}."
    )


def _ungraded(scores: Scores) -> list[str]:
    if not scores.ungraded:
        return []
    why = f" ({scores.ungraded_reason})" if scores.ungraded_reason else ""
    return [f"{scores.ungraded} rows could not be graded{why}."]


def _cautions(job: FineTuneJob, summary: Summary, scores: Scores) -> list[tuple[str, str]]:
    """(reason, message) of what is to be known about the hold-out before a GPU trains."""
    return [*_small(job, summary, scores), *_used(scores)]


def _small(job: FineTuneJob, summary: Summary, scores: Scores) -> list[tuple[str, str]]:
    evaluation, effect = job.spec.evaluation, number(summary, "detectable")
    wanted = None if evaluation is None else as_number(evaluation.gate.min_delta)
    if wanted is None or scores.detectable is None or (effect is not None and effect <= wanted):
        return []
    if effect is None:
        text = (
            "no improvement is sure to show: the base leaves too little room, or rows or groups are too few"
        )
        return [("SmallHoldout", f"With this hold-out {text}.")]
    needed = integer(summary, "rowsNeeded")
    unit = "rows" if scores.groups is None else "groups"
    more = "" if needed is None else f"; about {needed} {unit} would show those {100 * wanted:g} points"
    text = f"shows improvements from {scores.detectable} on (in four of five runs)"
    small = (
        f"a smaller one, from gate.minDelta of {100 * wanted:g} points on, mostly ends as NoClearImprovement"
    )
    return [("SmallHoldout", f"This hold-out {text}; {small}{more}.")]


def _used(scores: Scores) -> list[tuple[str, str]]:
    if (scores.holdout_uses or 0) <= _MOST_USES:
        return []
    text = (
        f"This hold-out has judged {scores.holdout_uses} tuned models: the best of many looks better than it "
        "is. Choose a fresh hold-out."
    )
    return [("HoldoutUsedOften", text)]


def _percent(value: str | None) -> str:
    found = as_number(value)
    return "?" if found is None else f"{100 * found:.1f}"


def _refused(decision: Decision, verdict: str, scored: str) -> Decision:
    advice = _ADVICE.get(verdict, "The verdict does not recommend training.")
    how = f"To train all the same, create a new FineTuneJob with {verdict} in spec.evaluation.accept."
    message = f"{scored} {advice} Nothing was trained." + (f" {how}" if verdict in ACCEPTABLE else "")
    ending = Ending(succeeded=False, reason=verdict, message=message)
    return decision.adding(Fact("Promoted", False, verdict, message)).ending_in(ending)


def _lacks_verdict(summary: Summary) -> str | None:
    return None if text(summary, "verdict") else "a verdict"


def _lacks(summary: Summary) -> str | None:
    return None if _awaits_code(summary) else _lacks_verdict(summary)


BASELINE = Stage(
    "baseline", "Baseline", "BaselineScored", "ScoringBase", baseline_parts, read_baseline, _lacks
)
EVALUATE = Stage("evaluate", "Evaluate", "Evaluated", "Evaluating", evaluate_parts, read_evaluation, _lacks)
GRADE_BASE = Stage(
    "grade-base", "GradeBase", "BaselineScored", "RunningCode", grading_parts, read_baseline, _lacks_verdict
)
GRADE_TUNED = Stage(
    "grade-tuned", "GradeTuned", "Evaluated", "RunningCode", grading_parts, read_evaluation, _lacks_verdict
)
