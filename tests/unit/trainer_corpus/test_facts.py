"""Facts of chunks, and what they do not depend on."""

import os
import subprocess
import sys
from dataclasses import fields, replace
from itertools import pairwise
from random import Random

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from finetune_trainer.data.corpus.duplicates import alike
from finetune_trainer.data.corpus.facts import Facts, concat, learn, measure
from finetune_trainer.data.corpus.rules import corpus_findings
from finetune_trainer.data.findings import Finding
from finetune_trainer.data.formats import Row
from tests import defects

RANDOM = Random(5)
DATA = defects.data_set(defects.reviews(), 150, 30, RANDOM)
defects.plant_near_duplicates(DATA, 4, RANDOM)
defects.plant_exact_duplicates(DATA, 3, RANDOM)
defects.plant_contradictions(DATA, 3, RANDOM)
TURNS = [("system", "s"), ("user", "a"), ("assistant", "b"), ("user", "c"), ("assistant", "d")]
DATA.train.append(Row(len(DATA.train) + 1, "turns", tuple({"role": r, "content": c} for r, c in TURNS)))
DATA.train.append(Row(len(DATA.train) + 1, "text", (), text="A text of its own."))
CONTEXT = learn(DATA.train, DATA.holdout)
WHOLE = measure(DATA.train, CONTEXT)


def _findings(facts: Facts, rows: list[Row]) -> list[Finding]:
    near = alike(facts, rows.__getitem__, CONTEXT)
    return corpus_findings(facts, rows.__getitem__, CONTEXT, near, epochs=3)


@settings(max_examples=20, deadline=None)
@given(st.lists(st.integers(1, len(DATA.train) - 1), max_size=5))
def test_facts_of_chunks_are_those_of_the_whole(cuts: list[int]) -> None:
    bounds = [0, *sorted(set(cuts)), len(DATA.train)]
    chunks = [DATA.train[start:end] for start, end in pairwise(bounds)]
    joined = concat(measure(chunk, CONTEXT) for chunk in chunks)
    for field in fields(Facts):
        assert np.array_equal(getattr(joined, field.name), getattr(WHOLE, field.name)), field.name
    assert _findings(joined, DATA.train) == _findings(WHOLE, DATA.train)


def test_facts_can_be_added() -> None:
    both = measure(DATA.train[:7], CONTEXT) + measure(DATA.train[7:], CONTEXT)
    assert np.array_equal(both.row_signature, WHOLE.row_signature)
    assert np.array_equal(both.prompts_owner, WHOLE.prompts_owner)


@settings(max_examples=5, deadline=None)
@given(st.randoms(use_true_random=False))
def test_the_order_of_the_rows_changes_row_numbers_only(random: Random) -> None:
    order = list(range(len(DATA.train)))
    random.shuffle(order)
    shuffled = [replace(DATA.train[old], number=new) for new, old in enumerate(order, start=1)]
    mine = {f.rule: f for f in _findings(WHOLE, DATA.train)}
    theirs = {f.rule: f for f in _findings(measure(shuffled, CONTEXT), shuffled)}
    assert {rule: (f.count, f.severity) for rule, f in mine.items()} == {
        rule: (f.count, f.severity) for rule, f in theirs.items()
    }
    for rule in ("near_duplicate", "contradiction"):
        assert set(mine[rule].rows) == {order[number - 1] + 1 for number in theirs[rule].rows}


def test_hashes_are_the_same_in_every_process() -> None:
    code = (
        "from finetune_trainer.data.corpus.facts import learn, measure\n"
        "from finetune_trainer.data.formats import Row\n"
        "rows = [Row(1, '1', ({'role': 'user', 'content': 'a b c'}, {'role': 'assistant', 'content': 'd'}))]\n"
        "facts = measure(rows, learn(rows, []))\n"
        "print(facts.row, facts.prompt, facts.skeleton, facts.row_signature.tolist())"
    )
    outputs = {
        subprocess.run(
            [sys.executable, "-c", code], env={**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": os.pathsep.join(sys.path)},
            capture_output=True, text=True, check=True,
        ).stdout
        for seed in ("1", "2")
    }  # fmt: skip
    assert len(outputs) == 1


def test_a_row_is_compact() -> None:
    size = sum(getattr(WHOLE, field.name).nbytes for field in fields(Facts) if field.name != "unigrams")
    assert size / len(WHOLE) < 2000  # bytes: 100,000 rows within 200 MB


def test_every_assistant_turn_has_a_prompt() -> None:
    turns = len(DATA.train) - 2
    assert np.count_nonzero(WHOLE.prompts_owner == turns) == 2
    assert np.count_nonzero(WHOLE.prompts_owner == turns + 1) == 0


def test_an_empty_chunk_has_facts() -> None:
    assert len(measure([], CONTEXT)) == 0
    assert len(measure([], CONTEXT) + WHOLE) == len(WHOLE)
