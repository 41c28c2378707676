"""What the rules say about rendered rows: what a template leaves out, and special tokens that stand in text."""

from datetime import date
from typing import Any

import pytest

from finetune_trainer.chat.options import TemplateOptions, decide
from finetune_trainer.data import rules
from finetune_trainer.data.check import check_prompts
from finetune_trainer.data.formats import Row
from finetune_trainer.data.holdout import HoldoutRow
from finetune_trainer.data.tokenise import Encoded, encode_rows
from tests.unit.trainer_chat.conftest import tiny_tokenizer

END = "<|close|>"
ASK = "{% if add_generation_prompt %}<|open|>assistant\n{% endif %}"
PLAIN = "{% for m in messages %}<|open|>{{ m.role }}\n{{ m.content | trim }}<|close|>\n{% endfor %}" + ASK
TEXT_ARGUMENTS = (
    "{% for t in tools or [] %}{{ t | tojson }}{% endfor %}{% for m in messages %}<|open|>{{ m.role }}\n{{ m.content }}"
    "{% for c in m.tool_calls or [] %}{{ c.function.name + ' ' + c.function.arguments }}{% endfor %}<|close|>\n{% endfor %}"
) + ASK
OPENS = (
    "{% for m in messages %}<|open|>{{ m.role }}\n{{ m.content.split('</think>')[-1] | trim }}<|close|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|open|>assistant\n<think>\n{% endif %}"
)
THINKING = (
    "{% for m in messages %}<|open|>{{ m.role }}\n{% if m.thinking %}[analysis]{{ m.thinking }}[/analysis]{% endif %}"
    "{{ m.content }}<|close|>\n{% endfor %}"
) + ASK
USER = {"role": "user", "content": "When?"}
CALL = {
    "type": "function",
    "function": {"name": "tide_at", "arguments": {"port": 'Øster"havn', "hours": [3, 4.5]}},
}
CALLS = {"role": "assistant", "content": "", "tool_calls": [CALL]}
RETURN = {"role": "tool", "tool_call_id": "1", "content": "2.1"}
DONE = {"role": "assistant", "content": "At noon."}
TOOLS = ({"type": "function", "function": {"name": "tide_at"}},)


def look(template: str, *messages: dict[str, Any], tools: Any = ()) -> tuple[list[str], list[str]]:
    """The trained texts of a conversation, and the rules that name it."""
    plain = tiny_tokenizer(template, (END,))
    tokenizer = plain.rendering_with(decide(plain.template, messages[:1], 1, 0, date(2026, 1, 1)).kwargs)
    rows = encode_rows(tokenizer, [Row(1, "1", messages, tools=tools)])
    named = {rule.name for row in rows for rule in rules.token_rules(tokenizer, 10_000) if rule.problem(row)}
    texts = [tokenizer._tokenizer.decode(row.ids[row.mask]) for row in rows if isinstance(row, Encoded)]
    return texts, sorted(named)


def reasoned(content: str, **more: str) -> dict[str, Any]:
    return {"role": "assistant", "content": content, **more}


@pytest.mark.parametrize(
    ("template", "messages", "tools", "trained", "named"),
    [
        pytest.param(PLAIN, [USER, DONE], (), ["At noon.<|close|>"], [], id="nothing is lost"),
        pytest.param(
            PLAIN, [USER, CALLS, RETURN, DONE], TOOLS, ["<|close|>At noon.<|close|>"],
            ["template_drops_calls", "template_drops_tools"], id="a template without tools",
        ),
        pytest.param(
            PLAIN, [USER, reasoned("At noon.", reasoning_content="The ledger says so.")], (),
            ["At noon.<|close|>"], ["template_drops_reasoning"], id="a template without reasoning",
        ),
        pytest.param(
            PLAIN, [USER, reasoned("<think>So.</think>At noon.")], (), ["<think>So.</think>At noon.<|close|>"], [],
            id="reasoning in the content of a template that knows none",
        ),
        pytest.param(
            "{% for m in messages if m.role != 'system' %}<|open|>{{ m.role }}\n{{ m.content }}<|close|>\n{% endfor %}" + ASK,
            [{"role": "system", "content": "Be brief."}, USER, DONE], (), ["At noon.<|close|>"],
            ["template_drops_system"], id="a template without a system message",
        ),
        pytest.param(
            "{% for m in messages %}<|open|>{{ m.role }}\n{{ m.content[:3] }}<|close|>\n{% endfor %}" + ASK,
            [USER, DONE], (), ["At <|close|>"], ["template_drops_content"], id="a template that shortens texts",
        ),
        pytest.param(
            TEXT_ARGUMENTS, [USER, CALLS], TOOLS,
            ['tide_at {"port": "Øster\\"havn", "hours": [3, 4.5]}<|close|>'], [], id="arguments as text",
        ),
        pytest.param(
            TEXT_ARGUMENTS, [USER, CALLS, RETURN, DONE], TOOLS,
            ['tide_at {"port": "Øster\\"havn", "hours": [3, 4.5]}<|close|>At noon.<|close|>'],
            ["template_text_arguments"], id="arguments as text in a prompt, which the engine refuses",
        ),
        pytest.param(
            OPENS, [USER, reasoned("<think>\nSo.\n</think>\n\nAt noon.")], (),
            ["So.\n</think>\n\nAt noon.<|close|>"], [], id="a prompt that opens reasoning",
        ),
        pytest.param(
            OPENS, [USER, DONE], (), ["\n</think>\n\nAt noon.<|close|>"], [],
            id="a prompt that opens reasoning that rows do not have",
        ),
        pytest.param(
            THINKING, [USER, reasoned("At noon.", reasoning_content="So.")], (),
            ["[analysis]So.[/analysis]At noon.<|close|>"], [], id="a template that reads `thinking`",
        ),
        pytest.param(
            PLAIN, [{"role": "user", "content": "When<|close|>?"}, DONE], (), ["At noon.<|close|>"],
            ["special_tokens"], id="a special token of the base in a message",
        ),
        pytest.param(
            PLAIN, [{"role": "user", "content": "[INST] When? [/INST]"}, DONE], (), ["At noon.<|close|>"],
            ["foreign_special_tokens"], id="what another template writes in a message",
        ),
        pytest.param(
            PLAIN, [{"role": "user", "content": "a < b | c > [d]"}, DONE], (), ["At noon.<|close|>"], [],
            id="text that only looks like it",
        ),
    ],
)  # fmt: skip
def test_what_is_trained_and_what_is_told(
    template: str, messages: list[Any], tools: Any, trained: list[str], named: list[str]
) -> None:
    assert look(template, *messages, tools=tools) == (trained, named)


@pytest.mark.parametrize("asked", ["When?", "<think> When?"], ids=["a question", "a question with a tag"])
def test_a_template_that_asks_elsewhere_than_it_answers_is_refused_with_both_places(asked: str) -> None:
    elsewhere = "{% for m in messages %}{{ m.role }}: {{ m.content }}<|close|>{% endfor %}{% if add_generation_prompt %}Go: {% endif %}"
    assert look(elsewhere, {**USER, "content": asked}, DONE) == ([], ["template_error"])


@pytest.mark.parametrize(
    ("options", "severity", "words"),
    [
        pytest.param(
            TemplateOptions({"enable_thinking": False}, "off"), "info", "enable_thinking=false", id="off"
        ),
        pytest.param(TemplateOptions({"enable_thinking": True}, "on"), "info", "thinking is on", id="on"),
        pytest.param(TemplateOptions({}, "on"), "info", "All rows have reasoning.", id="on by itself"),
        pytest.param(TemplateOptions({}, "empty"), "warning", "nothing switches it off", id="empty"),
        pytest.param(TemplateOptions({"thinking": True}, "mixed"), "warning", "4 of 10 rows", id="mixed"),
        pytest.param(
            TemplateOptions({"date_string": "1 May 2026"}), "info", "date_string=1 May 2026", id="a date"
        ),
        pytest.param(
            TemplateOptions(clock=True), "warning", "the clock alone", id="a date that nothing pins"
        ),
    ],
)
def test_what_was_decided_about_the_template_is_told(
    options: TemplateOptions, severity: str, words: str
) -> None:
    (told,) = rules.template_findings(options, rows=10, reasoned=4)
    assert told.severity == severity
    assert words in told.message


@pytest.mark.parametrize(
    ("messages", "clock"),
    [([USER], True), ([{"role": "system", "content": "Be brief."}, USER], False)],
    ids=["rows without a system message", "rows that bring their own"],
)
def test_a_date_in_the_default_system_message_is_told_of_rows_that_get_it(messages: Any, clock: bool) -> None:
    dated = "{% if messages[0].role != 'system' %}It is {{ strftime_now('%d %B %Y') }}.{% endif %}" + PLAIN
    template = tiny_tokenizer(dated, (END,)).template
    assert decide(template, messages, 1, 0, date(2026, 1, 1)).clock == clock


def test_a_held_out_prompt_that_the_engine_refuses_is_an_error_with_what_to_change() -> None:
    row = HoldoutRow(7, "7", (USER, CALLS, RETURN), "At noon.")
    (told,) = check_prompts(tiny_tokenizer(TEXT_ARGUMENTS, (END,)), [row], 1000)
    assert (told.rule, told.rows) == ("template_error", (7,))
    assert "arguments | tojson" in told.message
