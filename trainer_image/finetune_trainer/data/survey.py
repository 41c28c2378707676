"""The second pass over a data set: its rows are compared with each other, and tokenised."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import pyarrow as pa

from finetune_trainer.chat.options import Value
from finetune_trainer.chat.tokenizer import ChatTokenizer, load_tokenizer
from finetune_trainer.data.corpus.duplicates import Alike, alike
from finetune_trainer.data.corpus.facts import SAMPLE, Context, Facts, concat, learn, measure
from finetune_trainer.data.formats import Row
from finetune_trainer.data.holdout import HoldoutRow
from finetune_trainer.data.load import Watch
from finetune_trainer.data.spool import Spool
from finetune_trainer.data.tokenise import Encoded, Unrendered, encode_rows
from finetune_trainer.data.tokens import TokenTable, tabulate
from finetune_trainer.data.workers import each
from finetune_trainer.trained_rows import WriteRows, as_batch

_CHUNK_ROWS = 500
_CHUNK_BYTES = 4 << 20


@dataclass(frozen=True)
class Target:
    """What rows are tokenised for: a base model's folder, the most tokens of a row, what writes them.

    `kwargs` are passed to the chat template.
    """

    base: Path
    limit: int
    write: WriteRows | None = None
    kwargs: Mapping[str, Value] = field(default_factory=dict)


@dataclass(frozen=True)
class Survey:
    """What is known of all rows: `context`, `facts` and those `near` each other; `tokens` need a target."""

    context: Context
    facts: Facts
    near: Alike
    tokens: TokenTable | None


@dataclass(frozen=True)
class _State:
    """What a process needs; `write` asks for the rows as they are trained."""

    rows: Spool
    context: Context
    tokenizer: ChatTokenizer | None
    limit: int
    write: bool


@dataclass(frozen=True)
class _Part:
    facts: Facts
    tokens: TokenTable | None
    trained: pa.RecordBatch | None


def survey(rows: Spool, holdout: list[HoldoutRow], target: Target | None, watch: Watch) -> Survey:
    """Look at every row of a data set that has at least one; `target` None leaves tokens out.

    Rows are passed to `target.write` in their order, as the train stage reads them.
    """
    context = learn(_sample(rows), holdout)
    make = partial(
        _make, rows, context, target and replace(target, write=None), write=bool(target and target.write)
    )
    facts, tokens = [], None
    for part in each(_look, make, _chunks(rows), rows.size):
        facts.append(part.facts)
        if part.tokens is not None:
            tokens = part.tokens if tokens is None else tokens + part.tokens
        if target and target.write:
            target.write(part.trained)
        watch("comparing rows" if target is None else "tokenising rows", sum(map(len, facts)), len(rows))
    together = concat(facts)
    watch("looking for duplicates", 0, None)
    return Survey(context, together, alike(together, rows, context), tokens)


def _sample(rows: Spool) -> list[Row]:
    """Rows from all over the data set, as many as the context is learned from."""
    step = max(1, len(rows) // SAMPLE)
    return [rows(place) for place in range(0, len(rows), step)][:SAMPLE]


def _make(rows: Spool, context: Context, target: Target | None, *, write: bool) -> _State:
    tokenizer = load_tokenizer(target.base, target.kwargs) if target else None
    return _State(rows, context, tokenizer, target.limit if target else 0, write)


def _chunks(rows: Spool) -> Iterator[tuple[int, int]]:
    """Places from and to before, of few enough rows and bytes."""
    start = 0
    while start < len(rows):
        end = rows.fitting(start, _CHUNK_ROWS, _CHUNK_BYTES)
        yield start, end
        start = end


def _look(state: _State, places: tuple[int, int]) -> _Part:
    rows = state.rows.rows(*places)
    facts = measure(rows, state.context)
    if state.tokenizer is None:
        return _Part(facts, None, None)
    results = encode_rows(state.tokenizer, rows)
    table = tabulate(state.tokenizer, results, state.limit)
    return _Part(facts, table, _trained(results, state.limit) if state.write else None)


def _trained(results: list[Encoded | Unrendered], limit: int) -> pa.RecordBatch:
    kept = (row.cut(limit) for row in results if isinstance(row, Encoded))
    return as_batch({"input_ids": row.ids, "labels": row.labels} for row in kept)
