"""The training rows that resemble each hold-out row: where a wrong answer may have been learned."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from finetune_trainer.data.corpus.compare import SOME
from finetune_trainer.data.corpus.duplicates import BANDS
from finetune_trainer.data.corpus.facts import Facts
from finetune_trainer.data.corpus.minhash import estimates, similar_across
from finetune_trainer.data.holdout import HoldoutRow

_CLOSEST = 3


@dataclass(frozen=True)
class Related:
    """A hold-out row by id and number, and its closest training rows as (number, estimated similarity)."""

    id: str
    row: int
    train: tuple[tuple[int, float], ...] = ()

    def to_json(self) -> dict[str, Any]:
        """The row as related.jsonl holds it."""
        return asdict(self)

    @classmethod
    def from_json(cls, row: dict[str, Any]) -> "Related":
        """The other way."""
        return cls(row["id"], row["row"], tuple((number, alike) for number, alike in row["train"]))


def related_rows(train: Facts, holdout: Sequence[HoldoutRow], measured: Facts) -> list[Related]:
    """For each hold-out row up to three training rows whose inputs share 40 % of their word sequences.

    By the estimate of the signatures (standard error 0.045), which costs no second look at any text.
    """
    left, right = measured.input_signature, train.input_signature
    pairs = similar_across(left, right, BANDS, SOME)
    alike = estimates(left, right, pairs)
    found: list[list[tuple[int, float]]] = [[] for _ in holdout]
    for place in np.lexsort((pairs[:, 1], -alike)).tolist():
        asked, trained = pairs[place].tolist()
        if len(found[asked]) < _CLOSEST:
            found[asked].append((int(train.number[trained]), round(float(alike[place]), 2)))
    return [Related(row.id, row.number, tuple(close)) for row, close in zip(holdout, found, strict=True)]
