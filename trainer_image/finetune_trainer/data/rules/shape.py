"""Rules about the shape of one row, in whatever format it is (data rules 5 to 10)."""

from collections.abc import Iterator
from typing import Any

from finetune_trainer.data.formats import MESSAGE_KEYS, ROLES, SHAREGPT_ROLES, detect, turns
from finetune_trainer.data.rowrule import RowRule
from finetune_trainer.data.rules.pictures import COLUMNS as PICTURE_COLUMNS
from finetune_trainer.data.rules.pictures import foreign_part
from finetune_trainer.data.spellings import given

RawRow = dict[str, Any]

_LISTS = {"messages": ("messages",), "sharegpt": ("conversations",)}
# What a row may have beside its content, in every format; pictures have rules of their own.
_ABOUT_ROW = {
    "id", "group", "source", "source_id", "reviewed", "label", "rating", "tests", *PICTURE_COLUMNS,
}  # fmt: skip
_OF_CHATS = _ABOUT_ROW | {"system", "tools"}
_COLUMNS = {
    "messages": _OF_CHATS | {"messages"},
    "pairs": _OF_CHATS | {"prompt", "completion"},
    "sharegpt": _OF_CHATS | {"conversations"},
    "alpaca": _OF_CHATS | {"instruction", "input", "output"},
    "text": _ABOUT_ROW | {"text"},
}
_TYPES = {dict: "an object", list: "a list", bool: "a boolean", int: "a number", float: "a number"}
_FORMATS = "`messages`, `prompt` and `completion`, `conversations`, `instruction` and `output`, or `text`"


def _lacks_messages(row: RawRow) -> str | None:
    kind = detect(row)
    if kind == "unknown":
        return "it has no field to learn from"
    wrong = (key for key in _LISTS.get(kind, ()) if not (isinstance(row.get(key), list) and row[key]))
    if kind == "pairs":  # their sides may be text, which is rule 9's, or be missing, which is rule 6's
        wrong = (key for key in _needed(row, kind) if row.get(key) == [])
    return next((f"`{key}` is empty or no list" for key in wrong), None)


def _lacks_prompt(row: RawRow) -> str | None:
    if detect(row) == "text":
        return "text alone has no question to ask"
    return _lacks_messages(row)


def _lacks_key(row: RawRow) -> str | None:
    return next(_missing_keys(row, detect(row), answered=True), None)


def _lacks_key_of_prompt(row: RawRow) -> str | None:
    return next(_missing_keys(row, detect(row), answered=False), None)


def _needed(row: RawRow, kind: str) -> tuple[str, ...]:
    """The question and the answer of formats that have one of each."""
    if kind == "alpaca":
        return ("instruction" if given(row, "instruction") or not given(row, "input") else "input", "output")
    return ("prompt", "completion") if kind == "pairs" else ()


def _missing_keys(row: RawRow, kind: str, *, answered: bool) -> Iterator[str]:
    needed = _needed(row, kind)[: None if answered else 1]
    yield from (f"`{key}` is missing" for key in needed if not given(row, key))
    names = ("from", "value") if kind == "sharegpt" and not _has_roles(row) else ("role", "content")
    for position, turn in enumerate(turns(row), start=1):
        if not isinstance(turn, dict):
            yield f"message {position} is no object with `{names[0]}` and `{names[1]}`"
            continue
        if "role" not in turn:
            yield f"message {position} lacks `{names[0]}`"
        if "content" not in turn and not turn.get("tool_calls"):
            yield f"message {position} lacks `{names[1]}`"


def _has_roles(row: RawRow) -> bool:
    """Whether the conversation has the keys of messages."""
    first = next(iter(row["conversations"]), None) if isinstance(row["conversations"], list) else None
    return isinstance(first, dict) and ("role" in first or "content" in first)


def _has_unread(row: RawRow) -> str | None:
    return "there are fields that nothing reads" if _unread(row) else None


def _unread(row: RawRow) -> list[str]:
    """The fields that nothing reads, of the row and of its messages."""
    known = _COLUMNS.get(detect(row))
    if known is None:
        return []
    unread = [f"`{key}`" for key in row if key not in known and given(row, key)]
    of_messages = (key for _, turn in _objects(row) for key in turn if given(turn, key))
    return unread + [f"`{key}` of a message" for key in of_messages if key not in MESSAGE_KEYS]


def _unknown_role(row: RawRow) -> str | None:
    for _, turn in _objects(row):
        if "role" in turn and turn["role"] not in ROLES:  # a role of any JSON type
            return f"the role {str(turn['role'])[:40]!r} is unknown"
    return None


def _empty(row: RawRow) -> str | None:
    if detect(row) == "text":
        return None if _is_text(row["text"]) else f"`text` {_no_text(row['text'])}"
    for position, turn in _objects(row):
        if "content" not in turn or _is_text(turn["content"]) or _only_calls(turn):
            continue
        if foreign_part(turn["content"]) is None:  # else picture_needed says so
            return f"message {position} ({turn.get('role')}) {_no_text(turn['content'])}"
    return None


def _no_text(content: Any) -> str:
    if content is None or isinstance(content, str):
        return "has no text; fill it or remove the row"
    kind = _TYPES.get(type(content), "a value")
    return f"is {kind} and no text; write it as text (an object as its JSON text)"


def _no_answer(row: RawRow) -> str | None:
    kind, messages = detect(row), turns(row)
    if not messages or any(not given(row, key) for key in _needed(row, kind)):
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
    RowRule(7, "message_unrecognized_key", _has_unread, "rename or remove them", "warning", names=_unread),
    RowRule(8, "unrecognized_role", _unknown_role, _ROLES_ADVICE),
    RowRule(9, "missing_content", _empty),
    RowRule(10, "missing_assistant", _no_answer, "add an answer", about=("train",)),
)
