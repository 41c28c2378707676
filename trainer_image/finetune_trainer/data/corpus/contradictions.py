"""Answers that do not agree with each other (data rules 34, 35)."""

from dataclasses import dataclass

import numpy as np

from finetune_trainer.data.corpus.compare import (
    SOME,
    VERIFIED_PAIRS,
    jaccard,
    same_but_for_slips,
    same_numbers,
    similarities,
    word_jaccard,
)
from finetune_trainer.data.corpus.duplicates import BANDS, SLACK
from finetune_trainer.data.corpus.facts import Context, Facts
from finetune_trainer.data.corpus.minhash import Pairs, similar
from finetune_trainer.data.corpus.texts import ARRAY, OBJECT, PROSE, Texts, input_text, last_answer
from finetune_trainer.data.corpus.words import SHORT, Mask
from finetune_trainer.data.findings import Finding, found, name_rows

SAME_INPUT = 0.9
_LONG_AGREE = 0.5
_TOO_MANY = 0.02
_SHOWN = 40  # characters of an answer
_MIXED = 0.05


@dataclass(frozen=True)
class _Distinct:
    """Rows that differ in input or answer: the first of each, and for every row which it is."""

    first: np.ndarray
    place: np.ndarray


def contradiction(train: Facts, texts: Texts, context: Context) -> Finding | None:
    """Rule 34: the same input has one answer.

    The same input: equal, or alike to 0.9 or with the same words but for misspellings, always with the same
    numbers; under 20 words of its own, where one word decides, only punctuation may differ. Answers differ
    when they are not equal (JSON by value); two long ones when they share less than half of their words.
    """
    distinct = _distinct(train)
    exact, near = _equal_inputs(train, distinct), _near_inputs(train, texts, context, distinct)
    pairs = np.concatenate((exact, near))
    pairs = pairs[_answers_differ(train, texts, pairs)]
    if not len(pairs):
        return None
    involved = np.zeros(len(train), dtype=np.bool_)
    involved[np.unique(pairs)] = True
    rows = np.flatnonzero(involved[distinct.first][distinct.place])
    share = len(rows) / len(train)
    i, j = sorted(pairs[0].tolist())
    likeness = "the same" if train.prompt[i] == train.prompt[j] else "nearly the same"
    text = (
        f"{share:.1%} of the rows contradict another: rows {train.number[i]}, {train.number[j]}: {likeness} "
        f"input, answers {_quote(texts, i)} / {_quote(texts, j)}; keep one answer for each input."
    )
    return found(
        34, "contradiction", train.number[rows].tolist(), text, "error" if share > _TOO_MANY else "warning"
    )


def answer_conflict_format(train: Facts) -> Finding | None:
    """Rule 35: answers are of one kind, and JSON objects have the same keys.

    JSON in fewer than 5 % of answers is an occasional table or code sample, not a format.
    """
    objects, arrays = (np.count_nonzero(train.kind == kind) for kind in (OBJECT, ARRAY))
    share = (objects + arrays) / max(len(train), 1)
    if share < _MIXED:
        return None
    if share < 1:
        prose = train.kind == PROSE
        rest, words = (prose, "are not JSON") if share >= _LONG_AGREE else (~prose, "are JSON")
    else:
        rest, words = _rare_shape(train), "have other keys or another JSON type"
    numbers = train.number[rest].tolist()
    text = f"{len(numbers) / max(len(train), 1):.1%} of the answers {words} while the rest differ: "
    return found(
        35, "answer_conflict_format", numbers,
        f"{text}{name_rows(numbers) if numbers else ''}; write all answers in one format.", "warning",
    )  # fmt: skip


def _rare_shape(train: Facts) -> Mask:
    """Which JSON answers have another type or other keys than most."""
    shapes, counts = np.unique(train.keys, return_counts=True)
    return np.asarray(train.keys != shapes[np.argmax(counts)])


def _distinct(train: Facts) -> _Distinct:
    both = np.stack((train.prompt, train.answer), axis=1)
    _, first, place = np.unique(both, axis=0, return_index=True, return_inverse=True)
    return _Distinct(first, place.reshape(-1))


def _equal_inputs(train: Facts, distinct: _Distinct) -> Pairs:
    """Pairs of different answers to one input: each with the first and with the one before it."""
    rows = np.sort(distinct.first)
    rows = rows[np.argsort(train.prompt[rows], kind="stable")]
    prompts = train.prompt[rows]
    before = np.flatnonzero(prompts[1:] == prompts[:-1])
    first = np.searchsorted(prompts, prompts[before + 1])
    to_first = np.stack((rows[first], rows[before + 1]), axis=1)
    to_previous = np.stack((rows[before], rows[before + 1]), axis=1)[first != before]
    return np.concatenate((to_first, to_previous))


def _near_inputs(train: Facts, texts: Texts, context: Context, distinct: _Distinct) -> Pairs:
    rows = np.sort(distinct.first)
    pairs = rows[similar(train.input_signature[rows], BANDS, SOME - SLACK)]
    left, right = pairs[:, 0], pairs[:, 1]
    other = (train.answer[left] != train.answer[right]) & (train.prompt[left] != train.prompt[right])
    pairs = pairs[other & (train.system[left] == train.system[right])][:VERIFIED_PAIRS]
    values = similarities(pairs, texts, texts, input_text, context.templates, jaccard)
    short = (train.own_words[pairs] < SHORT).any(axis=1)
    pairs, values = pairs[values >= np.where(short, 1.0, SOME)], values[values >= np.where(short, 1.0, SOME)]
    same = [_same_input(texts, i, j, value) for (i, j), value in zip(pairs.tolist(), values, strict=True)]
    kept: Pairs = pairs[np.array(same, dtype=np.bool_)]
    return kept


def _same_input(texts: Texts, i: int, j: int, likeness: float) -> bool:
    left, right = input_text(texts(i)), input_text(texts(j))
    alike = likeness >= SAME_INPUT or same_but_for_slips(left, right)
    return alike and same_numbers(left, right)


def _answers_differ(train: Facts, texts: Texts, pairs: Pairs) -> Mask:
    """Which pairs have answers that exclude each other; their hashes differ already."""
    is_long = (train.kind == PROSE) & (train.answer_words >= SHORT)
    both_long = np.flatnonzero(is_long[pairs].all(axis=1))
    differ = np.ones(len(pairs), dtype=np.bool_)
    differ[both_long[VERIFIED_PAIRS:]] = False
    for place in both_long[:VERIFIED_PAIRS].tolist():
        i, j = pairs[place].tolist()
        differ[place] = (
            word_jaccard(last_answer(texts(i)).lower(), last_answer(texts(j)).lower()) < _LONG_AGREE
        )
    return differ


def _quote(texts: Texts, index: int) -> str:
    answer = " ".join(last_answer(texts(index)).split())
    return f'"{answer[:_SHOWN]}{"..." if len(answer) > _SHOWN else ""}"'
