"""Duplicate rows for the report, with the largest groups as examples (rules 31 and 32)."""

import numpy as np

from finetune_trainer.data.corpus.duplicates import Alike, copies
from finetune_trainer.data.corpus.facts import Facts
from finetune_trainer.report.document import DuplicateGroup, Duplicates

_EXAMPLES = 5  # of each kind
_ROWS = 20  # of a group


def count_duplicates(facts: Facts, near: Alike) -> Duplicates:
    """How many rows repeat others, and which."""
    repeated, originals = copies(facts)
    groups = np.unique(originals)
    exact = [np.append(place, repeated[originals == place]) for place in groups[:_EXAMPLES]]
    alike = [near.members[near.group[near.members] == name] for name in _names(near)[:_EXAMPLES]]
    return Duplicates(
        exact_rows=len(repeated),
        exact_groups=len(groups),
        near_rows=len(near.members),
        near_groups=near.groups,
        examples=(
            *(DuplicateGroup(rows=_numbers(facts, places), similarity=1) for places in exact),
            *(
                DuplicateGroup(rows=_numbers(facts, places), similarity=_least(near, places))
                for places in alike
            ),
        ),
    )


def _names(near: Alike) -> np.ndarray:
    return np.unique(near.group[near.members])


def _numbers(facts: Facts, places: np.ndarray) -> tuple[int, ...]:
    return tuple(facts.number[places[:_ROWS]].tolist())


def _least(near: Alike, places: np.ndarray) -> float:
    """The lowest similarity of a pair within a group, to two digits."""
    return round(float(near.similarity[np.isin(near.pairs[:, 0], places)].min()), 2)
