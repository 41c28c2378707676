"""The checks after the structure: the training rows among themselves, and the hold-out beside them."""

from collections.abc import Sequence
from datetime import date
from pathlib import Path

from finetune_trainer.chat.options import TemplateOptions, decide
from finetune_trainer.chat.tokenizer import ChatTokenizer, render_problem
from finetune_trainer.contracts import EvaluationSpec, GraderSpec
from finetune_trainer.data import rules
from finetune_trainer.data.corpus.facts import Facts, measure
from finetune_trainer.data.corpus.rules import corpus_findings, holdout_findings
from finetune_trainer.data.corpus.semantic import embedding_matrix, leak_semantic
from finetune_trainer.data.corpus.texts import held_out
from finetune_trainer.data.findings import Finding, found, name_rows, present
from finetune_trainer.data.formats import Row
from finetune_trainer.data.holdout import HoldoutRow, reference_too_long
from finetune_trainer.data.load import Loaded
from finetune_trainer.data.survey import Survey
from finetune_trainer.errors import UserError
from finetune_trainer.grading import ideal_output, reference_problem, settings_problem

_LOOKED_AT = 1000  # rows, for one without a system message
_TEXT_ARGUMENTS = (
    "it joins a call's arguments as text, and the engine gives it objects; write `arguments | tojson` in "
    "chat_template.jinja."
)


def check_graders(graders: Sequence[GraderSpec]) -> None:
    """UserError when a grader cannot work: its schema, pattern, fields or class."""
    for grader in graders:
        if problem := settings_problem(grader):
            raise UserError(f"evaluation.graders: {grader.name}: {problem}; correct it.")


def template_options(tokenizer: ChatTokenizer, train: Loaded, today: date) -> TemplateOptions:
    """What every rendering of the chat template passes to it."""
    readable = tokenizer.has_template and tokenizer.template_problem is None
    if not readable or train.format == "text" or not len(train.rows):
        return TemplateOptions()
    example = _example(train).messages
    asked = next((place for place, turn in enumerate(example) if turn["role"] == "assistant"), len(example))
    return decide(tokenizer.template, example[:asked], len(train.rows), train.reasoned, today)


def _example(train: Loaded) -> Row:
    """A row to try the template with: one without a system message gets the template's own, with its date."""
    looked_at = map(train.rows, range(min(len(train.rows), _LOOKED_AT)))
    without = (row for row in looked_at if row.messages[0]["role"] != "system")
    return next(without, train.rows(0))


def check_tokenizer(tokenizer: ChatTokenizer, train: Loaded, options: TemplateOptions) -> list[Finding]:
    """Rules 16, 17, 19, 20 and 23; with an error among them rows cannot be tokenised."""
    found = rules.tokenizer_findings(tokenizer, chat=train.format != "text")
    return found + rules.template_findings(options, len(train.rows), train.reasoned)


def check_corpus(train: Loaded, surveyed: Survey, epochs: float) -> list[Finding]:
    """Rules 28 to 35 about the training rows."""
    return corpus_findings(surveyed.facts, train.rows, surveyed.context, surveyed.near, epochs)


def measure_holdout(surveyed: Survey, holdout: Sequence[HoldoutRow]) -> Facts:
    """What the rules and `related_rows` need to know about each hold-out row."""
    return measure([held_out(row) for row in holdout], surveyed.context)


def check_holdout(
    train: Loaded,
    surveyed: Survey,
    holdout: Sequence[HoldoutRow],
    facts: Facts,
    graders: Sequence[GraderSpec] = (),
) -> list[Finding]:
    """Rules 36 to 39 and 41 to 44: the hold-out beside the training rows, and its expected answers."""
    return holdout_findings(surveyed.facts, train.rows, holdout, facts, surveyed.context, graders)


def check_paraphrases(
    train: Loaded, surveyed: Survey, holdout: Sequence[HoldoutRow], base: Path, tokenizer: ChatTokenizer
) -> list[Finding]:
    """Rule 40, which runs only where a job sets its severity: its cosine misses and suspects too much."""
    matrix = embedding_matrix(base)
    if matrix is None:
        text = "The base model's embeddings have no known name, so paraphrases cannot be looked for"
        raise UserError(f"{text}; remove leak_semantic from dataset.rules.")

    def encode(texts: list[str]) -> list[list[int]]:
        return [list(encoding.ids) for encoding in tokenizer.encode_batch(texts, special=False)]

    finding = leak_semantic(surveyed.facts, train.rows, holdout, surveyed.context, matrix, encode)
    return present([finding], "holdout")


def check_prompts(
    tokenizer: ChatTokenizer, asked: Sequence[HoldoutRow], space: int, dataset: str = "holdout"
) -> list[Finding]:
    """Rules 17 and 25 about the prompts of a data set, for which the model has a `space` in tokens."""
    return present(_prompt_findings(tokenizer, asked, space), dataset)


def check_references(
    tokenizer: ChatTokenizer, holdout: Sequence[HoldoutRow], evaluation: EvaluationSpec
) -> list[Finding]:
    """Rule 25 about the expected answers: longer than evaluation.maxTokens, right ones would be cut."""
    decides = evaluation.primary_grader
    texts = [
        row.reference if reference_problem(decides, row.reference) else ideal_output(decides, row.reference)
        for row in holdout
    ]
    sizes = [len(encoding.ids) for encoding in tokenizer.encode_batch(texts, special=False)]
    return present([reference_too_long(holdout, sizes, evaluation.output_tokens)], "holdout")


def _prompt_findings(
    tokenizer: ChatTokenizer, rows: Sequence[HoldoutRow], space: int
) -> list[Finding | None]:
    if not tokenizer.has_template:
        return []
    problems = [
        (row.number, problem)
        for row in rows
        if (problem := render_problem(tokenizer, row.messages, row.tools))
    ]
    if problems:
        numbers = [number for number, _ in problems]
        problem = _TEXT_ARGUMENTS if tokenizer.template.refuses_objects else f"{problems[0][1]}."
        text = f"The chat template cannot render {name_rows(numbers)}: {problem}"
        return [found(17, "template_error", numbers, text)]
    long = [row.number for row in rows if len(tokenizer.prompt_ids(row.messages, row.tools)) > space]
    text = (
        f"Prompts leave no room for evaluation.maxTokens within the model's context ({space} tokens remain)"
    )
    return [found(25, "prompt_too_long", long, f"{text}; shorten them or lower evaluation.maxTokens.")]
