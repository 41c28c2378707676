"""Splits, shards and saved folders: which files are read, which are left out, and what is refused."""

from collections.abc import Iterable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from finetune_trainer.errors import UserError
from finetune_trainer.sources.folders import Chosen, choose, find_split


def _chosen(paths: Iterable[str], dataset: str = "train") -> Chosen:
    def entries(folder: str) -> set[str]:
        inner = [path.removeprefix(folder) for path in paths if path.startswith(folder)]
        return {top + slash for top, slash, _ in (path.partition("/") for path in inner)}

    return choose("pvc://c/rows", entries, dataset)


HUB = [
    "data/train-00000-of-00002.parquet",
    "data/train-00001-of-00002.parquet",
    "data/test-00000-of-00001.parquet",
]
SAVED = ["data-00000-of-00002.arrow", "data-00001-of-00002.arrow", "dataset_info.json", "state.json"]
SPLIT_FILES = ["test.jsonl", "train.jsonl", "valid.jsonl"]
# name: (paths, files that are trained, what is left out)
TRAINED: list[tuple[str, list[str], list[str], list[str]]] = [
    ("no split is told", ["a.jsonl", "b.jsonl"], ["a.jsonl", "b.jsonl"], []),
    ("train, valid and test", SPLIT_FILES, ["train.jsonl"], ["test.jsonl", "valid.jsonl"]),
    ("dev beside train", ["my_dev.csv", "my_train.csv"], ["my_train.csv"], ["my_dev.csv"]),
    ("two parts of train", ["train1.jsonl", "train2.jsonl", "eval.jsonl"], ["train1.jsonl", "train2.jsonl"], ["eval.jsonl"]),
    ("a file without a split beside a hold-out", ["rows.jsonl", "hold-out.jsonl"], ["rows.jsonl"], ["hold-out.jsonl"]),
    ("train beside a file without a split", ["train.jsonl", "more.jsonl"], ["more.jsonl", "train.jsonl"], []),
    ("a page beside splits", ["README.md", "train.jsonl", "test.jsonl"], ["train.jsonl"], ["test.jsonl"]),
    ("pages about the data", ["LICENSE", "README", "readme.txt", "train.jsonl", ".gitattributes"], ["train.jsonl"], []),
    ("pages in several languages", ["README_zh.md", "README.en.md", "README_CN.md", "readme-pt-BR.txt", "train.jsonl"], ["train.jsonl"], []),
    ("rows with the name of a page in a language", ["readme_en.jsonl"], ["readme_en.jsonl"], []),
    ("rows with the name of a page", ["readme.jsonl"], ["readme.jsonl"], []),
    ("words within words tell nothing", ["latest.jsonl", "contrasted.jsonl"], ["contrasted.jsonl", "latest.jsonl"], []),
    ("a repository of the Hub", ["README.md", *HUB], HUB[:2], [HUB[2]]),
    ("a folder for each split", ["train/a.jsonl", "train/b.jsonl", "validation/a.jsonl"], ["train/a.jsonl", "train/b.jsonl"], ["validation/"]),
    ("a folder for each split of one config", ["en/train/0.parquet", "en/test/0.parquet"], ["en/train/0.parquet"], ["en/test/"]),
    ("a folder beside files", ["a.jsonl", "old/b.jsonl"], ["a.jsonl"], ["old/"]),
    ("hidden files", ["a.jsonl", ".git/config", "_SUCCESS"], ["a.jsonl"], []),
    ("a saved data set", [*SAVED, "cache-1f.arrow"], SAVED[:2], []),
    ("a saved dictionary of data sets", ["dataset_dict.json", *(f"{split}/{name}" for split in ("train", "test") for name in SAVED)],
     [f"train/{name}" for name in SAVED[:2]], ["test/"]),
]  # fmt: skip
# name: (paths, files that are held out)
HELD_OUT: list[tuple[str, list[str], list[str]]] = [
    ("no split is told", ["a.jsonl", "b.jsonl"], ["a.jsonl", "b.jsonl"]),
    ("test beside train", ["test.jsonl", "train.jsonl"], ["test.jsonl"]),
    ("validation in a repository of the Hub", ["data/train-00000-of-00001.parquet", "data/validation-00000-of-00001.parquet"], ["data/validation-00000-of-00001.parquet"]),
    ("a folder for each split", ["train/a.jsonl", "test/a.jsonl"], ["test/a.jsonl"]),
]  # fmt: skip
# name: (paths, data set, what the refusal says)
OPEN: list[tuple[str, list[str], str, str]] = [
    ("a file that may belong to either side", [*SPLIT_FILES, "extra.jsonl"], "train",
     "holds splits and extra.jsonl, whose name tells no split; name one file or folder in the source, as pvc://c/rows/train.jsonl"),
    ("held-out rows only", ["test.jsonl", "dev.jsonl"], "train", "holds held-out rows only, by their names: dev.jsonl, test.jsonl"),
    ("two held-out splits", SPLIT_FILES, "holdout", "holds several held-out splits: test.jsonl, valid.jsonl; name one"),
    ("a folder for each config", ["de/train.jsonl", "en/train.jsonl"], "train", "holds the folders de/, en/; name one file or folder in the source, as pvc://c/rows/de"),
    ("shards of two splits", ["train_gen-00000-of-00001.parquet", "train_sft-00000-of-00001.parquet"], "train", "the shards of several splits: train_gen, train_sft"),
    ("nothing but hidden files", [".git/config"], "train", "is a folder without data files; it holds .git/"),
    ("folders without end", ["a/" * 9 + "b.jsonl"], "train", "is a folder without data files"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("paths", "files", "unread"), [row[1:] for row in TRAINED], ids=[row[0] for row in TRAINED]
)
def test_the_files_to_train_on_are_told_by_names(
    paths: list[str], files: list[str], unread: list[str]
) -> None:
    assert _chosen(paths) == Chosen(tuple(files), tuple(unread))


@pytest.mark.parametrize(("paths", "files"), [row[1:] for row in HELD_OUT], ids=[row[0] for row in HELD_OUT])
def test_the_files_that_are_held_out_are_told_by_names(paths: list[str], files: list[str]) -> None:
    assert _chosen(paths, "holdout").files == tuple(files)


@pytest.mark.parametrize(
    ("paths", "dataset", "text"), [row[1:] for row in OPEN], ids=[row[0] for row in OPEN]
)
def test_a_folder_that_can_be_read_in_two_ways_is_refused(paths: list[str], dataset: str, text: str) -> None:
    with pytest.raises(UserError) as caught:
        _chosen(paths, dataset)
    assert text in str(caught.value)


NAMES = st.sampled_from(
    ["train", "test", "dev", "rows", "data/train", "data/test", "train/a", "valid/a", "en/test", "README"]
)


@given(st.lists(NAMES, unique=True, min_size=1), st.sampled_from([".jsonl", ".parquet", ".md"]))
def test_a_held_out_file_is_never_trained(names: list[str], ending: str) -> None:
    try:
        chosen = _chosen([name + ending for name in names])
    except UserError:
        return
    splits = {find_split(part) for name in chosen.files for part in name.split("/")}
    assert splits <= {"train", None}
