"""The hold-out under a rival's prompt: another system message, examples from the training data, or both."""

import json
from bisect import insort
from collections.abc import Iterable, Sequence
from dataclasses import replace
from hashlib import sha256

from finetune_trainer.contracts import RivalSpec
from finetune_trainer.data.formats import Row
from finetune_trainer.data.holdout import HoldoutRow, split_reference
from finetune_trainer.data.spellings import Message
from finetune_trainer.errors import UserError

# For each example; the shortest of them are shown, as long ones leave no room for the question.
_CANDIDATES = 4


def rival_rows(rival: RivalSpec, train: Iterable[Row], holdout: Sequence[HoldoutRow]) -> list[HoldoutRow]:
    """The hold-out as the rival asks it; UserError when the training data has too few rows to show."""
    examples = _examples(rival, train, holdout) if rival.few_shot else ()
    return [_asked(rival, examples, row) for row in holdout]


def _asked(rival: RivalSpec, examples: Sequence[Message], row: HoldoutRow) -> HoldoutRow:
    own = [message for message in row.messages if message["role"] == "system"]
    system = own if rival.system is None else [{"role": "system", "content": rival.system}]
    return replace(row, messages=(*system, *examples, *_conversation(row)))


def _examples(rival: RivalSpec, train: Iterable[Row], holdout: Sequence[HoldoutRow]) -> tuple[Message, ...]:
    """Questions and answers of training rows, chosen by their content: not by their order in the files."""
    wanted = rival.few_shot or 0
    held_out = {_digest(row) for row in holdout}
    rows = filter(None, map(_example, train))
    by_content = ((_digest(row), row) for row in rows)
    unseen = ((digest, row) for digest, row in by_content if digest not in held_out)
    distinct = _first_by_digest(unseen, _CANDIDATES * wanted)
    if len(distinct) < wanted:
        text = f"evaluation.rivals: {rival.name} shows {wanted} rows of the training data as examples, which"
        raise UserError(f"{text} has {len(distinct)} with a question and a text answer; lower fewShot.")
    shown = sorted(distinct, key=_length)[:wanted]
    return tuple(message for row in shown for message in (*_conversation(row), _answer(row)))


def _first_by_digest(rows: Iterable[tuple[str, HoldoutRow]], most: int) -> list[HoldoutRow]:
    """The rows with the smallest digests, one of each; no more of them are held than asked for."""
    order: list[str] = []
    kept: dict[str, HoldoutRow] = {}
    for digest, row in rows:
        if digest in kept or (len(order) == most and digest > order[-1]):
            continue
        insort(order, digest)
        kept[digest] = row
        if len(order) > most:
            del kept[order.pop()]
    return [kept[digest] for digest in order]


def _example(row: Row) -> HoldoutRow | None:
    """A training row as question and answer; None for one without them or with tools."""
    if not row.messages or row.tools:
        return None
    split = split_reference(row)
    plain = all(message["role"] in ("user", "assistant") for message in _conversation(split))
    return split if plain and split.reference and _conversation(split) else None


def _conversation(row: HoldoutRow) -> list[Message]:
    return [message for message in row.messages if message["role"] != "system"]


def _answer(row: HoldoutRow) -> Message:
    return {"role": "assistant", "content": row.reference}


def _digest(row: HoldoutRow) -> str:
    """Of what is asked: rows that ask the same are one example."""
    return sha256(json.dumps(_conversation(row), sort_keys=True).encode()).hexdigest()


def _length(row: HoldoutRow) -> int:
    return len(json.dumps([*_conversation(row), row.reference]))
