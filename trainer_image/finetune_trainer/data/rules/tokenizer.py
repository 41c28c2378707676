"""Rules about the tokenizer and its chat template, whatever the rows (data rules 16, 17, 19, 20 and 23)."""

from finetune_trainer.chat.tokenizer import ChatTokenizer
from finetune_trainer.data.findings import Finding, present
from finetune_trainer.words import plural


def tokenizer_findings(tokenizer: ChatTokenizer, *, chat: bool = True) -> list[Finding]:
    """All findings about a tokenizer; rows of the text format (`chat` false) need no template."""
    template = [_template_unusable(tokenizer), _eot_multi_token(tokenizer)] if chat else []
    return present([*template, _pad_is_eos(tokenizer), _new_tokens(tokenizer)])


def _template_unusable(tokenizer: ChatTokenizer) -> Finding | None:
    if not tokenizer.has_template:
        text = "The base model has no chat template; take an instruct model or add chat_template.jinja."
        return Finding(16, "template_missing", "error", 1, (), text)
    if problem := tokenizer.template_problem:
        text = f"The base model's chat template cannot be read: {problem}; repair chat_template.jinja."
        return Finding(17, "template_error", "error", 1, (), text)
    return None


def _eot_multi_token(tokenizer: ChatTokenizer) -> Finding | None:
    end = tokenizer.template.end_of_turn() if tokenizer.has_template else ""
    ids = tokenizer.encode(end)
    if len(ids) < 2 or not tokenizer.stop_ids.isdisjoint(ids):
        return None
    text = (
        f"The chat template ends an answer with {end[:40]!r}, which is {len(ids)} tokens, none of them an "
        "end token; take a base model whose vocabulary has it as one."
    )
    return Finding(19, "eot_multi_token", "error", 1, (), text)


def _pad_is_eos(tokenizer: ChatTokenizer) -> Finding | None:
    # Information only: training masks padding by its position, so an end token in an answer keeps its label.
    if tokenizer.pad_id is None or tokenizer.pad_id != tokenizer.eos_id:
        return None
    text = (
        "The tokenizer pads with its end token; nothing to do here, as padding is masked by position. Code "
        "that masks by token would not train the end of answers."
    )
    return Finding(20, "pad_is_eos", "info", 1, (), text)


def _new_tokens(tokenizer: ChatTokenizer) -> Finding | None:
    new = tokenizer.tokens_beyond_vocabulary()
    if not new:
        return None
    names = ", ".join(f"`{name[:40]}`" for name in new[:3]) + (" ..." if len(new) > 3 else "")
    text = (
        f"The base model has no embedding for {plural(len(new), 'token')} ({names}); adding embeddings makes "
        "an adapter that vLLM does not serve, so use tokens that the base knows."
    )
    return Finding(23, "new_tokens", "warning", len(new), (), text)
