"""Does an adapter change what the model says? Weights that match no module load without any error and
leave the base answering under the adapter's name. Names and shapes are compared before the engine
sees an adapter; comparing outputs is the second opinion.

Both models continue one prompt greedily, with the log-probabilities of the likeliest tokens at each step.
(Log-probabilities of the prompt itself would be richer, but with LoRA in the batch computing them ends the
engine: vllm#16668.)
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

# Far below any trained adapter (tenths and more), far above what adding a zero matrix can leave behind.
SMALLEST_EFFECT = 1e-4
_NOISE_FACTOR = 2.0


@dataclass(frozen=True)
class Step:
    """One generated token and the log-probabilities of the likeliest tokens at its place."""

    token: str
    likeliest: Mapping[str, float]


def difference(left: Sequence[Step], right: Sequence[Step]) -> float:
    """Mean absolute difference of the log-probabilities that two readings share; infinite if none.

    Readings are comparable up to and including the first place where their tokens part.
    """
    gaps: list[float] = []
    for a, b in zip(left, right, strict=False):
        gaps += [
            abs(a.likeliest[token] - b.likeliest[token]) for token in a.likeliest.keys() & b.likeliest.keys()
        ]
        if a.token != b.token:
            break
    return sum(gaps) / len(gaps) if gaps else float("inf")


def differs(base: Sequence[Step], again: Sequence[Step], tuned: Sequence[Step]) -> bool:
    """Whether the tuned model differs from the base by more than the base differs from itself.

    `again` is a second run of the base: under load, batching alone moves log-probabilities a little.
    """
    return difference(base, tuned) > max(SMALLEST_EFFECT, _NOISE_FACTOR * difference(base, again))


def is_same(base: Sequence[Step], tuned: Sequence[Step]) -> bool:
    """Whether the tuned model says exactly what the base says, but for rounding."""
    return difference(base, tuned) <= SMALLEST_EFFECT
