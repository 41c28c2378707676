"""Labels cover exactly what the assistant says and its end token; the token rules see the rest."""

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from finetune_trainer.contracts import Spec
from finetune_trainer.data import token_rules
from finetune_trainer.data.check import tokenise
from finetune_trainer.data.formats import Row
from finetune_trainer.data.tokenise import (
    UNTRAINED,
    ChatTokenizer,
    Encoded,
    Unrendered,
    encode_row,
    load_tokenizer,
)
from finetune_trainer.errors import UserError
from finetune_trainer.planning.defaults import default_rate, effective_batch, make_plan


def _row(*turns: tuple[str, str], number: int = 1) -> Row:
    return Row(number, str(number), tuple({"role": role, "content": content} for role, content in turns))


def _decode(tokenizer: ChatTokenizer, ids: list[int]) -> str:
    return str(tokenizer._tokenizer.decode(ids))


def _retemplated(tokenizer: ChatTokenizer, template: str | None) -> ChatTokenizer:
    from copy import deepcopy

    copy = deepcopy(tokenizer._tokenizer)
    copy.chat_template = template
    return ChatTokenizer(copy, tokenizer.stop_ids)


def _encoded(tokenizer: ChatTokenizer, row: Row) -> Encoded:
    result = encode_row(tokenizer, row)
    assert isinstance(result, Encoded), result
    return result


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
    trained = [label for label in encoded.labels if label != UNTRAINED]
    assert _decode(tokenizer, trained) == "Hello<|im_end|>Yes<|im_end|>"
    assert encoded.stops
    assert encoded.prefix_kept
    assert encoded.trained == len(trained)


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
    assert all(
        label in (UNTRAINED, token) for label, token in zip(encoded.labels, encoded.input_ids, strict=True)
    )
    if encoded.prefix_kept:
        assert encoded.input_ids[: len(asked)] == asked
        assert set(encoded.labels[: len(asked)]) == {UNTRAINED}
        trained = [label for label in encoded.labels if label != UNTRAINED]
        assert _decode(tokenizer, trained) == answer + "<|im_end|>"


def test_a_template_without_an_end_token_is_an_error(tokenizer: ChatTokenizer) -> None:
    endless = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}{% if add_generation_prompt %}assistant: {% endif %}"
    result = tokenise(_retemplated(tokenizer, endless), [_row(("user", "a"), ("assistant", "b"))], 64)
    (finding,) = result.findings
    assert (finding.number, finding.severity, finding.rows) == (18, "error", (1,))
    assert "would not learn to stop" in finding.message


def test_no_template_is_an_error(tokenizer: ChatTokenizer) -> None:
    result = tokenise(_retemplated(tokenizer, None), [_row(("user", "a"), ("assistant", "b"))], 64)
    assert [finding.number for finding in result.findings] == [16]


def test_a_template_that_refuses_a_row_is_quoted(tokenizer: ChatTokenizer) -> None:
    refuses = "{{ raise_exception('Only user and assistant roles are supported') }}"
    (finding,) = tokenise(
        _retemplated(tokenizer, refuses), [_row(("user", "a"), ("assistant", "b"))], 64
    ).findings
    assert finding.number == 17
    assert (
        finding.message
        == "The chat template cannot render row 1: Only user and assistant roles are supported."
    )


def test_a_template_that_rewrites_earlier_turns_is_refused_not_mistrained(tokenizer: ChatTokenizer) -> None:
    hides = (
        "{% for m in messages %}{% if loop.last or m.role != 'assistant' %}<|im_start|>{{ m.role }}\n"
        "{{ m.content }}<|im_end|>\n{% endif %}{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )
    row = _row(("user", "a"), ("assistant", "b"), ("user", "c"), ("assistant", "d"))
    result = encode_row(_retemplated(tokenizer, hides), row)
    assert isinstance(result, Unrendered)
    assert "message 2 differently" in result.problem


def _fake(number: int, length: int, trained: int, tail: int = 0) -> Encoded:
    """A row whose last `trained` tokens before `tail` untrained ones are trained."""
    labels = [UNTRAINED] * (length - trained - tail) + [1] * trained + [UNTRAINED] * tail
    return Encoded(number, [1] * length, labels, stops=True, prefix_kept=True)


@pytest.mark.parametrize(
    ("rows", "severity"),
    [
        ([_fake(1, 10, 3)], None),
        ([_fake(1, 11, 3)], "error"),
        ([_fake(1, 11, 3, tail=1), *(_fake(i, 5, 1) for i in range(2, 102))], "warning"),
        ([_fake(1, 11, 3, tail=1), *(_fake(i, 5, 1) for i in range(2, 52))], "error"),
    ],
    ids=["fits", "an answer is cut", "only a tail is cut in under 1 %", "tails are cut in over 1 %"],
)
def test_too_long(rows: list[Encoded], severity: str | None) -> None:
    finding = token_rules.too_long(rows, 10)
    assert (finding.severity if finding else None) == severity


def test_a_row_without_a_trained_token_within_the_limit_is_an_error() -> None:
    finding = token_rules.no_trainable_tokens([_fake(1, 10, 3), _fake(2, 14, 3)], 10)
    assert finding is not None
    assert finding.rows == (2,)
    assert token_rules.no_trainable_tokens([_fake(1, 10, 3)], 10) is None


def test_a_shared_token_at_the_boundary_is_a_warning() -> None:
    row = Encoded(4, [1], [1], stops=True, prefix_kept=False)
    finding = token_rules.prompt_not_prefix([row])
    assert finding is not None
    assert (finding.number, finding.severity, finding.rows) == (21, "warning", (4,))


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


def _spec(**parts: Any) -> Spec:
    base = {
        "baseModel": {"source": "pvc://m/m"},
        "dataset": {"source": "pvc://d/d"},
        "output": {"destination": "pvc://o/o"},
    }
    return Spec.model_validate({**base, **parts})


@pytest.mark.parametrize(
    ("method", "steps", "rate"),
    [("LoRA", 99, 3e-4), ("LoRA", 100, 2e-4), ("Full", 99, 2e-5), ("Full", 100, 2e-5)],
)
def test_the_default_rate_is_ten_times_the_full_rate_or_fifteen_in_short_runs(
    method: str, steps: int, rate: float
) -> None:
    assert default_rate(method, steps) == rate


def test_what_the_job_says_is_used_as_it_is() -> None:
    spec = _spec(
        training={"epochs": 1, "learningRate": "1e-3", "effectiveBatchSize": 4, "maxLength": 64, "seed": 0},
        lora={"rank": 4, "alpha": 8},
    )
    plan = make_plan(spec, rows=10, longest=40, positions=128)
    assert plan.training() == {
        "epochs": 1, "learningRate": 1e-3, "effectiveBatchSize": 4, "maxLength": 64, "seed": 0, "steps": 3,
    }  # fmt: skip
    assert plan.lora() == {"rank": 4, "alpha": 8}


def test_the_length_follows_the_data_within_the_model() -> None:
    assert make_plan(_spec(), rows=10, longest=41, positions=128).max_length == 48
    assert make_plan(_spec(), rows=10, longest=127, positions=127).max_length == 127
    assert make_plan(_spec(method="Full"), rows=10, longest=9, positions=99).lora() is None


@settings(deadline=None)
@given(st.integers(1, 200))
def test_the_default_batch_fits_any_number_of_processes(processes: int) -> None:
    batch = effective_batch(None, processes)
    assert batch % processes == 0
    assert 8 <= batch < 8 + processes
