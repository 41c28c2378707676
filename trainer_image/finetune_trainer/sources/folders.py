"""Which files of a folder are the rows to read, told by names: splits, shards and what lies beside them."""

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal, NoReturn

from finetune_trainer.errors import UserError
from finetune_trainer.reading.kinds import find_kind

Split = Literal["train", "validation", "test"]
# The entries of a folder within the source by its path ("" the source itself, "data/"); folders end with `/`.
ListEntries = Callable[[str], Iterable[str]]

# As the datasets library tells splits, and `holdout` with it; a name with several of them is held out.
_WORDS: dict[Split, str] = {
    "test": "test|testing|eval|evaluation|hold-?out|held-?out",
    "validation": "validation|valid|val|dev",
    "train": "train|training",
}
_SPLITS = {
    split: re.compile(rf"(?<![a-z])({words})(?![a-z])", re.IGNORECASE) for split, words in _WORDS.items()
}
_SHARD = re.compile(r"(.+)-\d{5}-of-\d{5}\.")
_METADATA = ("dataset_dict.json", "dataset_infos.json")
_ABOUT = re.compile(r"(readme([._-]\w+)*|licen[cs]e|notice|citation|changelog)(\.\w+)?", re.IGNORECASE)
_DEEPEST = 4
_LISTED = 10


@dataclass(frozen=True)
class Chosen:
    """Paths within the source of the files to read, in order, and of what lies beside them."""

    files: tuple[str, ...]
    unread: tuple[str, ...] = ()


def choose(source: str, entries: ListEntries, dataset: str) -> Chosen:
    """The files of a folder that are `train` or `holdout`; UserError says what to write where that is open.

    What is hidden by custom (names that start with `.` or `_`) is never data, and pages such as README.md
    are neither. Files of an unknown type are chosen as long as no split is told by names: rule 4
    (data.rules.mixed_files) judges them.
    """
    return _Choice(source, entries, dataset).inside("")


def find_split(name: str) -> Split | None:
    """The split that the name of a file or folder tells, if any; held-out splits come first."""
    return next((split for split, words in _SPLITS.items() if words.search(name)), None)


@dataclass(frozen=True)
class _Choice:
    source: str
    entries: ListEntries
    dataset: str

    def inside(self, folder: str) -> Chosen:
        """The choice among the entries of one folder, or in the one folder within it that has the rows."""
        names = sorted(name for name in self.entries(folder) if name[0] not in "._")
        folders = [name for name in names if name.endswith("/")]
        files = _rows_only([name for name in names if not name.endswith("/")])
        here = any(map(find_kind, files)) or (files and not folders)
        if (not here and not folders) or folder.count("/") == _DEEPEST:
            text = f"{self._path(folder)} is a folder without data files"
            raise UserError(f"{text}; it holds {some(self.entries(folder))}. Name the data.")
        chosen = self._pick(folder, files if here else folders)
        unread = tuple(folder + name for name in sorted(files + folders) if name not in chosen)
        if here:
            return Chosen(tuple(folder + name for name in chosen), unread)
        if len(chosen) > 1:
            self._refuse(folder, f"holds the folders {some(chosen)}", chosen)
        deeper = self.inside(folder + chosen[0])
        return Chosen(deeper.files, tuple(sorted(unread + deeper.unread)))

    def _pick(self, folder: str, names: Sequence[str]) -> list[str]:
        """Those of the names that belong to the data set by their splits; all where no name is held out."""
        splits = {name: find_split(name) for name in names}
        held = [name for name, split in splits.items() if split in ("validation", "test")]
        if not held:
            return self._one_split(folder, list(names))
        rest = [name for name in names if name not in held and (name.endswith("/") or find_kind(name))]
        if self.dataset == "holdout":
            if len({splits[name] for name in held}) > 1:
                self._refuse(folder, f"holds several held-out splits: {some(held)}", held)
            return self._one_split(folder, held)
        train = [name for name in rest if splits[name] == "train"]
        if train and len(train) < len(rest):
            others = [name for name in rest if name not in train]
            self._refuse(folder, f"holds splits and {some(others)}, whose name tells no split", train)
        if not rest:
            self._refuse(folder, f"holds held-out rows only, by their names: {some(held)}", held)
        return self._one_split(folder, rest)

    def _one_split(self, folder: str, names: list[str]) -> list[str]:
        """UserError if shards are those of several splits, as train_sft-00000-of-00001.* and train_gen-*."""
        splits = {shard[1] for name in names if (shard := _SHARD.match(name))}
        if len(splits) > 1:
            self._refuse(folder, f"holds the shards of several splits: {some(splits)}", names)
        return names

    def _path(self, folder: str) -> str:
        return f"{self.source.rstrip('/')}/{folder}".rstrip("/") if folder else self.source

    def _refuse(self, folder: str, problem: str, names: Sequence[str]) -> NoReturn:
        path = self._path(folder)
        example = f"{path.rstrip('/')}/{names[0].rstrip('/')}"
        raise UserError(
            f"{path} {problem}; name one file or folder in the source, as {example}, "
            "or keep only what is to be read in a folder of its own."
        )


def _rows_only(files: list[str]) -> list[str]:
    """The files without pages about the data, and without what the datasets library writes beside rows."""
    files = [name for name in files if name not in _METADATA and not _is_about(name)]
    if {"state.json", "dataset_info.json"} <= set(files):
        rows = [name for name in files if name.endswith(".arrow")]
        return [name for name in rows if not name.startswith(("cache-", "indices"))]
    return files


def _is_about(name: str) -> bool:
    return _ABOUT.fullmatch(name) is not None and find_kind(name) is None


def some(names: Iterable[str]) -> str:
    """The first names for a message, and how many more there are."""
    listed = sorted(names)
    if not listed:
        return "nothing"
    more = f" and {len(listed) - _LISTED} more" if len(listed) > _LISTED else ""
    return ", ".join(listed[:_LISTED]) + more
