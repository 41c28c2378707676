"""Rules that compare rows with each other and with the hold-out (data rules 31, 32, 34, 35, 37, 39)."""

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from finetune_trainer.data.findings import Finding, Severity, found
from finetune_trainer.data.formats import Message, Row
from finetune_trainer.data.similarity import (
    SHORT,
    Hashes,
    nearest,
    shingles,
    similar_pairs,
    template,
    without_template,
)
from finetune_trainer.grading.values import UnreadableJson, normalise, parse_json

_MANY_DUPLICATES = 0.2
_NEAR_DUPLICATE = 0.85
_SAME_INPUT = 0.9
_MANY_CONTRADICTIONS = 0.02
_LONG_ANSWER = 20  # words
_OTHER_ANSWER = 0.5  # long answers with less in common than this say different things
_LEAK, _LIKELY_LEAK = 0.8, 0.6
_USUAL_FORM = 0.8


@dataclass(frozen=True)
class _Pair:
    """Two rows by their numbers, and how similar they are."""

    first: int
    second: int
    similarity: float


def corpus_findings(rows: Sequence[Row]) -> list[Finding | None]:
    """What the training rows say about each other."""
    return [
        exact_duplicate(rows),
        near_duplicate(rows),
        contradiction(rows),
        answer_conflict_format(rows),
    ]


def exact_duplicate(rows: Sequence[Row]) -> Finding | None:
    """Rule 31: rows that are equal but for case and white space; an error above 20 %."""
    first: dict[str, int] = {}
    wrong = [
        (row.number, first[key])
        for row in rows
        if first.setdefault(key := _whole(row), row.number) != row.number
    ]
    if not wrong:
        return None
    share = len(wrong) / len(rows)
    number, original = wrong[0]
    text = (
        f"{share:.1%} of the rows repeat an earlier one, first row {number} (equal to row {original}); "
        "remove the copies, or they weigh more than the rest."
    )
    severity: Severity = "error" if share > _MANY_DUPLICATES else "warning"
    return found(31, "exact_duplicate", [number for number, _ in wrong], text, severity)


def near_duplicate(rows: Sequence[Row]) -> Finding | None:
    """Rule 32: rows that share 85 % of their word 5-grams, the data set's template left out."""
    distinct = list({_whole(row): row for row in reversed(rows)}.values())[::-1]
    pairs = _similar(distinct, [_whole(row) for row in distinct], _NEAR_DUPLICATE)
    if not pairs:
        return None
    groups = _groups(pairs)
    numbers = sorted(number for group in groups for number in group)
    shown = pairs[0]
    text = (
        f"{len(numbers)} near-duplicates in {len(groups)} groups, first rows {shown.first} and "
        f"{shown.second} ({shown.similarity:.2f} alike); keep one of each group."
    )
    return found(32, "near_duplicate", numbers, text, "warning")


def contradiction(rows: Sequence[Row]) -> Finding | None:
    """Rule 34: the same input with different answers; an error above 2 % of the rows."""
    answered = _answered(rows)
    by_number = {row.number: row for row in answered}
    inputs = [_text(row.messages[:-1]) for row in answered]
    text_of = {row.number: text for row, text in zip(answered, inputs, strict=True)}
    similar = [
        pair
        for pair in _similar(answered, inputs, _SAME_INPUT)
        if _numbers(text_of[pair.first]) == _numbers(text_of[pair.second])  # another number, another question
    ]
    same = [*_equal_inputs(answered, inputs), *similar]
    wrong = [
        pair for pair in same if _differ(_answer(by_number[pair.first]), _answer(by_number[pair.second]))
    ]
    if not wrong:
        return None
    numbers = sorted({number for pair in wrong for number in (pair.first, pair.second)})
    pair = wrong[0]
    shown = [_shown(_answer(by_number[number])) for number in (pair.first, pair.second)]
    text = (
        f"Rows {pair.first} and {pair.second} have the same input and different answers, {shown[0]} and "
        f"{shown[1]} ({len(numbers)} such rows in all); decide on one answer."
    )
    severity: Severity = "error" if len(numbers) > _MANY_CONTRADICTIONS * len(rows) else "warning"
    return found(34, "contradiction", numbers, text, severity)


def answer_conflict_format(rows: Sequence[Row]) -> Finding | None:
    """Rule 35: when at least 80 % of the answers have one form, JSON with the same fields say, the others."""
    answered = [(row.number, _form(_answer(row))) for row in _answered(rows) if _answer(row)]
    forms = Counter(form for _, form in answered)
    usual, count = forms.most_common(1)[0] if forms else ("", 0)
    others = [(number, form) for number, form in answered if form != usual]
    if not others or count < _USUAL_FORM * len(answered):
        return None
    number, form = others[0]
    text = (
        f"{len(others) / len(answered):.1%} of the answers have another form than the rest, first row "
        f"{number}: {form}, where the rest are {usual}; make them alike."
    )
    return found(35, "answer_conflict_format", [number for number, _ in others], text, "warning")


def leak_near(train: Sequence[Row], holdout: Sequence[tuple[int, Sequence[Message]]]) -> list[Finding | None]:
    """Rule 37: hold-out prompts (row number, messages) much like a training input.

    From 0.8 on an error, from 0.6 a warning; of fewer than 20 words never more than a warning, since one word
    or number then makes another question. Equal prompts are rule 36's.
    """
    known = [(row.number, _text(row.messages[:-1])) for row in train if len(row.messages) > 1]
    asked = [(number, _text(messages)) for number, messages in holdout]
    equal = {text for _, text in known}
    asked = [(number, text) for number, text in asked if text not in equal]
    sets = [shingles(text) for _, text in known]
    common = template(sets)
    others = without_template([shingles(text) for _, text in asked], common)
    matches = nearest(others, without_template(sets, common), _LIKELY_LEAK)
    pairs = [
        _Pair(number, known[match[0]][0], match[1])
        for (number, _), match in zip(asked, matches, strict=True)
        if match is not None
    ]
    long = {number for number, text in asked if len(text.split()) >= SHORT}
    certain = [pair for pair in pairs if pair.similarity >= _LEAK and pair.first in long]
    likely = [pair for pair in pairs if pair not in certain]
    return [_leak(certain, "error"), _leak(likely, "warning")]


def leak_group(train: Sequence[Row], holdout: Iterable[tuple[int, str | None]]) -> Finding | None:
    """Rule 39: no `group` has rows on both sides."""
    trained = {row.group for row in train} - {None}
    wrong = [(number, group) for number, group in holdout if group in trained]
    text = (
        f"The group {wrong[0][1]!r} of hold-out row {wrong[0][0]} is in the training data too; put all rows "
        "of a group on one side."
        if wrong
        else ""
    )
    return found(39, "leak_group", [number for number, _ in wrong], text)


def _leak(pairs: Sequence[_Pair], severity: Severity) -> Finding | None:
    if not pairs:
        return None
    worst = max(pairs, key=lambda pair: pair.similarity)
    text = (
        f"{len(pairs)} hold-out inputs are much like a training input, row {worst.first} most "
        f"({worst.similarity:.2f} like training row {worst.second}); take them from one side."
    )
    return found(37, "leak_near", [pair.first for pair in pairs], text, severity)


def _similar(rows: Sequence[Row], texts: Sequence[str], least: float) -> list[_Pair]:
    """Pairs of rows whose texts are similar but not equal."""
    sets: list[Hashes] = [shingles(text) for text in texts]
    kept = without_template(sets, template(sets))
    return [
        _Pair(rows[one].number, rows[other].number, similarity)
        for one, other, similarity in similar_pairs(kept, least)
        if texts[one] != texts[other]
    ]


def _equal_inputs(rows: Sequence[Row], inputs: Sequence[str]) -> list[_Pair]:
    first: dict[str, int] = {}
    pairs = [(first.setdefault(text, row.number), row.number) for row, text in zip(rows, inputs, strict=True)]
    return [_Pair(one, other, 1.0) for one, other in pairs if one != other]


def _groups(pairs: Sequence[_Pair]) -> list[set[int]]:
    """The rows that pairs connect (union-find)."""
    parent: dict[int, int] = {}

    def root(number: int) -> int:
        while parent.setdefault(number, number) != number:
            parent[number] = parent[parent[number]]
            number = parent[number]
        return number

    for pair in pairs:
        parent[root(pair.second)] = root(pair.first)
    groups: dict[int, set[int]] = {}
    for number in parent:
        groups.setdefault(root(number), set()).add(number)
    return list(groups.values())


def _differ(one: str, other: str) -> bool:
    """Whether two answers to one question disagree: JSON and short ones unless equal, long ones if unlike."""
    try:
        return bool(parse_json(one) != parse_json(other))
    except UnreadableJson:
        words = [set(normalise(answer).split()) for answer in (one, other)]
    if min(map(len, words)) < _LONG_ANSWER:
        return normalise(one) != normalise(other)
    return len(words[0] & words[1]) / len(words[0] | words[1]) < _OTHER_ANSWER


def _numbers(text: str) -> list[str]:
    return re.findall(r"\d+", text)


def _whole(row: Row) -> str:
    return normalise(row.text) if row.text is not None else _text(row.messages)


def _text(messages: Sequence[Message]) -> str:
    return "\n".join(normalise(str(turn.get("content") or "")) for turn in messages)


def _answered(rows: Sequence[Row]) -> list[Row]:
    return [row for row in rows if row.messages and row.messages[-1]["role"] == "assistant"]


def _form(answer: str) -> str:
    try:
        value = parse_json(answer)
    except UnreadableJson:
        return "text"
    if isinstance(value, dict):
        return f"JSON with the fields {', '.join(sorted(value)) or '(none)'}"
    return "a JSON list" if isinstance(value, list) else "text"


def _answer(row: Row) -> str:
    return str(row.messages[-1].get("content") or "")


def _shown(answer: str) -> str:
    return f'"{answer[:40]}…"' if len(answer) > 40 else f'"{answer}"'
