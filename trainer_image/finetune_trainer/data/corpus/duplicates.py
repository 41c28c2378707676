"""Rows that say the same (data rules 31, 32)."""

import numpy as np

from finetune_trainer.data.corpus.compare import SOME, VERIFIED_PAIRS, similarities
from finetune_trainer.data.corpus.facts import Context, Facts
from finetune_trainer.data.corpus.minhash import Pairs, components, estimates, similar
from finetune_trainer.data.corpus.texts import Texts, row_text
from finetune_trainer.data.findings import Finding, found, name_rows

NEAR = 0.85
SLACK = 0.13  # an estimate this much below a threshold is still verified: three standard errors
BANDS = 42  # of 3: a pair at 0.5 becomes a candidate with probability 0.996, one at 0.1 with 0.04
_TOO_MANY = 0.2


def exact_duplicate(train: Facts) -> Finding | None:
    """Rule 31: no row repeats an earlier one (case and white space aside)."""
    first, place = _first_of(train)
    copies = np.flatnonzero(first[place] != np.arange(len(train)))
    if not copies.size:
        return None
    share = len(copies) / len(train)
    numbers = train.number[copies].tolist()
    text = (
        f"{share:.1%} of the rows repeat an earlier row: {name_rows(numbers)} (row {numbers[0]} is row "
        f"{train.number[first[place[copies[0]]]]}); remove the copies."
    )
    return found(31, "exact_duplicate", numbers, text, "error" if share > _TOO_MANY else "warning")


def near_duplicate(train: Facts, texts: Texts, context: Context) -> Finding | None:
    """Rule 32: no two rows are the same but for a few words; exact copies are rule 31's."""
    distinct = np.sort(_first_of(train)[0])
    pairs = distinct[similar(train.row_signature[distinct], BANDS, SOME - SLACK)]
    pairs = pairs[train.system[pairs[:, 0]] == train.system[pairs[:, 1]]]
    values = _values(train, texts, context, pairs)
    pairs, values = pairs[values >= NEAR], values[values >= NEAR]
    if not len(pairs):
        return None
    members = np.unique(pairs)
    groups = len(np.unique(components(pairs, len(train))[members]))
    numbers = train.number[members].tolist()
    first, second = train.number[pairs[0]]
    text = (
        f"{len(members)} rows are near-duplicates in {groups} groups: {name_rows(numbers)} (rows {first} and "
        f"{second} are {values[0]:.2f} alike); keep one of each group."
    )
    return found(32, "near_duplicate", numbers, text, "warning")


def _values(train: Facts, texts: Texts, context: Context, pairs: Pairs) -> np.ndarray:
    """Exact similarities of the first pairs, estimates of the rest."""
    exact = similarities(pairs[:VERIFIED_PAIRS], texts, texts, row_text, context.templates)
    rest = pairs[VERIFIED_PAIRS:]
    guessed = estimates(train.row_signature, train.row_signature, rest)
    return np.concatenate((exact, guessed))


def _first_of(train: Facts) -> tuple[np.ndarray, np.ndarray]:
    """The first row of each text, and for each row which text it has."""
    _, first, place = np.unique(train.row, return_index=True, return_inverse=True)
    return first, place
