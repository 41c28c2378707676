"""What the rules and the plan need to know of tokenised rows (data rules 16 to 27); columns add up."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from finetune_trainer.chat.tokenizer import ChatTokenizer
from finetune_trainer.data import rules
from finetune_trainer.data.findings import Finding, present
from finetune_trainer.data.rowrule import Tally, finding, tally
from finetune_trainer.data.tokenise import Encoded, Unrendered


@dataclass(frozen=True)
class TokenTable:
    """Of each row as it is trained its number, its tokens, how many are trained, whether the limit cuts one.

    Tokens are those before rows are shortened. `rows` counts refused rows too, and `split` the conversations
    of which every answer has a row; `tallies` are in the order of `rules.token_rules`.
    """

    limit: int
    rows: int
    tallies: tuple[Tally, ...]
    number: NDArray[np.int64]
    tokens: NDArray[np.int64]
    trained: NDArray[np.int64]
    cut: NDArray[np.bool_]
    split: int = 0

    def __add__(self, later: "TokenTable") -> "TokenTable":
        """Both, `later` being about rows that come after."""
        return TokenTable(
            self.limit,
            self.rows + later.rows,
            tuple(one + other for one, other in zip(self.tallies, later.tallies, strict=True)),
            np.concatenate((self.number, later.number)),
            np.concatenate((self.tokens, later.tokens)),
            np.concatenate((self.trained, later.trained)),
            np.concatenate((self.cut, later.cut)),
            self.split + later.split,
        )

    @property
    def kept(self) -> NDArray[np.int64]:
        """The tokens of each row as it is trained, not longer than the limit."""
        return np.minimum(self.tokens, self.limit)

    def findings(self, tokenizer: ChatTokenizer, positions: int) -> list[Finding]:
        """What the token rules say about all rows, for a model with so many positions."""
        longer = rules.longer_rows(self.limit, positions)
        ruled = zip(rules.token_rules(tokenizer, self.limit, longer), self.tallies, strict=True)
        found = present(
            [
                *(finding(rule, counted, self.rows) for rule, counted in ruled),
                rules.split_rows(self.split, len(self.number)),
            ]
        )
        counted = self.number, self.tokens, self.trained, self.cut
        return found + rules.length_findings(*counted, self.limit, longer)


def tabulate(tokenizer: ChatTokenizer, results: Sequence[Encoded | Unrendered], limit: int) -> TokenTable:
    """The columns of some rows that may have up to `limit` tokens."""
    encoded = [result for result in results if isinstance(result, Encoded)]
    numbered = [(result.number, result) for result in results]
    return TokenTable(
        limit,
        len({result.number for result in results}),
        tuple(tally(rule, numbered) for rule in rules.token_rules(tokenizer, limit)),
        np.array([row.number for row in encoded], np.int64),
        np.array([len(row.ids) for row in encoded], np.int64),
        np.array([row.trained for row in encoded], np.int64),
        np.array([row.answer_cut(limit) for row in encoded], np.bool_),
        len({row.number for row in encoded if row.split}),
    )
