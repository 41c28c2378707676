"""What of a request's body reaches the engine."""

import json
import re
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from finetune_serving.documents import RequestLimits
from finetune_serving.gateway.body import ENDPOINTS, STRIPPED, parse
from finetune_serving.gateway.errors import Refusal

CHAT = ENDPOINTS["/v1/chat/completions"]
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=10,
)


def rendered(path: str, body: dict[str, Any], trained: dict[str, Any] | None = None) -> dict[str, Any]:
    """The body as the engine gets it."""
    ask = parse(ENDPOINTS[path], json.dumps(body).encode(), RequestLimits())
    return dict(json.loads(ask.rendered("reviews--1", trained or {})))


@given(fields=st.dictionaries(st.text(min_size=1), JSON))
def test_everything_else_passes_unchanged(fields: dict[str, Any]) -> None:
    taken = {*STRIPPED, "model", "n", "prompt", "stream", "stream_options", "chat_template_kwargs"}
    fields = {name: value for name, value in fields.items() if name not in taken}
    assert rendered(CHAT.path, {**fields, "model": "reviews"}) == {**fields, "model": "reviews--1"}


@given(content=st.binary(max_size=200))
def test_any_bytes_are_a_request_or_a_refusal(content: bytes) -> None:
    status = 200
    try:
        parse(CHAT, content, RequestLimits())
    except Refusal as refusal:
        status = refusal.status
    assert status == 400  # 200 bytes at random never name a model


@pytest.mark.parametrize("path", ENDPOINTS)
@pytest.mark.parametrize("name", STRIPPED)
def test_fields_that_reach_beyond_the_request_are_not_passed_on(path: str, name: str) -> None:
    assert name not in rendered(path, {"model": "reviews", name: {"remote_host": "10.0.0.1"}})


def test_fields_that_are_stripped_exist_in_vllm() -> None:
    """A name that vLLM does not know any more would protect nobody. Importing vLLM takes seconds."""
    vllm = find_spec("vllm")
    assert vllm is not None
    folder = Path(str(vllm.origin)).parent
    source = (folder / "entrypoints" / "openai" / "chat_completion" / "protocol.py").read_text()
    assert [name for name in STRIPPED if not re.search(rf"^    {name}: ", source, re.MULTILINE)] == []


def test_nothing_is_stored_between_requests() -> None:
    assert rendered("/v1/responses", {"model": "reviews", "store": True})["store"] is False


@pytest.mark.parametrize(
    ("name", "value", "refused"),
    [
        pytest.param("previous_response_id", "resp_1", True, id="an answer that was not kept"),
        pytest.param("previous_response_id", None, False, id="no earlier answer"),
        pytest.param("background", True, True, id="an answer to be fetched later"),
        pytest.param("background", False, False, id="an answer now"),
    ],
)
def test_what_needs_a_memory_is_refused(name: str, value: Any, refused: bool) -> None:
    content = json.dumps({"model": "reviews", name: value}).encode()
    if not refused:
        parse(ENDPOINTS["/v1/responses"], content, RequestLimits())
        return
    with pytest.raises(Refusal, match="keeps nothing between requests"):
        parse(ENDPOINTS["/v1/responses"], content, RequestLimits())


def test_of_duplicate_names_the_last_one_counts_for_us_and_for_the_engine() -> None:
    ask = parse(CHAT, b'{"model": "base", "model": "reviews"}', RequestLimits())
    assert ask.model == "reviews"
    assert ask.rendered("reviews--1", {}) == b'{"model":"reviews--1"}'
