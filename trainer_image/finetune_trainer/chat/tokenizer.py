"""A base model's tokenizer with its chat template and the tokens that end an answer."""

import json
import re
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from finetune_trainer.base.config import read_base_config
from finetune_trainer.chat.reasoning import CLOSE, OPEN
from finetune_trainer.chat.template import ChatTemplate, Tools, Written
from finetune_trainer.data.spellings import Message
from finetune_trainer.errors import UserError
from finetune_trainer.lean import hiding

_REMEMBERED = 100  # characters: openings of turns recur, longer texts do not


class ChatTokenizer:
    """The base model's tokenizer and chat template with the tokens that end an answer.

    `vocabulary` is the number of embeddings of the base model, where it is known; `kwargs` are what the
    template gets in every rendering.
    """

    def __init__(
        self,
        tokenizer: Any,
        stop_ids: frozenset[int],
        vocabulary: int | None = None,
        kwargs: Mapping[str, Any] | None = None,
    ) -> None:
        self._tokenizer = tokenizer
        self._backend = tokenizer.backend_tokenizer
        self.stop_ids = stop_ids
        self.vocabulary = vocabulary
        self.added: dict[int, str] = {index: token for token, index in tokenizer.get_added_vocab().items()}
        self._known: dict[str, list[int]] = {}
        self.template = ChatTemplate(tokenizer, [self.text_of(token) for token in stop_ids], kwargs or {})

    def rendering_with(self, kwargs: Mapping[str, Any]) -> "ChatTokenizer":
        """The same tokenizer, with these values for its template."""
        return ChatTokenizer(self._tokenizer, self.stop_ids, self.vocabulary, kwargs)

    @property
    def has_template(self) -> bool:
        """Whether the base model brings a chat template."""
        return bool(self._tokenizer.chat_template)

    @cached_property
    def template_problem(self) -> str | None:
        """Why the text of the chat template cannot be read, whatever it is given; None when it can."""
        try:
            self.template.variables  # noqa: B018
        except Exception as error:  # transformers and Jinja raise several kinds
            return first_line(error)
        return None

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

    def special_in(self, text: str) -> str:
        """The first special token that a text holds: there it steers the model instead of being read."""
        found = self._special.search(text)
        return found[0] if found else ""

    @cached_property
    def _special(self) -> re.Pattern[str]:
        tokens = self._tokenizer.added_tokens_decoder.values()
        special = {str(token) for token in tokens if token.special} - {OPEN, CLOSE}
        longest_first = sorted(special, key=len, reverse=True)
        return re.compile("|".join(map(re.escape, longest_first)) or r"(?!)")

    def text_of(self, token: int) -> str:
        """What one token stands for, special tokens as they are written."""
        return str(self._backend.decode([token], skip_special_tokens=False))

    def without_special(self, text: str) -> str:
        """Rendered text as the engine answers with it."""
        return str(self._backend.decode(self.encode(text), skip_special_tokens=True))

    def tokens_beyond_vocabulary(self) -> list[str]:
        """Added tokens that the base model has no embedding for."""
        if self.vocabulary is None:
            return []
        return sorted(token for index, token in self.added.items() if index >= self.vocabulary)

    def render(self, messages: Sequence[Message], *, ask: bool, tools: Tools = ()) -> str:
        """The text of a conversation; with `ask` it ends where the assistant is to answer."""
        return self.template.render(messages, ask=ask, tools=tools)

    def written(self, messages: Sequence[Message], tools: Tools = ()) -> Written:
        """What the model sees before the last message, and what it has to write there."""
        return self.template.written(messages, tools)

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

    def prompt_ids(self, messages: Sequence[Message], tools: Tools = ()) -> list[int]:
        """The tokens that the model sees before it answers."""
        return self.encode(self.render(messages, ask=True, tools=tools))

    def _id(self, name: str) -> int | None:
        value = getattr(self._tokenizer, name)
        return None if value is None else int(value)


def load_tokenizer(base: Path, kwargs: Mapping[str, Any] | None = None) -> ChatTokenizer:
    """The tokenizer of a base folder; UserError when there is none that works. Runs no code of the folder."""
    with hiding():
        from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(base, local_files_only=True, trust_remote_code=False)
    except Exception as error:  # transformers and tokenizers raise many kinds for files that are not whole
        text = f"The base model's tokenizer cannot be loaded ({first_line(error)}); fetch its files again."
        raise UserError(text) from error
    if not tokenizer.is_fast:
        raise UserError("The base model has no tokenizer.json; save its tokenizer in the fast format.")
    given = _json_object(base / "generation_config.json").get("eos_token_id")
    stops = {tokenizer.eos_token_id, *(given if isinstance(given, list) else [given])} - {None}
    vocabulary = read_base_config(base).vocab
    return ChatTokenizer(tokenizer, frozenset(stops), vocabulary, kwargs)


def render_problem(tokenizer: ChatTokenizer, messages: Sequence[Message], tools: Tools = ()) -> str | None:
    """Why a prompt cannot be rendered, or None."""
    try:
        tokenizer.render(messages, ask=True, tools=tools)
    except Exception as error:  # a template may raise anything
        return first_line(error)
    return None


def first_line(error: Exception) -> str:
    """What an error says first, or its type; without a full stop, for a sentence goes on after it."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200].rstrip(".")


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
