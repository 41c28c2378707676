"""From a source to canonical rows and the findings on the way."""

from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import TypeVar

from finetune_trainer.contracts import DatasetSpec
from finetune_trainer.data import rules
from finetune_trainer.data.corpus import corpus_findings
from finetune_trainer.data.findings import Finding, errors, present
from finetune_trainer.data.formats import Row, canonical, detect
from finetune_trainer.data.lines import Line, read_lines
from finetune_trainer.data.rowrule import RowRule, finding, tally
from finetune_trainer.errors import UserError
from finetune_trainer.sources.fetch import open_data

Subject = TypeVar("Subject")


@dataclass(frozen=True)
class Loaded:
    """A data set as read: its rows if it has no structural error, its findings, its digest.

    `count` are the rows that were read, sound or not; `format` is None where there is no one format.
    """

    rows: list[Row]
    findings: list[Finding]
    digest: str
    count: int
    format: str | None = None


def load(spec: DatasetSpec, scratch: Path, dataset: str) -> Loaded:
    """Read and check the structure of `train` or `holdout`; UserError when there is nothing to read."""
    with open_data(spec, scratch) as stream:
        return load_lines(spec.source, read_lines(stream), dataset)


def load_lines(source: str, lines: Sequence[Line], dataset: str) -> Loaded:
    """The same for lines that were read already."""
    if not lines:
        raise UserError(f"{source} has no rows; write one JSON object per line.")
    findings = check_structure(lines, dataset)
    if errors(findings):
        return Loaded([], findings, rows_digest([]), len(lines))
    rows = [canonical(line.number, line.value) for line in lines]
    return Loaded(rows, findings, rows_digest(rows), len(lines), detect(lines[0].value))


def check_structure(lines: Sequence[Line], dataset: str) -> list[Finding]:
    """All findings about lines, raw rows and, where those have no error, canonical rows."""
    raw = [(line.number, line.value) for line in lines if isinstance(line.value, dict)]
    found = present(
        [
            *_findings(rules.LINE_RULES, [(line.number, line) for line in lines], dataset),
            rules.format_runs(raw).finding(),
            *_findings(rules.RAW_RULES, raw, dataset),
        ],
        dataset,
    )
    rows = [canonical(number, row) for number, row in raw if rules.sound(row, dataset)]
    about_rows = _findings(rules.ROW_RULES, [(row.number, row) for row in rows], dataset)
    about_corpus = corpus_findings(rows) if dataset == "train" else []
    return found + present([*about_rows, *rules.shares(rows).findings(), *about_corpus], dataset)


def _findings(
    group: Sequence[RowRule[Subject]], subjects: Sequence[tuple[int, Subject]], dataset: str
) -> list[Finding | None]:
    return [finding(rule, tally(rule, subjects), len(subjects)) for rule in group if dataset in rule.about]


def rows_digest(rows: Sequence[Row]) -> str:
    """The digest of canonical rows: equal data has an equal digest, whatever its layout in the file."""
    digest = sha256()
    for row in rows:
        digest.update(row.content().encode() + b"\n")
    return f"sha256:{digest.hexdigest()}"
