"""Planted defects are found and clean real text is left alone (benchmarks/data_rules.py measures on more)."""

import pytest

from benchmarks.data_rules import CASES, Case, accuracy, clean
from tests.defects import SOURCES

_AIMED = [case for case in CASES if case.aim is not None]


@pytest.mark.parametrize("case", _AIMED, ids=lambda case: f"{case.rule}, {case.source}: {case.name}")
def test_planted_defects_are_found(case: Case) -> None:
    score = accuracy(case, sets=3)
    assert score.planted == 24
    assert score.recall >= (case.aim or 0)
    assert score.false_alarms < 0.01


@pytest.mark.parametrize("source", SOURCES)
def test_clean_text_raises_no_alarm(source: str) -> None:
    rates = {rule: score.false_alarms for rule, score in clean(source, sets=2).items()}
    assert {rule: rate for rule, rate in rates.items() if rate >= 0.01} == {}
