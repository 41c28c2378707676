"""Whether the engine sees the prompts that prepare saw: the same tokens, row by row."""

from collections.abc import Sequence
from os.path import commonprefix

from finetune_trainer.errors import TemplateDrift
from finetune_trainer.scoring.client import Engine, Refused
from finetune_trainer.scoring.rows import Question

_SHOWN = 60  # characters of either text before and after the first difference


async def check_rendering(engine: Engine, model: str, questions: Sequence[Question]) -> None:
    """TemplateDrift when the engine makes other tokens of a prompt than prepare recorded with the row."""
    for question in questions:
        if question.prompt_ids:
            await _check(engine, model, question)


async def _check(engine: Engine, model: str, question: Question) -> None:
    try:
        seen = await engine.prompt_ids(model, question.prompt)
    except Refused:
        return  # asking it again gives the row's problem its words
    if seen == list(question.prompt_ids):
        return
    ours, theirs = [await engine.text(model, ids) for ids in (question.prompt_ids, seen)]
    raise TemplateDrift(
        f"The engine renders row {question.id} otherwise than prepare: {difference(ours, theirs)}; "
        "let the engine's arguments change neither chat template nor tokenizer, and run the job again."
    )


def difference(ours: str, theirs: str) -> str:
    """Where two texts part, with a little of both around that place."""
    place = len(commonprefix([ours, theirs]))
    if ours == theirs:
        return "the texts are equal and their tokens differ"
    start = max(0, place - _SHOWN)
    shown = [text[start : place + _SHOWN] for text in (ours, theirs)]
    return f"{shown[0]!r} became {shown[1]!r}"
