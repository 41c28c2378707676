"""How numbers and texts are written for people: in messages, on the report's page and in the terminal.

No line breaks between a number and its unit: they are joined by a no-break space.
"""

import re

_JOIN = "\N{NO-BREAK SPACE}"
_HOURS_A_DAY = 24
# C0 and C1 controls, line separators and bidirectional controls, surrogates, noncharacters.
_STEERING = re.compile("[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff\ufffe\uffff]")


def number(value: float) -> str:
    """`148,220`; two digits behind the point for what is not whole."""
    return f"{value:,.0f}" if value == int(value) else f"{value:,.2f}"


def gib(value: float) -> str:
    """`12.3 GiB`."""
    return f"{value:,.1f}{_JOIN}GiB"


def money(value: float, currency: str | None) -> str:
    """`USD 1.35`; the bare number when the price table names no currency."""
    return f"{currency}{_JOIN}{value:,.2f}" if currency else f"{value:,.2f}"


def duration(hours: float) -> str:
    """`8 min`, `3.4 h` or `2.1 days`."""
    if hours < 1:
        return f"{max(1, round(hours * 60))}{_JOIN}min"
    return f"{hours:.1f}{_JOIN}h" if hours < 2 * _HOURS_A_DAY else f"{hours / _HOURS_A_DAY:,.1f}{_JOIN}days"


def share(part: float, whole: float) -> str:
    """`14 %`, with a digit behind the point under 10 %."""
    percent = 100 * part / whole if whole else 0.0
    return f"{percent:.0f}{_JOIN}%" if percent >= 10 or percent == 0 else f"{percent:.1f}{_JOIN}%"


def percent(value: float) -> str:
    """A fraction as `54.2 %`."""
    return f"{100 * value:.1f}{_JOIN}%"


def points(value: float) -> str:
    """A difference of fractions as `+54.2 points`."""
    return f"{100 * value:+.1f}{_JOIN}points"


def setting(value: object) -> str:
    """A value of a setting: yes, no, none, or the names of a list."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list | tuple):
        return ", ".join(map(str, value))
    return "none" if value is None else str(value)


def plural(count: int, noun: str) -> str:
    """`1 row`, `2 rows`, `2 processes`."""
    several = f"{noun}es" if noun.endswith("s") else f"{noun}s"
    return f"{number(count)} {noun if count == 1 else several}"


def printable(text: str, keep: str = "") -> str:
    """Text from data without the characters that steer a terminal, turn text around or break an XML file."""
    return _STEERING.sub(lambda found: found[0] if found[0] in keep else "\N{REPLACEMENT CHARACTER}", text)


def encodable(text: str) -> str:
    """Text in which halves of a character (lone surrogates), which no file can hold, are replaced."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
