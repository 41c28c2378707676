"""Defects of single records are all found, and nothing else is named (benchmarks/data_rules.py has more sets)."""

from pathlib import Path

import pytest

from benchmarks.data_rules import PLANTED, record_accuracy
from tests.broken_records import BREAKS, FAULTY, TOKEN_BREAKS, Break
from tests.unit.trainer_data.conftest import make_base


@pytest.mark.parametrize(
    ("rule", "breaks"), [(rule, breaks) for (rule, _), breaks in BREAKS.items()], ids=map(": ".join, BREAKS)
)
def test_a_broken_record_is_named(rule: str, breaks: Break) -> None:
    score = record_accuracy(rule, breaks, sets=2)
    assert (score.planted, score.found, score.false) == (2 * PLANTED, 2 * PLANTED, 0)


@pytest.mark.parametrize(
    ("rule", "breaks"),
    [(rule, breaks) for (rule, _), breaks in TOKEN_BREAKS.items()],
    ids=map(": ".join, TOKEN_BREAKS),
)
def test_what_only_tokens_show_is_named(rule: str, breaks: Break, tmp_path: Path) -> None:
    score = record_accuracy(rule, breaks, 1, make_base(tmp_path, FAULTY))
    assert (score.planted, score.found, score.false) == (PLANTED, PLANTED, 0)
