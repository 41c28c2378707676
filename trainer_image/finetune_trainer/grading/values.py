"""How values are read and compared: typography and order do not matter, content does."""

import json
import math
import unicodedata
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from decimal import Decimal
from heapq import heappop, heappush
from itertools import repeat
from typing import Any, NoReturn

# JSON may nest; what compares and validates it is recursive, and Python stops at 1,000 calls.
_DEEPEST = 64


class UnreadableJson(Exception):  # noqa: N818 - a property of the output, not a defect
    """A text holds no JSON value; the message goes on after its name."""


def normalise(text: str) -> str:
    """Text in Unicode's form NFKC, case-folded, with runs of white space made one blank.

    NFKC makes full-width letters and ligatures plain ones. Letters of other alphabets that look alike stay
    different.
    """
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())


def parse_json(text: str) -> Any:
    """The JSON value that is the whole text, or the whole of the one code fence it consists of."""
    try:
        value = json.loads(_without_fence(text.strip()), parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise UnreadableJson("is not JSON") from error
    if _deeper_than(value, _DEEPEST):
        raise UnreadableJson(f"is JSON of more than {_DEEPEST} levels")
    return value


def equal_share(given: Any, expected: Any, tolerance: Decimal | None = None) -> float:
    """1 if equal, 0 if not; lists score the F1 of their elements without regard to order.

    Numbers are equal within `tolerance`, a fraction of the expected one; inside of an element of a list they
    are equal by value.
    """
    allowed = 1e-6 if tolerance is None else float(tolerance)
    if isinstance(expected, list):
        return _f1_within(given, expected, allowed) if isinstance(given, list) else 0.0
    return float(_equal(given, expected, allowed))


def f1(given: Iterable[str], expected: Iterable[str]) -> float:
    """The F1 score of two collections without order; 1 if both are empty."""
    mine, theirs = Counter(given), Counter(expected)
    size = mine.total() + theirs.total()
    return 2 * (mine & theirs).total() / size if size else 1.0


def canonical(value: Any) -> str:
    """One text for equal values: numbers by value, texts normalised, keys sorted."""
    return normalise(canonical_json(value))


def canonical_json(value: Any) -> str:
    """JSON with sorted keys, in which 1.0 is 1; texts stay as they are."""
    return json.dumps(_plain(value), sort_keys=True, ensure_ascii=False)


def _f1_within(given: list[Any], expected: list[Any], tolerance: float) -> float:
    """The F1 score of two lists whose numbers are equal within the tolerance."""
    size = len(given) + len(expected)
    mine, theirs = _Elements.of(given), _Elements.of(expected)
    same = (mine.others & theirs.others).total() + _paired(mine.numbers, theirs.numbers, tolerance)
    return 2 * same / size if size else 1.0


@dataclass(frozen=True)
class _Elements:
    """The elements of a list: numbers that can be ordered, and all others."""

    numbers: list[float]
    others: Counter[str]

    @classmethod
    def of(cls, values: list[Any]) -> "_Elements":
        numbers = [value for value in values if _is_finite_number(value)]
        return cls(numbers, Counter(canonical(value) for value in values if not _is_finite_number(value)))


def _is_finite_number(value: Any) -> bool:
    try:
        return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    except OverflowError:  # integers beyond what a float holds
        return False


def _paired(given: list[float], expected: list[float], tolerance: float) -> int:
    """The most pairs of a given and an expected number: each given one takes the range that ends first."""
    ranges = [
        (number - width, number + width) for number in expected for width in [_width(number, tolerance)]
    ]
    starts, ends, pairs = sorted(ranges, reverse=True), list[float](), 0
    for number in sorted(given):
        while starts and starts[-1][0] <= number:
            heappush(ends, starts.pop()[1])
        while ends and ends[0] < number:
            heappop(ends)
        if ends:
            heappop(ends)
            pairs += 1
    return pairs


def _equal(given: Any, expected: Any, tolerance: float) -> bool:
    if isinstance(expected, bool) or isinstance(given, bool) or expected is None or given is None:
        return given is expected
    if isinstance(expected, int | float) and isinstance(given, int | float):
        return _close(given, expected, tolerance)
    if isinstance(expected, str) and isinstance(given, str):
        return normalise(given) == normalise(expected)
    if isinstance(expected, dict) and isinstance(given, dict):
        mine, theirs = _by_key(given), _by_key(expected)
        if len(given) != len(expected) or mine.keys() != theirs.keys():
            return False
        return all(_equal(mine[key], theirs[key], tolerance) for key in theirs)
    if isinstance(expected, list) and isinstance(given, list):
        return len(given) == len(expected) and all(map(_equal, given, expected, repeat(tolerance)))
    return False


def _by_key(value: dict[str, Any]) -> dict[str, Any]:
    return {normalise(key): each for key, each in value.items()}


def _close(given: float, expected: float, tolerance: float) -> bool:
    try:
        return math.isclose(given, expected, rel_tol=0, abs_tol=_width(expected, tolerance))
    except OverflowError:  # integers beyond what a float holds
        return given == expected


def _width(expected: float, tolerance: float) -> float:
    """How far a number may be off: rounded up, as 7.7 is not within a tenth of 7 in binary digits."""
    return tolerance * abs(expected) * (1 + 1e-9)


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(each) for key, each in value.items()}
    if isinstance(value, list):
        return [_plain(each) for each in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _deeper_than(value: Any, levels: int) -> bool:
    level = [value]
    for _ in range(levels):
        level = [child for each in level for child in _children(each)]
        if not level:
            return False
    return True


def _children(value: Any) -> Iterable[Any]:
    if isinstance(value, dict):
        return value.values()
    return value if isinstance(value, list) else ()


def _without_fence(text: str) -> str:
    if not (text.startswith("```") and text.endswith("```") and "\n" in text):
        return text
    return text.split("\n", 1)[1].removesuffix("```")


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")
