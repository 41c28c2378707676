"""Five formats become one form, and what is the same in two of them becomes equal."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from finetune_trainer.data.formats import canonical, detect, trained

content = st.text(min_size=1, max_size=20)
dialogue = st.lists(st.tuples(content, content), min_size=1, max_size=3)


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
