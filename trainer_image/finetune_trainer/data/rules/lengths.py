"""Rules about the lengths of all rows in tokens (data rules 25 to 27), given as arrays of equal size."""

import numpy as np
from numpy.typing import NDArray

from finetune_trainer.data.findings import SHOWN_ROWS, Finding, Severity, name_rows, present

# Above this share of over-long rows the data does not fit the model, even if no answer is cut.
_LONG_SHARE = 0.01
_SHORT_ANSWER = 3  # tokens: two of the answer and the end token
Integers = NDArray[np.int64] | NDArray[np.int32]


def longer_rows(limit: int, positions: int) -> str:
    """What lets rows be longer than `limit` tokens, where the model has so many `positions`."""
    return "raise training.maxLength" if limit < positions else "take a base model with more positions"


def length_findings(
    numbers: Integers, tokens: Integers, trained: Integers, cut: NDArray[np.bool_], limit: int, longer: str
) -> list[Finding]:
    """Rules 25, 26 and 27 about rows before they are shortened; [] when there are none.

    Of each row: its number, its tokens, how many are trained, and whether the limit cuts a trained one;
    `longer` is what raises the limit.
    """
    if not len(tokens):
        return []
    long = _too_long(numbers, tokens, cut, limit, longer)
    return present([long, _too_short(numbers, trained), _stats(tokens, trained)])


def length_stats(tokens: Integers, trained: Integers) -> dict[str, int]:
    """Tokens per row (min, p5, p50, p95, max), in all rows (total), and how many are trained; rows exist.

    A percentile is the length of a row: the shortest that at least that share of rows does not exceed.
    """
    levels = np.percentile(tokens, (0, 5, 50, 95, 100), method="inverted_cdf")
    values = dict(zip(("min", "p5", "p50", "p95", "max"), map(int, levels), strict=True))
    return {**values, "total": int(tokens.sum()), "trained": int(trained.sum())}


def _too_long(
    numbers: Integers, tokens: Integers, cut: NDArray[np.bool_], limit: int, longer: str
) -> Finding | None:
    wrong = tokens > limit
    count = int(wrong.sum())
    if not count:
        return None
    share, answers = count / len(tokens), int((wrong & cut).sum())
    text = (
        f"{share:.1%} of the rows exceed {limit} tokens (the longest has {tokens.max()}), answers are cut "
        f"in {answers}: {name_rows(_first(numbers, wrong), count)}; {longer} or shorten them."
    )
    return _finding(
        25, "too_long", numbers, wrong, text, "error" if answers or share > _LONG_SHARE else "warning"
    )


def _too_short(numbers: Integers, trained: Integers) -> Finding | None:
    wrong = (trained > 0) & (trained < _SHORT_ANSWER)
    count = int(wrong.sum())
    if not count:
        return None
    verb = "has an answer" if count == 1 else "have answers"
    where = name_rows(_first(numbers, wrong), count)
    text = f"{where[:1].upper()}{where[1:]} {verb} of one token or none; check that nothing is missing."
    return _finding(26, "too_short", numbers, wrong, text, "warning")


def _stats(tokens: Integers, trained: Integers) -> Finding:
    stats = length_stats(tokens, trained)
    text = (
        "Tokens per row: {min} at least, {p5} (5 %), {p50} (half), {p95} (95 %), {max} at most; "
        "{total} in all, {trained} trained."
    ).format_map(stats)
    return Finding(27, "length_stats", "info", len(tokens), (), text)


def _first(numbers: Integers, wrong: NDArray[np.bool_]) -> list[int]:
    # A conversation that was split has its number several times.
    return list(dict.fromkeys(numbers[wrong].tolist()))[:SHOWN_ROWS]


def _finding(
    number: int, rule: str, numbers: Integers, wrong: NDArray[np.bool_], text: str, severity: Severity
) -> Finding:
    return Finding(number, rule, severity, int(wrong.sum()), tuple(_first(numbers, wrong)), text)
