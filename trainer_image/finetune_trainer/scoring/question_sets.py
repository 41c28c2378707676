"""What a model is asked in one go: the hold-out, the same under a rival's prompt, or a suite."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from finetune_trainer.contracts import EngineSpec, EvaluationSpec
from finetune_trainer.data.prepared import Prepared
from finetune_trainer.errors import UserError
from finetune_trainer.scoring.baseline_store import baseline_key, rows_path, template_kwargs
from finetune_trainer.scoring.rows import GradedRow, Question, read_questions, read_rows
from finetune_trainer.workspace import Workspace


@dataclass(frozen=True)
class QuestionSet:
    """Questions, the evaluation whose graders judge the answers, and the key that stored answers go by.

    `place` is where among the stored answers those to it are, before the model's name; `suite` the name of
    the suite that it is.
    """

    title: str
    place: str
    questions: list[Question]
    evaluation: EvaluationSpec
    key: str
    suite: str | None = None

    def answers_of(self, model: str) -> str:
        """The first part of the name of the file with a model's answers (`base` or `tuned`)."""
        return self.place + model


@dataclass(frozen=True)
class Asked:
    """Everything that an evaluation asks; rivals and suites by their names."""

    holdout: QuestionSet
    rivals: Mapping[str, QuestionSet]
    suites: Mapping[str, QuestionSet]

    @property
    def of_base(self) -> list[QuestionSet]:
        """What the base is asked."""
        return [self.holdout, *self.rivals.values(), *self.suites.values()]

    @property
    def of_tuned(self) -> list[QuestionSet]:
        """What the tuned model is asked: the prompts of rivals are the base's."""
        return [self.holdout, *self.suites.values()]


def asked_of(
    workspace: Workspace, prepared: Prepared, evaluation: EvaluationSpec, engine: EngineSpec | None
) -> Asked:
    """The questions that prepare wrote: the hold-out, the same for each rival, and each suite."""

    def written(path: Path, title: str, scored_by: EvaluationSpec, suite: str | None = None) -> QuestionSet:
        asked = f"{path.parent.name}/{path.name}"
        key = baseline_key(prepared.summary, scored_by, engine, prepared.files[asked])
        questions = read_questions(path, template_kwargs(prepared.summary))
        return QuestionSet(title, place_of(path), questions, scored_by, key, suite)

    questions = read_questions(workspace.holdout, template_kwargs(prepared.summary))
    key = baseline_key(prepared.summary, evaluation, engine)
    holdout = QuestionSet("the hold-out", "", questions, evaluation, key)
    rivals = {
        rival.name: written(workspace.rivals_dir / f"{rival.name}.jsonl", f"rival {rival.name}", evaluation)
        for rival in evaluation.rivals or ()
    }
    suites = {
        suite.name: written(
            workspace.suites_dir / f"{suite.name}.jsonl",
            f"suite {suite.name}",
            evaluation.of_suite(suite),
            suite.name,
        )
        for suite in evaluation.suites
    }
    return Asked(holdout, rivals, suites)


def place_of(questions: Path) -> str:
    """Where the stored answers to the questions of a rival or a suite are, before the model's name."""
    return f"{questions.parent.name}/{questions.stem}-"


def is_stored(workspace: Workspace, model: str, asked: QuestionSet) -> bool:
    """Whether the workspace holds answers of `base` or `tuned` to a set."""
    return rows_path(workspace, asked.answers_of(model), asked.key).is_file()


def stored_rows(workspace: Workspace, model: str, asked: QuestionSet) -> list[GradedRow]:
    """The answers of `base` or `tuned` to a set in the workspace; UserError when there are none."""
    rows = read_rows(rows_path(workspace, asked.answers_of(model), asked.key))
    if rows is None:
        text = f"The workspace holds no answers of the {model} model to {asked.title}"
        raise UserError(f"{text}; run the job again.")
    return rows
