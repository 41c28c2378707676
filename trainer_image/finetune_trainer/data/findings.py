"""What a check found, in the shape of the report."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

Severity = Literal["error", "warning", "info"]
Override = Literal["Error", "Warning", "Info", "Ignore"]
SHOWN_ROWS = 20


@dataclass(frozen=True)
class Finding:
    """A rule that applies: how bad, how often, the first rows and what to do.

    `number` is the rule's place in docs/data-rules.md, `rule` its name there and in `dataset.rules`.
    `ignored` says that the job set the rule to Ignore: the finding is shown and has no effect.
    """

    number: int
    rule: str
    severity: Severity
    count: int
    rows: tuple[int, ...]
    message: str
    dataset: str = "train"
    overridden: Override | None = None

    @property
    def ignored(self) -> bool:
        """Whether the job asked for no effect."""
        return self.overridden == "Ignore"

    def to_json(self) -> dict[str, Any]:
        """The finding as plain JSON values."""
        return asdict(self)


def found(
    number: int, rule: str, rows: Sequence[int], message: str, severity: Severity = "error"
) -> Finding | None:
    """A finding about these rows, or None when there are none."""
    if not rows:
        return None
    return Finding(number, rule, severity, len(rows), tuple(rows[:SHOWN_ROWS]), message)


def present(findings: Iterable[Finding | None], dataset: str = "train") -> list[Finding]:
    """The findings that exist, marked with the data set that they are about."""
    return [replace(finding, dataset=dataset) for finding in findings if finding is not None]


def override(findings: Iterable[Finding], chosen: Mapping[str, Override]) -> list[Finding]:
    """The findings with the severities that the job chose; each keeps a note that it was overridden."""
    return [_overridden(finding, chosen.get(finding.rule)) for finding in findings]


def errors(findings: Iterable[Finding]) -> list[Finding]:
    """Those that refuse the data."""
    return _of("error", findings)


def warnings(findings: Iterable[Finding]) -> list[Finding]:
    """Those that a user should read before training."""
    return _of("warning", findings)


def name_rows(rows: Sequence[int], count: int | None = None) -> str:
    """`row 3`, `rows 3, 5, 8` or `rows 3, 5, 8 and 17 more` as a message starts (`count` rows in all)."""
    count = len(rows) if count is None else count
    if count == 1:
        return f"row {rows[0]}"
    more = f" and {count - 3} more" if count > 3 else ""
    return f"rows {', '.join(map(str, rows[:3]))}{more}"


def _of(severity: Severity, findings: Iterable[Finding]) -> list[Finding]:
    return [finding for finding in findings if finding.severity == severity and not finding.ignored]


_SEVERITIES: dict[str, Severity] = {"Error": "error", "Warning": "warning", "Info": "info"}


def _overridden(finding: Finding, chosen: Override | None) -> Finding:
    if chosen is None:
        return finding
    return replace(finding, severity=_SEVERITIES.get(chosen, finding.severity), overridden=chosen)
