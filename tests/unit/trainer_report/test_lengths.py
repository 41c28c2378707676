"""Length statistics and the example's mask, from tokens."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from finetune_trainer.report.document import Token
from finetune_trainer.report.lengths import measure_lengths
from finetune_trainer.report.mask import Gap, abbreviated, example, runs, visible

ROWS = st.lists(st.integers(0, 200_000), min_size=1, max_size=200)
MASKS = st.lists(st.tuples(st.booleans(), st.integers(1, 700)), max_size=8)


@given(ROWS)
def test_every_row_is_counted_in_one_bar_that_holds_its_length(rows: list[int]) -> None:
    counted = measure_lengths(rows, rows, None).histogram
    bars = zip(counted.edges, counted.edges[1:], counted.counts, strict=False)
    assert all(count == sum(left <= row < right for row in rows) for left, right, count in bars)
    assert sum(counted.counts) == len(rows)
    assert len(counted.counts) <= 30


@given(ROWS)
def test_percentiles_are_lengths_of_rows_in_order(rows: list[int]) -> None:
    lengths = measure_lengths(rows, rows, None)
    ordered = [lengths.min, lengths.p5, lengths.p50, lengths.p95, lengths.max]
    assert ordered == sorted(ordered)
    assert set(ordered) <= set(rows)
    assert lengths.total == sum(rows)


@pytest.mark.parametrize(
    ("rows", "p5", "p50", "p95"),
    [(range(1, 101), 5, 50, 95), ([7], 7, 7, 7), ([1, 9], 1, 1, 9)],
    ids=["one to a hundred", "one row", "two rows"],
)
def test_percentiles_are_true_fifth_and_ninety_fifth_ones(rows: range, p5: int, p50: int, p95: int) -> None:
    lengths = measure_lengths(list(rows), list(rows), 8)
    assert (lengths.p5, lengths.p50, lengths.p95, lengths.limit) == (p5, p50, p95, 8)


@given(MASKS)
def test_an_abbreviated_example_accounts_for_every_token(mask: list[tuple[bool, int]]) -> None:
    tokens = [Token(text="x", id=i, trained=trained) for trained, count in mask for i in range(count)]
    pieces = abbreviated(tokens)
    assert sum(piece.count if isinstance(piece, Gap) else 1 for piece in pieces) == len(tokens)
    shown = [piece for piece in pieces if isinstance(piece, Token)]
    assert shown[:1] == tokens[:1]
    assert shown[-1:] == tokens[-1:]


@given(MASKS)
def test_runs_alternate_and_keep_the_order(mask: list[tuple[bool, int]]) -> None:
    tokens = [Token(text="x", id=i, trained=trained) for trained, count in mask for i in range(count)]
    found = runs(tokens)
    assert [token for run in found for token in run.tokens] == tokens
    assert all(left.trained != right.trained for left, right in pairwise(found))


def test_an_example_is_made_from_ids_and_their_mask() -> None:
    made = example(7, [1, 2], [False, True], {1: "<s>", 2: "yes"}.__getitem__, {1})
    assert made.row == 7
    assert made.tokens == (
        Token(text="<s>", id=1, trained=False, special=True), Token(text="yes", id=2, trained=True, special=False),
    )  # fmt: skip


@pytest.mark.parametrize(
    ("text", "shown"),
    [("a\nb", "a↵\nb"), ("\t", "⇥\t"), ("\x1b[2J", "�[2J"), ("\u202egnp", "�gnp"), ("żółć 😀", "żółć 😀")],
    ids=["line break", "tab", "terminal control", "text turned around", "letters of all kinds"],
)
def test_what_cannot_be_seen_in_a_token_is_drawn(text: str, shown: str) -> None:
    assert visible(text) == shown
