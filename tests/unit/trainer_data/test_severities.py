"""Severities that a job gives to rules."""

import pytest

from finetune_trainer.data.findings import Finding, errors, override, warnings
from finetune_trainer.data.severities import NAMES, check_names
from finetune_trainer.errors import UserError
from tests.unit.trainer_data.test_data_rules_page import page_rules

NEAR = Finding(32, "near_duplicate", "warning", 2, (1, 2), "Rows 1, 2 are near-duplicates.")


def test_the_names_are_those_of_the_page() -> None:
    assert set(page_rules()) == NAMES


@pytest.mark.parametrize(
    ("chosen", "said"),
    [
        ("near_duplicates", "did you mean near_duplicate?"),
        ("zzz", "docs/data-rules.md lists them"),
        ("template_error", "cannot be overridden"),
    ],
)
def test_a_rule_that_cannot_be_overridden_is_named(chosen: str, said: str) -> None:
    with pytest.raises(UserError, match=f"dataset.rules.* {chosen}") as caught:
        check_names({chosen: "Ignore"})
    assert said in str(caught.value)


@pytest.mark.parametrize("severity", ["Error", "Warning", "Info", "Ignore"])
def test_a_rule_has_the_severity_that_the_job_gave_it(severity: str) -> None:
    check_names({"near_duplicate": severity})  # type: ignore[dict-item]
    found = override([NEAR], {"near_duplicate": severity})  # type: ignore[dict-item]
    assert (len(errors(found)), len(warnings(found))) == {"Error": (1, 0), "Warning": (0, 1)}.get(
        severity, (0, 0)
    )
    assert found[0].overridden == severity
