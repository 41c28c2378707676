"""Which rows train together must not depend on how many processes share the work."""

from hypothesis import given
from hypothesis import strategies as st

from finetune_trainer.data.tokenise import IGNORE_INDEX
from finetune_trainer.training.batching import (
    Collator,
    Layout,
    MicroBatchSampler,
    RankSlice,
    global_batches,
    micro_batches,
    micro_batches_per_step,
    tokens_of_steps,
)

LAYOUTS = st.sampled_from(["padded", "packed"])
LENGTHS = st.lists(st.integers(1, 50), min_size=1, max_size=60)


@given(
    lengths=LENGTHS,
    world=st.sampled_from([1, 2, 4]),
    micro=st.sampled_from([1, 2]),
    epoch=st.integers(0, 3),
    layout=LAYOUTS,
)
def test_all_processes_together_train_every_global_batch_exactly(
    lengths: list[int], world: int, micro: int, epoch: int, layout: Layout
) -> None:
    for batch in global_batches(len(lengths), 8, 17, epoch):
        parts = [
            micro_batches(batch, lengths, RankSlice(rank, world, micro, layout)) for rank in range(world)
        ]
        assert sorted(row for part in parts for rows in part for row in rows) == sorted(batch)
        assert {len(part) for part in parts} == {micro}


@given(lengths=LENGTHS, epoch=st.integers(0, 3))
def test_an_epoch_holds_every_row_once(lengths: list[int], epoch: int) -> None:
    batches = global_batches(len(lengths), 8, 17, epoch)
    assert sorted(row for batch in batches for row in batch) == list(range(len(lengths)))
    assert all(len(batch) == 8 for batch in batches[:-1])


@given(lengths=LENGTHS, world=st.sampled_from([1, 2, 4]))
def test_a_sampler_is_as_long_as_it_says_in_every_process(lengths: list[int], world: int) -> None:
    for rank in range(world):
        sampler = MicroBatchSampler(lengths, 8, 17, RankSlice(rank, world, 2))
        assert len(list(sampler)) == len(sampler) == -(-len(lengths) // 8) * 2


def test_epochs_differ_and_repeat() -> None:
    sampler = MicroBatchSampler(list(range(1, 41)), 8, 17, RankSlice(0, 1, 1))
    first = list(sampler)
    sampler.set_epoch(1)
    second = list(sampler)
    sampler.set_epoch(0)
    assert first != second
    assert list(sampler) == first


def test_neighbouring_micro_batches_hold_rows_of_similar_length() -> None:
    lengths = [3, 40, 5, 38, 4, 39, 2, 41]
    rows = micro_batches(range(8), lengths, RankSlice(0, 1, 2))
    assert [[lengths[row] for row in part] for part in rows] == [[41, 40, 39, 38], [5, 4, 3, 2]]


@given(lengths=LENGTHS, world=st.sampled_from([1, 2, 4]), tokens=st.integers(50, 200), layout=LAYOUTS)
def test_micro_batches_fit_their_token_slots_and_one_fewer_would_not(
    lengths: list[int], world: int, tokens: int, layout: Layout
) -> None:
    batches = global_batches(len(lengths), 8, 17, 0)
    needed = micro_batches_per_step(batches, lengths, world, tokens, layout)
    assert largest(batches, lengths, world, needed, layout) <= tokens
    if needed > 1:
        assert largest(batches, lengths, world, needed - 1, layout) > tokens


def largest(batches: list[list[int]], lengths: list[int], world: int, micro: int, layout: Layout) -> int:
    """The slots of the largest micro-batch of two rows or more."""
    parts = [
        [lengths[row] for row in part]
        for batch in batches
        for rank in range(world)
        for part in micro_batches(batch, lengths, RankSlice(rank, world, micro, layout))
    ]
    return max((sum(p) if layout == "packed" else len(p) * max(p) for p in parts if len(p) > 1), default=0)


@given(lengths=st.lists(st.integers(1, 50), min_size=8, max_size=8))
def test_packed_micro_batches_differ_by_at_most_one_row(lengths: list[int]) -> None:
    parts = micro_batches(range(8), lengths, RankSlice(0, 1, 3, "packed"))
    loads = [sum(lengths[row] for row in part) for part in parts]
    assert max(loads) - min(loads) <= max(lengths)


def test_packed_rows_follow_each_other_and_do_not_learn_each_others_first_token() -> None:
    batch = Collator("packed")(
        [{"input_ids": [1, 2, 3], "labels": [1, 2, 3]}, {"input_ids": [4, 5], "labels": [4, 5]}]
    )
    assert batch["input_ids"].tolist() == [[1, 2, 3, 4, 5]]
    assert batch["labels"].tolist() == [[IGNORE_INDEX, 2, 3, IGNORE_INDEX, 5]]
    assert batch["position_ids"].tolist() == [[0, 1, 2, 0, 1]]
    assert batch["cu_seq_lens_q"].tolist() == [0, 3, 5]
    assert batch["max_length_q"] == 3


def test_padding_is_neither_attended_nor_trained() -> None:
    batch = Collator()(
        [{"input_ids": [1, 2, 3], "labels": [IGNORE_INDEX, 2, 3]}, {"input_ids": [4], "labels": [4]}]
    )
    assert batch["input_ids"].tolist() == [[1, 2, 3], [4, 0, 0]]
    assert batch["labels"].tolist() == [[IGNORE_INDEX, 2, 3], [4, IGNORE_INDEX, IGNORE_INDEX]]
    assert batch["attention_mask"].tolist() == [[1, 1, 1], [1, 0, 0]]


def test_a_process_without_rows_gets_a_batch_that_trains_nothing() -> None:
    assert set(Collator()([])["labels"].flatten().tolist()) == {IGNORE_INDEX}


@given(lengths=LENGTHS, epochs=st.integers(1, 3))
def test_tokens_are_counted_without_padding(lengths: list[int], epochs: int) -> None:
    assert sum(tokens_of_steps(lengths, 8, 17, epochs)) == sum(lengths) * epochs
