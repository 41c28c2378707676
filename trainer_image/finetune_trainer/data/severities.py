"""Severities that a job gives to data rules in place of their own (`dataset.rules`)."""

from collections.abc import Collection, Mapping
from difflib import get_close_matches

from finetune_trainer.data.findings import Override
from finetune_trainer.errors import UserError

# As in docs/data-rules.md.
NAMES = frozenset({
    "unreadable_json", "data_type", "mixed_formats", "mixed_files", "unread_files",
    "missing_messages_list",
    "message_missing_key", "message_unrecognized_key", "message_mask", "unrecognized_role",
    "missing_content", "missing_assistant", "picture_needed", "picture_left_out",
    "last_turn_not_assistant", "role_order", "missing_system", "missing_user", "system_prompt_varies",
    "bad_tool_json", "tool_call_mismatch",
    "template_missing", "template_error", "eos_not_trained", "eot_multi_token", "pad_is_eos",
    "prompt_not_prefix", "double_bos", "new_tokens", "no_embedding", "no_trainable_tokens",
    "too_long", "prompt_too_long", "reference_too_long",
    "too_short", "length_stats", "too_few", "data_band", "epochs_bound", "exact_duplicate", "near_duplicate",
    "low_variety", "contradiction", "answer_conflict_format", "leak_exact", "leak_near", "leak_ngram",
    "leak_group", "leak_semantic", "eval_size", "eval_no_reference", "duplicate_ids", "eval_reference_fails",
    "distribution_shift", "synthetic_unreviewed", "negative_examples", "preference_data", "secrets_pii",
    "contact_data", "dataset_changed", "template_reasoning", "template_date", "template_drops_content",
    "template_drops_system", "template_drops_tools", "template_drops_calls", "template_drops_reasoning",
    "template_text_arguments", "split_rows", "special_tokens", "foreign_special_tokens",
})  # fmt: skip
# Where these apply, a later stage would fail or score nonsense: nothing can be left out to prevent it.
_FIXED = frozenset({
    "mixed_files", "template_missing", "template_error", "prompt_too_long", "eval_no_reference",
    "duplicate_ids", "dataset_changed", "no_embedding",
})  # fmt: skip


def check_names(chosen: Mapping[str, Override]) -> None:
    """UserError for a rule that does not exist, or that a run cannot go on against."""
    for name in chosen:
        if name not in NAMES:
            raise UserError(f"dataset.rules names {name}, which is no data rule; {_meant(name, NAMES)}.")
        if name in _FIXED and chosen[name] != "Error":
            raise UserError(
                f"dataset.rules: {name} cannot be overridden, for the run would fail later; remove it."
            )


def _meant(name: str, names: Collection[str]) -> str:
    close = get_close_matches(name, names, n=1)
    return f"did you mean {close[0]}?" if close else "docs/data-rules.md lists them"
