"""The rules about the files of a data set (reference: data rule 4)."""

from collections.abc import Mapping, Sequence

from finetune_trainer.data.findings import Finding
from finetune_trainer.reading.kinds import Kind, find_kind
from finetune_trainer.sources.folders import some

_CALLED = {
    "jsonl": "JSON lines", "json": "JSON", "csv": "CSV", "parquet": "Parquet", "arrow": "Arrow",
    None: "no data file",
}  # fmt: skip


def mixed_files(names: Sequence[str]) -> Finding | None:
    """Rule 4: all files of a data set are data of one kind; the count is of those unlike the first data file.

    A single file has nothing to differ from: reading.kinds.kind_of judges its name.
    """
    kinds = {name: found.kind if (found := find_kind(name)) else None for name in names}
    wanted = next((kind for kind in kinds.values() if kind), None)
    others = [name for name, kind in kinds.items() if kind != wanted]
    if len(names) < 2 or (wanted and not others):
        return None
    shown = "; ".join(f"{name} is {_CALLED[kinds[name]]}" for name in _one_of_each(kinds))
    text = f"The files are not of one kind: {shown}. Keep the files of one kind and move the others away."
    return Finding(4, "mixed_files", "error", len(others) if wanted else len(names), (), text)


def _one_of_each(kinds: Mapping[str, Kind | None]) -> list[str]:
    return list({kind: name for name, kind in reversed(list(kinds.items()))}.values())[::-1]


def unread_files(source: str, read: Sequence[str], unread: Sequence[str]) -> Finding | None:
    """Rule 4: what lies in the folder of a data set and is not read, such as other splits."""
    if not unread:
        return None
    text = (
        f"Of {source} is read: {some(read)}; not read: {some(unread)}. Name in the source what else to read."
    )
    return Finding(4, "unread_files", "info", len(unread), (), text)
