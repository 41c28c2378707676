"""What the rules need to know about each row, in columns: about 1.2 kB per row, two signatures mostly."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from finetune_trainer.data.corpus import minhash
from finetune_trainer.data.corpus.minhash import Signatures
from finetune_trainer.data.corpus.texts import Parts, answer_key, hash64, held_out, last_answer, take_apart
from finetune_trainer.data.corpus.words import (
    SHINGLE,
    Hashes,
    Indices,
    Mask,
    Words,
    member,
    mix,
    ngrams,
    read_words,
    shingles,
    strip,
)
from finetune_trainer.data.formats import Row
from finetune_trainer.data.holdout import HoldoutRow

LEAK = 13  # words; GPT-3 (Brown et al. 2020, appendix C) and the lm-evaluation-harness use the same
TEMPLATE_SHARE = 0.05
SAMPLE = 2000  # rows that `learn` needs to tell templates from texts
_TEMPLATE_ROWS = 10  # in a small sample a few similar rows are no template
_BUCKETS = 1 << 16


@dataclass(frozen=True)
class Context:
    """What is known before a row is measured; sorted hashes.

    `templates` are 5-grams of words in more than 5 % of the (distinct) rows: instructions and forms, which
    say nothing about what makes rows the same. (The price: a text that more than 5 % of the rows repeat with
    small changes is a template too, and these rows are no near-duplicates; from half of the rows on it may
    be low_variety.) `form` are words in more than half of the inputs: a form that
    most inputs fill consists of them. `answers` are the 13-grams of hold-out answers.
    """

    templates: Hashes
    form: Hashes
    answers: Hashes


@dataclass(frozen=True)
class Facts:
    """Columns about `len(number)` rows in their order.

    number, input_words, answer_words, own_words (of the input, outside templates), gaps and gap_words (runs
    of words of the input that are not in the form, and the words in them), kind and keys (of the answer, see
    texts.answer_key); hashes: row, system, prompt (before the last answer), answer, group (0 for none),
    skeleton (the words of the form in the input, in order); MinHash signatures of the row and of its input
    without template words.
    prompts and hits (13-grams of hold-out answers) are ragged: *_owner is the place of the row.
    unigrams counts words by 16 bits of their hash.
    """

    number: Indices
    input_words: Indices
    answer_words: Indices
    own_words: Indices
    gaps: Indices
    gap_words: Indices
    kind: NDArray[np.int8]
    keys: Hashes
    row: Hashes
    system: Hashes
    prompt: Hashes
    answer: Hashes
    group: Hashes
    skeleton: Hashes
    row_signature: Signatures
    input_signature: Signatures
    prompts: Hashes
    prompts_owner: Indices
    hits: Hashes
    hits_owner: Indices
    unigrams: Indices

    def __len__(self) -> int:
        return len(self.number)

    def __add__(self, later: "Facts") -> "Facts":
        """Both, `later` being about rows that come after."""
        return concat([self, later])


def learn(sample: Sequence[Row], holdout: Sequence[HoldoutRow]) -> Context:
    """The context of a data set; `sample` is up to SAMPLE of its rows, best from all over it."""
    distinct = list({part.row: part for part in map(take_apart, sample)}.values())
    words = read_words([f"{part.input} {part.answer}" for part in distinct])
    inputs = words.where(_input_words(words, distinct))
    hashes, whole = ngrams(words, SHINGLE)
    answers, complete = ngrams(read_words([take_apart(held_out(row)).answer for row in holdout]), LEAK)
    return Context(
        frequent(hashes[whole], words.owner[whole], max(TEMPLATE_SHARE * len(distinct), _TEMPLATE_ROWS)),
        frequent(inputs.hashes, inputs.owner, len(distinct) / 2),
        np.unique(answers[complete]),
    )


def measure(rows: Sequence[Row], context: Context) -> Facts:
    """The facts about a chunk of rows; does not depend on how the data set is cut into chunks."""
    parts = [take_apart(row) for row in rows]
    words = read_words([f"{part.input} {part.answer}" for part in parts])
    asks = _input_words(words, parts)
    inputs = words.where(asks)
    own_rows, _ = strip(words, context.templates)
    own_inputs, template = strip(inputs, context.templates)
    counted = inputs.per_text()
    form = member(inputs.hashes, context.form)
    skeleton, gaps = _skeleton(inputs, form)
    keys = [answer_key(last_answer(row)) for row in rows]
    hits, hits_owner = _hits(words, context.answers)
    return Facts(
        number=np.array([row.number for row in rows], dtype=np.int64),
        input_words=counted,
        answer_words=words.per_text() - counted,
        own_words=inputs.where(~template).per_text(),
        gaps=gaps,
        gap_words=inputs.where(~form).per_text(),
        kind=np.array([kind for kind, _, _ in keys], dtype=np.int8),
        keys=_hashes(names for _, names, _ in keys),
        row=_hashes(part.row for part in parts),
        system=_hashes(part.system for part in parts),
        prompt=_hashes(part.prompts[-1] if part.prompts else part.row for part in parts),
        answer=_hashes(same for _, _, same in keys),
        group=_hashes(hash64(row.group) if row.group else 0 for row in rows),
        skeleton=skeleton,
        row_signature=minhash.signatures(shingles(own_rows), len(rows)),
        input_signature=minhash.signatures(shingles(own_inputs), len(rows)),
        prompts=_hashes(prompt for part in parts for prompt in part.prompts),
        prompts_owner=np.repeat(np.arange(len(rows)), [len(part.prompts) for part in parts]),
        hits=hits,
        hits_owner=hits_owner,
        unigrams=np.bincount(own_rows.hashes >> np.uint64(48), minlength=_BUCKETS).astype(np.int64),
    )


def frequent(hashes: Hashes, owner: Indices, limit: float) -> Hashes:
    """The hashes that more than `limit` texts have, sorted."""
    once = np.unique(np.stack((hashes, owner.astype(np.uint64)), axis=1), axis=0)[:, 0]
    values, texts = np.unique(once, return_counts=True)
    return values[texts > limit]


def concat(chunks: Iterable[Facts]) -> Facts:
    """The facts of all chunks in their order; at least one."""
    parts = list(chunks)
    places = np.cumsum([0, *(len(part) for part in parts[:-1])])
    columns: dict[str, Any] = {}
    for field in fields(Facts):
        values = [getattr(part, field.name) for part in parts]
        if field.name.endswith("_owner"):
            values = [value + place for value, place in zip(values, places, strict=True)]
        columns[field.name] = sum(values) if field.name == "unigrams" else np.concatenate(values)
    return Facts(**columns)


def _input_words(words: Words, parts: Sequence[Parts]) -> Mask:
    """Which words belong to the input; texts are joined by one line break."""
    lengths = np.array([len(part.input) + len(part.answer) + 2 for part in parts], dtype=np.int64)
    ends = np.cumsum(lengths) - lengths + np.array([len(part.input) for part in parts], dtype=np.int64)
    return np.asarray(words.begin < ends[words.owner])


def _skeleton(words: Words, form: Mask) -> tuple[Hashes, Indices]:
    """Per text the hash of its words of the form, with a mark for each gap between them; how many gaps."""
    first = np.diff(words.owner, prepend=-1) > 0
    gap = ~form & (np.concatenate(([True], form[:-1])) | first)
    items = np.where(gap, np.uint64(1), words.hashes)[form | gap]
    owner = words.owner[form | gap]
    starts = np.searchsorted(owner, np.arange(words.count))
    places = (np.arange(len(owner)) - starts[owner]).astype(np.uint64)
    skeleton = np.zeros(words.count, dtype=np.uint64)
    np.add.at(skeleton, owner, mix(items + places * np.uint64(0x9E3779B97F4A7C15)))
    return skeleton, np.bincount(words.owner[gap], minlength=words.count).astype(np.int64)


def _hits(words: Words, answers: Hashes) -> tuple[Hashes, Indices]:
    """Which hold-out 13-grams occur in which text, each once per text."""
    if not answers.size:
        return np.zeros(0, dtype=np.uint64), np.zeros(0, dtype=np.int64)
    hashes, whole = ngrams(words, LEAK)
    chosen = np.flatnonzero(whole)[np.isin(hashes[whole], answers)]
    pairs = np.unique(np.stack((words.owner[chosen].astype(np.uint64), hashes[chosen]), axis=1), axis=0)
    return pairs[:, 1].copy(), pairs[:, 0].astype(np.int64)


def _hashes(values: Iterable[int]) -> Hashes:
    return np.fromiter(values, dtype=np.uint64)
