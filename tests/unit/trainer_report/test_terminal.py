"""The text for a terminal: within its width, without codes unless asked for, short."""

import io
import re
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from finetune_trainer.data.findings import Finding
from finetune_trainer.report.document import Datasets, DataSummary, Histogram, Report
from finetune_trainer.report.terminal import check_json, print_report, sparkline, terminal_report
from tests.unit.trainer_report.examples import NEAR, SMALL, clean, full, refused


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize("report", [clean(), refused(), full()], ids=["clean", "refused", "full"])
@pytest.mark.parametrize("width", [40, 80, 100, 120])
def test_no_line_is_wider_than_the_terminal(report: Report, width: int) -> None:
    lines = terminal_report(report, width).splitlines()
    assert max(map(len, lines)) <= width
    assert all(line == line.rstrip() for line in lines)


@settings(max_examples=40, deadline=None)
@given(st.text(), st.integers(40, 120))
def test_texts_from_data_neither_widen_nor_steer_the_terminal(text: str, width: int) -> None:
    report = Report(
        datasets=Datasets(train=DataSummary(source=text + "x" * 200, rows=1)),
        findings=(replace(NEAR, message=f"{text}\x1b[2J\r{text}"),),
    )
    written = terminal_report(report, width)
    assert max(map(len, written.split("\n"))) <= width
    assert not re.search("[\x00-\x09\x0b-\x1f\x7f-\x9f]", written)


@pytest.mark.parametrize("report", [refused(), full()], ids=["refused", "full"])
def test_usual_data_fit_on_a_screen(report: Report) -> None:
    assert len(terminal_report(report, 80).splitlines()) < 60


def test_many_findings_are_cut_after_the_worst() -> None:
    many = [replace(SMALL, rule=f"info_{i}") for i in range(30)] + [replace(NEAR, severity="error")]
    written = terminal_report(clean().model_copy(update={"findings": tuple(many)}))
    assert written.index("near_duplicate") < written.index("info_0")
    assert "And 21 more findings." in written
    assert len(written.splitlines()) < 60


def test_the_full_report_has_its_numbers() -> None:
    written = terminal_report(full(), 120)
    for part in (
        "2 x h200: 70.5 GiB of 129.2 GiB on each",
        "demo/drug-reviews-v1: 2 warnings", "near_duplicate (rule 32, train, 14 rows)", "maxLength 512",
        "104.1 GiB of 126.9 GiB on 1 x H200", "USD 2.36 (1.90 to 3.61), budget USD 5.00",
        "[set to Ignore in dataset.rules]", "pays back in 1.2 h", "SmallTraffic",
    ):  # fmt: skip
        assert part in written


@pytest.mark.parametrize(
    ("stream", "environment", "coloured"),
    [(Terminal(), {}, True), (Terminal(), {"NO_COLOR": "1"}, False), (io.StringIO(), {}, False)],
    ids=["a terminal", "NO_COLOR", "a file"],
)
def test_colours_only_on_a_terminal_that_wants_them(
    stream: io.StringIO, environment: dict[str, str], coloured: bool
) -> None:
    print_report(refused(), stream, environment)
    assert ("\x1b[" in stream.getvalue()) is coloured


def test_colours_change_nothing_but_the_codes() -> None:
    coloured = terminal_report(refused(), 80, colour=True)
    assert re.sub(r"\x1b\[[0-9;]*m", "", coloured) == terminal_report(refused(), 80)


@given(st.lists(st.integers(0, 10**9), min_size=1, max_size=40))
def test_a_sparkline_has_a_letter_for_each_count_and_the_highest_for_the_most(counts: list[int]) -> None:
    drawn = sparkline(Histogram(edges=tuple(map(float, range(len(counts) + 1))), counts=tuple(counts)))
    assert len(drawn) == len(counts)
    assert all((letter == "·") == (count == 0) for letter, count in zip(drawn, counts, strict=True))
    assert (drawn[counts.index(max(counts))] == "█") is any(counts)


def test_check_prints_a_stable_shape() -> None:
    finding = Finding(9, "missing_content", "error", 1, (3,), "Row 3: no content; add it.")
    assert check_json([finding], 4, None) == {
        "findings": [
            {"number": 9, "rule": "missing_content", "severity": "error", "count": 1, "rows": (3,),
             "message": "Row 3: no content; add it.", "dataset": "train", "overridden": None},
        ],
        "rows": 4,
        "tokens": None,
    }  # fmt: skip
