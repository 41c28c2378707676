"""What answers and events say, in the shapes of vLLM's four APIs."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from finetune_serving.gateway.answers import Reading, events, read_answer, read_event


def _choice(**fields: Any) -> dict[str, Any]:
    return {"choices": [{"index": 0, **fields}]}


@pytest.mark.parametrize(
    ("answer", "reading"),
    [
        pytest.param(
            _choice(message={"content": "hi", "tool_calls": []}, finish_reason="stop"),
            Reading(text=True),
            id="a chat's answer",
        ),
        pytest.param(
            _choice(message={"content": None, "tool_calls": [{"id": "1"}]}),
            Reading(text=True),
            id="a tool call",
        ),
        pytest.param(
            _choice(message={"content": "", "tool_calls": []}), Reading(), id="a chat's answer without text"
        ),
        pytest.param(
            _choice(text="", finish_reason="length"), Reading(cut=True), id="a completion cut before any text"
        ),
        pytest.param(
            {"choices": [], "usage": {"prompt_tokens": 3, "completion_tokens": 4}},
            Reading(prompt_tokens=3, generated_tokens=4, only_usage=True),
            id="the last event of a stream whose tokens were asked for",
        ),
        pytest.param({"error": {"message": "x"}}, Reading(failed=True), id="an error in OpenAI's shape"),
        pytest.param(
            {"type": "error", "error": {"type": "x", "message": "y"}},
            Reading(failed=True),
            id="an error in Anthropic's shape",
        ),
        pytest.param(
            {
                "type": "message",
                "content": [{"type": "text", "text": "hi"}],
                "stop_reason": "max_tokens",
                "usage": {"input_tokens": 3, "output_tokens": 4, "cache_read_input_tokens": 2},
            },
            Reading(text=True, cut=True, prompt_tokens=5, generated_tokens=4),
            id="a message",
        ),
        pytest.param(
            {"type": "content_block_delta", "delta": {"type": "text_delta", "text": "hi"}},
            Reading(text=True),
            id="a part of a message",
        ),
        pytest.param(
            {"type": "message_delta", "delta": {"stop_reason": "max_tokens"}, "usage": {"output_tokens": 4}},
            Reading(cut=True, generated_tokens=4),
            id="the end of a message",
        ),
        pytest.param(
            {"type": "response.output_text.delta", "delta": "hi"},
            Reading(text=True),
            id="a part of a response",
        ),
        pytest.param(
            {
                "type": "response.completed",
                "response": {
                    "incomplete_details": {"reason": "max_output_tokens"},
                    "usage": {"input_tokens": 3, "output_tokens": 4},
                },
            },
            Reading(cut=True, prompt_tokens=3, generated_tokens=4),
            id="the end of a response",
        ),
        pytest.param({"type": "response.failed"}, Reading(failed=True), id="a response that failed"),
        pytest.param(
            {"output": [{"type": "message"}], "error": None}, Reading(text=True), id="a whole response"
        ),
        pytest.param({"choices": "none"}, Reading(), id="another shape"),
        pytest.param([], Reading(), id="no object"),
    ],
)
def test_read_answer(answer: Any, reading: Reading) -> None:
    assert read_answer(json.dumps(answer).encode()) == reading


@pytest.mark.parametrize(
    ("event", "reading"),
    [
        pytest.param(b"data: [DONE]\n\n", Reading(), id="the end"),
        pytest.param(b": keep-alive\n\n", Reading(), id="a comment"),
        pytest.param(b'event: error\ndata: {"type": "error"}\n\n', Reading(failed=True), id="a named event"),
        pytest.param(
            b'data: {"choices": [{"text": "data: "}]}\n\n', Reading(text=True), id="text like a field"
        ),
    ],
)
def test_read_event(event: bytes, reading: Reading) -> None:
    assert read_event(event) == reading


@given(texts=st.lists(st.text(), max_size=6), cuts=st.lists(st.integers(1, 9), min_size=1, max_size=9))
def test_events_are_the_same_however_their_bytes_come(texts: list[str], cuts: list[int]) -> None:
    sent = [b"data: " + json.dumps({"text": text}).encode() + b"\n\n" for text in texts]
    stream, rest, turn = b"".join(sent), b"", 0
    seen: list[bytes] = []
    while stream:
        size = cuts[turn % len(cuts)]
        whole, rest = events(rest + stream[:size])
        stream, seen, turn = stream[size:], seen + whole, turn + 1
    assert (seen, rest) == (sent, b"")


@given(st.binary())
def test_any_bytes_are_read_without_an_error(content: bytes) -> None:
    assert isinstance(read_answer(content), Reading)
