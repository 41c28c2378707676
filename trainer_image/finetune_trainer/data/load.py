"""From a source to canonical rows and the findings on the way."""

from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

from finetune_trainer.contracts import DatasetSpec
from finetune_trainer.data import structure
from finetune_trainer.data.file_rules import mixed_files
from finetune_trainer.data.findings import Finding, errors, present
from finetune_trainer.data.formats import Row, canonical
from finetune_trainer.data.lines import Line
from finetune_trainer.errors import UserError
from finetune_trainer.reading.records import read_file
from finetune_trainer.sources.fetch import locate
from finetune_trainer.sources.located import DataFile


@dataclass(frozen=True)
class Loaded:
    """A data set as read: its rows if it has no structural error, its findings, its digest."""

    rows: list[Row]
    findings: list[Finding]
    digest: str


def load(spec: DatasetSpec, scratch: Path, dataset: str) -> Loaded:
    """Read and check the structure of `train` or `holdout`; UserError when there is nothing to read."""
    lines = _read(locate(spec, scratch).files)
    if not lines:
        raise UserError(f"{spec.source} has no rows; write one JSON object per line.")
    findings = check_structure(lines, dataset)
    rows = [] if errors(findings) else [canonical(line.number, line.value) for line in lines]
    return Loaded(rows, findings, rows_digest(rows))


def _read(files: Sequence[DataFile]) -> list[Line]:
    if (mixed := mixed_files([file.name for file in files])) is not None:
        raise UserError(mixed.message)
    lines: list[Line] = []
    for file in files:
        lines += read_file(file.path, file.name, first=lines[-1].number + 1 if lines else 1)
    return lines


def check_structure(lines: Sequence[Line], dataset: str) -> list[Finding]:
    """All structural findings; a hold-out row may end without an answer, rule 42 judges that."""
    rows = [(line.number, line.value) for line in lines if isinstance(line.value, dict)]
    train = dataset == "train"
    return present(
        [
            structure.unreadable_json(lines),
            structure.data_type(lines),
            structure.mixed_formats(rows),
            structure.unsupported_format(rows),
            structure.missing_messages_list(rows),
            structure.message_missing_key(rows, completion_needed=train),
            structure.unrecognized_role(rows),
            structure.missing_content(rows),
            structure.missing_assistant(rows) if train else None,
        ],
        dataset,
    )


def rows_digest(rows: Sequence[Row]) -> str:
    """The digest of canonical rows: equal data has an equal digest, whatever its layout in the file."""
    digest = sha256()
    for row in rows:
        digest.update(row.content().encode() + b"\n")
    return f"sha256:{digest.hexdigest()}"
