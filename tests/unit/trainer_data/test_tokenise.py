"""Labels cover exactly what the assistant says and its end token; the token rules see the rest."""

from collections.abc import Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from finetune_trainer.chat.tokenizer import ChatTokenizer, load_tokenizer
from finetune_trainer.data import rules
from finetune_trainer.data.findings import Finding, errors
from finetune_trainer.data.formats import Row, canonical
from finetune_trainer.data.tokenise import IGNORE_INDEX, Encoded, Unrendered, encode_rows
from finetune_trainer.data.tokens import tabulate
from finetune_trainer.errors import UserError


def _findings(tokenizer: ChatTokenizer, rows: list[Row], limit: int) -> list[Finding]:
    """What the token rules say about rows."""
    return tabulate(tokenizer, encode_rows(tokenizer, rows), limit).findings(tokenizer, limit + 1)


def _row(*turns: tuple[str, str], number: int = 1) -> Row:
    return Row(number, str(number), tuple({"role": role, "content": content} for role, content in turns))


def _decode(tokenizer: ChatTokenizer, ids: Sequence[int]) -> str:
    return str(tokenizer._tokenizer.decode(ids))


def _changed(tokenizer: ChatTokenizer, vocabulary: int | None = None, **attributes: Any) -> ChatTokenizer:
    """The tokenizer with other attributes, as a base model's files could give them."""
    copy = deepcopy(tokenizer._tokenizer)
    for name, value in attributes.items():
        setattr(copy, name, value)
    return ChatTokenizer(copy, tokenizer.stop_ids, vocabulary)


def _encoded(tokenizer: ChatTokenizer, row: Row) -> Encoded:
    (result,) = encode_rows(tokenizer, [row])
    assert isinstance(result, Encoded), result
    return result


def _trained_text(tokenizer: ChatTokenizer, encoded: Encoded) -> str:
    return _decode(tokenizer, [label for label in encoded.labels.tolist() if label != IGNORE_INDEX])


def _names(tokenizer: ChatTokenizer, row: Encoded | Unrendered, limit: int = 64) -> list[str]:
    return [rule.name for rule in rules.token_rules(tokenizer, limit) if rule.problem(row)]


def test_every_assistant_turn_and_its_end_token_are_trained_and_nothing_else(
    tokenizer: ChatTokenizer,
) -> None:
    turns = (
        ("system", "Be brief"),
        ("user", "Hi"),
        ("assistant", "Hello"),
        ("user", "More"),
        ("assistant", "Yes"),
    )
    encoded = _encoded(tokenizer, _row(*turns))
    assert _trained_text(tokenizer, encoded) == "Hello<|im_end|>Yes<|im_end|>"
    assert encoded.stops
    assert encoded.prefix_kept
    assert encoded.trained == sum(label != IGNORE_INDEX for label in encoded.labels.tolist())
    assert _names(tokenizer, encoded) == []


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        ({"weight": 0}, {}, "Yes<|im_end|>"),
        ({}, {"train": False}, "Hello<|im_end|>"),
        ({"train": True}, {"weight": 1}, "Hello<|im_end|>Yes<|im_end|>"),
        ({"weight": 0}, {"train": False}, ""),
    ],
    ids=["the first has no weight", "the second is not trained", "both are asked for", "none is trained"],
)
def test_weight_and_train_choose_the_trained_turns(
    tokenizer: ChatTokenizer, first: dict[str, Any], second: dict[str, Any], expected: str
) -> None:
    user, hello, more, yes = _row(
        ("user", "Hi"), ("assistant", "Hello"), ("user", "More"), ("assistant", "Yes")
    ).messages
    encoded = _encoded(tokenizer, Row(1, "1", (user, {**hello, **first}, more, {**yes, **second})))
    assert _trained_text(tokenizer, encoded) == expected
    assert ("no_trainable_tokens" in _names(tokenizer, encoded)) == (not expected)


def test_only_the_completion_of_a_pair_of_messages_is_trained(tokenizer: ChatTokenizer) -> None:
    before = [
        {"role": "user", "content": "a"},
        {"role": "assistant", "content": "b"},
        {"role": "user", "content": "c"},
    ]
    encoded = _encoded(tokenizer, canonical(1, {"prompt": before, "completion": "d"}))
    assert _trained_text(tokenizer, encoded) == "d<|im_end|>"


def test_text_is_trained_as_a_whole_with_an_end_token(tokenizer: ChatTokenizer) -> None:
    encoded = _encoded(tokenizer, Row(1, "1", (), text="the user"))
    assert encoded.labels.tolist() == encoded.ids.tolist()
    assert _decode(tokenizer, encoded.ids.tolist()) == "the user<|im_end|>"
    assert encoded.stops
    closed = _encoded(tokenizer, Row(1, "1", (), text="the user<|im_end|>"))
    assert closed.ids.tolist() == encoded.ids.tolist()


def test_the_template_is_told_about_tools_and_calls(tokenizer: ChatTokenizer) -> None:
    template = (
        "{% for t in tools or [] %}[{{ t.function.name }}]{% endfor %}{% for m in messages %}<|im_start|>{{ m.role }}\n"
        "{{ m.content }}{% for c in m.tool_calls %}{{ c.function.arguments.word }}{% endfor %}<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )
    call = {"type": "function", "function": {"name": "look_up", "arguments": '{"word": "Haus"}'}}
    row = canonical(
        1,
        {
            "messages": [{"role": "user", "content": "a"}, {"role": "assistant", "tool_calls": [call]}],
            "tools": [{"type": "function", "function": {"name": "look_up"}}],
        },
    )
    encoded = _encoded(_changed(tokenizer, chat_template=template), row)
    assert _decode(tokenizer, encoded.ids.tolist()).startswith("[look_up]<|im_start|>")
    assert _trained_text(tokenizer, encoded) == "Haus<|im_end|>"


text = st.text(st.characters(blacklist_categories=("Cs",)), min_size=1, max_size=40).filter(
    lambda value: bool(value.strip()) and "<|" not in value
)


@settings(max_examples=60, deadline=None)
@given(prompt=text, answer=text)
def test_for_any_text_labels_equal_the_ids_where_trained_and_the_prompt_is_a_prefix(
    tokenizer: ChatTokenizer, prompt: str, answer: str
) -> None:
    row = _row(("user", prompt), ("assistant", answer))
    encoded = _encoded(tokenizer, row)
    asked = tokenizer.prompt_ids(row.messages[:1])
    learned = encoded.labels != IGNORE_INDEX
    assert encoded.labels[learned].tolist() == encoded.ids[learned].tolist()
    assert encoded.prefix_kept == (encoded.ids.tolist()[: len(asked)] == asked)
    if encoded.prefix_kept:
        assert set(encoded.labels[: len(asked)].tolist()) == {IGNORE_INDEX}
        assert _trained_text(tokenizer, encoded) == answer + "<|im_end|>"


conversation = st.lists(st.tuples(text, text), min_size=1, max_size=3)


@settings(max_examples=40, deadline=None)
@given(st.lists(conversation | text, max_size=5))
def test_rows_are_encoded_together_as_they_are_alone(
    tokenizer: ChatTokenizer, contents: list[list[tuple[str, str]] | str]
) -> None:
    rows = [
        Row(number, "x", (), text=content)
        if isinstance(content, str)
        else _row(
            *(
                (role, part)
                for turn in content
                for role, part in zip(("user", "assistant"), turn, strict=True)
            ),
            number=number,
        )
        for number, content in enumerate(contents, start=1)
    ]
    together = encode_rows(tokenizer, rows)
    assert [result.number for result in together] == [row.number for row in rows]
    for row, result in zip(rows, together, strict=True):
        alone = _encoded(tokenizer, row)
        assert isinstance(result, Encoded)
        assert (result.ids.tolist(), result.labels.tolist()) == (alone.ids.tolist(), alone.labels.tolist())
        assert (result.stops, result.prefix_kept) == (alone.stops, alone.prefix_kept)


def test_a_row_that_does_not_render_does_not_move_the_others(tokenizer: ChatTokenizer) -> None:
    good = _row(("user", "a"), ("assistant", "b"))
    bad = _row(("alien", "a"), ("assistant", "b"), number=2)
    first, refused, last = encode_rows(tokenizer, [good, bad, good])
    assert isinstance(refused, Unrendered)
    assert (refused.number, refused.problem) == (2, "no such role")
    assert isinstance(first, Encoded)
    assert isinstance(last, Encoded)
    assert first.ids.tolist() == last.ids.tolist() == _encoded(tokenizer, good).ids.tolist()


ENDLESS = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}{% if add_generation_prompt %}assistant: {% endif %}"
SHARED = "{% for m in messages %}{{ m.role }}:{{ m.content }}<|im_end|>{% endfor %}{% if add_generation_prompt %}assistant:{% endif %}"


def test_a_template_without_an_end_token_is_an_error(tokenizer: ChatTokenizer) -> None:
    endless = _changed(tokenizer, chat_template=ENDLESS)
    found = _findings(endless, [_row(("user", "a"), ("assistant", "b"))], 64)
    finding = next(finding for finding in found if finding.number == 18)
    assert (finding.severity, finding.rows) == ("error", (1,))
    assert "would not learn to stop" in finding.message


def test_one_answer_of_many_without_an_end_token_is_an_error(tokenizer: ChatTokenizer) -> None:
    once = (
        "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}{% if m.content != 'open' %}<|im_end|>{% endif %}"
        "\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )
    row = _row(("user", "a"), ("assistant", "open"), ("user", "b"), ("assistant", "shut"))
    assert _names(tokenizer, _encoded(_changed(tokenizer, chat_template=once), row)) == ["eos_not_trained"]


def test_an_answer_that_shares_a_token_with_the_prompt_is_a_warning(tokenizer: ChatTokenizer) -> None:
    """Asked with `assistan`, the answer `t ans` completes a word that the vocabulary has as one token."""
    template = SHARED.replace("{{ m.role }}:", "{{ m.role[:8] }}").replace("assistant:", "assistan")
    encoded = _encoded(
        _changed(tokenizer, chat_template=template), _row(("user", "a"), ("assistant", "t ans"))
    )
    assert not encoded.prefix_kept
    assert _names(tokenizer, encoded) == ["prompt_not_prefix"]
    assert _trained_text(tokenizer, encoded) == " ans<|im_end|>"


def test_an_unknown_character_before_an_answer_does_not_look_like_a_shared_token(
    tokenizer: ChatTokenizer,
) -> None:
    """A vocabulary of pieces of words writes the template's line feed as its token for the unknown."""
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    core = Tokenizer(models.BPE(unk_token="<unk>"))
    core.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
    specials = ["<unk>", "<|im_start|>", "<|im_end|>"]
    core.train_from_iterator(
        ["the user asks and the assistant answers"],
        trainers.BpeTrainer(vocab_size=90, special_tokens=specials),
    )
    wrapped = PreTrainedTokenizerFast(tokenizer_object=core, unk_token="<unk>", eos_token="<|im_end|>")
    wrapped.chat_template = tokenizer._tokenizer.chat_template
    pieces = ChatTokenizer(wrapped, frozenset({2}))
    encoded = _encoded(pieces, _row(("user", "the user"), ("assistant", "the answers")))
    assert 0 in encoded.ids.tolist()
    assert _names(pieces, encoded) == []


def test_no_template_is_an_error_for_conversations_and_none_for_text(tokenizer: ChatTokenizer) -> None:
    bare = _changed(tokenizer, chat_template=None)
    assert [finding.number for finding in errors(rules.tokenizer_findings(bare, chat=True))] == [16]
    assert errors(rules.tokenizer_findings(bare, chat=False)) == []
    assert errors(_findings(bare, [Row(1, "1", (), text="the user")], 64)) == []


def test_a_template_that_refuses_a_row_is_quoted(tokenizer: ChatTokenizer) -> None:
    refuses = _changed(
        tokenizer, chat_template="{{ raise_exception('Only user and assistant roles are supported') }}"
    )
    (finding,) = _findings(refuses, [_row(("user", "a"), ("assistant", "b"))], 64)
    assert (finding.number, finding.severity) == (17, "error")
    assert finding.message.startswith(
        "Row 1: it does not render: Only user and assistant roles are supported;"
    )


def test_a_template_that_rewrites_earlier_turns_is_trained_one_row_per_answer(
    tokenizer: ChatTokenizer,
) -> None:
    hides = (
        "{% for m in messages %}{% if loop.last or m.role != 'assistant' %}<|im_start|>{{ m.role }}\n"
        "{{ m.content }}<|im_end|>\n{% endif %}{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )
    row = _row(("user", "a"), ("assistant", "b"), ("user", "c"), ("assistant", "d"))
    hiding = _changed(tokenizer, chat_template=hides)
    results = [result for result in encode_rows(hiding, [row, row]) if isinstance(result, Encoded)]
    assert [_trained_text(tokenizer, result) for result in results] == ["b<|im_end|>", "d<|im_end|>"] * 2
    assert all(result.split for result in results)
    table = tabulate(hiding, results, 64)
    assert (table.split, len(table.kept)) == (1, 4)
    (told,) = [item for item in table.findings(hiding, 64) if item.rule == "split_rows"]
    assert told.severity == "info"
    assert "4 rows in all" in told.message
    untrained = Row(1, "1", (row.messages[0], {**row.messages[1], "weight": 0}, *row.messages[2:]))
    assert _trained_text(tokenizer, _encoded(hiding, untrained)) == "d<|im_end|>"


def _fake(length: int, trained: int, tail: int = 0, **facts: bool) -> Encoded:
    """A row whose last `trained` tokens before `tail` untrained ones are trained."""
    mask = [False] * (length - trained - tail) + [True] * trained + [False] * tail
    return Encoded(
        1, np.ones(length, np.int32), np.array(mask), **{"stops": True, "prefix_kept": True, **facts}
    )


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        (_fake(10, 3), []),
        (_fake(14, 3), ["no_trainable_tokens"]),
        (_fake(10, 0), ["no_trainable_tokens"]),
        (_fake(10, 10, stops=False), ["eos_not_trained"]),
        (_fake(10, 3, prefix_kept=False), ["prompt_not_prefix"]),
        (Unrendered(1, "why"), ["template_error"]),
    ],
    ids=["good", "cut off", "nothing trained", "no end token", "a shared token", "not rendered"],
)
def test_the_token_rules(tokenizer: ChatTokenizer, row: Encoded | Unrendered, expected: list[str]) -> None:
    beginless = _changed(tokenizer, bos_token=None)
    assert _names(beginless, row, limit=10) == expected


def test_a_token_without_an_embedding_is_an_error(tokenizer: ChatTokenizer) -> None:
    """Training would end at it, after the GPUs were held."""
    encoded = _encoded(tokenizer, _row(("user", "a"), ("assistant", "b")))
    most = int(encoded.ids.max())
    assert _names(_changed(tokenizer, vocabulary=most), encoded) == ["no_embedding"]
    assert _names(_changed(tokenizer, vocabulary=most + 1), encoded) == []


def test_two_begin_tokens_are_a_warning(tokenizer: ChatTokenizer) -> None:
    doubled = "<|im_start|>" + str(tokenizer._tokenizer.chat_template)
    row = _row(("user", "a"), ("assistant", "b"))
    assert _names(tokenizer, _encoded(_changed(tokenizer, chat_template=doubled), row)) == ["double_bos"]
    assert _names(tokenizer, _encoded(tokenizer, row)) == []


def test_a_row_is_cut_without_losing_count(tokenizer: ChatTokenizer) -> None:
    row = _fake(12, 4, tail=2)
    assert [row.answer_cut(limit) for limit in (9, 10, 12)] == [True, False, False]
    assert (len(row.cut(10).ids), row.cut(10).trained, row.cut(7).trained) == (10, 4, 1)


@pytest.mark.parametrize(
    ("attributes", "expected"),
    [
        ({}, []),
        ({"chat_template": None}, [16]),
        ({"chat_template": ENDLESS}, []),
        ({"chat_template": SHARED.replace("<|im_end|>", "<end>")}, [19]),
        ({"chat_template": SHARED}, []),
        ({"pad_token": "<|im_end|>"}, [20]),
        ({"pad_token": None}, []),
        ({"vocabulary": 3}, []),
        ({"vocabulary": 2}, [23]),
    ],
    ids=[
        "a good one", "no template", "no end of turn", "an end of many tokens", "an end of one token", "pad is end",
        "no pad", "all tokens known", "a token without embedding",
    ],
)  # fmt: skip
def test_the_rules_about_the_tokenizer(
    tokenizer: ChatTokenizer, attributes: dict[str, Any], expected: list[int]
) -> None:
    findings = rules.tokenizer_findings(_changed(tokenizer, **attributes))
    assert [finding.number for finding in findings] == expected


def test_findings_about_the_tokenizer_name_what_is_wrong(tokenizer: ChatTokenizer) -> None:
    strange = _changed(tokenizer, vocabulary=2, chat_template=SHARED.replace("<|im_end|>", "<end>"))
    ends, new = rules.tokenizer_findings(strange)
    assert "'<end>', which is 5 tokens" in ends.message
    assert "no embedding for 1 token (`<|im_end|>`)" in new.message
    assert (ends.severity, new.severity) == ("error", "warning")


def test_a_base_without_a_tokenizer_is_refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    with pytest.raises(UserError, match="tokenizer"):
        load_tokenizer(tmp_path)


def test_end_tokens_come_from_the_generation_config_too(tiny_base: Path, tmp_path: Path) -> None:
    for name in ("tokenizer.json", "tokenizer_config.json", "config.json", "chat_template.jinja"):
        if (tiny_base / name).exists():
            (tmp_path / name).write_bytes((tiny_base / name).read_bytes())
    (tmp_path / "generation_config.json").write_text('{"eos_token_id": [0, 2]}')
    assert load_tokenizer(tmp_path).stop_ids == {0, 2}
