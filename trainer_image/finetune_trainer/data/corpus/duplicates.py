"""Rows that say the same (data rules 31, 32)."""

from dataclasses import dataclass

import numpy as np

from finetune_trainer.data.corpus.compare import SOME, VERIFIED_PAIRS, similarities
from finetune_trainer.data.corpus.facts import Context, Facts
from finetune_trainer.data.corpus.minhash import Pairs, components, estimates, similar
from finetune_trainer.data.corpus.texts import Texts, row_text
from finetune_trainer.data.findings import Finding, found, name_rows
from finetune_trainer.words import plural

NEAR = 0.85
SLACK = 0.13  # an estimate this much below a threshold is still verified: three standard errors
BANDS = 42  # of 3: a pair at 0.5 becomes a candidate with probability 0.996, one at 0.1 with 0.04
_TOO_MANY = 0.2


def exact_duplicate(train: Facts) -> Finding | None:
    """Rule 31: no row repeats an earlier one (case and white space aside)."""
    repeated, originals = copies(train)
    if not repeated.size:
        return None
    share = len(repeated) / len(train)
    numbers = train.number[repeated].tolist()
    text = (
        f"{share:.1%} of the rows repeat an earlier row: {name_rows(numbers)} (row {numbers[0]} is row "
        f"{train.number[originals[0]]}); remove the copies."
    )
    return found(31, "exact_duplicate", numbers, text, "error" if share > _TOO_MANY else "warning")


@dataclass(frozen=True)
class Alike:
    """Pairs of places of rows that are the same but for a few words (no exact copies), how much (0 to 1),
    and of every row which group it is in."""

    pairs: Pairs
    similarity: np.ndarray
    group: np.ndarray

    @property
    def members(self) -> np.ndarray:
        """The places of all rows in pairs, in order."""
        return np.unique(self.pairs)

    @property
    def groups(self) -> int:
        """How many groups they form."""
        return len(np.unique(self.group[self.members]))


def alike(train: Facts, texts: Texts, context: Context) -> Alike:
    """The rows that are nearly the same, whatever they are taken for."""
    distinct = np.sort(_first_of(train)[0])
    pairs = distinct[similar(train.row_signature[distinct], BANDS, SOME - SLACK)]
    pairs = pairs[train.system[pairs[:, 0]] == train.system[pairs[:, 1]]]
    values = _values(train, texts, context, pairs)
    pairs, values = pairs[values >= NEAR], values[values >= NEAR]
    return Alike(pairs, values, components(pairs, len(train)))


def copies(train: Facts) -> tuple[np.ndarray, np.ndarray]:
    """The places of rows that repeat an earlier one, and for each the place of that one."""
    first, place = _first_of(train)
    repeated = np.flatnonzero(first[place] != np.arange(len(train)))
    return repeated, first[place[repeated]]


def near_duplicate(train: Facts, near: Alike) -> Finding | None:
    """Rule 32: no two rows are the same but for a few words; exact copies are rule 31's."""
    if not len(near.pairs):
        return None
    numbers = train.number[near.members].tolist()
    first, second = train.number[near.pairs[0]]
    text = (
        f"{len(numbers)} rows are near-duplicates in {plural(near.groups, 'group')}: {name_rows(numbers)} "
        f"(rows {first} and {second} are {near.similarity[0]:.2f} alike); keep one of each group."
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
