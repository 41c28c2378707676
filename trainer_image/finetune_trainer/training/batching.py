"""Which rows train together: the same global batches in the same order, whatever the number of processes.

The loss of an optimizer step is a mean over the trained tokens of its global batch, so how that batch is
spread over processes and micro-batches does not matter; what is in it does. Libraries shard batches by
process and refill the last one, which makes the data of a step depend on the world size; hence this module.
"""

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils.data import DataLoader, Sampler

IGNORED = -100
_FILLER_LENGTH = 2


@dataclass(frozen=True)
class Share:
    """One process's part of each global batch: `micro_batches` per step for process `rank` of `world`."""

    rank: int
    world: int
    micro_batches: int


def global_batches(rows: int, size: int, seed: int, epoch: int) -> list[list[int]]:
    """The rows of an epoch, shuffled and cut into batches of `size`; the last one may be smaller."""
    order = list(range(rows))
    random.Random(f"{seed}/{epoch}").shuffle(order)  # noqa: S311 - an order, not a secret
    return [order[start : start + size] for start in range(0, rows, size)]


def micro_batches(batch: Sequence[int], lengths: Sequence[int], share: Share) -> list[list[int]]:
    """This process's micro-batches of a global batch: rows of similar length together, longest first.

    Neighbouring micro-batches go to different processes, so that all have about the same work at any time.
    In a small last batch some may be empty.
    """
    ordered = sorted(batch, key=lambda row: (-lengths[row], row))
    parts = _split_evenly(ordered, share.world * share.micro_batches)
    return parts[share.rank :: share.world]


class MicroBatchSampler(Sampler[list[int]]):
    """Yields this process's micro-batches of the current epoch, step after step."""

    def __init__(self, lengths: Sequence[int], batch_size: int, seed: int, share: Share) -> None:
        self._lengths, self._batch_size, self._seed, self._share = lengths, batch_size, seed, share
        self._epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Choose the order of this epoch."""
        self._epoch = epoch

    def __len__(self) -> int:
        """Micro-batches per epoch: the same number in every step and every process."""
        return -(-len(self._lengths) // self._batch_size) * self._share.micro_batches

    def __iter__(self) -> Iterator[list[int]]:
        """The micro-batches as lists of row numbers."""
        for batch in global_batches(len(self._lengths), self._batch_size, self._seed, self._epoch):
            yield from micro_batches(batch, self._lengths, self._share)


class EpochLoader(DataLoader[Any]):
    """A DataLoader that passes the epoch on to its batch sampler (the Trainer calls `set_epoch`)."""

    def set_epoch(self, epoch: int) -> None:
        """Choose the order of this epoch."""
        if isinstance(self.batch_sampler, MicroBatchSampler):
            self.batch_sampler.set_epoch(epoch)


class Collator:
    """Pads rows to tensors of shape (rows, longest row); no rows give one that trains nothing."""

    def __init__(self, pad_token_id: int) -> None:
        self._pad = pad_token_id

    def __call__(self, rows: list[dict[str, list[int]]]) -> dict[str, torch.Tensor]:
        """`input_ids`, `labels` (-100 where untrained) and `attention_mask`."""
        if not rows:
            # Every process must take part in every step; this one has no row in a small last batch.
            rows = [{"input_ids": [self._pad] * _FILLER_LENGTH, "labels": [IGNORED] * _FILLER_LENGTH}]
        longest = max(len(row["input_ids"]) for row in rows)
        return {
            "input_ids": _padded([row["input_ids"] for row in rows], longest, self._pad),
            "labels": _padded([row["labels"] for row in rows], longest, IGNORED),
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


def _split_evenly(rows: list[int], parts: int) -> list[list[int]]:
    base, extra = divmod(len(rows), parts)
    sizes = [base + (part < extra) for part in range(parts)]
    starts = [sum(sizes[:part]) for part in range(parts)]
    return [rows[start : start + size] for start, size in zip(starts, sizes, strict=True)]
