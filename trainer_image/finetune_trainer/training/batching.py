"""Which rows train together: the same global batches in the same order, whatever the number of processes.

The loss of an optimizer step is a mean over the trained tokens of its global batch, so how that batch is
spread over processes and micro-batches does not matter; what is in it does. Libraries shard batches by
process and refill the last one, which makes the data of a step depend on the world size; hence this module.
"""

import heapq
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate, count
from typing import Any, Literal

import torch
from torch.utils.data import DataLoader, Sampler

from finetune_trainer.data.tokenise import IGNORE_INDEX

# Any token that every embedding has: a tokenizer's own padding may lie beyond the model's vocabulary.
_PADDING = 0
_FILLER_LENGTH = 2
# padded: rows side by side, filled up to the longest; packed: rows one after the other, without any filling
Layout = Literal["padded", "packed"]


@dataclass(frozen=True)
class RankSlice:
    """One process's part of each global batch: `micro_batches` per step for process `rank` of `world`."""

    rank: int
    world: int
    micro_batches: int
    layout: Layout = "padded"


def global_batches(rows: int, size: int, seed: int, epoch: int) -> list[list[int]]:
    """The rows of an epoch, shuffled and cut into batches of `size`; the last one may be smaller."""
    order = list(range(rows))
    random.Random(f"{seed}/{epoch}").shuffle(order)  # noqa: S311 - an order, not a secret
    return [order[start : start + size] for start in range(0, rows, size)]


def micro_batches(batch: Sequence[int], lengths: Sequence[int], part: RankSlice) -> list[list[int]]:
    """This process's micro-batches of a global batch; in a small last batch some may be empty.

    Neighbouring micro-batches go to different processes, so that all have about the same work at any time.
    """
    parts = _parts(batch, lengths, part.world * part.micro_batches, part.layout)
    return parts[part.rank :: part.world]


def micro_batches_per_step(
    batches: Sequence[Sequence[int]], lengths: Sequence[int], world: int, tokens: int, layout: Layout
) -> int:
    """The fewest micro-batches of each process with which every batch fits `tokens` slots per micro-batch.

    A single row that is longer than `tokens` gets a micro-batch of its own.
    """
    return max((_needed(batch, lengths, world, tokens, layout) for batch in batches), default=1)


class MicroBatchSampler(Sampler[list[int]]):
    """Yields this process's micro-batches of the current epoch, step after step."""

    def __init__(self, lengths: Sequence[int], batch_size: int, seed: int, part: RankSlice) -> None:
        self._lengths, self._batch_size, self._seed, self._part = lengths, batch_size, seed, part
        self._epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Choose the order of this epoch."""
        self._epoch = epoch

    def __len__(self) -> int:
        """Micro-batches per epoch: the same number in every step and every process."""
        return -(-len(self._lengths) // self._batch_size) * self._part.micro_batches

    def __iter__(self) -> Iterator[list[int]]:
        """The micro-batches as lists of row numbers."""
        for batch in global_batches(len(self._lengths), self._batch_size, self._seed, self._epoch):
            yield from micro_batches(batch, self._lengths, self._part)


class EpochLoader(DataLoader[Any]):
    """A DataLoader that passes the epoch on to its batch sampler (the Trainer calls `set_epoch`)."""

    def set_epoch(self, epoch: int) -> None:
        """Choose the order of this epoch."""
        if isinstance(self.batch_sampler, MicroBatchSampler):
            self.batch_sampler.set_epoch(epoch)


class Collator:
    """Makes the tensors of a micro-batch; no rows give one that trains nothing.

    Padded: `input_ids`, `labels` (-100 where untrained) and `attention_mask` of shape (rows, longest row).
    Packed: all rows in one of shape (1, tokens), with `position_ids` that start anew in each row and the
    rows' borders for attention (`cu_seq_lens_*`, int32, rows + 1; `max_length_*`).
    """

    def __init__(self, layout: Layout = "padded") -> None:
        self._layout = layout

    def __call__(self, rows: list[dict[str, list[int]]]) -> dict[str, Any]:
        """The arguments of the model's forward."""
        if not rows:
            # Every process must take part in every step; this one has no row in a small last batch.
            rows = [{"input_ids": [_PADDING] * _FILLER_LENGTH, "labels": [IGNORE_INDEX] * _FILLER_LENGTH}]
        return self._packed(rows) if self._layout == "packed" else self._padded(rows)

    def _packed(self, rows: list[dict[str, list[int]]]) -> dict[str, Any]:
        lengths = [len(row["input_ids"]) for row in rows]
        borders = torch.tensor([0, *accumulate(lengths)], dtype=torch.int32)
        # The row before must not learn to predict the first token of the next one.
        labels = [label for row in rows for label in (IGNORE_INDEX, *row["labels"][1:])]
        return {
            "input_ids": torch.tensor([[token for row in rows for token in row["input_ids"]]]),
            "labels": torch.tensor([labels]),
            "position_ids": torch.tensor([[place for length in lengths for place in range(length)]]),
            "cu_seq_lens_q": borders,
            "cu_seq_lens_k": borders,
            "max_length_q": max(lengths),
            "max_length_k": max(lengths),
        }

    def _padded(self, rows: list[dict[str, list[int]]]) -> dict[str, torch.Tensor]:
        longest = max(len(row["input_ids"]) for row in rows)
        return {
            "input_ids": _padded([row["input_ids"] for row in rows], longest, _PADDING),
            "labels": _padded([row["labels"] for row in rows], longest, IGNORE_INDEX),
            "attention_mask": _padded([[1] * len(row["input_ids"]) for row in rows], longest, 0),
        }


def tokens_of_steps(lengths: Sequence[int], batch_size: int, seed: int, epochs: int) -> list[int]:
    """Real tokens (without padding) of every optimizer step of the run, over all processes."""
    return [
        sum(lengths[row] for row in batch)
        for epoch in range(epochs)
        for batch in global_batches(len(lengths), batch_size, seed, epoch)
    ]


def _padded(rows: list[list[int]], length: int, value: int) -> torch.Tensor:
    return torch.tensor([row + [value] * (length - len(row)) for row in rows])


def _needed(batch: Sequence[int], lengths: Sequence[int], world: int, tokens: int, layout: Layout) -> int:
    for needed in count(1):
        parts = _parts(batch, lengths, world * needed, layout)
        if all(len(part) < 2 or _slots(part, lengths, layout) <= tokens for part in parts):
            return needed
    raise AssertionError("count never ends")


def _slots(part: Sequence[int], lengths: Sequence[int], layout: Layout) -> int:
    sizes = [lengths[row] for row in part]
    return sum(sizes) if layout == "packed" else len(sizes) * max(sizes)


def _parts(batch: Sequence[int], lengths: Sequence[int], number: int, layout: Layout) -> list[list[int]]:
    ordered = sorted(batch, key=lambda row: (-lengths[row], row))
    return _balanced(ordered, lengths, number) if layout == "packed" else _split_evenly(ordered, number)


def _balanced(ordered: list[int], lengths: Sequence[int], number: int) -> list[list[int]]:
    """Longest row first into the part with the fewest tokens: parts differ by less than one row (LPT)."""
    parts: list[list[int]] = [[] for _ in range(number)]
    loads = [(0, place) for place in range(number)]
    for row in ordered:
        load, place = loads[0]
        parts[place].append(row)
        heapq.heapreplace(loads, (load + lengths[row], place))
    return parts


def _split_evenly(rows: list[int], parts: int) -> list[list[int]]:
    """Rows of similar length together, longest first."""
    base, extra = divmod(len(rows), parts)
    sizes = [base + (part < extra) for part in range(parts)]
    starts = [sum(sizes[:part]) for part in range(parts)]
    return [rows[start : start + size] for start, size in zip(starts, sizes, strict=True)]
