"""From the files of a data set to canonical rows and the findings on the way."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from hashlib import sha256
from pathlib import Path

from finetune_trainer.contracts import DatasetSpec
from finetune_trainer.data.findings import Finding, present
from finetune_trainer.data.rules import mixed_files, unread_files
from finetune_trainer.data.spool import Spool, SpoolWriter, pack
from finetune_trainer.data.structure import Structure, examine
from finetune_trainer.data.workers import each
from finetune_trainer.errors import UserError
from finetune_trainer.reading.lines import Record, parse_line
from finetune_trainer.reading.records import read_file
from finetune_trainer.sources.fetch import locate
from finetune_trainer.sources.located import DataFile, Located

# Told what is being done, the rows that are done, and of how many (None: not known yet).
Watch = Callable[[str, int, int | None], None]
_CHUNK_ROWS = 1000
_CHUNK_BYTES = 4 << 20


@dataclass(frozen=True)
class Loaded:
    """A data set as read from `source`: its sound rows, the findings, and its digest.

    `count` are the records that were read, sound or not, `files` how many of each file; `format` is None
    where there is no one format. `reasoned` rows have a trained answer with reasoning.
    """

    source: str
    rows: Spool
    findings: list[Finding]
    digest: str
    count: int
    format: str | None = None
    files: dict[str, int] = field(default_factory=dict)
    reasoned: int = 0


def load(spec: DatasetSpec, scratch: Path, dataset: str, watch: Watch) -> Loaded:
    """Fetch and check the structure of `train` or `holdout`; UserError when there is nothing to read."""
    watch(f"fetching {spec.source}", 0, None)
    located = locate(spec, scratch, dataset)
    return load_files(spec.source, located, dataset, scratch / f"{dataset}.rows", watch)


def load_files(source: str, located: Located, dataset: str, spool: Path, watch: Watch) -> Loaded:
    """The same for files that are at hand; sound rows are kept at `spool`."""
    files, names = located.files, [file.name for file in located.files]
    if (mixed := mixed_files(names)) is not None:
        raise UserError(mixed.message)
    left_out = present([unread_files(source, names, located.unread)], dataset)
    structure, digest = Structure(dataset), sha256()
    work, size = partial(_examined, dataset), sum(file.size for file in files)
    counts = dict.fromkeys(names, 0)
    with SpoolWriter(spool) as writer:
        for found, rows, digests in each(work, _no_state, _chunks(_records(files, counts)), size):
            structure += found
            digest.update(digests)
            writer.write(rows)
            watch(f"reading {source}", structure.records, None)
    if not structure.records:
        raise UserError(f"{source} has no rows; write one JSON object per line.")
    return Loaded(
        source,
        writer.spool(),
        left_out + structure.findings(),
        f"sha256:{digest.hexdigest()}",
        structure.records,
        structure.format,
        counts,
        structure.shares.reasoned,
    )


def _no_state() -> None:
    """Reading needs nothing to be made ready."""


def _examined(dataset: str, _state: None, records: Sequence[Record]) -> tuple[Structure, list[bytes], bytes]:
    """What there is to say about a chunk, its sound rows packed, and their digests.

    Equal data has equal digests, whatever its layout in the files.
    """
    structure, rows = examine([parse_line(record) for record in records], dataset)
    digests = b"".join(sha256(row.content().encode("utf-8", "surrogatepass")).digest() for row in rows)
    return structure, [pack(row) for row in rows], digests


def _chunks(records: Iterable[Record]) -> Iterator[list[Record]]:
    chunk: list[Record] = []
    size = 0
    for record in records:
        chunk.append(record)
        size += record.size
        if len(chunk) >= _CHUNK_ROWS or size >= _CHUNK_BYTES:
            yield chunk
            chunk, size = [], 0
    if chunk:
        yield chunk


def _records(files: Sequence[DataFile], counts: dict[str, int]) -> Iterator[Record]:
    """The records of all files, numbered through; counted by file."""
    number = 0
    for file in files:
        for record in read_file(file.path, file.name, number + 1):
            number = record.number
            counts[file.name] += 1
            yield record
