"""Ask a model that somebody hosts the questions of the hold-out, and grade what it answers."""

import asyncio
import time
from collections.abc import Callable, Sequence

from finetune_trainer.chat.calls import with_added
from finetune_trainer.contracts import EvaluationSpec
from finetune_trainer.errors import UserError
from finetune_trainer.scoring.client import Answer
from finetune_trainer.scoring.endpoint import Completion, Endpoint, EndpointFailed
from finetune_trainer.scoring.rows import GradedRow, Question, graded

_CONCURRENCY = 8  # what a shared endpoint answers at once without refusing


async def answer_hosted(
    endpoint: Endpoint, questions: Sequence[Question], evaluation: EvaluationSpec, done: Callable[[], None]
) -> list[GradedRow]:
    """Rows in the order of the questions; UserError when the endpoint answered none of them.

    With a ToolCall grader the model may call the functions that a row offers; else it has to answer in text.
    """
    places, choice = asyncio.Semaphore(_CONCURRENCY), "auto" if evaluation.graders_of("ToolCall") else "none"

    async def one(question: Question) -> GradedRow:
        async with places:
            answer = await _answer(endpoint, question, choice, evaluation.output_tokens)
        done()
        return graded(question, answer, evaluation.graders)

    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(one(question)) for question in questions]
    rows = [task.result() for task in tasks]
    if rows and all(row.problem for row in rows):
        raise UserError(f"{endpoint.url} answered no question as {endpoint.model}: {rows[0].problem}.")
    return rows


async def _answer(endpoint: Endpoint, question: Question, choice: str, max_tokens: int) -> Answer | str:
    """The answer, as greedy as the endpoint can, or why there is none."""
    tools = {"tool_choice": choice} if question.prompt.tools else {}
    parameters = {"temperature": 0, "seed": 0, "max_tokens": max_tokens}
    began = time.monotonic()

    def read(answer: Completion) -> Answer:
        text, seconds = with_added(answer.text, answer.calls), round(time.monotonic() - began, 3)
        return Answer(text, answer.finish, answer.output_tokens, seconds)

    try:
        return await endpoint.ask({**question.prompt.asked(), **tools}, parameters, read, limited=True)
    except EndpointFailed as error:
        return str(error)
