"""Real vLLM as a judge: it takes the requests of judging, and its replies have the shape that was asked for.

The model is SmolLM2-135M, whose opinions are worth nothing: what is held here is the contract, and that a judge
that decides by position is found out.
"""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from dev.assets.smollm2 import base_model as smollm2
from dev.cluster.home import home
from finetune_trainer.contracts import EvaluationSpec
from finetune_trainer.judging.replies import Replies
from finetune_trainer.judging.session import JudgeAccess, judge_one, judge_two
from finetune_trainer.scoring.client import Answer, Prompt
from finetune_trainer.scoring.endpoint import Endpoint
from finetune_trainer.scoring.hosted import answer_hosted
from finetune_trainer.scoring.rows import GradedRow, Question, graded
from tests.contract.engine.conftest import running_engine

pytestmark = [pytest.mark.engine, pytest.mark.slow]
CRITERIA = ("It names a colour", "It is one word")


@pytest.fixture(scope="module")
def engine() -> Iterator[Path]:
    """The socket of an engine that serves SmolLM2 under the name `tiny`."""
    with running_engine(smollm2(home()), "--max-model-len", "4096") as socket:
        yield socket


@asynccontextmanager
async def listening(socket: Path) -> AsyncIterator[str]:
    """The engine's API at an address of this machine, as a judge has one."""

    async def carry(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while piece := await reader.read(1 << 16):
            writer.write(piece)
            await writer.drain()
        writer.close()

    async def relay(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, back = await asyncio.open_unix_connection(str(socket))
        await asyncio.gather(carry(reader, back), carry(there, writer))

    server = await asyncio.start_server(relay, "127.0.0.1", 0)
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1"
    finally:
        server.close()


def evaluation(url: str) -> EvaluationSpec:
    kinds = ("JudgeCriteria", "JudgePairwise")
    return EvaluationSpec.model_validate(
        {
            "dataset": {"source": "configmap://d/h.jsonl"},
            "graders": [{"name": kind, "type": kind, "criteria": CRITERIA} for kind in kinds],
            "primary": "JudgeCriteria",
            "maxTokens": 8,
            "judge": {"url": url, "model": "tiny", "timeoutSeconds": 300, "maxConcurrency": 4},
        }
    )


def rows(spec: EvaluationSpec, *outputs: str) -> tuple[list[Question], list[GradedRow]]:
    questions = [
        Question(f"r{n}", Prompt(({"role": "user", "content": f"The colour of thing {n}?"},)), "Red")
        for n in range(len(outputs))
    ]
    answers = [Answer(text, "stop", 1, 0.1) for text in outputs]
    return questions, [
        graded(asked, answer, spec.graders) for asked, answer in zip(questions, answers, strict=True)
    ]


def told(_: Any) -> None:
    """Nobody watches."""


async def test_every_row_is_decided_and_nothing_is_asked_twice(engine: Path) -> None:
    async with listening(engine) as url:
        spec, access = evaluation(url), JudgeAccess(None, Replies())
        questions, answered = rows(spec, "Red", "I cannot say which colour it has.")
        first = await judge_one(spec, access, questions, answered, told)
        again = await judge_one(spec, access, questions, answered, told)
    reasons = [row.grades["JudgeCriteria"].reason for row in first.rows]
    assert all(row.score("JudgeCriteria") in (0, 0.5, 1) for row in first.rows), reasons
    assert first.use.usage.input_tokens > 0
    assert first.use.usage.output_tokens > 0
    assert (again.rows, again.use.usage.requests, again.use.cached) == (first.rows, 0, 2)


async def test_pairs_are_decided_in_both_orders(engine: Path) -> None:
    async with listening(engine) as url:
        spec, access = evaluation(url), JudgeAccess(None, Replies())
        questions, base = rows(spec, "Red", "Blue", "I do not know.")
        _, tuned = rows(spec, "A long story about paint", "Green", "Yellow")
        judged = await judge_two(spec, access, questions, base, tuned, told)
    assert judged.base is not None
    mirrored = [
        (row.score("JudgePairwise"), other.score("JudgePairwise"))
        for row, other in zip(judged.rows, judged.base, strict=True)
    ]
    assert all(one in (0, 0.5, 1) and other == 1 - one for one, other in mirrored), judged.rows
    assert judged.flip_rate is not None


async def test_a_hosted_model_answers_the_hold_out(engine: Path) -> None:
    async with listening(engine) as url, Endpoint(url, "tiny", None, 300.0) as endpoint:
        spec = evaluation(url)
        questions, _ = rows(spec, "Red", "Blue")
        answered = await answer_hosted(endpoint, questions, spec, lambda: None)
    assert all(row.output for row in answered)
    assert all(0 < row.tokens <= 8 for row in answered)
