"""Each rule about one row: rows that it must name, and rows that it must leave alone."""

import json
import time
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from finetune_trainer.data import rules
from finetune_trainer.data.findings import errors
from finetune_trainer.data.formats import ROLES, Row, canonical
from finetune_trainer.data.rowrule import RowRule, finding, tally
from finetune_trainer.data.rules.secrets import iban, luhn
from finetune_trainer.data.spellings import respelled
from finetune_trainer.data.structure import examine
from finetune_trainer.reading.lines import Line, RawLine, parse_line
from tests.broken_records import SECRETS

PAIR = {"prompt": "a", "completion": "b"}
USER = {"role": "user", "content": "a"}
ASSISTANT = {"role": "assistant", "content": "b"}
SYSTEM = {"role": "system", "content": "s"}
TOOL = {"role": "tool", "content": "42"}
CHAT = {"messages": [SYSTEM, USER, ASSISTANT]}
SHARE = {"conversations": [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}]}
ALPACA = {"instruction": "a", "input": "", "output": "b"}
TEXT = {"text": "a"}
TABLE = {**PAIR, "tools": None, "system": None, "label": None, "note": None}  # as Parquet gives it
CELLS = {**PAIR, "tools": "", "system": "", "label": "", "rating": ""}  # as CSV gives it
GOOD = [PAIR, CHAT, SHARE, ALPACA, TEXT, TABLE, CELLS]


def _call(arguments: Any) -> dict[str, Any]:
    return {
        "role": "assistant",
        "tool_calls": [{"type": "function", "function": {"name": "f", "arguments": arguments}}],
    }


def lines(*texts: bytes) -> list[Line]:
    """Numbered as in a file, where blank ones count."""
    return [parse_line(RawLine(number, text)) for number, text in enumerate(texts, start=1) if text]


CALL = _call({})


def _with(**message: Any) -> dict[str, Any]:
    return {"messages": [message, ASSISTANT]}


def _answer(**message: Any) -> dict[str, Any]:
    return {"messages": [USER, {**ASSISTANT, **message}]}


def _tool(**function: Any) -> dict[str, Any]:
    return {**PAIR, "tools": [{"type": "function", "function": function}]}


FUNCTIONS = [
    {"name": "f", "parameters": {"type": "object", "properties": {"a": {"type": "integer"}}}},
    {"name": "g", "parameters": {"type": "object", "properties": {}}},
    {"name": "open", "parameters": {"type": "object", "properties": {}, "additionalProperties": True}},
    {"name": "any"},
]


def _calling(name: str, arguments: Any) -> dict[str, Any]:
    call = {"type": "function", "function": {"name": name, "arguments": arguments}}
    tools = [{"type": "function", "function": function} for function in FUNCTIONS]
    return {"messages": [USER, {"role": "assistant", "tool_calls": [call]}], "tools": tools}


# name: ({why it must be named: row}, [rows to leave alone beside GOOD])
RAW: dict[str, tuple[dict[str, Any], list[Any]]] = {
    "missing_messages_list": (
        {
            "no messages": {"messages": []}, "text for messages": {"messages": "text"}, "null": {"messages": None},
            "an unknown field": {"question": "a"}, "no field": {}, "no conversation": {"conversations": []},
            "only a system column": {"conversations": [], "system": "s"},
            "a prompt without messages": {"prompt": [], "completion": "b"}, "a completion without": {"prompt": "a", "completion": []},
        },
        [],
    ),
    "message_missing_key": (
        {
            "no completion": {"prompt": "a"}, "no prompt": {"completion": "b"}, "no content": _with(role="user"),
            "no role": _with(content="a"), "text for a message": {"messages": ["a"]},
            "alpaca without output": {"instruction": "a", "input": "b"},
            "null for a completion": {"prompt": "a", "completion": None},
            "sharegpt without from": {"conversations": [{"value": "a"}]},
            "sharegpt with the keys of messages and no role": {"conversations": [{"content": "a"}]},
            "a prompt of messages without content": {"prompt": [{"role": "user"}], "completion": "b"},
            "an answer with reasoning alone": {"messages": [USER, {"role": "assistant", "thinking": "t"}]},
        },
        [{"messages": [USER, CALL]}, {"conversations": [USER, ASSISTANT]}, {"instruction": None, "input": "a", "output": "b"},
         {"messages": [USER, {"role": "assistant", "function_call": {"name": "f", "arguments": "{}"}}]}],
    ),
    "message_unrecognized_key": (
        {
            "of a message": _with(role="user", content="a", mood="good"), "of a pair": {**PAIR, "context": "x"},
            "of alpaca": {**ALPACA, "history": []}, "of text": {**TEXT, "system": "s"},
            "functions beside tools": {**PAIR, "tools": [{"name": "f"}], "functions": [{"name": "f"}]},
            "thinking beside reasoning": _answer(thinking="t", reasoning_content="r"), "reasoning that is no text": _answer(reasoning={"effort": "low"}),
            "of sharegpt": {"conversations": [{"from": "human", "value": "a", "markdown": "x"}]},
        },
        [
            {**PAIR, "id": 1, "group": "g", "source": "s", "source_id": 2, "reviewed": True, "label": "x", "rating": 3,
             "system": "s", "tools": []},
            _answer(name="n", weight=1, train=True, reasoning_content="r", tool_call_id=None, other=None),
            {**CHAT, "system": "s"}, _answer(thinking="t"), _answer(reasoning="t"), _answer(loss=True), _answer(function_call=None),
            {**PAIR, "functions": [{"name": "f"}]}, {**PAIR, "functions": [{"name": "f"}], "tools": ""},
            {"messages": [USER, CALL, {**TOOL, "tool_call_id": "1"}, ASSISTANT]},
        ],
    ),
    "unrecognized_role": (
        {
            "bot": _with(role="bot", content="a"), "null": _with(role=None, content="a"),
            "a list": _with(role=["user"], content="a"),
            "of sharegpt": {"conversations": [{"from": "alien", "value": "a"}]},
            "an object in sharegpt": {"conversations": [{"from": {}, "value": "a"}]},
        },
        [_with(role=role, content="a") for role in ROLES],
    ),
    "missing_content": (
        {
            "empty": _with(role="user", content=""), "white space": _with(role="user", content=" \n"),
            "null": _with(role="user", content=None), "a part without text": _with(role="user", content=[{"type": "text"}]),
            "an empty part": _with(role="user", content=[{"type": "text", "text": ""}]),
            "an object for an answer": {**ALPACA, "output": {"a": 1}},
            "an empty completion": {"prompt": "a", "completion": ""}, "a number": {"prompt": 1, "completion": "b"},
            "an empty text": {"text": " "}, "a number for text": {"text": 1},
            "alpaca with a number": {"instruction": "a", "input": 3, "output": "b"},
            "a number beside a call": {"messages": [USER, {**CALL, "content": 5}]},
            "an empty value in sharegpt": {"conversations": [{"from": "gpt", "value": ""}]},
        },
        [{"messages": [USER, {**CALL, "content": None}]}, {"messages": [USER, {**CALL, "content": ""}]},
         {"messages": [USER, {**CALL, "content": [{"type": "text", "text": ""}]}]},
         _with(role="user", content=[{"type": "text", "text": "a"}]), {**ALPACA, "instruction": "", "input": "a"}],
    ),
    "missing_assistant": (
        {
            "only a question": {"messages": [USER]}, "only a human": {"conversations": [{"from": "human", "value": "a"}]},
            "an answer of weight 0": _answer(weight=0), "an answer not trained": _answer(train=False),
            "a completion of the user": {"prompt": "a", "completion": [USER]},
        },
        [{"messages": []}, {"prompt": "a"}, {"messages": [USER, {**ASSISTANT, "weight": 0}, USER, ASSISTANT]}],
    ),
    "message_mask": (
        {
            "weight 2": _answer(weight=2), "weight true": _answer(weight=True), "weight as text": _answer(weight="1"),
            "train as text": _answer(train="yes"), "train as number": _answer(train=1),
            "contradiction": _answer(weight=0, train=True), "other contradiction": _answer(weight=1, train=False),
            "loss as text": _answer(loss="yes"), "loss beside train": _answer(loss=True, train=True),
            "a question with loss": _with(**USER, loss=True),
            "a trained question": _with(**USER, train=True), "a weighted question": _with(**USER, weight=1),
        },
        [_answer(loss=True), _answer(loss=1), _answer(loss=None), _with(**USER, loss=False), _answer(weight=0), _answer(weight=1.0), _answer(train=False), _answer(weight=1, train=True),
         _with(**USER, train=False), _with(**USER, weight=0), _answer(weight=None, train=None)],
    ),
    "bad_tool_json": (
        {
            "broken arguments": {"messages": [USER, _call('{"a": ')]}, "a list of arguments": {"messages": [USER, _call("[1]")]},
            "no name": {"messages": [USER, {"role": "assistant", "tool_calls": [{"function": {}}]}]},
            "a call that is text": {"messages": [USER, {"role": "assistant", "tool_calls": ["f"]}]},
            "calls that are text": {"messages": [USER, {"role": "assistant", "tool_calls": "f"}]},
            "a function that is text": {"messages": [USER, {"role": "assistant", "tool_calls": [{"function": "f"}]}]},
            "a broken call in sharegpt": {"conversations": [{"from": "function_call", "value": "f(1)"}]},
            "broken tools": {**PAIR, "tools": "[{"}, "one tool": {**PAIR, "tools": {"name": "f"}},
            "a tool without a name": _tool(parameters={}), "parameters that are no schema": _tool(name="f", parameters={"type": 3}),
            "parameters that are text": _tool(name="f", parameters="{}"),
            "a call of the older form that is text": _answer(function_call="f"),
            "functions that are no list": {**PAIR, "functions": {"name": "f"}},
        },
        [
            {"messages": [USER, _call('{"a": 1}')]}, {"messages": [USER, CALL]}, _tool(name="f"),
            {"messages": [USER, _call("")]}, {"messages": [USER, _call(" ")]}, {"messages": [USER, _call(None)]},
            _tool(name="f", parameters=None), _tool(name="f", parameters={"type": "object", "properties": {"a": None}}),
            _tool(name="f", description=None, strict=None), {**PAIR, "functions": [{"name": "f", "parameters": {}}]},
            {**PAIR, "tools": json.dumps([{"name": "f", "parameters": {"type": "object"}}])},
            {"conversations": [{"from": "function_call", "value": '{"name": "f", "arguments": {}}'}]},
        ],
    ),
    "tool_call_mismatch": (
        {
            "an argument of no parameter": _calling("f", {"b": 1}), "an argument where there are none": _calling("g", {"b": 1}),
            "a tool that is not named": _calling("h", {}), "a call of the older form": {
                "messages": [USER, {"role": "assistant", "function_call": {"name": "f", "arguments": '{"b": 1}'}}], "functions": FUNCTIONS,
            },
        },
        [
            _calling("f", {"a": 1}), _calling("f", {}), _calling("f", {"a": 1, "b": None}), _calling("g", {}),
            _calling("open", {"b": 1}), _calling("any", {"b": 1}), {"messages": [USER, CALL]}, _calling("f", "broken"),
        ],
    ),
    "picture_needed": (
        {
            "a part with a picture": _with(role="user", content=[{"type": "image_url"}, {"type": "text", "text": "a"}]),
            "a part with a sound": _with(role="user", content=[{"type": "input_audio"}]),
            "a placeholder": {**PAIR, "prompt": "<image>\nWhat is it?", "image": "1.png"},
            "a placeholder in text": {"text": "<image> a cat", "images": ["1.png"]},
            "a placeholder of a film": {**PAIR, "prompt": "a <video>", "videos": ["1.mp4"]},
        },
        [{**PAIR, "images": ["1.png"]}, {**PAIR, "prompt": "<image>"}, {**PAIR, "prompt": "<image>", "images": []}],
    ),
    "picture_left_out": (
        {
            "a column": {**PAIR, "images": ["1.png"]}, "a column of sounds": {**PAIR, "audio": {"path": "1.wav"}},
            "a placeholder without a picture": {**PAIR, "prompt": "<image>"},
        },
        [{**PAIR, "image": None}, {**PAIR, "images": []}, {**PAIR, "prompt": "a <video> of HTML"},
         {**PAIR, "prompt": "<image>", "image": "1.png"}],
    ),
    "synthetic_unreviewed": (
        {"not reviewed": {**PAIR, "source": "synthetic"}, "review to come": {**PAIR, "source": "Synthetic", "reviewed": False}},
        [{**PAIR, "source": "synthetic", "reviewed": True}, {**PAIR, "source": "synthetic", "reviewed": "True"}, {**PAIR, "source": "crm"}, {**PAIR, "source": ["x"]}],
    ),
    "negative_examples": (
        {"false": {**PAIR, "label": False}, "0": {**PAIR, "rating": 0}, "-1": {**PAIR, "rating": -1}, "word": {**PAIR, "label": "Bad"}},
        [{**PAIR, "label": True}, {**PAIR, "rating": 5}, {**PAIR, "label": "spam"}, {**PAIR, "label": {}}],
    ),
    "preference_data": (
        {"with a prompt": {"prompt": "a", "chosen": "b", "rejected": "c"}, "without": {"chosen": [USER], "rejected": [USER]}},
        [],
    ),
}  # fmt: skip
ROW: dict[str, tuple[dict[str, Any], list[Any]]] = {
    "last_turn_not_assistant": (
        {"a question": [USER, ASSISTANT, USER], "a tool's answer": [USER, CALL, TOOL]}, [[USER, ASSISTANT], []],
    ),
    "role_order": (
        {
            "two questions": [USER, USER, ASSISTANT], "two answers": [USER, ASSISTANT, ASSISTANT],
            "a late system message": [USER, SYSTEM, ASSISTANT], "two system messages": [SYSTEM, SYSTEM, USER, ASSISTANT],
            "an answer first": [ASSISTANT, USER, ASSISTANT], "a tool first": [TOOL, ASSISTANT],
            "a tool that was not called": [USER, ASSISTANT, TOOL, ASSISTANT], "two calls in two messages": [USER, CALL, CALL, TOOL],
        },
        [[SYSTEM, USER, ASSISTANT, USER, ASSISTANT], [USER, CALL, TOOL, TOOL, ASSISTANT], [SYSTEM, ASSISTANT], [USER], []],
    ),
}  # fmt: skip


def _rule(group: tuple[RowRule[Any], ...], name: str, dataset: str = "train") -> RowRule[Any]:
    (rule,) = (rule for rule in group if rule.name == name and dataset in rule.about)
    return rule


TRIGGERS = [
    *(pytest.param(rules.RAW_RULES, name, respelled(row), id=f"{name}: {why}") for name, (wrong, _) in RAW.items() for why, row in wrong.items()),
    *(pytest.param(rules.ROW_RULES, name, Row(7, "7", tuple(row)), id=f"{name}: {why}") for name, (wrong, _) in ROW.items() for why, row in wrong.items()),
]  # fmt: skip
PASSES = [
    *(pytest.param(rules.RAW_RULES, name, respelled(row), id=f"{name}: {json.dumps(row)}") for name, (_, right) in RAW.items() for row in [*right, *GOOD]),
    *(pytest.param(rules.ROW_RULES, name, Row(7, "7", tuple(row)), id=f"{name}: {json.dumps(row)}") for name, (_, right) in ROW.items() for row in right),
]  # fmt: skip


@pytest.mark.parametrize(("group", "name", "row"), TRIGGERS)
def test_a_wrong_row_is_named_with_its_number(group: Any, name: str, row: Any) -> None:
    rule = _rule(group, name)
    found = finding(rule, tally(rule, [(7, row)]), 1)
    assert found is not None
    assert (found.rule, found.count, found.rows) == (name, 1, (7,))
    assert found.message.startswith("Row 7: ")
    assert found.message.endswith(f"; {rule.advice}." if rule.advice else ".")
    assert "; " in found.message


@pytest.mark.parametrize(("group", "name", "row"), PASSES)
def test_a_right_row_is_left_alone(group: Any, name: str, row: Any) -> None:
    assert _rule(group, name).problem(row) is None


def test_every_rule_about_raw_and_canonical_rows_has_a_table() -> None:
    assert {rule.name for rule in rules.RAW_RULES} == set(RAW)
    assert {rule.name for rule in rules.ROW_RULES} == {*ROW, "secrets_pii", "contact_data"}


@pytest.mark.parametrize("row", GOOD, ids=json.dumps)
def test_a_row_of_each_format_has_no_finding(row: dict[str, Any]) -> None:
    assert examine(lines(json.dumps(row).encode()), "train")[0].findings() == []


def test_a_message_says_where_the_first_problem_is_and_what_to_do() -> None:
    rule = _rule(rules.RAW_RULES, "message_missing_key")
    wrong = [(number, {"messages": [USER, {"role": "assistant"}]}) for number in (3, 5, 8, 9)]
    found = finding(rule, tally(rule, wrong), 10)
    assert found is not None
    assert found.message == "Rows 3, 5, 8 and 1 more: message 2 lacks `content`; add it."


@pytest.mark.parametrize(
    ("raw", "rule", "text"),
    [
        (b'{"prompt": }', 1, "Expecting value at column 12"),
        (b'{"prompt": "\xff"}', 1, "byte 13 is not UTF-8"),
        (b"\xef\xbb\xbf{}", 1, "byte-order mark"),
        (b'{"prompt": NaN}', 1, "NaN is not a JSON number"),
        (b"[" * 100_000, 1, "cannot be read"),
        (b"[1]", 2, "it is a list"),
        (b'"text"', 2, "it is text"),
        (b"null", 2, "it is null"),
        (b"true", 2, "it is a boolean"),
        (b"1.5", 2, "it is a number"),
    ],
    ids=["broken", "not UTF-8", "byte-order mark", "NaN", "deeply nested", "list", "string", "null", "true", "number"],
)  # fmt: skip
def test_an_unreadable_line_is_named_with_its_number(raw: bytes, rule: int, text: str) -> None:
    good, other = json.dumps(PAIR).encode(), json.dumps({**PAIR, "prompt": "c"}).encode()
    (found,) = examine(lines(good, b"", raw, other), "train")[0].findings()
    assert (found.number, found.severity, found.rows) == (rule, "error", (3,))
    assert text in found.message
    assert found.message.startswith("Row 3: ")


@pytest.mark.parametrize(
    ("row", "train", "holdout"),
    [
        ({"messages": [USER]}, False, True),
        ({"prompt": "a"}, False, True),
        ({"instruction": "a"}, False, True),
        (TEXT, True, False),
        (PAIR, True, True),
        ({"prompt": "a", "chosen": "b", "rejected": "c"}, False, False),
    ],
    ids=["a question", "a prompt", "an instruction", "text has no question", "a pair", "preferences"],
)
def test_training_needs_an_answer_and_the_hold_out_a_question(
    row: dict[str, Any], train: bool, holdout: bool
) -> None:
    assert (rules.sound(row, "train"), rules.sound(row, "holdout")) == (train, holdout)


def test_a_warning_does_not_make_a_row_unsound() -> None:
    assert rules.sound({**PAIR, "context": "x", "source": "synthetic", "label": False}, "train")


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5) | st.sampled_from(["assistant", "user", "gpt", "human", "function_call", "", "{}", '{"name": "f"}']),
    lambda inner: st.lists(inner, max_size=3)
    | st.dictionaries(
        st.sampled_from(
            ["messages", "role", "content", "prompt", "completion", "text", "tool_calls", "conversations", "from", "value",
             "instruction", "input", "output", "system", "tools", "weight", "train", "chosen", "rejected", "function", "name",
             "functions", "function_call", "arguments", "parameters", "properties", "thinking", "loss", "type", "image"]
        ),
        inner,
        max_size=3,
    ),
    max_leaves=10,
)  # fmt: skip


@settings(max_examples=500, deadline=None)
@given(st.lists(json_values, min_size=1, max_size=4))
def test_any_json_is_either_canonical_or_listed(values: list[Any]) -> None:
    """No row is dropped: with no error every row can be taken over as it is."""
    read = lines(*(json.dumps(value).encode() for value in values))
    structure, rows = examine(read, "train")
    if not errors(structure.findings()):
        assert [row.number for row in rows] == [line.number for line in read]
        for row in rows:
            json.dumps(row.messages)
            assert row.text or any(turn["role"] == "assistant" for turn in row.messages)


@settings(max_examples=500, deadline=None)
@given(json_values.filter(lambda value: isinstance(value, dict)))
def test_any_sound_row_can_be_made_canonical_and_examined(value: dict[str, Any]) -> None:
    for dataset in ("train", "holdout"):
        if rules.sound(respelled(value), dataset):
            row = canonical(1, respelled(value))
            assert all(isinstance(turn["content"], str) for turn in row.messages)
            for rule in rules.ROW_RULES:
                rule.problem(row)


HARMLESS = [
    "The task-list is a risk-benefit-analysis-of-the-whole-organisation-in-two-parts.",
    "Call sk-learn-contrib-imbalanced-learning-for-classification-problems if needed.",
    "Order 4111 1111 1111 1112 of 2024-01-02 came to 1234567890123456 units.",
    "Version 4.1111.1111.1111.1111 and the hash 4111111111111111abc.",
    "AB12 CDEF GHIJ is a part number; DE89 3704 0044 0532 0130 01 is mistyped.",
    "hf_ is a prefix, eyJ too, and AKIA is a word; xox means hugs.",
    "The PRIVATE KEY is under the mat. -----BEGIN CERTIFICATE-----",
]


@pytest.mark.parametrize("where", ["text", "message", "call"])
@pytest.mark.parametrize("kind", SECRETS)
def test_a_secret_is_named_by_its_kind_and_never_quoted(kind: str, where: str) -> None:
    text = f"Take ({SECRETS[kind]}), it works."
    row = {
        "text": Row(1, "1", (), text=text),
        "message": Row(1, "1", (USER, {**ASSISTANT, "content": text})),
        "call": Row(1, "1", (USER, {**_call({"key": text}), "content": ""})),
    }[where]
    problem = _rule(rules.ROW_RULES, "secrets_pii").problem(row)
    assert problem is not None
    assert problem.endswith(f"holds {kind}")
    assert SECRETS[kind] not in problem


@pytest.mark.parametrize("text", HARMLESS)
def test_what_only_looks_like_a_secret_is_left_alone(text: str) -> None:
    assert _rule(rules.ROW_RULES, "secrets_pii").problem(Row(1, "1", (), text=text)) is None


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("Write to ann.lee+x@mail.example.org.", "an e-mail address"),
        ("Ring +49 30 1234 5678 at noon.", "a telephone number"),
        ("Meet @ann at 3 + 4 pm, rated 5@10.", None),
    ],
    ids=["an address", "a number", "neither"],
)
def test_contacts_are_counted_as_information(text: str, kind: str | None) -> None:
    rule = _rule(rules.ROW_RULES, "contact_data")
    problem = rule.problem(Row(1, "1", (), text=text))
    assert rule.severity == "info"
    assert problem == (f"the text holds {kind}" if kind else None)


HOSTILE = [
    "eyJ-",
    "sk-",
    "a@a.",
    "+1 ",
    "4111 ",
    "AB12 ",
    "ghp_",
    "-----BEGIN ",
    "eyJaaaaaaaaaaaa.",
    "A",
    "1",
    "@",
    "xoxb-",
]


@pytest.mark.parametrize("part", HOSTILE)
def test_looking_for_secrets_takes_time_linear_in_the_text(part: str) -> None:
    def seconds(length: int) -> float:
        row = Row(1, "1", (), text=(part * length)[:length])
        start = time.process_time()
        for rule in rules.ROW_RULES:
            rule.problem(row)
        return time.process_time() - start

    assert seconds(400_000) < 2.0  # quadratic time would be minutes


@given(st.integers(10**14, 10**15 - 1))
def test_exactly_one_check_digit_makes_a_card_number(stem: int) -> None:
    assert sum(luhn(f"{stem}{digit}") for digit in range(10)) == 1


@given(st.text("ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789", min_size=11, max_size=30))
def test_the_check_digits_of_an_account_decide(account: str) -> None:
    valid = [check for check in range(2, 99) if iban(f"DE{check:02}{account}")]
    assert len(valid) == 1


# case: (row, rule, the sentence)
SENTENCES: list[tuple[str, dict[str, Any], str, str]] = [
    (
        "content that is an object", {**ALPACA, "output": {"answer": "b"}}, "missing_content",
        "Row 1: message 2 (assistant) is an object and no text; write it as text (an object as its JSON text).",
    ),
    (
        "a part with a picture", _with(role="user", content=[{"type": "image_url"}, {"type": "text", "text": "a"}]), "picture_needed",
        "Row 1: message 1 (user) has a part of type `image_url`, and only text is trained; write it as text, calls under `tool_calls` and reasoning under `reasoning_content`, or remove the row.",
    ),
    (
        "a picture for a placeholder", {"image": "1.jpg", "conversations": [{"from": "human", "value": "<image>\na"}, {"from": "gpt", "value": "b"}]},
        "picture_needed",
        "Row 1: `<image>` in message 1 (user) stands for what `image` holds, and only text is trained; write it as text, calls under `tool_calls` and reasoning under `reasoning_content`, or remove the row.",
    ),
    (
        "a schema that is none", _tool(name="f", parameters={"type": "object", "properties": {"a": "int"}}), "bad_tool_json",
        "Row 1: tool 1 of `tools` (`f`) is no JSON Schema at `parameters.properties.a`: 'int' is not of type 'object', 'boolean'; write it as the model is to write it.",
    ),
    (
        "an argument of another tool", _calling("f", {"a": 1, "b": 2}), "tool_call_mismatch",
        "Row 1: a tool call of message 2 gives `b`, which is no parameter of `f`; correct the call or the tool.",
    ),
]  # fmt: skip


@pytest.mark.parametrize(
    ("row", "rule", "text"), [row[1:] for row in SENTENCES], ids=[row[0] for row in SENTENCES]
)
def test_a_sentence_names_the_place_and_the_change(row: dict[str, Any], rule: str, text: str) -> None:
    found = examine(lines(json.dumps(row).encode()), "train")[0].findings()
    assert {item.rule: item.message for item in found}[rule] == text


def test_every_field_that_nothing_reads_is_told_of_all_rows() -> None:
    rows = [{**PAIR, "metadata": 1, "note": 2}, PAIR, {**PAIR, "page": 3}, _answer(mood="good", metadata=1)]
    (found,) = (
        item
        for item in examine(lines(*(json.dumps(row).encode() for row in rows)), "train")[0].findings()
        if item.rule == "message_unrecognized_key"
    )
    told = "`metadata`, `note`, `page`, `mood` of a message, `metadata` of a message"
    assert (
        found.message == f"Rows 1, 3, 4: there are fields that nothing reads: {told}; rename or remove them."
    )


def test_of_many_fields_that_nothing_reads_the_first_are_told() -> None:
    rows = [json.dumps({**PAIR, f"x{n:02}": 1}).encode() for n in range(30)]
    structure, _ = examine(lines(*rows), "train")
    message = next(item.message for item in structure.findings() if item.rule == "message_unrecognized_key")
    assert "`x18`, `x19` and more; rename" in message
