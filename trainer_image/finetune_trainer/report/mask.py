"""The first example token by token: which runs are trained, and what a page leaves out of long ones."""

from collections.abc import Callable, Container, Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby

from finetune_trainer.chat.tokenizer import ChatTokenizer
from finetune_trainer.data.formats import Row
from finetune_trainer.data.tokenise import Encoded, encode_rows
from finetune_trainer.report.document import Example, Token
from finetune_trainer.words import printable

# A page shows this many tokens at both ends of a long run. A run of the prompt is cut sooner than an answer.
_SHOWN_UNTRAINED = 60
_SHOWN_TRAINED = 200


@dataclass(frozen=True)
class Run:
    """Tokens that follow each other and are all trained or all not."""

    trained: bool
    tokens: tuple[Token, ...]


@dataclass(frozen=True)
class Gap:
    """Tokens that are not shown."""

    count: int
    trained: bool


def first_example(tokenizer: ChatTokenizer, rows: Iterable[Row]) -> Example | None:
    """The first row that the template takes, as it is trained; None if there is none."""
    encoded = (result for row in rows for result in encode_rows(tokenizer, [row]))
    row = next((result for result in encoded if isinstance(result, Encoded)), None)
    if row is None:
        return None
    return example(row.number, row.ids.tolist(), row.mask.tolist(), tokenizer.text_of, tokenizer.added)


def example(
    row: int, ids: Sequence[int], trained: Sequence[bool], text: Callable[[int], str], special: Container[int]
) -> Example:
    """A tokenised row for the report; `text` decodes one token, `special` are the ids of special tokens."""
    tokens = (
        Token(text=text(token), id=token, trained=learned, special=token in special)
        for token, learned in zip(ids, trained, strict=True)
    )
    return Example(row=row, tokens=tuple(tokens))


def runs(tokens: Sequence[Token]) -> list[Run]:
    """The tokens in order as runs, their mask changing from run to run."""
    return [Run(trained, tuple(group)) for trained, group in groupby(tokens, lambda token: token.trained)]


def abbreviated(tokens: Sequence[Token]) -> list[Token | Gap]:
    """The tokens with the middle of long runs replaced by a gap that counts them."""
    return [piece for run in runs(tokens) for piece in _shortened(run)]


def visible(text: str) -> str:
    """A token's text with its line breaks and tabs drawn, and no other control character."""
    drawn = printable(text, keep="\n\t").replace("\n", "\N{DOWNWARDS ARROW WITH CORNER LEFTWARDS}\n")
    return drawn.replace("\t", "\N{RIGHTWARDS ARROW TO BAR}\t")


def _shortened(run: Run) -> list[Token | Gap]:
    shown = _SHOWN_TRAINED if run.trained else _SHOWN_UNTRAINED
    hidden = len(run.tokens) - 2 * shown
    if hidden < shown:  # a gap that hides little only hides
        return list(run.tokens)
    return [*run.tokens[:shown], Gap(hidden, run.trained), *run.tokens[-shown:]]
