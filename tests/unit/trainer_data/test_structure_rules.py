"""Each structural rule: rows that it must name, and rows that it must leave alone."""

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from finetune_trainer.data import structure
from finetune_trainer.data.lines import read_lines
from finetune_trainer.data.load import check_structure

PAIR = {"prompt": "a", "completion": "b"}
USER = {"role": "user", "content": "a"}
ASSISTANT = {"role": "assistant", "content": "b"}
CHAT = {"messages": [{"role": "system", "content": "s"}, USER, ASSISTANT]}
CALL = {"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": {}}}]}


def _with(**message: Any) -> dict[str, Any]:
    return {"messages": [message, ASSISTANT]}


ROWS: list[tuple[Any, list[Any], list[Any]]] = [
    (
        structure.missing_messages_list,
        [{"messages": []}, {"messages": "text"}, {"messages": None}, {"question": "a"}, {}],
        [PAIR, CHAT, {"text": "a"}],
    ),
    (
        structure.message_missing_key,
        [{"prompt": "a"}, {"completion": "b"}, _with(role="user"), _with(content="a"), {"messages": ["a"]}],
        [PAIR, CHAT, {"messages": [USER, CALL]}],
    ),
    (
        structure.unrecognized_role,
        [_with(role="bot", content="a"), _with(role=None, content="a"), _with(role=["user"], content="a")],
        [CHAT, PAIR, _with(role="tool", content="a")],
    ),
    (
        structure.missing_content,
        [_with(role="user", content=""), _with(role="user", content=" \n"), _with(role="user", content=None),
         _with(role="user", content=[{"type": "text"}]), {"prompt": "a", "completion": ""}, {"prompt": 1, "completion": "b"}],
        [CHAT, PAIR, {"messages": [USER, {**CALL, "content": None}]}],
    ),
    (structure.missing_assistant, [{"messages": [USER]}], [CHAT, PAIR, {"messages": []}]),
    (
        structure.unsupported_format,
        [{"conversations": []}, {"instruction": "a", "output": "b"}, {"text": "a"}],
        [CHAT, PAIR, {"question": "a"}],
    ),
]  # fmt: skip
TRIGGERS = [(rule, row) for rule, wrong, _ in ROWS for row in wrong]
PASSES = [(rule, row) for rule, _, right in ROWS for row in right]


@pytest.mark.parametrize(
    ("rule", "row"), TRIGGERS, ids=[f"{r.__name__} {json.dumps(x)}" for r, x in TRIGGERS]
)
def test_a_wrong_row_is_named_with_its_number(rule: Any, row: Any) -> None:
    finding = rule([(1, CHAT), (7, row)])
    assert finding is not None
    assert (finding.severity, finding.count, finding.rows) == ("error", 1, (7,))
    assert "ow 7" in finding.message


@pytest.mark.parametrize(("rule", "row"), PASSES, ids=[f"{r.__name__} {json.dumps(x)}" for r, x in PASSES])
def test_a_right_row_is_left_alone(rule: Any, row: Any) -> None:
    assert rule([(7, row)]) is None


@pytest.mark.parametrize(
    ("raw", "rule", "text"),
    [
        (b'{"prompt": }', 1, "Expecting value at column 12"),
        (b'{"prompt": "\xff"}', 1, "byte 13 is not UTF-8"),
        (b"\xef\xbb\xbf{}", 1, "byte-order mark"),
        (b'{"prompt": NaN}', 1, "NaN is not a JSON number"),
        (b"[" * 100_000, 1, "not valid JSON"),
        (b"[1]", 2, "a list instead"),
        (b'"text"', 2, "a str instead"),
        (b"null", 2, "a NoneType instead"),
    ],
    ids=["broken", "not UTF-8", "byte-order mark", "NaN", "deeply nested", "list", "string", "null"],
)
def test_an_unreadable_line_is_named_with_its_number(raw: bytes, rule: int, text: str) -> None:
    good = json.dumps(PAIR).encode()
    (finding,) = check_structure(read_lines([good, b"\n", raw, good]), "train")
    assert (finding.number, finding.rows) == (rule, (3,))
    assert text in finding.message
    assert "ow 3 " in finding.message


def test_mixed_formats_are_told_apart_by_ranges_of_rows() -> None:
    rows = [(number, CHAT if number <= 900 else PAIR) for number in range(1, 951)]
    finding = structure.mixed_formats(rows)
    assert finding is not None
    assert finding.message == "Formats are mixed: rows 1-900 are messages, rows 901-950 are pairs; use one."
    assert (finding.count, len(finding.rows)) == (50, 20)


def test_one_format_is_not_mixed() -> None:
    assert structure.mixed_formats([(1, CHAT), (2, CHAT)]) is None


def test_a_hold_out_row_may_end_without_an_answer() -> None:
    lines = read_lines([json.dumps({"messages": [USER]}).encode(), json.dumps({"messages": [USER]}).encode()])
    assert check_structure(lines, "holdout") == []
    assert [finding.number for finding in check_structure(lines, "train")] == [10]


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3)
    | st.dictionaries(
        st.sampled_from(["messages", "role", "content", "prompt", "completion", "text", "tool_calls"]), inner, max_size=3
    ),
    max_leaves=10,
)  # fmt: skip


@settings(max_examples=300, deadline=None)
@given(st.lists(json_values, min_size=1, max_size=4))
def test_any_json_is_either_canonical_or_listed(values: list[Any]) -> None:
    """No row is dropped: with no error every row can be taken over as it is."""
    from finetune_trainer.data.findings import errors
    from finetune_trainer.data.formats import canonical

    lines = read_lines([json.dumps(value).encode() for value in values])
    if not errors(check_structure(lines, "train")):
        for line in lines:
            turns = canonical(line.number, line.value).messages
            assert any(turn["role"] == "assistant" for turn in turns)
