"""What an answer of the engine says about itself: text, tokens, ends and errors, in all four API shapes.

The shapes are those of vLLM 0.32: chat and text completions, OpenAI's responses, Anthropic's messages; whole
or as one event of a stream. Values that only matter by being there stay undecoded.
"""

from typing import Any

import msgspec
from msgspec import Raw, Struct

_EMPTY = (Raw(b""), Raw(b"null"), Raw(b'""'), Raw(b"[]"))
_CUT = frozenset({"length", "max_tokens", "max_output_tokens"})


class Reading(Struct, frozen=True):
    """`text`: it holds text or a tool call. `cut`: it ended at a limit of tokens. `failed`: it is an error.

    `only_usage`: it is the last event of a stream, which comes only when it is asked for.
    """

    text: bool = False
    cut: bool = False
    failed: bool = False
    prompt_tokens: int = 0
    generated_tokens: int = 0
    only_usage: bool = False


class _Usage(Struct):
    prompt_tokens: int = 0
    completion_tokens: int | None = 0
    input_tokens: int = 0
    output_tokens: int = 0
    cache_read_input_tokens: int | None = 0
    cache_creation_input_tokens: int | None = 0


class _Message(Struct):
    content: Raw = Raw()
    reasoning: Raw = Raw()
    refusal: Raw = Raw()
    tool_calls: Raw = Raw()

    def speaks(self) -> bool:
        said = (self.content, self.tool_calls, self.reasoning, self.refusal)
        return any(value not in _EMPTY for value in said)


class _Choice(Struct):
    text: Raw = Raw()
    delta: _Message | None = None
    message: _Message | None = None
    finish_reason: str | None = None

    def speaks(self) -> bool:
        part = self.delta or self.message
        return self.text not in _EMPTY or (part is not None and part.speaks())


class _Incomplete(Struct):
    reason: str | None = None


class _Answer(Struct):
    choices: list[_Choice] | None = None
    usage: _Usage | None = None
    error: Raw = Raw()
    type: str = ""
    delta: Any = None
    content: Raw = Raw()
    output: Raw = Raw()
    stop_reason: str | None = None
    incomplete_details: _Incomplete | None = None
    response: "_Answer | None" = None


_decode = msgspec.json.Decoder(_Answer).decode


def read_answer(content: bytes) -> Reading:
    """What a whole answer or the data of one event says; nothing for bytes of another shape."""
    try:
        answer = _decode(content)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return Reading()
    return _reading(answer)


def _reading(answer: _Answer) -> Reading:
    whole = answer.response or answer
    choices, usage = answer.choices or (), whole.usage or _Usage()
    cached = (usage.cache_read_input_tokens or 0) + (usage.cache_creation_input_tokens or 0)
    return Reading(
        text=any(choice.speaks() for choice in choices) or _says_more(answer),
        cut=any(choice.finish_reason in _CUT for choice in choices) or _is_cut(whole),
        failed=answer.error not in _EMPTY or answer.type in ("error", "response.failed"),
        prompt_tokens=usage.prompt_tokens + usage.input_tokens + cached,
        generated_tokens=(usage.completion_tokens or 0) + usage.output_tokens,
        only_usage=answer.choices == [] and answer.usage is not None,
    )


def _says_more(answer: _Answer) -> bool:
    """Text of the shapes without choices: messages and responses."""
    if answer.type.endswith("delta"):
        delta = answer.delta
        return bool(delta) and (isinstance(delta, str) or not delta.get("stop_reason"))
    return answer.content not in _EMPTY or answer.output not in _EMPTY


def _is_cut(answer: _Answer) -> bool:
    stop = answer.stop_reason
    if isinstance(answer.delta, dict):
        stop = stop or answer.delta.get("stop_reason")
    details = answer.incomplete_details
    return stop in _CUT or (details is not None and details.reason in _CUT)


def events(buffer: bytes) -> tuple[list[bytes], bytes]:
    """Whole events at the start of a stream's bytes, each with its blank line, and what is left."""
    *whole, rest = buffer.split(b"\n\n")
    return [event + b"\n\n" for event in whole], rest


def read_event(event: bytes) -> Reading:
    """What one event says; comments and the closing `[DONE]` say nothing."""
    _, mark, data = (b"\n" + event).partition(b"\ndata: ")
    return read_answer(data) if mark else Reading()
