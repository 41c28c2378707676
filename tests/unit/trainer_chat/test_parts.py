"""Content is a list of parts where the template loops over the content of a message, and text elsewhere."""

import jinja2
import pytest

from finetune_trainer.chat.parts import in_parts, takes_parts

LOOP = "{%% for message in messages %%}%s{%% endfor %%}"
OVER_CONTENT = "{% for part in message.content %}{{ part.text }}{% endfor %}"
TEMPLATES = {
    "it writes the content": (LOOP % "{{ message.content }}", False),
    "it loops over the content": (LOOP % OVER_CONTENT, True),
    "it loops over a slice of it": (
        LOOP % "{% for part in message['content'][1:] %}{{ part }}{% endfor %}",
        True,
    ),
    "the messages have another name": (
        "{% set turns = messages[1:] %}{% for turn in turns | list %}"
        "{% for part in turn['content'] | list %}{{ part }}{% endfor %}{% endfor %}",
        True,
    ),
    "a macro loops over the content that it is given": (
        "{% macro write(what) %}{% for part in what %}{{ part }}{% endfor %}{% endmacro %}"
        + LOOP % "{{ write(message.content) }}",
        True,
    ),
    "a macro gets it by name": (
        "{% macro write(what) %}{% for part in what %}{{ part }}{% endfor %}{% endmacro %}"
        + LOOP % "{{ write(what=message['content']) }}",
        True,
    ),
    "a macro loops over something else": (
        "{% macro write(content) %}{% for part in content %}{{ part }}{% endfor %}{% endmacro %}"
        + LOOP % "{{ write(message.tool_calls) }}",
        False,
    ),
    "it loops over a name that is `content`": (
        LOOP % "{% set content = message.content %}{% for part in content %}{{ part }}{% endfor %}",
        True,
    ),
    "a macro inside of the one that gets it loops over it": (
        "{% macro write(what) %}{% macro inner(other) %}{% for part in what %}{{ part }}{% endfor %}{% endmacro %}"
        "{{ inner(1) }}{% endmacro %}" + LOOP % "{{ write(message.content) }}",
        True,
    ),
    "it loops over calls": (
        LOOP % "{% for call in message.tool_calls %}{{ call }}{% endfor %}",
        False,
    ),
    "the messages are bound to a field, which vLLM cannot follow": (
        "{% set ns = namespace() %}{% set ns.turns = messages %}" + LOOP % OVER_CONTENT,
        False,
    ),
}


@pytest.mark.parametrize("name", TEMPLATES)
def test_parts_are_given_where_a_template_loops_over_them(name: str) -> None:
    template, expected = TEMPLATES[name]
    assert takes_parts(jinja2.Environment().parse(template)) is expected


@pytest.mark.parametrize(
    ("message", "content"),
    [
        pytest.param(
            {"role": "user", "content": "Hi"}, [{"type": "text", "text": "Hi"}], id="text becomes a part"
        ),
        pytest.param({"role": "assistant"}, [], id="a call without content has no part"),
        pytest.param({"role": "tool", "content": "2.1"}, "2.1", id="the result of a tool stays text"),
    ],
)
def test_a_message_is_given_as_the_engine_gives_it(message: dict[str, str], content: object) -> None:
    assert in_parts(message)["content"] == content
