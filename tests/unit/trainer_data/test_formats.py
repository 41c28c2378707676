"""Five formats become one form, and what is the same in two of them becomes equal."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from finetune_trainer.data import formats
from finetune_trainer.data.formats import Row, detect, trained
from finetune_trainer.data.spellings import respelled

content = st.text(min_size=1, max_size=20)
dialogue = st.lists(st.tuples(content, content), min_size=1, max_size=3)


def canonical(number: int, row: dict[str, Any]) -> Row:
    """As structure.examine does it."""
    return formats.canonical(number, respelled(row))


def _messages(dialogue: list[tuple[str, str]]) -> list[dict[str, str]]:
    names = ("user", "assistant")
    return [
        {"role": role, "content": text} for turn in dialogue for role, text in zip(names, turn, strict=True)
    ]


@given(dialogue, st.none() | content)
def test_messages_and_sharegpt_of_equal_content_are_equal(
    dialogue: list[tuple[str, str]], system: str | None
) -> None:
    messages = _messages(dialogue)
    names = {"user": "human", "assistant": "gpt"}
    share = [{"from": names[turn["role"]], "value": turn["content"]} for turn in messages]
    head = [] if system is None else [{"role": "system", "content": system}]
    expected = canonical(1, {"messages": head + messages})
    assert canonical(1, {"conversations": share, "system": system}) == expected
    told = [] if system is None else [{"from": "system", "value": system}]
    assert canonical(1, {"conversations": told + share}) == expected


@given(content, content, st.none() | content)
def test_one_question_and_its_answer_are_equal_in_all_formats(
    question: str, answer: str, system: str | None
) -> None:
    head = [] if system is None else [{"role": "system", "content": system}]
    messages = _messages([(question, answer)])
    expected = canonical(1, {"messages": head + messages})
    assert canonical(1, {"prompt": question, "completion": answer, "system": system}) == expected
    assert canonical(1, {"prompt": head + messages[:1], "completion": messages[1:]}) == expected
    assert canonical(1, {"instruction": question, "output": answer, "system": system}) == expected


def test_the_input_of_alpaca_follows_the_instruction_after_a_blank_line() -> None:
    row = canonical(1, {"instruction": "Translate", "input": "Haus", "output": "house"})
    assert row.messages[0]["content"] == "Translate\n\nHaus"


def test_text_is_kept_as_text() -> None:
    row = canonical(4, {"text": "Once", "source_id": 7})
    assert (row.messages, row.text, row.group, row.id) == ((), "Once", "7", "4")
    assert row.content() != canonical(4, {"text": "Twice"}).content()


@pytest.mark.parametrize(
    ("row", "kind"),
    [
        ({"messages": [], "prompt": "a"}, "messages"),
        ({"prompt": None, "completion": None, "text": "a"}, "text"),
        ({"prompt": "a", "chosen": "b", "rejected": "c"}, "preference"),
        ({"prompt": "a", "chosen": "b"}, "pairs"),
        ({"answer": "a"}, "unknown"),
    ],
    ids=["messages come first", "null is nothing", "preferences", "a column named chosen", "none"],
)
def test_the_format_is_told_by_the_fields(row: dict[str, Any], kind: str) -> None:
    assert detect(row) == kind


def test_an_answer_within_a_prompt_is_context_and_not_trained() -> None:
    prompt = [*_messages([("a", "b")]), {"role": "user", "content": "c"}]
    row = canonical(1, {"prompt": prompt, "completion": "d"})
    assert [trained(turn) for turn in row.messages] == [False, False, False, True]


@pytest.mark.parametrize(
    ("marks", "expected"),
    [({}, True), ({"weight": 1}, True), ({"weight": 0}, False), ({"train": False}, False), ({"train": True}, True)],
)  # fmt: skip
def test_marks_say_whether_an_answer_is_trained(marks: dict[str, Any], expected: bool) -> None:
    (turn,) = canonical(1, {"messages": [{"role": "assistant", "content": "a", **marks}]}).messages
    assert trained(turn) is expected


def test_calls_have_objects_for_arguments_whatever_the_format() -> None:
    call = {"name": "look_up", "arguments": {"word": "Haus"}}
    as_text = {
        "type": "function",
        "id": "1",
        "function": {**call, "arguments": json.dumps(call["arguments"])},
    }
    chat = canonical(1, {"messages": [{"role": "assistant", "content": None, "tool_calls": [as_text]}]})
    share = canonical(1, {"conversations": [{"from": "function_call", "value": json.dumps(call)}]})
    assert chat.messages[0] == {
        "role": "assistant", "content": "", "tool_calls": [{"type": "function", "id": "1", "function": call}],
    }  # fmt: skip
    assert share.messages[0]["tool_calls"] == [{"type": "function", "function": call}]


def test_tools_may_be_given_as_json_text() -> None:
    tools = [{"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}]
    pair = {"prompt": "a", "completion": "b"}
    assert canonical(1, {**pair, "tools": json.dumps(tools)}).tools == tuple(tools)
    assert canonical(1, {**pair, "tools": json.dumps(tools)}) == canonical(1, {**pair, "tools": tools})
    assert canonical(1, {**pair, "tools": None}).tools == ()


def test_what_no_template_knows_is_left_out() -> None:
    turn = {"role": "user", "content": "a", "mood": "good", "name": None}
    assert canonical(1, {"messages": [turn]}).messages == ({"role": "user", "content": "a"},)


@pytest.mark.parametrize(("given_id", "expected"), [("x", "x"), (5, "5"), ("", "9"), (None, "9"), ([], "9")])
def test_a_row_without_an_id_is_called_by_its_number(given_id: Any, expected: str) -> None:
    assert canonical(9, {"text": "a", "id": given_id}).id == expected


ASK = {"role": "user", "content": "a"}
CALL = {"name": "tide_at", "arguments": {"port": "Ostholm"}}
CALLED = {"role": "assistant", "content": "", "tool_calls": [{"type": "function", "function": CALL}]}
CALL_TEXT = {**CALL, "arguments": json.dumps(CALL["arguments"])}
TOOL = {"name": "tide_at", "parameters": {"type": "object", "properties": {"port": {"type": "string"}}}}
TOOLS = [{"type": "function", "function": TOOL}]
ANSWER = {"role": "assistant", "content": "b"}
# a spelling: (the row, its messages in the one spelling)
SPELLINGS: list[tuple[str, dict[str, Any], list[dict[str, Any]]]] = [
    ("a part of text", {"messages": [{"role": "user", "content": [{"type": "text", "text": "a"}]}, ANSWER]}, [ASK, ANSWER]),
    ("parts of text, joined as the engine does", {"messages": [{"role": "user", "content": [{"type": "input_text", "text": "a"}, "b"]}]},
     [{"role": "user", "content": "a\nb"}]),
    ("an empty part beside a call", {"messages": [{**CALLED, "content": [{"type": "text", "text": ""}]}]}, [CALLED]),
    ("function_call", {"messages": [ASK, {"role": "assistant", "content": None, "function_call": CALL_TEXT}]}, [ASK, CALLED]),
    ("function_call beside text", {"messages": [{**ANSWER, "function_call": CALL_TEXT}]}, [{**CALLED, "content": "b"}]),
    ("function_call of nulls", {"messages": [{**ANSWER, "function_call": {"name": None, "arguments": None}}]}, [ANSWER]),
    ("the role function", {"messages": [{"role": "function", "name": "tide_at", "content": "2"}]}, [{"role": "tool", "name": "tide_at", "content": "2"}]),
    ("thinking", {"messages": [{**ANSWER, "thinking": "t"}]}, [{**ANSWER, "reasoning_content": "t"}]),
    ("reasoning", {"messages": [{**ANSWER, "reasoning": "t"}]}, [{**ANSWER, "reasoning_content": "t"}]),
    ("loss", {"messages": [{**ANSWER, "loss": 0}, {**ANSWER, "loss": True}]}, [{**ANSWER, "train": False}, {**ANSWER, "train": True}]),
    ("a system prompt beside messages", {"messages": [ASK], "system": "s"}, [{"role": "system", "content": "s"}, ASK]),
    ("the same system prompt twice", {"messages": [{"role": "system", "content": "s"}, ASK], "system": "s"}, [{"role": "system", "content": "s"}, ASK]),
    ("sharegpt with role and content", {"conversations": [ASK, ANSWER]}, [ASK, ANSWER]),
    ("sharegpt in a table of both spellings", {"conversations": [{"from": None, "value": None, "role": "user", "content": "a"}]},
     [{"role": "user", "content": "a"}]),
    ("messages as JSON text", {"messages": json.dumps([ASK, ANSWER])}, [ASK, ANSWER]),
    ("sharegpt with a list of calls", {"conversations": [{"from": "function_call", "value": json.dumps([CALL, CALL])}]},
     [{**CALLED, "tool_calls": CALLED["tool_calls"] * 2}]),
    ("sharegpt with calls in a row", {"conversations": [{"from": "function_call", "value": json.dumps(CALL)}] * 2 + [{"from": "observation", "value": "1"}]},
     [{**CALLED, "tool_calls": CALLED["tool_calls"] * 2}, {"role": "tool", "content": "1"}]),
    ("calls in a row of which one is not trained", {"conversations": [{"from": "function_call", "value": json.dumps(CALL)},
     {"from": "function_call", "value": json.dumps(CALL), "weight": 0}]}, [CALLED, {**CALLED, "weight": 0}]),
    ("alpaca with an empty instruction", {"instruction": "", "input": "a", "output": "b"}, [ASK, ANSWER]),
    ("alpaca with a blank instruction", {"instruction": " \n", "input": "a", "output": "b"}, [ASK, ANSWER]),
    ("alpaca with a null instruction", {"instruction": None, "input": "a", "output": "b"}, [ASK, ANSWER]),
    ("alpaca with an empty input", {"instruction": "a", "input": " ", "output": "b"}, [ASK, ANSWER]),
    ("a completion that is one message", {"prompt": [ASK], "completion": ANSWER}, [ASK, ANSWER]),
    ("no calls", {"messages": [{**ANSWER, "tool_calls": []}]}, [ANSWER]),
]  # fmt: skip


@pytest.mark.parametrize(
    ("row", "messages"), [row[1:] for row in SPELLINGS], ids=[row[0] for row in SPELLINGS]
)
def test_other_spellings_become_the_one_spelling(row: dict[str, Any], messages: list[Any]) -> None:
    assert list(canonical(1, row).messages) == messages


def test_functions_of_the_older_form_are_tools() -> None:
    pair = {"prompt": "a", "completion": "b"}
    assert canonical(1, {**pair, "functions": [TOOL]}).tools == tuple(TOOLS)
    assert canonical(1, {**pair, "functions": json.dumps([TOOL]), "tools": None}).tools == tuple(TOOLS)


@pytest.mark.parametrize("arguments", ["", " ", None, "{}", {}], ids=repr)
def test_a_call_without_arguments_has_an_empty_object(arguments: Any) -> None:
    call = {"function": {"name": "now", "arguments": arguments}}
    row = canonical(1, {"messages": [{"role": "assistant", "tool_calls": [call]}]})
    assert row.messages[0]["tool_calls"][0]["function"] == {"name": "now", "arguments": {}}


def _tools(**properties: Any) -> list[dict[str, Any]]:
    parameters = {"type": "object", "properties": properties}
    return [{"type": "function", "function": {"name": "f", "parameters": parameters}}]


# padding: (tools as they are given, tools as they are trained)
PADDED: list[tuple[str, Any, Any]] = [
    ("parameters of other tools", _tools(a={"type": "string"}, b=None), _tools(a={"type": "string"})),
    ("keywords of other parameters", _tools(a={"type": "string", "enum": None, "default": None}), _tools(a={"type": "string"})),
    ("null for all parameters", [{"function": {"name": "f", "parameters": None, "strict": None}}], [{"function": {"name": "f"}}]),
    ("a default of null is none", _tools(a={"type": ["string", "null"], "default": None}), _tools(a={"type": ["string", "null"], "default": None})),
    ("null among choices is none", _tools(a={"enum": ["x", None]}), _tools(a={"enum": ["x", None]})),
]  # fmt: skip


@pytest.mark.parametrize(("tools", "expected"), [row[1:] for row in PADDED], ids=[row[0] for row in PADDED])
@pytest.mark.parametrize("form", [lambda tools: tools, json.dumps], ids=["as a list", "as text"])
def test_nulls_that_pad_tools_are_absent(form: Any, tools: Any, expected: Any) -> None:
    assert list(canonical(1, {"prompt": "a", "completion": "b", "tools": form(tools)}).tools) == expected


NULLS: list[tuple[str, Any, dict[str, Any]]] = [
    ("no tools are given", None, {"a": 1}),
    ("of no parameter", _tools(a={"type": "integer"}), {"a": 1}),
    ("a parameter of one type", _tools(a={"type": "integer"}, n={"type": "string"}), {"a": 1}),
    ("a parameter that may be null", _tools(n={"type": ["string", "null"]}), {"a": 1, "n": None}),
    ("one of several schemas is null", _tools(n={"anyOf": [{"type": "string"}, {"type": "null"}]}), {"a": 1, "n": None}),
    ("null is a choice", _tools(n={"enum": ["x", None]}), {"a": 1, "n": None}),
    ("null is no choice", _tools(n={"enum": ["x"]}), {"a": 1}),
    ("a parameter of any type", _tools(n={"description": "any"}), {"a": 1, "n": None}),
    ("a parameter that is nullable", _tools(n={"type": "string", "nullable": True}), {"a": 1, "n": None}),
    ("a parameter that is not nullable", _tools(n={"type": "string", "nullable": False}), {"a": 1}),
]  # fmt: skip


@pytest.mark.parametrize(("tools", "expected"), [row[1:] for row in NULLS], ids=[row[0] for row in NULLS])
def test_a_null_argument_is_absent_unless_its_parameter_can_be_null(tools: Any, expected: Any) -> None:
    call = {"function": {"name": "f", "arguments": {"a": 1, "n": None}}}
    row = canonical(1, {"messages": [{"role": "assistant", "tool_calls": [call]}], "tools": tools})
    assert row.messages[0]["tool_calls"][0]["function"]["arguments"] == expected


_POINT = {"type": "object", "properties": {"x": {"type": "integer"}, "y": {"type": ["integer", "null"]}}}
_PADDED = {"x": None, "y": None, "of another call": None}
_OTHER = {"y": None, "of another call": None}
# null within an argument: (the argument's schema, what is given, what is trained)
DEEPER: list[tuple[str, Any, Any, Any]] = [
    ("in an object whose properties are named", _POINT, _PADDED, {"y": None}),
    ("in objects of a list", {"type": "array", "items": _POINT}, [_PADDED, {"x": 1}], [{"y": None}, {"x": 1}]),
    ("in an object within an object", {"type": "object", "properties": {"p": _POINT}}, {"p": _PADDED}, {"p": {"y": None}}),
    ("in an object that may be left out", {"anyOf": [_POINT, {"type": "null"}]}, _PADDED, {"y": None}),
    ("in a list that may be left out", {"anyOf": [{"type": "array", "items": _POINT}, {"type": "null"}]}, [_PADDED], [{"y": None}]),
    ("in one of several objects", {"anyOf": [_POINT, {"type": "object", "properties": {}}]}, _PADDED, _PADDED),
    ("in an object of anything", {"type": "object"}, _PADDED, _PADDED),
    ("under another name, which may be null", _POINT | {"additionalProperties": {"type": ["string", "null"]}}, _PADDED, _OTHER),
    ("under another name, which may be anything", _POINT | {"additionalProperties": True}, _PADDED, _OTHER),
    ("under another name, of one type", _POINT | {"additionalProperties": {"type": "string"}}, _PADDED, {"y": None}),
    ("under another name, of which there is none", _POINT | {"additionalProperties": False}, _PADDED, {"y": None}),
    ("in an object under another name", {"type": "object", "additionalProperties": _POINT}, {"p": _PADDED}, {"p": {"y": None}}),
    ("in an object of anything, as it says", {"type": "object", "properties": {}, "additionalProperties": True}, _PADDED, _PADDED),
    ("in an object that names nothing", {"type": "object", "properties": {}}, _PADDED, _PADDED),
    ("in an object that is nullable", _POINT | {"nullable": True}, _PADDED, {"y": None}),
    ("in an object with one choice of what is required", _POINT | {"anyOf": [{"type": "object", "required": ["x"]}]}, _PADDED, {"y": None}),
    ("an item of a list", {"type": "array", "items": {"type": "integer"}}, [1, None], [1, None]),
]  # fmt: skip


@pytest.mark.parametrize(
    ("schema", "argument", "expected"), [row[1:] for row in DEEPER], ids=[row[0] for row in DEEPER]
)
def test_null_within_an_argument_is_absent_where_the_schema_names_no_such_value(
    schema: Any, argument: Any, expected: Any
) -> None:
    call = {"function": {"name": "f", "arguments": {"a": argument}}}
    messages = [{"role": "assistant", "tool_calls": [call]}]
    row = canonical(1, {"messages": messages, "tools": _tools(a=schema)})
    assert row.messages[0]["tool_calls"][0]["function"]["arguments"] == {"a": expected}


def test_json_text_of_any_depth_is_answered() -> None:
    text = "[" * 900 + "null" + "]" * 900
    assert respelled({"prompt": "a", "completion": "b", "tools": text})["tools"] == text
