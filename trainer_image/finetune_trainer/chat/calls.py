"""How a chat template writes calls of functions, learned from what it writes, and calls read back from text.

The engine runs without a tool parser: a call is text that the model writes as its template would. Templates
write the arguments as one JSON object after the name, or one by one with text between names and values.
"""

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from os.path import commonprefix
from typing import Any

_NAME = r"[\w.\-]{1,128}"
# In no template; letters only, so that nothing quotes or splits them.
_FUNCTION, _OTHER, _KEYS = "vqzkhfn", "vqzkhother", ("vqzkhone", "vqzkhtwo")
_TEXTS, _NUMBERS = ("vqzkhred", "vqzkhblue"), (918273, 645362)


@dataclass(frozen=True)
class Call:
    """A function and what it is called with."""

    name: str
    arguments: Mapping[str, Any]

    def to_json(self) -> dict[str, Any]:
        """The call as plain JSON values."""
        return {"name": self.name, "arguments": dict(self.arguments)}


# The text of an answer that makes these calls and says nothing else; raises for calls that cannot be written.
Write = Callable[[Sequence[Call]], str]


@dataclass(frozen=True)
class CallSyntax:
    """The text around the parts of a call; how much white space it has does not count.

    `before` stands before the name, `opening` between the name and the arguments. Where these are one JSON
    object the rest is "". Else `equals` stands between a name and its value, `between` after a value and
    before the next name, `closing` after the last value.
    """

    before: str
    opening: str
    equals: str = ""
    between: str = ""
    closing: str = ""

    def to_json(self) -> dict[str, str]:
        """The syntax as plain JSON values."""
        return asdict(self)


# How calls that an endpoint returns apart from the text of an answer are added to it.
ADDED = CallSyntax('<tool_call>\n{"name": "', '", "arguments": ')
# The end of an answer with a call that cannot be read; behind all calls, so that nothing in them cuts it off.
_UNREADABLE = "<unreadable_tool_call/>"


def with_added(text: str, calls: Sequence[Call | str]) -> str:
    """The text of an answer with its calls after it, in the syntax ADDED.

    A call is text, as the model wrote it, where its arguments are no JSON object. Of one that cannot be read
    back, by its arguments or its name, `has_unreadable` tells.
    """
    written = list(map(_added, calls))
    readable = all(read_calls(ADDED, one) == [call] for one, call in zip(written, calls, strict=True))
    return "\n".join(filter(None, [text, *written, "" if readable else _UNREADABLE]))


def has_unreadable(text: str) -> bool:
    """Whether a call that was added to a text cannot be read."""
    return text.endswith(_UNREADABLE)


def _added(call: Call | str) -> str:
    written = call if isinstance(call, str) else json.dumps(call.to_json(), ensure_ascii=False)
    return f"<tool_call>\n{written}\n</tool_call>"


def learn(write: Write) -> CallSyntax | None:
    """The syntax of what `write` makes of calls; None when it writes none, or in another way."""
    call = Call(_FUNCTION, dict(zip(_KEYS, _TEXTS, strict=True)))
    before, found, after = _written(write, [call]).partition(_FUNCTION)
    if not found:
        return None
    two = _written(write, [call, Call(_OTHER, call.arguments)])  # "" from templates that take one at a time
    upto, second, _ = two.partition(_OTHER)
    before = _common_end(before, upto) if second else before
    opening = _before_object(after, call.arguments)
    if opening is not None:
        return CallSyntax(before, opening)
    numbers = _written(write, [Call(_FUNCTION, dict(zip(_KEYS, _NUMBERS, strict=True)))])
    return _pairs(before, after, numbers.partition(_FUNCTION)[2], two.partition(_FUNCTION)[2])


def read_calls(syntax: CallSyntax, text: str) -> list[Call]:
    """The calls in a text, in its order; what is written otherwise is no call."""
    return list(_read_pairs(syntax, text) if syntax.equals else _read_objects(syntax, text))


def _pairs(before: str, after: str, numbers: str, two: str) -> CallSyntax | None:
    """The syntax of arguments one by one; what quotes texts and not numbers is part of the values."""
    texts, plain = _split(after, _TEXTS), _split(numbers, [str(number) for number in _NUMBERS])
    if texts is None or plain is None:
        return None
    opening, equals, between, closing = texts
    if (first := _split(two, _TEXTS)) is not None:
        closing = commonprefix([closing, first[3]])
    ends = (closing[place:] for place in range(len(closing) + 1))
    closing = next(end for end in ends if plain[3].startswith(end))
    return CallSyntax(
        before, opening, commonprefix([equals, plain[1]]), _common_end(between, plain[2]), closing
    )


def _split(text: str, values: Sequence[str]) -> tuple[str, str, str, str] | None:
    """What stands before, between and after two names and their values; None when they are not all there."""
    parts = []
    for word in (_KEYS[0], values[0], _KEYS[1], values[1]):
        part, found, text = text.partition(word)
        if not found:
            return None
        parts.append(part)
    return parts[0], parts[1], parts[2], text


def _read_objects(syntax: CallSyntax, text: str) -> Iterator[Call]:
    pattern, place = re.compile(rf"{_loose(syntax.before)}({_NAME})\s*{_loose(syntax.opening)}"), 0
    while start := pattern.search(text, place):
        arguments, place = _object_at(text, start.end())
        if arguments is not None:
            yield Call(start[1], arguments)


def _read_pairs(syntax: CallSyntax, text: str) -> Iterator[Call]:
    # Without arguments a call has only the beginning of what opens them.
    pattern = rf"{_loose(syntax.before)}({_NAME})(?=\s*{re.escape(syntax.opening.strip()[:1])})"
    starts = list(re.finditer(pattern, text))
    ends = [*(start.start() for start in starts), len(text)][1:]
    for start, end in zip(starts, ends, strict=True):
        yield Call(start[1], _arguments(syntax, text[start.end() : end]))


def _arguments(syntax: CallSyntax, text: str) -> dict[str, Any]:
    key = rf"({_NAME})\s*{_loose(syntax.equals)}"
    first = re.match(rf"\s*{_loose(syntax.opening)}{key}", text)
    if first is None:
        return {}
    closings = [found.start() for found in re.finditer(_loose(syntax.closing), text)]
    end = closings[-1] if closings else len(text)
    further = re.compile(_loose(syntax.between) + key).finditer(text, first.end(), max(end, first.end()))
    marks = [first, *further]
    ends = [*(mark.start() for mark in marks), end][1:]
    return {mark[1]: _value(text[mark.end() : end]) for mark, end in zip(marks, ends, strict=True)}


def _written(write: Write, calls: Sequence[Call]) -> str:
    try:
        return write(calls)
    except Exception:  # a template may raise anything
        return ""


def _before_object(text: str, arguments: Mapping[str, Any]) -> str | None:
    """What stands before the arguments as one JSON object; None when they are written otherwise."""
    places = (place for place, letter in enumerate(text) if letter == "{")
    return next((text[:place] for place in places if _object_at(text, place)[0] == arguments), None)


def _object_at(text: str, place: int) -> tuple[dict[str, Any] | None, int]:
    """The JSON object that begins at a place, and where it ends; None and the place when none does."""
    try:
        value, end = json.JSONDecoder().raw_decode(text, place)
    except (ValueError, RecursionError):
        return None, place
    return (value, end) if isinstance(value, dict) else (None, place)


def _value(text: str) -> Any:
    """A value that is written between text: JSON where it is some, else as it stands."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text.strip()


def _loose(text: str) -> str:
    """A pattern for a text, with any white space inside and after it."""
    return "".join(re.escape(part) + r"\s*" for part in text.split())


def _common_end(one: str, other: str) -> str:
    return commonprefix([one[::-1], other[::-1]])[::-1]
