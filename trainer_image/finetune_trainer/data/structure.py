"""Rules about the shape of rows (reference: data rules 1, 2, 3, 5, 6, 8, 9, 10), one small function each."""

from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import Any

from finetune_trainer.data.findings import Finding, found, name_rows
from finetune_trainer.data.formats import ROLES, SUPPORTED, detect, turns
from finetune_trainer.data.lines import Line

Rows = Sequence[tuple[int, dict[str, Any]]]


def unreadable_json(lines: Sequence[Line]) -> Finding | None:
    """Rule 1: every line is one JSON value in UTF-8."""
    wrong = [line for line in lines if line.problem]
    first = f": {wrong[0].problem}" if wrong else ""
    text = f"{_name([line.number for line in wrong])} not valid JSON{first}; write one JSON object per line."
    return found(1, "unreadable_json", [line.number for line in wrong], text)


def data_type(lines: Sequence[Line]) -> Finding | None:
    """Rule 2: every row is a JSON object."""
    wrong = [line for line in lines if not line.problem and not isinstance(line.value, dict)]
    kind = type(wrong[0].value).__name__ if wrong else ""
    text = f"{_name([line.number for line in wrong])} no JSON object (a {kind} instead); write one per line."
    return found(2, "data_type", [line.number for line in wrong], text)


def mixed_formats(rows: Rows) -> Finding | None:
    """Rule 3: all rows have one format."""
    runs = [
        (kind, [number for _, number in group])
        for kind, group in groupby(((detect(row), number) for number, row in rows), key=lambda pair: pair[0])
    ]
    if len({kind for kind, _ in runs}) < 2:
        return None
    where = ", ".join(f"rows {numbers[0]}-{numbers[-1]} are {kind}" for kind, numbers in runs[:4])
    more = " ..." if len(runs) > 4 else ""
    others = [number for kind, numbers in runs if kind != runs[0][0] for number in numbers]
    return found(3, "mixed_formats", others, f"Formats are mixed: {where}{more}; use one.")


def unsupported_format(rows: Rows) -> Finding | None:
    """Rule 3, second half: the format is one that is read, namely messages or prompt and completion."""
    wrong = [(number, detect(row)) for number, row in rows if detect(row) not in (*SUPPORTED, "unknown")]
    numbers = [number for number, _ in wrong]
    kind = wrong[0][1] if wrong else ""
    text = f"{_name(numbers)} in the {kind} format; rewrite as `messages` or as `prompt` and `completion`."
    return found(3, "unsupported_format", numbers, text)


def missing_messages_list(rows: Rows) -> Finding | None:
    """Rule 5: a row holds a list of messages that is not empty (or a prompt and a completion)."""
    wrong = [number for number, row in rows if _lacks_messages(row)]
    text = f"{_capital(name_rows(wrong))} without messages; give `messages` or `prompt` and `completion`."
    return found(5, "missing_messages_list", wrong, text) if wrong else None


def message_missing_key(rows: Rows, *, completion_needed: bool = True) -> Finding | None:
    """Rule 6: every message has `role` and `content`; a pair has `prompt` and `completion`."""
    wrong = [(number, problem) for number, row in rows if (problem := _missing_key(row, completion_needed))]
    first = wrong[0][1] if wrong else ""
    text = f"{_capital(name_rows([n for n, _ in wrong]))}: {first}; add it." if wrong else ""
    return found(6, "message_missing_key", [number for number, _ in wrong], text)


def unrecognized_role(rows: Rows) -> Finding | None:
    """Rule 8: roles are system, user, assistant or tool."""
    wrong = [
        (number, turn["role"])
        for number, turn in _turns(rows)
        if "role" in turn and turn["role"] not in ROLES  # a role of any JSON type
    ]
    first = wrong[0][1] if wrong else ""
    numbers = _unique(number for number, _ in wrong)
    text = (
        f"{_capital(name_rows(numbers))}: the role {first!r} is unknown; use {', '.join(ROLES)}."
        if wrong
        else ""
    )
    return found(8, "unrecognized_role", numbers, text)


def missing_content(rows: Rows) -> Finding | None:
    """Rule 9: content is text that is not empty, unless the message calls tools."""
    wrong = [
        (number, turn.get("role"))
        for number, turn in _turns(rows)
        if "content" in turn and not turn.get("tool_calls") and not _is_text(turn["content"])
    ]
    numbers = _unique(number for number, _ in wrong)
    role = wrong[0][1] if wrong else ""
    text = (
        f"{_capital(name_rows(numbers))}: the {role} message has no text; fill it or remove the row."
        if wrong
        else ""
    )
    return found(9, "missing_content", numbers, text)


def missing_assistant(rows: Rows) -> Finding | None:
    """Rule 10: there is an assistant turn to learn from."""
    wrong = [
        number
        for number, row in rows
        if detect(row) == "messages"
        and turns(row)
        and not any(_role(turn) == "assistant" for turn in turns(row))
    ]
    text = (
        f"{_capital(name_rows(wrong))}: there is no assistant message to learn from; add one."
        if wrong
        else ""
    )
    return found(10, "missing_assistant", wrong, text)


def _lacks_messages(row: dict[str, Any]) -> bool:
    kind = detect(row)
    return kind == "unknown" or (kind == "messages" and not turns(row))


def _missing_key(row: dict[str, Any], completion_needed: bool) -> str | None:
    if detect(row) == "pairs":
        keys = ("prompt", "completion") if completion_needed else ("prompt",)
        return next((f"`{key}` is missing" for key in keys if key not in row), None)
    for position, turn in enumerate(turns(row), start=1):
        if not isinstance(turn, dict):
            return f"message {position} is not an object with `role` and `content`"
        for key in ("role", "content"):
            if key not in turn and not (key == "content" and turn.get("tool_calls")):
                return f"message {position} lacks `{key}`"
    return None


def _turns(rows: Rows) -> Iterator[tuple[int, dict[str, Any]]]:
    return ((number, turn) for number, row in rows for turn in turns(row) if isinstance(turn, dict))


def _role(turn: Any) -> Any:
    return turn.get("role") if isinstance(turn, dict) else None


def _is_text(content: Any) -> bool:
    return isinstance(content, str) and bool(content.strip())


def _unique(numbers: Iterator[int]) -> list[int]:
    return list(dict.fromkeys(numbers))


def _name(numbers: Sequence[int]) -> str:
    return f"{_capital(name_rows(numbers))} {'is' if len(numbers) == 1 else 'are'}" if numbers else ""


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]
