"""Reasoning and the rest of an answer's text."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from finetune_trainer.chat.reasoning import opens, split_reasoning, with_reasoning


@pytest.mark.parametrize(
    ("text", "opened", "reasoning", "rest"),
    [
        pytest.param("yes", False, "", "yes", id="an answer alone"),
        pytest.param("<think>\nso\n</think>\n\nyes", False, "so", "yes", id="a block before the answer"),
        pytest.param("<think>\n\n</think>\n\nyes", False, "", "yes", id="an empty block"),
        pytest.param("so\n</think>\n\nyes", True, "so", "yes", id="a block that the prompt opened"),
        pytest.param("\n</think>\n\nyes", True, "", "yes", id="one that is closed at once"),
        pytest.param("\n</think>\n\nyes", False, "", "yes", id="an end without anything before it"),
        pytest.param("<think>\nso", False, "so", "", id="a block that was cut off"),
        pytest.param("so", True, "so", "", id="a block that the prompt opened and that was cut off"),
        pytest.param(
            "the tag </think> ends it", False, "", "the tag </think> ends it", id="a text about tags"
        ),
        pytest.param("", False, "", "", id="nothing"),
    ],
)
def test_reasoning_is_told_from_the_answer(text: str, opened: bool, reasoning: str, rest: str) -> None:
    assert split_reasoning(text, opened=opened) == (reasoning, rest)


@given(st.text().filter(lambda text: "think>" not in text))
def test_a_text_without_tags_is_the_answer(text: str) -> None:
    assert split_reasoning(text) == ("", text)


@pytest.mark.parametrize("opened", [True, False], ids=["the prompt opened it", "the answer opened it"])
@pytest.mark.parametrize(
    ("reasoning", "rest"),
    [
        pytest.param("so", "yes", id="reasoning and an answer"),
        pytest.param("", "yes", id="reasoning without words"),
        pytest.param("so", "", id="reasoning that was cut off"),
    ],
)
def test_what_an_engine_told_apart_is_told_apart_again(reasoning: str, rest: str, opened: bool) -> None:
    assert split_reasoning(with_reasoning(reasoning, rest), opened=opened) == (reasoning, rest)


def test_an_engine_without_a_parser_tells_the_whole_text() -> None:
    assert with_reasoning(None, "<think>\nso\n</think>\n\nyes") == "<think>\nso\n</think>\n\nyes"


@pytest.mark.parametrize(
    ("prompt", "opened"),
    [("assistant\n<think>\n", True), ("assistant\n<think>\n\n</think>\n\n", False), ("assistant\n", False)],
    ids=["it opens a block", "it holds a whole block", "it holds none"],
)
def test_a_prompt_may_open_reasoning(prompt: str, opened: bool) -> None:
    assert opens(prompt) == opened
