"""Rules about the files of a data set and about records as they were read (data rules 1, 2 and 4)."""

from collections.abc import Mapping, Sequence

from finetune_trainer.data.findings import Finding
from finetune_trainer.data.rowrule import RowRule
from finetune_trainer.reading.kinds import Kind, find_kind
from finetune_trainer.reading.lines import Line
from finetune_trainer.sources.folders import some

_CALLED = {
    "jsonl": "JSON lines", "json": "JSON", "csv": "CSV", "parquet": "Parquet", "arrow": "Arrow",
    None: "no data file",
}  # fmt: skip
_KINDS = {list: "a list", str: "text", bool: "a boolean", int: "a number", float: "a number"}


def mixed_files(names: Sequence[str]) -> Finding | None:
    """Rule 4: all files of a data set are data of one kind; the count is of those unlike the first data file.

    A single file has nothing to differ from: reading.kinds.kind_of judges its name.
    """
    kinds = {name: found.kind if (found := find_kind(name)) else None for name in names}
    wanted = next((kind for kind in kinds.values() if kind), None)
    others = [name for name, kind in kinds.items() if kind != wanted]
    if len(names) < 2 or (wanted and not others):
        return None
    shown = "; ".join(f"{name} is {_CALLED[kinds[name]]}" for name in _one_of_each(kinds))
    text = f"The files are not of one kind: {shown}. Keep the files of one kind and move the others away."
    return Finding(4, "mixed_files", "error", len(others) if wanted else len(names), (), text)


def unread_files(source: str, read: Sequence[str], unread: Sequence[str]) -> Finding | None:
    """Rule 4: what lies in the folder of a data set and is not read, such as other splits."""
    if not unread:
        return None
    text = (
        f"Of {source} is read: {some(read)}; not read: {some(unread)}. Name in the source what else to read."
    )
    return Finding(4, "unread_files", "info", len(unread), (), text)


def _one_of_each(kinds: Mapping[str, Kind | None]) -> list[str]:
    return list({kind: name for name, kind in reversed(list(kinds.items()))}.values())[::-1]


def _unreadable(line: Line) -> str | None:
    if not line.problem:
        return None
    advised = line.problem if ";" in line.problem else f"{line.problem}; repair it"
    return f"it cannot be read: {advised}"


def _no_object(line: Line) -> str | None:
    if line.problem or isinstance(line.value, dict):
        return None
    return f"it is {_KINDS.get(type(line.value), 'null')}, not an object"


RULES: tuple[RowRule[Line], ...] = (
    RowRule(1, "unreadable_json", _unreadable),
    RowRule(2, "data_type", _no_object, 'write one object with named fields, as {"prompt": ...}'),
)
