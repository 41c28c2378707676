"""What is trained is what the engine sees and what the model has to write, for every family's template."""

from collections.abc import Callable
from datetime import date
from typing import Any

import pytest

from finetune_trainer.chat.options import TemplateOptions, decide
from finetune_trainer.chat.tokenizer import ChatTokenizer
from finetune_trainer.data.formats import Row, trained
from finetune_trainer.data.tokenise import Encoded, Unrendered, encode_rows
from tests.unit.trainer_chat.conftest import FAMILIES, engine_form

TODAY = date(2026, 11, 27)
CALL = {
    "id": "abcdefgh0",
    "type": "function",
    "function": {"name": "tide_at", "arguments": {"port": "Ost", "hour": 3}},
}
TOOL = {
    "type": "function",
    "function": {
        "name": "tide_at",
        "description": "Height.",
        "parameters": {"type": "object", "properties": {}},
    },
}


def user(text: str) -> dict[str, Any]:
    return {"role": "user", "content": text}


def answer(text: str, reasoning: str = "", **more: Any) -> dict[str, Any]:
    return {
        "role": "assistant",
        "content": text,
        **({"reasoning_content": reasoning} if reasoning else {}),
        **more,
    }


ONE = (user("Question one"), answer("Answer one"))
TWO = (*ONE, user("Question two"), answer("Answer two"))
SYSTEM = ({"role": "system", "content": "Be brief."}, *ONE)
LAST_ONLY = (user("Question one"), answer("Answer one", weight=0), user("Question two"), answer("Answer two"))
CALLS = (
    user("When?"),
    answer("", tool_calls=[CALL]),
    {"role": "tool", "tool_call_id": "abcdefgh0", "name": "tide_at", "content": "2.1"},
    answer("Answer two"),
)
REASONED = (user("Question one"), answer("Answer one", "Page one."))
REASONED_TWICE = (*REASONED, user("Question two"), answer("Answer two", "Page two."))
CONVERSATIONS = {
    "one turn": (ONE, ()),
    "two turns": (TWO, ()),
    "a system message": (SYSTEM, ()),
    "an earlier answer that is not trained": (LAST_ONLY, ()),
    "a call and its answer": (CALLS, (TOOL,)),
    "reasoning": (REASONED, ()),
    "reasoning in two turns": (REASONED_TWICE, ()),
}
# What a template cannot write: the first is refused in its own words, the others are told as lost.
NO_SYSTEM = {"gemma"}
NO_TOOL_ROLE = {"gemma", "gemma3", "cohere2"}
NO_CALLS = {"phi3", "phi3_5", "lfm2", "llama3", "deepseek_r1_distill"}
NO_REASONING = {
    "qwen2_5", "qwen3_instruct_2507", "lfm2", "phi3", "phi3_5", "llama3", "llama3_1", "llama3_2", "gemma", "gemma3", "cohere2",
}  # fmt: skip
REWRITES = {"qwen3", "qwen3_5_think", "qwen3_6", "deepseek_r1_distill", "deepseekv3", "gptoss"}


def encoded(
    plain: ChatTokenizer, messages: tuple[dict[str, Any], ...], tools: tuple[Any, ...] = ()
) -> tuple[ChatTokenizer, TemplateOptions, list[Encoded | Unrendered]]:
    """One conversation, with the options that a data set of its kind gets."""
    reasoned = any("reasoning_content" in message for message in messages)
    options = decide(plain.template, messages[:1], 1, int(reasoned), TODAY)
    tokenizer = plain.rendering_with(options.kwargs)
    return tokenizer, options, encode_rows(tokenizer, [Row(1, "1", messages, tools=tools)])


def spans(row: Encoded) -> list[tuple[int, int]]:
    """Where trained runs begin and end."""
    edges = [
        i
        for i in range(len(row.mask) + 1)
        if (i < len(row.mask) and row.mask[i]) != (i > 0 and row.mask[i - 1])
    ]
    return list(zip(edges[::2], edges[1::2], strict=True))


def texts(tokenizer: ChatTokenizer, rows: list[Encoded | Unrendered]) -> list[str]:
    """The trained texts of all rows."""
    decode = tokenizer._tokenizer.decode
    return [decode(row.ids[a:b]) for row in rows if isinstance(row, Encoded) for a, b in spans(row)]


@pytest.mark.parametrize("conversation", CONVERSATIONS)
@pytest.mark.parametrize("family", FAMILIES)
def test_every_answer_is_trained_after_the_tokens_that_the_engine_shows_the_model(
    tokenizer_of: Callable[[str], ChatTokenizer], family: str, conversation: str
) -> None:
    messages, tools = CONVERSATIONS[conversation]
    tokenizer, options, rows = encoded(tokenizer_of(family), messages, tools)
    roles = {message["role"] for message in messages}
    if ("system" in roles and family in NO_SYSTEM) or ("tool" in roles and family in NO_TOOL_ROLE):
        assert isinstance(rows[0], Unrendered)
        return
    found = [(row, span) for row in rows if isinstance(row, Encoded) for span in spans(row)]
    places = [place for place, message in enumerate(messages) if trained(message)]
    assert len(found) == len(places)
    ends = {tokenizer._tokenizer.convert_tokens_to_ids(end) for end in FAMILIES[family].ends}
    for place, (row, (start, end)) in zip(places, found, strict=True):
        history = [engine_form(message, family) for message in messages[:place]]
        if family == "deepseekv3":  # which the engine cannot render: a finding says so
            history = [as_text(message) for message in history]
        shown = tokenizer._tokenizer.apply_chat_template(
            history,
            tools=list(tools) or None,
            tokenize=True,
            return_dict=False,
            add_generation_prompt=True,
            **options.kwargs,
        )
        assert row.ids[:start].tolist() == shown
        assert [token for token in row.ids[start:end].tolist() if token in ends] == [row.ids[end - 1]]
        assert row.prefix_kept
        assert row.stops


def as_text(message: dict[str, Any]) -> dict[str, Any]:
    """A message whose call has its arguments as JSON text."""
    if "tool_calls" not in message:
        return message
    function = {**CALL["function"], "arguments": '{"port": "Ost", "hour": 3}'}  # type: ignore[dict-item]
    return {**message, "tool_calls": [{**CALL, "function": function}]}


@pytest.mark.parametrize("family", FAMILIES.values(), ids=FAMILIES)
def test_an_answer_without_reasoning_is_trained_as_its_text_and_the_first_end_token(
    tokenizer_of: Callable[[str], ChatTokenizer], family: Any
) -> None:
    tokenizer, _, rows = encoded(tokenizer_of(family.template), TWO)
    assert texts(tokenizer, rows) == [
        f"{family.before}{text}{family.after}" for text in ("Answer one", "Answer two")
    ]
    assert {row.split for row in rows if isinstance(row, Encoded)} == {family.template in REWRITES}


@pytest.mark.parametrize("family", sorted(set(FAMILIES) - NO_REASONING))
def test_reasoning_is_trained_where_the_template_knows_it(
    tokenizer_of: Callable[[str], ChatTokenizer], family: str
) -> None:
    tokenizer, options, rows = encoded(tokenizer_of(family), REASONED_TWICE)
    assert options.thinking == "on"
    for text, page, said in zip(
        texts(tokenizer, rows), ("Page one.", "Page two."), ("one", "two"), strict=True
    ):
        assert page in text
        assert text.index(page) < text.index(f"Answer {said}")
    assert not any(row.notes.lost for row in rows if isinstance(row, Encoded))


@pytest.mark.parametrize("family", sorted(NO_REASONING))
def test_reasoning_that_a_template_leaves_out_is_told(
    tokenizer_of: Callable[[str], ChatTokenizer], family: str
) -> None:
    in_content = (user("Question one"), answer("<think>\nPage one.\n</think>\n\nAnswer one"))
    lost = []
    for messages in (REASONED, in_content):
        _, _, (row,) = encoded(tokenizer_of(family), messages)
        assert isinstance(row, Encoded)
        lost.append(row.notes.lost)
    assert lost == [{"reasoning"}, set()]


@pytest.mark.parametrize("family", sorted(set(FAMILIES) - NO_TOOL_ROLE))
def test_calls_are_trained_or_told_as_lost(tokenizer_of: Callable[[str], ChatTokenizer], family: str) -> None:
    tokenizer, _, rows = encoded(tokenizer_of(family), CALLS, (TOOL,))
    lost = {part for row in rows if isinstance(row, Encoded) for part in row.notes.lost}
    assert ("calls" in lost) == (family in NO_CALLS)
    if family not in NO_CALLS:
        assert all(value in texts(tokenizer, rows)[0] for value in ("tide_at", "Ost", "3"))
        assert not lost


@pytest.mark.parametrize(
    ("family", "kwargs", "clock"),
    [
        pytest.param("qwen3", {"enable_thinking": False}, False, id="a switch for thinking"),
        pytest.param("glm4moe", {"enable_thinking": False}, False, id="a switch that marks the question"),
        pytest.param("llama3_1", {}, False, id="a date that is always the same"),
        pytest.param(
            "llama3_2", {"date_string": "27 Nov 2026"}, False, id="today's date, taken from a variable"
        ),
        pytest.param("gptoss", {}, True, id="today's date, taken from the clock alone"),
        pytest.param("deepseek_r1_distill", {}, False, id="reasoning without a switch"),
        pytest.param("qwen2_5", {}, False, id="nothing to choose"),
    ],
)
def test_options_are_found_by_rendering(
    tokenizer_of: Callable[[str], ChatTokenizer], family: str, kwargs: dict[str, Any], clock: bool
) -> None:
    options = decide(tokenizer_of(family).template, ONE[:1], rows=10, reasoned=0, today=TODAY)
    assert (options.kwargs, options.clock) == (kwargs, clock)


@pytest.mark.parametrize(
    ("family", "reasoned", "thinking"),
    [
        pytest.param("qwen3", 0, "off", id="no row has reasoning"),
        pytest.param("qwen3", 10, "on", id="all rows have reasoning"),
        pytest.param("qwen3", 4, "mixed", id="some rows have reasoning"),
        pytest.param("deepseek_r1_distill", 0, "empty", id="no row has, and nothing switches it off"),
        pytest.param("deepseek_r1_distill", 10, "on", id="all rows have, and the prompt opens it"),
        pytest.param("llama3", 0, None, id="a template that knows none"),
    ],
)
def test_thinking_follows_the_rows(
    tokenizer_of: Callable[[str], ChatTokenizer], family: str, reasoned: int, thinking: str | None
) -> None:
    options = decide(tokenizer_of(family).template, ONE[:1], rows=10, reasoned=reasoned, today=TODAY)
    assert options.thinking == thinking
    assert options.kwargs.get("enable_thinking") == (reasoned > 0 if family == "qwen3" else None)
