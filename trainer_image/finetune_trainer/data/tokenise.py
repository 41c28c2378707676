"""From messages to token ids and labels: only what the assistant says is trained, its end token included.

An answer is trained after exactly the prompt that the engine makes of the messages before it, up to and with
the first token that ends it. Answers of one conversation share a row where the template writes the earlier
ones as they were asked for; else every answer gets a row of its own.
"""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Any

import numpy as np
from numpy.typing import NDArray

from finetune_trainer.chat.messages import reasoning_of
from finetune_trainer.chat.survival import Part, lost_parts
from finetune_trainer.chat.template import Written
from finetune_trainer.chat.tokenizer import ChatTokenizer, first_line
from finetune_trainer.data.formats import Row, trained

IGNORE_INDEX = -100  # PyTorch's `ignore_index`: the label of a token that is not trained
# What chat templates write around turns: as text it belongs to data that another template rendered.
_FOREIGN = re.compile(r"<\|[A-Za-z_]+\|>|<｜[^｜>]+｜>|<(?:start|end)_of_turn>|\[/?INST\]")


@dataclass(frozen=True)
class Notes:
    """What only the messages of a rendered conversation show, for the token rules.

    `lost` is what the template left out. `refused` says that the engine refuses a prompt of it, for a call in
    it. `own` and `foreign` are special tokens, of this base and of others, that stand in a message as text.
    """

    lost: frozenset[Part] = frozenset()
    refused: bool = False
    own: str = ""
    foreign: str = ""


@dataclass(frozen=True, eq=False)
class Encoded:
    """One row as it is trained and what the token rules need to know about it."""

    number: int
    ids: NDArray[np.int32]
    mask: NDArray[np.bool_]  # of each token: whether it is trained
    stops: bool  # every trained answer ends in a trained end token
    prefix_kept: bool  # the tokens of each prompt alone are those at the start of the whole
    split: bool = False  # it is one answer of a conversation that was split
    notes: Notes = Notes()

    @property
    def labels(self) -> NDArray[np.int32]:
        """The token ids where they are trained, IGNORE_INDEX elsewhere."""
        return np.where(self.mask, self.ids, np.int32(IGNORE_INDEX))

    @property
    def trained(self) -> int:
        """How many tokens have a label."""
        return int(self.mask.sum())

    def answer_cut(self, limit: int) -> bool:
        """Whether a trained token lies beyond the limit."""
        return bool(self.mask[limit:].any())

    def cut(self, limit: int) -> "Encoded":
        """The row's first `limit` tokens."""
        return replace(self, ids=self.ids[:limit], mask=self.mask[:limit])


@dataclass(frozen=True)
class Unrendered:
    """A row that the chat template refuses, with the reason."""

    number: int
    problem: str


def encode_rows(tokenizer: ChatTokenizer, rows: Iterable[Row]) -> list[Encoded | Unrendered]:
    """Tokenise rows, in their order, each as if it were alone; batches of some hundred are fastest.

    A conversation that is split gives several results with its number.
    """
    results: list[Encoded | Unrendered] = []
    for is_text, group in groupby(rows, key=lambda row: row.text is not None):
        encode = _encode_texts if is_text else _encode_chats
        results += encode(tokenizer, list(group))
    return results


@dataclass(frozen=True)
class _Rendered:
    """The text of a row and where in it the trained answers are."""

    number: int
    text: str
    spans: tuple[tuple[int, int], ...]
    split: bool
    notes: Notes


def _encode_texts(tokenizer: ChatTokenizer, rows: Sequence[Row]) -> Iterator[Encoded]:
    """Text is trained as a whole, and its end token is appended."""
    encodings = tokenizer.encode_batch([row.text or "" for row in rows], special=True)
    for row, encoding in zip(rows, encodings, strict=True):
        ids = list(encoding.ids)
        if tokenizer.eos_id is not None and ids[-1:] != [tokenizer.eos_id]:
            ids.append(tokenizer.eos_id)
        stops = bool(ids) and ids[-1] in tokenizer.stop_ids
        yield Encoded(
            row.number, np.array(ids, np.int32), np.ones(len(ids), np.bool_), stops, prefix_kept=True
        )


def _encode_chats(tokenizer: ChatTokenizer, rows: Sequence[Row]) -> Iterator[Encoded | Unrendered]:
    drafts = [draft for row in rows for draft in _rendered(tokenizer, row)]
    texts = [draft.text for draft in drafts if isinstance(draft, _Rendered)]
    encodings = iter(tokenizer.encode_batch(texts, special=False))
    for draft in drafts:
        yield _encoded(tokenizer, draft, next(encodings)) if isinstance(draft, _Rendered) else draft


def _rendered(tokenizer: ChatTokenizer, row: Row) -> list[_Rendered] | list[Unrendered]:
    places = [place for place, message in enumerate(row.messages) if trained(message)]
    try:
        if not places:
            text = tokenizer.render(row.messages, ask=False, tools=row.tools)
            return [_Rendered(row.number, text, (), split=False, notes=Notes())]
        answers = [tokenizer.written(row.messages[: place + 1], row.tools) for place in places]
    except Exception as error:  # a template may raise anything
        return [Unrendered(row.number, first_line(error))]
    together = all(answers[-1].text.startswith(answer.text) for answer in answers)
    groups = [answers] if together else [[answer] for answer in answers]
    notes = _notes(tokenizer, row, dict(zip(places, answers, strict=True)))
    return [_joined(row.number, group, split=not together, notes=notes) for group in groups]


def _notes(tokenizer: ChatTokenizer, row: Row, answers: Mapping[int, Written]) -> Notes:
    """What there is to say about a conversation; `answers` are by the places of their messages."""
    last = max(answers)
    messages = row.messages[: last + 1]
    written = {place: answer.answer for place, answer in answers.items()}
    called = any(message.get("tool_calls") for message in messages[:-1])
    texts = [text for message in messages for text in (str(message["content"]), reasoning_of(message))]
    return Notes(
        lost_parts(messages, row.tools, answers[last].text, written),
        refused=called and tokenizer.template.refuses_objects,
        own=next(filter(None, map(tokenizer.special_in, texts)), ""),
        foreign=next((found[0] for text in texts if (found := _FOREIGN.search(text))), ""),
    )


def _joined(number: int, answers: Sequence[Written], *, split: bool, notes: Notes) -> _Rendered:
    """Answers of which each one's text is the beginning of the next one's."""
    spans = tuple((len(answer.prompt), len(answer.text)) for answer in answers)
    return _Rendered(number, answers[-1].text, spans, split, notes)


def _encoded(tokenizer: ChatTokenizer, draft: _Rendered, encoding: Any) -> Encoded:
    ids, mask = encoding.ids, np.zeros(len(encoding), np.bool_)
    stops = prefix_kept = True
    for start, end in draft.spans:
        first, after = _token_from(encoding, start, draft.text), _token_at(encoding, end, draft.text)
        last = next((i for i in range(after - 1, first - 1, -1) if ids[i] in tokenizer.stop_ids), None)
        stops = stops and last is not None
        mask[first : after if last is None else last + 1] = True
        prefix_kept = prefix_kept and _prompt_kept(tokenizer, draft.text[:start], encoding, first)
    return Encoded(draft.number, np.array(ids, np.int32), mask, stops, prefix_kept, draft.split, draft.notes)


def _token_at(encoding: Any, position: int, text: str) -> int:
    """The token that covers this place in the text or, where none does, the next one."""
    tokens = (encoding.char_to_token(place) for place in range(position, len(text)))
    return next((int(token) for token in tokens if token is not None), len(encoding))


def _token_from(encoding: Any, position: int, text: str) -> int:
    """The first token that begins here or later: one that also covers text before is not the answer's."""
    token = _token_at(encoding, position, text)
    while token < len(encoding) and encoding.token_to_chars(token)[0] < position:
        token += 1
    return token


def _prompt_kept(tokenizer: ChatTokenizer, prompt: str, encoding: Any, first: int) -> bool:
    """Whether the prompt alone has the tokens that it has in the whole, where its answer is at `first`.

    Added tokens are cut out of a text before anything else, so both agree up to the last of them; what is
    compared is the rest, which is the same few characters in most rows.
    """
    ids = encoding.ids
    added = ((i, tokenizer.added[ids[i]]) for i in range(first - 1, -1, -1) if ids[i] in tokenizer.added)
    places = ((i, encoding.token_to_chars(i)[0], token) for i, token in added)
    # An unknown character becomes an added token too, but nothing is cut there.
    begin, place = next(((i, at) for i, at, token in places if prompt.startswith(token, at)), (0, 0))
    return tokenizer.encode(prompt[place:]) == list(ids[begin:first])
