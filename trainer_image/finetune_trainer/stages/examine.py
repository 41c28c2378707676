"""What is done with rows that were read, in a pod and on a laptop: compare, tokenise, plan and judge."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from finetune_trainer.base.headers import read_fingerprint
from finetune_trainer.base.shape import BaseModel
from finetune_trainer.chat.options import TemplateOptions
from finetune_trainer.chat.tokenizer import ChatTokenizer, load_tokenizer
from finetune_trainer.contracts import Job, LoraSpec
from finetune_trainer.data.check import (
    check_corpus,
    check_graders,
    check_holdout,
    check_paraphrases,
    check_references,
    check_tokenizer,
    measure_holdout,
    template_options,
)
from finetune_trainer.data.corpus.related import Related, related_rows
from finetune_trainer.data.findings import Finding, Override, errors, override, warnings
from finetune_trainer.data.holdout import split_reference, with_calls
from finetune_trainer.data.load import Loaded, Watch
from finetune_trainer.data.severities import check_names
from finetune_trainer.data.survey import Survey, Target, survey
from finetune_trainer.data.tokens import TokenTable
from finetune_trainer.errors import UserError
from finetune_trainer.planning.choose import NoFit
from finetune_trainer.planning.defaults import Plan, length_limit, make_plan, share_of_batch
from finetune_trainer.planning.lengths import Lengths, measure
from finetune_trainer.planning.scoring import NoScoring
from finetune_trainer.report.data import data_summary
from finetune_trainer.report.document import Datasets, JobName, Report
from finetune_trainer.report.duplicates import count_duplicates
from finetune_trainer.report.lengths import measure_lengths
from finetune_trainer.report.mask import first_example
from finetune_trainer.stages.outlook import Outlook, look_ahead, report_parts, summarise
from finetune_trainer.stages.questions import Questions, about_suites, questions_of
from finetune_trainer.trained_rows import WriteRows
from finetune_trainer.words import plural

_MESSAGES = 3  # of findings in a refusal; the report has all
_WARNINGS = 5


class RefusedError(Exception):
    """A run that cannot end well, in a sentence; `report` has all that is known of it."""

    def __init__(self, message: str, report: Report) -> None:
        super().__init__(message)
        self.report = report


@dataclass(frozen=True)
class Data:
    """What was read; `severities` are those that the job gives to rules, `suites` those within reach."""

    train: Loaded
    holdout: Loaded | None
    severities: Mapping[str, Override]
    suites: Mapping[str, Loaded] = field(default_factory=dict)

    @property
    def by_field(self) -> dict[str, Loaded]:
        """The data sets by the field of the job that names each."""
        held_out = {"evaluation.dataset": self.holdout} if self.holdout else {}
        suites = {f"evaluation.regression.suites[{name}]": loaded for name, loaded in self.suites.items()}
        return {"dataset": self.train, **held_out, **suites}

    def findings(self) -> list[Finding]:
        """What is said of the structure of all."""
        return self.overridden(found for loaded in self.by_field.values() for found in loaded.findings)

    def overridden(self, findings: Iterable[Finding]) -> list[Finding]:
        """Findings under the job's severities."""
        return override(findings, self.severities)


@dataclass(frozen=True)
class Base:
    """A base model, and a folder with its configuration and tokenizer (weights: rule 40 alone)."""

    folder: Path
    model: BaseModel


@dataclass(frozen=True)
class Examined:
    """What a job that may run is: its plan, its outlook, what is asked of its models, and the report.

    `related` are the training rows that each held-out row resembles.
    """

    data: Data
    table: TokenTable
    plan: Plan
    outlook: Outlook
    findings: list[Finding]
    questions: Questions
    related: list[Related]
    report: Report
    lengths: Lengths
    options: TemplateOptions

    def summary(self, job: Job) -> dict[str, Any]:
        """The keys of prepare's summary that come from rows and plan (docs/contracts.md)."""
        data, severities = self.data, dict(self.data.severities)
        return {
            "rows": len(self.table.kept),
            "holdoutRows": len(data.holdout.rows) if data.holdout else 0,
            "tokens": int(self.table.kept.sum()),
            "trainedTokens": int(self.table.trained.sum()),
            "splitRows": self.table.split,
            "chatTemplateKwargs": self.options.kwargs,
            "longestRow": self.lengths.longest,
            "attendedTokens": round(self.lengths.attended, 1),
            "datasetDigest": data.train.digest,
            "holdoutDigest": data.holdout.digest if data.holdout else None,
            "training": self.plan.training(),
            "lora": self.plan.lora(),
            "warnings": [f"{item.dataset}: {item.message}" for item in warnings(self.findings)[:_WARNINGS]],
            **({"overrides": severities} if severities else {}),
            **({"suites": self._suites()} if data.suites else {}),
            **summarise(job, self.outlook),
        }

    def _suites(self) -> dict[str, Any]:
        read = self.data.suites.items()
        return {name: {"rows": len(loaded.rows), "digest": loaded.digest} for name, loaded in read}


def check_request(job: Job) -> None:
    """What needs no data to be wrong is a UserError before anything is fetched."""
    check_names(job.spec.dataset.severities or {})
    if job.spec.training and (batch := job.spec.training.effective_batch_size):
        share_of_batch(batch, job.spec.resources.processes)
    if job.spec.evaluation:
        suites = [suite.grader for suite in job.spec.evaluation.suites]
        check_graders([*job.spec.evaluation.graders, *suites])


def checked_fingerprint(job: Job, base: Path) -> str:
    """The fingerprint of the base in a folder; UserError when the job asks for another one."""
    digest, spec = read_fingerprint(base), job.spec.base_model
    if spec.fingerprint not in (None, digest):
        text = (
            f"{spec.source} has the fingerprint {digest}, baseModel.fingerprint asks for {spec.fingerprint}"
        )
        raise UserError(f"{text}; correct one of them.")
    return digest


def refuse_unsound(job: Job, data: Data) -> None:
    """RefusedError for rows that are errors by themselves; they are looked at before a base is fetched."""
    _refuse_errors(job, data, data.findings())
    for name, loaded in data.by_field.items():
        if not len(loaded.rows):
            # Rules that a job ignores can leave no row over.
            raise UserError(f"{name}: no row is sound; correct the rows that the report lists.")


def examine(job: Job, data: Data, base: Base, watch: Watch, write: WriteRows | None = None) -> Examined:
    """Compare and tokenise all rows; `write` gets them as they are trained. RefusedError if they cannot."""
    plain, positions = load_tokenizer(base.folder), base.model.config.positions
    options = template_options(plain, data.train, datetime.now().date())
    tokenizer = plain.rendering_with(options.kwargs)
    findings = data.findings() + data.overridden(check_tokenizer(tokenizer, data.train, options))
    _refuse_errors(job, data, findings)
    held = [split_reference(row) for row in data.holdout.rows] if data.holdout else []
    holdout = with_calls(tokenizer, held)
    questions = questions_of(job.spec.evaluation, data.train.rows, holdout, data.suites, tokenizer)
    target = Target(base.folder, length_limit(job.spec, positions), write, options.kwargs)
    surveyed = survey(data.train.rows, holdout, target, watch)
    table = _tokens(surveyed)
    lengths = measure(table.kept.tolist())
    plan = make_plan(job.spec, lengths, positions, _adapted(job, base))
    found = [*table.findings(tokenizer, positions), *check_corpus(data.train, surveyed, plan.epochs)]
    about, related = _about_questions(job, data, surveyed, questions, base.folder, tokenizer, positions)
    found += about
    findings += data.overridden(found)
    _refuse_errors(job, data, findings)
    outlook = look_ahead(job, base.model, plan, lengths, questions.answers // 2)
    report = _full_report(_report(job, data, findings), data, surveyed, table, tokenizer, plan)
    report = report.model_copy(update=report_parts(job, outlook))
    if isinstance(outlook.memory, NoFit):
        raise RefusedError(f"{outlook.memory.gpu.name}: {outlook.memory.message}", report)
    if isinstance(outlook.scoring, NoScoring):
        raise RefusedError(outlook.scoring.message, report)
    asked = questions.with_prompts(tokenizer, fixed=not options.clock)
    return Examined(data, table, plan, outlook, findings, asked, related, report, lengths, options)


def _adapted(job: Job, base: Base) -> tuple[str, ...]:
    """The names of the layers that the adapter sits on; () for method Full."""
    chosen = (job.spec.lora or LoraSpec()).target_modules
    return base.model.adapted(chosen) if job.spec.trains_adapter else ()


def _tokens(surveyed: Survey) -> TokenTable:
    if surveyed.tokens is None:
        raise AssertionError("a survey with a target has tokens")
    return surveyed.tokens


def _about_questions(
    job: Job,
    data: Data,
    surveyed: Survey,
    questions: Questions,
    base: Path,
    tokenizer: ChatTokenizer,
    positions: int,
) -> tuple[list[Finding], list[Related]]:
    """What is found, and the training rows that resemble each row of the hold-out."""
    evaluation, holdout = job.spec.evaluation, questions.holdout
    if evaluation is None:
        return [], []
    facts = measure_holdout(surveyed, holdout)
    found = questions.prompt_findings(tokenizer, positions - evaluation.output_tokens)
    found += check_references(tokenizer, holdout, evaluation)
    found += check_holdout(data.train, surveyed, holdout, facts, evaluation.graders)
    if compares_meaning(job):
        found += check_paraphrases(data.train, surveyed, holdout, base, tokenizer)
    found += about_suites(evaluation, questions)
    return found, related_rows(surveyed.facts, holdout, facts)


def compares_meaning(job: Job) -> bool:
    """Whether rule 40 is switched on, the only one that reads weights of the base."""
    return (job.spec.dataset.severities or {}).get("leak_semantic", "Ignore") != "Ignore"


def _refuse_errors(job: Job, data: Data, findings: Sequence[Finding]) -> None:
    wrong = errors(findings)
    if not wrong:
        return
    shown = " ".join(f"[{item.dataset}] {item.message}" for item in wrong[:_MESSAGES])
    more = f" And {plural(len(wrong) - _MESSAGES, 'more finding')}." if len(wrong) > _MESSAGES else ""
    raise RefusedError(f"{shown}{more}", _report(job, data, findings))


def _report(job: Job, data: Data, findings: Sequence[Finding]) -> Report:
    """What is known without a base model."""
    return Report(
        job=JobName(namespace=job.namespace, name=job.name),
        datasets=Datasets(
            train=data_summary(data.train), holdout=data_summary(data.holdout) if data.holdout else None
        ),
        findings=tuple(findings),
        overrides=dict(data.severities),
    )


def _full_report(
    report: Report, data: Data, surveyed: Survey, table: TokenTable, tokenizer: ChatTokenizer, plan: Plan
) -> Report:
    """The report of accepted data with lengths, duplicates, its first row token by token, and settings."""
    counted = {"tokens": int(table.kept.sum()), "trained_tokens": int(table.trained.sum())}
    train = report.datasets.train.model_copy(update=counted)
    return report.model_copy(
        update={
            "datasets": report.datasets.model_copy(update={"train": train}),
            "lengths": measure_lengths(table.kept.tolist(), table.trained.tolist(), plan.max_length),
            "duplicates": count_duplicates(surveyed.facts, surveyed.near),
            "example": first_example(tokenizer, data.train.rows),
            "training": plan.training(),
            "lora": plan.lora(),
        }
    )
