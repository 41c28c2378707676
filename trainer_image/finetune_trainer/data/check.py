"""The checks after the structure: tokens of the training rows, and the hold-out against them."""

from collections.abc import Sequence
from dataclasses import dataclass

from finetune_trainer.contracts import EvaluationSpec, GraderSpec
from finetune_trainer.data import holdout as holdout_rules
from finetune_trainer.data import token_rules
from finetune_trainer.data.corpus import leaks
from finetune_trainer.data.corpus.facts import SAMPLE, Facts, learn, measure
from finetune_trainer.data.corpus.texts import held_out
from finetune_trainer.data.findings import Finding, found, present
from finetune_trainer.data.formats import Row
from finetune_trainer.data.holdout import HoldoutRow
from finetune_trainer.data.tokenise import ChatTokenizer, Encoded, Unrendered, encode_row, render_problem
from finetune_trainer.errors import UserError
from finetune_trainer.grading import schema_problem


@dataclass(frozen=True)
class Tokenised:
    """The training rows as tokens, in their order, with what was found on the way."""

    rows: list[Encoded]
    findings: list[Finding]


def tokenise(tokenizer: ChatTokenizer, rows: Sequence[Row], limit: int) -> Tokenised:
    """Tokenise all rows and apply the token rules; without a template there is nothing to apply them to."""
    if missing := token_rules.template_missing(tokenizer):
        return Tokenised([], [missing])
    results = [encode_row(tokenizer, row) for row in rows]
    encoded = [result for result in results if isinstance(result, Encoded)]
    findings = [
        token_rules.template_error([result for result in results if isinstance(result, Unrendered)]),
        token_rules.eos_not_trained(encoded),
        token_rules.prompt_not_prefix(encoded),
        token_rules.no_trainable_tokens(encoded, limit),
        token_rules.too_long(encoded, limit),
    ]
    return Tokenised(encoded, present(findings))


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
    return present(
        [
            *_prompt_findings(tokenizer, rows, space),
            leaks.leak_exact(*_measured(train, rows)),
            holdout_rules.eval_size(rows),
            holdout_rules.duplicate_ids(rows),
            holdout_rules.eval_no_reference(rows, evaluation.graders),
        ],
        "holdout",
    )


def _measured(train: Sequence[Row], rows: Sequence[HoldoutRow]) -> tuple[Facts, Facts]:
    context = learn(train[:SAMPLE], rows)
    return measure(train, context), measure([held_out(row) for row in rows], context)


def _prompt_findings(
    tokenizer: ChatTokenizer, rows: Sequence[HoldoutRow], space: int
) -> list[Finding | None]:
    if not tokenizer.has_template:
        return []
    problems = [
        Unrendered(row.number, problem)
        for row in rows
        if (problem := render_problem(tokenizer, row.messages))
    ]
    if problems:
        return [token_rules.template_error(problems)]
    long = [row.number for row in rows if len(tokenizer.prompt_ids(row.messages)) > space]
    text = (
        f"Prompts leave no room for evaluation.maxTokens within the model's context ({space} tokens remain)"
    )
    return [found(25, "prompt_too_long", long, f"{text}; shorten them or lower evaluation.maxTokens.")]
