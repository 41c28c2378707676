"""A ModelServer as the engine that scores: patient where it is busy, final where it refuses."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from finetune_trainer.contracts import EngineSpec, ServerSpec
from finetune_trainer.errors import UserError
from finetune_trainer.progress import Progress
from finetune_trainer.scoring import server as scoring_server
from finetune_trainer.scoring.client import EngineUnavailable, Prompt, Refused
from finetune_trainer.scoring.drift import check_rendering
from finetune_trainer.scoring.rows import Question
from finetune_trainer.scoring.server import ServerEngine, engine_for

DIGEST = "sha256:" + "d" * 64
VERSION = "candidate.run--" + "d" * 12
PROMPT = Prompt(({"role": "user", "content": "question 0"},))
Reply = tuple[int, dict[str, Any]]


def answer(**more: Any) -> Reply:
    """A successful answer."""
    choice = {"message": {"content": "right"}, "finish_reason": "stop"}
    return 200, {"choices": [choice], "usage": {"completion_tokens": 1}, **more}


def refusal(status: int, message: str = "no", code: str = "x") -> Reply:
    return status, {"error": {"message": message, "code": code}}


class Gateway:
    """Answers with these replies in turn, the last one for ever."""

    def __init__(self, *replies: Reply) -> None:
        self.replies = list(replies)
        self.seen: list[dict[str, Any]] = []
        self.keys: list[str | None] = []
        self.marked: list[bool] = []
        self.server = TestServer(self._app())

    def spec(self, key: str | None = None) -> ServerSpec:
        return ServerSpec(
            endpoint=str(self.server.make_url("/v1")),
            model="small",
            template=DIGEST,
            candidate="candidate.run",
            source="pvc://adapters/_candidates/run",
            key=key,
        )

    def _app(self) -> web.Application:
        app = web.Application()
        app.router.add_post("/v1/chat/completions", self._chat)
        app.router.add_post("/v1/completions", self._chat)
        app.router.add_get("/health", lambda _: asyncio.sleep(0, web.Response()))
        return app

    async def _chat(self, request: web.Request) -> web.Response:
        self.seen.append(await request.json())
        self.keys.append(request.headers.get("Authorization"))
        self.marked.append("x-finetune-scoring" in request.headers)
        status, body = self.replies.pop(0) if len(self.replies) > 1 else self.replies[0]
        return web.json_response(body, status=status)


@pytest.fixture
async def start() -> AsyncIterator[Callable[..., Awaitable[Gateway]]]:
    """Start a gateway."""
    started: list[Gateway] = []

    async def begin(*replies: Reply) -> Gateway:
        gateway = Gateway(*replies)
        await gateway.server.start_server()
        started.append(gateway)
        return gateway

    yield begin
    for gateway in started:
        await gateway.server.close()


Start = Callable[..., Awaitable[Gateway]]


def engine(gateway: Gateway, key: str | None = None) -> ServerEngine:
    return ServerEngine(gateway.spec(key), lambda: DIGEST, first_wait=0.001, look_seconds=0.001)


async def test_a_busy_server_is_asked_again_for_as_long_as_it_takes(start: Start) -> None:
    busy = [refusal(429)] * 9 + [refusal(503)] * 3
    gateway = await start(*busy, answer())
    async with engine(gateway) as asked:
        assert (await asked.chat("small", PROMPT, 8)).text == "right"
    assert len(gateway.seen) == 13


async def test_a_replica_that_has_just_started_and_lacks_the_model_is_asked_again(start: Start) -> None:
    gateway = await start(*[refusal(404, code="model_not_found")] * 5, answer())
    async with engine(gateway) as asked:
        assert (await asked.chat(VERSION, PROMPT, 8)).text == "right"


async def test_a_model_that_no_replica_has_any_more_ends_the_stage(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scoring_server, "_BUSY_SECONDS", 0.05)
    gateway = await start(refusal(404, "The model does not exist.", "model_not_found"))
    async with engine(gateway) as asked:
        with pytest.raises(EngineUnavailable, match="The model does not exist"):
            await asked.chat(VERSION, PROMPT, 8)


@pytest.mark.parametrize(
    "status",
    [
        pytest.param(401, id="the key was taken away"),
        pytest.param(403, id="the key may not call the model any more"),
        pytest.param(404, id="the address is none of the server's"),
        pytest.param(409, id="a replica refuses the candidate"),
    ],
)
async def test_a_refusal_of_every_question_ends_the_stage_and_is_no_answer_of_a_row(
    start: Start, status: int
) -> None:
    gateway = await start(answer(), refusal(status, "The key is wrong."))
    async with engine(gateway) as asked:
        await asked.chat(VERSION, PROMPT, 8)
        with pytest.raises(UserError, match="The key is wrong"):
            await asked.chat(VERSION, PROMPT, 8)


@pytest.mark.parametrize("status", [400, 413, 422])
async def test_a_prompt_that_the_server_refuses_is_its_rows_matter(start: Start, status: int) -> None:
    gateway = await start(refusal(status, "too long"))
    async with engine(gateway) as asked:
        with pytest.raises(Refused, match="too long"):
            await asked.chat(VERSION, PROMPT, 8)


def test_few_questions_are_under_way_at_once() -> None:
    assert ServerEngine.places == 2


async def test_a_candidate_is_offered_once_and_waited_for(start: Start) -> None:
    gateway = await start(refusal(404), refusal(503), refusal(429), answer())
    async with engine(gateway) as asked:
        assert await asked.load_adapter("tuned", Path("unused")) == VERSION
        await asked.chat("small", PROMPT, 8)
    assert [body["model"] for body in gateway.seen] == [VERSION] * 4 + ["small"]
    assert all(gateway.marked), "a server lets few of them in, so that users come first"


@pytest.mark.parametrize(
    "status",
    [
        pytest.param(400, id="a request that it does not take"),
        pytest.param(401, id="no key"),
        pytest.param(409, id="a candidate that it never can have"),
    ],
)
async def test_what_a_server_refuses_for_good_ends_the_stage_with_its_words(
    start: Start, status: int
) -> None:
    gateway = await start(refusal(404), refusal(status, "RankTooLarge: its rank is 128."))
    async with engine(gateway) as asked:
        with pytest.raises(UserError, match=r"RankTooLarge: its rank is 128\."):
            await asked.load_adapter("tuned", Path("unused"))


async def test_the_base_is_asked_by_the_servers_name_for_it(start: Start) -> None:
    gateway = await start(answer())
    async with engine(gateway) as asked:
        await asked.wait_ready()
        assert await asked.base_name() == "small"


@pytest.fixture
def key_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("FT_CREDENTIALS_ROOT", str(tmp_path))
    (tmp_path / "engine").mkdir()
    (tmp_path / "engine" / "evaluation").write_text("secret\n")
    return "evaluation"


async def test_the_key_of_the_run_is_shown(start: Start, key_file: str) -> None:
    gateway = await start(answer())
    async with engine(gateway, key_file) as asked:
        await asked.chat("small", PROMPT, 8)
    assert gateway.keys == ["Bearer secret"]


async def test_what_the_server_makes_of_a_prompt_is_read_out_of_an_answer(start: Start) -> None:
    gateway = await start(answer(prompt_token_ids=[1, 2, 3]))
    question = Question("r0", PROMPT, "right", prompt_ids=(1, 2, 3))
    async with engine(gateway) as asked:
        await check_rendering(asked, "small", [question])
    assert (gateway.seen[0]["max_tokens"], gateway.seen[0]["return_token_ids"]) == (1, True)


async def test_the_tokens_of_a_reference_are_read_out_of_an_answer_too(start: Start) -> None:
    gateway = await start((200, {"choices": [{"text": "x", "prompt_token_ids": [7, 8]}]}))
    async with engine(gateway) as asked:
        assert await asked.tokens("small", "right") == [7, 8]
    assert (gateway.seen[0]["prompt"], gateway.seen[0]["add_special_tokens"]) == ("right", False)


async def test_a_job_without_a_server_is_scored_beside_the_stage() -> None:
    assert not isinstance(engine_for(None), ServerEngine)
    assert not isinstance(engine_for(EngineSpec(args=("--dtype", "half"))), ServerEngine)


def test_the_progress_tells_the_candidate() -> None:
    assert Progress("evaluate").to_json()["candidate"] is None
    assert Progress("evaluate", candidate=DIGEST).to_json()["candidate"] == DIGEST
