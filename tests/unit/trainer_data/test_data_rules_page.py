"""docs/data-rules.md and the code name the same rules with the same numbers and severities."""

import re
from pathlib import Path
from typing import Any

import pytest

from finetune_trainer.chat.tokenizer import ChatTokenizer
from finetune_trainer.data import rules
from finetune_trainer.data.rowrule import RowRule

PAGE = Path(__file__).parents[3] / "docs" / "data-rules.md"
LETTERS = {"error": "E", "warning": "W", "info": "I"}


def page_rules() -> dict[str, tuple[int, str, str]]:
    """Per rule of the page its number, its severity and the data sets it is about."""
    cells = re.findall(r"^\| (\d+) \| `(\w+)` \| ([^|]+) \| ([thb]?) ?\|", PAGE.read_text(), re.MULTILINE)
    return {name: (int(number), severity.strip(), about) for number, name, severity, about in cells}


def test_every_rule_of_a_row_is_on_the_page(tokenizer: ChatTokenizer) -> None:
    lines = page_rules()
    about: dict[str, set[str]] = {}
    groups: list[tuple[RowRule[Any], ...]] = [rules.LINE_RULES, rules.RAW_RULES, rules.ROW_RULES]
    for rule in (rule for group in groups for rule in group):
        about.setdefault(rule.name, set()).update(rule.about)
        assert isinstance(rule.severity, str)
        assert lines[rule.name][:2] == (rule.number, LETTERS[rule.severity])
    letters = {("train",): "t", ("holdout",): "h", ("holdout", "train"): "b"}
    assert {name: lines[name][2] for name in about} == {
        n: letters[tuple(sorted(a))] for n, a in about.items()
    }
    for token_rule in rules.token_rules(tokenizer, 64):
        assert isinstance(token_rule.severity, str)
        assert lines[token_rule.name][:2] == (token_rule.number, LETTERS[token_rule.severity])


@pytest.mark.parametrize("number", range(1, 49))
def test_every_number_is_on_the_page(number: int) -> None:
    assert number in {line[0] for line in page_rules().values()}
