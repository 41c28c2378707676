"""Rules about records as they were read (data rules 1 and 2)."""

from finetune_trainer.data.rowrule import RowRule
from finetune_trainer.reading.lines import Line

_KINDS = {list: "a list", str: "text", bool: "a boolean", int: "a number", float: "a number"}


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
