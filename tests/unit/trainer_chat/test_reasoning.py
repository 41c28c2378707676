"""Reasoning and the rest of an answer's text."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from finetune_trainer.chat.reasoning import opens, split_reasoning


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


@pytest.mark.parametrize(
    ("prompt", "opened"),
    [("assistant\n<think>\n", True), ("assistant\n<think>\n\n</think>\n\n", False), ("assistant\n", False)],
    ids=["it opens a block", "it holds a whole block", "it holds none"],
)
def test_a_prompt_may_open_reasoning(prompt: str, opened: bool) -> None:
    assert opens(prompt) == opened
