"""What the plan needs to know of the tokenised rows."""

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class Lengths:
    """Counts of tokens over the rows of one epoch; `squares` is the sum of the squared lengths.

    A row is a document that attends to itself only; `longest` is the longest row as trained (packed or not).
    """

    rows: int
    tokens: int
    squares: int
    longest: int

    @property
    def attended(self) -> float:
        """The length of the row that a token is in, averaged over tokens: what attention costs by."""
        return self.squares / self.tokens if self.tokens else 0.0


def measure(lengths: Iterable[int]) -> Lengths:
    """The counts over the lengths of rows, read once."""
    rows = tokens = squares = longest = 0
    for length in lengths:
        rows, tokens, squares = rows + 1, tokens + length, squares + length * length
        longest = max(longest, length)
    return Lengths(rows, tokens, squares, longest)
