"""Rules about pictures, sounds and films, which are not trained (they belong to data rules 7 and 9)."""

from collections.abc import Iterator
from typing import Any

from finetune_trainer.data.formats import detect, turns
from finetune_trainer.data.rowrule import RowRule

COLUMNS = ("image", "images", "video", "videos", "audio", "audios")
_PLACEHOLDERS = ("<image>", "<video>", "<audio>")


def foreign_part(content: Any) -> str | None:
    """The type of the first part that is no text in content that is a list of parts, else None."""
    parts = content if isinstance(content, list) else ()
    types = (part.get("type") for part in parts if isinstance(part, dict))
    return next((str(kind)[:40] for kind in types if kind not in (None, "text")), None)


def _needs(row: dict[str, Any]) -> str | None:
    for where, content in _contents(row):
        if (kind := foreign_part(content)) is not None:
            return f"{where} has a part of type `{kind}`, and only text is trained"
    column = _column(row)
    place = _placeholder(row, _PLACEHOLDERS) if column else None
    return f"{place} stands for what `{column}` holds, and only text is trained" if place else None


def _left_out(row: dict[str, Any]) -> str | None:
    if column := _column(row):
        return None if _needs(row) else f"what `{column}` holds is not trained"
    place = _placeholder(row, _PLACEHOLDERS[:1])  # the others are tags of HTML too
    return f"{place} is trained as these letters" if place else None


def _column(row: dict[str, Any]) -> str | None:
    return next((key for key in COLUMNS if row.get(key) not in (None, "", [], {})), None)


def _placeholder(row: dict[str, Any], marks: tuple[str, ...]) -> str | None:
    """The first of the placeholders in the texts of a row, and where it stands."""
    for where, content in _contents(row):
        for mark in marks:
            if isinstance(content, str) and mark in content:
                return f"`{mark}` in {where}"
    return None


def _contents(row: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    if detect(row) == "text":
        yield "`text`", row["text"]
    for position, turn in enumerate(turns(row), start=1):
        if isinstance(turn, dict):
            yield f"message {position} ({str(turn.get('role'))[:40]})", turn.get("content")


_ADVICE = (
    "write it as text, calls under `tool_calls` and reasoning under `reasoning_content`, or remove the row"
)
RULES: tuple[RowRule[dict[str, Any]], ...] = (
    RowRule(9, "picture_needed", _needs, _ADVICE),
    RowRule(7, "picture_left_out", _left_out, "remove the rows whose answers need it", "warning"),
)
