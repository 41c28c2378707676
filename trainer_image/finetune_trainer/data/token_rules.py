"""Rules about rendered and tokenised rows (reference: data rules 16, 17, 18, 21, 24, 25)."""

from collections.abc import Sequence

from finetune_trainer.data.findings import Finding, found, name_rows
from finetune_trainer.data.tokenise import UNTRAINED, ChatTokenizer, Encoded, Unrendered

# Above this share of over-long rows the data does not fit the model, even if no answer is cut.
_LONG_SHARE = 0.01


def template_missing(tokenizer: ChatTokenizer) -> Finding | None:
    """Rule 16: the base model brings a chat template."""
    if tokenizer.has_template:
        return None
    text = "The base model has no chat template; take an instruct model or add chat_template.jinja."
    return Finding(16, "template_missing", "error", 1, (), text)


def template_error(rows: Sequence[Encoded | Unrendered]) -> Finding | None:
    """Rule 17: every row renders."""
    wrong = [row for row in rows if isinstance(row, Unrendered)]
    if not wrong:
        return None
    numbers = [row.number for row in wrong]
    text = f"The chat template cannot render {name_rows(numbers)}: {wrong[0].problem}."
    return found(17, "template_error", numbers, text)


def eos_not_trained(rows: Sequence[Encoded]) -> Finding | None:
    """Rule 18: every assistant turn ends in an end token with a label."""
    wrong = [row.number for row in rows if not row.stops]
    text = (
        f"The end of the answer in {name_rows(wrong)} is no end token of the base: it would not learn to "
        "stop; set eos_token or generation_config.json to the token that the template writes."
    ) if wrong else ""  # fmt: skip
    return found(18, "eos_not_trained", wrong, text)


def prompt_not_prefix(rows: Sequence[Encoded]) -> Finding | None:
    """Rule 21: the tokens of the prompt alone are the first tokens of the whole row."""
    wrong = [row.number for row in rows if not row.prefix_kept]
    if not wrong:
        return None
    text = f"Prompt and answer share a token in {name_rows(wrong)}; start answers with a letter or digit."
    return found(21, "prompt_not_prefix", wrong, text, "warning")


def no_trainable_tokens(rows: Sequence[Encoded], limit: int) -> Finding | None:
    """Rule 24: within the limit every row has a token to learn from."""
    wrong = [row.number for row in rows if all(label == UNTRAINED for label in row.labels[:limit])]
    text = (
        f"Nothing is left to learn in {name_rows(wrong)} within {limit} tokens; shorten the prompt."
        if wrong
        else ""
    )
    return found(24, "no_trainable_tokens", wrong, text)


def too_long(rows: Sequence[Encoded], limit: int) -> Finding | None:
    """Rule 25: rows fit the limit; an error when an answer is cut or more than 1 % of rows are too long."""
    wrong = [row for row in rows if len(row.input_ids) > limit]
    if not wrong:
        return None
    cut = sum(any(label != UNTRAINED for label in row.labels[limit:]) for row in wrong)
    longest = max(len(row.input_ids) for row in wrong)
    share = len(wrong) / len(rows)
    numbers = [row.number for row in wrong]
    text = (
        f"{share:.1%} of the rows exceed {limit} tokens (the longest has {longest}), answers are cut in "
        f"{cut}: {name_rows(numbers)}; raise training.maxLength or shorten the rows."
    )
    return found(25, "too_long", numbers, text, "error" if cut or share > _LONG_SHARE else "warning")
