"""How values are read and compared: typography and order do not matter, content does."""

import json
import math
import unicodedata
from collections import Counter
from typing import Any, NoReturn


class UnreadableJson(Exception):  # noqa: N818 - a property of the output, not a defect
    """The output holds no JSON value."""


def normalise(text: str) -> str:
    """Unicode-normalised, case-folded text with runs of white space made one blank."""
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())


def parse_json(text: str) -> Any:
    """The JSON value that is the whole text, or the whole of the one code fence it consists of."""
    try:
        return json.loads(_without_fence(text.strip()), parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise UnreadableJson("the output is not JSON") from error


def equal_share(given: Any, expected: Any) -> float:
    """1 if equal, 0 if not; lists score the F1 of their elements without regard to order."""
    if isinstance(expected, list):
        return _f1(given, expected) if isinstance(given, list) else 0.0
    return float(_equal(given, expected))


def _equal(given: Any, expected: Any) -> bool:
    if isinstance(expected, bool) or isinstance(given, bool) or expected is None or given is None:
        return given is expected
    if isinstance(expected, int | float) and isinstance(given, int | float):
        return math.isclose(given, expected, rel_tol=1e-6, abs_tol=1e-9)
    if isinstance(expected, str) and isinstance(given, str):
        return normalise(given) == normalise(expected)
    return _canonical(given) == _canonical(expected)


def _f1(given: list[Any], expected: list[Any]) -> float:
    if not given and not expected:
        return 1.0
    mine, theirs = (Counter(map(_canonical, values)) for values in (given, expected))
    return 2 * sum((mine & theirs).values()) / (len(given) + len(expected))


def _canonical(value: Any) -> str:
    return normalise(json.dumps(value, sort_keys=True, ensure_ascii=False))


def _without_fence(text: str) -> str:
    if not (text.startswith("```") and text.endswith("```") and "\n" in text):
        return text
    return text.split("\n", 1)[1].removesuffix("```")


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")
