"""Rules about the shape of one row, in whatever format it is (data rules 5 to 10)."""

from collections.abc import Iterator
from typing import Any

from finetune_trainer.data.formats import MESSAGE_KEYS, ROLES, SHAREGPT_ROLES, detect, given, turns
from finetune_trainer.data.rowrule import RowRule

RawRow = dict[str, Any]

_LISTS = {"messages": ("messages",), "sharegpt": ("conversations",)}
_NEEDED = {"pairs": ("prompt", "completion"), "alpaca": ("instruction", "output")}
# What a row may say beside its content, in every format.
_ABOUT_ROW = {"id", "group", "source", "source_id", "reviewed", "label", "rating"}
_COLUMNS = {
    "messages": _ABOUT_ROW | {"messages", "tools"},
    "pairs": _ABOUT_ROW | {"prompt", "completion", "system", "tools"},
    "sharegpt": _ABOUT_ROW | {"conversations", "system", "tools"},
    "alpaca": _ABOUT_ROW | {"instruction", "input", "output", "system", "tools"},
    "text": _ABOUT_ROW | {"text"},
}
_FORMATS = "`messages`, `prompt` and `completion`, `conversations`, `instruction` and `output`, or `text`"


def _lacks_messages(row: RawRow) -> str | None:
    kind = detect(row)
    if kind == "unknown":
        return "it has no field to learn from"
    wrong = (key for key in _LISTS.get(kind, ()) if not (isinstance(row.get(key), list) and row[key]))
    if kind == "pairs":  # their sides may be text, which is rule 9's, or be missing, which is rule 6's
        wrong = (key for key in _NEEDED["pairs"] if row.get(key) == [])
    return next((f"`{key}` is empty or no list" for key in wrong), None)


def _lacks_prompt(row: RawRow) -> str | None:
    if detect(row) == "text":
        return "text alone has no question to ask"
    return _lacks_messages(row)


def _lacks_key(row: RawRow) -> str | None:
    return next(_missing_keys(row, detect(row), answered=True), None)


def _lacks_key_of_prompt(row: RawRow) -> str | None:
    return next(_missing_keys(row, detect(row), answered=False), None)


def _missing_keys(row: RawRow, kind: str, *, answered: bool) -> Iterator[str]:
    needed = _NEEDED.get(kind, ())[: None if answered else 1]
    yield from (f"`{key}` is missing" for key in needed if not given(row, key))
    names = ("from", "value") if kind == "sharegpt" else ("role", "content")
    for position, turn in enumerate(turns(row), start=1):
        if not isinstance(turn, dict):
            yield f"message {position} is no object with `{names[0]}` and `{names[1]}`"
            continue
        if "role" not in turn:
            yield f"message {position} lacks `{names[0]}`"
        if "content" not in turn and not turn.get("tool_calls"):
            yield f"message {position} lacks `{names[1]}`"


def _unknown_key(row: RawRow) -> str | None:
    known = _COLUMNS.get(detect(row))
    if known is None:
        return None
    unknown = [f"`{key}`" for key in row if key not in known and given(row, key)]
    unknown += [
        f"`{key}` of message {position}"
        for position, turn in _objects(row)
        for key in turn
        if key not in MESSAGE_KEYS and given(turn, key)
    ]
    return f"the field {unknown[0]} is unknown and will be ignored" if unknown else None


def _unknown_role(row: RawRow) -> str | None:
    for _, turn in _objects(row):
        if "role" in turn and turn["role"] not in ROLES:  # a role of any JSON type
            return f"the role {str(turn['role'])[:40]!r} is unknown"
    return None


def _empty(row: RawRow) -> str | None:
    if detect(row) == "text":
        return None if _is_text(row["text"]) else "`text` is empty or no text"
    for position, turn in _objects(row):
        if "content" in turn and not _is_text(turn["content"]) and not _only_calls(turn):
            return f"message {position} ({turn.get('role')}) has no text"
    return None


def _no_answer(row: RawRow) -> str | None:
    kind, messages = detect(row), turns(row)
    if not messages or any(not given(row, key) for key in _NEEDED.get(kind, ())):
        return None  # rules 5 and 6 say so
    answers = [turn for _, turn in _objects(row) if turn.get("role") == "assistant"]
    if not answers:
        return "no message is the assistant's, so there is nothing to learn"
    masked = all(turn.get("weight") == 0 or turn.get("train") is False for turn in answers)
    return "no message of the assistant is trained, so there is nothing to learn" if masked else None


def _objects(row: RawRow) -> Iterator[tuple[int, dict[str, Any]]]:
    return ((i, turn) for i, turn in enumerate(turns(row), start=1) if isinstance(turn, dict))


def _only_calls(turn: dict[str, Any]) -> bool:
    return bool(turn.get("tool_calls")) and turn["content"] in (None, "")


def _is_text(content: Any) -> bool:
    return isinstance(content, str) and bool(content.strip())


_ROLES_ADVICE = f"use {', '.join(ROLES)} (in `from`: {', '.join(SHAREGPT_ROLES)})"
RULES: tuple[RowRule[RawRow], ...] = (
    RowRule(5, "missing_messages_list", _lacks_messages, f"give {_FORMATS}", about=("train",)),
    RowRule(5, "missing_messages_list", _lacks_prompt, "give messages or a prompt", about=("holdout",)),
    RowRule(6, "message_missing_key", _lacks_key, "add it", about=("train",)),
    RowRule(6, "message_missing_key", _lacks_key_of_prompt, "add it", about=("holdout",)),
    RowRule(7, "message_unrecognized_key", _unknown_key, "rename or remove it", "warning"),
    RowRule(8, "unrecognized_role", _unknown_role, _ROLES_ADVICE),
    RowRule(9, "missing_content", _empty, "fill it or remove the row"),
    RowRule(10, "missing_assistant", _no_answer, "add an answer", about=("train",)),
)
