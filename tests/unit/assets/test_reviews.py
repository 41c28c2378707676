"""The rules that turn published reviews into rows, and the rows as committed."""

from __future__ import annotations

import json
from typing import Any

import pytest

from dev.assets import drug_reviews, reviews

CONDITIONS = {
    "a whole word": ("Acne", "Acne"),
    "a lost r": ("Bipolar Disorde", "Bipolar Disorder"),
    "a lost r after a slash": ("Pain/Feve", "Pain/Fever"),
    "a lost F": ("ibromyalgia", "Fibromyalgia"),
    "a lost or": ("Benign Essential Trem", "Benign Essential Tremor"),
    "a remnant of a web page": ("4</span> users found this comment helpful.", None),
    "a remnant of a product name": ("moterol)", None),
    "no condition": ("", None),
    "a list without a name": ("Not Listed / Othe", None),
}


@pytest.mark.parametrize(("raw", "wanted"), CONDITIONS.values(), ids=CONDITIONS.keys())
def test_conditions_are_repaired_or_refused(raw: str, wanted: str | None) -> None:
    assert reviews.condition(raw) == wanted


def test_reviews_become_one_plain_line_of_bounded_length() -> None:
    assert reviews.review('"I&#039;m\r\n  fine "') == "I'm fine"
    assert len(reviews.review("long " * 500)) <= reviews.REVIEW_CHARACTERS


def test_a_review_that_differs_only_in_punctuation_is_kept_once() -> None:
    rows = [
        {"condition": "Acne", "review": text, "rating": "positive"} for text in ("It works.", "it works!")
    ]
    assert len(reviews.distinct(rows, set())) == 1


def rows(name: str) -> list[list[dict[str, str]]]:
    text = (drug_reviews() / name).read_text(encoding="utf-8")
    return [json.loads(line)["messages"] for line in text.splitlines()]


@pytest.mark.parametrize("name", ["train.jsonl", "holdout.jsonl"])
def test_committed_rows_ask_and_answer_in_one_form(name: str) -> None:
    for messages in rows(name):
        assert [message["role"] for message in messages] == ["user", "assistant"]
        answer: dict[str, Any] = json.loads(messages[1]["content"])
        assert list(answer) == ["condition", "sentiment"]
        assert answer["sentiment"] in {"positive", "neutral", "negative"}
        assert reviews.condition(answer["condition"]) == answer["condition"]


def test_no_held_out_question_is_trained_on() -> None:
    train = {messages[0]["content"] for messages in rows("train.jsonl")}
    holdout = [messages[0]["content"] for messages in rows("holdout.jsonl")]
    assert len(holdout) == len(set(holdout)) == reviews.HOLDOUT_ROWS
    assert train.isdisjoint(holdout)


def test_the_data_fits_a_config_map() -> None:
    total = sum((drug_reviews() / name).stat().st_size for name in ("train.jsonl", "holdout.jsonl"))
    assert total < 1024 * 1024
