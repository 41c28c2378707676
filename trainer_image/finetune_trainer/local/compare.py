"""`compare`: is the tuned model better than the base, by the scores that any program wrote."""

import argparse
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from finetune_trainer.errors import UserError
from finetune_trainer.gate import verdicts
from finetune_trainer.gate.statistics import (
    Interval,
    PairedTest,
    count_groups,
    paired_delta,
    paired_test,
    score_interval,
)
from finetune_trainer.local.verdict import FINE, REFUSED
from finetune_trainer.reading.lines import Line, parse_line, split_lines
from finetune_trainer.words import plural

_SHOWN = 60  # characters of what a row holds


@dataclass(frozen=True)
class _Scored:
    """One line of a file: the score of a row of the hold-out, None for one that could not be graded."""

    line: int
    score: float | None
    group: str | None


@dataclass(frozen=True)
class _Outcome:
    """What the two files say of the `rows` that have a score in both; `ungraded` have none in one."""

    rows: int
    ungraded: int
    groups: int | None
    base: Interval
    tuned: Interval
    delta: Interval
    test: PairedTest
    verdict: str


def run(options: argparse.Namespace) -> int:
    """Print the comparison; 0 when the tuned model would be promoted, else 1; UserError for wrong files."""
    base, tuned = _read(options.base), _read(options.tuned)
    _refuse_unpaired(options, base, tuned)
    groups = {name: _group(options, name, base, tuned) for name in base}
    outcome = _compare(base, tuned, groups, options.min_delta)
    print(json.dumps(_document(outcome)) if options.output == "json" else _table(outcome, options.min_delta))
    return FINE if outcome.verdict == "Promote" else REFUSED


def _compare(
    base: Mapping[str, _Scored],
    tuned: Mapping[str, _Scored],
    group_of: Mapping[str, str | None],
    min_delta: float,
) -> _Outcome:
    pairs = [
        (first, second, group)
        for name, group in group_of.items()
        if (first := base[name].score) is not None and (second := tuned[name].score) is not None
    ]
    if not pairs:
        raise UserError("No row has a score in both files; grade the rows before comparing them.")
    before, after = [first for first, _, _ in pairs], [second for _, second, _ in pairs]
    groups = [group for _, _, group in pairs]
    delta = paired_delta(before, after, groups)
    return _Outcome(
        rows=len(pairs),
        ungraded=len(group_of) - len(pairs),
        groups=count_groups(groups) if any(group is not None for group in groups) else None,
        base=score_interval(before, groups),
        tuned=score_interval(after, groups),
        delta=delta,
        test=paired_test(before, after, groups),
        verdict=verdicts.after(delta, min_delta, graded=len(pairs) / len(group_of)),
    )


def _read(path: Path) -> dict[str, _Scored]:
    """The rows of one file by their id."""
    try:
        with path.open("rb") as stream:
            return _by_id(path, map(parse_line, split_lines(stream)))
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}.") from error


def _by_id(path: Path, lines: Iterable[Line]) -> dict[str, _Scored]:
    rows: dict[str, _Scored] = {}
    for name, row in _rows(path, lines):
        if name in rows:
            text = f"the id {_shown(name)} is already in line {rows[name].line}; make every id distinct"
            raise _wrong(path, row.line, text)
        rows[name] = row
    if not rows:
        raise UserError(f'{path} has no rows; write one JSON object per line: {{"id": "1", "score": 1}}.')
    return rows


def _rows(path: Path, lines: Iterable[Line]) -> Iterator[tuple[str, _Scored]]:
    for line in lines:
        try:
            yield _row(line)
        except ValueError as error:
            raise _wrong(path, line.number, str(error)) from error


def _row(line: Line) -> tuple[str, _Scored]:
    """The row of a line; ValueError whose text is a clause about what is wrong."""
    if line.problem is not None:
        raise ValueError(line.problem)
    if not isinstance(line.value, dict):
        raise ValueError('it is no JSON object; write {"id": "1", "score": 1}')
    name = _name(line.value, "id")
    if name is None:
        raise ValueError("it has no `id`; give the row's id in the hold-out")
    return name, _Scored(line.number, _score(line.value), _name(line.value, "group"))


def _name(row: Mapping[str, Any], key: str) -> str | None:
    """An id or a group as text, or None where there is none; 7 and "7" are the same."""
    value = row.get(key)
    if value is None or value == "":
        return None
    if isinstance(value, bool) or not isinstance(value, str | int):
        raise ValueError(f"its `{key}` is {_shown(value)}; give a text or a whole number")
    return str(value)


def _score(row: Mapping[str, Any]) -> float | None:
    value = row.get("score")
    if value is None and "score" in row:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 1:
        said = _shown(value) if "score" in row else "missing"
        raise ValueError(f"its `score` is {said}; give a number from 0 to 1, or null for an ungraded row")
    return float(value)


def _refuse_unpaired(
    options: argparse.Namespace, base: Mapping[str, _Scored], tuned: Mapping[str, _Scored]
) -> None:
    """UserError for the first row that only one of the files has."""
    for here, path, there, other in (
        (base, options.base, tuned, options.tuned),
        (tuned, options.tuned, base, options.base),
    ):
        alone = [name for name in here if name not in there]
        if alone:
            more = f" ({len(alone)} such rows)" if len(alone) > 1 else ""
            text = f"the id {_shown(alone[0])} is not in {other}{more}; both files need the same rows"
            raise _wrong(path, here[alone[0]].line, text)


def _group(
    options: argparse.Namespace, name: str, base: Mapping[str, _Scored], tuned: Mapping[str, _Scored]
) -> str | None:
    """The group of a row, which one of the files may leave out; UserError where they differ."""
    before, after = base[name], tuned[name]
    if before.group is None or after.group in (None, before.group):
        return after.group or before.group
    text = f"its `group` is {_shown(after.group)}, and {_shown(before.group)} in line {before.line} of"
    raise _wrong(options.tuned, after.line, f"{text} {options.base}; give a row the same group in both")


def _wrong(path: Path, line: int, text: str) -> UserError:
    return UserError(f"{path}, line {line}: {text}.")


def _shown(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."


def _document(outcome: _Outcome) -> dict[str, Any]:
    return {
        "verdict": outcome.verdict,
        "n": outcome.rows,
        "ungraded": outcome.ungraded,
        "base": round(outcome.base.score, 6),
        "tuned": round(outcome.tuned.score, 6),
        "delta": round(outcome.delta.score, 6),
        "ciLow": round(outcome.delta.low, 6),
        "ciHigh": round(outcome.delta.high, 6),
        "pValue": _three_figures(outcome.test.p_value),
        "test": outcome.test.name,
    }


def _three_figures(value: float) -> float:
    return float(f"{value:.3g}")


def _table(outcome: _Outcome, min_delta: float) -> str:
    groups = "" if outcome.groups is None else f" in {outcome.groups} groups"
    ungraded = (
        [f"{plural(outcome.ungraded, 'row')} without a score in both files"] if outcome.ungraded else []
    )
    asked = f"promotion asks for an interval above 0 and a gain of at least {100 * min_delta:g} points"
    return "\n".join(
        [
            f"{f'{outcome.rows} rows{groups}':<28}  score  95 % interval",
            _line("base", outcome.base, ".1%"),
            _line("tuned", outcome.tuned, ".1%"),
            _line("tuned - base", outcome.delta, "+.1%"),
            *ungraded,
            f"{outcome.test.name}: p = {_three_figures(outcome.test.p_value)}",
            f"{outcome.verdict} ({asked})",
        ]
    )


def _line(what: str, value: Interval, form: str) -> str:
    return f"{what:<28} {format(value.score, form):>6}  {value.low:{form}} to {value.high:{form}}"
