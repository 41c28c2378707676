"""Precision and recall of the data rules, on real text with planted defects.

    python -m benchmarks.data_rules [--sets 10]

Each case plants eight defects of one kind into 300 training and 100 hold-out rows (tests/defects.py), or into
a file of 300 records (tests/broken_records.py), and asks which rows the rule names, on so many data sets.
Cases without an aim are beyond what rules that compare words can see; their recall is recorded so that nobody
expects more.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory
from typing import Any

from benchmarks.record import write
from finetune_trainer.chat.tokenizer import load_tokenizer
from finetune_trainer.data.corpus.duplicates import alike
from finetune_trainer.data.corpus.facts import learn, measure
from finetune_trainer.data.corpus.rules import corpus_findings, holdout_findings
from finetune_trainer.data.corpus.texts import held_out
from finetune_trainer.data.findings import Finding
from finetune_trainer.data.load import load_files
from finetune_trainer.data.survey import Target, survey
from finetune_trainer.sources.located import locate_local
from tests import defects
from tests.broken_records import BREAKS, FAULTY, TOKEN_BREAKS, Break, line
from tests.defects import SOURCES, DataSet
from tests.unit.trainer_data.conftest import make_base

TRAIN, HOLDOUT, PLANTED = 300, 100, 8
# Rules that name rows; the others judge the data set and are tested one by one.
ROW_RULES = (
    "exact_duplicate", "near_duplicate", "contradiction", "answer_conflict_format",
    "leak_exact", "leak_near", "leak_ngram", "leak_group",
)  # fmt: skip
ROW_TOKENS = 2048
_TWO = partial(defects.edited, per_hundred=2)
_TWENTY = partial(defects.plant_ngram_leaks, words=20)


@dataclass(frozen=True)
class Case:
    """A kind of defect, in which text, for which rule; `aim` is the recall to reach, None to record only."""

    name: str
    rule: str
    source: str
    plant: Callable[[DataSet, int, Random], None]
    aim: float | None = 0.95


def _contradiction(edit: defects.Edit) -> Callable[[DataSet, int, Random], None]:
    return partial(defects.plant_contradictions, edit=edit)


def _near_leak(edit: defects.Edit) -> Callable[[DataSet, int, Random], None]:
    return partial(defects.plant_near_leaks, edit=edit)


CASES = (
    *(Case("copies", "exact_duplicate", source, defects.plant_exact_duplicates, 1.0) for source in SOURCES),
    Case("one edit in 100 words", "near_duplicate", "reviews", defects.plant_near_duplicates),
    Case("one edit in 100 words", "near_duplicate", "continuations", defects.plant_near_duplicates),
    Case(
        "three edits in 100 words", "near_duplicate", "reviews",
        partial(defects.plant_near_duplicates, per_hundred=3),
    ),
    Case(
        "eight edits in 100 words", "near_duplicate", "reviews",
        partial(defects.plant_near_duplicates, per_hundred=8), None,
    ),
    *(Case("same input", "contradiction", source, defects.plant_contradictions) for source in SOURCES),
    *(
        Case(f"input {edit.__name__}", "contradiction", source, _contradiction(edit))
        for source in ("reviews", "continuations")
        for edit in defects.SAME_WORDS
    ),
    Case("input extended by a sentence", "contradiction", "reviews", _contradiction(defects.extended)),
    *(
        Case(f"input {edit.__name__}", "contradiction", "reviews", _contradiction(edit))
        for edit in (defects.swapped, defects.mistyped)
    ),
    Case("input dropped (a word)", "contradiction", "reviews", _contradiction(defects.dropped), None),
    *(Case("same input", "leak_exact", source, defects.plant_exact_leaks, 1.0) for source in SOURCES),
    *(
        Case("two edits in 100 words", "leak_near", source, _near_leak(_TWO))
        for source in ("reviews", "continuations")
    ),
    *(
        Case("light paraphrase", "leak_near", source, _near_leak(defects.paraphrased))
        for source in ("reviews", "continuations")
    ),
    Case("reworded", "leak_near", "reviews", _near_leak(defects.reworded), None),
    Case("13 words of an answer", "leak_ngram", "continuations", defects.plant_ngram_leaks),
    Case("20 words of an answer", "leak_ngram", "continuations", _TWENTY),
)  # fmt: skip


@dataclass
class Score:
    """Counts over all data sets of a case."""

    planted: int = 0
    found: int = 0
    false: int = 0  # rows named that have no defect
    clean: int = 0  # rows without a defect

    @property
    def recall(self) -> float:
        """Planted rows that were named."""
        return self.found / max(self.planted, 1)

    @property
    def precision(self) -> float:
        """Named rows that have the defect (originals of pairs left out)."""
        return self.found / max(self.found + self.false, 1)

    @property
    def false_alarms(self) -> float:
        """Clean rows that were named."""
        return self.false / max(self.clean, 1)


def findings(data: DataSet) -> list[Finding]:
    """What the rules say about a data set."""
    context = learn(data.train, data.holdout)
    train = measure(data.train, context)
    held = measure([held_out(row) for row in data.holdout], context)
    texts = data.train.__getitem__
    return [
        *corpus_findings(train, texts, context, alike(train, texts, context), epochs=3),
        *holdout_findings(train, texts, data.holdout, held, context, ()),
    ]


def accuracy(case: Case, sets: int, seed: int = 1) -> Score:
    """Plant and look, on so many data sets."""
    score = Score()
    for number in range(sets):
        random = Random(seed * 1000 + number)
        data = defects.data_set(SOURCES[case.source](), TRAIN, HOLDOUT, random)
        case.plant(data, PLANTED, random)
        named = _named(findings(data), case.rule)
        planted, excused = data.planted[case.rule], data.excused.get(case.rule, set())
        about = len(data.holdout) if case.rule.startswith("leak") else len(data.train)
        score.planted += len(planted)
        score.found += len(planted & named)
        score.false += len(named - planted - excused)
        score.clean += about - len(planted) - len(excused)
    return score


def clean(source: str, sets: int, seed: int = 2) -> dict[str, Score]:
    """Per rule that names rows, what it says about text without defects."""
    scores = {rule: Score() for rule in ROW_RULES}
    for number in range(sets):
        data = defects.data_set(SOURCES[source](), TRAIN, HOLDOUT, Random(seed * 1000 + number))
        said = findings(data)
        for rule, score in scores.items():
            score.false += sum(finding.count for finding in said if finding.rule == rule)
            score.clean += HOLDOUT if rule.startswith("leak") else TRAIN
    return scores


def record_accuracy(rule: str, breaks: Break, sets: int, base: Path | None = None, seed: int = 3) -> Score:
    """The same for defects of single records; rules about tokens need a base model's folder."""
    score = Score()
    given = [json.loads(line) for line in (defects.REVIEWS / "train.jsonl").read_text().splitlines()]
    for number in range(sets):
        random = Random(seed * 1000 + number)
        records = random.sample(given, TRAIN)
        planted = set(random.sample(range(1, TRAIN + 1), PLANTED))
        lines = [
            line(breaks(record, random)) if place in planted else json.dumps(record)
            for place, record in enumerate(records, start=1)
        ]
        named = _named(_examined(lines, base), rule)
        score.planted += len(planted)
        score.found += len(planted & named)
        score.false += len(named - planted)
        score.clean += TRAIN - PLANTED
    return score


def _examined(lines: list[str], base: Path | None) -> list[Finding]:
    with TemporaryDirectory() as folder:
        path = Path(folder) / "train.jsonl"
        path.write_text("\n".join(lines) + "\n")
        located = locate_local(path, "train")
        loaded = load_files(path.name, located, "train", path.with_suffix(".rows"), lambda *_: None)
        if base is None:
            return loaded.findings
        table = survey(loaded.rows, [], Target(base, ROW_TOKENS), lambda *_: None).tokens
        return table.findings(load_tokenizer(base), table.limit) if table else []


def record_scores(sets: int) -> Iterator[dict[str, Any]]:
    """Rows of the table for every defect of single records."""
    for (rule, name), breaks in BREAKS.items():
        yield _row(rule, name, "reviews", 1.0, record_accuracy(rule, breaks, sets))
    with TemporaryDirectory() as folder:
        base = make_base(Path(folder), FAULTY)
        for (rule, name), breaks in TOKEN_BREAKS.items():
            yield _row(rule, name, "reviews", 1.0, record_accuracy(rule, breaks, sets, base))


def planted_scores(sets: int) -> Iterator[dict[str, Any]]:
    """Rows of the table for every kind of defect between rows."""
    for case in CASES:
        yield _row(case.rule, case.name, case.source, case.aim, accuracy(case, sets))


def main() -> None:
    """Print the table and record it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--sets", type=int, default=10)
    sets = parser.parse_args().sets
    planted = [*record_scores(sets), *planted_scores(sets)]
    untouched = {
        source: {rule: round(score.false_alarms, 4) for rule, score in clean(source, sets).items()}
        for source in SOURCES
    }
    for row in planted:
        print(
            "{rule:<16} {source:<16} {case:<34} precision {precision:.3f} recall {recall:.3f}".format(**row)
        )
    for source, rates in untouched.items():
        print("clean", source, rates)
    measured = {
        "sets": sets,
        "rows": sets * (TRAIN + HOLDOUT),
        "planted": planted,
        "falseAlarmsOnCleanText": untouched,
    }
    print("written:", write("data_rules", measured, ("numpy", "scipy")))


def _named(said: list[Finding], rule: str) -> set[int]:
    return {row for finding in said if finding.rule == rule for row in finding.rows}


def _row(rule: str, case: str, source: str, aim: float | None, score: Score) -> dict[str, Any]:
    return {
        "rule": rule,
        "case": case,
        "source": source,
        "planted": score.planted,
        "precision": round(score.precision, 4),
        "recall": round(score.recall, 4),
        "falseAlarms": round(score.false_alarms, 4),
        "aim": aim,
    }


if __name__ == "__main__":
    main()
