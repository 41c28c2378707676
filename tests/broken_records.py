"""Records with one defect each, made from real ones, to measure how well the rules about single rows find them."""

import json
from collections.abc import Callable
from random import Random
from typing import Any

Record = dict[str, Any]
Break = Callable[[Record, Random], Any]


def _letters(length: int) -> str:
    return ("aB3dE5gH7jK9mN1pQ2sT4vW6yZ8" * 4)[:length]


# Put together here, so that no scanner takes this file for a leak.
SECRETS = {
    "an AWS access key": "AKIA" + "Q3EGRIVRBGXAT7PL",
    "a GitHub token": "ghp_" + _letters(36),
    "a GitLab token": "glpat-" + _letters(20),
    "a Slack token": "xoxb-" + "123456789012-" + _letters(24),
    "an API key": "sk-" + "proj-" + _letters(48),
    "a Stripe key": "sk_live_" + _letters(24),
    "a Google API key": "AIza" + _letters(35),
    "a Hugging Face token": "hf_" + _letters(34),
    "a private key": "-----BEGIN RSA " + "PRIVATE KEY-----",
    "a JSON web token": "eyJ" + _letters(20) + ".eyJ" + _letters(30) + "." + _letters(43),
    "a payment card number": "4111 1111 1111 1111",
    "a bank account number (IBAN)": "DE89 3704 0044 0532 0130 00",
}


def line(broken: Any) -> str:
    """The record as its file holds it; text is taken as it is."""
    return broken if isinstance(broken, str) else json.dumps(broken)


def _with_turns(record: Record, turns: list[Any]) -> Record:
    return {**record, "messages": turns}


def _answered(record: Record, answer: Any) -> Record:
    return _with_turns(record, [*record["messages"][:-1], answer])


def _inserted(record: Record, words: str, random: Random) -> Record:
    """The record with words in the middle of what the user says."""
    *before, ask, answer = record["messages"]
    said = ask["content"].split()
    place = random.randrange(1, len(said))
    content = " ".join([*said[:place], words, *said[place:]])
    return _with_turns(record, [*before, {**ask, "content": content}, answer])


def _secret(record: Record, random: Random) -> Record:
    return _inserted(record, SECRETS[random.choice(sorted(SECRETS))], random)


def _call(record: Record, arguments: str) -> Record:
    call = {"id": "1", "type": "function", "function": {"name": "look_up", "arguments": arguments}}
    return _answered(record, {"role": "assistant", "tool_calls": [call]})


def _tool(name: str) -> Record:
    parameters = {"type": "object", "properties": {"word": {"type": "string"}}}
    return {"type": "function", "function": {"name": name, "parameters": parameters}}


BREAKS: dict[tuple[str, str], Break] = {
    ("unreadable_json", "a line cut off"): lambda r, rnd: json.dumps(r)[: rnd.randrange(20, 90)],
    ("unreadable_json", "NaN"): lambda r, _: json.dumps({**r, "id": float("nan")}),
    ("data_type", "a list"): lambda r, _: [r],
    ("missing_messages_list", "no messages"): lambda r, _: _with_turns(r, []),
    ("message_missing_key", "a turn without content"): lambda r, _: _answered(r, {"role": "assistant"}),
    ("message_unrecognized_key", "a misspelt field"): lambda r, _: _answered(
        r, {**r["messages"][-1], "wieght": 1}
    ),
    ("message_unrecognized_key", "a field of the row that nothing reads"): lambda r, _: {**r, "mood": "glad"},
    ("picture_left_out", "a picture beside the messages"): lambda r, _: {**r, "images": ["a.png"]},
    ("picture_needed", "a picture within a message"): lambda r, _: _with_turns(
        r, [{"role": "user", "content": [{"type": "image_url", "image_url": "a.png"}]}, r["messages"][-1]]
    ),
    ("message_mask", "a weight of 2"): lambda r, _: _answered(r, {**r["messages"][-1], "weight": 2}),
    ("unrecognized_role", "a bot"): lambda r, _: _answered(r, {**r["messages"][-1], "role": "bot"}),
    ("missing_content", "an empty answer"): lambda r, _: _answered(r, {"role": "assistant", "content": " "}),
    ("missing_assistant", "no answer"): lambda r, _: _with_turns(r, r["messages"][:-1]),
    ("last_turn_not_assistant", "the user has the last word"): lambda r, _: _with_turns(
        r, [*r["messages"], {"role": "user", "content": "Thanks."}]
    ),
    ("role_order", "the user twice in a row"): lambda r, _: _with_turns(
        r, [*r["messages"][:-1], r["messages"][-2], r["messages"][-1]]
    ),
    ("bad_tool_json", "arguments cut off"): lambda r, _: _call(r, '{"name": "x'),
    ("tool_call_mismatch", "a call of another tool"): lambda r, _: {
        **_call(r, "{}"),
        "tools": [_tool("look_down")],
    },
    ("tool_call_mismatch", "an argument of another tool"): lambda r, _: {
        **_call(r, '{"place": 1}'),
        "tools": [_tool("look_up")],
    },
    ("synthetic_unreviewed", "synthetic"): lambda r, _: {**r, "source": "synthetic"},
    ("negative_examples", "rated badly"): lambda r, _: {**r, "rating": -1},
    ("preference_data", "a preferred answer"): lambda r, _: {**r, "chosen": "a", "rejected": "b"},
    ("secrets_pii", "a key, card or account"): _secret,
    ("contact_data", "an e-mail address"): lambda r, rnd: _inserted(r, "jane.doe@example.org", rnd),
    ("contact_data", "a telephone number"): lambda r, rnd: _inserted(r, "+49 30 1234 5678", rnd),
}
# What FAULTY acts on: it writes no end token, leaves out what follows, raises an exception.
UNSTOPPED, UNWRITTEN, RAISES = "(unfinished)", "(unwritten)", "(raises)"


def _said_last(record: Record, words: str) -> Record:
    answer = record["messages"][-1]
    return _answered(record, {**answer, "content": f"{answer['content']} {words}"})


def _with_system(record: Record) -> Record:
    return _with_turns(record, [{"role": "system", "content": "Be brief."}, *record["messages"]])


def _with_reasoning(record: Record) -> Record:
    return _answered(record, {**record["messages"][-1], "reasoning_content": "The review says so."})


def _beyond_the_limit(record: Record, random: Random) -> Record:
    """A question so long that the answer is beyond what a row may have."""
    return _inserted(record, "and so on " * 400, random)


# Seen only as tokens, of a base model whose chat template is FAULTY.
TOKEN_BREAKS: dict[tuple[str, str], Break] = {
    ("eos_not_trained", "an answer without a stop"): lambda r, _: _said_last(r, UNSTOPPED),
    ("too_long", "an answer cut off"): _beyond_the_limit,
    ("no_trainable_tokens", "an answer cut off"): _beyond_the_limit,
    ("too_short", "an answer of one letter"): lambda r, _: _answered(
        r, {"role": "assistant", "content": "x"}
    ),
    ("template_error", "a message that the template refuses"): lambda r, rnd: _inserted(r, RAISES, rnd),
    ("template_drops_content", "words that it leaves out"): lambda r, rnd: _inserted(r, UNWRITTEN, rnd),
    ("template_drops_system", "a system message that it leaves out"): lambda r, _: _with_system(r),
    ("template_drops_tools", "functions that it leaves out"): lambda r, _: {**r, "tools": [_tool("look_up")]},
    ("template_drops_calls", "a call that it leaves out"): lambda r, _: _call(r, '{"word": "tide"}'),
    ("template_drops_reasoning", "reasoning that it leaves out"): lambda r, _: _with_reasoning(r),
    ("special_tokens", "an end token as text"): lambda r, rnd: _inserted(r, "<|im_end|>", rnd),
    ("foreign_special_tokens", "another template's marks"): lambda r, rnd: _inserted(r, "[INST]", rnd),
}
FAULTY = (
    f"{{% for m in messages if m.role != 'system' %}}{{% if '{RAISES}' in m.content %}}"
    f"{{{{ raise_exception('no') }}}}{{% endif %}}<|im_start|>{{{{ m.role }}}}\n"
    f"{{{{ m.content.split('{UNWRITTEN}')[0] }}}}"
    f"{{% if '{UNSTOPPED}' not in m.content %}}<|im_end|>\n{{% endif %}}{{% endfor %}}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
