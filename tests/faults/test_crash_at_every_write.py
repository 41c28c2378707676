"""The operator dies before and after each of its writes; the end must be the one of a run without deaths."""

from __future__ import annotations

import asyncio
import itertools
from contextlib import asynccontextmanager
from typing import Any

import pytest

from finetune_operator.app import assemble
from finetune_operator.contracts.settings import Settings, parse_settings
from finetune_operator.runtime.kube import KubernetesApi
from finetune_operator.runtime.metrics import Metrics
from finetune_operator.runtime.resources import Key
from tests.faults.cluster import essence, finished, make_namespace, standing, start_run
from tests.faults.kubelet import SUMMARIES, Kubelet

pytestmark = pytest.mark.apiserver
SETTINGS: Settings = parse_settings('{"images": {"trainer": "trainer:1", "serving": "serving:1"}}')
SECONDS = 120.0


class MortalApi(KubernetesApi):
    """Never answers again once its `fatal` write (1 is the first, 0 none) is about to start or has ended."""

    def __init__(self, configuration: Any, fatal: int, after: bool):
        super().__init__(configuration, lambda verb, status: None)
        self.writes = 0
        self.dead = asyncio.Event()
        self._fatal = fatal
        self._after = after

    async def _call(self, verb: str, request: Any) -> dict[str, Any]:
        if request.method == "GET":
            return await super()._call(verb, request)
        self.writes += 1
        fatal = self.writes == self._fatal
        if self.dead.is_set() or (fatal and not self._after):
            await self._die()
        try:
            return await super()._call(verb, request)
        except asyncio.CancelledError:
            fatal = False  # its own write ended the run, and this life, before the answer came
            raise
        finally:
            if fatal:
                await self._die()

    async def _die(self) -> None:
        self.dead.set()
        await asyncio.Event().wait()


@asynccontextmanager
async def _operator(api: KubernetesApi, namespace: str) -> Any:
    """One life of the operator in this process, without kopf: its first event is given by hand."""
    parts = assemble(api, SETTINGS, Metrics(), namespace)
    tasks = [asyncio.create_task(reflector.run()) for reflector in parts.reflectors]
    for reflector in parts.reflectors:
        await reflector.synced.wait()
    parts.reconciler.enqueue(Key("FineTuneJob", namespace, "run"))
    tasks += [asyncio.create_task(parts.reconciler.work()) for _ in range(2)]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await parts.reader.close()
        api.close()


async def _run(
    admin: KubernetesApi, configuration: Any, namespace: str, fatal: int, after: bool
) -> tuple[dict[str, Any], int]:
    """A whole run with one death; returns its essence and how many writes the first life made."""
    await make_namespace(admin, namespace)
    await start_run(admin, namespace)
    end = asyncio.create_task(finished(admin, namespace))
    api = MortalApi(configuration, fatal, after)
    try:
        async with asyncio.timeout(SECONDS):
            await _two_lives(api, MortalApi(configuration, 0, after), namespace, end)
    except TimeoutError:
        pytest.fail(f"{namespace} stands still:\n{await standing(admin, namespace)}")
    return essence(end.result()), api.writes


async def _two_lives(first: MortalApi, second: MortalApi, namespace: str, end: asyncio.Task[Any]) -> None:
    async with _operator(first, namespace):
        dead = asyncio.create_task(first.dead.wait())
        await asyncio.wait([end, dead], return_when=asyncio.FIRST_COMPLETED)
        dead.cancel()
    if not end.done():
        async with _operator(second, namespace):
            await end


@pytest.mark.parametrize(
    "stride",
    [pytest.param(9, id="a sample of deaths"), pytest.param(1, id="every death", marks=pytest.mark.slow)],
)
async def test_a_death_at_any_write_changes_nothing_but_the_time(
    admin: KubernetesApi, configuration: Any, kubelet: Kubelet, stride: int
) -> None:
    expected, writes = await _run(admin, configuration, f"healthy-{stride}", 0, after=False)
    assert expected["conditions"]["Succeeded"][0] == "True", expected
    assert expected["marks"] == (None, None), "no annotation and no finalizer on the user's object"
    points = list(itertools.product(range(1, writes + 1), (False, True)))[::stride]
    limit = asyncio.Semaphore(6)

    async def one(fatal: int, after: bool) -> None:
        namespace = f"dies-{'after' if after else 'before'}-{fatal}-{stride}"
        async with limit:
            found, _ = await _run(admin, configuration, namespace, fatal, after)
        assert found == expected, namespace
        ran = {stage: kubelet.started[namespace, stage] for stage in SUMMARIES}
        assert ran == dict.fromkeys(SUMMARIES, 1), namespace

    async with asyncio.TaskGroup() as group:
        for fatal, after in points:
            group.create_task(one(fatal, after))
    print(f"{writes} writes, {len(points)} deaths")
