"""Hold-out rows that the training data gives away (data rules 36 to 39)."""

from collections.abc import Sequence

import numpy as np

from finetune_trainer.data.corpus.compare import SOME, same_numbers, similarities
from finetune_trainer.data.corpus.duplicates import BANDS, SLACK
from finetune_trainer.data.corpus.facts import LEAK, TEMPLATE_SHARE, Context, Facts, frequent
from finetune_trainer.data.corpus.minhash import Pairs, estimates, similar_across
from finetune_trainer.data.corpus.texts import Texts, held_out, input_text, take_apart
from finetune_trainer.data.corpus.words import SHORT, Indices, Mask, member, ngrams, read_words
from finetune_trainer.data.findings import Finding, found, name_rows
from finetune_trainer.data.holdout import HoldoutRow
from finetune_trainer.words import plural

SUSPECT = 0.6
SAME = 0.8
_CLOSEST = 5  # training rows that are compared exactly with each hold-out row


def leak_exact(train: Facts, holdout: Facts) -> Finding | None:
    """Rule 36: no hold-out prompt is a training prompt (case and white space aside).

    What stands before each assistant turn of a training row is a prompt that is trained on.
    """
    prompts, first = np.unique(train.prompts, return_index=True)
    wrong = np.flatnonzero(member(holdout.prompt, prompts))
    if not wrong.size:
        return None
    numbers = holdout.number[wrong].tolist()
    trained = train.prompts_owner[first[np.searchsorted(prompts, holdout.prompt[wrong[0]])]]
    text = (
        f"The training data holds {plural(len(wrong), 'hold-out input')}, first row {numbers[0]} (training "
        f"row {train.number[trained]}); remove them from one side, or the score means nothing."
    )
    return found(36, "leak_exact", numbers, text)


def leak_near(
    train: Facts, texts: Texts, holdout: Sequence[HoldoutRow], measured: Facts, context: Context
) -> list[Finding | None]:
    """Rule 37: no hold-out input is nearly a training input: an error from 0.8, a warning from 0.6 on.

    Under 20 words of its own one word decides: there 0.8 is a warning and only the same words are an error.
    Inputs that name other numbers are other tasks.
    """
    pairs = _closest(train, measured)
    values = similarities(pairs, lambda i: held_out(holdout[i]), texts, input_text, context.templates)
    short = measured.own_words[pairs[:, 0]] < SHORT
    suspect = values >= np.where(short, SAME, SUSPECT)
    pairs, values, short = pairs[suspect], values[suspect], short[suspect]
    kept = np.array([_same_numbers(holdout, texts, i, j) for i, j in pairs.tolist()], dtype=np.bool_)
    pairs, values, short = pairs[kept], values[kept], short[kept]
    wrong = values >= np.where(short, 1.0, SAME)
    condemned = np.isin(pairs[:, 0], pairs[wrong, 0])
    return [
        _near(train, measured, pairs[wrong], values[wrong], "error"),
        _near(train, measured, pairs[~condemned], values[~condemned], "warning"),
    ]


def leak_ngram(train: Facts, holdout: Sequence[HoldoutRow]) -> Finding | None:
    """Rule 38: no 13 words of a hold-out answer stand in a training row, but for texts that 5 % share."""
    words = read_words([take_apart(held_out(row)).answer for row in holdout])
    hashes, whole = ngrams(words, LEAK)
    hashes, owner = hashes[whole], words.owner[whole]
    shared = [
        frequent(hashes, owner, max(1.0, TEMPLATE_SHARE * len(holdout))),
        frequent(train.hits, train.hits_owner, max(1.0, TEMPLATE_SHARE * len(train))),
    ]
    telling = ~np.isin(train.hits, np.concatenate(shared))
    hits, hits_owner = train.hits[telling], train.hits_owner[telling]
    wrong = np.unique(owner[np.isin(hashes, hits)])
    if not wrong.size:
        return None
    source = hits_owner[np.isin(hits, hashes[owner == wrong[0]])][0]
    numbers = [holdout[i].number for i in wrong.tolist()]
    text = (
        f"The answer of hold-out {name_rows(numbers)} shares {LEAK} words in a row with training data (row "
        f"{numbers[0]} with training row {train.number[source]}); remove the rows from one side."
    )
    return found(38, "leak_ngram", numbers, text, "warning")


def leak_group(train: Facts, holdout: Facts) -> Finding | None:
    """Rule 39: what a row was made from (`group`) is on one side only."""
    wrong = np.flatnonzero(np.isin(holdout.group, train.group) & (holdout.group != 0))
    if not wrong.size:
        return None
    numbers = holdout.number[wrong].tolist()
    trained = np.flatnonzero(train.group == holdout.group[wrong[0]])[0]
    text = (
        f"The group of hold-out {name_rows(numbers)} is in the training data too (row {numbers[0]} and "
        f"training row {train.number[trained]}); keep each group on one side."
    )
    return found(39, "leak_group", numbers, text)


def _closest(train: Facts, holdout: Facts) -> Pairs:
    """Candidates (hold-out, training): the training rows whose estimate is highest, exact leaks aside."""
    _, distinct = np.unique(train.prompt, return_index=True)
    distinct = np.sort(distinct)
    left, right = holdout.input_signature, train.input_signature[distinct]
    pairs = similar_across(left, right, BANDS, SOME - SLACK)
    order = np.lexsort((pairs[:, 1], -estimates(left, right, pairs), pairs[:, 0]))
    pairs = pairs[order]
    rank = np.arange(len(pairs)) - np.searchsorted(pairs[:, 0], pairs[:, 0])
    pairs = pairs[rank < _CLOSEST]
    pairs = np.stack((pairs[:, 0], distinct[pairs[:, 1]]), axis=1)
    return pairs[~_exact(train, holdout)[pairs[:, 0]]]


def _exact(train: Facts, holdout: Facts) -> Mask:
    return np.isin(holdout.prompt, train.prompts)


def _same_numbers(holdout: Sequence[HoldoutRow], texts: Texts, i: int, j: int) -> bool:
    return same_numbers(input_text(held_out(holdout[i])), input_text(texts(j)))


def _near(train: Facts, holdout: Facts, pairs: Pairs, values: np.ndarray, severity: str) -> Finding | None:
    rows: Indices = np.unique(pairs[:, 0])
    if not rows.size:
        return None
    most = int(np.argmax(values))
    i, j = pairs[most].tolist()
    numbers = holdout.number[rows].tolist()
    text = (
        f"The training data holds inputs like {plural(len(numbers), 'hold-out input')}: {name_rows(numbers)} "
        f"(hold-out row {holdout.number[i]} is {values[most]:.2f} like training row {train.number[j]}); "
        "remove one side."
    )
    return found(37, "leak_near", numbers, text, "error" if severity == "error" else "warning")
