"""`python -m finetune_trainer compare` as a user types it."""

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from finetune_trainer.__main__ import main

EQUAL = 100  # rows that both models get right


def write(path: Path, scores: Sequence[float | None], groups: list[str] | None = None) -> Path:
    rows: list[dict[str, Any]] = [{"id": str(number), "score": score} for number, score in enumerate(scores)]
    for row, group in zip(rows, groups or [], strict=False):
        row["group"] = group
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def compare(base: Path, tuned: Path, *more: str) -> int:
    try:
        return main(["compare", "--base", str(base), "--tuned", str(tuned), *more])
    except SystemExit as ended:
        return int(ended.code or 0)


def differing(folder: Path, wins: int, losses: int, equal: int = EQUAL) -> tuple[Path, Path]:
    """Two files that differ in so many rows."""
    base = write(folder / "base.jsonl", [0.0] * wins + [1.0] * (losses + equal))
    return base, write(folder / "tuned.jsonl", [1.0] * wins + [0.0] * losses + [1.0] * equal)


@pytest.mark.parametrize(
    ("wins", "losses", "p_value", "verdict"),
    [
        pytest.param(6, 0, 0.031, "Promote", id="6 wins and no loss"),
        pytest.param(10, 2, 0.039, "Promote", id="10 wins and 2 losses"),
        pytest.param(20, 8, 0.036, "Promote", id="20 wins and 8 losses"),
        pytest.param(20, 10, 0.099, "NoClearImprovement", id="20 wins and 10 losses are not enough"),
        pytest.param(0, 20, 1.9e-06, "WorseThanBase", id="20 losses"),
    ],
)
def test_the_published_tables_come_out(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    wins: int,
    losses: int,
    p_value: float,
    verdict: str,
) -> None:
    base, tuned = differing(tmp_path, wins, losses)
    code = compare(base, tuned, "--min-delta", "0.01", "--output", "json")
    found = json.loads(capsys.readouterr().out)
    assert set(found) == {
        "verdict",
        "n",
        "ungraded",
        "base",
        "tuned",
        "delta",
        "ciLow",
        "ciHigh",
        "pValue",
        "test",
    }
    assert (code, found["verdict"]) == (0 if verdict == "Promote" else 1, verdict)
    assert (found["n"], found["test"]) == (wins + losses + EQUAL, "exact McNemar")
    assert found["pValue"] == pytest.approx(p_value, abs=0.0005)
    assert found["delta"] == pytest.approx((wins - losses) / found["n"], abs=1e-6)
    assert found["ciLow"] < found["delta"] < found["ciHigh"]


def test_a_clear_gain_below_the_minimum_is_no_clear_improvement(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    base, tuned = differing(tmp_path, 8, 0, equal=192)
    assert compare(base, tuned, "--output", "json") == 1
    assert json.loads(capsys.readouterr().out)["verdict"] == "NoClearImprovement"
    assert compare(base, tuned, "--min-delta", "0.04") == 0


def test_the_table_shows_both_scores_the_test_and_the_verdict(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    base, tuned = differing(tmp_path, 20, 8)
    assert compare(base, tuned) == 0
    assert capsys.readouterr().out.splitlines() == [
        "128 rows                      score  95 % interval",
        "base                          84.4%  77.1% to 89.7%",
        "tuned                         93.8%  88.2% to 96.8%",
        "tuned - base                  +9.4%  +0.6% to +17.2%",
        "exact McNemar: p = 0.0357",
        "Promote (promotion asks for an interval above 0 and a gain of at least 5 points)",
    ]


def test_rows_of_one_group_are_resampled_together(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    groups = [f"g{number // 20}" for number in range(100)]
    base = write(tmp_path / "base.jsonl", [0.0] * 100, groups)
    tuned = write(tmp_path / "tuned.jsonl", [1.0] * 100)
    assert compare(base, tuned, "--output", "json") == 1
    found = json.loads(capsys.readouterr().out)
    assert (found["verdict"], found["test"]) == ("NoClearImprovement", "sign-flip by group")
    compare(base, tuned)
    assert "100 rows in 5 groups" in capsys.readouterr().out


GOOD = '{"id": 1, "score": 1}\n{"id": 2, "score": 0.5}\n'


@pytest.mark.parametrize(
    ("base", "tuned", "text"),
    [
        pytest.param("", GOOD, "base.jsonl has no rows; write", id="an empty file"),
        pytest.param(None, GOOD, "base.jsonl cannot be read: No such file", id="no file"),
        pytest.param(GOOD, GOOD + "{oops\n", "tuned.jsonl, line 3: Expecting", id="no JSON"),
        pytest.param(
            GOOD, "7\n", "tuned.jsonl, line 1: it is no JSON object", id="a number instead of a row"
        ),
        pytest.param('{"score": 1}\n', GOOD, "base.jsonl, line 1: it has no `id`", id="no id"),
        pytest.param('{"id": [], "score": 1}\n', GOOD, "line 1: its `id` is []", id="an id that is a list"),
        pytest.param('{"id": 1}\n', GOOD, "line 1: its `score` is missing", id="no score"),
        pytest.param(
            '{"id": 1, "score": true}\n', GOOD, "its `score` is true", id="a score that is no number"
        ),
        pytest.param('{"id": 1}\n', GOOD, "its `score` is missing", id="no score"),
        pytest.param(
            GOOD.replace("0.5", "null"),
            GOOD.replace(" 1}", " null}"),
            "No row has a score in both files",
            id="no row that both have a score of",
        ),
        pytest.param('{"id": 1, "score": NaN}\n', GOOD, "NaN is not a JSON number", id="not a number"),
        pytest.param(GOOD + '\n{"id": 3, "score": 85}\n', GOOD, "line 4: its `score` is 85", id="per cent"),
        pytest.param(GOOD + '{"id": 3, "score": -0.1}\n', GOOD, "line 3: its `score` is -0.1", id="below 0"),
        pytest.param(
            GOOD + '{"id": "1", "score": 1}\n',
            GOOD,
            'line 3: the id "1" is already in line 1',
            id="an id twice",
        ),
        pytest.param(
            GOOD + '{"id": 3, "score": 1}\n',
            GOOD,
            'base.jsonl, line 3: the id "3" is not in',
            id="only in base",
        ),
        pytest.param(
            GOOD,
            GOOD + '{"id": 3, "score": 1}\n',
            'tuned.jsonl, line 3: the id "3" is not in',
            id="only in tuned",
        ),
        pytest.param(
            '{"id": 1, "score": 1, "group": "a"}\n',
            '{"id": 1, "score": 1, "group": "b"}\n',
            'tuned.jsonl, line 1: its `group` is "b", and "a" in line 1 of',
            id="two groups for one row",
        ),
    ],
)
def test_wrong_files_are_refused_by_file_and_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], base: str | None, tuned: str, text: str
) -> None:
    before, after = tmp_path / "base.jsonl", tmp_path / "tuned.jsonl"
    if base is not None:
        before.write_text(base)
    after.write_text(tuned)
    assert compare(before, after) == 64
    assert text in capsys.readouterr().err


@pytest.mark.parametrize(
    ("ungraded", "verdict"),
    [
        pytest.param(2, "Promote", id="2 of 100 rows"),
        pytest.param(3, "Ungraded", id="3 of 100 rows"),
    ],
)
def test_rows_without_a_score_in_one_file_are_left_out_and_counted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], ungraded: int, verdict: str
) -> None:
    base = write(tmp_path / "base.jsonl", [None, *[0.0] * 99])
    tuned = write(tmp_path / "tuned.jsonl", [1.0, *[None] * (ungraded - 1), *[1.0] * (100 - ungraded)])
    assert compare(base, tuned, "--output", "json") == (0 if verdict == "Promote" else 1)
    found = json.loads(capsys.readouterr().out)
    assert (found["verdict"], found["n"], found["ungraded"]) == (verdict, 100 - ungraded, ungraded)
    compare(base, tuned)
    assert f"{ungraded} rows without a score in both files" in capsys.readouterr().out


@pytest.mark.parametrize("value", ["5", "-0.1", "nan", "five"])
def test_a_minimum_that_is_no_fraction_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], value: str
) -> None:
    base, tuned = differing(tmp_path, 1, 0)
    assert compare(base, tuned, f"--min-delta={value}") == 64
    assert "is not a fraction from 0 to 1" in capsys.readouterr().err


def test_it_needs_no_torch(tmp_path: Path) -> None:
    base, tuned = differing(tmp_path, 20, 8)
    program = (
        "import sys; from finetune_trainer.__main__ import main; "
        f"code = main(['compare', '--base', {str(base)!r}, '--tuned', {str(tuned)!r}]); "
        "sys.exit(code or ('torch' in sys.modules))"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False, capture_output=True).returncode == 0
