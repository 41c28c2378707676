"""Everything that baseline and evaluate ask, as prepare makes it of the data."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from finetune_trainer.chat.tokenizer import ChatTokenizer
from finetune_trainer.contracts import EvaluationSpec
from finetune_trainer.data.check import check_prompts
from finetune_trainer.data.findings import Finding
from finetune_trainer.data.holdout import HoldoutRow, split_reference, with_calls, with_prompts
from finetune_trainer.data.load import Loaded
from finetune_trainer.data.questions.rivals import rival_rows
from finetune_trainer.data.questions.suites import suite_findings
from finetune_trainer.data.spool import Spool


@dataclass(frozen=True)
class Questions:
    """The hold-out, the same under the prompt of each rival, and each suite, by name."""

    holdout: list[HoldoutRow] = field(default_factory=list)
    rivals: Mapping[str, list[HoldoutRow]] = field(default_factory=dict)
    suites: Mapping[str, list[HoldoutRow]] = field(default_factory=dict)

    @property
    def answers(self) -> int:
        """How many answers base and tuned model give to them together."""
        both = len(self.holdout) + sum(map(len, self.suites.values()))
        return 2 * both + sum(map(len, self.rivals.values()))

    def prompt_findings(self, tokenizer: ChatTokenizer, space: int) -> list[Finding]:
        """Rules 17 and 25 about every prompt, for which the model has a `space` in tokens."""
        return [
            finding for name, rows in self._named() for finding in check_prompts(tokenizer, rows, space, name)
        ]

    def with_prompts(self, tokenizer: ChatTokenizer, *, fixed: bool) -> "Questions":
        """The questions with what is known of their prompts (data/holdout.py)."""

        def known(rows: Sequence[HoldoutRow]) -> list[HoldoutRow]:
            return with_prompts(tokenizer, rows, fixed=fixed)

        rivals, suites = (
            {name: known(rows) for name, rows in group.items()} for group in (self.rivals, self.suites)
        )
        return Questions(known(self.holdout), rivals, suites)

    def _named(self) -> Iterator[tuple[str, list[HoldoutRow]]]:
        yield "holdout", self.holdout
        yield from ((f"rival {name}", rows) for name, rows in self.rivals.items())
        yield from ((f"suite {name}", rows) for name, rows in self.suites.items())


def questions_of(
    evaluation: EvaluationSpec | None,
    train: Spool,
    holdout: Sequence[HoldoutRow],
    suites: Mapping[str, Loaded],
    tokenizer: ChatTokenizer,
) -> Questions:
    """What an evaluation asks; UserError when the training data cannot give a rival its examples."""
    if evaluation is None:
        return Questions()
    rivals = {rival.name: rival_rows(rival, train, holdout) for rival in evaluation.rivals or ()}
    read = {
        name: with_calls(tokenizer, [split_reference(row) for row in loaded.rows])
        for name, loaded in suites.items()
    }
    return Questions(list(holdout), rivals, read)


def about_suites(evaluation: EvaluationSpec, questions: Questions) -> list[Finding]:
    """Rules 41 to 43 about the suites that were read."""
    read = [suite for suite in evaluation.suites if suite.name in questions.suites]
    return [finding for suite in read for finding in suite_findings(suite, questions.suites[suite.name])]
