"""From messages to token ids and labels: only what the assistant says is trained, its end token included.

The conversation is rendered once by the base model's own chat template. An assistant turn is where the
rendered text goes on after what the model sees when it is asked to answer (`add_generation_prompt`), so
training and serving meet the same bytes. Tokens of a turn after its end-of-turn token (a newline, mostly)
are not trained: the model has stopped by then.
"""

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from finetune_trainer.data.formats import Message, Row, trained
from finetune_trainer.errors import UserError
from finetune_trainer.lean import hiding

UNTRAINED = -100
_REMEMBERED = 100  # characters: openings of turns recur, longer texts do not


@dataclass(frozen=True, eq=False)
class Encoded:
    """One tokenised row and what the token rules need to know about it."""

    number: int
    ids: NDArray[np.int32]
    mask: NDArray[np.bool_]  # of each token: whether it is trained
    stops: bool  # every trained answer ends in a trained end token
    prefix_kept: bool  # the tokens of each prompt alone are those at the start of the whole

    @property
    def input_ids(self) -> list[int]:
        """The token ids."""
        ids: list[int] = self.ids.tolist()
        return ids

    @property
    def labels(self) -> list[int]:
        """The token ids where they are trained, UNTRAINED elsewhere."""
        labels: list[int] = np.where(self.mask, self.ids, UNTRAINED).tolist()
        return labels

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


class ChatTokenizer:
    """The base model's tokenizer and chat template with the tokens that end an answer.

    `vocabulary` is the number of embeddings of the base model, where it is known.
    """

    def __init__(self, tokenizer: Any, stop_ids: frozenset[int], vocabulary: int | None = None) -> None:
        self._tokenizer = tokenizer
        self._backend = tokenizer.backend_tokenizer
        self.stop_ids = stop_ids
        self._vocabulary = vocabulary
        self.added: dict[int, str] = {index: token for token, index in tokenizer.get_added_vocab().items()}
        self._known: dict[str, list[int]] = {}

    @property
    def has_template(self) -> bool:
        """Whether the base model brings a chat template."""
        return bool(self._tokenizer.chat_template)

    @property
    def bos_id(self) -> int | None:
        """The token that begins a text, if there is one."""
        return self._id("bos_token_id")

    @property
    def eos_id(self) -> int | None:
        """The token that ends a text, if there is one."""
        return self._id("eos_token_id")

    @property
    def pad_id(self) -> int | None:
        """The token that fills up batches, if there is one."""
        return self._id("pad_token_id")

    def text_of(self, token: int) -> str:
        """What one token stands for, special tokens as they are written."""
        return str(self._backend.decode([token], skip_special_tokens=False))

    def tokens_beyond_vocabulary(self) -> list[str]:
        """Added tokens that the base model has no embedding for."""
        if self._vocabulary is None:
            return []
        return sorted(token for index, token in self.added.items() if index >= self._vocabulary)

    def render(self, messages: Sequence[Message], *, ask: bool, tools: Sequence[dict[str, Any]] = ()) -> str:
        """The text of a conversation; with `ask` it ends where the assistant is to answer."""
        text = self._tokenizer.apply_chat_template(
            list(messages), tools=list(tools) or None, tokenize=False, add_generation_prompt=ask
        )
        return str(text)

    def end_of_turn(self) -> str:
        """What the template writes after an answer, without white space; "" when it cannot be told."""
        answer = "An answer"
        messages = [{"role": "user", "content": "A question"}, {"role": "assistant", "content": answer}]
        try:
            _, found, end = self.render(messages, ask=False).rpartition(answer)
        except Exception:  # a template may raise anything; rule 17 shows it with the rows
            return ""
        return end.strip() if found else ""

    def encode(self, text: str) -> list[int]:
        """The tokens of rendered text; the template already wrote the special ones."""
        if (known := self._known.get(text)) is not None:
            return known
        ids = list(self._backend.encode(text, add_special_tokens=False).ids)
        if len(text) <= _REMEMBERED and len(self._known) < _REMEMBERED:
            self._known[text] = ids
        return ids

    def encode_batch(self, texts: Sequence[str], *, special: bool) -> list[Any]:
        """The `tokenizers.Encoding` of each text; with `special` the tokenizer adds its special tokens."""
        return list(self._backend.encode_batch(list(texts), add_special_tokens=special))

    def prompt_ids(self, messages: Sequence[Message], tools: Sequence[dict[str, Any]] = ()) -> list[int]:
        """The tokens that the model sees before it answers."""
        return self.encode(self.render(messages, ask=True, tools=tools))

    def _id(self, name: str) -> int | None:
        value = getattr(self._tokenizer, name)
        return None if value is None else int(value)


def load_tokenizer(base: Path) -> ChatTokenizer:
    """The tokenizer of a base folder; UserError when there is none that works. Runs no code of the folder."""
    with hiding():
        from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(base, local_files_only=True, trust_remote_code=False)
    except (OSError, ValueError, KeyError) as error:
        text = f"The base model's tokenizer cannot be loaded ({_first_line(error)}); add its tokenizer files."
        raise UserError(text) from error
    if not tokenizer.is_fast:
        raise UserError("The base model has no tokenizer.json; save its tokenizer in the fast format.")
    given = _json_object(base / "generation_config.json").get("eos_token_id")
    stops = {tokenizer.eos_token_id, *(given if isinstance(given, list) else [given])} - {None}
    return ChatTokenizer(tokenizer, frozenset(stops), _vocabulary(_json_object(base / "config.json")))


def encode_rows(tokenizer: ChatTokenizer, rows: Iterable[Row]) -> list[Encoded | Unrendered]:
    """Tokenise rows, in their order, each as if it were alone; batches of some hundred are fastest."""
    results: list[Encoded | Unrendered] = []
    for is_text, group in groupby(rows, key=lambda row: row.text is not None):
        encode = _encode_texts if is_text else _encode_chats
        results += encode(tokenizer, list(group))
    return results


def render_problem(
    tokenizer: ChatTokenizer, messages: Sequence[Message], tools: Sequence[dict[str, Any]] = ()
) -> str | None:
    """Why a prompt cannot be rendered, or None."""
    try:
        tokenizer.render(messages, ask=True, tools=tools)
    except Exception as error:  # a template may raise anything
        return _first_line(error)
    return None


@dataclass(frozen=True)
class _Rendered:
    """The text of a conversation and where in it the trained turns are."""

    number: int
    text: str
    spans: list[tuple[int, int]]


class _TurnMovedError(Exception):
    pass


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
    drafts = [_rendered(tokenizer, row) for row in rows]
    texts = [draft.text for draft in drafts if isinstance(draft, _Rendered)]
    encodings = iter(tokenizer.encode_batch(texts, special=False))
    for draft in drafts:
        yield _encoded(tokenizer, draft, next(encodings)) if isinstance(draft, _Rendered) else draft


def _rendered(tokenizer: ChatTokenizer, row: Row) -> _Rendered | Unrendered:
    try:
        text = tokenizer.render(row.messages, ask=False, tools=row.tools)
        return _Rendered(row.number, text, list(_answer_spans(tokenizer, row, text)))
    except _TurnMovedError as error:
        return Unrendered(row.number, str(error))
    except Exception as error:  # a template may raise anything
        return Unrendered(row.number, _first_line(error))


def _answer_spans(tokenizer: ChatTokenizer, row: Row, text: str) -> Iterator[tuple[int, int]]:
    """Where each trained turn begins and ends; the rendering through the last message is the whole text."""
    for end, message in enumerate(row.messages, start=1):
        if not trained(message):
            continue
        before = tokenizer.render(row.messages[: end - 1], ask=True, tools=row.tools)
        whole = end == len(row.messages)
        through = text if whole else tokenizer.render(row.messages[:end], ask=False, tools=row.tools)
        if not (text.startswith(through) and through.startswith(before)):
            raise _TurnMovedError(
                f"the template writes message {end} differently inside the whole conversation; "
                "give each answer a row of its own"
            )
        yield len(before), len(through)


def _encoded(tokenizer: ChatTokenizer, draft: _Rendered, encoding: Any) -> Encoded:
    ids, mask = encoding.ids, np.zeros(len(encoding), np.bool_)
    stops = prefix_kept = True
    for start, end in draft.spans:
        first, after = _token_from(encoding, start, draft.text), _token_at(encoding, end, draft.text)
        last = next((i for i in range(after - 1, first - 1, -1) if ids[i] in tokenizer.stop_ids), None)
        stops = stops and last is not None
        mask[first : after if last is None else last + 1] = True
        prefix_kept = prefix_kept and _prompt_kept(tokenizer, draft.text[:start], encoding, first)
    return Encoded(draft.number, np.array(ids, np.int32), mask, stops, prefix_kept)


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


def _vocabulary(config: dict[str, Any]) -> int | None:
    text = config.get("text_config")
    size = {**config, **(text if isinstance(text, dict) else {})}.get("vocab_size")
    return size if isinstance(size, int) else None


def _json_object(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        value = json.loads(path.read_bytes())
    except ValueError as error:
        raise UserError(f"The base model's {path.name} is not JSON; repair it.") from error
    if not isinstance(value, dict):
        raise UserError(f"The base model's {path.name} is not a JSON object; repair it.")
    return value


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
