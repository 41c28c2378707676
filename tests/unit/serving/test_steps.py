"""Whatever the engine answers, a step returns a record and the watch a verdict."""

import asyncio
import tempfile
from pathlib import Path

from aiohttp import web
from hypothesis import example, given, settings
from hypothesis import strategies as st

from finetune_serving.agent.engine_client import EngineClient
from finetune_serving.agent.engine_watch import EngineWatch
from finetune_serving.agent.preflight import Limits
from finetune_serving.agent.record import Record
from finetune_serving.agent.steps import Places, Steps
from finetune_serving.documents import VersionEntry
from finetune_serving.gateway.ledger import Ledger
from tests.engine_stand_in import session

ENTRY = VersionEntry(name="a--1", source="pvc://adapters/a", digest="sha256:" + "a" * 64)
ANSWERS = st.one_of(
    st.binary(max_size=40),
    st.sampled_from([b"null", b"[]", b"{}", b'{"loras": 3}', b'{"choices": {}}', b'{"error": []}']),
    st.sampled_from(
        [b'{"data": [1]}', b'{"engineId": null}', b'{"loras": {"x": 1}}', b"already been loaded"]
    ),
)


@settings(max_examples=40, deadline=None)
@given(status=st.sampled_from([200, 204, 400, 404, 409, 500, 503]), body=ANSWERS)
@example(status=200, body=b"\xff\xfe")
@example(status=500, body=b"EngineCore encountered an issue")
def test_any_answer_of_the_engine(status: int, body: bytes) -> None:
    asyncio.run(_ask_everything(status, body))


async def _ask_everything(status: int, body: bytes) -> None:
    async def answer(_: web.Request) -> web.Response:
        return web.Response(status=status, body=body, content_type="application/json")

    with tempfile.TemporaryDirectory() as folder:
        app = web.Application()
        app.router.add_route("*", "/{path:.*}", answer)
        runner = web.AppRunner(app, shutdown_timeout=0.1)
        await runner.setup()
        path = Path(folder) / "e.sock"
        await web.UnixSite(runner, path).start()
        async with session(path, force_close=True) as calls:
            await _steps(EngineClient(calls), path.parent)
        await runner.cleanup()


async def _steps(engine: EngineClient, folder: Path) -> None:
    steps = Steps(engine, Places(folder, folder), Limits("sha256:" + "b" * 64, 16), lambda _: None)
    record, base = Record(ENTRY), "base"
    loaded = await steps.load(Record(ENTRY, phase="Loading"))
    assert loaded.phase in ("Loading", "Verifying", "Failed")
    verified = await steps.verify(Record(ENTRY, phase="Verifying"), base, "engine-1")
    assert verified.phase in ("Loading", "Verifying", "Failed")
    removed = await steps.remove(record)
    assert removed is None or removed.retry_at is not None
    await steps.tidy(["b--1"])
    watch = EngineWatch(engine, Ledger(), lambda: base, patience=1.0)
    assert (await watch.look()).hung is False
    await watch._test()
