"""Every way in which a stage of the trainer fails is one that the operator and the page know."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from finetune_operator.observe.outcome import _TELLING, RETRIED
from finetune_trainer.errors import EXIT_CODES

PAGE = Path(__file__).parents[2] / "docs" / "contracts.md"
# `1` stands for every failure that nobody could name; NotStored is tried again as a run of its stage.
AGAIN = {"Interrupted", "Hang", "PeersMissing", "Unknown"}


@pytest.mark.parametrize("reason", EXIT_CODES)
def test_the_operator_ranks_the_reason_and_tries_again_only_what_says_nothing_about_the_input(
    reason: str,
) -> None:
    assert reason in _TELLING
    assert (reason in RETRIED) == (reason in AGAIN)


def test_the_page_lists_every_exit_code_with_its_reason() -> None:
    rows = re.findall(r"^\| (\d+) \| (?:Failed )?(\w+)", PAGE.read_text(), re.MULTILINE)
    assert {reason: int(code) for code, reason in rows if code != "0"} == EXIT_CODES
