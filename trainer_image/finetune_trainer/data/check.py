"""The checks after the structure: tokens of the training rows, and the hold-out against them."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from finetune_trainer.contracts import EvaluationSpec, GraderSpec
from finetune_trainer.data import holdout as holdout_rules
from finetune_trainer.data import rules
from finetune_trainer.data.corpus import leak_group, leak_near
from finetune_trainer.data.findings import Finding, errors, found, name_rows, present
from finetune_trainer.data.formats import Row
from finetune_trainer.data.holdout import HoldoutRow
from finetune_trainer.data.rowrule import finding, tally
from finetune_trainer.data.tokenise import ChatTokenizer, Encoded, encode_rows, render_problem
from finetune_trainer.errors import UserError
from finetune_trainer.grading import schema_problem


@dataclass(frozen=True)
class Tokenised:
    """The training rows as tokens, in their order, with what was found on the way."""

    rows: list[Encoded]
    findings: list[Finding]


def tokenise(tokenizer: ChatTokenizer, rows: Sequence[Row], limit: int) -> Tokenised:
    """Tokenise all rows and apply the token rules; without a template there is nothing to apply them to."""
    about_tokenizer = rules.tokenizer_findings(tokenizer, chat=any(row.text is None for row in rows))
    if errors(about_tokenizer):
        return Tokenised([], about_tokenizer)
    results = encode_rows(tokenizer, rows)
    encoded = [result for result in results if isinstance(result, Encoded)]
    numbered = [(result.number, result) for result in results]
    found = [finding(rule, tally(rule, numbered), len(rows)) for rule in rules.token_rules(tokenizer, limit)]
    return Tokenised(encoded, about_tokenizer + present(found) + _lengths(encoded, limit))


def _lengths(rows: Sequence[Encoded], limit: int) -> list[Finding]:
    numbers = np.array([row.number for row in rows], np.int64)
    tokens = np.array([len(row.ids) for row in rows], np.int64)
    trained = np.array([row.trained for row in rows], np.int64)
    cut = np.array([row.answer_cut(limit) for row in rows], np.bool_)
    return rules.length_findings(numbers, tokens, trained, cut, limit)


def check_graders(graders: Sequence[GraderSpec]) -> None:
    """UserError when a grader's JSON Schema cannot be used."""
    for grader in graders:
        if problem := schema_problem(grader):
            raise UserError(f"evaluation.graders: {grader.name}: {problem}; correct it.")


def check_holdout(
    evaluation: EvaluationSpec,
    tokenizer: ChatTokenizer,
    train: Sequence[Row],
    rows: Sequence[HoldoutRow],
    room: int,
) -> list[Finding]:
    """Rules 17, 25, 36, 41 and 42 about the hold-out; `room` is the model's context in tokens."""
    space = room - evaluation.output_tokens
    about_prompts = present(_prompt_findings(tokenizer, rows, space), "holdout")
    return about_prompts + compare_holdout(train, rows, evaluation.graders)


def compare_holdout(
    train: Sequence[Row], rows: Sequence[HoldoutRow], graders: Sequence[GraderSpec] = ()
) -> list[Finding]:
    """Rules 36, 37, 39 and 41 to 43: the hold-out beside the training rows, and its expected answers."""
    return present(
        [
            holdout_rules.leak_exact(train, rows),
            holdout_rules.eval_size(rows),
            holdout_rules.duplicate_ids(rows),
            holdout_rules.eval_no_reference(rows, graders),
            holdout_rules.eval_reference_fails(rows, graders),
            *leak_near(train, [(row.number, row.messages) for row in rows]),
            leak_group(train, [(row.number, row.group) for row in rows]),
        ],
        "holdout",
    )


def _prompt_findings(
    tokenizer: ChatTokenizer, rows: Sequence[HoldoutRow], space: int
) -> list[Finding | None]:
    if not tokenizer.has_template:
        return []
    problems = [(row.number, problem) for row in rows if (problem := render_problem(tokenizer, row.messages))]
    if problems:
        numbers = [number for number, _ in problems]
        text = f"The chat template cannot render {name_rows(numbers)}: {problems[0][1]}."
        return [found(17, "template_error", numbers, text)]
    long = [row.number for row in rows if len(tokenizer.prompt_ids(row.messages)) > space]
    text = (
        f"Prompts leave no room for evaluation.maxTokens within the model's context ({space} tokens remain)"
    )
    return [found(25, "prompt_too_long", long, f"{text}; shorten them or lower evaluation.maxTokens.")]
