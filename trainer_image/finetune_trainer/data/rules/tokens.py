"""Rules about one rendered and tokenised row (data rules 17, 18 and 21 to 24)."""

from collections.abc import Callable

from finetune_trainer.chat.survival import Part
from finetune_trainer.chat.tokenizer import ChatTokenizer
from finetune_trainer.data.findings import Finding
from finetune_trainer.data.rowrule import RowRule
from finetune_trainer.data.tokenise import Encoded, Unrendered
from finetune_trainer.words import plural

Result = Encoded | Unrendered
_STOP = "set eos_token or generation_config.json to the token that the template writes after an answer"
_AS_JSON = "write `arguments | tojson` in chat_template.jinja"
_DROPPED: tuple[tuple[Part, str, str], ...] = (
    (
        "content",
        "the text of a message",
        "take a base whose template writes it, or change chat_template.jinja",
    ),
    ("system", "the system message", "move it into the first user message"),
    (
        "tools",
        "the functions of `tools`",
        "describe them in the system message instead, or take a base that knows tools",
    ),
    (
        "calls",
        "a call's name or arguments",
        "write the call as text in `content` instead, or take a base that knows calls",
    ),
    (
        "reasoning",
        "an answer's reasoning",
        "write it into `content` between <think> and </think>, or remove it",
    ),
)


def token_rules(
    tokenizer: ChatTokenizer, limit: int, longer: str = "raise training.maxLength"
) -> tuple[RowRule[Result], ...]:
    """The rules for rows of one tokenizer that are trained up to `limit` tokens, which `longer` raises."""
    double_bos = _encoded(lambda row: _twice(row, tokenizer.bos_id))
    unknown = _encoded(lambda row: _without_embedding(row, tokenizer))
    nothing = _encoded(lambda row: _nothing(row, limit))
    return (
        RowRule(17, "template_error", _unrendered, "write the row as the chat template takes it"),
        *(_drops(part, what, advice) for part, what, advice in _DROPPED),
        RowRule(17, "template_text_arguments", _encoded(_refused), _AS_JSON, "warning"),
        RowRule(18, "eos_not_trained", _encoded(_endless), _STOP),
        RowRule(
            21, "prompt_not_prefix", _encoded(_shared), "start answers with a letter or digit", "warning"
        ),
        RowRule(22, "double_bos", double_bos, "let only one of template and data write it", "warning"),
        RowRule(22, "special_tokens", _encoded(_own), "remove it, for it steers the model where it is read"),
        RowRule(22, "foreign_special_tokens", _encoded(_foreign), "give messages without markup", "warning"),
        RowRule(23, "no_embedding", unknown, "take tokenizer and weights of the same base model"),
        RowRule(24, "no_trainable_tokens", nothing, f"shorten the prompt or {longer}"),
    )


def split_rows(conversations: int, rows: int) -> Finding | None:
    """Rule 17: conversations of which every answer is trained as a row of its own; `rows` in all."""
    if not conversations:
        return None
    text = (
        f"The chat template writes earlier answers differently, so of "
        f"{plural(conversations, 'conversation')} every answer is trained as a row of its own, as "
        f"the engine will see it: {rows} rows in all."
    )
    return Finding(17, "split_rows", "info", conversations, (), text)


def _drops(part: Part, what: str, advice: str) -> RowRule[Result]:
    def problem(row: Encoded) -> str | None:
        return f"the chat template does not write {what}" if part in row.notes.lost else None

    return RowRule(17, f"template_drops_{part}", _encoded(problem), advice)


def _encoded(problem: Callable[[Encoded], str | None]) -> Callable[[Result], str | None]:
    return lambda row: problem(row) if isinstance(row, Encoded) else None


def _unrendered(row: Result) -> str | None:
    return f"it does not render: {row.problem}" if isinstance(row, Unrendered) else None


def _refused(row: Encoded) -> str | None:
    if not row.notes.refused:
        return None
    return (
        "the chat template joins a call's arguments as text, and the engine, which gives it objects, refuses "
        "what comes after the call"
    )


def _own(row: Encoded) -> str | None:
    return f"a message holds the special token {row.notes.own} as text" if row.notes.own else None


def _foreign(row: Encoded) -> str | None:
    foreign = row.notes.foreign
    if not foreign or row.notes.own:
        return None
    return f"a message holds {foreign}, which is what another base's chat template writes"


def _endless(row: Encoded) -> str | None:
    if row.stops:
        return None
    return "an answer ends in no end token of the base model, which would not learn to stop"


def _shared(row: Encoded) -> str | None:
    return None if row.prefix_kept else "prompt and answer share a token that is not seen in serving"


def _twice(row: Encoded, bos: int | None) -> str | None:
    begins = bos is not None and row.ids[:2].tolist() == [bos, bos]
    return "it begins with two begin-of-text tokens" if begins else None


def _without_embedding(row: Encoded, tokenizer: ChatTokenizer) -> str | None:
    known = tokenizer.vocabulary
    beyond = [] if known is None else row.ids[row.ids >= known].tolist()
    if not beyond:
        return None
    return f"the base model has {known} embeddings and none for `{tokenizer.text_of(beyond[0])[:40]}`"


def _nothing(row: Encoded, limit: int) -> str | None:
    # Token by token: comparing the list of labels with IGNORE_INDEX is always unequal and finds nothing.
    return None if row.mask[:limit].any() else f"no token within {limit} is trained"
