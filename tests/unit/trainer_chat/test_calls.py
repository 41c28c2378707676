"""Calls of functions as the official templates write them are read back, and near misses are told apart."""

import time
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from finetune_trainer.chat.calls import ADDED, Call, CallSyntax, has_unreadable, learn, read_calls, with_added
from finetune_trainer.chat.tokenizer import ChatTokenizer
from finetune_trainer.contracts import GraderSpec
from finetune_trainer.data.formats import Row
from finetune_trainer.data.holdout import HoldoutRow, eval_no_reference, split_reference, with_calls

CALLING = (
    "qwen2_5", "qwen3", "qwen3_5_think", "qwen3_6", "qwen3_instruct_2507", "lfm2_2_5_v2", "nemotron_3_nano",
    "deepseekv3", "glm4moe", "llama3_1", "llama3_2", "gemma4_v5", "gptoss",
)  # fmt: skip
ONE_AT_A_TIME = ("llama3_1", "llama3_2", "gptoss")
TOOL: dict[str, Any] = {
    "type": "function",
    "function": {"name": "weather", "description": "d", "parameters": {"type": "object", "properties": {"city": {"type": "string"}}}},
}  # fmt: skip
BERGEN = Call("weather", {"city": "Bergen", "days": 3})
OSLO = Call("weather", {"city": "Oslo", "days": 3})
NOW = Call("now", {})
TokenizerOf = Callable[[str], ChatTokenizer]


def held_out(tokenizer: ChatTokenizer, *calls: Call, content: str = "") -> HoldoutRow:
    """A row whose expected answer makes these calls."""
    functions = [
        {"id": f"abcdefgh{place}", "type": "function", "function": call.to_json()}
        for place, call in enumerate(calls)
    ]
    answer = {"role": "assistant", "content": content, **({"tool_calls": functions} if functions else {})}
    row = Row(1, "1", ({"role": "user", "content": "What now?"}, answer), tools=(TOOL,))
    [found] = with_calls(tokenizer, [split_reference(row)])
    return found


def read(row: HoldoutRow, text: str | None = None) -> list[tuple[str, dict[str, str]]]:
    """The calls in a text, or in the row's reference; values as text without quotes, as some templates write them."""
    assert row.syntax is not None
    calls = read_calls(row.syntax, row.reference if text is None else text)
    return [
        (call.name, {key: str(value).strip("'\"<|>") for key, value in call.arguments.items()})
        for call in calls
    ]


@pytest.mark.parametrize("family", CALLING)
def test_a_call_is_read_as_the_template_writes_it(tokenizer_of: TokenizerOf, family: str) -> None:
    row = held_out(tokenizer_of(family), BERGEN)
    assert read(row) == [("weather", {"city": "Bergen", "days": "3"})]
    assert read(row, row.reference.replace("\n", "\n\n")) == read(row), "white space does not count"
    assert read(row, f"I look it up.\n{row.reference}") == read(row), "a text before the call does not count"
    assert read(row, row.reference.replace("Bergen", "Oslo")) != read(row)
    assert read(row, row.reference.replace("3", "4")) != read(row)
    assert read(row, row.reference.replace("weather", "climate")) != read(row)
    assert read(row, "It rains in Bergen.") == []


@pytest.mark.parametrize("family", [family for family in CALLING if family not in ONE_AT_A_TIME])
def test_several_calls_are_read_in_their_order(tokenizer_of: TokenizerOf, family: str) -> None:
    row = held_out(tokenizer_of(family), BERGEN, NOW, OSLO)
    bergen, oslo = ({"city": city, "days": "3"} for city in ("Bergen", "Oslo"))
    assert read(row) == [("weather", bergen), ("now", {}), ("weather", oslo)]


@pytest.mark.parametrize("family", ["gemma3", "phi3_5", "deepseek_r1_distill"])
def test_a_template_that_writes_no_calls_has_no_syntax(tokenizer_of: TokenizerOf, family: str) -> None:
    assert held_out(tokenizer_of(family), BERGEN).syntax is None


@pytest.mark.parametrize("family", ONE_AT_A_TIME)
def test_calls_that_a_template_cannot_write_are_no_reference(tokenizer_of: TokenizerOf, family: str) -> None:
    row = held_out(tokenizer_of(family), BERGEN, OSLO)
    finding = eval_no_reference([row], [GraderSpec(name="calls", type="ToolCall")])
    assert finding is not None
    assert "the expected output is no call" in finding.message


def test_an_answer_without_a_call_is_its_own_reference(tokenizer_of: TokenizerOf) -> None:
    row = held_out(tokenizer_of("qwen3"), content="It rains.")
    assert (row.reference, read(row)) == ("It rains.", [])
    assert row.to_json()["callSyntax"]["opening"] == '", "arguments": '


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(st.characters(codec="utf-8")),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)
CALLS = st.builds(
    Call, st.from_regex(r"[A-Za-z0-9_-]{1,64}", fullmatch=True), st.dictionaries(st.text(), JSON, max_size=3)
)


@given(st.lists(CALLS, max_size=3))
def test_calls_that_are_added_to_a_text_are_read_from_it(calls: list[Call]) -> None:
    text = with_added('Let me {"look": "up"}.', calls)
    assert (read_calls(ADDED, text), has_unreadable(text)) == (calls, False)


@pytest.mark.parametrize(
    "broken",
    ['{"name": "now", "arguments": "{"}', Call("what now", {}), Call("", {}), Call("n" * 129, {})],
    ids=["arguments that are no object", "a blank in the name", "no name", "a name that is too long"],
)
def test_a_call_that_cannot_be_read_is_told_wherever_it_stands(broken: Call | str) -> None:
    assert all(has_unreadable(with_added("", calls)) for calls in ([broken], [broken, NOW], [NOW, broken]))


def test_what_fails_to_write_calls_has_no_syntax() -> None:
    def fails(calls: object) -> str:
        raise ValueError(calls)

    assert learn(fails) is None
    assert learn(lambda calls: "I call nothing") is None
    assert learn(lambda calls: f"{calls[0].name} without arguments") is None


SYNTAXES = [
    CallSyntax("", ""),
    CallSyntax('<tool_call>\n{"name": "', '", "arguments": '),
    CallSyntax("", "(", "=", ", ", ")"),
    CallSyntax("<call>", "\n<key>", "</key>\n<value>", "</value>\n<key>", "</value>\n</call>"),
]


@pytest.mark.parametrize("syntax", SYNTAXES, ids=lambda syntax: repr(syntax.before + syntax.opening))
@pytest.mark.parametrize(
    "unit",
    ["a", " ", "{", 'a{"a":', "a(b=1, ", '<tool_call>{"name": "f", "arguments": {', "<call>f<key>k</key><value>", "<call>f "],
    ids=["letters", "blanks", "braces", "open objects", "open brackets", "open calls", "open values", "names"],
)  # fmt: skip
def test_100_kb_of_anything_are_read_in_a_second_or_two(syntax: CallSyntax, unit: str) -> None:
    began = time.process_time()
    read_calls(syntax, unit * (100_000 // len(unit)))
    assert time.process_time() - began < 3
