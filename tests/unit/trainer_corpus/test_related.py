"""The training rows that resemble a hold-out row."""

import json

from finetune_trainer.data.corpus.facts import Facts, learn, measure
from finetune_trainer.data.corpus.related import Related, related_rows
from finetune_trainer.data.corpus.texts import held_out
from finetune_trainer.data.formats import Row
from finetune_trainer.data.holdout import HoldoutRow, split_reference

WORDS = "the pump of the second line stopped during the night shift and nobody could say why it had done so"


def row(number: int, asked: str, answer: str = "yes") -> Row:
    """A question and its answer."""
    turns = ({"role": "user", "content": asked}, {"role": "assistant", "content": answer})
    return Row(number, f"r{number}", turns)


def related(train: list[Row], holdout: list[HoldoutRow]) -> list[Related]:
    """What is related, through the facts that prepare measures."""
    context = learn(train, holdout)

    def facts(rows: list[Row]) -> Facts:
        return measure(rows, context)

    return related_rows(facts(train), holdout, facts([held_out(each) for each in holdout]))


def test_the_closest_training_rows_are_named_by_their_numbers_the_most_alike_first() -> None:
    train = [
        row(
            3, "A wholly different matter about invoices that were sent twice to the wrong customer last year"
        ),
        row(7, WORDS.replace("night", "early")),
        row(9, WORDS, "no"),
    ]
    [found] = related(train, [split_reference(row(1, WORDS))])
    assert (found.id, found.row, [number for number, _ in found.train]) == ("r1", 1, [9, 7])
    assert found.train[0][1] == 1.0
    assert 0.4 <= found.train[1][1] < 1.0


def test_a_row_like_none_has_none_and_of_many_three_are_named() -> None:
    train = [row(number, WORDS) for number in range(1, 9)]
    lone, crowded = related(train, [split_reference(row(1, "Who?")), split_reference(row(2, WORDS))])
    assert lone.train == ()
    assert len(crowded.train) == 3


def test_it_survives_the_way_through_its_file() -> None:
    found = Related("r1", 1, ((9, 1.0), (7, 0.62)))
    assert Related.from_json(json.loads(json.dumps(found.to_json()))) == found
