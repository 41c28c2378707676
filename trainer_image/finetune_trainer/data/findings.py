"""What a check found, in the shape of the report."""

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

Severity = Literal["error", "warning", "info"]
SHOWN_ROWS = 20


@dataclass(frozen=True)
class Finding:
    """A rule that applies: how bad, how often, the first rows (line numbers) and what to do."""

    rule: int
    name: str
    severity: Severity
    count: int
    rows: tuple[int, ...]
    message: str
    dataset: str = "train"

    def to_json(self) -> dict[str, Any]:
        """The finding as plain JSON values."""
        return asdict(self)


def found(
    rule: int, name: str, rows: Sequence[int], message: str, severity: Severity = "error"
) -> Finding | None:
    """A finding about these rows, or None when there are none."""
    if not rows:
        return None
    return Finding(rule, name, severity, len(rows), tuple(rows[:SHOWN_ROWS]), message)


def present(findings: Iterable[Finding | None], dataset: str = "train") -> list[Finding]:
    """The findings that exist, marked with the data set that they are about."""
    return [replace(finding, dataset=dataset) for finding in findings if finding is not None]


def errors(findings: Iterable[Finding]) -> list[Finding]:
    """Those that refuse the data."""
    return [finding for finding in findings if finding.severity == "error"]


def name_rows(rows: Sequence[int]) -> str:
    """`row 3`, `rows 3, 5, 8` or `rows 3, 5, 8 and 17 more` as a message starts."""
    if len(rows) == 1:
        return f"row {rows[0]}"
    more = f" and {len(rows) - 3} more" if len(rows) > 3 else ""
    return f"rows {', '.join(map(str, rows[:3]))}{more}"
