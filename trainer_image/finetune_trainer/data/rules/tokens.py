"""Rules about one rendered and tokenised row (data rules 17, 18, 21, 22 and 24)."""

from collections.abc import Callable

from finetune_trainer.data.rowrule import RowRule
from finetune_trainer.data.tokenise import ChatTokenizer, Encoded, Unrendered

Result = Encoded | Unrendered
_STOP = "set eos_token or generation_config.json to the token that the template writes after an answer"


def token_rules(tokenizer: ChatTokenizer, limit: int) -> tuple[RowRule[Result], ...]:
    """The rules for rows of one tokenizer that are trained up to `limit` tokens."""
    double_bos = _encoded(lambda row: _twice(row, tokenizer.bos_id))
    nothing = _encoded(lambda row: _nothing(row, limit))
    return (
        RowRule(17, "template_error", _unrendered, "write the row as the chat template takes it"),
        RowRule(18, "eos_not_trained", _encoded(_endless), _STOP),
        RowRule(
            21, "prompt_not_prefix", _encoded(_shared), "start answers with a letter or digit", "warning"
        ),
        RowRule(22, "double_bos", double_bos, "let only one of template and data write it", "warning"),
        RowRule(24, "no_trainable_tokens", nothing, "shorten the prompt or raise training.maxLength"),
    )


def _encoded(problem: Callable[[Encoded], str | None]) -> Callable[[Result], str | None]:
    return lambda row: problem(row) if isinstance(row, Encoded) else None


def _unrendered(row: Result) -> str | None:
    return f"it does not render: {row.problem}" if isinstance(row, Unrendered) else None


def _endless(row: Encoded) -> str | None:
    if row.stops:
        return None
    return "an answer ends in no end token of the base model, which would not learn to stop"


def _shared(row: Encoded) -> str | None:
    return None if row.prefix_kept else "prompt and answer share a token that is not seen in serving"


def _twice(row: Encoded, bos: int | None) -> str | None:
    begins = bos is not None and row.ids[:2].tolist() == [bos, bos]
    return "it begins with two begin-of-text tokens" if begins else None


def _nothing(row: Encoded, limit: int) -> str | None:
    # Token by token: comparing the list of labels with -100 is always unequal and finds nothing.
    return None if row.mask[:limit].any() else f"no token within {limit} is trained"
