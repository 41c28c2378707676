"""Ask one model the questions of sets, those of one at once, and grade what it answers."""

import asyncio
from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager
from functools import partial
from itertools import count

from finetune_trainer.contracts import EvaluationSpec
from finetune_trainer.errors import UserError
from finetune_trainer.progress import ProgressServer
from finetune_trainer.scoring.client import Answer, Engine, Refused, all_of
from finetune_trainer.scoring.drift import check_rendering
from finetune_trainer.scoring.perplexity import grade_perplexity
from finetune_trainer.scoring.question_sets import QuestionSet
from finetune_trainer.scoring.rows import GradedRow, Question, graded

Answered = dict[str, list[GradedRow]]  # by the title of the questions
Ready = AbstractAsyncContextManager[tuple[Engine, str]]  # an engine that is ready, and the model to ask there
Keep = Callable[[QuestionSet, list[GradedRow]], None]


def ask(sets: Sequence[QuestionSet], ready: Ready, server: ProgressServer, keep: Keep) -> Answered:
    """Ask a model the sets one after the other; `keep` gets the rows of each as soon as it is answered."""
    server.update(total_steps=sum(len(asked.questions) for asked in sets), message="waiting for the engine")
    return asyncio.run(_ask(sets, ready, server, keep))


async def _ask(sets: Sequence[QuestionSet], ready: Ready, server: ProgressServer, keep: Keep) -> Answered:
    answered: Answered = {}
    async with ready as (engine, model):
        for asked in sets:
            server.update(message=f"asking the questions of {asked.title}")
            before = sum(map(len, answered.values()))
            done = partial(_stepped, server, before)
            rows = await answer_all(engine, model, asked.questions, asked.evaluation, done, asked.title)
            answered[asked.title] = rows
            keep(asked, rows)
    return answered


def _stepped(server: ProgressServer, before: int, rows: int) -> None:
    server.stepped(step=before + rows)


async def answer_all(
    engine: Engine,
    model: str,
    questions: Sequence[Question],
    evaluation: EvaluationSpec,
    done: Callable[[int], None],
    title: str = "the hold-out",
) -> list[GradedRow]:
    """Rows in the order of the questions; UserError when the engine accepted none of the prompts.

    TemplateDrift when it renders one otherwise than prepare.

    `done` is called with the number of rows that are finished; `title` names the questions in messages.
    """
    await check_rendering(engine, model, questions)
    places, finished = asyncio.Semaphore(engine.places), count(1)

    async def one(question: Question) -> GradedRow:
        async with places:
            answer = await _answer(engine, model, question, evaluation.output_tokens)
            row = graded(question, answer, evaluation.graders)
            row = await grade_perplexity(engine, model, question, row, evaluation)
        done(next(finished))
        return row

    rows = await all_of(map(one, questions))
    if rows and all(row.problem for row in rows):
        raise UserError(f"The engine refused every prompt of {title}; it said: {rows[0].problem}")
    return rows


async def _answer(engine: Engine, model: str, question: Question, max_tokens: int) -> Answer | str:
    try:
        return await engine.chat(model, question.prompt, max_tokens)
    except Refused as error:
        return str(error)
