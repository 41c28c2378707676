"""What a model is asked in one go: the hold-out, the same under a rival's prompt, or a suite."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from finetune_trainer.contracts import EngineSpec, EvaluationSpec
from finetune_trainer.data.prepared import Prepared
from finetune_trainer.scoring.baseline_store import baseline_key, template_kwargs
from finetune_trainer.scoring.rows import Question, read_questions
from finetune_trainer.workspace import Workspace


@dataclass(frozen=True)
class QuestionSet:
    """Questions, the evaluation whose graders judge the answers, and the key that stored answers go by.

    `suffix` is what the files of its answers have beside the model's name; "" for the hold-out itself.
    """

    title: str
    suffix: str
    questions: list[Question]
    evaluation: EvaluationSpec
    key: str

    def answers_of(self, model: str) -> str:
        """The first part of the name of the file with a model's answers (`base` or `tuned`)."""
        return model + self.suffix


def holdout_set(
    workspace: Workspace, prepared: Prepared, evaluation: EvaluationSpec, engine: EngineSpec | None
) -> QuestionSet:
    """The hold-out as prepare wrote it."""
    questions = read_questions(workspace.holdout, template_kwargs(prepared.summary))
    key = baseline_key(prepared.summary, evaluation, engine)
    return QuestionSet("the hold-out", "", questions, evaluation, key)


def rival_sets(
    workspace: Workspace, prepared: Prepared, evaluation: EvaluationSpec, engine: EngineSpec | None
) -> Mapping[str, QuestionSet]:
    """The hold-out under the prompt of each rival, by its name."""
    return {
        rival.name: _written(
            workspace.rivals_dir / f"{rival.name}.jsonl", f"rival {rival.name}", prepared, evaluation, engine
        )
        for rival in evaluation.rivals or ()
    }


def suite_sets(
    workspace: Workspace, prepared: Prepared, evaluation: EvaluationSpec, engine: EngineSpec | None
) -> Mapping[str, QuestionSet]:
    """Each suite by its name, with its own grader."""
    return {
        suite.name: _written(
            workspace.suites_dir / f"{suite.name}.jsonl",
            f"suite {suite.name}",
            prepared,
            evaluation.of_suite(suite),
            engine,
        )
        for suite in evaluation.suites
    }


def _written(
    path: Path, title: str, prepared: Prepared, evaluation: EvaluationSpec, engine: EngineSpec | None
) -> QuestionSet:
    digest = prepared.files[f"{path.parent.name}/{path.name}"]
    key = baseline_key(prepared.summary, evaluation, engine, digest)
    questions = read_questions(path, template_kwargs(prepared.summary))
    return QuestionSet(title, f"-{title.replace(' ', '-')}", questions, evaluation, key)
