"""report.json for programs and report.html for people; the page loads nothing from elsewhere."""

import json
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from finetune_trainer.data.findings import Finding

_ELSEWHERE = ("adopted", "warnings")  # the findings below are the warnings; a report is about new data
_STYLE = """
body{font:15px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem;color:#1b1f24}
table{border-collapse:collapse;width:100%;margin:1rem 0}th,td{text-align:left;padding:.4rem .6rem;
border-bottom:1px solid #d8dee4;vertical-align:top}
.error{color:#b42318}.warning{color:#b54708}.info{color:#175cd3}
"""


def report_json(facts: Mapping[str, Any], findings: Sequence[Finding]) -> str:
    """Facts about the data and all findings as indented JSON."""
    content = {"schemaVersion": 1, "facts": dict(facts), "findings": [item.to_json() for item in findings]}
    return json.dumps(content, ensure_ascii=False, indent=2) + "\n"


def report_html(title: str, facts: Mapping[str, Any], findings: Sequence[Finding]) -> str:
    """The same as one page."""
    known = "".join(
        f"<tr><th>{escape(str(key))}</th><td>{escape(_words(value))}</td></tr>"
        for key, value in facts.items()
        if key not in _ELSEWHERE
    )
    listed = "".join(map(_row, findings)) or '<tr><td colspan="5">Nothing to complain about.</td></tr>'
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{escape(title)}</title>'
        f"<style>{_STYLE}</style><h1>{escape(title)}</h1><table>{known}</table><h2>Findings</h2>"
        "<table><tr><th>Rule</th><th>Severity</th><th>Data</th><th>Rows</th><th>What to do</th></tr>"
        f"{listed}</table></html>\n"
    )


def _words(value: Any) -> str:
    """A fact for people: `epochs 3, seed 17` instead of Python's notation."""
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {part}" for key, part in value.items())
    return "none" if value is None else str(value)


def _row(finding: Finding) -> str:
    rows = ", ".join(map(str, finding.rows)) + (" ..." if finding.count > len(finding.rows) > 0 else "")
    counted = f"{finding.count}: {rows}" if rows else str(finding.count)
    cells = (escape(finding.dataset), counted, escape(finding.message))
    return (
        f"<tr><td>{finding.number} {escape(finding.rule)}</td>"
        f'<td class="{finding.severity}">{finding.severity}</td>'
        f"{''.join(f'<td>{cell}</td>' for cell in cells)}</tr>"
    )
