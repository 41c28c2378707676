"""The rules of docs/data-rules.md about one row, about shares of rows, and about the tokenizer.

A rule of one row is a `RowRule` and belongs to one of the groups below, by what it looks at. A rule about
shares is a function of counts that can be added up, because chunks of rows are examined apart.
"""

from typing import Any

from finetune_trainer.data.formats import Row
from finetune_trainer.data.rowrule import RowRule
from finetune_trainer.data.rules import masks, pictures, provenance, reading, roles, secrets, shape, tools
from finetune_trainer.data.rules.lengths import length_findings, length_stats, longer_rows
from finetune_trainer.data.rules.reading import mixed_files, unread_files
from finetune_trainer.data.rules.runs import FormatRuns, format_runs
from finetune_trainer.data.rules.shares import Shares, shares
from finetune_trainer.data.rules.template import template_findings
from finetune_trainer.data.rules.tokenizer import tokenizer_findings
from finetune_trainer.data.rules.tokens import split_rows, token_rules
from finetune_trainer.reading.lines import Line

LINE_RULES: tuple[RowRule[Line], ...] = reading.RULES
RAW_RULES: tuple[RowRule[dict[str, Any]], ...] = (
    *shape.RULES, *pictures.RULES, *masks.RULES, *tools.RULES, *provenance.RULES,
)  # fmt: skip
ROW_RULES: tuple[RowRule[Row], ...] = (*roles.RULES, *secrets.RULES)

__all__ = [
    "LINE_RULES",
    "RAW_RULES",
    "ROW_RULES",
    "FormatRuns",
    "Shares",
    "format_runs",
    "length_findings",
    "length_stats",
    "longer_rows",
    "mixed_files",
    "shares",
    "sound",
    "split_rows",
    "template_findings",
    "token_rules",
    "tokenizer_findings",
    "unread_files",
]

_REFUSING = {
    dataset: tuple(rule for rule in RAW_RULES if rule.severity == "error" and dataset in rule.about)
    for dataset in ("train", "holdout")
}


def sound(row: dict[str, Any], dataset: str) -> bool:
    """Whether a raw row of `train` or `holdout` can be brought into canonical form.

    It cannot when a rule about raw rows names it with the severity error, whatever severity the job chose
    for that rule: a row without messages stays one.
    """
    return not any(rule.problem(row) for rule in _REFUSING[dataset])
